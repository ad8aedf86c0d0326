"""The source as users and the engine's supervisor see it: one event at a time, paced, closed."""

from __future__ import annotations

import asyncio

import pytest
from databento_dbn import Action
from dbn_oracle import BASE, SECOND, take, top, trade

from market_data_core.clock import ManualClock
from market_data_core.errors import InvalidInstrument, SourceError
from market_data_core.models import Quote, Trade
from market_data_core.protocols import BatchSource, TickSource
from market_data_core.schemas import Origin
from market_data_pipeline.source.databento import DatabentoSource


def test_it_is_both_kinds_of_source(dbn_file):
    """It is a source for the engine that can wait, and a source of ticks."""
    source = DatabentoSource(dbn_file([]), symbols=["abc", "XYZ", "abc"])
    assert isinstance(source, BatchSource)
    assert isinstance(source, TickSource)
    assert (source.name, source.origin, source.waits) == ("databento", Origin.REPLAY, True)
    assert (source.symbols, source.status) == (("ABC", "XYZ"), "pending")


async def test_events_come_one_by_one_in_order(dbn_file):
    """Quotes and trades of one update come as values, in the order of their times."""
    source = DatabentoSource(dbn_file([top(0), top(5, action=Action.TRADE), top(9), trade(9)]))
    events = [event async for event in source.stream()]
    assert [(type(e), e.ts_event_ns - BASE) for e in events] == [
        (Quote, 0),
        (Quote, 5),
        (Trade, 5),
        (Quote, 9),
        (Trade, 9),
    ]
    assert (events[0].bid, events[0].ask, events[2].price, events[2].symbol) == (99.0, 101.0, 100.0, "ABC")
    assert (source.status, source.symbols) == ("closed", ("ABC",))


async def test_a_quote_is_that_of_the_stream(dbn_file):
    """Before the stream has begun it is the file's first quote of the symbol, then the newest that was given."""
    records = [top(0, 50.0, number=2), top(1, 90.0), top(2, 91.0), top(3, 92.0)]
    source = DatabentoSource(dbn_file(records))
    assert (await source.get_quote("abc")).bid == 90.0
    async for event in source.stream():
        if event.ts_event_ns == BASE + 3:
            assert (await source.get_quote("ABC")).bid == 92.0
    assert (await source.get_quote("XYZ")).bid == 50.0
    with pytest.raises(InvalidInstrument, match="'NONE'"):
        await source.get_quote("NONE")


async def test_a_quote_that_was_not_asked_for_is_none(dbn_file):
    """Symbols that a source was not made for are not looked up."""
    source = DatabentoSource(dbn_file([top()]), symbols=["XYZ"])
    with pytest.raises(InvalidInstrument):
        await source.get_quote("ABC")


async def test_closing_ends_the_stream(dbn_file):
    """After close nothing more comes, from readers under way and from new ones; closing twice is nothing."""
    source = DatabentoSource(dbn_file([trade(i) for i in range(50_000)]), batch_rows=10)
    seen = 0
    async for _ in source.batches({}):
        seen += 1
        if seen == 3:
            await source.close()
    assert seen == 3
    await source.close()
    assert source.status == "closed"
    assert [item async for item in source.batches({})] == []
    assert [event async for event in source.stream()] == []


async def test_events_wait_for_their_time(dbn_file):
    """At a speed, recorded time between events passes on the clock, and a night does not hold up closing."""
    clock = ManualClock()
    source = DatabentoSource(dbn_file([trade(0), trade(10 * SECOND), trade(9000 * SECOND)]), speed=10, clock=clock)
    times = []

    async def read():
        async for batch in source.batches({}):
            times.append(batch.data.column("ts_event")[0].as_py() - BASE)  # noqa: PERF401  looked at meanwhile

    async def moved(count, seconds):
        for _ in range(1000):
            if len(times) == count:
                return
            clock.advance(seconds)
            await asyncio.sleep(0.001)
        pytest.fail(f"{len(times)} of {count} events came")

    reading = asyncio.create_task(read())
    await moved(1, 0)
    clock.advance(0.9)
    await asyncio.sleep(0)
    assert times == [0]
    await moved(2, 0.05)
    assert clock.now_ns() >= SECOND
    assert times == [0, 10 * SECOND]
    closing = asyncio.create_task(source.close())
    for _ in range(1000):
        if reading.done():
            break
        clock.advance(1)
        await asyncio.sleep(0.001)
    await asyncio.gather(closing, reading)
    assert len(times) == 2


async def test_progress_is_told(dbn_file):
    """Files, records, bytes and recorded time are all there at the end."""
    paths = [dbn_file([trade(0), trade(1)], "a.dbn"), dbn_file([], "b.dbn"), dbn_file([top(7)], "c.dbn.zst")]
    source = DatabentoSource(paths)
    await take(source)
    progress, size = source.progress, sum(p.stat().st_size for p in paths)
    assert (progress.files_total, progress.files_done, progress.files_empty) == (3, 3, 1)
    assert (progress.rows_read, progress.rows_total_estimate, progress.rows_rejected) == (3, 3, 0)
    assert (progress.bytes_read, progress.bytes_total) == (size, size)
    assert progress.ts_event == BASE + 7 + 1000


async def test_an_error_is_raised_to_the_reader_of_events(dbn_file, tmp_path):
    """What stands before the damage reaches the user first, then the error does."""
    path = tmp_path / "bad.dbn"
    path.write_bytes(dbn_file([trade(0), trade(1)]).read_bytes()[:-1])
    seen = []

    async def read():
        async for event in DatabentoSource(path).stream():
            seen.append(event.ts_event_ns)  # noqa: PERF401  what was given must outlive the error

    with pytest.raises(SourceError, match=r"bad\.dbn"):
        await read()
    assert seen == [BASE]
