"""A pipeline inside one event loop: source, steps, batches, sink."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager
from typing import Any, get_args

from market_data_core.errors import ConfigurationError, MarketDataError, PipelineError, SinkError
from market_data_core.protocols import BatchSource, Sink
from market_data_core.schemas import Origin
from market_data_pipeline.pipeline.batcher import Batcher
from market_data_pipeline.pipeline.chain import SOURCE, Chain, Failure, OnError, Steps
from market_data_pipeline.pipeline.context import PipelineContext
from market_data_pipeline.pipeline.delivery import Delivery, OnFull, RetryPolicy
from market_data_pipeline.pipeline.flow import Flow
from market_data_pipeline.pipeline.result import EndedBy, PipelineResult
from market_data_pipeline.sinks import HandOver

_LOG = logging.getLogger(__name__)


class StreamingPipeline:
    """Takes events from a source through steps to a sink, all in the event loop that runs it.

    Nothing is kept on disk: for a durable path use the sink ``store`` of `create_pipeline`. A pipeline runs once.

    The run ends when the source does, when its time is over or when it is stopped; what was taken in is then written
    and flushed, and source and sink are closed. If the source or a step ends the run with an error, what came before
    it is written first. If the sink does, intake stops at once and what it has not taken counts as failed. A sink that
    raises a retryable error is given the same batch again, so its `write` takes all of a batch or nothing.

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
            `failures` and goes on; ``stop`` ends the run with TransformError. An engine operator that fails always
            ends the run.
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
        _check(source=source, sink=sink, on_error=on_error, on_full=on_full, queue_batches=queue_batches)
        self.ctx = ctx or PipelineContext()
        self.source = source
        self.sink = sink
        self._batcher = Batcher() if batcher is None else batcher
        self._on_full = on_full
        self._queue_batches = queue_batches
        self._retry = retry or RetryPolicy()
        self._duration_sec = duration_sec
        self._drain_s: float | None = drain_s
        self._chain = Chain(
            _steps(operator),
            origin=getattr(source, "origin", Origin.LIVE),
            vendor=str(getattr(source, "name", "") or type(source).__name__.lower()),
            clock=self.ctx.clock,
            on_error=on_error,
        )
        self._main: asyncio.Task[None] | None = None
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
        now_s = self.ctx.clock.monotonic_s() if self.is_running else self._ended_s
        return PipelineResult(
            tenant_id=self.ctx.tenant_id,
            pipeline_id=self.ctx.pipeline_id,
            ended_by="" if self.is_running else self._ended_by,
            received=self._chain.ledger[SOURCE].received,
            written=self._chain.sink_node.passed,
            elapsed_s=now_s - self._started_s,
            unaccounted=self._chain.ledger.unaccounted,
            ledger=self.ledger(),
        )

    async def start(self) -> None:
        """Start; events flow from the next turn of the loop on.

        Raises:
            PipelineError: It has been started before.
        """
        self._begin(self.sink, self._batcher)

    async def wait(self) -> None:
        """Wait for the end of a pipeline that was started.

        Raises:
            MarketDataError: What ended the run: SourceError, TransformError or SinkError.
        """
        if self._main is not None:
            await asyncio.wait({self._main})
            await self._end("stop")

    async def stop(self, drain: bool = True) -> None:  # noqa: FBT001, FBT002  the published call
        """Stop intake and wait for the end; does nothing where there is nothing to stop.

        Args:
            drain: Write what was taken in first. Without, it counts as suppressed.

        Raises:
            MarketDataError: What ended the run, if it failed; SinkError if not all could be written in `drain_s`.
        """
        if drain:
            await self._end("stop")
        else:
            await self._abort("stop")

    async def run(self, duration_sec: float | None = None) -> None:
        """Start, wait for the end of the source or for so many seconds, write what was taken in, and end.

        Cancelled, as by Ctrl-C, it stops intake, writes what was taken in, for at most `drain_s`, and leaves no task
        behind.

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
        self._drain_s = None  # whoever takes the events takes the time they want
        self._begin(hand_over, Batcher(max_rows=self._batcher.max_rows, max_ms=0))
        running = asyncio.create_task(self._run_out(self._duration_sec), name=self._task("events"))

        async def stream() -> AsyncGenerator[Any, None]:
            async with aclosing(hand_over.values()) as values:
                async for value in values:
                    yield value
            await asyncio.wait({running})
            running.result()

        handed = stream()
        try:
            yield handed
        finally:
            await handed.aclose()
            await self._abort("stop")
            await asyncio.wait({running})
            if not running.cancelled() and (problem := running.exception()) is not None:
                # Who read to the end has met it there; who left before may have a look here.
                _LOG.info("events of pipeline %s ended with an error: %s", self.ctx.pipeline_id, problem)

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
        self._flow = Flow(
            name=self.ctx.pipeline_id,
            source=self.source,
            chain=self._chain,
            delivery=self._delivery,
            clock=self.ctx.clock,
        )
        self._started_s = self.ctx.clock.monotonic_s()
        self._main = asyncio.create_task(self._supervise(), name=self._task("main"))

    async def _supervise(self) -> None:
        failure: BaseException | None = None
        try:
            failure = await self._flow.run()
        finally:
            # Cancelled, too: nothing stays open and nothing uncounted.
            self._delivery.abandon(failed=failure is not None)
            failure = await self._closed(failure)
            self._ended_s = self.ctx.clock.monotonic_s()
        if failure is not None:
            self._ended_by = "failure"
            raise failure
        self._ended_by = self._ended_by or "source"

    # Closes source and sink; returns what went wrong first.
    async def _closed(self, failure: BaseException | None) -> BaseException | None:
        for close in (self._flow.close_source, self._delivery.close):
            try:
                async with asyncio.timeout(self._drain_s):
                    await close()
            except TimeoutError:
                problem: MarketDataError = PipelineError(
                    f"pipeline {self.ctx.pipeline_id}: source or sink did not close within {self._drain_s} s"
                )
            except MarketDataError as exc:
                problem = exc
            else:
                continue
            _LOG.warning("part of pipeline %s cannot be closed: %s", self.ctx.pipeline_id, problem)
            failure = failure or problem
        return failure

    async def _run_out(self, duration_sec: float | None) -> None:
        waited = {self._main} if self._main is not None else set()
        over: asyncio.Task[None] | None = None
        if duration_sec is not None:
            over = asyncio.create_task(self.ctx.clock.sleep(duration_sec), name=self._task("duration"))
            waited.add(over)
        try:
            await asyncio.wait(waited, return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            try:
                await self._end("stop")
            except MarketDataError as exc:
                _LOG.warning("cancelled run of pipeline %s failed: %s", self.ctx.pipeline_id, exc)
            raise
        finally:
            if over is not None:
                over.cancel()
        await self._end("stop" if over is None else "duration")

    # Stops intake if it has not ended, waits for the rest to be written, and raises what ended the run.
    async def _end(self, by: EndedBy) -> None:
        main = self._main
        if main is None:
            return
        if not main.done():
            self._ended_by = self._ended_by or by
            try:
                await self._flow.stop_intake()
                await asyncio.wait({main}, timeout=self._drain_s)
            finally:
                cut_off = await self._abort(by)
            if cut_off:
                raise SinkError(
                    f"pipeline {self.ctx.pipeline_id}: what was taken in was not written within {self._drain_s} s; "
                    f"{self._chain.queue_node.suppressed} values were given up"
                )
        if not main.cancelled():
            main.result()

    # Ends the run wherever it is; True if it had not ended by itself.
    async def _abort(self, by: EndedBy) -> bool:
        main = self._main
        if main is None or main.done():
            return False
        self._ended_by = self._ended_by or by
        main.cancel()
        await asyncio.wait({main})
        return main.cancelled()

    def _task(self, what: str) -> str:
        return f"pipeline {self.ctx.pipeline_id}: {what}"


def _check(*, source: Any, sink: Any, on_error: str, on_full: str, queue_batches: int) -> None:
    streams = hasattr(source, "stream") and hasattr(source, "close")
    if isinstance(source, type) or not (streams or isinstance(source, BatchSource)):
        raise ConfigurationError(f"source: {source!r} has no stream() and close(), and gives no batches")
    if isinstance(sink, type) or not isinstance(sink, Sink):
        raise ConfigurationError(f"sink: {sink!r} has no write(), flush() and close()")
    for name, value, allowed in (("on_error", on_error, OnError), ("on_full", on_full, OnFull)):
        if value not in get_args(allowed):
            raise ConfigurationError(f"{name}: {value!r} is none of {', '.join(get_args(allowed))}")
    if queue_batches < 1:
        raise ConfigurationError(f"queue_batches: {queue_batches} is not at least 1")


def _steps(operator: Any) -> Steps:
    if operator is None:
        return Steps()
    if isinstance(operator, Steps):
        return operator
    return Steps.of(operator if isinstance(operator, list | tuple) else [operator])
