"""Plain routes are found by their path alone, and behave as if the router had found them."""

from __future__ import annotations

import pytest
from prometheus_client import generate_latest
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.responses import PlainTextResponse
from starlette.routing import Mount, Route

from market_data_core.errors import TemporaryUnavailable
from market_data_core.web import PROBLEM_JSON, create_service_app


class Plain:
    """An ASGI endpoint that answers with its name, unless it is told to fail."""

    def __init__(self, name):
        self.name = name
        self.failure = None

    async def __call__(self, scope, receive, send):
        if self.failure is not None:
            raise self.failure
        await PlainTextResponse(self.name)(scope, receive, send)


@pytest.fixture
def plain():
    return Plain("plain")


def function(request):
    return PlainTextResponse(f"function {request.path_params.get('name', '')}")


@pytest.fixture
def app(plain, registry):
    routes = [
        Route("/plain", plain, methods=["GET"]),
        Route("/function", function),
        Route("/of/{name}", Plain("parameter")),
        Route("/of/plain", Plain("never"), methods=["GET"]),
    ]
    return create_service_app(title="t", version="1", registry=registry, routes=routes)


@pytest.mark.parametrize(
    ("method", "path", "text"),
    [
        ("GET", "/plain", "plain"),
        ("HEAD", "/plain", ""),
        ("GET", "/plain?x=1", "plain"),
        ("GET", "/function", "function "),
        ("GET", "/of/a", "parameter"),
        ("GET", "/of/plain", "parameter"),
    ],
)
async def test_each_request_finds_what_the_router_would_find(method, path, text, app, client_of):
    """The first route that takes a path has it."""
    response = await client_of(app).request(method, path)
    assert (response.status_code, response.text) == (200, text)


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("POST", "/plain", 405), ("GET", "/plain/", 404), ("GET", "/Plain", 404), ("GET", "//plain", 404)],
)
async def test_what_no_route_takes_is_refused(method, path, status, app, client_of):
    """Other methods and paths that look alike go to the router, which says no."""
    response = await client_of(app).request(method, path)
    assert (response.status_code, response.headers["content-type"]) == (status, PROBLEM_JSON)


async def test_a_plain_route_has_ids_headers_and_counts(app, registry, client_of):
    """What is left out are layers it has no need of, none of ours."""
    response = await client_of(app).get("/plain", headers={"X-Request-ID": "hot-1"})
    assert response.headers["x-request-id"] == "hot-1"
    assert response.headers["x-frame-options"] == "DENY"
    assert b'mds_http_requests_total{method="GET",route="/plain",status="200"} 1.0' in generate_latest(registry)


@pytest.mark.parametrize(
    ("failure", "status"), [(TemporaryUnavailable("store away"), 503), (RuntimeError("the password is hunter2"), 500)]
)
async def test_what_a_plain_route_raises_is_a_problem(failure, status, app, plain, client_of):
    """Our errors have their status, others are a bare 500."""
    plain.failure = failure
    response = await client_of(app).get("/plain")
    assert (response.status_code, response.headers["content-type"]) == (status, PROBLEM_JSON)
    assert "hunter2" not in response.text


async def test_the_services_own_middleware_sees_plain_routes_too(plain, registry, client_of):
    """It may turn callers away from them."""

    class Closed:
        def __init__(self, app):
            self.app = app

        async def __call__(self, scope, receive, send):
            await PlainTextResponse("closed", 403)(scope, receive, send)

    routes = [Route("/plain", plain, methods=["GET"])]
    app = create_service_app(title="t", version="1", registry=registry, routes=routes, middleware=[Middleware(Closed)])
    assert (await client_of(app).get("/plain")).status_code == 403


async def test_a_mounted_app_answers_under_its_prefix_alone(app, client_of):
    """A path that begins with the prefix is not taken for one of the app's own."""
    outer = Starlette(routes=[Mount("/inner", app)])
    assert (await client_of(outer).get("/inner/plain")).text == "plain"
    assert (await client_of(outer).get("/plain")).status_code == 404
