"""The kit behind a real server on a loopback socket."""

from __future__ import annotations

import asyncio
import json
import logging

import httpx
import pytest
from fastapi import WebSocket
from starlette.responses import StreamingResponse
from starlette.websockets import WebSocketDisconnect
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from market_data_core.errors import AuthenticationFailed, TemporaryUnavailable
from market_data_core.web import PROBLEM_JSON, create_service_app, origin_allowed, request_id

MAX_BYTES = 100_000


@pytest.fixture
def app(registry):
    app = create_service_app(title="t", version="1", registry=registry, max_body_bytes=MAX_BYTES)

    @app.post("/upload")
    async def upload(body: dict[str, str]):
        return len(body)

    @app.get("/fail")
    async def fail():
        raise RuntimeError("the password is hunter2")

    @app.get("/cut")
    async def cut():
        async def parts():
            yield b"first"
            raise RuntimeError("the password is hunter2")

        return StreamingResponse(parts())

    return app


def socket_route(app, path="/ws"):
    """Registers a WebSocket endpoint that lets the test say what it does."""

    def register(endpoint):
        app.add_api_websocket_route(path, endpoint)
        return endpoint

    return register


async def raw(address, request):
    """Sends bytes as they are and returns all that comes back."""
    host, port = address.split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(request)
    async with asyncio.timeout(10):
        answer = await reader.read()
    writer.close()
    await writer.wait_closed()
    return answer


async def test_a_fault_is_one_problem_and_one_log_record(app, served, caplog):
    """The server itself has nothing to add: no second traceback, and the connection stays."""
    with caplog.at_level(logging.ERROR):
        async with served(app) as address, httpx.AsyncClient(base_url=f"http://{address}") as client:
            response = await client.get("/fail")
            again = await client.get("/fail")
    assert (response.status_code, response.headers["content-type"]) == (500, PROBLEM_JSON)
    assert response.headers["x-request-id"] == response.json()["request_id"]
    assert response.headers["x-frame-options"] == "DENY"
    assert "hunter2" not in response.text + again.text
    ids = [response.json()["request_id"], again.json()["request_id"]]
    assert [getattr(record, "request_id", None) for record in caplog.records] == ids


async def test_an_answer_that_fails_under_way_is_cut(app, served, caplog):
    """The caller can tell that the answer is not whole."""
    async with served(app) as address, httpx.AsyncClient(base_url=f"http://{address}") as client:
        with pytest.raises(httpx.RemoteProtocolError):
            await client.get("/cut", headers={"X-Request-ID": "cut-1"})
    assert "cut-1" in [getattr(record, "request_id", None) for record in caplog.records]


@pytest.mark.parametrize("chunked", [False, True], ids=["declared", "chunked"])
async def test_an_oversized_upload_is_refused_over_the_wire(chunked, app, served):
    """The 413 arrives while the body is still being sent, and the connection is in step afterwards."""

    async def parts():
        for _ in range(50):
            yield b" " * 10_000

    content = parts() if chunked else b" " * 500_000
    async with served(app) as address, httpx.AsyncClient(base_url=f"http://{address}") as client:
        headers = {"content-type": "application/json"}
        response = await client.post("/upload", content=content, headers=headers)
        after = await client.post("/upload", json={"a": "b"})
    assert (response.status_code, response.headers["content-type"]) == (413, PROBLEM_JSON)
    assert (after.status_code, after.json()) == (200, 1)


async def test_an_injected_header_goes_nowhere(app, served):
    """A request id with a header folded into it is replaced before it reaches the answer."""
    request = b"GET /no/such HTTP/1.1\r\nHost: a\r\nConnection: close\r\nX-Request-ID: a\tb; Set-Cookie: x=1\r\n\r\n"
    async with served(app) as address:
        head, _, body = (await raw(address, request)).partition(b"\r\n\r\n")
    assert b"Set-Cookie" not in head
    assert json.loads(body)["request_id"].encode() in head


async def test_a_websocket_has_its_request_id(app, served):
    """The handshake's answer carries the id that the endpoint sees."""

    @socket_route(app)
    async def endpoint(websocket: WebSocket):
        await websocket.accept()
        await websocket.send_text(request_id())
        await websocket.close()

    async with served(app) as address:
        headers = {"X-Request-ID": "ws-1"}
        async with connect(f"ws://{address}/ws", additional_headers=headers) as client:
            seen = await client.recv()
        async with connect(f"ws://{address}/ws", additional_headers={"X-Request-ID": "not an id"}) as client:
            assert client.response.headers["x-request-id"] == await client.recv() != "not an id"
    assert seen == "ws-1"


async def test_a_page_of_another_origin_is_refused_before_the_handshake(app, served):
    """The origin check, raised as one of our errors, becomes an HTTP refusal with a problem."""

    @socket_route(app)
    async def endpoint(websocket: WebSocket):
        if not origin_allowed(websocket.scope, ["https://ops.example"]):
            raise AuthenticationFailed("origin not allowed")
        await websocket.accept()
        await websocket.send_text("in")
        await websocket.close()

    async with served(app) as address:
        for origin in (None, f"http://{address}", "https://ops.example"):
            async with connect(f"ws://{address}/ws", origin=origin) as client:
                assert await client.recv() == "in"
        with pytest.raises(InvalidStatus) as refused:
            await connect(f"ws://{address}/ws", origin="http://evil.example")
    response = refused.value.response
    assert (response.status_code, response.headers["content-type"]) == (401, PROBLEM_JSON)
    assert response.headers["x-content-type-options"] == "nosniff"
    assert json.loads(response.body)["request_id"] == response.headers["x-request-id"]


@pytest.mark.parametrize(
    ("exc", "code"), [(TemporaryUnavailable("store away"), 1013), (RuntimeError("the password is hunter2"), 1011)]
)
async def test_an_open_websocket_is_closed_with_the_fitting_code(exc, code, app, served, caplog):
    """An outage says try again later; a fault says internal error, nothing more, and is logged once."""

    @socket_route(app)
    async def endpoint(websocket: WebSocket):
        await websocket.accept()
        raise exc

    async with served(app) as address, connect(f"ws://{address}/ws") as client:
        with pytest.raises(ConnectionClosed) as closed:
            await client.recv()
    assert closed.value.rcvd.code == code
    assert "hunter2" not in closed.value.rcvd.reason
    errors = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert len(errors) == (1 if code == 1011 else 0)


async def test_a_fault_before_the_handshake_is_a_problem(app, served):
    """A WebSocket endpoint that fails at once refuses with a bare 500."""

    @socket_route(app)
    async def endpoint(websocket: WebSocket):
        raise RuntimeError("the password is hunter2")

    async with served(app) as address:
        with pytest.raises(InvalidStatus) as refused:
            await connect(f"ws://{address}/ws")
    response = refused.value.response
    assert (response.status_code, response.headers["content-type"]) == (500, PROBLEM_JSON)
    assert b"hunter2" not in response.body


async def test_a_fault_after_the_close_is_only_logged(app, served, caplog):
    """What is closed is not closed again: the log has the fault itself and nothing about the closing."""
    failed = asyncio.Event()

    @socket_route(app)
    async def endpoint(websocket: WebSocket):
        await websocket.accept()
        await websocket.close()
        failed.set()
        raise RuntimeError

    async with served(app) as address:
        async with connect(f"ws://{address}/ws") as client:
            with pytest.raises(ConnectionClosed) as closed:
                await client.recv()
        await asyncio.wait_for(failed.wait(), 10)
    assert closed.value.rcvd.code == 1000
    assert len([record for record in caplog.records if record.levelno >= logging.ERROR]) == 1


async def test_an_invalid_websocket_request_is_a_problem(app, served):
    """Parameters are checked before the handshake."""

    @socket_route(app, "/ws/{interval}")
    async def endpoint(websocket: WebSocket, interval: int):
        await websocket.accept()

    async with served(app) as address:
        with pytest.raises(InvalidStatus) as refused:
            await connect(f"ws://{address}/ws/soon")
    assert refused.value.response.status_code == 422
    assert json.loads(refused.value.response.body)["errors"][0]["field"] == "path.interval"


async def test_a_client_that_leaves_is_no_fault(app, served, caplog):
    """Also when the endpoint hears of it inside a TaskGroup."""
    left = asyncio.Event()

    @socket_route(app)
    async def endpoint(websocket: WebSocket):
        await websocket.accept()
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(websocket.receive_text(), name="reader")
        except* WebSocketDisconnect:
            left.set()
            raise

    async with served(app) as address:
        async with connect(f"ws://{address}/ws"):
            pass
        await asyncio.wait_for(left.wait(), 10)
    assert [record for record in caplog.records if record.levelno >= logging.ERROR] == []
