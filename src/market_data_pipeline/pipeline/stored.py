"""A pipeline into the store: durable log, consumers, lake."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

from market_data_core import disk
from market_data_core.errors import (
    LogLocked,
    MarketDataError,
    PipelineError,
    SinkError,
    SourceError,
    TemporaryUnavailable,
)
from market_data_core.protocols import BatchSource
from market_data_pipeline.capture import SourceStatus
from market_data_pipeline.consumers import ConsumerSettings, read_snapshot
from market_data_pipeline.engine import Engine, EngineSettings
from market_data_pipeline.locks import lock_file, unlock
from market_data_pipeline.pipeline.context import PipelineContext
from market_data_pipeline.pipeline.result import EndedBy, PipelineResult, unaccounted
from market_data_pipeline.pipeline.streaming import StreamingPipeline
from market_data_pipeline.pipelines import BarsConfig

T = TypeVar("T")
# How often a run that waits for its source looks whether the data path still works.
_WATCH_S: Final = 0.25

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredSettings:
    """How a pipeline stores.

    Attributes:
        data_dir: Where log, snapshots and lake are.
        bars: Which bars are made.
        flush_ms: How long rows wait for a commit at least, milliseconds.
        drain_s: How long storing what was taken in may take at the end. What is left stays in the log, and is stored
            by whoever runs the directory next.
    """

    data_dir: Path
    bars: tuple[BarsConfig, ...] = ()
    flush_ms: float = 1000
    drain_s: float = 60.0

    def engine(self, tenant_id: str) -> EngineSettings:
        """Return what the data path is made of."""
        commit_s = self.flush_ms / 1000
        return EngineSettings(
            data_dir=self.data_dir,
            tenant=tenant_id,
            bars=self.bars,
            commit=ConsumerSettings(commit_s=commit_s, commit_max_s=max(commit_s, ConsumerSettings().commit_max_s)),
        )


class StoredPipeline:
    """Takes events from a source into the log of a data directory, and from there, raw and as bars, into its store.

    A run that begins again on the same directory goes on where the source left off, if the source can repeat itself,
    and stores nothing twice. One process at a time runs a directory. A pipeline runs once.

    Args:
        source: Where batches come from. It is read on the event loop of capture, not on the caller's.
        settings: Where and how it is stored.
        ctx: Whose pipeline it is, its name and its clock.
        duration_sec: How long `run` takes events in; None for as long as there are any.
        view: Makes the same pipeline without a store, for `events`.
    """

    def __init__(
        self,
        *,
        source: BatchSource,
        settings: StoredSettings,
        ctx: PipelineContext,
        duration_sec: float | None,
        view: Callable[[], StreamingPipeline],
    ) -> None:
        self.ctx = ctx
        self.source = source
        self.settings = settings
        self._duration_sec = duration_sec
        self._view = view
        self._engine: Engine | None = None
        self._status: SourceStatus | None = None
        self._closing: asyncio.Task[None] | None = None
        self._ended_by: EndedBy = ""
        self._started_s = self._ended_s = 0.0
        self._written_before = 0

    @property
    def is_running(self) -> bool:
        """True between start and the end."""
        return self._status is not None and (self._closing is None or not self._closing.done())

    def ledger(self) -> dict[str, dict[str, int]]:
        """Return what every node of every consumer has done, over all runs on this directory.

        Nodes are named ``<consumer>/<node>``, such as ``raw/store``.
        """
        return {
            f"{consumer}/{node}": counts
            for consumer, nodes in self._ledgers().items()
            for node, counts in nodes.items()
        }

    @property
    def result(self) -> PipelineResult:
        """What has been done so far; after the run, what it came to."""
        ledgers = self._ledgers()
        return PipelineResult(
            tenant_id=self.ctx.tenant_id,
            pipeline_id=self.ctx.pipeline_id,
            ended_by="" if self.is_running else self._ended_by,
            received=self._status.events if self._status is not None else 0,
            written=sum(nodes["store"]["passed"] for nodes in ledgers.values()) - self._written_before,
            elapsed_s=(self.ctx.clock.monotonic_s() if self.is_running else self._ended_s) - self._started_s,
            unaccounted=sum(map(unaccounted, ledgers.values())),
            ledger=self.ledger(),
        )

    def _ledgers(self) -> dict[str, dict[str, dict[str, int]]]:
        if self._engine is None:
            return {}
        consumers = self._engine.consumers().consumers
        return {name: consumer["ledger"] for name, consumer in consumers.items() if consumer["ledger"]}

    async def start(self) -> None:
        """Open log and store and begin to take events in.

        Raises:
            PipelineError: It has been started before.
            LogLocked: Another process, such as a running service, or another pipeline runs the data directory.
            TemporaryUnavailable: The store is away.
        """
        if self._engine is not None:
            raise PipelineError(f"pipeline {self.ctx.pipeline_id} has been started before; make a new one")
        self._started_s = self.ctx.clock.monotonic_s()
        engine = Engine(self.settings.engine(self.ctx.tenant_id), clock=self.ctx.clock)
        await _in_thread(lambda: self._open(engine), undo=lambda _: engine.close(0.0))
        self._engine = engine
        self._status = await _in_thread(lambda: engine.add(self.source), undo=lambda _: engine.close(0.0))

    def _open(self, engine: Engine) -> None:
        folder = self.settings.data_dir
        disk.make_dirs(folder / "log")
        locked = LogLocked(
            f"pipeline {self.ctx.pipeline_id}: {folder.absolute()} is run by another process or pipeline, such as "
            "`mdo up`; stop that one, or choose another data_dir"
        )
        # The engine would wait for the other's consumers first.
        fd = lock_file(folder / "log" / "lock")
        if fd < 0:
            raise locked
        unlock(fd)
        snapshots = [read_snapshot(p) for p in (folder / "consumers").glob("*.snapshot")]
        self._written_before = sum(int(s.ledger.get("store", {}).get("passed", 0)) for s in snapshots if s is not None)
        try:
            engine.open()
        except LogLocked as exc:
            raise locked from exc

    async def wait(self) -> None:
        """Wait for the end of a pipeline that was started: until its source has ended and all is stored.

        Raises:
            SourceError: The source failed; what it gave before is stored.
            SinkError: The data path cannot go on.
            TemporaryUnavailable: Not all could be stored in time; the rest is safe in the log.
        """
        await self._run_out(None)

    async def stop(self, drain: bool = True) -> None:  # noqa: FBT001, FBT002  the published call
        """Stop intake and wait for the end; does nothing where there is nothing to stop.

        Args:
            drain: Store what was taken in first. Without, it stays in the log, for whoever runs the directory next.

        Raises:
            TemporaryUnavailable: Not all could be stored in time; the rest is safe in the log.
        """
        await self._end("stop", drain_s=self.settings.drain_s if drain else 0.0)

    async def run(self, duration_sec: float | None = None) -> None:
        """Start, wait for the end of the source or for so many seconds, store what was taken in, and end.

        Cancelled, as by Ctrl-C, it stops intake and stores what was taken in, for at most the drain time.

        Args:
            duration_sec: Goes before the pipeline's own.

        Raises:
            LogLocked: Another process runs the data directory.
            SourceError: The source failed; what it gave before is stored.
            SinkError: The data path cannot go on.
            TemporaryUnavailable: The store is away, or not all could be stored in time; the rest is safe in the log.
        """
        await self.start()
        await self._run_out(self._duration_sec if duration_sec is None else duration_sec)

    def events(self) -> AbstractAsyncContextManager[AsyncGenerator[Any, None]]:
        """Run source and operators with the events handed to you; nothing is stored. See `StreamingPipeline.events`.

        Raises:
            PipelineError: It has been started before.
        """
        if self._engine is not None:
            raise PipelineError(f"pipeline {self.ctx.pipeline_id} has been started before; make a new one")
        return self._view().events()

    async def _run_out(self, duration_sec: float | None) -> None:
        engine = self._engine
        if engine is None:
            return
        waited = {asyncio.create_task(engine.capture.wait(self.source.name), name=self._task("source"))}
        if duration_sec is not None:
            waited.add(asyncio.create_task(self.ctx.clock.sleep(duration_sec), name=self._task("duration")))
        done: set[asyncio.Task[None]] = set()
        try:
            while not done and not engine.problem and self._closing is None:
                done, _ = await asyncio.wait(waited, timeout=_WATCH_S, return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            try:
                await self._end("stop", drain_s=self.settings.drain_s)
            except MarketDataError as exc:
                _LOG.warning("cancelled run of pipeline %s failed: %s", self.ctx.pipeline_id, exc)
            raise
        finally:
            for task in waited:
                task.cancel()
        ended = any(task.get_name() == self._task("source") for task in done)
        await self._end("source" if ended else "duration" if done else "stop", drain_s=self.settings.drain_s)

    async def _end(self, by: EndedBy, *, drain_s: float) -> None:
        engine = self._engine
        if engine is None or self._status is None:
            return
        if self._closing is None:
            self._ended_by = by
            self._closing = asyncio.create_task(self._close(engine, drain_s), name=self._task("close"))
        # Threads cannot be cancelled: whoever is cancelled here waits, and everything is let go of in order.
        cancelled: asyncio.CancelledError | None = None
        while not self._closing.done():
            try:
                await asyncio.wait({self._closing})
            except asyncio.CancelledError as exc:
                cancelled = exc
        if cancelled is not None:
            raise cancelled
        self._closing.result()

    async def _close(self, engine: Engine, drain_s: float) -> None:
        status = self._status
        broken = engine.problem
        late = await asyncio.to_thread(engine.close, drain_s)
        self._ended_s = self.ctx.clock.monotonic_s()
        failure: MarketDataError | None = None
        if broken:
            failure = SinkError(f"pipeline {self.ctx.pipeline_id}: {broken}")
        elif status is not None and status.state == "failed":
            failure = SourceError(f"pipeline {self.ctx.pipeline_id}: source {status.name} failed: {status.problem}")
        elif late and drain_s > 0:
            failure = TemporaryUnavailable(
                f"pipeline {self.ctx.pipeline_id}: consumers {', '.join(late)} did not store everything within "
                f"{drain_s:g} s; the rest is safe in the log of {self.settings.data_dir} and stored by the next run"
            )
        if failure is not None:
            self._ended_by = "failure"
            raise failure

    def _task(self, what: str) -> str:
        return f"pipeline {self.ctx.pipeline_id}: {what}"


# A thread cannot be cancelled: who is cancelled meanwhile waits for it and has what it did undone.
async def _in_thread(work: Callable[[], T], *, undo: Callable[[T], object]) -> T:
    task = asyncio.create_task(asyncio.to_thread(work))
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait({task})
        if not task.cancelled() and task.exception() is None:
            await asyncio.to_thread(undo, task.result())
        raise
