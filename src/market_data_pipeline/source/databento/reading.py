"""Files read in a thread of their own, a little ahead of an event loop."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import Final

from market_data_core.batch import SourceBatch
from market_data_core.clock import NS_PER_SECOND, Clock
from market_data_core.errors import MarketDataError
from market_data_core.protocols import Mark
from market_data_pipeline.source.replay.events import NO_TIME

Item = tuple[SourceBatch | Mark, int]
"""What is given, and the time it reaches (`NO_TIME` if it has none)."""

_PULL: Final = 8  # how many stretches the reading thread hands over at once
_NAP_S: Final = 1.0  # the longest sleep, so that closing a paced source is not held up by a night's gap


class Reading:
    """What a generator gives, taken from it in a thread.

    Args:
        stretches: Closed with this.
    """

    def __init__(self, stretches: Generator[list[Item], None, None]) -> None:
        self._stretches = stretches
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="databento")
        self._coming: asyncio.Future[list[list[Item]]] | None = None
        self._error: MarketDataError | None = None
        self._stopped = False

    def stopped(self) -> bool:
        """Return whether it has been closed."""
        return self._stopped

    async def pull(self) -> list[list[Item]]:
        """Return the next stretches, none at the end; meanwhile the thread goes on with those after them.

        Raises:
            MarketDataError: As the generator does, once all that it gave before has been returned.
        """
        if self.stopped():
            return []
        loop = asyncio.get_running_loop()
        taken = await (self._coming or loop.run_in_executor(self._thread, self._take))
        self._coming = None
        if self.stopped():
            return []
        if not taken and self._error is not None:
            raise self._error
        if taken and self._error is None:
            self._coming = loop.run_in_executor(self._thread, self._take)
        return taken

    def _take(self) -> list[list[Item]]:
        taken: list[list[Item]] = []
        try:
            for stretch in islice(self._stretches, _PULL):
                taken.append(stretch)
                # Lets the event loop have the interpreter, which a thread busy in Python would keep for 5 ms.
                time.sleep(0)
        except MarketDataError as exc:
            self._error = exc
        return taken

    async def close(self) -> None:
        """Stop, and wait until the thread is done with what it is at. May be called twice."""
        if self.stopped():
            return
        self._stopped = True
        await asyncio.get_running_loop().run_in_executor(self._thread, self._stretches.close)
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

    async def wait(self, reached_ns: int, reading: Reading) -> None:
        """Wait until it is time for an event, or the reading is stopped; the first event is due at once."""
        if not self._speed or reached_ns == NO_TIME:
            return
        if self._base is None:
            self._base = reached_ns, self._clock.monotonic_s()
        base_ns, base_s = self._base
        due_s = base_s + (reached_ns - base_ns) / NS_PER_SECOND / self._speed
        while (left_s := due_s - self._clock.monotonic_s()) > 0 and not reading.stopped():
            await self._clock.sleep(min(left_s, _NAP_S))
