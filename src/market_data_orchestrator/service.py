"""The service: the data path with its state and jobs, started and stopped in order."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from typing import Any

from market_data_core import disk
from market_data_core.clock import Clock, SystemClock
from market_data_core.errors import MarketDataError, TemporaryUnavailable
from market_data_core.protocols import BatchSource, Gap
from market_data_orchestrator.composition import engine_settings, make_source, sinks_of, vendors_of
from market_data_orchestrator.config import PlatformConfig, ProviderEntry, load_platform, record
from market_data_orchestrator.feedback import LagReporter, Pressure
from market_data_orchestrator.jobs import ReplayJobs
from market_data_orchestrator.settings import OrchestratorSettings
from market_data_orchestrator.symbols import SymbolBoard
from market_data_pipeline.capture import SourceStatus
from market_data_pipeline.dag import plan
from market_data_pipeline.engine import Engine
from market_data_pipeline.orchestration import FeedbackBus, feedback_bus
from market_data_pipeline.worker import WorkerConsumers
from market_data_store.state import State

LOG = logging.getLogger(__name__)
STATE_FILE = "state.db"
_PAUSED = "paused"


class Service:
    """What one orchestrator runs.

    Args:
        settings: How, as `load_settings` gave them; the platform's configuration is read with them.
        clock: Where time comes from.
        config: The configuration, if it was read with them already.
        consumers: A worker for both that was begun before.

    Raises:
        ConfigurationError: The configuration is wrong.
    """

    def __init__(
        self,
        settings: OrchestratorSettings,
        *,
        clock: Clock | None = None,
        config: PlatformConfig | None = None,
        consumers: WorkerConsumers | None = None,
    ) -> None:
        self._asked = settings
        self._consumers = consumers
        self.config: PlatformConfig = config or load_platform(settings=settings)
        self.settings = self.config.applied_to(settings)
        self.clock = clock or SystemClock()
        self.started_s = time.time()
        self.phase = "starting"
        self.problem = ""
        self.board = SymbolBoard()
        self.sources: dict[str, SourceStatus] = {}
        self.symbols: dict[str, int] = {}
        """How many symbols each provider was asked for, by its name."""
        self.engine: Engine | None = None
        self.state: State | None = None
        self.jobs: ReplayJobs | None = None
        self._over = asyncio.Event()
        self.running_now = asyncio.Event()
        """Set once everything runs."""
        self.failed = asyncio.Event()
        """Set when the start has failed for good."""
        self.ended = asyncio.Event()
        """Set once everything is stored and released, or the start has failed."""
        self._open_gaps: dict[tuple[str, str], int] = {}
        self._changing = asyncio.Lock()
        self.paused_since: float | None = None
        """When intake was paused, seconds since the epoch; None while it is not."""
        self.feedback: FeedbackBus | None = (
            feedback_bus(self.settings.feedback_url, clock=self.clock) if self.settings.feedback_enabled else None
        )
        self.pressure: Pressure | None = None
        self.beside: list[Callable[[], AbstractAsyncContextManager[None]]] = []
        """What else runs while the data path does; entered when it is open, left before it closes."""

    @property
    def provider(self) -> str:
        """The name of the first provider, which health speaks of."""
        return self.config.enabled[0].name if self.config.enabled else self.settings.provider

    @property
    def source(self) -> SourceStatus | None:
        """How the first provider is doing."""
        return self.sources.get(self.provider)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Run the data path in the background: health answers at once, and says when it is ready.

        Leaving stops intake, stores what was received for at most ``DRAIN_SEC``, and releases everything.
        """
        task = asyncio.create_task(self._run(), name="service")
        try:
            yield
        finally:
            self._over.set()
            await task

    def stop(self) -> None:
        """Ask for the end; `running` then drains."""
        self._over.set()

    async def _run(self) -> None:
        try:
            await self._run_parts()
        finally:
            self.ended.set()

    async def _run_parts(self) -> None:
        async with AsyncExitStack() as stack:
            if not await self._started(stack):
                return
            if self.feedback is not None:
                await stack.enter_async_context(self._feeding_back(self.feedback))
            for other in self.beside:
                await stack.enter_async_context(other())
            self.phase, self.problem = "running", ""
            self.running_now.set()
            async with asyncio.TaskGroup() as group:
                tasks = [
                    group.create_task(self._watch_symbols(), name="symbol-board"),
                    group.create_task(self._run_jobs(), name="replay-jobs"),
                ]
                await self._over.wait()
                self.phase = "stopping"
                for task in tasks:
                    task.cancel()

    async def _started(self, stack: AsyncExitStack) -> bool:
        delay_s = 0.5
        while True:
            try:
                async with AsyncExitStack() as attempt:
                    await self._start(attempt)
                    stack.push_async_exit(attempt.pop_all())
            except (MarketDataError, OSError) as exc:
                self.problem = str(exc)
                if isinstance(exc, MarketDataError) and not exc.retryable:
                    self.phase = "failed"
                    LOG.error("the service cannot start: %s", exc)
                    self.failed.set()
                    return False
                LOG.warning("the service cannot start yet, tried again: %s", exc)
            else:
                return True
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._over.wait(), delay_s)
                return False
            delay_s = min(delay_s * 2, 10.0)

    async def _start(self, stack: AsyncExitStack) -> None:
        data_dir = self.settings.data_path
        await asyncio.to_thread(disk.make_dirs, data_dir)
        sources = {entry.name: make_source(entry) for entry in self.config.enabled}
        begun, self._consumers = self._consumers, None
        engine = Engine(
            engine_settings(self.settings, self.config),
            clock=self.clock,
            gap=self._gap,
            marker=self._marker,
            # Only the first start can have the worker that was begun for it.
            consumers=begun,
        )
        await asyncio.to_thread(engine.open)
        self.engine = engine
        stack.push_async_callback(self._close_engine)
        self.state = State(data_dir / STATE_FILE)
        stack.callback(self.state.close)
        self.jobs = ReplayJobs(self.state, engine, owner=f"{self.settings.node_id}:{id(self)}", clock=self.clock)
        self._note_restart(engine)
        engine.log.control("session", {"node": self.settings.node_id, "providers": sorted(sources)})
        engine.record_configuration(self.config.graph.version)
        paused = await asyncio.to_thread(self.state.get_flag, _PAUSED)
        if paused is not None:
            # A restart is no reason to go on: somebody said stop, and has not said anything else.
            self.paused_since = float(paused["ts"])
            await asyncio.to_thread(engine.capture.pause)
        for source in sources.values():
            self._add(engine, source)
        await asyncio.to_thread(record, data_dir, self.config.blueprint())

    def _add(self, engine: Engine, source: BatchSource) -> None:
        self.symbols[source.name] = len(getattr(source, "symbols", ()))
        self.sources[source.name] = engine.add(source)

    @property
    def paused(self) -> bool:
        """Whether intake is paused."""
        return self.paused_since is not None

    async def pause(self, actor: str) -> str:
        """Stop intake, store what was received, and say so; it stays paused over a restart.

        Returns:
            What happened, in words: how much is still to be stored, if it was more than the drain time allows.

        Raises:
            TemporaryUnavailable: The service is not running, or the state cannot be written.
        """
        async with self._changing:
            engine, state = self._parts()
            if self.paused:
                return "Orchestrator paused already"
            now_ns = self.clock.now_ns()
            await asyncio.to_thread(state.set_flag, _PAUSED, {"ts": now_ns / 1e9, "actor": actor})
            self.paused_since = now_ns / 1e9
            left = await asyncio.to_thread(engine.pause, {"by": actor}, timeout_s=self.settings.drain_sec)
            for name in engine.capture.live:
                self._gap(name, "paused", begins=True)
        return "Orchestrator paused" + (f"; {left} events are still to be stored, and will be" if left else "")

    async def resume(self, actor: str) -> str:
        """Take in again.

        Raises:
            TemporaryUnavailable: The service is not running, or the state cannot be written.
        """
        async with self._changing:
            engine, state = self._parts()
            if not self.paused:
                return "Orchestrator resumed already"
            await asyncio.to_thread(state.set_flag, _PAUSED, None)
            await asyncio.to_thread(engine.resume, {"by": actor})
            self.paused_since = None
            for source, cause in list(self._open_gaps):
                if cause == "paused":
                    self._gap(source, cause, begins=False)
        return "Orchestrator resumed"

    def _parts(self) -> tuple[Engine, State]:
        if self.engine is None or self.state is None or self.phase != "running":
            raise TemporaryUnavailable(f"the service is {self.phase}: nothing can be changed now")
        return self.engine, self.state

    async def reload(self) -> dict[str, Any]:
        """Read the configuration again and run what it says, without losing an event; or change nothing at all.

        Returns:
            ``plan``: what is different, as `Plan.to_dict` gives it; ``consumers``: names ``added``, ``changed``,
            ``removed`` and ``untouched``; ``needs_restart``: what takes effect at the next start only.

        Raises:
            ConfigurationError: The configuration is wrong, or its parts cannot be made.
            PipelineError: Consumers did not come to the place of the change in time.
            TemporaryUnavailable: The service is not running yet, or the store is away.
        """
        async with self._changing:
            engine, _ = self._parts()
            config = await asyncio.to_thread(load_platform, settings=self._asked)
            found = plan(self.config.blueprint(), config.blueprint())
            fresh, gone = self._exchanged(config)
            sources = [make_source(entry) for entry in fresh]
            before = self.config
            done = await asyncio.to_thread(self._reconfigure, engine, config)
            try:
                await asyncio.to_thread(self._exchange, engine, sources, gone)
            except MarketDataError:
                await asyncio.to_thread(self._reconfigure, engine, before)
                raise
            self.config = config
            await asyncio.to_thread(record, self.settings.data_path, config.blueprint())
            LOG.info("configuration %s is in force", config.graph.version[:12])
            return {"plan": found.to_dict(), "consumers": done, "needs_restart": list(found.restart)}

    def _reconfigure(self, engine: Engine, config: PlatformConfig) -> dict[str, list[str]]:
        return engine.reconfigure(
            graph=config.graph.to_json(reveal=True),
            sinks=sinks_of(config),
            vendors=vendors_of(config),
            version=config.graph.version,
            timeout_s=self.settings.drain_sec,
        )

    def _exchanged(self, config: PlatformConfig) -> tuple[list[ProviderEntry], list[str]]:
        # Providers to start, and names of those to stop; one that changes is both.
        before = {entry.name: entry for entry in self.config.enabled}
        after = {entry.name: entry for entry in config.enabled}
        fresh = [entry for name, entry in after.items() if before.get(name) != entry]
        return fresh, [name for name, entry in before.items() if after.get(name) != entry]

    def _exchange(self, engine: Engine, sources: Sequence[BatchSource], gone: Sequence[str]) -> None:
        # A sequence that a source can repeat goes on where it was; of a live feed, what came in between is a gap.
        for name in gone:
            engine.capture.remove(name)
            self.sources.pop(name, None)
            self.symbols.pop(name, None)
        for source in sources:
            self._add(engine, source)

    @asynccontextmanager
    async def _feeding_back(self, bus: FeedbackBus) -> AsyncIterator[None]:
        engine = self.engine
        if engine is None:
            yield
            return

        def slow(scale: float) -> None:
            engine.capture.pressure = scale

        limit = engine.settings.capture.lag_rows_hard
        reporter = LagReporter(
            bus,
            lag=lambda: max(engine.log.end - engine.consumers().committed, 0),
            limit=limit,
            node=self.settings.node_id,
            clock=self.clock,
        )
        self.pressure = Pressure(bus, clock=self.clock, apply=slow)
        async with bus, asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(reporter.run(), name="feedback-report"),
                group.create_task(self.pressure.listen(), name="feedback-listen"),
                group.create_task(self.pressure.expire(), name="feedback-expire"),
            ]
            try:
                yield
            finally:
                for task in tasks:
                    task.cancel()

    async def _close_engine(self) -> None:
        if self.engine is None:
            return
        late = await asyncio.to_thread(self.engine.close, self.settings.drain_sec)
        if late:
            LOG.warning("not everything was stored in time by %s; it is in the log", ", ".join(late))
        self.phase = "stopped"

    def _note_restart(self, engine: Engine) -> None:
        # What a live provider sent while nobody listened is missing, and that is worth a row of its own.
        last_ns = engine.log.recovered.ts_last
        if last_ns and self.state is not None:
            self.state.open_gap(
                "*",
                "*",
                "*",
                last_ns,
                to_ns=max(self.clock.now_ns(), last_ns),
                cause="restart",
                detail="nothing was running",
            )

    def _gap(self, source: str, cause: str, *, begins: bool) -> None:
        # Called by the capture thread; SQLite answers in well under a millisecond and such moments are rare.
        if self.state is None:
            return
        key = (source, cause)
        try:
            if begins and key not in self._open_gaps:
                gap = self.state.open_gap(source, "*", "*", self.clock.now_ns(), cause=cause)
                self._open_gaps[key] = gap.id
            elif not begins and key in self._open_gaps:
                self.state.close_gap(self._open_gaps.pop(key), to_ns=self.clock.now_ns())
        except MarketDataError as exc:
            LOG.error("a gap of %s (%s) could not be recorded: %s", source, cause, exc)

    def _marker(self, gap: Gap) -> None:
        # Called by the capture thread, as above.
        if self.state is None:
            return
        try:
            for symbol in gap.symbols or ("*",):
                self.state.open_gap(
                    gap.vendor, symbol, "*", gap.from_ns, to_ns=gap.to_ns, cause=gap.cause, detail=gap.detail
                )
        except MarketDataError as exc:
            LOG.error("a gap of %s (%s) could not be recorded: %s", gap.vendor, gap.cause, exc)

    async def _watch_symbols(self) -> None:
        if self.engine is None:
            return
        tap = self.engine.taps.open()
        try:
            while True:
                await asyncio.sleep(0.25)
                self.board.take(*tap.take())
        finally:
            self.engine.taps.close(tap)

    async def _run_jobs(self) -> None:
        if self.jobs is not None:
            await self.jobs.run()
