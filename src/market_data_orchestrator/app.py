"""The service's HTTP and WebSocket routes."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from functools import partial

import orjson
from fastapi import FastAPI
from prometheus_client import CollectorRegistry
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route, WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

from market_data_core import __version__
from market_data_core.errors import TemporaryUnavailable
from market_data_core.telemetry import HealthState
from market_data_core.web import create_service_app, host_allowed, origin_allowed, probe_routes
from market_data_core.web.auth import Authenticator
from market_data_core.web.ratelimit import RateLimits
from market_data_orchestrator.audit.logger import AuditLogger, Status, audit_counter, configure_audit
from market_data_orchestrator.audit.routes import audit_router
from market_data_orchestrator.cockpit import cockpit_routes
from market_data_orchestrator.control import ControlPlaneService
from market_data_orchestrator.doors import Keys, control_router, failures_counter
from market_data_orchestrator.federation import (
    FederatedCaller,
    Federation,
    FederationRecord,
    PeerClient,
    StaticDirectory,
    ThisNode,
    federation_routers,
    parse_peers,
    requests_counter,
)
from market_data_orchestrator.metrics import ServiceMetrics
from market_data_orchestrator.service import Service
from market_data_orchestrator.signing_in import SigningIn
from market_data_orchestrator.status import StatusAggregator
from market_data_pipeline.engine import Engine
from market_data_pipeline.runners import EngineWriter, IngestController, IngestMetrics, ingest_router


class StatusFeed:
    """Sends the status to all clients; each message is encoded once.

    A client that does not read skips messages and gets the newest when it does: a status is worth nothing once there
    is a newer one.
    """

    def __init__(self, status: StatusAggregator, interval_s: float) -> None:
        self._status = status
        self._interval_s = interval_s
        self._changed = asyncio.Condition()
        self._message = ""
        self._over = False

    def encode(self) -> str:
        """Return the message as of now."""
        return orjson.dumps(
            {"type": "status", "data": self._status.status()}, option=orjson.OPT_SERIALIZE_NUMPY
        ).decode()

    async def run(self) -> None:
        """Make a message every interval while somebody listens."""
        while True:
            await asyncio.sleep(self._interval_s)
            if self._status.ws_clients:
                async with self._changed:
                    self._message = self.encode()
                    self._changed.notify_all()

    async def end(self) -> None:
        """Let all clients go."""
        async with self._changed:
            self._over = True
            self._changed.notify_all()

    async def serve(self, socket: WebSocket) -> None:
        """Serve one client until it leaves or the service stops."""
        if not (origin_allowed(socket.scope) and host_allowed(socket.scope)):
            await socket.close(4403)
            return
        await socket.accept()
        self._status.ws_clients += 1
        leaving = asyncio.create_task(_gone(socket), name="ws-status-receive")
        try:
            await socket.send_text(self.encode())
            while not leaving.done() and not self._over:
                await self._next(leaving)
                if not leaving.done() and not self._over:
                    await socket.send_text(self._message)
            if self._over:
                await socket.close(1001)
        except (WebSocketDisconnect, RuntimeError):
            # The client left while we were sending: nothing to tell it.
            pass
        finally:
            self._status.ws_clients -= 1
            leaving.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await leaving

    async def _next(self, leaving: asyncio.Task[None]) -> None:
        async def changed() -> None:
            async with self._changed:
                await self._changed.wait()

        waiting = asyncio.create_task(changed(), name="ws-status-wait")
        await asyncio.wait({waiting, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if not waiting.done():
            waiting.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await waiting


async def _gone(socket: WebSocket) -> None:
    # Nothing is expected from the client; reading is how its leaving is noticed.
    with contextlib.suppress(WebSocketDisconnect, RuntimeError):
        while True:
            await socket.receive_text()


def create_app(service: Service) -> FastAPI:
    """Return the service's app; its lifespan runs the service."""
    registry = CollectorRegistry()
    status = StatusAggregator(service)
    metrics = ServiceMetrics(registry, status)
    feed = StatusFeed(status, service.settings.ws_interval_sec)

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        app.state.service, app.state.feed = service, feed
        sending = asyncio.create_task(feed.run(), name="ws-status")
        try:
            async with service.running():
                yield
        finally:
            sending.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await sending

    async def get_status(request: Request) -> Response:
        del request
        return Response(orjson.dumps(status.status()), media_type="application/json")

    async def ws_status(socket: WebSocket) -> None:
        await feed.serve(socket)

    keys = Keys(service.settings)
    failures = failures_counter(registry)
    ingest = _ingest(service, registry)
    audit = configure_audit(service.settings, None, counter=audit_counter(registry), clock=service.clock)
    peers = _Peers(service, registry, audit, health=lambda: status.health().state)
    signing_in = SigningIn(service, keys, registry)
    callers = [*signing_in.ways, *peers.callers]
    service.beside += [
        ingest.running,
        lambda: _opened(keys),
        lambda: _recorded(service, audit),
        peers.running,
        lambda: _limited(signing_in.limits),
    ]
    routes: list[BaseRoute] = [
        *probe_routes(status.health, status.ready),
        Route("/status", get_status, methods=["GET"], name="status", include_in_schema=False),
        WebSocketRoute("/ws/status", ws_status, name="ws-status"),
        *cockpit_routes(),
    ]
    app = create_service_app(
        title="market-data-orchestrator",
        version=__version__,
        registry=registry,
        routes=routes,
        lifespan=lifespan,
        cors_origins=service.settings.cors_origins,
    )
    control = ControlPlaneService(service)
    for router in (
        *control_router(service, control, callers, audit=audit, limits=signing_in.limits, failures=failures),
        signing_in.router(failures),
        *audit_router(audit, *callers, failures=failures),
        *federation_routers(peers.federation, peers.directory, callers, failures=failures),
        ingest_router(ingest, callers, failures=failures),
    ):
        app.include_router(router)
    app.state.metrics, app.state.signing_in, app.state.keys = metrics, signing_in, keys
    return app


@contextlib.asynccontextmanager
async def _opened(keys: Keys) -> AsyncIterator[None]:
    await asyncio.to_thread(keys.open)
    yield


@contextlib.asynccontextmanager
async def _recorded(service: Service, audit: AuditLogger) -> AsyncIterator[None]:
    if service.state is not None:
        await asyncio.to_thread(audit.attach, service.state)
    try:
        yield
    finally:
        await asyncio.to_thread(audit.close)


@contextlib.asynccontextmanager
async def _limited(limits: RateLimits) -> AsyncIterator[None]:
    try:
        yield
    finally:
        await limits.close()


class _Peers:
    # The other orchestrators: who they are, what may be asked of them, and how they are told who asks.
    def __init__(
        self, service: Service, registry: CollectorRegistry, audit: AuditLogger, *, health: Callable[[], HealthState]
    ) -> None:
        settings = service.settings
        known = parse_peers(settings.federation_peers, node_id=settings.node_id)
        token = settings.federation_token.get_secret_value()
        requests = requests_counter(registry, known)
        node = ThisNode(node_id=settings.node_id, cluster_id=settings.cluster_id, region=settings.region, health=health)
        self._client = PeerClient()
        self.directory = StaticDirectory(known, node=node, client=self._client, requests=requests, clock=service.clock)
        self.federation = Federation(
            known,
            node_id=settings.node_id,
            token=token,
            client=self._client,
            requests=requests,
            recorder=partial(_record_forwarding, audit),
            clock=service.clock,
        )
        self.callers: list[Authenticator] = [FederatedCaller(token)] if token else []

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        try:
            yield
        finally:
            await self._client.aclose()


async def _record_forwarding(audit: AuditLogger, said: FederationRecord) -> None:
    status: Status = "begun" if said.outcome == "started" else "ok" if said.outcome == "ok" else "error"
    await asyncio.to_thread(
        audit.record,
        action=f"federation.{said.action}",
        actor=said.actor,
        role=said.role,
        status=status,
        detail=said.detail or str(said.outcome),
        target=said.target,
        duration_s=said.duration_s,
        data={"method": said.method, "path": said.path, "status_code": said.status_code},
    )


def _ingest(service: Service, registry: CollectorRegistry) -> IngestController:
    def engine() -> Engine:
        if service.engine is None:
            raise TemporaryUnavailable(f"the service is {service.phase}: nothing can be written now")
        return service.engine

    writer = EngineWriter(engine, opened=lambda: service.engine)
    return IngestController(
        configs=service.settings.config.parent,
        state_dir=service.settings.data_path,
        metrics=IngestMetrics(registry),
        start_source=writer.start_source,
        stop_source=writer.stop_source,
        stored_to=writer.stored_to,
        bus=service.feedback,
        clock=service.clock,
    )
