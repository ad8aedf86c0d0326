"""Prometheus metrics of an HTTP service, in a registry that is handed in."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Sequence
from itertools import product
from time import perf_counter
from typing import Any, Final, Protocol

from fastapi.routing import iter_route_contexts
from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics import MetricWrapperBase
from starlette.routing import BaseRoute, Mount, Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

UNMATCHED: Final = "unmatched"
"""The route label of requests that no route takes."""

DEFAULT_BUCKETS_S: Final = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)

# Callers may invent methods; each of them would be a series for ever.
_METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_OTHER_METHOD: Final = "OTHER"


class _HasRoutes(Protocol):
    @property
    def routes(self) -> Sequence[BaseRoute]: ...


class HttpMetrics:
    """The families ``<prefix>_requests_total`` and ``<prefix>_request_duration_seconds``.

    Args:
        registry: Where they are registered; one registry takes one of each prefix.
        prefix: Begins both names.
        labels: Names of the labels for method, route template and status; the duration has the first two.
        buckets_s: Upper bounds of the histogram, seconds, ascending.
    """

    def __init__(
        self,
        registry: CollectorRegistry,
        *,
        prefix: str = "mds_http",
        labels: tuple[str, str, str] = ("method", "route", "status"),
        buckets_s: Sequence[float] = DEFAULT_BUCKETS_S,
    ) -> None:
        self._requests = Counter(f"{prefix}_requests", "HTTP requests answered.", labels, registry=registry)
        self._durations = Histogram(
            f"{prefix}_request_duration_seconds",
            "Seconds from the head of a request to the end of its answer.",
            labels[:2],
            registry=registry,
            buckets=buckets_s,
        )
        self._children: dict[tuple[str, str, int], tuple[Counter, Histogram]] = {}

    def observe(self, method: str, route: str, status: int, duration_s: float) -> None:
        """Count one request. `route` is its template, never its path."""
        key = (method if method in _METHODS else _OTHER_METHOD, route, status)
        children = self._children.get(key)
        if children is None:
            # Looking children up by label costs more than counting does.
            children = (self._requests.labels(*key), self._durations.labels(*key[:2]))
            self._children[key] = children
        children[0].inc()
        children[1].observe(duration_s)


class MetricsMiddleware:
    """Counts and times HTTP requests by method, route template and status.

    The route label is a template of the app's own routes or `UNMATCHED`, so no caller can make new series. A request
    whose answer fails under way counts as 500, one whose caller left before any answer as 499.
    Middleware inside must hand on the same `scope` object: the router leaves in it which route it took.
    """

    def __init__(self, app: ASGIApp, *, metrics: HttpMetrics) -> None:
        self.app = app
        self._metrics = metrics
        self._templates: RouteTemplates | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Count one request; anything else goes through untouched."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        templates = self._templates
        if templates is None:
            # A mounted app puts itself into the scope in place of the one we belong to, so this is read on the way in.
            templates = self._templates = RouteTemplates(scope["app"])
        root_path = scope.get("root_path", "")
        started_s = perf_counter()
        status = 499  # what it is called when the caller left first
        observed = False

        def observe() -> None:
            nonlocal observed
            observed = True
            route = templates.find(scope.get("endpoint"), scope["path"].removeprefix(root_path))
            self._metrics.observe(scope["method"], route, status, perf_counter() - started_s)

        async def send_counted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            elif not message.get("more_body", False) and not observed:
                # Now rather than when the app returns, which may go on with background work.
                observe()
            await send(message)

        try:
            await self.app(scope, receive, send_counted)
        except Exception:
            status = 500
            raise
        finally:
            if not observed:
                observe()


class RouteTemplates:
    """Which template of an app's routes a request went to.

    Routers leave only the endpoint in the scope, and one without the prefix it was included under, so the templates
    are collected from the app and found again by endpoint.

    Args:
        app: Whose routes; read at the first request and again whenever an endpoint is not known.
    """

    def __init__(self, app: _HasRoutes) -> None:
        self._app = app
        # By identity, because endpoints need not be hashable; the endpoint beside it keeps the id from being reused.
        self._known: dict[int, tuple[object, list[str]]] = {}

    def find(self, endpoint: object | None, path: str) -> str:
        """Return the template that led to `endpoint`, or `UNMATCHED`; `path` decides where there are several."""
        if endpoint is None:
            return UNMATCHED
        known = self._known.get(id(endpoint))
        if known is None:
            self._collect()
            known = self._known.setdefault(id(endpoint), (endpoint, [UNMATCHED]))
        templates = known[1]
        if len(templates) == 1:
            return templates[0]
        return next((t for t in templates if _pattern(t).fullmatch(path)), templates[0])

    def _collect(self) -> None:
        known: dict[int, tuple[object, list[str]]] = {}
        for endpoint, template in _walk(self._app.routes, ""):
            templates = known.setdefault(id(endpoint), (endpoint, []))[1]
            if template not in templates:
                templates.append(template)
        self._known.update(known)


def _walk(routes: Sequence[BaseRoute], prefix: str) -> Iterator[tuple[object, str]]:
    for context in iter_route_contexts(routes):
        route = context.route if context.endpoint is None else None
        if isinstance(route, Mount):
            yield route.app, prefix + route.path_format
            yield from _walk(route.routes, prefix + route.path)
        elif context.endpoint is not None and context.path_format is not None:
            yield context.endpoint, prefix + context.path_format


def _pattern(template: str) -> re.Pattern[str]:
    # `re` keeps compiled patterns; only endpoints with several templates come here.
    return re.compile(re.sub(r"\\\{.*?\\\}", ".+", re.escape(template)))


def precreate(family: MetricWrapperBase, /, **values: Collection[str]) -> None:
    """Make the series of a labelled family exist, at zero, for every combination of label values.

    A series that appears with its first event hides that event from ``rate()`` and gives alerts nothing to compare.

    Args:
        family: With label names.
        values: By label name, the values that can occur; all labels must be named.

    Raises:
        ValueError: The label names are not the family's.
    """
    for combination in product(*values.values()):
        family.labels(**dict(zip(values, combination, strict=True)))


def metrics_route(registry: CollectorRegistry, path: str = "/metrics") -> Route:
    """Return a route that gives all of `registry` as Prometheus text, or as OpenMetrics to callers that ask for it.

    Gauge callbacks run on the event loop, so they may read what it owns and must be quick.
    """
    return Route(path, _Exposition(registry), methods=["GET"], name="metrics", include_in_schema=False)


class _Exposition:
    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry

    async def __call__(self, scope: Scope, _receive: Receive, send: Send) -> None:
        accept: str = b",".join(v for name, v in scope["headers"] if name == b"accept").decode("latin-1")
        encoder: Any
        encoder, content_type = choose_encoder(accept)
        body: bytes = encoder(self._registry)
        headers = [
            (b"content-type", content_type.encode("ascii")),
            (b"content-length", str(len(body)).encode("ascii")),
        ]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})
