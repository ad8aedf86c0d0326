from __future__ import annotations

import asyncio
import sys
import time

import pytest

from market_data_core.clock import SystemClock
from market_data_core.errors import ConfigurationError
from market_data_core.protocols import FeedbackPublisher
from market_data_core.telemetry import BackpressureLevel, FeedbackEvent
from market_data_pipeline.orchestration import feedback_bus
from market_data_pipeline.orchestration.redis_bus import CHANNEL, RedisBus

ANYWHERE = ["memory", "redis"]
TS = time.time()


def event(n, who="store-1", level=BackpressureLevel.OK):
    return FeedbackEvent(coordinator_id=who, queue_size=n, capacity=100, level=level, ts=TS + n)


async def eventually(true):
    """Wait for something to become true, for at most ten seconds."""
    async with asyncio.timeout(10):
        while not true():  # noqa: ASYNC110  what a server does sets no event here
            await asyncio.sleep(0.005)


async def take(count, reader):
    """The next so many events."""
    async with asyncio.timeout(10):
        return [await anext(reader) for _ in range(count)]


@pytest.fixture(params=ANYWHERE)
def url(request):
    """Where a bus may be."""
    return "memory://" if request.param == "memory" else request.getfixturevalue("redis_server").url


@pytest.fixture
async def bus(url):
    """A connected bus."""
    async with feedback_bus(url) as made:
        await eventually(lambda: made.state == "connected")
        yield made


def quick(server, **given):
    """A bus that does not take a server that hangs for alive for long."""
    return RedisBus(server.url, clock=SystemClock(), **{"queue_events": 100, "timeout_s": 0.3, "ping_s": 0.2} | given)


# What every bus does.


async def test_everybody_who_listens_is_told_in_order(bus):
    """Each subscription has all events from its beginning on."""
    readers = [bus.subscribe(), bus.subscribe()]
    for n in range(20):
        await bus.publish(event(n))
    for reader in readers:
        assert await take(20, reader) == [event(n) for n in range(20)]
    assert bus.dropped == 0


async def test_who_comes_later_is_told_the_last_event_of_each(bus):
    """A level that was reached before somebody listened is not missed."""
    await bus.publish(event(1))
    await bus.publish(event(2, level=BackpressureLevel.HARD))
    await bus.publish(event(3, "store-2"))
    reader = bus.subscribe()
    assert await take(2, reader) == [event(2, level=BackpressureLevel.HARD), event(3, "store-2")]
    await bus.publish(event(4))
    assert await take(1, reader) == [event(4)]


async def test_the_same_event_is_given_once(bus):
    """An event equal to its coordinator's last one says nothing new."""
    reader = bus.subscribe()
    for n in (1, 1, 2):
        await bus.publish(event(n))
    assert await take(2, reader) == [event(1), event(2)]


@pytest.mark.parametrize("kind", ANYWHERE)
async def test_a_slow_reader_loses_the_oldest_and_is_told(kind, request):
    """Its queue is bounded, drops are counted, and others have all."""
    url = "memory://" if kind == "memory" else request.getfixturevalue("redis_server").url
    async with feedback_bus(url, queue_events=5) as bus:
        slow, brisk = bus.subscribe(), bus.subscribe()
        for n in range(8):
            await bus.publish(event(n))
            assert await take(1, brisk) == [event(n)]
        assert await take(5, slow) == [event(n) for n in range(3, 8)]
        assert (slow.dropped, brisk.dropped) == (3, 0)
        assert bus.dropped >= 3


async def test_a_closed_subscription_ends(bus):
    """Who has left is told nothing more; others are."""
    gone, there = bus.subscribe(), bus.subscribe()
    await gone.aclose()
    await bus.publish(event(1))
    assert [e async for e in gone] == []
    assert await take(1, there) == [event(1)]


async def test_close_ends_subscriptions_after_what_had_come(bus):
    """The loop over a subscription ends; publishing later is counted as dropped and raises nothing."""
    reader = bus.subscribe()
    await bus.publish(event(1))
    await bus.close()
    await bus.close()
    assert [e async for e in reader] == [event(1)]
    assert [e async for e in bus.subscribe()] in ([], [event(1)])
    await bus.publish(event(2))
    assert (bus.state, bus.dropped) == ("disconnected", 1)


async def test_is_the_published_protocol(bus):
    """A bus is a `FeedbackPublisher`."""
    assert isinstance(bus, FeedbackPublisher)


async def test_leaves_no_task(url):
    """After closing, nothing is left running."""
    before = asyncio.all_tasks()
    async with feedback_bus(url) as bus:
        bus.subscribe()
        await bus.publish(event(1))
        await eventually(lambda: bus.state == "connected")
    assert asyncio.all_tasks() == before


# What a bus between processes does.


async def test_others_are_told(redis_server):
    """What one bus publishes, another gives; who comes later learns the last event of each."""
    async with feedback_bus(redis_server.url) as here, feedback_bus(redis_server.url) as there:
        reader = there.subscribe()
        await eventually(lambda: here.state == there.state == "connected")
        for n in range(10):
            await here.publish(event(n))
        assert await take(10, reader) == [event(n) for n in range(10)]
    async with feedback_bus(redis_server.url) as late:
        assert await take(1, late.subscribe()) == [event(9)]


async def test_survives_the_death_of_the_server(redis_server):
    """Killed and started again, the bus is back by itself, and everybody knows the last levels."""
    async with feedback_bus(redis_server.url) as here, feedback_bus(redis_server.url) as there:
        reader = there.subscribe()
        await eventually(lambda: here.state == there.state == "connected")
        await here.publish(event(1, "store-1"))
        assert await take(1, reader) == [event(1, "store-1")]
        redis_server.kill()
        await eventually(lambda: here.state == there.state == "disconnected")
        await here.publish(event(2, "store-1"))
        await here.publish(event(3, "store-2"))
        redis_server.start()
        assert await take(2, reader) == [event(2, "store-1"), event(3, "store-2")]
        await eventually(lambda: here.state == there.state == "connected")
        assert here.dropped == 0
        async with feedback_bus(redis_server.url) as late:
            assert set(await take(2, late.subscribe())) == {event(2, "store-1"), event(3, "store-2")}


async def test_who_connects_while_others_publish_is_told_nothing_older_after_the_newest(redis_server):
    """The hash of last events is read after the channel was joined: what came over the channel meanwhile is older."""
    async with feedback_bus(redis_server.url) as here:
        await eventually(lambda: here.state == "connected")
        there = feedback_bus(redis_server.url)
        read = there._client.hgetall

        async def read_late(name):
            for n in (1, 2):
                await here.publish(event(n))
            await eventually(lambda: not here._unsent)
            return await read(name)

        there._client.hgetall = read_late
        async with there:
            reader = there.subscribe()
            await eventually(lambda: there.state == "connected")
            await here.publish(event(3))
            assert await take(2, reader) == [event(2), event(3)]


async def test_what_was_said_before_the_server_forgot_is_said_again(redis_server):
    """A server that comes back empty is told the levels that still hold."""
    async with feedback_bus(redis_server.url) as here:
        await eventually(lambda: here.state == "connected")
        reader = here.subscribe()
        await here.publish(event(1, level=BackpressureLevel.HARD))
        assert await take(1, reader) == [event(1, level=BackpressureLevel.HARD)]
        async with feedback_bus(redis_server.url) as other:
            assert await take(1, other.subscribe()) == [event(1, level=BackpressureLevel.HARD)]
        redis_server.kill()
        await eventually(lambda: here.state != "connected")
        redis_server.start()
        await eventually(lambda: here.state == "connected")
        async with feedback_bus(redis_server.url) as late:
            assert await take(1, late.subscribe()) == [event(1, level=BackpressureLevel.HARD)]


async def test_a_dead_server_holds_up_nobody(redis_server):
    """Publishing to a server that is away returns at once; readers here are told, drops are counted."""
    redis_server.kill()
    async with feedback_bus(redis_server.url, queue_events=10) as bus:
        reader = bus.subscribe()
        begin_s = time.monotonic()
        for n in range(1000):
            await bus.publish(event(n))
        assert time.monotonic() - begin_s < 1
        assert await take(1, reader) == [event(990)]
        await eventually(lambda: bus.state == "disconnected")
        assert bus.dropped >= 990


async def test_a_frozen_server_holds_up_nobody(redis_server):
    """One that has taken the connection and does not answer is as good as away, and found out."""
    async with quick(redis_server) as bus:
        await eventually(lambda: bus.state == "connected")
        redis_server.freeze()
        begin_s = time.monotonic()
        await bus.publish(event(1))
        assert time.monotonic() - begin_s < 0.3, "it waited for the server"
        await eventually(lambda: bus.state == "disconnected")
        redis_server.thaw()
        await eventually(lambda: bus.state == "connected")
        async with feedback_bus(redis_server.url) as late:
            assert await take(1, late.subscribe()) == [event(1)]


async def test_a_quiet_server_that_freezes_is_found_out(redis_server):
    """Also where nothing is published: quiet connections are asked now and then."""
    async with quick(redis_server) as bus:
        await eventually(lambda: bus.state == "connected")
        redis_server.freeze()
        await eventually(lambda: bus.state == "disconnected")
        redis_server.thaw()


async def test_a_bad_message_does_not_stop_the_feed(redis_server):
    """What is no feedback event is counted and passed over; unknown fields are no harm."""
    async with quick(redis_server) as bus:
        reader = bus.subscribe()
        await eventually(lambda: bus.state == "connected")
        for text in ("{", "[]", '{"coordinator_id": "x"}', event(1).model_dump_json()[:-1] + ', "more": 1}'):
            await bus._client.publish(CHANNEL, text)
        assert await take(1, reader) == [event(1)]
        assert (bus.malformed, bus.state) == (3, "connected")


# Addresses.


@pytest.mark.parametrize(
    "url", ["", "localhost", "http://localhost:6379", "redis://", "redis://localhost:port/0", "redis://host:1/notadb"]
)
def test_wrong_addresses_are_refused(url):
    """The error says what is allowed, or what is wrong."""
    with pytest.raises(ConfigurationError, match="feedback bus"):
        feedback_bus(url)


async def test_credentials_are_not_shown():
    """What a bus says of itself has no password in it."""
    bus = feedback_bus("redis://user:secret@localhost:1/2")
    assert bus.url == "redis://localhost:1/2"
    await bus.close()


def test_redis_is_imported_only_for_redis(monkeypatch):
    """In-process needs no package; without it, a Redis address says what to install."""
    monkeypatch.delitem(sys.modules, "market_data_pipeline.orchestration.redis_bus", raising=False)
    monkeypatch.setitem(sys.modules, "redis", None)
    assert feedback_bus("memory://").state == "connected"
    with pytest.raises(ConfigurationError, match="pip install redis"):
        feedback_bus("redis://localhost:6379/0")
