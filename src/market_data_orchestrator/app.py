"""The service's HTTP and WebSocket routes."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import orjson
from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route, WebSocketRoute
from starlette.websockets import WebSocket

from market_data_core import __version__
from market_data_core.web import create_service_app, probe_routes
from market_data_orchestrator.audit.denials import record_denials
from market_data_orchestrator.audit.routes import audit_router
from market_data_orchestrator.cockpit import cockpit_routes
from market_data_orchestrator.container import ServiceContainer
from market_data_orchestrator.data import StoredData, data_routers
from market_data_orchestrator.doors import control_router
from market_data_orchestrator.federation import federation_routers
from market_data_orchestrator.market.feed import MarketFeed
from market_data_orchestrator.market.last import StoredBars
from market_data_orchestrator.market.routes import market_route
from market_data_orchestrator.service import Service
from market_data_pipeline.runners import ingest_router


def create_app(given: Service | ServiceContainer) -> FastAPI:
    """Return the service's app; its lifespan runs the service.

    Args:
        given: The parts, or the service to make the others around. An app is made of each only once.
    """
    parts = given if isinstance(given, ServiceContainer) else ServiceContainer.around(given)
    service, status, feed, audit, failures = parts.service, parts.status, parts.feed, parts.audit, parts.failures
    callers, limits, signing_in = parts.callers, parts.limits, parts.signing_in

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

    data = StoredData(service.settings)
    market_feed = MarketFeed(service, seeds=StoredBars(data, service.clock.now_ns))
    routes: list[BaseRoute] = [
        *probe_routes(status.health, status.ready),
        Route("/status", get_status, methods=["GET"], name="status", include_in_schema=False),
        WebSocketRoute("/ws/status", ws_status, name="ws-status"),
        market_route(market_feed, service, status, callers, audit=audit, limits=limits, failures=failures),
        *cockpit_routes(),
    ]
    app = create_service_app(
        title="market-data-orchestrator",
        version=__version__,
        registry=parts.registry,
        routes=routes,
        lifespan=lifespan,
        cors_origins=service.settings.cors_origins,
    )
    record_denials(app, parts.denials)
    for router in (
        *control_router(parts.control, callers, audit=audit, limits=limits, failures=failures),
        signing_in.router(failures),
        *audit_router(audit, *callers, failures=failures, limits=limits),
        *federation_routers(parts.federation, parts.directory, callers, failures=failures, limits=limits),
        ingest_router(parts.ingest, callers, failures=failures, recorder=parts.recorder, limits=limits),
        *data_routers(
            service,
            data,
            callers,
            audit=audit,
            limits=limits,
            failures=failures,
            rates=lambda: None if service.backfills is None else service.backfills.rates,
        ),
    ):
        app.include_router(router)
    parts.enlist()
    service.lifecycle.add("stored-data", data.running)
    service.lifecycle.add("market-feed", market_feed.running)
    app.state.parts, app.state.metrics = parts, parts.metrics
    app.state.signing_in, app.state.keys = signing_in, parts.keys
    return app
