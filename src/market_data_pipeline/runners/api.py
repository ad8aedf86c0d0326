"""Ingestion control served alone: ``uvicorn market_data_pipeline.runners.api:app --port 8083``.

It writes into the log and store of ``ORCH_DATA_DIR``, which it opens, and locks, with the first run that writes.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from collections.abc import AsyncIterator, Callable

from fastapi import FastAPI
from prometheus_client import CollectorRegistry, Counter

from market_data_core import __version__, disk
from market_data_core.addresses import is_postgres
from market_data_core.clock import NS_PER_SECOND, Clock, SystemClock
from market_data_core.telemetry import HealthComponent, HealthState, HealthStatus, Probe
from market_data_core.web import create_service_app, precreate, probe_routes
from market_data_core.web.auth import FAILURE_REASONS, key_authenticators
from market_data_pipeline.engine import Engine, EngineSettings
from market_data_pipeline.log import LogSettings
from market_data_pipeline.runners.ingest import IngestController
from market_data_pipeline.runners.metrics import IngestMetrics
from market_data_pipeline.runners.routes import ingest_router
from market_data_pipeline.runners.settings import IngestServiceSettings, load_ingest_settings
from market_data_pipeline.runners.writing import EngineWriter

LOG = logging.getLogger(__name__)


class LazyEngine:
    """An engine that is opened when it is first needed: dry runs need none, and lock nothing.

    Args:
        settings: What it is made of.
        drain_s: How long closing may take to store what was received.
        clock: Where its time comes from.
    """

    def __init__(self, settings: EngineSettings, *, drain_s: float, clock: Clock) -> None:
        self._settings = settings
        self._drain_s = drain_s
        self._clock = clock
        self._lock = threading.Lock()
        self.opened: Engine | None = None

    def get(self) -> Engine:
        """Return the engine, opening it first if need be; may wait.

        Raises:
            LogLocked: Another process runs this data directory.
            TemporaryUnavailable: The store is away.
        """
        with self._lock:
            if self.opened is None:
                engine = Engine(self._settings, clock=self._clock)
                engine.open()
                engine.log.control("session", {"node": "ingest", "provider": ""})
                self.opened = engine
            return self.opened

    def close(self) -> None:
        """Store what was received and let go of everything; may wait."""
        with self._lock:
            if self.opened is not None:
                late = self.opened.close(self._drain_s)
                if late:
                    LOG.warning("not everything was stored in time by %s; it is in the log", ", ".join(late))
                self.opened = None

    @property
    def problem(self) -> str:
        """Why it cannot go on by itself; empty while it can, or is not open."""
        engine = self.opened
        return "" if engine is None else engine.problem


def create_app(load: Callable[[], IngestServiceSettings] = load_ingest_settings) -> FastAPI:
    """Return the app. Settings are read, and files touched, when it starts, not before.

    Args:
        load: Returns the settings.
    """
    registry = CollectorRegistry()
    metrics = IngestMetrics(registry)
    failures = Counter("ingest_auth_failures", "Requests not let through.", ["reason"], registry=registry)
    precreate(failures, reason=FAILURE_REASONS)
    clock = SystemClock()
    serving: list[tuple[IngestController, LazyEngine]] = []

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        settings = load()
        engine = LazyEngine(_engine_settings(settings), drain_s=settings.drain_sec, clock=clock)
        writer = EngineWriter(engine.get, opened=lambda: engine.opened)
        async with contextlib.AsyncExitStack() as stack:
            await asyncio.to_thread(disk.make_dirs, settings.data_path)
            authenticators, first_key = await asyncio.to_thread(
                key_authenticators, configured=settings.api_key.get_secret_value(), keys_file=settings.keys_path
            )
            if first_key is not None:
                LOG.warning("no key was configured: an admin key has been made and is in %s", first_key)
            controller = IngestController(
                configs=settings.config.parent,
                state_dir=settings.data_path,
                metrics=metrics,
                start_source=writer.start_source,
                stop_source=writer.stop_source,
                stored_to=writer.stored_to,
                clock=clock,
            )
            stack.push_async_callback(asyncio.to_thread, engine.close)
            await stack.enter_async_context(controller.running())
            # The routes come with what they act on.
            app.include_router(ingest_router(controller, authenticators, failures=failures))
            serving.append((controller, engine))
            stack.callback(serving.clear)
            yield

    def health() -> HealthStatus:
        components = [_component(*parts) for parts in serving]
        state: HealthState = "healthy" if all(c.state == "healthy" for c in components) else "degraded"
        return HealthStatus(
            service="ingest", state=state, components=components, version=__version__, ts=clock.now_ns() / NS_PER_SECOND
        )

    def ready() -> list[Probe]:
        message = None if serving else "ingestion: starting"
        return [Probe(probe_type="readiness", passed=bool(serving), message=message)]

    return create_service_app(
        title="market-data-ingest",
        version=__version__,
        registry=registry,
        routes=probe_routes(health, ready),
        lifespan=lifespan,
    )


def _component(controller: IngestController, engine: LazyEngine) -> HealthComponent:
    troubled = [run for run in controller.status()["runs"] if run["problem"]]
    said = [f"{run['provider']}: {run['problem']}" for run in troubled] + [p for p in [engine.problem] if p]
    return HealthComponent(name="ingestion", state="degraded" if said else "healthy", detail="; ".join(said) or None)


def _engine_settings(settings: IngestServiceSettings) -> EngineSettings:
    return EngineSettings(
        data_dir=settings.data_path,
        store="postgres" if is_postgres(settings.store_url) else "store",
        store_root=settings.store_url or None,
        tenant=settings.tenant_id,
        consumers="process",
        log=LogSettings(fsync=settings.log_fsync),
    )


app = create_app()
"""What uvicorn serves."""
