"""Routes behind gates that look at how often a caller came."""

from __future__ import annotations

import httpx
import pytest
from fastapi import APIRouter
from prometheus_client import CollectorRegistry
from starlette.requests import HTTPConnection

from market_data_core.web import PROBLEM_JSON, create_service_app
from market_data_core.web.auth import ConfiguredKey, Role, guarded_route, require
from market_data_core.web.ratelimit import Rule, control_rules, guess_limited, limited
from market_data_core.web.ratelimit.gates import address_of


@pytest.fixture
async def client_from(limits_of):
    """Makes clients of one service, each at an address of its own."""
    limits = limits_of(None, [*control_rules(["pause"], max_per_minute=5), Rule(action="login", max_hits=3)])
    keys = [ConfiguredKey("key-a", name="alice"), ConfiguredKey("key-b", name="bob")]
    gate = guess_limited(require(Role.VIEWER, authenticators=keys), limits)
    router = APIRouter(route_class=guarded_route(limited(gate, limits)))

    @router.post("/control/pause")
    async def pause() -> str:
        return "paused"

    @router.get("/control/status")
    async def status() -> str:
        return "running"

    app = create_service_app(title="t", version="1", registry=CollectorRegistry())
    app.include_router(router)

    def make(address="192.0.2.1"):
        transport = httpx.ASGITransport(app=app, client=(address, 1234))
        return httpx.AsyncClient(transport=transport, base_url="http://test")

    return make


async def test_the_sixth_pause_in_a_minute_is_answered_429(client_from):
    """As a problem, with when to come again; others, and what has no rule, go on."""
    async with client_from() as client:
        alice, bob = {"x-api-key": "key-a"}, {"x-api-key": "key-b"}
        for _ in range(5):
            assert (await client.post("/control/pause", headers=alice)).status_code == 200
        answer = await client.post("/control/pause", headers=alice)
        assert (answer.status_code, answer.headers["content-type"]) == (429, PROBLEM_JSON)
        assert answer.json()["detail"] == "Rate limit exceeded: max 5/pause/min"
        assert 55 <= int(answer.headers["retry-after"]) <= 60
        assert answer.headers["ratelimit-policy"] == '"pause";q=5;w=60'
        assert answer.headers["ratelimit"].startswith('"pause";r=0;t=')
        assert (await client.post("/control/pause", headers=bob)).status_code == 200
        for _ in range(10):
            assert (await client.get("/control/status", headers=alice)).status_code == 200


async def test_who_guesses_is_no_longer_listened_to(client_from):
    """Not even with a right key; at another address nothing has changed."""
    async with client_from() as client, client_from("192.0.2.2") as other:
        for number in range(3):
            answer = await client.get("/control/status", headers={"x-api-key": f"guess-{number}"})
            assert answer.status_code == 401
        answer = await client.get("/control/status", headers={"authorization": "Bearer key-a"})
        assert (answer.status_code, answer.json()["detail"]) == (429, "Rate limit exceeded: max 3/login/min")
        assert (await other.get("/control/status", headers={"x-api-key": "key-a"})).status_code == 200


async def test_who_sends_nothing_does_not_guess(client_from):
    """A page that asks before its login locks nobody out."""
    async with client_from() as client:
        for _ in range(10):
            assert (await client.get("/control/status")).status_code == 401
        assert (await client.get("/control/status", headers={"x-api-key": "key-a"})).status_code == 200


@pytest.mark.parametrize(
    ("host", "counted"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::"),
        ("testclient", "testclient"),
        (None, ""),
    ],
)
def test_failures_are_counted_by_subscriber(host, counted):
    """Of IPv6 the network, since each subscriber has 2**64 addresses."""
    scope = {"type": "http", "headers": [], "client": None if host is None else (host, 1)}
    assert address_of(HTTPConnection(scope)) == counted
