"""A reading thread behind an event loop: what a generator gives, a few items ahead."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import Final, Generic, TypeVar

from market_data_core.errors import MarketDataError

T = TypeVar("T")

_PULL: Final = 32  # how many items the thread hands over at once


class Reading(Generic[T]):
    """Runs a generator in a thread of its own.

    Args:
        items: Makes what is run; is given a function to ask, now and then, whether to stop.
        name: Of the thread.
    """

    def __init__(self, items: Callable[[Callable[[], bool]], Generator[T, None, None]], *, name: str) -> None:
        self._stop = threading.Event()
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
            for item in islice(self._items, _PULL):
                taken.append(item)
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
