"""The service: the data path with its state and jobs, started and stopped in order."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

from market_data_core import disk
from market_data_core.addresses import is_postgres
from market_data_core.clock import Clock, SystemClock
from market_data_core.errors import MarketDataError, TemporaryUnavailable
from market_data_core.protocols import BatchSource, Gap
from market_data_core.telemetry import FeedbackEvent
from market_data_orchestrator.backfill import BackfillJobs
from market_data_orchestrator.composition import engine_settings, make_source, sinks_of, vendors_of
from market_data_orchestrator.config import PlatformConfig, ProviderEntry, load_platform, record
from market_data_orchestrator.events import EventRegistry
from market_data_orchestrator.feedback import LagReporter, Pressure, dispatch_all
from market_data_orchestrator.gap_copies import GapCopies
from market_data_orchestrator.jobs import ReplayJobs
from market_data_orchestrator.lifecycle import LifecycleManager
from market_data_orchestrator.settings import OrchestratorSettings
from market_data_orchestrator.symbols import SymbolBoard
from market_data_pipeline.capture import SourceStatus
from market_data_pipeline.dag import Plan, plan
from market_data_pipeline.engine import Engine, EngineSettings
from market_data_pipeline.orchestration import FeedbackBus, feedback_bus
from market_data_pipeline.worker import WorkerConsumers
from market_data_store.state import GapState, JobState, State

LOG = logging.getLogger(__name__)
_PAUSED = "paused"
# What the engine needs to stop beside the time it is given to store what was received.
_ENGINE_STOP_S = 15.0
_BOARD_BATCHES = 4096  # more than a live feed gives between two looks
_GAPS_WAIT_S = 3.0  # for a server that is away; it is asked again


class Service:
    """What one orchestrator runs.

    Args:
        settings: How, as `load_settings` gave them; the platform's configuration is read with them.
        clock: Where time comes from.
        config: The configuration, if it was read with them already.
        consumers: A worker for both that was begun before.
        engine: What the data path is made of; by the settings and the configuration if None.
        feedback: The feedback bus; by the settings if None.
        events: Who handles what comes on it; more may be registered at any time.

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
        engine: EngineSettings | None = None,
        feedback: FeedbackBus | None = None,
        events: EventRegistry | None = None,
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
        self.backfills: BackfillJobs | None = None
        self._over = asyncio.Event()
        self.running_now = asyncio.Event()
        """Set once everything runs."""
        self.failed = asyncio.Event()
        """Set when the start has failed for good."""
        self.ended = asyncio.Event()
        """Set once everything is stored and released, or the start has failed."""
        self._made: dict[str, BatchSource] = {}
        self._retry_s = 0.25
        self._open_gaps: dict[tuple[str, str], int] = {}
        self._changing = asyncio.Lock()
        self.paused_since: float | None = None
        """When intake was paused, seconds since the epoch; None while it is not."""
        self.events = events or EventRegistry()
        self.feedback: FeedbackBus | None = None
        if self.settings.feedback.enabled:
            self.feedback = feedback or feedback_bus(self.settings.feedback.url, clock=self.clock)
        self.pressure: Pressure | None = None
        self._engine_settings = engine
        self.lifecycle = LifecycleManager(again=self._again)
        """What starts and stops, in order: the data path's parts, then what the doors add before the start."""
        self.lifecycle.add("engine", self._engine_open, stop_s=self.settings.drain_sec + _ENGINE_STOP_S)
        self.lifecycle.add("state", self._state_open)
        self.lifecycle.add("intake", self._taking_in)
        if self.feedback is not None:
            self.lifecycle.add("feedback", partial(self._feeding_back, self.feedback))
        self.lifecycle.add("watchers", self._watching)

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
            async with self.lifecycle:
                self.phase, self.problem = "running", ""
                self.running_now.set()
                await self._over.wait()
                self.phase = "stopping"
            self.phase = "stopped"
        except Exception as exc:  # noqa: BLE001  the supervisor of all that runs
            self._ended_by(exc)
        finally:
            self.ended.set()

    def _ended_by(self, exc: Exception) -> None:
        if self._over.is_set() and not self.running_now.is_set():
            # Asked to stop while it was waiting to start: that is no failure.
            self.phase = "stopped"
            return
        while isinstance(exc, ExceptionGroup):
            exc = exc.exceptions[0]  # what the tasks of one part said before the others were ended
        self.phase, self.problem = "failed", str(exc) or type(exc).__name__
        if isinstance(exc, MarketDataError):
            LOG.error("the service cannot %s: %s", "go on" if self.running_now.is_set() else "start", exc)
        else:
            LOG.error("the service has failed", exc_info=exc)
        self.failed.set()

    async def _again(self, part: str, exc: Exception) -> bool:
        self.problem = str(exc)
        delay_s = self._retry_s = min(self._retry_s * 2, 10.0)
        LOG.warning("%s cannot start yet, tried again in %g s: %s", part, delay_s, exc)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._over.wait(), delay_s)
        return not self._over.is_set()

    @asynccontextmanager
    async def _engine_open(self) -> AsyncIterator[None]:
        await asyncio.to_thread(disk.make_dirs, self.settings.data_path)
        self._made = {entry.name: make_source(entry) for entry in self.config.enabled}
        begun, self._consumers = self._consumers, None
        engine = Engine(
            self._engine_settings or engine_settings(self.settings, self.config),
            clock=self.clock,
            gap=self._gap,
            marker=self._marker,
            # Only the first start can have the worker that was begun for it.
            consumers=begun,
        )
        await asyncio.to_thread(engine.open)
        self.engine = engine
        try:
            yield
        finally:
            late = await asyncio.to_thread(engine.close, self.settings.drain_sec)
            if late:
                LOG.warning("not everything was stored in time by %s; it is in the log", ", ".join(late))

    @asynccontextmanager
    async def _state_open(self) -> AsyncIterator[None]:
        # After the engine, whose lock says that no other service runs here.
        self.state = state = await asyncio.to_thread(State, self.settings.state_path)
        try:
            yield
        finally:
            await asyncio.to_thread(state.close)

    @asynccontextmanager
    async def _taking_in(self) -> AsyncIterator[None]:
        engine, state = self._opened()
        # Whoever was at a job is gone, for the engine's lock is ours.
        for job in await asyncio.to_thread(state.list_jobs, states=[JobState.RUNNING], limit=1000):
            await asyncio.to_thread(state.release_jobs, job.owner or "", self.clock.now_ns())
        owner = f"{self.settings.node_id}:{id(self)}"
        self.jobs = ReplayJobs(state, engine, owner=owner, clock=self.clock)
        self.backfills = BackfillJobs(
            state,
            engine.capture,
            config=lambda: self.config,
            paused=lambda: self.paused,
            store=self.settings.store_root,
            tenant=self.settings.tenant_id,
            owner=owner,
            clock=self.clock,
            automatic=self.settings.backfill == "auto",
        )
        self._note_restart(engine)
        engine.log.control("session", {"node": self.settings.node_id, "providers": sorted(self._made)})
        engine.record_configuration(self.config.graph.version)
        paused = await asyncio.to_thread(state.get_flag, _PAUSED)
        if paused is not None:
            # A restart is no reason to go on: somebody said stop, and has not said anything else.
            self.paused_since = float(paused["ts"])
            await asyncio.to_thread(engine.capture.pause)
            # The gaps that the pause began in a process before this one end with it.
            for gap in await asyncio.to_thread(state.list_gaps, states=[GapState.OPEN], limit=1000):
                if gap.cause == _PAUSED:
                    self._open_gaps[gap.vendor, gap.cause] = gap.id
        await asyncio.to_thread(record, self.settings.data_path, self.config.blueprint())
        # Last, because what comes before may have to be tried again.
        for source in self._made.values():
            self._add(engine, source)
        yield

    @asynccontextmanager
    async def _watching(self) -> AsyncIterator[None]:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(self._watch_symbols(), name="symbol-board")]
            working = [part for part in (self.jobs, self.backfills, self._gap_copies()) if part is not None]
            tasks += [group.create_task(part.run(), name=type(part).__name__) for part in working]
            try:
                yield
            finally:
                for task in tasks:
                    task.cancel()

    def _gap_copies(self) -> GapCopies | None:
        if self.state is None or not is_postgres(self.settings.store_root):
            return None
        from market_data_store.postgres import PostgresStore  # noqa: PLC0415  the driver is for those who have a server

        store = PostgresStore(self.settings.store_root, self.settings.tenant_id, connections=1, timeout_s=_GAPS_WAIT_S)
        return GapCopies(self.state, store)

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
        if self.phase != "running":
            raise TemporaryUnavailable(f"the service is {self.phase}: nothing can be changed now")
        return self._opened()

    def _opened(self) -> tuple[Engine, State]:
        if self.engine is None or self.state is None:
            raise TemporaryUnavailable(f"the service is {self.phase}: its parts are not there yet")
        return self.engine, self.state

    async def planned(self) -> Plan:
        """Return what `reload` would change now; changes nothing.

        Raises:
            ConfigurationError: The configuration is wrong, so a reload would be refused.
        """
        config = await asyncio.to_thread(load_platform, settings=self._asked)
        return plan(self.config.blueprint(), config.blueprint())

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
        engine, _ = self._opened()

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
        self.pressure = Pressure(clock=self.clock, apply=slow)
        unregister = self.events.register(FeedbackEvent, self.pressure.handle, name="rates")
        async with bus, asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(reporter.run(), name="feedback-report"),
                group.create_task(dispatch_all(bus, self.events), name="feedback-listen"),
                group.create_task(self.pressure.expire(), name="feedback-expire"),
            ]
            try:
                yield
            finally:
                unregister()
                for task in tasks:
                    task.cancel()

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
        tap = self.engine.taps.open(_BOARD_BATCHES)
        try:
            while True:
                await asyncio.sleep(0.25)
                self.board.take(*tap.take())
        finally:
            self.engine.taps.close(tap)
