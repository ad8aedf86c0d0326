"""Request ids in and out."""

from __future__ import annotations

import asyncio
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from market_data_core.web import RequestIdMiddleware, request_id

WELL_FORMED = re.compile(r"[A-Za-z0-9._-]{1,128}\Z")


async def answer_to(scope, *headers):
    """The response start a middleware lets out for an app that answers with `headers`."""
    sent = []

    async def app(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": list(headers)})

    async def send(message):
        sent.append(message)

    await RequestIdMiddleware(app)(scope, None, send)
    assert request_id() == "", "the id outlives its request"
    return sent[0]


@pytest.mark.parametrize("value", ["a", "A.b_c-9", "x" * 128])
async def test_a_well_formed_id_comes_back(value, app, client_of):
    """The caller's id is the request's id."""
    async with client_of(app) as client:
        response = await client.get("/metrics", headers={"X-Request-ID": value})
    assert response.headers["x-request-id"] == value


@pytest.mark.parametrize(
    "value",
    [b"", b"x" * 129, b"a b", b"a\nb", b"a\r\nSet-Cookie: x=1", b"a\n", b"<script>", b"caf\xe9", b'a"b', b"\x00"],
)
async def test_a_malformed_id_is_replaced(value, scope_of):
    """Nothing a caller sends gets into a header or a log line but plain characters."""
    message = await answer_to(scope_of((b"x-request-id", value)))
    [(_, sent)] = message["headers"]
    assert sent != value
    assert WELL_FORMED.match(sent.decode())


@given(st.binary(max_size=200))
def test_the_id_sent_is_always_well_formed(value):
    """For any bytes at all: the caller's, if they are plain, and never anything else."""
    scope = {"type": "http", "path": "/", "headers": [(b"x-request-id", value)]}
    message = asyncio.run(answer_to(scope))
    sent = message["headers"][0][1]
    assert WELL_FORMED.match(sent.decode())
    assert (sent == value) == bool(re.fullmatch(rb"[A-Za-z0-9._-]{1,128}", value))


async def test_requests_without_an_id_get_different_ones(app, client_of):
    """An id names one request."""
    async with client_of(app) as client:
        ids = {(await client.get("/metrics")).headers["x-request-id"] for _ in range(20)}
    assert len(ids) == 20


async def test_the_id_of_another_service_is_not_passed_on(scope_of):
    """An answer that carries an id already leaves with ours only."""
    message = await answer_to(scope_of((b"x-request-id", b"mine")), (b"X-Request-Id", b"theirs"), (b"etag", b"1"))
    assert message["headers"] == [(b"etag", b"1"), (b"x-request-id", b"mine")]


async def test_an_endpoint_sees_the_id_of_its_own_request(app, client_of):
    """Requests served at once, in tasks and in threads, do not see each other's ids."""
    everyone = asyncio.Barrier(5)

    @app.get("/async")
    async def in_task():
        await everyone.wait()
        return request_id()

    @app.get("/sync")
    def in_thread():
        return request_id()

    async with client_of(app) as client:
        names = [f"task-{n}" for n in range(5)]
        async with asyncio.timeout(10):
            tasks = await asyncio.gather(*(client.get("/async", headers={"X-Request-ID": name}) for name in names))
        thread = await client.get("/sync", headers={"X-Request-ID": "thread"})
    assert [response.json() for response in tasks] == names
    assert thread.json() == "thread"


def test_outside_of_a_request_there_is_no_id():
    """Code that serves nobody gets the empty string."""
    assert request_id() == ""


async def test_other_scopes_pass_untouched():
    """Lifespan events are no requests."""
    seen = []

    async def app(scope, receive, send):
        seen.append((scope["type"], request_id()))

    await RequestIdMiddleware(app)({"type": "lifespan"}, None, None)
    assert seen == [("lifespan", "")]
