"""What the tests of the web kit share: clients, with and without a socket, and a scope to fill in."""

from __future__ import annotations

import asyncio
import socket
import time
from contextlib import asynccontextmanager

import httpx
import pytest
import uvicorn
from prometheus_client import CollectorRegistry

from market_data_core.web import create_service_app
from market_data_core.web.gathering import GatheringProtocol

DEADLINE_S = 10.0


@pytest.fixture
def registry():
    """A registry of its own for each test."""
    return CollectorRegistry()


@pytest.fixture
def app(registry):
    """A service without routes of its own."""
    return create_service_app(title="test", version="1.2.3", registry=registry)


@pytest.fixture
def client_of():
    """A client that talks to an app without a socket; an error the app lets out fails the test."""

    def make(app, **options):
        return httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://test", **options)

    return make


@pytest.fixture
def served():
    """Serves an app with uvicorn on a free loopback port, giving ``host:port``."""

    @asynccontextmanager
    async def serve(app):
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            config = uvicorn.Config(
                app, http=GatheringProtocol, ws="websockets-sansio", lifespan="on", log_config=None, access_log=False
            )
            server = uvicorn.Server(config)
            task = asyncio.create_task(server.serve(sockets=[listener]), name="served")
            deadline = time.monotonic() + DEADLINE_S
            while not server.started:
                assert time.monotonic() < deadline, "uvicorn did not start"
                assert not task.done(), "uvicorn stopped at once"
                await asyncio.sleep(0.005)
            try:
                yield f"127.0.0.1:{listener.getsockname()[1]}"
            finally:
                server.should_exit = True
                await asyncio.wait_for(task, DEADLINE_S)

    return serve


@pytest.fixture
def scope_of():
    """Builds an ASGI scope from header pairs."""

    def make(*headers, kind="http", **rest):
        base = {"type": kind, "path": "/x", "method": "GET", "headers": list(headers), "query_string": b""}
        return base | {"scheme": "ws" if kind == "websocket" else "http"} | rest

    return make
