from __future__ import annotations

import asyncio
from datetime import UTC, datetime

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from market_data_core.batch import EventBatch, Instrument, Instruments, SourceBatch, unlogged
from market_data_core.clock import ManualClock
from market_data_core.errors import SourceError, ValidationError
from market_data_core.models import Bar, EventMeta, Position, Quote, Trade
from market_data_core.protocols import Mark
from market_data_core.schemas import EVENT_SCHEMAS, Kind, Origin
from market_data_pipeline.events import iter_events, stream_events, to_source_batches

NOON_NS = 1_704_196_800_123_456_789
BOTH = [Instrument(vendor="acme", symbol="AAPL"), Instrument(vendor="acme", symbol="MSFT")]

QUOTES = {
    "instrument": [1, 0],
    "ts_event": [NOON_NS, NOON_NS + 1],
    "ts_recv": [NOON_NS + 5, 0],
    "flags": [128, 0],
    "bid_price": [10.0, None],
    "bid_size": [100.0, None],
    "ask_price": [10.01, 20.0],
    "ask_size": [200.0, float("nan")],
}
TRADES = {
    "instrument": [0, 1],
    "ts_event": [NOON_NS, NOON_NS + 2],
    "price": [10.0, -1.5],
    "size": [5.0, 7.0],
    "exchange": ["Q", None],
    "conditions": ["@", None],
    "trade_id": ["a1", None],
    "aggressor_side": ["BUYER", None],
}
BARS = {
    "instrument": [0],
    "ts_event": [NOON_NS],
    "interval": ["1m"],
    "open": [1.0],
    "high": [3.0],
    "low": [0.5],
    "close": [2.0],
    "volume": [10.0],
    "vwap": [1.75],
    "trade_count": [3],
}


def batch(kind, columns, instruments=BOTH):
    """A batch from a source, with as many rows as the columns have."""
    return SourceBatch(kind=kind, data=unlogged(kind, len(columns["ts_event"]), columns), instruments=instruments)


class ListedSource:
    """Gives what it was made with; an error among it is raised, a future waited for."""

    name = "listed"
    origin = Origin.REPLAY
    waits = True

    def __init__(self, *items):
        self.items = items
        self.finished = False

    async def batches(self, resume):
        try:
            for item in self.items:
                if isinstance(item, Exception):
                    raise item
                if isinstance(item, asyncio.Event):
                    await item.wait()
                else:
                    yield item
        finally:
            self.finished = True

    async def close(self):
        pass


def test_quotes_become_values():
    """Every column lands in its field, absent ones as None, times exact."""
    one, two = iter_events(batch(Kind.QUOTES, QUOTES))
    assert one == Quote(symbol="MSFT", bid=10.0, ask=10.01, bid_size=100, ask_size=200, ts_event_ns=NOON_NS)
    assert one.timestamp == datetime(2024, 1, 2, 12, 0, 0, 123456, tzinfo=UTC)
    assert two == Quote(symbol="AAPL", ask=20.0, ts_event_ns=NOON_NS + 1)


def test_trades_become_values():
    """A trade keeps place, conditions, id and side, where it has them."""
    one, two = iter_events(batch(Kind.TRADES, TRADES))
    assert one == Trade(
        symbol="AAPL",
        price=10.0,
        size=5.0,
        exchange="Q",
        conditions="@",
        trade_id="a1",
        aggressor_side="BUYER",
        ts_event_ns=NOON_NS,
    )
    assert two == Trade(symbol="MSFT", price=-1.5, size=7.0, ts_event_ns=NOON_NS + 2)


def test_bars_become_values():
    """A bar's interval is its resolution; what the batch leaves open is as the model has it."""
    (bar,) = iter_events(batch(Kind.BARS, BARS))
    assert bar == Bar(
        symbol="AAPL",
        resolution="1m",
        open=1.0,
        high=3.0,
        low=0.5,
        close=2.0,
        volume=10.0,
        vwap=1.75,
        trade_count=3,
        ts_event_ns=NOON_NS,
    )
    assert (bar.what, bar.session, bar.source, bar.revision) == ("TRADES", "ALL", "internal", 0)


def test_values_are_valid():
    """What is built without validation would have passed it."""
    for kind, columns in ((Kind.QUOTES, QUOTES), (Kind.TRADES, TRADES), (Kind.BARS, BARS)):
        for event in iter_events(batch(kind, columns), origin=Origin.REPLAY):
            assert type(event).model_validate(event.model_dump()) == event


def test_logged_events_say_what_the_platform_knows():
    """Vendor, receive time, number, flags and origin stand in `meta`."""
    unnumbered = batch(Kind.QUOTES, QUOTES).data
    data = unnumbered.add_column(3, EVENT_SCHEMAS[Kind.QUOTES].field("seq"), pa.array([7, 8]))
    logged = EventBatch(kind=Kind.QUOTES, data=data, instruments=Instruments(BOTH), origin=Origin.BACKFILL)
    assert next(iter_events(logged)).meta == EventMeta(
        vendor="acme", ts_recv_ns=NOON_NS + 5, seq=7, flags=128, origin=Origin.BACKFILL
    )


def test_events_that_were_not_stamped_are_given_a_time():
    """A receive time of 0 is replaced by the one the caller knows, others stand."""
    events = iter_events(batch(Kind.QUOTES, QUOTES), origin=Origin.LIVE, ts_recv_ns=99)
    assert [e.meta.ts_recv_ns for e in events] == [NOON_NS + 5, 99]


def test_rows_that_make_no_value_are_left_out():
    """A trade without a price, null or NaN, does not stop the others."""
    columns = TRADES | {"instrument": [0, 0, 1], "ts_event": [1, 2, 3], "price": [None, float("nan"), 5.0]}
    columns = {n: v + [v[-1]] * (3 - len(v)) for n, v in columns.items()}
    assert [e.ts_event_ns for e in iter_events(batch(Kind.TRADES, columns))] == [3]


def test_kinds_without_a_value_are_refused():
    """Depth has no per-event value here, and that is said."""
    with pytest.raises(ValidationError, match="depth"):
        next(iter_events(batch(Kind.DEPTH, {"ts_event": [1], "instrument": [0]})))


numbers = st.none() | st.floats(allow_nan=False, allow_infinity=False)
sizes = st.none() | st.floats(0, 1e12)
texts = st.none() | st.text(max_size=5)
times = st.integers(0, 2**62)
rows = {
    Kind.QUOTES: {"bid_price": numbers, "bid_size": sizes, "ask_price": numbers, "ask_size": sizes},
    Kind.TRADES: {
        "price": st.floats(allow_nan=False, allow_infinity=False),
        "size": st.floats(0, 1e12),
        "exchange": texts,
        "conditions": texts,
        "trade_id": texts,
        "aggressor_side": texts,
    },
    Kind.BARS: {
        "interval": st.sampled_from(["1s", "5m"]),
        "what": st.sampled_from(["TRADES", "BID"]),
        "session": st.sampled_from(["ALL", "RTH"]),
        "source": st.sampled_from(["internal", "external"]),
        "open": st.floats(-9, 9),
        "high": st.floats(-9, 9),
        "low": st.floats(-9, 9),
        "close": st.floats(-9, 9),
        "volume": sizes,
        "vwap": numbers,
        "trade_count": st.none() | st.integers(0, 2**62),
        "revision": st.integers(0, 2**31 - 1),
    },
}
common = {"ts_event": times, "ts_recv": times, "flags": st.integers(0, 2**30)}


@given(data=st.data(), kind=st.sampled_from(list(rows)))
@settings(max_examples=60, deadline=None)
def test_values_turn_back_into_their_batch(data, kind):
    """Batch to values to batch changes nothing."""
    drawn = data.draw(st.lists(st.fixed_dictionaries(common | rows[kind]), min_size=1, max_size=8))
    columns = {name: [row[name] for row in drawn] for name in drawn[0]}
    given_ = batch(kind, columns | {"instrument": [i % 2 for i in range(len(drawn))]})
    (back,) = to_source_batches(iter_events(given_, origin=Origin.REPLAY), "acme")
    assert back.kind is kind
    assert back.data.equals(given_.data)
    assert list(back.instruments) == BOTH[: len(drawn)]


def test_values_of_several_kinds_become_a_batch_each():
    """A mix is split by kind and keeps its order within each."""
    values = [
        Trade(symbol="msft", price=2.0, size=1.0, ts_event_ns=1),
        Quote(symbol="AAPL", ts_event_ns=2),
        Trade(symbol="AAPL", price=1.0, size=1.0, ts_event_ns=3),
    ]
    trades, quotes = to_source_batches(values, "acme")
    assert (trades.kind, quotes.kind) == (Kind.TRADES, Kind.QUOTES)
    assert trades.data.column("ts_event").to_pylist() == [1, 3]
    assert [trades.instruments[i].symbol for i in trades.data.column("instrument").to_pylist()] == ["MSFT", "AAPL"]
    assert quotes.data.column("bid_price").to_pylist() == [None]
    assert trades.data.column("ts_recv").to_pylist() == [0, 0]


def test_instruments_keep_their_places_from_call_to_call():
    """One table of instruments serves a source all its life."""
    table = []
    for symbol in ("A", "B", "A"):
        to_source_batches([Quote(symbol=symbol, ts_event_ns=1)], "acme", table)
    assert [(i.vendor, i.symbol) for i in table] == [("acme", "A"), ("acme", "B")]


def test_no_values_make_no_batches():
    """Nothing in, nothing out."""
    assert to_source_batches([], "acme") == []


def test_other_values_are_refused():
    """What is no quote, trade or bar cannot feed the engine, and is named."""
    with pytest.raises(ValidationError, match=Position.__name__):
        to_source_batches([Position.model_construct()], "acme")


async def streamed(source, clock=None):
    return [event.ts_event_ns async for event in stream_events(source, clock or ManualClock(5))]


def timed(kind, *times_ns):
    count = len(times_ns)
    prices = {"price": [1.0] * count, "size": [1.0] * count} if kind is Kind.TRADES else {}
    return batch(kind, {"instrument": [0] * count, "ts_event": list(times_ns)} | prices)


async def test_batches_that_overlap_are_merged_by_time():
    """Quotes and trades of one stretch come in the order of their times."""
    source = ListedSource(
        timed(Kind.QUOTES, 1, 2, 5), timed(Kind.TRADES, 3, 4), timed(Kind.QUOTES, 6, 9), timed(Kind.TRADES, 7)
    )
    assert await streamed(source) == [1, 2, 3, 4, 5, 6, 7, 9]


async def test_a_batch_keeps_its_own_order():
    """Within a batch the source's order stands, as do batches of one kind."""
    assert await streamed(ListedSource(timed(Kind.QUOTES, 5, 2), timed(Kind.QUOTES, 1, 3))) == [5, 2, 1, 3]


async def test_nothing_is_held_back():
    """What has come is given though more of the same time may follow."""
    more = asyncio.Event()
    stream = stream_events(ListedSource(timed(Kind.QUOTES, 1, 9), more, timed(Kind.TRADES, 5)), ManualClock())
    first = [(await asyncio.wait_for(anext(stream), 5)).ts_event_ns for _ in range(2)]
    more.set()
    assert [*first, (await anext(stream)).ts_event_ns] == [1, 9, 5]
    await stream.aclose()


async def test_marks_and_other_kinds_are_left_out():
    """Only what has a value is given."""
    depth = batch(Kind.DEPTH, {"instrument": [0], "ts_event": [1]})
    source = ListedSource(depth, Mark(vendor="acme", ts_ns=3), timed(Kind.QUOTES, 2), depth, timed(Kind.TRADES))
    assert await streamed(source) == [2]


async def test_an_error_comes_after_what_came_before_it():
    """A source that breaks raises, and what it gave before is given first."""
    stream = stream_events(ListedSource(timed(Kind.QUOTES, 1, 2), SourceError("line 7")), ManualClock())
    assert [(await anext(stream)).ts_event_ns for _ in range(2)] == [1, 2]
    with pytest.raises(SourceError, match="line 7"):
        await anext(stream)


async def test_a_reader_who_leaves_ends_the_reading():
    """Closing the stream closes the source's batches too."""
    source = ListedSource(timed(Kind.QUOTES, 1, 2), asyncio.Event())
    stream = stream_events(source, ManualClock())
    await anext(stream)
    await stream.aclose()
    assert source.finished


async def test_the_clock_stamps_what_comes_unstamped():
    """Events without a receive time get the present one, and the source's origin."""
    (event,) = [e async for e in stream_events(ListedSource(timed(Kind.QUOTES, 1)), ManualClock(42))]
    assert event.meta == EventMeta(vendor="acme", ts_recv_ns=42, origin=Origin.REPLAY)
