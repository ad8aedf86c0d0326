"""The service's HTTP and WebSocket routes."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import orjson
from fastapi import FastAPI
from prometheus_client import CollectorRegistry
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route, WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

from market_data_core import __version__
from market_data_core.errors import TemporaryUnavailable
from market_data_core.web import create_service_app, host_allowed, origin_allowed, probe_routes
from market_data_orchestrator.cockpit import cockpit_routes
from market_data_orchestrator.control import ControlPlaneService
from market_data_orchestrator.doors import Keys, control_router, failures_counter
from market_data_orchestrator.metrics import ServiceMetrics
from market_data_orchestrator.service import Service
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
    service.beside += [ingest.running, lambda: _opened(keys)]
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
    for router in control_router(service, control, keys, failures=failures):
        app.include_router(router)
    app.include_router(ingest_router(ingest, [keys], failures=failures))
    app.state.metrics = metrics
    return app


@contextlib.asynccontextmanager
async def _opened(keys: Keys) -> AsyncIterator[None]:
    await asyncio.to_thread(keys.open)
    yield


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
