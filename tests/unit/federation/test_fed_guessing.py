"""Guessing keys at the routes of the federation."""

from __future__ import annotations

from fed_world import Node, served
from prometheus_client import CollectorRegistry, Counter

from market_data_core.web import create_service_app
from market_data_core.web.ratelimit import RateLimits, Rule
from market_data_orchestrator.federation import federation_routers


async def test_who_guesses_is_no_longer_listened_to():
    """Beyond the limit of wrong keys every route of the federation answers 429, also to a right key."""
    node = Node("a")
    registry = CollectorRegistry()
    failures = Counter("orchestrator_auth_failures", "t", ["reason"], registry=registry)
    limits = RateLimits(None, [Rule(action="login", max_hits=3)])
    app = create_service_app(title="a", version="1", registry=registry)
    for router in federation_routers(node.federation, node.directory, node.keys, failures=failures, limits=limits):
        app.include_router(router)
    async with served(app) as node.port, node.ask("a wrong key") as guessing, node.ask() as knowing:
        assert (await knowing.get("/federation/topology")).status_code == 200
        assert [(await guessing.get("/federation/list")).status_code for _ in range(4)] == [401] * 3 + [429]
        assert (await knowing.get("/federation/topology")).status_code == 429
        assert (await knowing.post("/federation/fanout", json={"path": "/status"})).status_code == 429
    await node.client.aclose()
