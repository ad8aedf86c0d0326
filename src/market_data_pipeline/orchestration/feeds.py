"""One reading of one source."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from typing import Any, Final

from market_data_core.errors import SourceError
from market_data_pipeline.orchestration.members import Member, Stamp, says_end
from market_data_pipeline.waiting import Closing

_LOG = logging.getLogger(__name__)

OVER: Final = object()
"""What a feed gives when its source has no more."""


class Feed:
    """Reads a source one item ahead, so that a reader can wait for it and for other things at once.

    Args:
        member: Which source.
        open_items: Begins the reading; its errors are the reading's.
    """

    def __init__(self, member: Member, open_items: Callable[[Member], AsyncIterator[Any]]) -> None:
        self.member = member
        self.opened_s = member.clock.monotonic_s()
        self.gave = False
        self.marked = False
        self.came_ns = 0
        self.last_ns: int | None = None
        # Set while this feed's first event waits for the one before it to get that far.
        self.held: Stamp | None = None
        self.held_until_s = 0.0
        self.gave_while_held = False
        self._open_items = open_items
        self._items: AsyncIterator[Any] | None = None
        self._coming: asyncio.Task[Any] | None = None

    @property
    def coming(self) -> asyncio.Task[Any]:
        """The next item, asked for with the first look."""
        if self._coming is None:
            self._coming = asyncio.create_task(self._next(), name=f"router: next of {self.member.name}")
        return self._coming

    def peek(self) -> tuple[Any, Exception | None]:
        """Return the item that has come and keep it; `OVER` at the end, with why if reading failed."""
        coming = self.coming
        if coming.cancelled():
            return OVER, SourceError(f"source {self.member.name}: its reading was cancelled from within")
        failure = coming.exception()
        if failure is None:
            return coming.result(), None
        if not isinstance(failure, Exception):
            raise failure
        return OVER, failure

    def take(self) -> tuple[Any, Exception | None]:
        """Return the item that has come, as `peek` does, and ask for the next one with the next look."""
        item, failure = self.peek()
        self._coming = None
        self.marked = self.marked or says_end(item)
        return item, failure

    async def close(self) -> None:
        """Stop reading. An item that has come and was not taken is not given."""
        if self._coming is not None:
            self._coming.cancel()
            await asyncio.gather(self._coming, return_exceptions=True)
        try:
            await Closing(self._items).aclose()
        except Exception as exc:  # noqa: BLE001  the supervisor of the source: it is left already
            _LOG.warning("source %s failed when its reading ended: %s", self.member.name, exc)

    async def _next(self) -> Any:
        if self._items is None:
            self._items = aiter(self._open_items(self.member))
        item = await anext(self._items, OVER)
        self.came_ns = self.member.clock.now_ns()
        return item
