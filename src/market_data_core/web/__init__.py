"""One kit for every HTTP service of the platform."""

from __future__ import annotations

from market_data_core.web.app import create_service_app
from market_data_core.web.docs import docs_routes
from market_data_core.web.faults import FaultBarrier, install_problem_handlers
from market_data_core.web.health import probe_routes
from market_data_core.web.limits import DEFAULT_MAX_BODY_BYTES, BodyLimitMiddleware, BodyTooLarge
from market_data_core.web.metrics import (
    UNMATCHED,
    HttpMetrics,
    MetricsMiddleware,
    RouteTemplates,
    metrics_route,
    precreate,
)
from market_data_core.web.problems import (
    PROBLEM_JSON,
    STATUS_OF,
    FieldError,
    Problem,
    problem_of,
    problem_response,
)
from market_data_core.web.request_id import REQUEST_ID_HEADER, RequestIdMiddleware, request_id
from market_data_core.web.security import API_CSP, SecurityHeadersMiddleware, host_allowed, origin_allowed

__all__ = [
    "API_CSP",
    "DEFAULT_MAX_BODY_BYTES",
    "PROBLEM_JSON",
    "REQUEST_ID_HEADER",
    "STATUS_OF",
    "UNMATCHED",
    "BodyLimitMiddleware",
    "BodyTooLarge",
    "FaultBarrier",
    "FieldError",
    "HttpMetrics",
    "MetricsMiddleware",
    "Problem",
    "RequestIdMiddleware",
    "RouteTemplates",
    "SecurityHeadersMiddleware",
    "create_service_app",
    "docs_routes",
    "host_allowed",
    "install_problem_handlers",
    "metrics_route",
    "origin_allowed",
    "precreate",
    "probe_routes",
    "problem_of",
    "problem_response",
    "request_id",
]
