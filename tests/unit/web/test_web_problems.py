"""Errors as problem details."""

from __future__ import annotations

import logging
import math

import httpx
import pytest
from fastapi import HTTPException, Query
from hypothesis import example, given
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect
from starlette.routing import Route

from market_data_core import errors
from market_data_core.errors import MarketDataError, PacingViolation, TemporaryUnavailable
from market_data_core.web import (
    PROBLEM_JSON,
    FaultBarrier,
    create_service_app,
    install_problem_handlers,
    problem_of,
    problem_response,
)

STATUSES = {
    "AuthenticationFailed": 401,
    "BatcherError": 500,
    "ConfigurationError": 400,
    "ConnectionFailed": 503,
    "FarmTransient": 503,
    "InvalidInstrument": 404,
    "LogError": 500,
    "LogFull": 503,
    "LogLocked": 409,
    "MarketDataError": 500,
    "PacingViolation": 429,
    "PermissionsMissing": 403,
    "PipelineError": 500,
    "ProviderError": 500,
    "RegistryError": 404,
    "SchemaValidationError": 422,
    "SinkError": 500,
    "SourceError": 500,
    "TemporaryUnavailable": 503,
    "TransformError": 500,
    "ValidationError": 422,
    "WriterConflict": 500,
}
SECRET = "the password is hunter2"


def tree(base=MarketDataError):
    return {base} | {cls for child in base.__subclasses__() for cls in tree(child)}


OURS = sorted((cls for cls in tree() if cls.__module__ == errors.__name__), key=lambda cls: cls.__name__)


def raising(app, exc, path="/raise"):
    @app.get(path)
    async def endpoint():
        raise exc

    return app


def test_every_error_of_the_platform_has_a_declared_status():
    """No class of the tree is left out of the table by accident."""
    assert {cls.__name__ for cls in OURS} == set(STATUSES)


@pytest.mark.parametrize("cls", OURS, ids=lambda cls: cls.__name__)
async def test_an_error_is_answered_with_its_status(cls, app, client_of):
    """An endpoint that raises an error of the tree answers a problem of the declared status."""
    async with client_of(raising(app, cls("nothing to see"))) as client:
        response = await client.get("/raise")
    assert response.status_code == STATUSES[cls.__name__]
    assert response.headers["content-type"] == PROBLEM_JSON
    assert response.json()["status"] == response.status_code


@pytest.mark.parametrize("cls", OURS, ids=lambda cls: cls.__name__)
def test_retryable_errors_and_only_they_invite_another_try(cls):
    """Status 429 or 503 says the same as `retryable`."""
    assert (problem_of(cls("x")).status in (429, 503)) == cls.retryable


def test_a_subclass_goes_with_its_nearest_listed_base():
    """An error a plug-in derives from ours has the status of ours."""

    class LakeAway(TemporaryUnavailable):
        pass

    assert problem_of(LakeAway("away")).status == 503


async def test_a_problem_has_every_member_and_keeps_the_detail(app, client_of):
    """The body is RFC 9457's, with the message as detail and the request id of the header."""
    raising(app, errors.RegistryError("no provider named 'x'"))
    async with client_of(app) as client:
        response = await client.get("/raise?key=secret", headers={"X-Request-ID": "abc-1"})
    assert response.json() == {
        "type": "urn:problem-type:market-data:registry-error",
        "title": "Registry error",
        "status": 404,
        "detail": "no provider named 'x'",
        "instance": "/raise",
        "request_id": "abc-1",
    }
    assert response.headers["x-request-id"] == "abc-1"


@given(st.floats() | st.none())
def test_retry_after_is_whole_seconds_and_never_early(seconds):
    """Any wait becomes whole seconds, at least as long; one that is not a number is not passed on."""
    exc = PacingViolation("slow down", retry_after_sec=seconds)
    value = int(problem_of(exc).headers["retry-after"])
    assert value >= 0
    if seconds is not None and math.isfinite(seconds):
        assert value >= seconds


def test_a_provider_that_names_no_wait_still_gives_retry_after():
    """A 429 always says when to come back."""
    assert int(problem_of(PacingViolation("slow down")).headers["retry-after"]) > 0


def test_retry_after_of_an_outage_is_given_only_when_known():
    """A 503 makes no promise nobody made."""
    exc = TemporaryUnavailable("away")
    assert "retry-after" not in problem_of(exc).headers
    exc.retry_after_sec = 1.2
    assert problem_of(exc).headers["retry-after"] == "2"


async def test_a_401_names_its_challenge(app, client_of):
    """Status 401 comes with WWW-Authenticate."""
    async with client_of(raising(app, errors.AuthenticationFailed("no key"))) as client:
        response = await client.get("/raise")
    assert response.headers["www-authenticate"] == "Bearer"


async def test_an_unknown_path_is_a_404_problem(app, client_of):
    """What no route takes is a problem too."""
    async with client_of(app) as client:
        response = await client.get("/no/such")
    assert (response.status_code, response.headers["content-type"]) == (404, PROBLEM_JSON)
    assert response.json()["type"] == "about:blank"


async def test_a_wrong_method_is_a_405_problem_with_allow(app, client_of):
    """The header that names the allowed methods survives."""
    async with client_of(raising(app, errors.LogFull("x"))) as client:
        response = await client.delete("/raise")
    assert (response.status_code, response.headers["content-type"]) == (405, PROBLEM_JSON)
    assert response.headers["allow"] == "GET"


async def test_an_http_exception_keeps_its_detail_and_headers(app, client_of):
    """What an endpoint says with an HTTPException reaches the caller."""
    raising(app, HTTPException(429, "Rate limit exceeded: max 5/pause/min", headers={"Retry-After": "7"}))
    async with client_of(app) as client:
        response = await client.get("/raise")
    assert response.json()["detail"] == "Rate limit exceeded: max 5/pause/min"
    assert response.headers["retry-after"] == "7"


async def test_headers_of_another_body_are_left_out(app, client_of):
    """An exception made from another service's answer does not describe its body in place of ours."""
    raising(app, HTTPException(502, "peer failed", headers={"Content-Length": "3", "Content-Type": "text/html"}))
    async with client_of(app) as client:
        response = await client.get("/raise")
    assert response.headers.get_list("content-length") == [str(len(response.content))]
    assert response.headers.get_list("content-type") == [PROBLEM_JSON]


async def test_a_detail_that_is_no_text_becomes_text(app, client_of):
    """FastAPI allows any value as detail, RFC 9457 only a string."""
    async with client_of(raising(app, HTTPException(409, {"state": [1, 2]}))) as client:
        response = await client.get("/raise")
    assert response.json()["detail"] == '{"state": [1, 2]}'


async def test_an_http_exception_may_redirect(app, client_of):
    """A status below 400 is no problem and gets no body."""
    async with client_of(raising(app, HTTPException(303, headers={"Location": "/ui"}))) as client:
        response = await client.get("/raise")
    assert (response.status_code, response.headers["location"], response.content) == (303, "/ui", b"")


class Order(BaseModel):
    model_config = ConfigDict(extra="forbid")
    symbols: list[str]
    password: int


@pytest.fixture
def order_app(app):
    @app.post("/orders")
    async def order(order: Order, limit: int = Query(ge=1)):
        return {}

    return app


async def test_an_invalid_request_names_its_fields_and_not_their_values(order_app, client_of):
    """Status 422 lists where and what, without echoing what was sent."""
    async with client_of(order_app) as client:
        response = await client.post("/orders?limit=0", json={"password": "hunter2"})
    body = response.json()
    assert (response.status_code, response.headers["content-type"]) == (422, PROBLEM_JSON)
    assert {(error["field"], error["code"]) for error in body["errors"]} == {
        ("query.limit", "greater_than_equal"),
        ("body.symbols", "missing"),
        ("body.password", "int_parsing"),
    }
    assert all(error["field"] in body["detail"] for error in body["errors"])
    assert "hunter2" not in response.text


@pytest.mark.parametrize(
    "content",
    [b"{", b'{"\\ud800": 1}', b"[" * 100_000, b"\xff\xfe", b'{"symbols": ["\\udfff"], "password": {}}'],
    ids=["broken", "half a surrogate pair as key", "deeply nested", "not UTF-8", "half a surrogate pair"],
)
async def test_a_hostile_body_is_the_callers_fault(content, order_app, client_of):
    """A body made to break the reader is answered with a 4xx problem."""
    async with client_of(order_app) as client:
        headers = {"content-type": "application/json"}
        response = await client.post("/orders?limit=1", content=content, headers=headers)
    assert response.status_code in (400, 422)
    assert response.headers["content-type"] == PROBLEM_JSON
    assert response.json()["detail"]


async def test_the_answer_to_many_wrong_fields_is_bounded(order_app, client_of):
    """A large invalid body does not come back as a larger answer."""
    content = {f"{'x' * 300}{n}": 1 for n in range(2000)}
    async with client_of(order_app) as client:
        response = await client.post("/orders?limit=1", json=content)
    assert response.status_code == 422
    assert len(response.content) < 50_000
    assert "more" in response.json()["detail"] or response.json()["detail"].endswith("…")


@pytest.mark.parametrize(
    "exc", [RuntimeError(SECRET), errors.SinkError(SECRET), KeyError(SECRET)], ids=lambda exc: type(exc).__name__
)
async def test_a_500_says_nothing_and_is_logged_once(exc, app, client_of, caplog):
    """Neither text nor kind of the error leaves the service; the log has both under the caller's request id."""
    with caplog.at_level(logging.WARNING):
        async with client_of(raising(app, exc)) as client:
            response = await client.get("/raise", headers={"X-Request-ID": "find-me"})
    assert response.status_code == 500
    assert response.headers["content-type"] == PROBLEM_JSON
    assert response.json()["request_id"] == "find-me"
    for leak in ("hunter2", type(exc).__name__, "Traceback", ".py"):
        assert leak not in response.text
    [record] = caplog.records
    assert record.request_id == "find-me"
    assert "find-me" in record.getMessage()
    assert record.exc_info[1] is exc


async def test_a_path_cannot_write_lines_into_the_log(app, client_of, caplog):
    """Line breaks in a path stay quoted, in the log and in the answer."""
    raising(app, RuntimeError("x"), path="/raise/{name}")
    async with client_of(app) as client:
        response = await client.get("/raise/a%0AERROR%20forged%0D")
    assert response.json()["instance"] == "/raise/a%0AERROR%20forged%0D"
    assert response.status_code == 500
    assert "\n" not in caplog.records[0].getMessage()


async def test_expected_outages_are_not_logged_as_faults(app, client_of, caplog):
    """A 503 is an answer, not an incident of this service."""
    async with client_of(raising(app, TemporaryUnavailable("store away"))) as client:
        await client.get("/raise")
    assert caplog.records == []


class Guard:
    def __init__(self, app, exc):
        self.app = app
        self.exc = exc

    async def __call__(self, scope, receive, send):
        if scope["type"] == "http":
            raise self.exc
        await self.app(scope, receive, send)


@pytest.mark.parametrize(
    ("exc", "status"),
    [(errors.AuthenticationFailed("no key"), 401), (HTTPException(403, "not allowed"), 403), (OSError("x"), 500)],
    ids=["ours", "HTTPException", "unforeseen"],
)
async def test_errors_of_a_services_own_middleware_are_problems(exc, status, registry, client_of):
    """Middleware may raise what endpoints may raise."""
    guard = Middleware(Guard, exc=exc)
    app = create_service_app(title="t", version="1", registry=registry, middleware=[guard])
    async with client_of(app) as client:
        response = await client.get("/openapi.json")
    assert (response.status_code, response.headers["content-type"]) == (status, PROBLEM_JSON)
    assert response.headers["x-request-id"]
    assert response.headers["x-content-type-options"] == "nosniff"


async def test_a_caller_that_left_is_no_fault(app, client_of, caplog, scope_of):
    """A client that goes away while it is read from is neither answered nor logged."""

    async def leaves(scope, receive, send):
        raise ExceptionGroup("reader and writer", [ClientDisconnect()])

    sent = []

    async def send(message):
        sent.append(message)

    await FaultBarrier(leaves)(scope_of(), None, send)
    assert sent == []
    assert caplog.records == []


async def test_a_bare_starlette_app_can_have_the_handlers(client_of):
    """The handlers need nothing else of the kit; there is no request id then."""
    app = Starlette()
    install_problem_handlers(app)
    async with client_of(app) as client:
        response = await client.get("/no/such")
    assert response.headers["content-type"] == PROBLEM_JSON
    assert response.json()["request_id"] == ""


async def test_a_fault_outside_the_barrier_is_still_a_problem():
    """Middleware added later sits outside; its fault is answered by the last resort, without internals."""
    app = Starlette(routes=[Route("/x", lambda request: None)])
    install_problem_handlers(app)
    app.add_middleware(Guard, exc=RuntimeError(SECRET))
    transport = httpx.ASGITransport(app=app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        response = await client.get("/x")
    assert (response.status_code, response.headers["content-type"]) == (500, PROBLEM_JSON)
    assert "hunter2" not in response.text


ANY_TEXT = st.text(st.characters(exclude_categories=()))  # half surrogate pairs too


@example("\ud800", "\udfff")
@given(ANY_TEXT, ANY_TEXT)
def test_any_text_can_be_said(detail, path):
    """No message and no path makes the answer itself fail."""
    scope = {"type": "http", "path": "/" + path}
    response = problem_response(problem_of(errors.ValidationError(detail)), scope)
    assert response.status_code == 422
