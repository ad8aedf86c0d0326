"""The directory that is fed by heartbeats, behind its setting."""

from __future__ import annotations

import asyncio
import time

from kit_world import ADMIN, DEADLINE_S, container_in, running

from market_data_orchestrator.federation import ThisNode
from market_data_orchestrator.federation.heartbeat import HeartbeatDirectory

KEY = {"X-API-Key": ADMIN}


async def nodes(client):
    answer = await client.get("/federation/topology", headers=KEY)
    assert answer.status_code == 200, answer.text
    return {node["node_id"]["value"]: node["health"] for node in answer.json()["nodes"]}


async def eventually(client, expected):
    deadline_s = time.monotonic() + DEADLINE_S
    while (found := await nodes(client)) != expected:
        assert time.monotonic() < deadline_s, found
        await asyncio.sleep(0.05)


async def test_nodes_are_known_by_their_heartbeats(tmp_path, redis_url):
    """A peer that beats is healthy, one that stops is not; ours is seen by others; only configured peers are called."""
    container = container_in(
        tmp_path, federation_directory=redis_url, federation_peers=["eu=http://127.0.0.1:9"], node_id="us"
    )
    async with (
        running(container) as client,
        HeartbeatDirectory([], url=redis_url, node=ThisNode(node_id="eu"), interval_s=0.1) as eu,
    ):
        await eventually(client, {"us": "healthy", "eu": "unhealthy"})
        beating = asyncio.create_task(eu.run())
        await eventually(client, {"us": "healthy", "eu": "healthy"})
        seen = {node.node_id.value: node.health for node in (await eu.topology()).nodes}
        assert seen == {"eu": "healthy", "us": "healthy"}
        beating.cancel()
        await eventually(client, {"us": "healthy", "eu": "unhealthy"})
        assert (await client.get("/federation/list", headers=KEY)).json() == {"peers": ["eu"]}


async def test_without_redis_the_service_runs(tmp_path):
    """The topology is unavailable then, and says so; nothing else is touched."""
    container = container_in(tmp_path, federation_directory="redis://127.0.0.1:1/0")
    async with running(container) as client:
        assert (await client.get("/federation/topology", headers=KEY)).status_code == 503
        assert (await client.get("/control/status", headers=KEY)).status_code == 200
    assert container.lifecycle.states["federation"] == "stopped"
