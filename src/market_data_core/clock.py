"""Where time comes from.

All times are int64 nanoseconds since the epoch, UTC. Components take a `Clock`, so a test decides what time it is.
"""

from __future__ import annotations

import asyncio
import time
from typing import Protocol

NS_PER_SECOND = 1_000_000_000


class Clock(Protocol):
    """Wall time, a monotonic scale and a way to wait."""

    def now_ns(self) -> int:
        """Return the time now, UTC nanoseconds since the epoch; never goes back within a process."""
        ...

    def monotonic_s(self) -> float:
        """Return seconds on a scale that no clock step moves."""
        ...

    async def sleep(self, delay_s: float) -> None:
        """Wait that many seconds."""
        ...


class SystemClock:
    """Wall time read once at the start, carried on by the monotonic clock.

    A step of the wall clock (NTP, an operator) therefore never makes receive times jump or go back; `step_ns` says
    how far the wall clock has moved away since.
    """

    def __init__(self) -> None:
        self._wall_start_ns = time.time_ns()
        self._monotonic_start_ns = time.monotonic_ns()

    def now_ns(self) -> int:
        """Return the time now, UTC nanoseconds since the epoch."""
        return self._wall_start_ns + time.monotonic_ns() - self._monotonic_start_ns

    def monotonic_s(self) -> float:
        """Return seconds on a scale that no clock step moves."""
        return time.monotonic()

    def step_ns(self) -> int:
        """Return how far the wall clock stands from this clock, positive when the wall clock was put forward."""
        return time.time_ns() - self.now_ns()

    async def sleep(self, delay_s: float) -> None:
        """Wait that many seconds."""
        await asyncio.sleep(delay_s)


class ManualClock:
    """A clock that moves only when told; sleepers wake when their time is reached.

    Args:
        start_ns: UTC nanoseconds since the epoch.
    """

    def __init__(self, start_ns: int = 0) -> None:
        self._now_ns = start_ns
        self._sleepers: list[tuple[int, asyncio.Future[None]]] = []

    def now_ns(self) -> int:
        """Return the time now, UTC nanoseconds since the epoch."""
        return self._now_ns

    def monotonic_s(self) -> float:
        """Return seconds on a scale that no clock step moves."""
        return self._now_ns / NS_PER_SECOND

    async def sleep(self, delay_s: float) -> None:
        """Wait until the clock has been moved on that far."""
        if delay_s <= 0:
            await asyncio.sleep(0)
            return
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._sleepers.append((self._now_ns + int(delay_s * NS_PER_SECOND), future))
        await future

    def advance(self, delta_s: float) -> None:
        """Move time forward and wake whoever waited for less."""
        self._now_ns += int(delta_s * NS_PER_SECOND)
        due = [s for s in self._sleepers if s[0] <= self._now_ns]
        self._sleepers = [s for s in self._sleepers if s[0] > self._now_ns]
        for _, future in due:
            if not future.done():
                future.set_result(None)
