"""The audit trail over HTTP and at the command line."""

from __future__ import annotations

import asyncio
import json

import httpx
import pytest
import typer
from fastapi import APIRouter, FastAPI, Request
from prometheus_client import CollectorRegistry
from starlette.exceptions import HTTPException

from market_data_core.errors import PipelineError
from market_data_core.web import create_service_app
from market_data_core.web.auth import ConfiguredKey, Role, guarded_route
from market_data_orchestrator.audit.routes import audit_router
from market_data_orchestrator.audit.trail import audited, audited_gate
from market_data_orchestrator.cli import audit_verify

KEYS = {role: f"{role}-key-0123456789" for role in Role}


@pytest.fixture
def doors():
    return [ConfiguredKey(key, name=f"{role}-ann", role=role) for role, key in KEYS.items()]


def app_of(logger, doors) -> FastAPI:
    app = create_service_app(title="t", version="1", registry=CollectorRegistry(), routes=[])
    gate = audited_gate(logger, Role.OPERATOR, authenticators=doors)
    router = APIRouter(route_class=guarded_route(gate))
    app.state.done = []

    @router.post("/control/{what}/{name}")
    async def act(request: Request, what: str, name: str) -> dict[str, str]:
        async with audited(logger, request, action=what, target=name) as trail:
            app.state.done.append(what)
            trail.detail = "done"
            if what == "fail":
                raise PipelineError("it broke with operator-key-0123456789")
            if what == "limited":
                raise HTTPException(429, "too often")
            if what == "half":
                trail.failed = True
        return {"status": "ok"}

    for one in (router, *audit_router(logger, *doors)):
        app.include_router(one)
    return app


@pytest.fixture
async def client(make, doors, tmp_path):
    logger = make()
    transport = httpx.ASGITransport(app_of(logger, doors), raise_app_exceptions=False, client=("10.1.2.3", 999))
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
        client.logger = logger
        yield client


def key(role):
    return {"X-API-Key": KEYS[role]}


@pytest.mark.parametrize(
    ("what", "answer", "status", "decision", "detail"),
    [
        ("pause", 200, "ok", "allowed", "done"),
        ("half", 200, "error", "allowed", "done"),
        ("fail", 500, "error", "allowed", "PipelineError: it broke with [redacted]"),
        ("limited", 429, "denied", "denied", "too often"),
    ],
)
async def test_audit_actions_are_recorded_with_their_outcome(  # noqa: PLR0917  a table
    client, what, answer, status, decision, detail
):
    """Who, from where, under which request, what came of it and how long it took."""
    response = await client.post(f"/control/{what}/x", headers=key(Role.OPERATOR) | {"X-Request-ID": "r-1"})
    assert response.status_code == answer
    (event,) = client.logger.read(action=what).events
    assert (event["actor"], event["role"], event["target"]) == ("operator-ann", "operator", "x")
    assert (event["address"], event["request_id"], event["decision"]) == ("10.1.2.3", "r-1", decision)
    assert event["result"] == {"status": status, "detail": detail}
    assert event["duration_s"] >= 0


async def test_audit_denied_attempts_are_recorded(client):
    """One without a key, one with a wrong one, one whose role does not do: named as far as they are known."""
    assert (await client.post("/control/pause/x")).status_code == 401
    assert (await client.post("/control/pause/x", headers={"X-API-Key": "wrong-key-0123456789"})).status_code == 401
    assert (await client.post("/control/pause/x", headers=key(Role.VIEWER))).status_code == 403
    forbidden, wrong, missing = client.logger.read(limit=3).events
    assert [e["decision"] for e in (forbidden, wrong, missing)] == ["denied"] * 3
    assert [e["actor"] for e in (forbidden, wrong, missing)] == ["viewer-ann", "anonymous", "anonymous"]
    assert forbidden["target"] == "/control/pause/x"
    assert "wrong-key" not in client.logger.path.read_text()


async def test_audit_events_are_paged_for_viewers(client):
    """Viewers page through the events and filter them; nobody else sees them."""
    for _ in range(5):
        await client.post("/control/pause/x", headers=key(Role.OPERATOR))
    assert (await client.get("/audit/events")).status_code == 401
    pages, cursor = [], None
    while True:
        query = {"limit": 2, "action": "pause"} | ({} if cursor is None else {"cursor": cursor})
        page = (await client.get("/audit/events", params=query, headers=key(Role.VIEWER))).json()
        pages += page["events"]
        cursor = page["next_cursor"]
        if cursor is None:
            break
    assert len(pages) == 5
    assert pages == sorted(pages, key=lambda e: -e["seq"])
    none = await client.get("/audit/events", params={"since": pages[0]["ts"] + 60}, headers=key(Role.VIEWER))
    assert none.json() == {"events": [], "next_cursor": None}
    assert (await client.get("/audit/events?limit=0", headers=key(Role.VIEWER))).status_code == 422


async def test_audit_verdict_is_for_admins(client):
    """Admins get the verdict, which names the first bad record; viewers do not."""
    await client.post("/control/pause/x", headers=key(Role.OPERATOR))
    assert (await client.get("/audit/verify", headers=key(Role.VIEWER))).status_code == 403
    verdict = (await client.get("/audit/verify", headers=key(Role.ADMIN))).json()
    assert verdict["ok"]
    assert verdict["bad"] is None
    path = client.logger.path
    path.write_bytes(path.read_bytes().replace(b"operator-ann", b"operator-bob"))
    verdict = (await client.get("/audit/verify", headers=key(Role.ADMIN))).json()
    assert not verdict["ok"]
    assert verdict["bad"]["seq"] == 1


async def test_audit_required_does_nothing_unrecorded(make, doors, tmp_path):
    """Where records are required, an action begins on the record, and is refused when it cannot."""
    logger = make(required=True)
    app = app_of(logger, doors)
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
        assert (await client.post("/control/pause/x", headers=key(Role.ADMIN))).status_code == 200
        done, begun = logger.read(action="pause").events
        assert [begun["result"]["status"], done["result"]["status"]] == ["begun", "ok"]
        logger.close()
        holder = make()
        holder.record(action="resume", actor="other", role="admin")
        refused = await client.post("/control/reload/x", headers=key(Role.ADMIN))
        assert refused.status_code == 503
        assert app.state.done == ["pause"]
        assert (await client.post("/control/reload/x")).status_code == 401


async def test_audit_action_that_is_cancelled_is_recorded(make):
    """An action cut off in the middle leaves a record that says so."""
    logger = make()
    request = Request({"type": "http", "headers": [], "path": "/", "client": None})
    begun = asyncio.Event()

    async def act():
        async with audited(logger, request, action="backfill"):
            begun.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(act())
    await begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert logger.read(action="backfill").events[0]["result"]["status"] == "cancelled"


def command(capsys, *arguments):
    """Run the command alone; return its exit code and output."""
    app = typer.Typer(result_callback=lambda code: code)
    app.command("verify")(audit_verify.verify)
    code = app(args=list(arguments), standalone_mode=False)
    return code, capsys.readouterr().out


def test_audit_verify_command_names_the_first_bad_record(make, tmp_path, capsys):
    """The exit code is 0 for a whole trail and 1 for a changed one, with file, line and record; offline."""
    data, path = tmp_path, tmp_path / "audit.jsonl"
    logger = make(keys_path=tmp_path / "audit-keys.jsonl")
    logger.record(action="pause", actor="ann", role="operator")
    logger.close()
    where = ["--data-dir", str(data), "--audit-log", str(path)]
    code, said = command(capsys, "--json", *where)
    assert code == 0
    assert json.loads(said)["compared"]
    path.write_bytes(path.read_bytes().replace(b'"ann"', b'"bob"'))
    code, said = command(capsys, *where)
    assert code == 1
    assert f"{path}:2: record 1: its content does not have its hash" in said


def test_audit_rotate_key_command_adds_a_key(tmp_path, capsys):
    """Each call adds a key; the newest signs."""
    assert audit_verify.rotate_key(tmp_path) == audit_verify.rotate_key(tmp_path) == 0
    assert "2 keys" in capsys.readouterr().out
    assert (tmp_path / "audit-keys.jsonl").stat().st_mode & 0o777 == 0o600
