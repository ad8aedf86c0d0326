"""HTTP metrics: what is counted, under which labels, and how many series there can be."""

from __future__ import annotations

import pytest
from fastapi import APIRouter, BackgroundTasks
from prometheus_client import CollectorRegistry, Counter, Gauge
from prometheus_client.parser import text_string_to_metric_families
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Mount, Route

from market_data_core.web import HttpMetrics, MetricsMiddleware, create_service_app, precreate

TOTAL = "mds_http_requests_total"
COUNT = "mds_http_request_duration_seconds_count"


def counted(registry):
    """Requests by (method, route, status)."""
    samples = [s for family in registry.collect() for s in family.samples if s.name == TOTAL]
    return {(s.labels["method"], s.labels["route"], s.labels["status"]): s.value for s in samples}


async def test_a_request_is_counted_by_method_template_and_status(app, registry, client_of):
    """The label is the template, so any number of symbols is one series."""

    @app.get("/bars/{symbol}")
    async def bars(symbol: str):
        return symbol

    async with client_of(app) as client:
        for symbol in ("AAPL", "MSFT", "NVDA"):
            await client.get(f"/bars/{symbol}")
    assert counted(registry) == {("GET", "/bars/{symbol}", "200"): 3}
    assert registry.get_sample_value(COUNT, {"method": "GET", "route": "/bars/{symbol}"}) == 3


async def test_unknown_paths_and_methods_make_no_series(app, registry, client_of):
    """However many paths and methods callers invent, there is one series for all."""
    async with client_of(app) as client:
        for n in range(50):
            await client.get(f"/no/such/{n}")
            await client.request(f"METHOD{n}", f"/nor/this/{n}")
    assert counted(registry) == {("GET", "unmatched", "404"): 50, ("OTHER", "unmatched", "404"): 50}


async def test_a_wrong_method_is_counted_under_its_route(app, registry, client_of):
    """A 405 says which route was meant."""
    async with client_of(app) as client:
        await client.post("/metrics")
    assert counted(registry) == {("POST", "/metrics", "405"): 1}


async def test_failures_are_counted_as_500(app, registry, client_of):
    """A fault counts with its status and its route."""

    @app.get("/fail")
    async def fail():
        raise RuntimeError

    async with client_of(app) as client:
        await client.get("/fail")
    assert counted(registry) == {("GET", "/fail", "500"): 1}


async def test_included_routers_are_counted_under_their_full_template(app, registry, client_of):
    """Prefixes belong to the template, also where one router is included twice and in another."""
    inner = APIRouter(prefix="/ingest")

    @inner.get("/{name}/status")
    async def status(name: str):
        return name

    outer = APIRouter(prefix="/runtime")
    outer.include_router(inner)
    app.include_router(outer)
    app.include_router(inner, prefix="/v2")
    async with client_of(app) as client:
        for path in ("/runtime/ingest/x/status", "/v2/ingest/y/status", "/v2/ingest/z/status"):
            assert (await client.get(path)).status_code == 200
    assert counted(registry) == {
        ("GET", "/runtime/ingest/{name}/status", "200"): 1,
        ("GET", "/v2/ingest/{name}/status", "200"): 2,
    }


async def test_mounted_apps_are_counted_under_their_own_templates(app, registry, client_of):
    """What lies below a mount is known too; what it does not have is one series."""

    async def leaf(request):
        return PlainTextResponse("leaf")

    app.mount("/sub", Starlette(routes=[Route("/leaf/{n}", leaf), Mount("/deep", routes=[Route("/x", leaf)])]))
    async with client_of(app) as client:
        for path in ("/sub/leaf/1", "/sub/leaf/2", "/sub/deep/x", "/sub/nothing/1", "/sub/nothing/2"):
            await client.get(path)
    assert counted(registry) == {
        ("GET", "/sub/leaf/{n}", "200"): 2,
        ("GET", "/sub/deep/x", "200"): 1,
        ("GET", "/sub/{path}", "404"): 2,
    }


async def test_routes_added_while_serving_are_known(app, registry, client_of):
    """The templates are not frozen by the first request."""
    async with client_of(app) as client:
        await client.get("/metrics")
        app.add_api_route("/late/{n}", lambda n: n)
        await client.get("/late/1")
    assert counted(registry)["GET", "/late/{n}", "200"] == 1


async def test_a_request_counts_when_its_answer_ends(app, registry, client_of):
    """Background work that follows an answer is no part of the request."""
    seen = []

    @app.get("/job")
    async def job(tasks: BackgroundTasks):
        tasks.add_task(lambda: seen.append(counted(registry)))
        return "started"

    async with client_of(app) as client:
        await client.get("/job")
    assert seen == [{("GET", "/job", "200"): 1}]
    assert counted(registry) == seen[0]


async def test_an_answer_cut_short_counts_as_500(registry, scope_of):
    """A request whose answer fails under way is not a success."""

    async def app(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        raise OSError

    async def send(message):
        pass

    middleware = MetricsMiddleware(app, metrics=HttpMetrics(registry))
    with pytest.raises(OSError):
        await middleware(scope_of(app=Starlette()), None, send)
    assert counted(registry) == {("GET", "unmatched", "500"): 1}


async def test_names_and_labels_can_be_those_of_the_service(registry, client_of):
    """A service with published metric names counts under them."""
    metrics = HttpMetrics(registry, prefix="market_data", labels=("method", "endpoint", "status_code"))
    app = create_service_app(title="t", version="1", registry=registry, http_metrics=metrics)
    async with client_of(app) as client:
        await client.get("/metrics")
    labels = {"method": "GET", "endpoint": "/metrics", "status_code": "200"}
    assert registry.get_sample_value("market_data_requests_total", labels) == 1


async def test_metrics_are_served_in_the_text_format_with_its_content_type(app, registry, client_of):
    """What is served parses as Prometheus text and has every family of the registry."""
    Gauge("orchestrator_status", "1 while it runs.", registry=registry).set(1)
    async with client_of(app) as client:
        response = await client.get("/metrics")
    assert response.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    names = {family.name for family in text_string_to_metric_families(response.text)}
    assert {"orchestrator_status", "mds_http_requests", "mds_http_request_duration_seconds"} <= names


async def test_openmetrics_is_served_to_those_who_ask(app, client_of):
    """The Accept header chooses."""
    async with client_of(app) as client:
        response = await client.get("/metrics", headers={"Accept": "application/openmetrics-text; version=1.0.0"})
    assert response.headers["content-type"].startswith("application/openmetrics-text; version=1.0.0")
    assert response.text.endswith("# EOF\n")


def test_series_can_exist_from_the_start(registry):
    """Every combination of label values is there, at zero, before the first event."""
    family = Counter("orchestrator_control_actions", "Actions.", ["action", "status"], registry=registry)
    precreate(family, action=["pause", "resume"], status=["ok", "error"])
    name = "orchestrator_control_actions_total"
    values = {
        (action, status): registry.get_sample_value(name, {"action": action, "status": status})
        for action in ("pause", "resume")
        for status in ("ok", "error")
    }
    assert values == dict.fromkeys(values, 0.0)


def test_series_need_all_labels(registry):
    """A label left out is an error, not a series without it."""
    family = Counter("x", "X.", ["action", "status"], registry=registry)
    with pytest.raises(ValueError, match="label"):
        precreate(family, action=["pause"])


def test_the_global_registry_stays_out_of_it():
    """Two services in one process do not share their counts."""
    first, second = CollectorRegistry(), CollectorRegistry()
    HttpMetrics(first).observe("GET", "/x", 200, 0.1)
    HttpMetrics(second)
    assert counted(first) == {("GET", "/x", "200"): 1}
    assert counted(second) == {}
