"""Files behind an event loop: read in a thread, a few items ahead, and given when their recorded time has come."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import Any, Final, Generic, TypeVar

from market_data_core.clock import NS_PER_SECOND, Clock
from market_data_core.errors import MarketDataError

T = TypeVar("T")

NO_TIME: Final = -(2**63)
"""Stands for no time at all: of what has none, and before everything that has one."""
_NAP_S: Final = 1.0  # the longest sleep, so that closing a paced source is not held up by a night's gap


class Reading(Generic[T]):
    """Runs a generator in a thread of its own.

    Args:
        items: Makes what is run; is given a function to ask, now and then, whether to stop.
        name: Of the thread.
        ahead: How many items the thread hands over at once.
    """

    def __init__(
        self, items: Callable[[Callable[[], bool]], Generator[T, None, None]], *, name: str, ahead: int = 8
    ) -> None:
        self._stop = threading.Event()
        self._ahead = ahead
        self._items = items(self.stopped)
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix=name)
        self._next: asyncio.Future[list[T]] | None = None
        self._error: MarketDataError | None = None

    def stopped(self) -> bool:
        """Return whether it is closed."""
        return self._stop.is_set()

    async def pull(self) -> list[T]:
        """Return the next items, none at the end; meanwhile the thread goes on with those after them.

        Raises:
            MarketDataError: As the generator did; what it gave before has been returned.
        """
        if self.stopped():
            return []
        loop = asyncio.get_running_loop()
        taken = await (self._next or loop.run_in_executor(self._thread, self._take))
        self._next = None
        if self.stopped():
            return []
        if not taken and self._error is not None:
            raise self._error
        if taken and self._error is None:
            self._next = loop.run_in_executor(self._thread, self._take)
        return taken

    def _take(self) -> list[T]:
        taken: list[T] = []
        try:
            for item in islice(self._items, self._ahead):
                taken.append(item)
                # Lets the event loop have the interpreter, which a thread busy in Python would keep for 5 ms.
                time.sleep(0)
                if self.stopped():
                    break
        except MarketDataError as exc:
            self._error = exc
        return taken

    async def close(self) -> None:
        """Stop the thread and close the generator. May be called twice."""
        if self.stopped():
            return
        self._stop.set()
        # Behind whatever the thread is at, since it takes one thing at a time.
        await asyncio.get_running_loop().run_in_executor(self._thread, self._items.close)
        self._thread.shutdown(wait=False)


class Pacer:
    """Holds events back until their recorded time has come.

    Args:
        clock: What time goes by.
        speed: Recorded seconds per second; 0 holds nothing back.
    """

    def __init__(self, clock: Clock, speed: float) -> None:
        self._clock = clock
        self._speed = speed
        self._base: tuple[int, float] | None = None

    async def wait(self, reached_ns: int, reading: Reading[Any]) -> None:
        """Wait until it is time for an event, or the reading is stopped; the first event is due at once."""
        if not self._speed or reached_ns == NO_TIME:
            return
        if self._base is None:
            self._base = reached_ns, self._clock.monotonic_s()
        base_ns, base_s = self._base
        due_s = base_s + (reached_ns - base_ns) / NS_PER_SECOND / self._speed
        while (left_s := due_s - self._clock.monotonic_s()) > 0 and not reading.stopped():
            await self._clock.sleep(min(left_s, _NAP_S))
