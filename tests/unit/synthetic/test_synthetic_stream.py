from __future__ import annotations

import asyncio
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from market_data_core.batch import SourceBatch
from market_data_core.clock import ManualClock
from market_data_core.errors import InvalidInstrument
from market_data_core.models import Quote, Trade
from market_data_core.schemas import Origin
from market_data_pipeline.source.synthetic import SyntheticSource

SECOND = 1_000_000_000
START_NS = 1_700_000_000 * SECOND


class Reader:
    """Reads a source in a task of its own, as fast as it gives."""

    def __init__(self, source, resume=None):
        self.batches = []
        self.task = asyncio.create_task(self._read(source, resume or {}))

    async def _read(self, source, resume):
        async for item in source.batches(resume):
            self.batches.append(item)

    async def settle(self):
        """Let everything that can happen without time passing happen."""
        for _ in range(100):
            await asyncio.sleep(0)

    def times(self):
        return np.sort(np.concatenate([np.empty(0, np.int64), *(b.data.column("ts_event") for b in self.batches)]))


@pytest.fixture
def clock():
    return ManualClock(START_NS)


async def finish(source, reader):
    await source.close()
    await asyncio.wait_for(reader.task, 5)


@given(
    rate=st.sampled_from([1, 2.5, 999, 50_000]),
    steps_s=st.lists(st.floats(0.002, 0.99), min_size=1, max_size=12),
)
@settings(max_examples=30, deadline=None)
def test_events_keep_to_the_rate_without_drift(rate, steps_s):
    """However unevenly time is noticed, one and rate times elapsed events have come, each stamped within that time."""

    async def check():
        clock = ManualClock(START_NS)
        source = SyntheticSource(rate=rate, clock=clock, symbols=3)
        reader = Reader(source)
        await reader.settle()
        for step_s in steps_s:
            clock.advance(step_s)
            await reader.settle()
        elapsed_ns = clock.now_ns() - START_NS
        times = reader.times()
        # A period need not be whole nanoseconds, so the first may stand one before its time, and all others with it.
        assert int(elapsed_ns * rate) // SECOND + 1 <= len(times) <= int((elapsed_ns + 1) * rate) // SECOND + 1
        assert START_NS - 1 <= times[0] <= START_NS
        assert times[-1] <= clock.now_ns()
        await finish(source, reader)

    asyncio.run(check())


async def test_a_slow_source_gives_each_event_when_it_is_due(clock):
    """At one event a second nothing is gathered: the first comes at once, each other at its second."""
    source = SyntheticSource(rate=1, clock=clock)
    reader = Reader(source)
    await reader.settle()
    for second in range(1, 8):
        clock.advance(1.0)
        await reader.settle()
        assert reader.times().tolist() == [START_NS + s * SECOND for s in range(second + 1)]
    await finish(source, reader)


async def test_a_fast_source_gathers_by_the_linger(clock):
    """At 100,000 events a second a millisecond comes as one batch per kind."""
    source = SyntheticSource(rate=100_000, clock=clock, linger_s=0.001)
    reader = Reader(source)
    await reader.settle()
    for _ in range(5):
        clock.advance(0.001)
        await reader.settle()
    assert [b.data.num_rows for b in reader.batches] == [1, *[80, 20] * 5]
    await finish(source, reader)


async def test_real_time_is_stamped_as_it_is_given(clock):
    """Each event has the clock's time at which it came, and keeps it while others follow."""
    source = SyntheticSource(clock=clock)
    reader = Reader(source)
    await reader.settle()
    came = []
    for _ in range(3):
        clock.advance(0.1)
        given = len(reader.batches)
        await reader.settle()
        came += [(batch, clock.now_ns()) for batch in reader.batches[given:]]
    assert len(came) > 3
    for batch, at_ns in came:
        assert set(batch.data.column("ts_recv").to_pylist()) == {at_ns}
    await finish(source, reader)


async def test_a_long_stall_is_not_made_up_for(clock):
    """After a minute of silence one second's worth comes, of that last second, and the rate goes on from there."""
    source = SyntheticSource(rate=1000, clock=clock)
    reader = Reader(source)
    await reader.settle()
    first = len(reader.times())
    clock.advance(60.0)
    await reader.settle()
    times = reader.times()[first:]
    assert len(times) == 1000
    assert times[0] > clock.now_ns() - SECOND
    clock.advance(0.5)
    await reader.settle()
    assert len(reader.times()) == first + 1500
    assert [b.offset for b in reader.batches if b.kind == "quotes"][-1] == first + 1200
    await finish(source, reader)


async def test_unpaced_real_time_gives_full_batches_of_the_present(clock):
    """Rate 0 gives as much as is read, never stamped ahead of the clock."""
    source = SyntheticSource(rate=0, clock=clock, batch_rows=1000)
    batches = source.batches({})
    first = [await anext(batches) for _ in range(4)]
    assert [b.data.num_rows for b in first] == [800, 200, 800, 200]
    clock.advance(0.01)
    later = await anext(batches)
    times = later.data.column("ts_event").to_numpy()
    assert START_NS < times[0] <= times[-1] <= clock.now_ns()
    assert (np.diff(times) >= 0).all()
    await batches.aclose()


async def test_a_resume_in_real_time_numbers_on(clock):
    """Events go on where they stopped, at the present time."""
    source = SyntheticSource(rate=1000, clock=clock)
    reader = Reader(source, {f"{source.source_id}:quotes": 400, f"{source.source_id}:trades": 100})
    await reader.settle()
    clock.advance(0.1)
    await reader.settle()
    assert [(b.data.num_rows, b.offset) for b in reader.batches] == [(1, 401), (80, 481), (20, 120)]
    whole = [b async for b in SyntheticSource(time="virtual", count=600, max_skew_s=60.0).batches({})]
    trades = next(b for b in whole if isinstance(b, SourceBatch) and b.kind == "trades")
    assert reader.batches[2].data.column("trade_id").equals(trades.data.column("trade_id")[100:120])
    assert (reader.times() >= START_NS).all()
    await finish(source, reader)


async def test_close_wakes_a_reader_who_waits(clock):
    """Closing ends batches at once, though the next event is a thousand seconds away."""
    source = SyntheticSource(rate=0.001, clock=clock)
    reader = Reader(source)
    await reader.settle()
    await source.close()
    await asyncio.wait_for(reader.task, 5)
    assert len(reader.times()) == 1
    assert source.status == "closed"


async def test_close_wakes_a_user_who_waits(clock):
    """Closing ends the stream of single events too, and may be done twice."""
    source = SyntheticSource(rate=0.001, clock=clock)
    waiting = asyncio.create_task(anext(source.stream(), None))
    await asyncio.sleep(0)
    await source.close()
    await source.close()
    assert await asyncio.wait_for(waiting, 5) is None


async def test_close_ends_an_endless_source():
    """A source without a count stops when closed between two events."""
    source = SyntheticSource(time="virtual", rate=0)
    seen = 0
    async for _ in source.stream():
        seen += 1
        if seen == 10:
            assert source.status == "live"
            await source.close()
    assert seen == 10
    assert source.status == "closed"


async def test_the_stream_goes_by_time():
    """Quotes and trades come as values, in the order of their times, marked as synthetic."""
    source = SyntheticSource(symbols=["AAPL", "MSFT"], time="virtual", count=5000, batch_rows=700)
    events = [event async for event in source.stream()]
    assert len(events) == 5000
    assert {type(e) for e in events} == {Quote, Trade}
    assert {e.symbol for e in events} == {"AAPL", "MSFT"}
    assert all(a.ts_event_ns <= b.ts_event_ns for a, b in pairwise(events))
    assert {(e.meta.vendor, e.meta.origin) for e in events} == {("synthetic", Origin.SYNTHETIC)}


async def test_the_stream_stamps_what_was_not_stamped(clock):
    """In real time the clock says when an event came."""
    source = SyntheticSource(rate=1, clock=clock)
    stream = source.stream()
    await asyncio.wait_for(anext(stream), 5)
    waiting = asyncio.create_task(anext(stream))
    for _ in range(20):
        await asyncio.sleep(0)
    clock.advance(1.5)
    event = await asyncio.wait_for(waiting, 5)
    assert (event.ts_event_ns, event.meta.ts_recv_ns) == (START_NS + SECOND, START_NS + SECOND + SECOND // 2)
    await source.close()
    await stream.aclose()


async def test_a_quote_can_be_asked_for(clock):
    """The present quote of a symbol has both sides, before anything was streamed."""
    source = SyntheticSource(symbols=["AAPL", "MSFT"], clock=clock)
    quote = await source.get_quote("msft")
    assert quote.symbol == "MSFT"
    assert 0 < quote.bid < quote.ask
    assert quote.bid_size % 100 == quote.ask_size % 100 == 0
    assert quote.ts_event_ns == START_NS


async def test_a_quote_agrees_with_the_stream():
    """What is asked for lies where the stream of the symbol is."""
    source = SyntheticSource(symbols=["AAPL"], time="virtual", rate=1000, count=1000)
    last = [event async for event in source.stream() if isinstance(event, Quote)][-1]
    quote = await source.get_quote("AAPL")
    assert abs(quote.bid - last.bid) < 0.1
    assert quote.ts_event_ns == last.ts_event_ns + SECOND // 500


async def test_an_unknown_symbol_is_refused():
    """Asking for what the source does not have says so."""
    with pytest.raises(InvalidInstrument, match="XYZ"):
        await SyntheticSource(symbols=["AAPL"]).get_quote("XYZ")
