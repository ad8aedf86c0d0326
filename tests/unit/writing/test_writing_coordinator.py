"""The write coordinator under fire."""

from __future__ import annotations

import asyncio
import subprocess
import time

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from market_data_core.clock import ManualClock
from market_data_core.errors import (
    ConfigurationError,
    SchemaValidationError,
    SinkError,
    TemporaryUnavailable,
    WriterConflict,
)
from market_data_core.schemas import STORED_SCHEMAS
from market_data_core.telemetry import BackpressureLevel
from market_data_pipeline.orchestration import CircuitBreaker, CircuitState, MemoryBus
from market_data_pipeline.writing import Backoff, BatchPolicy, DeadLetters, WriteCoordinator, Written, replay
from market_data_store.backend import Wanted
from market_data_store.lake import Lake
from market_data_store.postgres import PostgresStore
from support.postgres_server import Server
from support.trouble import Memory, Trouble, Versions, dead, figures, priced, stored, trades

SOON = Backoff(initial_s=0.001, max_s=0.02)
AT_ONCE = BatchPolicy(linger_s=0.0)
PATIENT = CircuitBreaker(threshold=1_000_000)


def coordinator(store, letters, **how):
    given = {"coordinator_id": "c", "dead_letters": letters, "backoff": SOON, "batch": AT_ONCE, "breaker": PATIENT}
    return WriteCoordinator(store, **(given | how))


async def until(claim, what, deadline_s=20.0):
    end = time.monotonic() + deadline_s
    while not claim():
        assert time.monotonic() < end, f"not within {deadline_s} s: {what}"
        await asyncio.sleep(0.005)


def balanced(stats):
    return stats.submitted == stats.stored + stats.refused + stats.failed + stats.queued


async def test_rows_are_stored_in_their_order(store, letters):
    """Receipts say what became of each submission, and every table has its rows in the order they came."""
    async with coordinator(store, letters) as c:
        receipts = [await c.submit("trades", trades(n * 10, 10)) for n in range(20)]
        quotes = pa.Table.from_pylist(
            [{"ts_event": n, "ts_recv": n, "seq": n, "bid_price": 1.0} for n in range(5)],
            schema=STORED_SCHEMAS["quotes"],
        )
        assert await (await c.submit("quotes", quotes)) == Written(stored=5)
        assert await asyncio.gather(*receipts) == [Written(stored=10)] * 20
    assert stored(store) == list(range(200))
    assert store.table("trades").position("c") == 200
    assert c.stats.stored == 205
    assert balanced(c.stats)


async def test_one_bad_row_of_ten_thousand_is_a_dead_letter(store, letters):
    """The row that the store itself refuses is kept aside, its submitter is told, all others are stored."""
    rows = trades(0, 10_000, seq=[None if s == 1234 else s for s in range(10_000)])
    async with coordinator(store, letters) as c:
        good = await c.submit("trades", trades(10_000, 10))
        bad = await c.submit("trades", rows)
        assert await bad == Written(stored=9_999, refused=1)
        assert await good == Written(stored=10)
    assert len(stored(store)) == 10_009
    assert letters.read(letters.list_letters()[0].id).column("price").to_pylist() == [1234.0]


async def test_bad_rows_at_both_ends_and_a_replay(lake, letters):
    """What was refused goes in with a replay once the store takes it."""
    trouble = Trouble(lake, bad={0, 99}, names=False)
    async with coordinator(trouble, letters) as c:
        assert await (await c.submit("trades", trades(0, 100))) == Written(stored=98, refused=2)
    trouble.bad = set()
    assert replay(letters, trouble).stored == 2
    assert stored(lake) == list(range(100))


async def test_a_store_that_is_away_is_waited_for(lake, letters):
    """Nothing is lost and nothing doubled while the store is away, and the figures say why it waits."""
    trouble = Trouble(lake, away=True)
    async with coordinator(trouble, letters) as c:
        receipt = await c.submit("trades", trades(0, 50))
        await until(lambda: c.stats.retries >= 3, "some attempts fail")
        assert "the storage is away" in c.stats.problem
        assert not receipt.done()
        trouble.away = False
        assert await receipt == Written(stored=50)
        assert c.stats.problem == ""
    assert stored(lake) == list(range(50))


async def test_postgres_killed_and_started_again(letters):
    """Rows submitted before, during and after the outage are there once."""
    server = Server()
    try:
        with PostgresStore(server.database(), "acme", timeout_s=2) as store:
            store.open()
            async with coordinator(store, letters) as c:
                await (await c.submit("trades", trades(0, 100)))
                server.kill()
                receipts = [await c.submit("trades", trades(100 + n * 50, 50)) for n in range(6)]
                await until(lambda: c.stats.retries >= 1, "the outage is noticed")
                server.start()
                receipts.append(await c.submit("trades", trades(400, 50)))
                await asyncio.wait_for(asyncio.gather(*receipts), 30)
            assert stored(store) == list(range(450))
    finally:
        server.close()


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 6 MiB of its own."""
    path = tmp_path / "small"
    path.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=6m", "tmpfs", str(path)], capture_output=True, text=True
    )
    if mounted.returncode:
        pytest.skip(f"cannot mount a tmpfs here: {mounted.stderr.strip()}")
    yield path
    subprocess.run(["umount", "-l", str(path)], check=True)


async def test_a_full_disk_is_waited_for(small_disk):
    """Store and dead letters on a full disk: with room again everything is where it belongs."""
    lake = Lake(small_disk / "lake", "acme")
    lake.open()
    letters = DeadLetters(small_disk / "dead_letters")
    filler = small_disk / "filler"
    async with coordinator(Trouble(lake, bad={7}), letters) as c:
        with filler.open("wb") as file:
            try:
                while True:
                    file.write(bytes(65536))
                    file.flush()
            except OSError:
                pass
        receipt = await c.submit("trades", trades(0, 5_000))
        await until(lambda: c.stats.retries >= 2, "the full disk is noticed")
        assert "No space left" in c.stats.problem
        filler.unlink()
        assert await asyncio.wait_for(receipt, 20) == Written(stored=4_999, refused=1)
    assert dead(letters) == [7]


async def test_an_answer_that_was_lost_doubles_nothing(lake, letters):
    """A commit that was made and reported as failed is recognised by its position."""
    trouble = Trouble(lake, bad={3}, faults=["", "after", "after", "", "after"])
    async with coordinator(trouble, letters) as c:
        assert await (await c.submit("trades", trades(0, 10))) == Written(stored=9, refused=1)
        assert await (await c.submit("trades", trades(10, 10))) == Written(stored=10)
    assert stored(lake) == [s for s in range(20) if s != 3]
    assert dead(letters) == [3]


async def test_the_breaker_opens_and_lets_a_probe_through(lake, letters):
    """After so many failures the store is left alone; the first probe that succeeds closes it for all tables."""
    trouble = Trouble(lake, away=True)
    clock = ManualClock()
    breaker = CircuitBreaker(threshold=2, timeout=30.0, clock=clock)
    tick = Backoff(initial_s=1.0, max_s=1.0, jitter=0.0)
    async with coordinator(trouble, letters, breaker=breaker, backoff=tick, clock=clock) as c:
        receipt = await c.submit("trades", trades(0, 10))
        await until(lambda: c.stats.retries == 1, "the first attempt fails")
        await passing(clock, 1.0, lambda: c.stats.breaker is CircuitState.OPEN)
        failed = c.stats.retries
        clock.advance(10.0)
        await asyncio.sleep(0.02)
        assert c.stats.retries == failed == 2
        trouble.away = False
        await passing(clock, 25.0, receipt.done)
        assert c.stats.breaker is CircuitState.CLOSED
    assert stored(lake) == list(range(10))


async def passing(clock, delta_s, claim):
    """Let time pass until something has come about."""
    end = time.monotonic() + 20
    while not claim():
        assert time.monotonic() < end
        clock.advance(delta_s)
        for _ in range(5):
            await asyncio.sleep(0.002)


async def test_levels_are_told_once_per_change(lake, letters):
    """Up through soft to hard and down to ok: one event for each, none for what happens in between."""
    trouble = Trouble(lake)
    trouble.gate.clear()
    bus = MemoryBus()
    told = bus.subscribe()
    one_by_one = BatchPolicy(rows=1, linger_s=0.0)
    async with coordinator(trouble, letters, bus=bus, capacity=20, batch=one_by_one, repeat_s=1e6) as c:
        for n in range(20):
            await c.submit("trades", trades(n, 1))
        assert c.stats.level is BackpressureLevel.HARD
        trouble.gate.set()
        await c.flush()
    await bus.close()
    events = [event async for event in told]
    assert [(e.level, e.queue_size) for e in events] == [("soft", 10), ("hard", 18), ("soft", 8), ("ok", 4)]
    assert {(e.coordinator_id, e.capacity, e.source) for e in events} == {("c", 20, "store")}


async def test_a_level_that_is_not_ok_is_repeated(lake, letters):
    """Listeners forget those who fall silent, so a full queue keeps saying that it is."""
    trouble = Trouble(lake)
    trouble.gate.clear()
    bus, clock = MemoryBus(), ManualClock()
    told = bus.subscribe()
    async with coordinator(trouble, letters, bus=bus, clock=clock, capacity=10, repeat_s=15.0) as c:
        await c.submit("trades", trades(0, 10))
        levels = [(await anext(told)).level]
        for _ in range(2):
            await until(lambda: clock._sleepers, "the coordinator waits")
            clock.advance(15.0)
            levels.append((await anext(told)).level)
        assert levels == ["hard"] * 3
        trouble.gate.set()
        await c.flush()


async def test_a_full_queue_makes_submitters_wait(lake, letters):
    """Who does not want to wait is told how much room there is; who does gets it as rows are stored."""
    trouble = Trouble(lake)
    trouble.gate.clear()
    async with coordinator(trouble, letters, capacity=100) as c:
        await c.submit("trades", trades(0, 90))
        with pytest.raises(TemporaryUnavailable, match="room for 10 rows, not for 20"):
            await c.submit("trades", trades(90, 20), wait=False)
        await c.submit("trades", trades(90, 10), wait=False)
        waiting = asyncio.create_task(c.submit("trades", trades(100, 350)))
        await asyncio.sleep(0.02)
        assert not waiting.done()
        assert c.stats.queued == 100
        trouble.gate.set()
        assert await (await waiting) == Written(stored=350)
    assert trouble.order == list(range(450))


async def test_closing_in_mid_flight_loses_nothing_that_was_acknowledged(lake, letters):
    """What is on its way is finished and told; what still waits is not stored, and its submitter knows."""
    trouble = Trouble(lake)
    trouble.gate.clear()
    c = coordinator(trouble, letters, batch=BatchPolicy(rows=10, linger_s=0.0))
    c.open()
    receipts = [await c.submit("trades", trades(n * 10, 10)) for n in range(4)]
    closing = asyncio.create_task(c.close(drain=False))
    await asyncio.sleep(0.02)
    assert not closing.done()
    trouble.gate.set()
    left = await closing
    acknowledged = [r.exception() is None for r in receipts]
    assert acknowledged == [True, False, False, False]
    assert left == 30
    assert stored(lake) == list(range(10))
    assert balanced(c.stats)
    with pytest.raises(SinkError, match="closed"):
        await c.submit("trades", trades(0, 1))
    assert await c.close() == 0


async def test_a_cancelled_user_leaves_what_was_acknowledged(lake, letters):
    """Cancelled amid a commit, the block ends once that is made; what waits behind it is not begun."""
    trouble = Trouble(lake)

    async def use():
        async with coordinator(trouble, letters, batch=BatchPolicy(rows=10, linger_s=0.0)) as c:
            await (await c.submit("trades", trades(0, 10)))
            trouble.gate.clear()
            await c.submit("trades", trades(10, 20))
            await asyncio.Event().wait()

    task = asyncio.create_task(use())
    await until(lambda: trouble.entered == 2, "the second commit is on its way")
    task.cancel()
    await asyncio.sleep(0.02)
    assert not task.done()
    trouble.gate.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert stored(lake) == list(range(20))


async def test_closing_waits_no_longer_than_it_may(lake, letters):
    """A store that stays away does not hold up the end; what is left is counted and told."""
    c = coordinator(Trouble(lake, away=True), letters)
    c.open()
    receipt = await c.submit("trades", trades(0, 10))
    assert await c.close(timeout_s=0.05) == 10
    with pytest.raises(TemporaryUnavailable, match="closed before this was stored"):
        await receipt


async def test_what_was_left_by_a_former_coordinator_is_not_mixed_up(lake, letters):
    """A commit that a crash cut short is left behind: the next rows are all stored."""
    trouble = Trouble(lake, bad={5}, names=False, faults=["", "", "", "", "", "before", "before"])
    async with coordinator(trouble, letters, max_attempts=1) as c:
        with pytest.raises(TemporaryUnavailable, match="in 1 attempts"):
            await (await c.submit("trades", trades(0, 10)))
    cut = stored(lake)
    assert 0 < len(cut) < 9
    async with coordinator(lake, letters) as c:
        assert await (await c.submit("trades", trades(100, 10))) == Written(stored=10)
    assert stored(lake) == [*cut, *range(100, 110)]


async def test_somebody_else_of_the_same_name_stops_the_table(lake, letters):
    """Going on would double rows: the submitter is told, and so is everybody after."""
    async with coordinator(lake, letters) as c:
        await (await c.submit("trades", trades(0, 10)))
        lake.table("trades").append(trades(50, 5), writer="c", position=15, covers={})
        with pytest.raises(WriterConflict):
            await (await c.submit("trades", trades(10, 10)))
        with pytest.raises(WriterConflict):
            await c.submit("trades", trades(20, 10))
    assert stored(lake) == [*range(10), *range(50, 55)]
    assert balanced(c.stats)


async def test_what_cannot_be_rows_of_the_table_is_refused_at_the_door(lake, letters):
    """Wrong columns and unknown tables never get into the queue."""
    async with coordinator(lake, letters) as c:
        with pytest.raises(SchemaValidationError, match="other columns"):
            await c.submit("quotes", trades(0, 1))
        with pytest.raises(ConfigurationError, match="no table 'nowhere'"):
            await c.submit("nowhere", trades(0, 1))
        assert await (await c.submit("trades", trades(0, 0))) == Written()
    with pytest.raises(ConfigurationError, match="is no name"):
        coordinator(lake, letters, coordinator_id="dead-letters")
    with pytest.raises(ConfigurationError, match="capacity 0"):
        coordinator(lake, letters, capacity=0)


async def test_keyed_rows_are_versions_and_a_repeated_step_makes_none(letters):
    """Two versions of a key in one batch stay two, in order, however often the answer is lost."""
    kept = Versions()
    kept.lost, kept.bad = 2, {13.0}
    async with coordinator(kept, letters) as c:
        rows = figures([("A", 1), ("B", 5), ("A", 2), ("C", 13), ("A", 1)])
        assert await (await c.submit("fundamentals", rows)) == Written(stored=4, refused=1)
    assert {key[1]: values for key, values in kept.values.items()} == {"A": [1.0, 2.0, 1.0], "B": [5.0]}
    assert [letter.table for letter in letters.list_letters()] == ["fundamentals"]


async def test_keyed_rows_reach_a_real_store(store, letters):
    """A row without its key is a dead letter, the others are versions, and a repair gives it a key."""
    rows = figures([("A", 1), ("B", 5), ("A", 2), (None, 13)])
    async with coordinator(store, letters) as c:
        assert await (await c.submit("fundamentals", rows)) == Written(stored=3, refused=1)

    def repair(table, found):
        at = found.schema.get_field_index("symbol")
        return found.set_column(at, found.schema.field(at), pa.array(["C"]))

    assert replay(letters, store, repair=repair).stored == 1
    found = store.fetch("fundamentals", Wanted(versions=True)).sort_by([("symbol", "ascending"), ("eps", "ascending")])
    assert found.select(["symbol", "eps"]).to_pylist() == [
        {"symbol": s, "eps": e} for s, e in (("A", 1.0), ("A", 2.0), ("B", 5.0), ("C", 13.0))
    ]
    assert letters.list_letters() == []


@settings(max_examples=40, deadline=None)
@given(
    sizes=st.lists(st.integers(0, 12), min_size=1, max_size=8),
    bad=st.sets(st.integers(0, 60), max_size=6),
    names=st.booleans(),
    faults=st.lists(st.sampled_from(["", "before", "after"]), max_size=30),
    rows=st.integers(1, 20),
    capacity=st.integers(1, 30),
    attempts=st.sampled_from([None, 1, 3]),
    drain=st.booleans(),
)
def test_no_failure_loses_or_doubles_an_acknowledged_row(tmp_path_factory, **how):
    """Acknowledged rows are stored or dead letters, once and in order; nobody else's are there twice."""
    write_and_count(DeadLetters(tmp_path_factory.mktemp("c") / "dl"), **how)


def write_and_count(letters, *, sizes, bad, names, faults, rows, capacity, attempts, drain):
    memory = Memory()
    trouble = Trouble(memory, bad=bad, names=names, faults=faults)
    receipts = []

    async def use():
        c = coordinator(
            trouble, letters, batch=BatchPolicy(rows=rows, linger_s=0.0), capacity=capacity, max_attempts=attempts
        )
        c.open()
        first = 0
        for count in sizes:
            receipts.append((range(first, first + count), await c.submit("trades", trades(first, count))))
            first += count
        await c.close(drain=drain)
        assert balanced(c.stats)
        assert c.stats.queued == 0

    asyncio.run(use())
    found, aside = stored(memory), dead(letters)
    assert len(found) == len(set(found))
    assert len(aside) == len(set(aside))
    assert not set(found) & set(aside)
    assert trouble.order == sorted(trouble.order)
    assert priced(memory.read("trades", columns=["seq", "price"]))
    for seqs, receipt in receipts:
        if receipt.exception() is None:
            assert set(seqs) <= {*found, *aside}
            assert receipt.result() == Written(stored=len(set(seqs) & set(found)), refused=len(set(seqs) & set(aside)))
