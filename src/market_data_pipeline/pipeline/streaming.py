"""A pipeline inside one event loop: source, steps, batches, sink."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, get_args

import structlog

from market_data_core.errors import (
    ConfigurationError,
    MarketDataError,
    PipelineError,
    SinkError,
)
from market_data_core.protocols import BatchSource, Sink
from market_data_core.schemas import Origin
from market_data_pipeline.pipeline.batcher import Batcher
from market_data_pipeline.pipeline.chain import Chain, Failure, OnError
from market_data_pipeline.pipeline.context import PipelineContext
from market_data_pipeline.pipeline.delivery import Delivery, OnFull, RetryPolicy
from market_data_pipeline.pipeline.result import EndedBy, PipelineResult
from market_data_pipeline.pipeline.sinks import HandOver

# How long a source that was closed may take to come to its end by itself, and how often quiet windows are looked at.
_CLOSE_GRACE_S = 0.5
_BARRIER_S = 0.1

_log = structlog.get_logger(__name__)


class StreamingPipeline:
    """Takes events from a source through steps to a sink, all in the event loop that runs it.

    Nothing is kept on disk: for a durable path use the sink ``store`` of `create_pipeline`. A pipeline runs once.

    The run ends when the source does, when its time is over or when it is stopped; what was taken in is then written
    and flushed, and source and sink are closed. If the source or a step ends the run with an error, what came before
    it is written first. If the sink does, what it has not taken counts as failed in the ledger. A sink that raises a
    retryable error is given the same batch again, so its `write` takes all of a batch or nothing.

    With a step that works on batches, events are taken as batches and operators called from barrier to barrier: after
    every batch of a source that waits, else after 8,192 events or 100 ms. Without one, they are taken one by one, in
    the source's own order.

    Args:
        source: ``stream()`` and ``close()``, or a `BatchSource`.
        operator: A step, several in a row, or None. A step is a `Transform`, whose ``process`` may be async or not and
            returns an iterable (None and an empty one are nothing), or an engine operator; those come first.
        batcher: What a batch for the sink is; by default 500 values, 1 MiB or one second.
        sink: Where the values go.
        ctx: Whose pipeline it is, its name and its clock.
        on_error: What becomes of an event that a `Transform` fails on: ``skip`` counts it as failed, keeps its text in
            `failures` and goes on; ``stop`` ends the run with TransformError.
        on_full: Who gives way when `queue_batches` batches wait for the sink: ``wait`` holds up the source;
            ``drop_oldest`` and ``drop_newest`` drop a batch, which counts as suppressed.
        queue_batches: How many batches may wait.
        retry: How often a sink is asked again after a retryable error.
        duration_sec: How long `run` takes events in; None for as long as there are any.
        drain_s: How long writing what was taken in may take after a stop.

    Raises:
        ConfigurationError: An argument is not one of these; names it.
    """

    def __init__(
        self,
        *,
        source: Any,
        operator: Any = None,
        batcher: Batcher | None = None,
        sink: Sink[Any],
        ctx: PipelineContext | None = None,
        on_error: OnError = "skip",
        on_full: OnFull = "wait",
        queue_batches: int = 16,
        retry: RetryPolicy | None = None,
        duration_sec: float | None = None,
        drain_s: float = 10.0,
    ) -> None:
        self.ctx = ctx or PipelineContext()
        self.source = source
        self.sink = sink
        self._batches_source = isinstance(source, BatchSource)
        if not self._batches_source and not (hasattr(source, "stream") and hasattr(source, "close")):
            raise ConfigurationError(f"source: {source!r} has no stream() and close(), and gives no batches")
        if not isinstance(sink, Sink):
            raise ConfigurationError(f"sink: {sink!r} has no write(), flush() and close()")
        for name, value, allowed in (("on_error", on_error, OnError), ("on_full", on_full, OnFull)):
            if value not in get_args(allowed):
                raise ConfigurationError(f"{name}: {value!r} is none of {', '.join(get_args(allowed))}")
        if queue_batches < 1:
            raise ConfigurationError(f"queue_batches: {queue_batches} is not at least 1")
        self._batcher = batcher or Batcher()
        self._on_full = on_full
        self._queue_batches = queue_batches
        self._retry = retry or RetryPolicy()
        self._duration_sec = duration_sec
        self._drain_s = drain_s
        self._chain = Chain(
            _steps(operator),
            origin=getattr(source, "origin", Origin.LIVE),
            vendor=str(getattr(source, "name", "") or type(source).__name__.lower()),
            clock=self.ctx.clock,
            on_error=on_error,
        )
        self._lock = asyncio.Lock()
        self._main: asyncio.Task[None] | None = None
        self._intake: asyncio.Task[None] | None = None
        self._reading = False
        self._stopping = False
        self._ended_by: EndedBy = ""
        self._started_s = self._ended_s = 0.0

    @property
    def is_running(self) -> bool:
        """True between start and the end."""
        return self._main is not None and not self._main.done()

    @property
    def failures(self) -> tuple[Failure, ...]:
        """The last hundred events that a step could not deal with, oldest first; the ledger counts all."""
        return tuple(self._chain.failures)

    def ledger(self) -> dict[str, dict[str, int]]:
        """Return what every node has done with what it was handed, in the order events pass them."""
        return self._chain.ledger.snapshot()

    @property
    def result(self) -> PipelineResult:
        """What has been done so far; after the run, what it came to."""
        ledger = self._chain.ledger
        now_s = self.ctx.clock.monotonic_s() if self.is_running else self._ended_s
        return PipelineResult(
            tenant_id=self.ctx.tenant_id,
            pipeline_id=self.ctx.pipeline_id,
            ended_by="" if self.is_running else self._ended_by,
            received=next(iter(ledger.nodes.values())).received,
            written=self._chain.sink_node.passed,
            elapsed_s=now_s - self._started_s,
            unaccounted=ledger.unaccounted,
            ledger=self.ledger(),
        )

    async def start(self) -> None:
        """Start; events flow from the next turn of the loop on.

        Raises:
            PipelineError: It has been started before.
        """
        self._begin(self.sink, self._batcher)

    async def stop(self, drain: bool = True) -> None:  # noqa: FBT001, FBT002  the published call
        """Stop intake and wait for the end; does nothing where there is nothing to stop.

        Args:
            drain: Write what was taken in first. Without, it counts as suppressed.

        Raises:
            MarketDataError: What ended the run, if it failed; SinkError if not all could be written in `drain_s`.
        """
        await self._stop("stop", drain=drain)

    async def wait(self) -> None:
        """Wait for the end of a pipeline that was started.

        Raises:
            MarketDataError: What ended the run: SourceError, TransformError or SinkError.
        """
        if self._main is not None:
            await asyncio.wait({self._main})
            self._main.result()

    async def run(self, duration_sec: float | None = None) -> None:
        """Start, wait for the end of the source or for so many seconds, write what was taken in, and end.

        Cancelled, it stops intake, writes what was taken in, for at most `drain_s`, and leaves no task behind.

        Args:
            duration_sec: Goes before the pipeline's own.

        Raises:
            MarketDataError: What ended the run: SourceError, TransformError or SinkError.
        """
        await self.start()
        await self._run_out(self._duration_sec if duration_sec is None else duration_sec)

    @asynccontextmanager
    async def events(self) -> AsyncIterator[AsyncGenerator[Any, None]]:
        """Run the pipeline, with the events after its steps handed to you instead of to its sink.

        ``async with pipeline.events() as stream: async for event in stream: ...``. The source goes as fast as you take
        them, a few batches ahead. Leaving the block ends the run; what you have not taken counts as suppressed.

        Raises:
            MarketDataError: What ended the run, from the loop over the stream.
        """
        hand_over = HandOver()
        self._begin(hand_over, Batcher(max_rows=self._batcher.max_rows, max_ms=0))
        running = asyncio.create_task(self._run_out(self._duration_sec), name=self._task_name("events"))

        async def stream() -> AsyncGenerator[Any, None]:
            async for value in hand_over.values():
                yield value
            await running

        values = stream()
        try:
            yield values
        finally:
            await values.aclose()
            await self._leave(running)

    async def _leave(self, running: asyncio.Task[None]) -> None:
        self._ended_by = self._ended_by or "stop"
        if self._main is not None and not self._main.done():
            self._stopping = True
            self._main.cancel()
        # Whatever error there was has come out of the loop over the stream, or nobody has looked on.
        await asyncio.wait({running})
        if not running.cancelled() and (problem := running.exception()) is not None:
            _log.debug("events ended", pipeline=self.ctx.pipeline_id, problem=str(problem))

    def _begin(self, sink: Sink[Any], batcher: Batcher) -> None:
        if self._main is not None:
            raise PipelineError(f"pipeline {self.ctx.pipeline_id} has been started before; make a new one")
        self._delivery = Delivery(
            name=self.ctx.pipeline_id,
            batcher=batcher,
            sink=sink,
            limit=self._queue_batches,
            on_full=self._on_full,
            retry=self._retry,
            clock=self.ctx.clock,
            queue_node=self._chain.queue_node,
            sink_node=self._chain.sink_node,
        )
        self._started_s = self.ctx.clock.monotonic_s()
        self._main = asyncio.create_task(self._supervise(), name=self._task_name("main"))

    async def _run_out(self, duration_sec: float | None) -> None:
        main = self._main
        if main is None:
            raise PipelineError(f"pipeline {self.ctx.pipeline_id} is not started")
        waiting: set[asyncio.Task[None]] = {main}
        if duration_sec is not None:
            over = asyncio.create_task(self.ctx.clock.sleep(duration_sec), name=self._task_name("duration"))
            waiting.add(over)
        try:
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in waiting - {main}:
                task.cancel()
            await self._stop("duration" if main not in waiting or duration_sec is not None else "stop", drain=True)

    async def _stop(self, by: EndedBy, *, drain: bool) -> None:
        main = self._main
        if main is None:
            return
        if not main.done():
            self._ended_by = self._ended_by or by
            self._stopping = True
            try:
                if drain:
                    await self._stop_intake()
                    await asyncio.wait({main}, timeout=self._drain_s)
            finally:
                if not main.done():
                    main.cancel()
                    await asyncio.wait({main})
        if main.cancelled():
            if drain:
                raise SinkError(
                    f"pipeline {self.ctx.pipeline_id}: not all that was taken in was written within {self._drain_s} s; "
                    f"{self._chain.queue_node.suppressed} values were given up"
                )
            return
        main.result()

    # First the polite way, which lets a source hand over what it has gathered. Cancelled is only a read: what has been
    # read goes through the steps.
    async def _stop_intake(self) -> None:
        await self._close_source()
        intake = self._intake
        if intake is None:
            return
        await asyncio.wait({intake}, timeout=_CLOSE_GRACE_S)
        if self._reading:
            intake.cancel()

    async def _supervise(self) -> None:
        failure: BaseException | None = None
        try:
            failure = await self._serve()
        except BaseExceptionGroup as group:
            failure = _first(group)
        finally:
            cancelled = self._delivery.abandon(failed=failure is not None)
            self._ended_s = self.ctx.clock.monotonic_s()
        del cancelled
        for close in (self._close_source, self._delivery.close):
            try:
                await close()
            except MarketDataError as exc:
                _log.warning("pipeline part cannot be closed", pipeline=self.ctx.pipeline_id, problem=str(exc))
                failure = failure or exc
        if failure is not None:
            self._ended_by = "failure"
            raise failure
        self._ended_by = self._ended_by or "source"

    async def _serve(self) -> MarketDataError | None:
        async with asyncio.TaskGroup() as group:
            group.create_task(self._delivery.write(), name=self._task_name("writer"))
            ticking = [
                group.create_task(self._delivery.flush_when_due(self._lock), name=self._task_name("flush")),
                group.create_task(self._tick(), name=self._task_name("barrier")),
            ]
            self._intake = intake = group.create_task(self._take_in(), name=self._task_name("intake"))
            await asyncio.wait({intake})
            for task in ticking:
                task.cancel()
            async with self._lock:
                await self._delivery.end()
        return None if intake.cancelled() else intake.result()
