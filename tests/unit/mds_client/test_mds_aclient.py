"""The client for event loops, over both stores."""

from __future__ import annotations

import asyncio
import inspect
import threading

import pytest
from mds_values import START, bar

from mds_client import AMDS, MDS, ClientClosed, Upserted, ValidationError


async def test_it_does_what_the_other_does(aclient):
    """Rows go in, once, and come back."""
    made = bar(aclient.tenant_id)
    assert await aclient.upsert_bars([made]) == Upserted(inserted=1)
    assert await aclient.upsert_bars([made]) == Upserted(unchanged=1)
    assert await aclient.bars_window("aapl", "1m", START, None, "acme") == [made]
    assert (await aclient.bars("AAPL", "1m")).num_rows == 1
    assert [p.price for p in await aclient.latest_prices(["AAPL"])] == [10.0]
    assert (await aclient.health())["latency_ms"] >= 0


def test_it_has_every_method():
    """With the same arguments and the same words, awaited."""
    names = {n for n, m in vars(MDS).items() if callable(m) and not n.startswith("_")} - {"close", "check"}
    for name in names:
        twin = getattr(AMDS, name)
        assert inspect.iscoroutinefunction(twin), name
        assert inspect.signature(twin) == inspect.signature(getattr(MDS, name)), name


async def test_errors_are_the_same(aclient):
    """They arrive where the call was awaited."""
    with pytest.raises(ValidationError, match="other's"):
        await aclient.upsert_bars([bar("other")])


async def test_calls_run_side_by_side(aclient):
    """As many as there are threads, more wait for their turn, and each is made."""
    done = await asyncio.gather(*(aclient.upsert_bars([bar(aclient.tenant_id, minute=m)]) for m in range(12)))
    assert sum(done, Upserted()) == Upserted(inserted=12)


@pytest.fixture
async def own(lake_options):
    """A client of two threads."""
    async with AMDS({**lake_options, "pool_max": 2}) as made:
        yield made


async def test_no_more_calls_at_once_than_it_is_told(own):
    """Those beyond wait, and the event loop goes on meanwhile."""
    running, most, lock, go = 0, 0, threading.Lock(), threading.Event()

    def call(_client):
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        assert go.wait(10)
        with lock:
            running -= 1

    calls = [asyncio.create_task(own.run(call)) for _ in range(6)]
    async with asyncio.timeout(10):
        while running < 2:  # noqa: ASYNC110  threads set no event of a loop
            await asyncio.sleep(0)
    go.set()
    await asyncio.gather(*calls)
    assert most == 2


async def test_a_cancelled_call_that_waits_is_never_made(own):
    """One under way ends in its thread; neither keeps others from their turn."""
    go, began, made = threading.Event(), threading.Semaphore(0), []

    def call(_client, name):
        made.append(name)
        began.release()
        assert go.wait(10)

    under_way = [asyncio.create_task(own.run(call, name)) for name in ("a", "b")]
    for _ in under_way:
        await asyncio.to_thread(began.acquire)
    waiting = asyncio.create_task(own.run(call, "c"))
    await asyncio.sleep(0)
    for task in (waiting, under_way[0]):
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    go.set()
    await under_way[1]
    assert await own.upsert_bars([bar(own.tenant_id)]) == Upserted(inserted=1)
    assert sorted(made) == ["a", "b"]


async def test_closing_waits_for_what_is_under_way(lake_options):
    """And takes nothing further meanwhile."""
    client = AMDS(lake_options)
    go, began = threading.Event(), threading.Event()

    def call(mds):
        began.set()
        assert go.wait(10)
        return mds.upsert_bars([bar(mds.tenant_id)])

    under_way = asyncio.create_task(client.run(call))
    await asyncio.to_thread(began.wait)
    closing = asyncio.create_task(client.close())
    await asyncio.sleep(0)
    assert not closing.done()
    with pytest.raises(ClientClosed):
        await client.health()
    go.set()
    await closing
    assert under_way.done()
    assert await under_way == Upserted(inserted=1)
    await client.close()
