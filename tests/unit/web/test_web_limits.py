"""How large a request may be."""

from __future__ import annotations

import pytest
from starlette.requests import Request

from market_data_core.web import PROBLEM_JSON, create_service_app

MAX_BYTES = 1000


@pytest.fixture
def limited(registry):
    app = create_service_app(title="t", version="1", registry=registry, max_body_bytes=MAX_BYTES)
    app.state.read = 0

    @app.post("/raw")
    async def raw(request: Request):
        async for chunk in request.stream():
            app.state.read += len(chunk)
        return app.state.read

    @app.post("/json")
    async def parsed(body: dict[str, str]):
        return len(body)

    @app.post("/blind")
    async def blind():
        return "read nothing"

    return app


async def chunks(count, size):
    for _ in range(count):
        yield b"x" * size


@pytest.mark.parametrize("path", ["/raw", "/json", "/blind", "/no/such"])
async def test_a_declared_body_over_the_limit_is_refused_unread(path, limited, client_of):
    """Status 413 as a problem with all headers, whoever would have read it."""
    async with client_of(limited) as client:
        response = await client.post(path, content=b"x" * (MAX_BYTES + 1))
    assert (response.status_code, response.headers["content-type"]) == (413, PROBLEM_JSON)
    assert str(MAX_BYTES) in response.json()["detail"]
    assert response.headers["x-request-id"] == response.json()["request_id"]
    assert response.headers["x-content-type-options"] == "nosniff"
    assert limited.state.read == 0


@pytest.mark.parametrize("path", ["/raw", "/json"])
async def test_a_body_of_unknown_length_is_refused_at_the_limit(path, limited, client_of):
    """Chunked bodies are counted as they come and never read beyond the limit."""
    async with client_of(limited) as client:
        headers = {"content-type": "application/json"}
        response = await client.post(path, content=chunks(1000, 100), headers=headers)
    assert (response.status_code, response.headers["content-type"]) == (413, PROBLEM_JSON)
    assert limited.state.read <= MAX_BYTES


@pytest.mark.parametrize("body", [b"x" * MAX_BYTES, chunks(10, MAX_BYTES // 10)], ids=["declared", "chunked"])
async def test_a_body_of_the_limit_passes(body, limited, client_of):
    """The limit itself is allowed."""
    async with client_of(limited) as client:
        response = await client.post("/raw", content=body)
    assert (response.status_code, response.json()) == (200, MAX_BYTES)


@pytest.mark.parametrize("length", ["-1", "1_0", "+5", "ten", "\xb2"])
async def test_a_length_that_is_no_number_does_not_open_the_gate(length, limited, client_of):
    """Such a body is counted instead."""
    async with client_of(limited) as client:
        headers = {"content-length": length.encode("latin-1")}
        response = await client.post("/raw", content=chunks(20, 100), headers=headers)
    assert response.status_code == 413
