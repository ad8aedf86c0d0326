"""Every route and socket has a policy, and keeps it."""

from __future__ import annotations

import asyncio
import re

import httpx
import pytest
from fastapi.routing import iter_route_contexts
from starlette.routing import WebSocketRoute

from market_data_core.web.auth import KeyStore, Role
from market_data_orchestrator.app import create_app
from market_data_orchestrator.container import ServiceContainer
from market_data_orchestrator.settings import OrchestratorSettings

PUBLIC = {
    ("GET", "/health"),
    ("GET", "/livez"),
    ("GET", "/readyz"),
    ("GET", "/status"),
    ("GET", "/metrics"),
    ("GET", "/ui"),
    ("GET", "/ui/{name:path}"),
    ("GET", "/docs"),
    ("GET", "/redoc"),
    ("GET", "/openapi.json"),
    ("GET", "/auth/login"),  # what is shown there is what lets in
    ("GET", "/auth/callback"),
    ("GET", "/auth/logged-out"),
    ("WS", "/ws/status"),
}
"""What needs no caller to be known. Nothing secret is behind any of it."""

LEAST = {
    ("GET", "/auth/me"): Role.VIEWER,
    ("GET", "/auth/ping"): Role.VIEWER,
    ("POST", "/auth/logout"): Role.VIEWER,
    ("POST", "/auth/ws-ticket"): Role.VIEWER,
    ("GET", "/audit/events"): Role.VIEWER,
    ("GET", "/audit/verify"): Role.ADMIN,
    ("GET", "/control/status"): Role.VIEWER,
    ("POST", "/control/pause"): Role.OPERATOR,
    ("POST", "/control/resume"): Role.OPERATOR,
    ("POST", "/control/reload"): Role.ADMIN,
    ("GET", "/federation/topology"): Role.VIEWER,
    ("GET", "/federation/list"): Role.VIEWER,
    ("POST", "/federation/forward/{peer}"): Role.ADMIN,
    ("POST", "/federation/fanout"): Role.ADMIN,
    ("GET", "/runtime/ingest/status"): Role.OPERATOR,
    ("POST", "/runtime/ingest/start"): Role.OPERATOR,
    ("POST", "/runtime/ingest/stop"): Role.OPERATOR,
    ("POST", "/runtime/ingest/reload"): Role.OPERATOR,
    ("GET", "/plan"): Role.VIEWER,
    ("GET", "/bars"): Role.VIEWER,
    ("GET", "/instruments"): Role.VIEWER,
    ("GET", "/gaps"): Role.VIEWER,
    ("GET", "/coverage"): Role.VIEWER,
    ("GET", "/quarantine"): Role.VIEWER,
    ("GET", "/budgets"): Role.VIEWER,
    ("POST", "/query"): Role.VIEWER,
    ("POST", "/backfill"): Role.OPERATOR,
    ("WS", "/ws/market"): Role.VIEWER,
}
"""The least role of everything else."""

CALLERS = [None, *Role]


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    """The real parts; the service stands still, so that whoever is let in changes nothing."""
    folder = tmp_path_factory.mktemp("policies")
    settings = OrchestratorSettings(
        _env_file=None,
        data_dir=folder / "data",
        audit_log_path=folder / "audit.jsonl",
        rate_limit_enabled=False,
        workers="thread",
    )
    return ServiceContainer(settings)


@pytest.fixture(scope="module")
def app(parts):
    return create_app(parts)


@pytest.fixture(scope="module")
def headers(parts):
    """By role, what a caller of that role sends."""
    store = KeyStore(parts.settings.data_path / "api-keys.jsonl")
    sent = {role: {"X-API-Key": store.add(f"some-{role}", role)} for role in Role}
    parts.keys.open()
    return {None: {}, **sent}


@pytest.fixture(scope="module")
def doors(app):
    """Every method and path that is served, sockets as WS; those that other routes answer by themselves left out."""
    found = set()
    for context in iter_route_contexts(app.routes):
        assert context.path_format is not None, f"{context.route} is no plain route: teach this walk about it"
        path = getattr(context.route, "path", None) or context.path_format
        if isinstance(context.route, WebSocketRoute) or not context.methods:
            found.add(("WS", context.path_format))
        else:
            found |= {(method, path) for method in context.methods if method != "HEAD"}
    return found


def test_every_door_has_a_policy(doors):
    """Whoever adds a route says here who may use it; nothing is both open and guarded."""
    assert doors - PUBLIC - LEAST.keys() == set()
    assert PUBLIC & LEAST.keys() == set()
    # The walk sees what is served: without this, one that finds nothing would be content with everything.
    assert {("POST", "/control/reload"), ("GET", "/auth/login"), ("WS", "/ws/status"), ("GET", "/metrics")} <= doors


@pytest.mark.parametrize("caller", CALLERS, ids=lambda role: str(role or "nobody"))
async def test_every_route_keeps_its_policy(app, doors, headers, caller):
    """Who cannot be told is answered 401, who may not 403, anybody else neither."""
    transport = httpx.ASGITransport(app=app, raise_app_exceptions=False)
    wrong = []
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
        for method, path in sorted(doors):
            if method == "WS":
                continue
            needed = LEAST.get((method, path))
            url = re.sub(r"\{[^}]*\}", "x", path)
            status = (await client.request(method, url, headers=headers[caller])).status_code
            if needed is None or (caller is not None and caller.covers(needed)):
                kept = status not in (401, 403)
            else:
                kept = status == (401 if caller is None else 403)
            if not kept:
                wrong.append((method, path, status))
    assert wrong == []


@pytest.mark.parametrize("caller", CALLERS, ids=lambda role: str(role or "nobody"))
async def test_every_socket_keeps_its_policy(app, doors, headers, caller):
    """Who may not is refused, before the socket opens or with a code that says so; who may is not."""
    for path in sorted(path for method, path in doors if method == "WS"):
        needed = LEAST.get(("WS", path))
        may = needed is None or (caller is not None and caller.covers(needed))
        assert await refused(app, path, headers[caller]) is not may, path


async def refused(app, path, headers):
    """Open a socket, leave it as soon as it answers, and tell whether it was refused."""
    answered, said = asyncio.Event(), []
    given = {"host": "127.0.0.1", **headers}
    scope = {
        "type": "websocket",
        "scheme": "ws",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "headers": [(name.lower().encode(), value.encode()) for name, value in given.items()],
        "client": ("127.0.0.1", 50000),
        "server": ("127.0.0.1", 80),
        "subprotocols": [],
        "extensions": {"websocket.http.response": {}},
    }
    coming = iter([{"type": "websocket.connect"}])

    async def receive():
        for message in coming:
            return message
        await answered.wait()
        return {"type": "websocket.disconnect", "code": 1000}

    async def send(message):
        said.append(message)
        answered.set()

    async with asyncio.timeout(10):
        await app(scope, receive, send)
    return any(m.get("status") in (401, 403) or m.get("code") in (1008, 4401, 4403) for m in said)


async def test_a_socket_of_a_foreign_page_is_refused(app):
    """A browser says which page opens the socket; one of another origin gets none, nor one that names another host."""
    assert await refused(app, "/ws/status", {"origin": "https://evil.example"})
    assert await refused(app, "/ws/status", {"host": "evil.example"})
    assert not await refused(app, "/ws/status", {"origin": "http://127.0.0.1"})
