"""Rows one at a time, stored by the batch, on an event loop."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path

import pytest
from mds_values import bar, fundamentals, news, option

from mds_client import (
    AMDS,
    AsyncBatchProcessor,
    BatchConfig,
    ClientClosed,
    TemporaryUnavailable,
    Upserted,
    ValidationError,
)

NEVER_MS = 3_600_000


async def eventually(claim, what, within_s=10):
    try:
        async with asyncio.timeout(within_s):
            while not claim():  # noqa: ASYNC110  what is waited for tells nobody
                await asyncio.sleep(0.002)
    except TimeoutError:
        pytest.fail(f"not within {within_s} s: {what}")


async def stored(aclient):
    return (await aclient.bars("AAPL", "1m")).num_rows


@pytest.fixture
async def away(lake_options):
    """A lake in whose place lies a file; removing it brings the lake back."""
    place = Path(lake_options["dsn"])
    place.write_text("no folder")  # noqa: ASYNC240  nothing else runs yet
    async with AMDS(lake_options) as client:
        yield client, place


async def test_rows_are_stored_when_there_are_enough(aclient):
    """Not before, and all of them at once."""
    async with AsyncBatchProcessor(aclient, BatchConfig(max_rows=3, max_ms=NEVER_MS)) as batch:
        for minute in range(2):
            await batch.add_bar(bar(aclient.tenant_id, minute=minute))
        assert await stored(aclient) == 0
        await batch.add_bar(bar(aclient.tenant_id, minute=2))
        assert await stored(aclient) == 3
        assert (batch.stats.rows, batch.stats.batches, batch.stats.held_rows) == (3, 1, 0)


async def test_rows_are_stored_when_they_have_waited_enough(aclient):
    """Without any further call, and again for those that come later."""
    async with AsyncBatchProcessor(aclient, BatchConfig(max_ms=20)) as batch:
        for count in (1, 2):
            await batch.add_bar(bar(aclient.tenant_id, minute=count))
            await eventually(lambda count=count: batch.stats.rows == count, "stored in the background")


async def test_every_type_has_its_way_in(aclient):
    """Four types in one batch; what is left is stored at the end."""
    tenant = aclient.tenant_id
    async with AsyncBatchProcessor(aclient) as batch:
        await batch.add_bar(bar(tenant))
        await batch.add_fundamental(fundamentals(tenant))
        await batch.add_news(news(tenant))
        await batch.add_option(option(tenant))
    assert batch.stats.stored == Upserted(inserted=4)
    with pytest.raises(ClientClosed):
        await batch.add_bar(bar(tenant))


async def test_another_tenants_row_is_refused_at_once(aclient):
    """It never comes to lie among rows that could be stored."""
    async with AsyncBatchProcessor(aclient) as batch:
        with pytest.raises(ValidationError, match="other's"):
            await batch.add_bar(bar("other"))
        assert batch.stats.held_rows == 0


async def test_an_error_in_the_background_is_raised_by_the_next_call(away):
    """Which does not take its row; those taken before are held, and stored once the store is back."""
    aclient, place = away
    async with AsyncBatchProcessor(aclient, BatchConfig(max_rows=2, max_ms=20)) as batch:
        await batch.add_bar(bar(aclient.tenant_id))
        await eventually(lambda: batch.stats.errors, "a try in the background")
        with pytest.raises(TemporaryUnavailable):
            await batch.add_bar(bar(aclient.tenant_id, minute=1))
        place.unlink()
        await eventually(lambda: batch.stats.rows == 1, "another try in the background")
        await batch.add_bar(bar(aclient.tenant_id, minute=1))
    assert await stored(aclient) == 2


async def test_a_full_batch_takes_no_more_while_the_store_is_away(away):
    """What is held has a bound, and a row that was not refused is not lost."""
    aclient, place = away
    taken = 0
    batch = AsyncBatchProcessor(aclient, BatchConfig(max_rows=3, max_ms=NEVER_MS))
    for minute in range(10):
        try:
            await batch.add_bar(bar(aclient.tenant_id, minute=minute))
            taken += 1
        except TemporaryUnavailable:
            assert batch.stats.held_rows == 3
    assert taken == 3
    with pytest.raises(TemporaryUnavailable):
        await batch.close()
    place.unlink()
    await batch.close()
    assert await stored(aclient) == taken


async def test_a_cancelled_call_loses_no_row(lake_options):
    """A flush that is cancelled goes on; what was added meanwhile is stored behind it."""
    async with AMDS({**lake_options, "pool_max": 1}) as aclient:
        go, began = threading.Event(), threading.Event()

        def occupy(_client):
            began.set()
            assert go.wait(10)

        batch = AsyncBatchProcessor(aclient)
        await batch.add_bar(bar(aclient.tenant_id, close=1.0))
        busy = asyncio.create_task(aclient.run(occupy))
        await asyncio.to_thread(began.wait)
        flush = asyncio.create_task(batch.flush())
        await asyncio.sleep(0)
        flush.cancel()
        with pytest.raises(asyncio.CancelledError):
            await flush
        await batch.add_bar(bar(aclient.tenant_id, close=2.0))
        go.set()
        await busy
        await batch.close()
        assert batch.stats.rows == 2
        assert [b.close_price for b in await aclient.bars_window("AAPL", "1m", None, None)] == [2.0]


async def test_many_tasks_share_a_batch(aclient):
    """Rows by many tasks at once: each is stored once, and none waits for ever."""
    async with AsyncBatchProcessor(aclient, BatchConfig(max_rows=10, max_ms=15)) as batch:

        async def work(number):
            for n in range(20):
                await batch.add_bar(bar(aclient.tenant_id, minute=20 * number + n))

        async with asyncio.timeout(60):
            await asyncio.gather(*(work(n) for n in range(5)))
    assert batch.stats.stored == Upserted(inserted=100)
    assert await stored(aclient) == 100


async def test_rows_can_be_taken_back(away):
    """Whoever cannot wait gets what is held, and it is held no more."""
    aclient, _ = away
    batch = AsyncBatchProcessor(aclient)
    made = bar(aclient.tenant_id)
    await batch.add(made)
    with pytest.raises(TemporaryUnavailable):
        await batch.flush()
    assert await batch.take_back() == [made]
    await batch.close()
    assert batch.stats.held_rows == 0
