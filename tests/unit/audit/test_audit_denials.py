"""Whom a rate limit has turned away is on the audit trail, and a flood of them does not fill it."""

from __future__ import annotations

import asyncio
import time
from contextlib import asynccontextmanager

import httpx
import pytest
from fastapi import APIRouter, WebSocket
from prometheus_client import CollectorRegistry

from market_data_core.clock import ManualClock
from market_data_core.web import create_service_app
from market_data_core.web.auth import ConfiguredKey, Role, guarded_route, require
from market_data_core.web.ratelimit import RateLimits, Rule, control_rules, guess_limited, limited
from market_data_orchestrator.audit.denials import OTHERS, WINDOW_S, Denials, record_denials

ANN, BOB = {"x-api-key": "key-of-ann-0123456789"}, {"x-api-key": "key-of-bob-0123456789"}
WRONG = {"x-api-key": "a-guess-0123456789"}


@pytest.fixture
def clock():
    """Says when a window is over; the limits' own windows go by the real time."""
    return ManualClock(1_700_000_000 * 10**9)


@pytest.fixture
def world(make, clock):
    """Makes a service with a rule of one action a minute, and a client of it at any address."""

    @asynccontextmanager
    async def running(**options):
        logger = make(clock=clock)
        denials = Denials(logger, clock=clock, **options)
        limits = RateLimits(
            None, [*control_rules(["pause", "resume"], max_per_minute=1), Rule(action="login", max_hits=1)]
        )
        doors = [
            ConfiguredKey(ANN["x-api-key"], name="ann", role=Role.OPERATOR),
            ConfiguredKey(BOB["x-api-key"], name="bob", role=Role.ADMIN),
        ]
        guess = guess_limited(require(Role.OPERATOR, authenticators=doors), limits)
        router = APIRouter(route_class=guarded_route(limited(guess, limits)))

        @router.post("/control/pause")
        @router.post("/control/resume")
        async def act() -> str:
            return "done"

        app = create_service_app(title="t", version="1", registry=CollectorRegistry())
        app.include_router(router)

        @app.websocket("/ws/market")
        async def market(socket: WebSocket) -> None:
            await guess(socket)

        record_denials(app, denials)
        app.state.logger = logger

        async def call(what="pause", headers=ANN, address="192.0.2.1"):
            transport = httpx.ASGITransport(app=app, client=(address, 1234))
            async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
                return (await client.post(f"/control/{what}", headers=headers)).status_code

        call.app, call.logger = app, logger
        async with denials.running():
            yield call

    return running


def told(logger):
    """The records, oldest first: action, actor, role, address, status code and how many more."""
    events = reversed(logger.read(limit=1000).events)
    return [
        (e["action"], e["actor"], e["role"], e["address"], e["data"]["status_code"], e["data"].get("more"))
        for e in events
        if e["actor"] != "audit"
    ]


async def eventually(claim):
    deadline_s = time.monotonic() + 10
    while not claim():
        assert time.monotonic() < deadline_s
        await asyncio.sleep(0.005)


async def test_denials_one_is_a_record(world):
    """Who asked for what, from where, that it was denied, and with which status."""
    async with world() as call:
        assert [await call(), await call()] == [200, 429]
        (event,) = [e for e in call.logger.read().events if e["actor"] != "audit"]
    assert (event["actor"], event["role"], event["action"], event["target"]) == (
        "ann",
        "operator",
        "pause",
        "/control/pause",
    )
    assert (event["decision"], event["address"]) == ("denied", "192.0.2.1")
    assert event["result"] == {"status": "denied", "detail": "Rate limit exceeded: max 1/pause/min"}
    assert event["data"] == {"status_code": 429, "limit": "1/pause/min"}


async def test_denials_that_follow_are_counted(world, clock):
    """Within a window there is one record however many come; when it is over there is one more, with their number."""
    async with world() as call:
        await call()
        statuses = await asyncio.gather(*(call() for _ in range(300)))
        assert set(statuses) == {429}
        assert told(call.logger) == [("pause", "ann", "operator", "192.0.2.1", 429, None)]
        clock.advance(WINDOW_S)
        await eventually(lambda: len(told(call.logger)) == 2)
        assert told(call.logger)[1] == ("pause", "ann", "operator", "192.0.2.1", 429, 299)
        assert "299 more in 60 s" in call.logger.read(limit=1).events[0]["result"]["detail"]
        # A window in which nothing more came says nothing more.
        await call()
        await eventually(lambda: clock._sleepers)
        clock.advance(WINDOW_S)
        await eventually(lambda: clock._sleepers)
        assert [record[5] for record in told(call.logger)] == [None, 299, None]


async def test_denials_of_each_actor_and_action_are_counted_apart(world):
    """One who asks often hides no other."""
    async with world() as call:
        for headers in (ANN, BOB):
            for what in ("pause", "resume"):
                assert [await call(what, headers) for _ in range(3)] == [200, 429, 429]
        assert [(r[0], r[1], r[5]) for r in told(call.logger)] == [
            ("pause", "ann", None),
            ("resume", "ann", None),
            ("pause", "bob", None),
            ("resume", "bob", None),
        ]


async def test_denials_that_are_counted_are_recorded_at_the_end(world):
    """The service stops, and nothing of what it counted is lost."""
    async with world() as call:
        for _ in range(4):
            await call()
    assert [(r[1], r[5]) for r in told(call.logger)] == [("ann", None), ("ann", 2)]


async def test_denials_of_guessers_are_recorded_by_address(world):
    """Under the name of the limit, whatever they guess at; a right key from there is turned away too, unnamed."""
    async with world() as call:
        assert await call(headers=WRONG) == 401
        for what in ("pause", "resume"):
            assert await call(what, WRONG) == 429
            assert await call(what, ANN) == 429
        assert await call(headers=ANN, address="192.0.2.2") == 200
    assert told(call.logger) == [
        ("login", "anonymous", "", "192.0.2.1", 429, None),
        ("login", "anonymous", "", "192.0.2.1", 429, 3),
    ]
    assert "a-guess" not in call.logger.path.read_text()
    assert "key-of-ann" not in call.logger.path.read_text()


async def test_denials_at_a_socket_are_recorded(world):
    """It is refused with the same answer, and stands in the same trail."""
    async with world() as call:
        assert await call(headers=WRONG) == 401
        said = []
        scope = {
            "type": "websocket", "path": "/ws/market", "raw_path": b"/ws/market", "query_string": b"",
            "headers": [(b"x-api-key", b"a-guess-0123456789")], "client": ("192.0.2.1", 1), "subprotocols": [],
            "extensions": {"websocket.http.response": {}},
        }  # fmt: skip

        async def receive():
            return {"type": "websocket.connect"}

        async def send(message):
            said.append(message)

        await call.app(scope, receive, send)
        assert said[0]["status"] == 429
    assert told(call.logger) == [("login", "anonymous", "", "192.0.2.1", 429, None)]
    assert call.logger.read(limit=1).events[0]["target"] == "/ws/market"


async def test_denials_of_very_many_are_told_together(world, clock):
    """A thousand addresses make no thousand records, and none of their denials goes uncounted."""
    async with world(max_apart=5) as call:
        for number in range(50):
            address = f"192.0.2.{number}"
            assert [await call(headers=WRONG, address=address) for _ in range(2)] == [401, 429]
        assert len(told(call.logger)) == 6
    assert told(call.logger)[-1] == ("login", OTHERS, "", "", 429, 44)


async def test_denials_stand_where_they_cannot_be_recorded(world, tmp_path):
    """The answer is the same; nothing is let through, and nothing fails."""
    async with world() as call:
        await call()
        (tmp_path / "audit.jsonl").unlink(missing_ok=True)
        (tmp_path / "audit.jsonl").mkdir()
        call.logger.required = True
        assert [await call() for _ in range(3)] == [429] * 3
        assert call.logger.lost == 1
