"""Ingestion under control: providers are started and stopped, and go on after a restart."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from market_data_core import disk
from market_data_core.clock import NS_PER_SECOND, Clock, SystemClock
from market_data_core.errors import ConfigurationError, LogLocked, MarketDataError, TemporaryUnavailable
from market_data_core.protocols import BatchSource, FeedbackPublisher
from market_data_pipeline.capture import SourceStatus
from market_data_pipeline.locks import lock_file, unlock
from market_data_pipeline.runners.admission import Mode, check, entry_of, make_order, mode_of
from market_data_pipeline.runners.errors import AlreadyRunning
from market_data_pipeline.runners.metrics import IngestMetrics
from market_data_pipeline.runners.orders import IngestOrder, OrderFile
from market_data_pipeline.runners.policy import IngestConfig, IngestPolicy, load_ingest_config
from market_data_pipeline.runners.sources import make_source, read_only
from market_data_pipeline.runners.sync import StoreSync

LOG = logging.getLogger(__name__)

STATE_FILE: Final = "ingest.json"

StartSource = Callable[[BatchSource], SourceStatus]
"""Begins to write what a source gives and returns its status, which stays up to date. Called in a worker thread."""
StopSource = Callable[[str], None]
"""Ends that for the source of a name. Called in a worker thread."""

_LOOK_S: Final = 0.1  # how soon the end of a source is noticed
_FIRST_RETRY_S: Final = 0.5
_LAST_RETRY_S: Final = 30.0


@dataclass(slots=True, kw_only=True)
class _Run:
    # One provider that is read, or that is to be read again after a restart (`resuming`).
    order: IngestOrder
    mode: Mode
    status: SourceStatus
    resuming: bool = False
    source: BatchSource | None = None
    reading: asyncio.Task[None] | None = None
    life: asyncio.Task[None] | None = None


class IngestController:
    """Starts and stops providers as operators and the policy say.

    Several providers run at the same time, each at most once. Operations follow one another; each is recorded before
    it is acknowledged, so what was running when the process ended runs again in the next one, and still ends when it
    was to end: time in which nothing ran counts.

    Args:
        configs: Folder of ``data_providers.yaml`` and ``ingestion_policy.yaml``; packaged defaults stand in.
        state_dir: Folder of what is kept of this, the file ``ingest.json`` and its lock.
        metrics: Where it is counted.
        start_source: Begins to write what a source gives.
        stop_source: Ends that.
        stored_to: Says to what log position everything is stored, for store_sync.
        bus: The feedback bus; None where there is none.
        clock: Where time comes from.
    """

    def __init__(
        self,
        *,
        configs: Path,
        state_dir: Path,
        metrics: IngestMetrics,
        start_source: StartSource,
        stop_source: StopSource,
        stored_to: Callable[[], int] | None = None,
        bus: FeedbackPublisher | None = None,
        clock: Clock | None = None,
    ) -> None:
        self._configs = configs
        self._state_dir = state_dir
        self._orders = OrderFile(state_dir / STATE_FILE)
        self._metrics = metrics
        self._start_source = start_source
        self._stop_source = stop_source
        self._bus = bus
        self._clock = clock or SystemClock()
        self._runs: dict[str, _Run] = {}
        self._lock = asyncio.Lock()
        self._group: asyncio.TaskGroup | None = None
        self._config = IngestConfig(providers={}, policy=IngestPolicy())
        self._sync = StoreSync(
            policy=lambda: self._config.policy.store_sync,
            bus=bus,
            stored_to=stored_to,
            metrics=metrics,
            clock=self._clock,
        )

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Read the configuration, go on with what was running, and be there for operations until the block is left.

        Leaving ends all runs; they stay on record and go on next time. Leave it before the engine that writes is
        closed.

        Raises:
            ConfigurationError: The configuration is wrong; says what and where.
            LogLocked: Another process controls ingestion into this folder.
            TemporaryUnavailable: The folder cannot be used, or the record of what was running not be read.
        """
        fd = await asyncio.to_thread(self._claim)
        try:
            self._take(await asyncio.to_thread(self._load))
            orders = await asyncio.to_thread(self._orders.load)
            async with asyncio.TaskGroup() as group:
                self._group = group
                syncing = group.create_task(self._sync.run(), name="ingest-store-sync")
                for order in orders:
                    self._resume(order, group)
                try:
                    yield
                finally:
                    await self._shut()
                    syncing.cancel()
        finally:
            self._group = None
            unlock(fd)

    def status(self) -> dict[str, Any]:
        """Return what runs and what could, as plain values.

        ``active_provider`` and ``dry_run`` speak of the run that was started first; ``runs`` has all of them.
        """
        runs = [self._describe(run) for run in self._runs.values()]
        policy = self._config.policy
        return {
            "running": bool(runs),
            "active_provider": runs[0]["provider"] if runs else None,
            "dry_run": runs[0]["dry_run"] if runs else policy.write_path.dry_run,
            "policy": policy.model_dump(mode="json"),
            "providers": {name: entry.shown() for name, entry in self._config.providers.items()},
            "runs": runs,
        }

    async def start(
        self,
        provider: str,
        *,
        symbols: Sequence[str] | None = None,
        dry_run: bool | None = None,
        override_params: Mapping[str, Any] | None = None,
    ) -> dict[str, Any]:
        """Begin to read a provider.

        Args:
            provider: Its name in the configuration.
            symbols: What of it; None for those of its entry.
            dry_run: Whether nothing is to be written; None for what the policy says.
            override_params: Arguments of its class, of those its entry allows.

        Returns:
            ``{status: "started", provider, dry_run, store_mode}``, the last being how others are told of new data.

        Raises:
            RegistryError: No provider of that name is configured.
            ConfigurationError: It may not be started like this; says why.
            AlreadyRunning: It runs.
            MarketDataError: It cannot be started at present.
        """
        async with self._lock:
            if provider in self._runs:
                raise AlreadyRunning(f"ingestion of {provider!r} is running already")
            order = make_order(
                self._config,
                provider,
                symbols=symbols,
                dry_run=dry_run,
                override_params=override_params,
                now_ns=self._clock.now_ns(),
            )
            run = _Run(order=order, mode=mode_of(self._config, order), status=SourceStatus(provider))
            await self._begin(run)
            self._runs[provider] = run
            try:
                await self._save(self._runs)
            except MarketDataError:
                # What would not be there after a restart must not be acknowledged.
                del self._runs[provider]
                await self._end(run)
                raise
            self._started(run)
            run.life = self._spawn(self._watch(run), f"ingest-{provider}")
            return {
                "status": "started",
                "provider": provider,
                "dry_run": order.dry_run,
                "store_mode": self._config.policy.store_sync.mode,
            }

    async def stop(self, provider: str | None = None) -> dict[str, Any]:
        """Stop reading a provider, or all of them.

        Returns:
            ``{status: "stopped", reason, providers}``, or ``{status: "idle"}`` if nothing was running.

        Raises:
            RegistryError: No provider of that name is configured or running.
            MarketDataError: The stop cannot be recorded, and nothing has been stopped.
        """
        async with self._lock:
            if provider is not None and provider not in self._runs:
                entry_of(self._config, provider)
            stopping = [run for name, run in self._runs.items() if provider in (None, name)]
            if not stopping:
                return {"status": "idle"}
            names = [run.order.provider for run in stopping]
            await self._save({name: run for name, run in self._runs.items() if name not in names})
            try:
                for run in stopping:
                    await self._finish(run, "operator_request")
            finally:
                if not self._runs.keys().isdisjoint(names):
                    await self._save(self._runs)  # one did not stop: it is still running, and stays on record
            return {"status": "stopped", "reason": "operator_request", "providers": names}

    async def reload(self) -> dict[str, Any]:
        """Read the configuration again. If it is wrong the old one stands; runs go on as they were started.

        Returns:
            ``{providers, policy}``: the names, and the policy as it holds now.

        Raises:
            ConfigurationError: It is wrong; says everything that is, with file, line and key.
        """
        async with self._lock:
            self._take(await asyncio.to_thread(self._load))
            config = self._config
            return {"providers": sorted(config.providers), "policy": config.policy.model_dump(mode="json")}

    def _claim(self) -> int:
        try:
            disk.make_dirs(self._state_dir)
            fd = lock_file(self._state_dir / "ingest.lock")
        except OSError as exc:
            raise TemporaryUnavailable(f"{self._state_dir} cannot be used: {exc.strerror}") from exc
        if fd < 0:
            raise LogLocked(f"ingestion into {self._state_dir} is controlled by another process")
        return fd

    def _load(self) -> IngestConfig:
        config = load_ingest_config(self._configs)
        if config.policy.store_sync.mode == "bus" and self._bus is None:
            raise ConfigurationError("store_sync.mode: this service has no feedback bus; use none or http")
        return config

    def _take(self, config: IngestConfig) -> None:
        self._config = config
        self._metrics.know(config.providers)

    async def _begin(self, run: _Run) -> None:
        order, name = run.order, run.order.provider
        with self._counted(name, "create_source"):
            run.source = await asyncio.to_thread(
                make_source,
                name,
                self._config.providers[name],
                symbols=order.symbols,
                override_params=order.override_params,
                paced=run.mode != "write",
                clock=self._clock,
            )
        if run.mode == "write":
            try:
                with self._counted(name, "start_source"):
                    run.status = await asyncio.to_thread(self._start_source, run.source)
            except Exception:
                await run.source.close()
                run.source = None
                raise
            self._sync.follow(name, run.status)
        else:
            run.status = SourceStatus(name)
            run.reading = self._spawn(self._read(run, run.source, run.mode), f"ingest-read-{name}")

    def _started(self, run: _Run) -> None:
        name = run.order.provider
        self._metrics.starts.labels(provider=name).inc()
        self._metrics.active.labels(provider=name).set(1)
        LOG.info("ingestion of %s has started (%s)", name, run.mode)

    async def _read(self, run: _Run, source: BatchSource, mode: Mode) -> None:
        count = self._metrics.suppressed.labels(reason=mode).inc
        try:
            await read_only(source, run.status, count=count, clock=self._clock)
        except Exception as exc:  # the supervisor of this source: the others go on
            LOG.error("%s failed: %s", run.order.provider, exc, exc_info=not isinstance(exc, MarketDataError))

    async def _watch(self, run: _Run) -> None:
        while self._runs.get(run.order.provider) is run:
            await self._clock.sleep(_LOOK_S)
            if not self._over(run):
                continue
            async with self._lock:
                if self._runs.get(run.order.provider) is run:
                    await self._end_by_itself(run, self._over(run))
                if self._runs.get(run.order.provider) is not run:
                    return
            await self._clock.sleep(_FIRST_RETRY_S)  # it could not be stopped

    # A source that is `stopped` was stopped by somebody else, such as an engine that closes: that is no end of the run.
    def _over(self, run: _Run) -> str:
        until_ns = run.order.until_ns
        if run.status.state == "failed":
            return "source_failed"
        if run.status.state == "done":
            return "source_ended"
        return "auto_duration_reached" if until_ns is not None and self._clock.now_ns() >= until_ns else ""

    async def _end_by_itself(self, run: _Run, reason: str) -> None:
        name = run.order.provider
        if reason == "source_failed":
            self._metrics.errors.labels(provider=name, stage="read").inc()
        try:
            with self._counted(name, "state"):
                await self._save({n: r for n, r in self._runs.items() if r is not run})
        except MarketDataError as exc:
            # It has to end all the same; at the worst it is begun again after a restart, and ends then.
            LOG.error("the end of %s could not be recorded: %s", name, exc)
        try:
            await self._finish(run, reason)
        except Exception as exc:  # the supervisor of this run: it is tried again, and the others go on
            LOG.error("%s could not be stopped: %s", name, exc, exc_info=not isinstance(exc, MarketDataError))

    async def _finish(self, run: _Run, reason: str) -> None:
        name = run.order.provider
        with self._counted(name, "stop_source"):
            await self._end(run)
        self._runs.pop(name, None)
        if run.life is not None and run.life is not asyncio.current_task():
            run.life.cancel()
        self._metrics.active.labels(provider=name).set(0)
        self._metrics.stops.labels(provider=name, reason=reason).inc()
        LOG.info("ingestion of %s has ended (%s) after %d events", name, reason, run.status.events)

    async def _end(self, run: _Run) -> None:
        if run.source is None:
            return
        if run.mode == "write":
            await asyncio.to_thread(self._stop_source, run.order.provider)
            return
        await run.source.close()
        if run.reading is not None:
            run.reading.cancel()
            await asyncio.wait({run.reading})

    def _resume(self, order: IngestOrder, group: asyncio.TaskGroup) -> None:
        run = _Run(order=order, mode=mode_of(self._config, order), status=SourceStatus(order.provider), resuming=True)
        self._runs[order.provider] = run
        run.life = group.create_task(self._resumed(run), name=f"ingest-{order.provider}")

    async def _resumed(self, run: _Run) -> None:
        delay_s = _FIRST_RETRY_S
        while run.resuming:
            async with self._lock:
                if self._runs.get(run.order.provider) is not run or await self._begin_again(run):
                    break
            await self._clock.sleep(delay_s)
            delay_s = min(delay_s * 2, _LAST_RETRY_S)
        if self._runs.get(run.order.provider) is run:
            await self._watch(run)

    async def _begin_again(self, run: _Run) -> bool:
        # True once there is nothing to try again.
        name = run.order.provider
        if self._over(run):
            await self._end_by_itself(run, self._over(run))
            return True
        try:
            check(self._config, run.order)
            run.mode = mode_of(self._config, run.order)
            await self._begin(run)
        except Exception as exc:  # the supervisor of this run: the others and the service go on
            run.status.problem = str(exc)
            self._metrics.errors.labels(provider=name, stage="resume").inc()
            LOG.error("%s cannot be resumed: %s", name, exc, exc_info=not isinstance(exc, MarketDataError))
            # A log in use is that of a predecessor that still stores what it received.
            if isinstance(exc, LogLocked) or (isinstance(exc, MarketDataError) and exc.retryable):
                return False
            await self._end_by_itself(run, "source_failed")
            return True
        run.resuming = False
        self._started(run)
        return True

    async def _shut(self) -> None:
        async with self._lock:
            for run in list(self._runs.values()):
                if run.life is not None:
                    run.life.cancel()
                if run.resuming:
                    continue
                try:
                    await self._finish(run, "shutdown")
                except Exception:  # the others are to be stopped as well
                    LOG.exception("%s could not be stopped", run.order.provider)
            self._runs.clear()

    async def _save(self, runs: Mapping[str, _Run]) -> None:
        await asyncio.to_thread(self._orders.save, [run.order for run in runs.values()])

    def _spawn(self, work: Any, name: str) -> asyncio.Task[None]:
        if self._group is None:
            work.close()
            raise RuntimeError("ingestion control is not running")
        return self._group.create_task(work, name=name)

    @contextmanager
    def _counted(self, provider: str, stage: str) -> Iterator[None]:
        try:
            yield
        except Exception:
            self._metrics.errors.labels(provider=provider, stage=stage).inc()
            raise

    def _describe(self, run: _Run) -> dict[str, Any]:
        order, status = run.order, run.status
        left_ns = None if order.until_ns is None else max(order.until_ns - self._clock.now_ns(), 0)
        return {
            "provider": order.provider,
            "state": "resuming" if run.resuming else status.state,
            "problem": status.problem,
            "symbols": list(order.symbols),
            "dry_run": order.dry_run,
            "writes": run.mode == "write",
            "events": status.events,
            "ts_event": status.ts_event,
            "since_ns": order.since_ns,
            "remaining_seconds": None if left_ns is None else left_ns / NS_PER_SECOND,
        }
