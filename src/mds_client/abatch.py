"""Batches for event loops."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from types import TracebackType
from typing import Protocol, Self

from market_data_store.backend import Upserted
from mds_client.batch import BatchConfig, BatchStats, Held
from mds_client.errors import ClientClosed
from mds_client.models import Bar, Fundamentals, News, OptionSnap, StoredRow


class AsyncUpserting(Protocol):
    """What a batch processor asks of its client; `AMDS` is one."""

    def check(self, model: StoredRow) -> None:
        """Refuse a model that cannot be stored."""
        ...

    async def upsert(self, models: Sequence[StoredRow]) -> Upserted:
        """Store models of one type."""
        ...


class AsyncBatchProcessor:
    """Takes rows one at a time and stores them in batches; for one event loop.

    What `BatchProcessor` says holds here too. A call that is cancelled while rows are on their way to the store lets
    them arrive.

    Args:
        client: Where the rows go. It stays open.
        config: When a batch is stored.
    """

    def __init__(self, client: AsyncUpserting, config: BatchConfig | None = None) -> None:
        self._client = client
        self._held = Held(config or BatchConfig())
        # Held while a batch is on its way, so that no later one overtakes it.
        self._storing = asyncio.Lock()
        self._added = asyncio.Event()
        self._flushes: set[asyncio.Task[Upserted | Exception]] = set()
        self._timer: asyncio.Task[None] | None = None
        self._error: Exception | None = None
        self._closed = False

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    @property
    def stats(self) -> BatchStats:
        """What was done so far."""
        return self._held.stats

    async def add_bar(self, bar: Bar) -> None:
        """Take a bar; see `add`."""
        await self.add(bar)

    async def add_fundamental(self, fundamentals: Fundamentals) -> None:
        """Take fundamentals; see `add`."""
        await self.add(fundamentals)

    async def add_news(self, news: News) -> None:
        """Take news; see `add`."""
        await self.add(news)

    async def add_option(self, option: OptionSnap) -> None:
        """Take an option snapshot; see `add`."""
        await self.add(option)

    async def add(self, model: StoredRow) -> None:
        """Take a row of any type.

        Raises:
            ClientClosed: The batch or its client is closed.
            ValidationError: The row is another tenant's.
            MarketDataError: Rows of before could not be stored; they are held. Of the class that the store raised.
        """
        self._client.check(model)
        self._refuse_closed()
        self._raise_error()
        # Others that wait here too fill it again.
        while self._held.is_full():
            await self.flush()
            self._refuse_closed()
        self._held.add(model)
        if self._timer is None:
            self._timer = asyncio.create_task(self._watch(), name="mds-batch")
        if self._held.count == 1:
            self._added.set()  # the timer knows of no row; later ones do not change when it is due
        if self._held.is_full():
            # What goes wrong is for the next call: this row is taken.
            await asyncio.shield(self._begin())

    async def flush(self) -> Upserted:
        """Store all that is held.

        Returns:
            What became of it.

        Raises:
            MarketDataError: The store did not take it; what it did not take is held. Of the class that it raised.
        """
        outcome = await asyncio.shield(self._begin())
        if isinstance(outcome, Exception):
            self._error = None
            raise outcome
        return outcome

    async def take_back(self) -> list[StoredRow]:
        """Return the rows that are held and hold them no longer: those that the store will never take, for instance."""
        async with self._storing:
            self._error = None
            return self._held.take_back()

    async def close(self) -> None:
        """Take no further rows and store those that are held.

        Raises:
            MarketDataError: The store did not take them; they are held, and calling it again tries again.
        """
        self._closed = True
        self._added.set()
        if self._timer is not None:
            await asyncio.shield(self._timer)
        await self.flush()

    def _refuse_closed(self) -> None:
        if self._closed:
            raise ClientClosed("the batch is closed")

    def _raise_error(self) -> None:
        error, self._error = self._error, None
        if error is not None:
            raise error

    # A task of its own: it goes on where whoever began it is cancelled, and leaves its error where somebody will look.
    def _begin(self) -> asyncio.Task[Upserted | Exception]:
        task = asyncio.create_task(self._flush(), name="mds-batch-flush")
        self._flushes.add(task)
        task.add_done_callback(self._flushes.discard)
        return task

    async def _flush(self) -> Upserted | Exception:
        total = Upserted()
        async with self._storing:
            for kind in self._held.kinds():
                models = self._held.of(kind)
                try:
                    stored = await self._client.upsert(models)
                except Exception as exc:  # noqa: BLE001  raised by whoever waits, or by the next call
                    self._held.failed()
                    self._error = exc
                    return exc
                self._held.done(kind, len(models), stored)
                total += stored
            self._error = None
        return total

    async def _watch(self) -> None:
        while not self._closed:
            self._added.clear()
            due_s = self._held.due_in_s()
            if due_s == 0:
                await self._begin()
                continue
            try:
                async with asyncio.timeout(due_s):
                    await self._added.wait()
            except TimeoutError:
                continue
