"""Makes the parts of a service and holds them: each once, when it is first asked for."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import cached_property
from typing import Any, Self

from prometheus_client import CollectorRegistry, Counter

from market_data_core.clock import Clock, SystemClock
from market_data_core.errors import ConfigurationError, TemporaryUnavailable
from market_data_core.protocols import FederationDirectory
from market_data_core.telemetry import ControlAction
from market_data_core.web import precreate
from market_data_core.web.auth import Authenticator, SessionStore
from market_data_core.web.ratelimit import RateLimits
from market_data_orchestrator.audit.denials import Denials
from market_data_orchestrator.audit.logger import AuditLogger, audit_counter, configure_audit
from market_data_orchestrator.beside import beside
from market_data_orchestrator.composition import engine_settings
from market_data_orchestrator.config import PlatformConfig, load_platform
from market_data_orchestrator.control import ControlPlaneService
from market_data_orchestrator.doors import Keys, failures_counter
from market_data_orchestrator.events import EventRegistry, register_installed
from market_data_orchestrator.federation import (
    FederatedCaller,
    Federation,
    Peer,
    PeerClient,
    StaticDirectory,
    ThisNode,
    parse_peers,
    requests_counter,
)
from market_data_orchestrator.lifecycle import LifecycleManager
from market_data_orchestrator.metrics import ServiceMetrics
from market_data_orchestrator.protocols import FeedbackBus
from market_data_orchestrator.service import Service
from market_data_orchestrator.services.recording import AuditRecorder, forwarding_recorder
from market_data_orchestrator.services.sessions import StateSessions
from market_data_orchestrator.services.status_feed import StatusFeed
from market_data_orchestrator.settings import OrchestratorSettings
from market_data_orchestrator.signing_in import SigningIn, rate_limits
from market_data_orchestrator.status import StatusAggregator
from market_data_pipeline.engine import Engine, EngineSettings
from market_data_pipeline.orchestration import feedback_bus
from market_data_pipeline.runners import EngineWriter, IngestController, IngestMetrics
from market_data_pipeline.worker import WorkerConsumers
from market_data_store.state import State


class ServiceContainer:
    """The parts of one service by name. A part is made when it is first asked for, from others of the same container.

    Args:
        settings: As `load_settings` gave them.
        config: The configuration, if it was read with them already.
        consumers: A worker for both that was begun before.
        **parts: Parts to use in place of those that would be made, by their names here: ``clock``, ``feedback``, ...

    Raises:
        ConfigurationError: There is no part of a name that is given.
    """

    def __init__(
        self,
        settings: OrchestratorSettings,
        /,
        *,
        config: PlatformConfig | None = None,
        consumers: WorkerConsumers | None = None,
        **parts: Any,
    ) -> None:
        self._asked = settings
        self._consumers = consumers
        given = parts if config is None else {"config": config, **parts}
        unknown = sorted(given.keys() - self.names())
        if unknown:
            raise ConfigurationError(f"there is no part {', '.join(unknown)}; there are: {', '.join(self.names())}")
        # A cached property does not make what it finds here.
        self.__dict__.update(given)

    @classmethod
    def around(cls, service: Service, **parts: Any) -> Self:
        """Return a container of the parts around a service that is there already; arguments as for the class."""
        made: dict[str, Any] = {
            "clock": service.clock,
            "config": service.config,
            "events": service.events,
            "feedback": service.feedback,
            "service": service,
            "settings": service.settings,
        }
        return cls(service.settings, **{**made, **parts})

    @classmethod
    def names(cls) -> tuple[str, ...]:
        """Return the names of all parts, sorted."""
        return tuple(sorted(name for name, value in vars(cls).items() if isinstance(value, cached_property)))

    @cached_property
    def clock(self) -> Clock:
        """Where time comes from."""
        return SystemClock()

    @cached_property
    def registry(self) -> CollectorRegistry:
        """Where metrics are registered."""
        return CollectorRegistry()

    @cached_property
    def config(self) -> PlatformConfig:
        """What runs: the platform's configuration."""
        return load_platform(settings=self._asked)

    @cached_property
    def settings(self) -> OrchestratorSettings:
        """How it runs, the configuration applied."""
        return self.config.applied_to(self._asked)

    @cached_property
    def engine_settings(self) -> EngineSettings:
        """What the data path is made of at the start."""
        return engine_settings(self.settings, self.config)

    @cached_property
    def events(self) -> EventRegistry:
        """Who handles events."""
        return EventRegistry()

    @cached_property
    def feedback(self) -> FeedbackBus | None:
        """The feedback bus; None where there is none."""
        wanted = self.settings.feedback
        return feedback_bus(wanted.url, clock=self.clock) if wanted.enabled else None

    @cached_property
    def service(self) -> Service:
        """The data path, with its state and jobs."""
        return Service(
            self._asked,
            clock=self.clock,
            config=self.config,
            consumers=self._consumers,
            engine=self.engine_settings,
            feedback=self.feedback,
            events=self.events,
        )

    @property
    def lifecycle(self) -> LifecycleManager:
        """What starts and stops, in order."""
        return self.service.lifecycle

    @property
    def state(self) -> State:
        """The small state.

        Raises:
            TemporaryUnavailable: The service has not started.
        """
        if self.service.state is None:
            raise TemporaryUnavailable(f"the service is {self.service.phase}: its state is not open")
        return self.service.state

    @cached_property
    def status(self) -> StatusAggregator:
        """What the service says of itself."""
        return StatusAggregator(self.service, limits=self.limits)

    @cached_property
    def feed(self) -> StatusFeed:
        """The status over WebSockets."""
        return StatusFeed(self.status, self.settings.ws_interval_sec)

    @cached_property
    def control(self) -> ControlPlaneService:
        """Pause, resume and reload."""
        return ControlPlaneService(self.service)

    @cached_property
    def metrics(self) -> ServiceMetrics:
        """What the service tells Prometheus."""
        return ServiceMetrics(self.registry, self.status, actions=lambda: self.control.counts)

    @cached_property
    def keys(self) -> Keys:
        """The keys that let callers in."""
        return Keys(self.settings)

    @cached_property
    def failures(self) -> Counter:
        """Counts those who were not let in."""
        return failures_counter(self.registry)

    @cached_property
    def audit(self) -> AuditLogger:
        """The audit trail; that of the process."""
        counter = audit_counter(self.registry)
        precreate(counter, action=[str(action) for action in ControlAction], status=("ok", "error", "denied"))
        return configure_audit(self.settings, None, counter=counter, clock=self.clock)

    @cached_property
    def denials(self) -> Denials:
        """Puts on the audit trail whom a rate limit has turned away."""
        return Denials(self.audit, clock=self.clock)

    @cached_property
    def recorder(self) -> AuditRecorder:
        """Puts ingestion control on the audit trail."""
        return AuditRecorder(self.audit)

    @cached_property
    def limits(self) -> RateLimits:
        """How often a caller may do something."""
        return rate_limits(self.settings.security, self.registry, clock=self.clock)

    @cached_property
    def sessions(self) -> SessionStore:
        """Where logins of browsers are kept."""
        return StateSessions(lambda: self.service.state)

    @cached_property
    def signing_in(self) -> SigningIn:
        """The ways in."""
        return SigningIn(
            self.settings.security, self.keys, limits=self.limits, sessions=self.sessions, clock=self.clock
        )

    @cached_property
    def callers(self) -> list[Authenticator]:
        """Who tells who is calling, tried in order."""
        token = self.settings.federation_token.get_secret_value()
        return [*self.signing_in.ways, *([FederatedCaller(token)] if token else [])]

    @cached_property
    def peers(self) -> list[Peer]:
        """The configured peers."""
        return list(parse_peers(self.settings.federation_peers, node_id=self.settings.node_id))

    @cached_property
    def peer_client(self) -> PeerClient:
        """Calls peers."""
        return PeerClient()

    @cached_property
    def peer_requests(self) -> Counter:
        """Counts requests to peers."""
        return requests_counter(self.registry, self.peers)

    @cached_property
    def directory(self) -> FederationDirectory:
        """Who is in the federation, and how they are."""
        settings = self.settings
        node = ThisNode(
            node_id=settings.node_id,
            cluster_id=settings.cluster_id,
            region=settings.region,
            health=lambda: self.status.health().state,
        )
        if settings.federation_directory == "static":
            return StaticDirectory(
                self.peers, node=node, client=self.peer_client, requests=self.peer_requests, clock=self.clock
            )
        from market_data_orchestrator.federation.heartbeat import HeartbeatDirectory  # noqa: PLC0415  not all have redis

        return HeartbeatDirectory(self.peers, url=settings.federation_directory, node=node, clock=self.clock)

    @cached_property
    def federation(self) -> Federation:
        """Requests to peers on a caller's behalf."""
        return Federation(
            self.peers,
            node_id=self.settings.node_id,
            token=self.settings.federation_token.get_secret_value(),
            client=self.peer_client,
            requests=self.peer_requests,
            recorder=forwarding_recorder(self.audit),
            clock=self.clock,
            timeout_s=self.settings.federation_timeout_sec,
        )

    @cached_property
    def ingest(self) -> IngestController:
        """Ingestion control."""
        service = self.service

        def engine() -> Engine:
            if service.engine is None:
                raise TemporaryUnavailable(f"the service is {service.phase}: nothing can be written now")
            return service.engine

        writer = EngineWriter(engine, opened=lambda: service.engine)
        return IngestController(
            configs=self.settings.config.parent,
            state_dir=self.settings.data_path,
            metrics=IngestMetrics(self.registry),
            start_source=writer.start_source,
            stop_source=writer.stop_source,
            stored_to=writer.stored_to,
            bus=service.feedback,
            clock=self.clock,
        )

    def enlist(self) -> None:
        """Have what needs starting or stopping started after the data path, and stopped before it.

        Raises:
            ConfigurationError: It was done before.
        """
        self.lifecycle.add("event-handlers", self._handling)
        self.lifecycle.add("ingest", self.ingest.running)
        self.lifecycle.add("keys", self._keys_read)
        self.lifecycle.add("audit", self._recording)
        self.lifecycle.add("federation", self._federated)
        self.lifecycle.add("limits", self._limited)

    @asynccontextmanager
    async def _handling(self) -> AsyncIterator[None]:
        ends = register_installed(self.events)
        try:
            yield
        finally:
            for end in ends:
                end()

    @asynccontextmanager
    async def _keys_read(self) -> AsyncIterator[None]:
        await asyncio.to_thread(self.keys.open)
        yield

    @asynccontextmanager
    async def _recording(self) -> AsyncIterator[None]:
        await asyncio.to_thread(self.audit.attach, self.state)
        try:
            async with self.denials.running():
                yield
        finally:
            await asyncio.to_thread(self.audit.close)

    @asynccontextmanager
    async def _federated(self) -> AsyncIterator[None]:
        directory = self.directory
        # Only a directory that is fed by heartbeats has something to run.
        beating = getattr(directory, "run", None)
        try:
            async with asyncio.TaskGroup() as group:
                task = None if beating is None else group.create_task(beating(), name="federation-heartbeats")
                try:
                    yield
                finally:
                    if task is not None:
                        task.cancel()
        finally:
            for closing in (getattr(directory, "aclose", None), self.peer_client.aclose):
                if closing is not None:
                    await closing()

    @asynccontextmanager
    async def _limited(self) -> AsyncIterator[None]:
        try:
            async with beside(self.limits.watch(), name="rate-limits"):
                yield
        finally:
            await self.limits.close()
