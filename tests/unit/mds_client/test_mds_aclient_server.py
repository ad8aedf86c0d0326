"""What the client for event loops does with a server's connections, whatever becomes of its calls."""

from __future__ import annotations

import asyncio
import random
from datetime import timedelta

import psycopg
import pytest
from mds_values import START, bar

from mds_client import AMDS, MDS, ClientClosed, ConfigurationError, TemporaryUnavailable, Upserted, ValidationError

MOST = 3


@pytest.fixture(scope="module")
def dsn(addresses):
    return addresses("postgresql")


@pytest.fixture
def server(dsn):
    """A connection that sees and may do everything."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        yield connection


@pytest.fixture
def lock(dsn):
    """A transaction that lets nobody at the bars until it is rolled back."""
    with psycopg.connect(dsn) as connection:
        connection.execute("LOCK TABLE mds.bars IN ACCESS EXCLUSIVE MODE")
        yield connection
        connection.rollback()


@pytest.fixture
async def client(dsn, request):
    """A client of few connections, whose application and tenant are the test's own."""
    name = request.node.name[:60]
    async with AMDS({"dsn": dsn, "tenant_id": name[-50:], "pool_max": MOST, "app_name": name, "timeout_s": 5}) as made:
        yield made


def states(server, client):
    found = server.execute(
        "SELECT state, count(*) FROM pg_stat_activity WHERE application_name = %s GROUP BY state",
        [client.config.app_name],
    )
    return dict(found.fetchall())


async def until(claim):
    async with asyncio.timeout(10):
        while not claim():  # noqa: ASYNC110  the server sets no event of a loop
            await asyncio.sleep(0.005)


def calls(client):
    return [
        lambda: client.latest_prices(["AAPL"]),
        lambda: client.bars_window("AAPL", "1m", START, None),
        lambda: client.bars_window("AAPL", "1m", START, None, as_of=START + timedelta(days=9000)),
        client.health,
        client.schema_version,
        lambda: client.upsert_bars([bar(client.tenant_id, minute=7)]),
    ]


async def test_it_answers_as_the_other_does(client):
    """Prices and bars, newest and as known, of one vendor, of a long span, and of none."""
    made = [bar(client.tenant_id, minute=m, close=float(m % 3 + 9)) for m in range(1200)]
    await client.upsert_bars(made)
    await client.upsert_bars([bar(client.tenant_id, minute=5, close=10.5)])
    with MDS(client.config) as other:
        for options in ({}, {"vendor": "acme"}, {"vendor": "none"}, {"as_of": START}, {"source": "internal"}):
            asked = ("aapl", "1m", START, START + timedelta(minutes=1100))
            assert await client.bars_window(*asked, **options) == other.bars_window(*asked, **options)
        for symbols in ((), "aapl", ["AAPL", "IBM"], "IBM"):
            assert await client.latest_prices(symbols) == other.latest_prices(symbols)
        assert await client.schema_version() == other.schema_version()
        assert (await client.health()).keys() == other.health().keys()


async def test_what_is_asked_wrongly_is_refused_as_by_the_other(client):
    """Before a connection is made for it."""
    with pytest.raises(ConfigurationError, match="interval"):
        await client.bars_window("A", "1 minute", START, None)
    with pytest.raises(ValidationError):
        await client.bars_window("A", "1m", "not a time", None)


@pytest.mark.usefixtures("lock")
async def test_a_cancelled_read_is_cancelled_at_the_server(client, server):
    """Its connection is the next call's, in no transaction."""
    waiting = [asyncio.create_task(client.bars_window("A", "1m", START, None)) for _ in range(MOST)]
    await until(lambda: states(server, client).get("active") == MOST)
    for task in waiting:
        task.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)
    assert all(task.cancelled() for task in waiting)
    await until(lambda: set(states(server, client)) == {"idle"})
    assert await client.latest_prices(["A"]) == []


async def test_calls_that_are_cancelled_at_any_moment_leak_nothing(client, server):
    """Afterwards as many run at once as ever, none waits in a transaction, and none is another tenant's."""
    moments = random.Random(7)
    for _ in range(40):
        tasks = [asyncio.create_task(call()) for call in calls(client)]
        for task in tasks:
            for _ in range(moments.randrange(60)):
                await asyncio.sleep(0)
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    for _ in range(3):
        done = await asyncio.gather(*(call() for call in calls(client) * MOST))
        assert len(done) == len(calls(client)) * MOST
    # A server's side of a connection ends a moment after ours.
    await until(lambda: set(found := states(server, client)) == {"idle"} and sum(found.values()) <= 2 * MOST)


async def test_writers_of_one_bar_at_once_lose_no_version(client):
    """In tasks and in threads together; each finds what the others stored."""
    few = [[bar(client.tenant_id, close=9.0 + n / 100)] for n in range(12)]
    many = [[bar(client.tenant_id, minute=m, close=10.0 + n / 100) for m in range(1001)] for n in range(2)]
    done = await asyncio.gather(*(client.upsert_bars(bars) for bars in (*few, *many)))
    assert sum(done, Upserted()) == Upserted(inserted=1001, revised=1001 + 12)
    assert sum((await client.coverage("bars")).column("rows").to_pylist()) == 2 * 1001 + 12


async def test_a_write_that_is_cancelled_before_its_commit_changed_nothing(client, server, lock):
    """And holds no lock."""
    writing = asyncio.create_task(client.upsert_bars([bar(client.tenant_id)]))
    await until(lambda: states(server, client).get("active") == 1)
    writing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await writing
    await until(lambda: set(states(server, client)) == {"idle"})
    lock.rollback()
    assert await client.upsert_bars([bar(client.tenant_id)]) == Upserted(inserted=1)


async def test_a_connection_given_back_is_no_tenants(client, dsn):
    """Whoever takes it next has to say whose it is."""
    await client.latest_prices()
    async with AMDS({"dsn": dsn, "tenant_id": "nobody", "pool_max": 1}) as other:
        await client.upsert_bars([bar(client.tenant_id)])
        assert await other.latest_prices() == []
        assert await other.bars_window("AAPL", "1m", None, None) == []


async def test_a_server_that_cut_its_connections_is_asked_again(client, server):
    """By a new one; the call does not notice."""
    await asyncio.gather(*(client.latest_prices() for _ in range(MOST)))
    there = "SELECT pid FROM pg_stat_activity WHERE application_name = %s"
    cut = server.execute(there, [client.config.app_name]).fetchall()
    for pid in cut:
        server.execute("SELECT pg_terminate_backend(%s)", pid)
    await until(lambda: not {*cut} & {*server.execute(there, [client.config.app_name]).fetchall()})
    assert await asyncio.gather(*(client.latest_prices() for _ in range(MOST))) == [[]] * MOST


async def test_a_server_that_is_away_is_said_to_be(tmp_path):
    """In the time that was given."""
    away = {"dsn": f"postgresql://nobody@/none?host={tmp_path}", "tenant_id": "t", "timeout_s": 0.2}
    async with AMDS(away) as client:
        for call in (client.latest_prices, client.health, client.schema_version):
            with pytest.raises(TemporaryUnavailable):
                await call()


async def test_closing_lets_reads_end(dsn, server, lock):
    """And takes nothing further meanwhile; the connections are gone then."""
    client = AMDS({"dsn": dsn, "tenant_id": "closing", "app_name": "closing", "pool_max": 1})
    reading = asyncio.create_task(client.bars_window("A", "1m", None, None))
    await until(lambda: states(server, client).get("active") == 1)
    closing = asyncio.create_task(client.close())
    await asyncio.sleep(0)
    with pytest.raises(ClientClosed):
        await client.latest_prices()
    assert not closing.done()
    lock.rollback()
    assert await reading == []
    await closing
    await client.close()
    await until(lambda: not states(server, client))


async def test_another_event_loop_may_use_it_too(client):
    """Beside the first, whose connections they are."""
    await client.upsert_bars([bar(client.tenant_id)])
    here = await client.latest_prices()

    async def there():
        return await client.latest_prices(), await client.bars_window("AAPL", "1m", None, None)

    assert await asyncio.to_thread(asyncio.run, there()) == (here, await client.bars_window("AAPL", "1m", None, None))
