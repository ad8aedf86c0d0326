"""The tasks of a running pipeline: one takes in, one writes, two keep time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any, Final

from market_data_core.clock import Clock
from market_data_core.errors import MarketDataError, SourceError
from market_data_core.protocols import BatchSource
from market_data_pipeline.events import stream_events
from market_data_pipeline.pipeline.chain import Chain
from market_data_pipeline.pipeline.columns import BARRIER_ROWS
from market_data_pipeline.pipeline.delivery import Delivery

# How long a source that was closed may take to come to its end by itself.
_CLOSE_GRACE_S: Final = 0.1
# How long events of a source that does not wait may wait for operators to run over them.
_BARRIER_S: Final = 0.1
_OVER: Final = object()


class Flow:
    """Moves events from a source through a chain into a delivery.

    Args:
        name: Of the pipeline, for errors and task names.
        source: Where events come from; closed here, once.
        chain: What happens to them.
        delivery: Where they go.
        clock: Times the barriers.
    """

    def __init__(self, *, name: str, source: Any, chain: Chain, delivery: Delivery, clock: Clock) -> None:
        self._name = name
        self._source = source
        self._chain = chain
        self._delivery = delivery
        self._clock = clock
        self._in_batches = chain.columns is not None and isinstance(source, BatchSource)
        self._every_batch = self._in_batches and source.waits
        self._live = self._in_batches and not source.waits
        self._lock = asyncio.Lock()
        self._intake: asyncio.Task[None] | None = None
        self._failure: MarketDataError | None = None
        self._reading = self._stopping = self._closed = False

    async def run(self) -> BaseException | None:
        """Run until the source has ended, or intake was stopped, and all that was taken in is written.

        Returns:
            What ended the run, if it was not the source's end or a stop. All that came before it is written, unless
            it is the sink's error.
        """
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._delivery.write(), name=self._task("writer"))
                timers = [group.create_task(self._delivery.flush_when_due(self._lock), name=self._task("flush"))]
                if self._chain.columns is not None and not self._every_batch:
                    timers.append(group.create_task(self._keep_time(), name=self._task("barrier")))
                self._intake = group.create_task(self._take_in(), name=self._task("intake"))
                await asyncio.wait({self._intake})
                async with self._lock:
                    # Not before: one that holds the lock has a batch in hand.
                    for timer in timers:
                        timer.cancel()
                    await self._delivery.put(await self._chain.barrier())
                    await self._delivery.end()
        except BaseExceptionGroup as group_error:
            return group_error.exceptions[0]
        return self._failure or self._chain.problem

    async def stop_intake(self) -> None:
        """Stop taking in; what was taken in goes its way."""
        self._stopping = True
        try:
            await self.close_source()
        except SourceError as exc:
            self._failure = self._failure or exc
        # The polite way lets a source hand over what it has gathered.
        if self._intake is not None:
            await asyncio.wait({self._intake}, timeout=_CLOSE_GRACE_S)
            # Cancelled is only a read: what has been read goes through the steps.
            if self._reading:
                self._intake.cancel()

    async def close_source(self) -> None:
        """Close the source if that was not done before.

        Raises:
            SourceError: It cannot be closed.
        """
        if self._closed:
            return
        self._closed = True
        try:
            await self._source.close()
        except Exception as exc:
            raise self._error("cannot be closed", exc) from exc

    async def _take_in(self) -> None:
        try:
            feed = self._feed()
        except Exception as exc:  # noqa: BLE001  the supervisor of the source, from its first word on
            self._failure = self._error("cannot be read", exc)
            return
        try:
            while not self._stopping and self._chain.problem is None:
                item = await self._read(feed)
                async with self._lock:
                    if item is _OVER:
                        ended = self._failure is None and not self._stopping
                        await self._delivery.put(await self._chain.end() if ended else [])
                        return
                    await self._pass_on(item)
        finally:
            close = getattr(feed, "aclose", None)
            if close is not None:
                await close()

    async def _read(self, feed: AsyncIterator[Any]) -> Any:
        self._reading = True
        try:
            return await anext(feed, _OVER)
        except Exception as exc:  # noqa: BLE001  the supervisor of the source: what came before is written, then told
            self._failure = self._error("cannot be read", exc)
            return _OVER
        finally:
            self._reading = False

    async def _pass_on(self, item: Any) -> None:
        await self._delivery.put(await self._chain.take(item))
        columns = self._chain.columns
        if columns is not None and (self._every_batch or columns.waiting_rows >= BARRIER_ROWS):
            await self._delivery.put(await self._chain.barrier())

    def _feed(self) -> AsyncIterator[Any]:
        if self._in_batches:
            feed: AsyncIterator[Any] = aiter(self._source.batches({}))
        elif hasattr(self._source, "stream"):
            feed = aiter(self._source.stream())
        else:
            feed = stream_events(self._source, self._clock)
        return feed

    async def _keep_time(self) -> None:
        while True:
            await self._clock.sleep(_BARRIER_S)
            async with self._lock:
                if self._live:
                    self._chain.idle(self._clock.now_ns())
                await self._delivery.put(await self._chain.barrier())

    def _error(self, what: str, exc: Exception) -> MarketDataError:
        if isinstance(exc, SourceError):
            return exc
        text = str(exc) if isinstance(exc, MarketDataError) else f"{type(exc).__name__}: {exc}"
        source = getattr(self._source, "name", "") or type(self._source).__name__
        error = SourceError(f"pipeline {self._name}: source {source} {what}: {text}")
        error.__cause__ = exc
        return error

    def _task(self, what: str) -> str:
        return f"pipeline {self._name}: {what}"
