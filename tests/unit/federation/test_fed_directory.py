from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

import pytest
from fed_world import Node, free_port, raw_server, until

from market_data_core.clock import NS_PER_SECOND, ManualClock, SystemClock
from market_data_core.errors import ConfigurationError, TemporaryUnavailable
from market_data_core.federation import ClusterTopology, NodeRole
from market_data_core.protocols import FederationDirectory
from market_data_orchestrator.federation import ThisNode
from market_data_orchestrator.federation.heartbeat import HeartbeatDirectory
from market_data_orchestrator.services.federation_directory import StaticDirectory

HERE = ThisNode(node_id="here", cluster_id="c1", region="eu", version="9.9", health=lambda: "degraded")


class ByAsking:
    """Peers that are servers, and a directory that asks them."""

    def __init__(self):
        self.stack = AsyncExitStack()
        self.ports = {name: free_port() for name in ("b", "c")}
        self.peers = [f"{name}=http://127.0.0.1:{port}" for name, port in self.ports.items()]
        self.lives = {}

    async def directory(self):
        return await self.stack.enter_async_context(StaticDirectory(self.peers, node=HERE, fresh_s=0.0, timeout_s=1.0))

    async def begin(self, name, *, state="healthy", version="1.2.3"):
        life = self.lives[name] = AsyncExitStack()
        await life.enter_async_context(Node(name, state=state, version=version).running(self.ports[name]))

    async def end(self, name):
        await self.lives.pop(name).aclose()


class ByHeartbeat:
    """Peers that say over Redis how they are, and a directory that listens."""

    def __init__(self, redis_server):
        self.stack = AsyncExitStack()
        self.url = redis_server.url
        self.peers = ["b=http://127.0.0.1:1", "c=http://127.0.0.1:2"]
        self.lives = {}

    def of(self, node, peers=()):
        return HeartbeatDirectory(peers, url=self.url, node=node, interval_s=0.05, ttl_s=1.0)

    async def directory(self):
        return await self.stack.enter_async_context(self.of(HERE, self.peers))

    async def begin(self, name, *, state="healthy", version="1.2.3"):
        node = ThisNode(node_id=name, cluster_id="c1", version=version, health=lambda: state)
        life = self.lives[name] = AsyncExitStack()
        beating = await life.enter_async_context(self.of(node))
        await beating.beat()
        task = asyncio.create_task(beating.run(), name=f"heart of {name}")

        async def stop():
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

        life.push_async_callback(stop)

    async def end(self, name):
        await self.lives.pop(name).aclose()


@pytest.fixture(params=["static", "heartbeat"])
async def world(request):
    """The same two configured peers, known by either directory."""
    made = ByAsking() if request.param == "static" else ByHeartbeat(request.getfixturevalue("redis_server"))
    async with made.stack:
        yield made
        for name in list(made.lives):
            await made.end(name)


async def become(directory, name, health):
    """Wait until a node is in that state; gives it."""
    found = []

    async def look():
        topology = await directory.topology()
        found[:] = [n for n in topology.nodes if n.node_id.value == name and n.health == health]

    async with asyncio.timeout(5):
        while not found:
            await look()
    return found[0]


async def test_it_is_a_directory(world):
    """It offers what the protocol asks for."""
    assert isinstance(await world.directory(), FederationDirectory)


async def test_endpoints_are_the_configured_ones(world):
    """Names and base URLs, in the order of the configuration."""
    endpoints = await (await world.directory()).endpoints()
    assert [f"{name}={url}" for name, url in endpoints.items()] == world.peers


async def test_this_node_comes_first(world):
    """The answering node stands before its peers, with its own health and version, in its cluster."""
    topology = await (await world.directory()).topology()
    assert (topology.cluster_id.value, topology.region.name) == ("c1", "eu")
    first = topology.nodes[0]
    assert (first.node_id.value, first.health, first.version, first.role) == ("here", "degraded", "9.9", "orchestrator")
    assert [n.node_id.value for n in topology.nodes] == ["here", "b", "c"]
    assert ClusterTopology.model_validate_json(topology.model_dump_json()) == topology


async def test_peers_are_as_they_say(world):
    """A live peer has the health and version it tells, and was seen just now."""
    directory = await world.directory()
    await world.begin("b", state="degraded", version="4.5.6")
    await world.begin("c")
    began_s = SystemClock().now_ns() / NS_PER_SECOND
    b, c = (await directory.topology()).nodes[1:]
    assert (b.health, b.version, b.role) == ("degraded", "4.5.6", NodeRole.ORCHESTRATOR)
    assert (c.health, c.version) == ("healthy", "1.2.3")
    assert abs(b.last_seen_ts - began_s) < 5


async def test_a_peer_never_seen_is_unhealthy(world):
    """A configured peer that was never there is listed all the same, last seen at 0."""
    b = (await (await world.directory()).topology()).nodes[1]
    assert (b.health, b.version, b.last_seen_ts) == ("unhealthy", "unknown", 0.0)


async def test_a_peer_that_dies_keeps_what_was_known(world):
    """One peer killed in the middle becomes unhealthy with its last_seen, the other stays, and it comes back."""
    directory = await world.directory()
    await world.begin("b", version="4.5.6")
    await world.begin("c")
    alive = await become(directory, "b", "healthy")
    await world.end("b")
    dead = await become(directory, "b", "unhealthy")
    assert dead.version == "4.5.6"
    assert dead.last_seen_ts >= alive.last_seen_ts > 0
    again = (await directory.topology()).nodes
    assert again[1].last_seen_ts == dead.last_seen_ts
    assert again[2].health == "healthy"
    await world.begin("b", version="4.5.7")
    assert (await become(directory, "b", "healthy")).version == "4.5.7"


async def test_entries_that_are_none_are_named(world):
    """A wrong entry, or this node's own name, is a ConfigurationError that names it."""
    kind = type(await world.directory())
    more = {"url": "redis://127.0.0.1:1"} if kind is HeartbeatDirectory else {}
    for entry in ("b=ftp://h", "here=http://h"):
        with pytest.raises(ConfigurationError, match=entry):
            kind([entry], node=HERE, **more)


async def test_an_unhealthy_peer_that_answers_is_seen():
    """503 with a health in it is an answer: unhealthy, seen now, its version known."""
    async with Node("b", state="unhealthy").running() as b, StaticDirectory([b.peer]) as directory:
        node = (await directory.topology()).nodes[1]
        assert (node.health, node.version) == ("unhealthy", "1.2.3")
        assert node.last_seen_ts > 0


async def test_slow_and_garbled_peers_cost_one_deadline():
    """Peers are asked in parallel: silent ones and liars are unhealthy after one deadline, the good one is well."""
    lie = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}"
    async with AsyncExitStack() as stack:
        good = await stack.enter_async_context(Node("good").running())
        ports = {
            name: (await stack.enter_async_context(raw_server(answer)))[0]
            for name, answer in {"s1": None, "s2": None, "s3": None, "noise": b"\xff\x00\r\n\r\n", "liar": lie}.items()
        }
        peers = [good.peer, *(f"{name}=http://127.0.0.1:{port}" for name, port in ports.items())]
        directory = await stack.enter_async_context(StaticDirectory(peers, timeout_s=1.0))
        async with asyncio.timeout(2.5):
            nodes = (await directory.topology()).nodes[1:]
        assert {n.node_id.value: n.health for n in nodes} == {"good": "healthy"} | dict.fromkeys(ports, "unhealthy")


async def test_answers_hold_for_a_few_seconds_and_are_shared():
    """Many who ask at once cause one request; it is asked again once the answer is old."""
    clock = ManualClock(NS_PER_SECOND)
    async with Node("b").running() as b, StaticDirectory([b.peer], clock=clock, fresh_s=3.0) as directory:
        await asyncio.gather(*(directory.topology() for _ in range(20)))
        assert b.healths == 1
        clock.advance(2.9)
        await directory.topology()
        assert b.healths == 1
        clock.advance(0.2)
        await directory.topology()
        assert b.healths == 2


@pytest.mark.parametrize(("service", "role"), [("ingest", "pipeline"), ("store", "store"), ("other", "orchestrator")])
async def test_the_role_is_by_the_service(service, role):
    """What a peer calls itself says what it does."""
    node = Node("b")
    node.service = service
    async with node.running(), StaticDirectory([node.peer]) as directory:
        assert (await directory.topology()).nodes[1].role == role


async def test_topology_over_http():
    """Viewers see the topology and the names; the list says it is deprecated; nobody else sees either."""
    async with Node("b").running() as b, Node("a", peers=[b.peer]).running() as a:
        async with a.ask("a viewer's key") as client:
            nodes = (await client.get("/federation/topology")).json()["nodes"]
            assert [(n["node_id"], n["health"]) for n in nodes] == [
                ({"value": "a"}, "healthy"),
                ({"value": "b"}, "healthy"),
            ]
            listed = await client.get("/federation/list")
            assert listed.json() == {"peers": ["b"]}
            assert listed.headers["deprecation"].startswith("@")
            assert "/federation/topology" in listed.headers["link"]
        async with a.ask("no key") as client:
            assert (await client.get("/federation/topology")).status_code == 401
            assert (await client.get("/federation/list")).status_code == 401
        assert a.count(target="b", action="health", status="ok") == 1


async def test_nodes_nobody_configured_are_seen_and_not_called(redis_server):
    """A node known by its heartbeat alone is in the topology; only configured peers have endpoints."""
    world = ByHeartbeat(redis_server)
    async with world.stack:
        directory = await world.directory()
        await world.begin("stranger")
        names = [n.node_id.value for n in (await directory.topology()).nodes]
        await world.end("stranger")
        assert names == ["here", "b", "c", "stranger"]
        assert list(await directory.endpoints()) == ["b", "c"]


async def test_bad_heartbeats_hide_no_others(redis_server):
    """An entry that is none, or that speaks for another node, is passed over."""
    world = ByHeartbeat(redis_server)
    async with world.stack:
        directory = await world.directory()
        await world.begin("c")
        key = "market_data:federation:c1:nodes"
        said = await directory._redis.hget(key, "c")
        await directory._redis.hset(key, mapping={"b": b"\xff{", "d": said})
        health = {n.node_id.value: n.health for n in (await directory.topology()).nodes}
        await world.end("c")
        assert health == {"here": "degraded", "b": "unhealthy", "c": "healthy"}


async def test_a_cluster_does_not_see_another(redis_server):
    """Nodes of another cluster on the same Redis are not listed."""
    world = ByHeartbeat(redis_server)
    async with world.stack:
        other = await world.stack.enter_async_context(world.of(ThisNode(node_id="x", cluster_id="c2")))
        await other.beat()
        directory = await world.directory()
        assert [n.node_id.value for n in (await directory.topology()).nodes] == ["here", "b", "c"]


async def test_without_redis_nothing_is_made_up(redis_server, caplog):
    """While Redis is away the topology is an error, and the heart goes on beating."""
    clock = ManualClock(NS_PER_SECOND)
    async with HeartbeatDirectory(["b=http://h"], url=redis_server.url, node=HERE, clock=clock) as directory:
        await directory.beat()
        redis_server.kill()
        with pytest.raises(TemporaryUnavailable, match=str(redis_server.port)):
            await directory.topology()
        beating = asyncio.create_task(directory.run())
        await until(lambda: "no heartbeat" in caplog.text, "the missing heartbeat was not logged")
        assert not beating.done()
        beating.cancel()
        await asyncio.gather(beating, return_exceptions=True)


@pytest.mark.parametrize("wrong", [{"url": "http://h"}, {"interval_s": 0.0}, {"interval_s": 2.0, "ttl_s": 1.0}])
def test_heartbeats_that_cannot_work_are_refused(wrong):
    """A URL that is none and times that do not fit are ConfigurationErrors."""
    with pytest.raises(ConfigurationError, match="federation heartbeats"):
        HeartbeatDirectory([], **{"url": "redis://h", **wrong})
