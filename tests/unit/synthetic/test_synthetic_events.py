from __future__ import annotations

import asyncio
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from market_data_core.batch import SourceBatch
from market_data_core.errors import ConfigurationError, SourceError
from market_data_core.protocols import END_OF_TIME_NS, BatchSource, Mark, TickSource
from market_data_core.schemas import Kind, Origin
from market_data_pipeline.source.synthetic import SyntheticSource

SECOND = 1_000_000_000
TIMES = ("ts_event", "ts_recv")


def read(source, resume=None):
    """Read a source that ends."""

    async def collect():
        return [item async for item in source.batches(resume or {})]

    return asyncio.run(collect())


def table(items, kind):
    """All rows of a kind as one table."""
    return pa.Table.from_batches([i.data for i in items if isinstance(i, SourceBatch) and i.kind is kind])


def made(**arguments):
    return SyntheticSource(**({"time": "virtual", "count": 20_000, "max_skew_s": 60.0} | arguments))


@pytest.fixture(scope="module")
def events():
    """Quotes and trades of one default market."""
    items = read(made(count=200_000, rate=0))
    return table(items, Kind.QUOTES), table(items, Kind.TRADES)


def column(rows, name):
    return rows.column(name).to_numpy()


def test_it_is_a_source_for_the_engine_and_for_users():
    """One class serves both ports."""
    source = SyntheticSource(symbols=["aapl", "MSFT"])
    assert isinstance(source, BatchSource)
    assert isinstance(source, TickSource)
    assert list(source.symbols) == ["AAPL", "MSFT"]
    assert (source.name, source.origin, source.status) == ("synthetic", Origin.SYNTHETIC, "pending")


def test_real_time_does_not_wait_and_virtual_time_does():
    """Only virtual time can be slowed down."""
    assert not SyntheticSource().waits
    assert SyntheticSource(time="virtual").waits


def test_a_number_of_symbols_makes_them_up():
    """An int stands for that many made-up tickers."""
    assert list(SyntheticSource(symbols=3).symbols) == ["SYN0000", "SYN0001", "SYN0002"]


@pytest.mark.parametrize(
    "arguments",
    [
        {"symbols": []},
        {"symbols": 0},
        {"symbols": "AAPL"},
        {"symbols": ["AAPL", "aapl"]},
        {"symbols": [" "]},
        {"rate": -1},
        {"rate": 0.0001},
        {"rate": float("nan")},
        {"rate": float("inf")},
        {"kinds": (0, 0)},
        {"kinds": (-1, 2)},
        {"count": -1},
        {"batch_rows": 0},
        {"start_ns": -1},
        {"linger_s": -1.0},
        {"max_skew_s": 0.0},
        {"time": "imaginary"},
    ],
    ids=str,
)
def test_arguments_out_of_range_are_refused(arguments):
    """A wrong setting is named at once."""
    with pytest.raises(ConfigurationError):
        SyntheticSource(**arguments)


def test_instruments_say_their_steps():
    """Prices have two decimals, sizes none."""
    batch = read(made(count=10))[0]
    assert {(i.vendor, i.price_decimals, i.size_decimals) for i in batch.instruments} == {("synthetic", 2, 0)}


@given(batch_rows=st.integers(1, 5000), rate=st.sampled_from([0, 0.5, 7, 1000, 2e6]))
@settings(max_examples=15, deadline=None)
def test_batches_and_rate_change_nothing_but_times(batch_rows, rate):
    """The same seed gives the same events, however they are cut and paced."""
    usual = read(made(count=2000))
    other = read(made(count=2000, batch_rows=batch_rows, rate=rate, max_skew_s=1e6))
    for kind in (Kind.QUOTES, Kind.TRADES):
        assert table(other, kind).drop_columns(TIMES).equals(table(usual, kind).drop_columns(TIMES))


def test_the_start_and_length_of_virtual_time_change_no_event():
    """What happens depends neither on when it begins nor on how much is asked for."""
    usual, other = read(made(count=1000)), read(made(count=3000, start_ns=0))
    rows = table(usual, Kind.QUOTES).num_rows
    assert table(other, Kind.QUOTES)[:rows].drop_columns(TIMES).equals(table(usual, Kind.QUOTES).drop_columns(TIMES))


def test_another_seed_is_another_market():
    """Events and ids differ between seeds."""
    one, two = (table(read(made(count=1000, seed=s)), Kind.TRADES) for s in (1, 2))
    assert not one.column("price").equals(two.column("price"))
    assert set(one.column("trade_id").to_pylist()).isdisjoint(two.column("trade_id").to_pylist())


@given(
    quotes=st.integers(0, 4500),
    trades=st.integers(0, 1300),
    batch_rows=st.integers(50, 3000),
    kinds=st.sampled_from([(4, 1), (1, 1), (3, 2), (1, 0), (0, 1)]),
)
@settings(max_examples=40, deadline=None)
def test_a_resume_gives_the_tail(quotes, trades, batch_rows, kinds):
    """From any offsets of the two sequences on comes exactly what has not been given, times included."""
    source = made(count=5000, batch_rows=batch_rows, kinds=kinds)
    whole = read(made(count=5000, kinds=kinds))
    done = {Kind.QUOTES: quotes, Kind.TRADES: trades}
    tail = read(source, {f"{source.source_id}:{kind}": offset for kind, offset in done.items()})
    for kind, offset in done.items():
        expected = [b for i in whole if isinstance(i, SourceBatch) and i.kind is kind for b in i.data.to_pylist()]
        given_ = [b for i in tail if isinstance(i, SourceBatch) and i.kind is kind for b in i.data.to_pylist()]
        assert given_ == expected[offset:]
    assert isinstance(tail[-1], Mark)


def test_a_resume_far_out_costs_no_more_than_the_beginning():
    """A million million events in, the next ones come at once and agree with those who came by another cut."""
    start = 10**12
    source = made(count=start + 1000)
    resume = {f"{source.source_id}:quotes": start // 5 * 4, f"{source.source_id}:trades": start // 5}
    later = resume | {f"{source.source_id}:quotes": start // 5 * 4 + 100}
    near, nearer = (table(read(made(count=start + 1000), r), Kind.QUOTES) for r in (resume, later))
    assert near.num_rows == 800
    assert near[100:].equals(nearer)


def test_offsets_count_each_kind():
    """An offset is the exclusive end of its own sequence and the sum of all rows before it."""
    seen = {Kind.QUOTES: 0, Kind.TRADES: 0}
    source = made(batch_rows=700)
    for item in read(source)[:-2]:
        seen[item.kind] += item.data.num_rows
        assert (item.source_id, item.offset) == (f"{source.source_id}:{item.kind}", seen[item.kind])
    assert seen == {Kind.QUOTES: 16_000, Kind.TRADES: 4_000}


def test_the_count_ends_each_sequence_with_a_mark():
    """After the last event marks close both sequences and count as one event of each."""
    source = made(count=12)
    expected = [
        Mark(vendor="synthetic", ts_ns=END_OF_TIME_NS, source_id=f"{source.source_id}:{kind}", offset=offset)
        for kind, offset in (("quotes", 11), ("trades", 3))
    ]
    assert read(source)[-2:] == expected
    assert source.status == "closed"


def test_nothing_comes_after_the_mark_is_safe():
    """A resume past the mark gives neither events nor a second mark."""
    source = made(count=12)
    ends = {item.source_id: item.offset for item in read(source)}
    assert read(made(count=12), ends) == []


def test_a_resume_between_last_event_and_mark_gives_the_mark():
    """The end is said even if the run broke right before it."""
    source = made(count=12)
    ends = {item.source_id: item.offset for item in read(source)[:-2]}
    assert [type(item) for item in read(made(count=12), ends)] == [Mark, Mark]


def test_source_ids_tell_sequences_apart():
    """What the events depend on is in the id, and nothing else."""
    same = [made(), made(batch_rows=5)]
    others = [made(count=7)]
    others += [made(seed=2), made(symbols=2), made(kinds=(1, 1)), made(rate=5), made(start_ns=0), SyntheticSource()]
    assert len({s.source_id for s in same}) == 1
    assert len({s.source_id for s in [same[0], *others]}) == 8
    assert made(seed=7).source_id.startswith("synthetic:7:")
    assert SyntheticSource(rate=5).source_id == SyntheticSource(rate=50).source_id


@pytest.mark.parametrize("rate", [0.5, 3, 1000, 33.3, 7_000_000])
def test_virtual_times_are_exact(rate):
    """Event n stands at start + n / rate, rounded down to a nanosecond, and arrives a fixed moment later."""
    items = read(made(count=1000, rate=rate, start_ns=5, kinds=(2, 1)))
    both = [column(table(items, kind), "ts_event") for kind in (Kind.QUOTES, Kind.TRADES)]
    places = np.arange(1000)
    numerator, denominator = {33.3: (333, 10), 0.5: (1, 2)}.get(rate, (int(rate), 1))
    exact = [5 + n * denominator * SECOND // numerator for n in range(1000)]
    assert both[0].tolist() == [exact[n] for n in places[places % 3 < 2]]
    assert both[1].tolist() == [exact[n] for n in places[places % 3 == 2]]
    delays = column(table(items, Kind.QUOTES), "ts_recv") - both[0]
    assert len(set(delays.tolist())) == 1
    assert delays[0] > 0


def test_virtual_times_stay_exact_far_out():
    """Ten thousand million events on, no digit is lost."""
    start = 10**10
    source = made(count=start + 5, rate=3, start_ns=0)
    resume = {f"{source.source_id}:quotes": start // 5 * 4, f"{source.source_id}:trades": start // 5}
    times = column(table(read(source, resume), Kind.QUOTES), "ts_event")
    assert times.tolist() == [n * SECOND // 3 for n in range(start, start + 4)]


def test_virtual_time_ends_with_an_error():
    """Where int64 nanoseconds end, the source says so instead of giving wrong times."""
    source = made(rate=0.001, count=None, kinds=(1, 0), start_ns=2**63 - 5000 * SECOND)
    seen = []

    async def collect():
        async for batch in source.batches({}):
            seen.extend(batch.data.column("ts_event").to_pylist())

    with pytest.raises(SourceError, match="event 4"):
        asyncio.run(collect())
    assert seen == [2**63 - s * SECOND for s in (5000, 4000, 3000, 2000)]


def test_unpaced_virtual_time_runs_a_million_events_a_second():
    """Rate 0 in virtual time is one event per microsecond."""
    items = read(made(count=5, rate=0, start_ns=0))
    assert column(table(items, Kind.QUOTES), "ts_event").tolist() == [0, 1000, 2000, 3000]


def test_one_stretch_of_virtual_time_is_short():
    """Quotes and trades given one after the other are at most the allowed skew apart."""
    for quotes, trades in pairwise(read(made(rate=1000, max_skew_s=0.25, count=10_000))[:-2]):
        both = np.concatenate([quotes.data.column("ts_event").to_numpy(), trades.data.column("ts_event").to_numpy()])
        if (quotes.kind, trades.kind) == (Kind.QUOTES, Kind.TRADES):
            assert np.ptp(both) <= SECOND // 4


def test_bids_stand_below_asks(events):
    """The book is never crossed, and spreads are one to five ticks."""
    quotes, _ = events
    spread = np.rint((column(quotes, "ask_price") - column(quotes, "bid_price")) * 100)
    assert spread.min() >= 1
    assert spread.max() <= 5
    assert len(np.unique(spread)) == 5


def test_prices_are_positive_and_on_a_tick(events):
    """Every price is the nearest float to a whole number of cents."""
    quotes, trades = events
    for prices in (column(quotes, "bid_price"), column(quotes, "ask_price"), column(trades, "price")):
        assert prices.min() > 0
        assert (prices == np.rint(prices * 100) / 100).all()


@given(seed=st.integers(0, 2**63), start=st.integers(0, 10**15))
@settings(max_examples=25, deadline=None)
def test_no_price_runs_away(seed, start):
    """Any seed, however far out, has positive prices in a credible range and no crossed book."""
    source = made(seed=seed, count=start + 500, rate=0)
    resume = {f"{source.source_id}:quotes": start // 5 * 4, f"{source.source_id}:trades": start // 5}
    quotes = table(read(source, resume), Kind.QUOTES)
    assert column(quotes, "bid_price").min() > 5
    assert column(quotes, "ask_price").max() < 1500
    assert (column(quotes, "bid_price") < column(quotes, "ask_price")).all()


def test_sizes_are_whole(events):
    """Quotes stand in round lots; trades in whole units, odd lots and large ones among them."""
    quotes, trades = events
    for sizes in (column(quotes, "bid_size"), column(quotes, "ask_size")):
        assert (sizes % 100 == 0).all()
        assert sizes.min() == 100
    sizes = column(trades, "size")
    assert (sizes == np.rint(sizes)).all()
    assert sizes.min() >= 1
    assert sizes.max() > 50 * np.median(sizes)


def test_trades_stand_at_the_quotes_of_their_moment(events):
    """Buyers pay about the ask and sellers get about the bid of the symbol's last quote."""
    quotes, trades = events
    last = {}
    rows = [(r["ts_event"], 0, r) for r in quotes[:40_000].to_pylist()]
    rows += [(r["ts_event"], 1, r) for r in trades[:10_000].to_pylist()]
    far = checked = 0
    for _, is_trade, row in sorted(rows, key=lambda r: r[:2]):
        if not is_trade:
            last[row["instrument"]] = row
        elif row["instrument"] in last:
            side = "ask_price" if row["aggressor_side"] == "BUYER" else "bid_price"
            checked += 1
            far += abs(row["price"] - last[row["instrument"]][side]) > 0.10
    assert checked > 9000
    assert far < checked * 0.02


def test_trades_are_complete(events):
    """Each trade has an id of its own, a side, a place and conditions; both sides occur."""
    _, trades = events
    assert len(set(trades.column("trade_id").to_pylist())) == trades.num_rows
    assert set(trades.column("aggressor_side").to_pylist()) == {"BUYER", "SELLER"}
    assert {"Q", "N"} < set(trades.column("exchange").to_pylist())
    assert sum(trades.column(n).null_count for n in trades.column_names) == 0


def test_few_symbols_have_most_events(events):
    """Activity falls about as one over the rank, and every symbol has some."""
    counts = np.bincount(column(events[0], "instrument"), minlength=20)
    assert counts.min() > 0
    assert 1.6 < counts[0] / counts[1] < 2.4
    assert 7 < counts[0] / counts[9] < 13
    assert counts[:4].sum() > counts.sum() / 2


def test_even_the_quietest_of_many_symbols_has_events():
    """Ten thousand symbols all occur."""
    items = read(made(symbols=10_000, count=3_000_000, rate=0, kinds=(1, 0), batch_rows=200_000))
    assert len(np.unique(column(table(items, Kind.QUOTES), "instrument"))) == 10_000


def test_symbols_have_bursts(events):
    """Now and then a symbol that is usually quiet has most of a thousand events."""
    symbols = column(events[0], "instrument")
    whole = len(symbols) // 400 * 400
    peaks = [np.bincount(part, minlength=20)[10:].max() for part in symbols[:whole].reshape(-1, 400)]
    assert np.median(peaks) < 40
    assert max(peaks) > 200


def test_prices_move_and_keep_moving():
    """Over a day's worth of events a price wanders by per cents, in small steps."""
    starts = range(0, 20_000_000, 1_000_000)
    path = []
    for start in starts:
        part = made(symbols=1, count=start + 1000)
        resume = {f"{part.source_id}:quotes": start // 5 * 4, f"{part.source_id}:trades": start // 5}
        quotes = table(read(part, resume), Kind.QUOTES)
        steps = np.abs(np.diff(column(quotes, "bid_price"))) / column(quotes, "bid_price")[1:]
        assert steps.max() < 0.001
        path.append(column(quotes, "bid_price")[0])
    assert 0.005 < np.ptp(path) / path[0] < 0.5
