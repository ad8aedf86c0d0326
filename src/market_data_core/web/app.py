"""The frame every HTTP service of the platform is built in, so that all have the same doors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from fastapi import FastAPI
from prometheus_client import CollectorRegistry
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.routing import BaseRoute
from starlette.types import Lifespan

from market_data_core.web.docs import docs_routes
from market_data_core.web.faults import install_problem_handlers
from market_data_core.web.hot import HotRoutes
from market_data_core.web.limits import DEFAULT_MAX_BODY_BYTES, BodyLimitMiddleware
from market_data_core.web.metrics import HttpMetrics, MetricsMiddleware, metrics_route
from market_data_core.web.problems import PROBLEM_JSON
from market_data_core.web.request_id import REQUEST_ID_HEADER, RequestIdMiddleware
from market_data_core.web.security import SecurityHeadersMiddleware

_TEXT: Final = {"type": "string"}
_PROBLEM_SCHEMA: Final = {
    "type": "object",
    "required": ["type", "title", "status", "detail", "instance", "request_id"],
    "properties": {
        "type": {"type": "string", "format": "uri-reference"},
        "title": _TEXT,
        "status": {"type": "integer"},
        "detail": _TEXT,
        "instance": {"type": "string", "format": "uri-reference"},
        "request_id": _TEXT,
        "errors": {
            "type": "array",
            "items": {"type": "object", "properties": {"field": _TEXT, "detail": _TEXT, "code": _TEXT}},
        },
    },
}
_RESPONSES: Final[dict[int | str, dict[str, Any]]] = {
    "default": {"description": "Any error (RFC 9457).", "content": {PROBLEM_JSON: {"schema": _PROBLEM_SCHEMA}}}
}


def create_service_app(
    *,
    title: str,
    version: str,
    registry: CollectorRegistry,
    routes: Sequence[BaseRoute] = (),
    middleware: Sequence[Middleware] = (),
    lifespan: Lifespan[FastAPI] | None = None,
    http_metrics: HttpMetrics | None = None,
    max_body_bytes: int = DEFAULT_MAX_BODY_BYTES,
    csp: Mapping[str, str] | None = None,
    cors_origins: Sequence[str] = (),
) -> FastAPI:
    """Return an app with request ids, metrics, security headers, a body limit, problem+json errors and docs.

    It serves ``/metrics``, ``/openapi.json``, ``/docs`` and ``/redoc``; ``/health`` and its like come in `routes`
    (`probe_routes`). Paths are taken as they are: no redirect adds or removes a slash, because its address would be
    built from what the caller calls us.

    Args:
        title: Name of the service, for its docs.
        version: Version of the service.
        registry: Prometheus registry of the service.
        routes: The hot routes, looked at before all others, in this order; plain ones without the router (`HotRoutes`).
        middleware: The service's own, outermost first; it runs inside of ours, so its errors become problems and its
            answers are counted and carry the headers. Pure ASGI only.
        lifespan: Opens and closes what the service holds.
        http_metrics: Where requests are counted, if the names are to differ from the default; in `registry`.
        max_body_bytes: Largest request body.
        csp: Content security policy by path prefix, for pages; see `SecurityHeadersMiddleware`.
        cors_origins: Origins of pages that may call the service from elsewhere, such as ``https://ops.example``;
            they may send a key or token but no cookies. Empty: none.
    """
    hot = [*routes, metrics_route(registry)]
    app = FastAPI(
        title=title,
        version=version,
        routes=[*hot, *docs_routes(title)],
        middleware=[*middleware, Middleware(HotRoutes, routes=hot)],
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        responses=_RESPONSES,
        # Nothing reports to others by an environment variable alone, and asking for it took a tenth of a small answer.
        telemetry={"tracing": False, "metrics": False, "logs": False},
    )
    # Each one added goes around those before it: the last is the outermost.
    install_problem_handlers(app)
    app.add_middleware(BodyLimitMiddleware, max_bytes=max_body_bytes)
    if cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=list(cors_origins),
            allow_methods=["GET", "POST"],
            allow_headers=["Authorization", "Content-Type", "Idempotency-Key", "X-API-Key", REQUEST_ID_HEADER],
            expose_headers=[REQUEST_ID_HEADER, "Retry-After", "Deprecation", "Link", "X-Truncated"],
        )
    app.add_middleware(SecurityHeadersMiddleware, csp=csp)
    app.add_middleware(MetricsMiddleware, metrics=http_metrics or HttpMetrics(registry))
    app.add_middleware(RequestIdMiddleware)
    return app
