from __future__ import annotations

from fractions import Fraction
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from op_steps import BARRIER, BASE, Steps, end, flat, mark, split, stopped, trade

from market_data_core.errors import ConfigurationError
from market_data_core.schemas import Flag, Kind
from market_data_pipeline.operators.volume_bars import DollarBars, TickBars, VolumeBars


def bars(steps):
    """(start, open, high, low, close, volume, count) of what came out, times from BASE."""
    names = ("open", "high", "low", "close", "volume", "trade_count")
    return [(r["ts_event"] - BASE, *(r[n] for n in names)) for r in steps.rows]


def content(steps):
    """The rows of each series in order, without what says when they came out."""
    plain = [{k: v for k, v in r.items() if k not in ("seq", "ts_recv", "ts_known")} for r in steps.rows]
    return sorted(plain, key=lambda r: (r["vendor"], r["symbol"], r["ts_event"]))


def test_a_bar_closes_with_its_last_trade():
    """The next one begins with the trade after it."""
    events = [trade(1, 10.0, 2.0), trade(2, 12.0, 1.0), trade(3, 9.0, 4.0), trade(4, 11.0, 1.0), trade(5, 8.0, 1.0)]
    steps = Steps(lambda: TickBars(count=2)).run([events, BARRIER])
    assert bars(steps) == [(1, 10.0, 12.0, 10.0, 12.0, 3.0, 2), (3, 9.0, 11.0, 9.0, 11.0, 5.0, 2)]
    assert (steps.counts["absorbed"], steps.op.in_flight()) == (4, 1)


def test_a_trade_is_never_split():
    """The bar has all of the trade that reaches the volume, and what is over does not count for the next."""
    events = [trade(1, 1.0, 6.0), trade(2, 1.0, 30.0), trade(3, 1.0, 9.0), trade(4, 1.0, 1.0)]
    steps = Steps(lambda: VolumeBars(volume=10)).run([events, BARRIER])
    assert [(start, volume, n) for start, *_, volume, n in bars(steps)] == [(1, 36.0, 2), (3, 10.0, 2)]


def test_value_is_price_times_size():
    """Whatever the sign of the price."""
    events = [trade(1, 5.0, 1.0), trade(2, -5.0, 1.0), trade(3, 2.5, 4.0)]
    steps = Steps(lambda: DollarBars(value=10)).run([events, BARRIER])
    assert [(start, n) for start, *_, n in bars(steps)] == [(1, 2), (3, 1)]


def test_columns_say_what_a_bar_is():
    """Exact sums make the volume-weighted price; times are those of the span."""
    steps = Steps(lambda: VolumeBars(volume=3)).run([[trade(1, 10.0, 1.0), trade(9, 13.0, 2.0)], BARRIER])
    (row,) = steps.rows
    assert (row["interval"], row["what"], row["session"], row["source"]) == ("volume:3", "TRADES", "ALL", "internal")
    assert (row["vwap"], row["revision"], row["reason"], row["flags"]) == (12.0, 0, None, 0)
    assert (row["seq"], row["ts_recv"], row["ts_known"]) == (1, BASE + 2, BASE + 2)
    assert steps.op.gives(frozenset({Kind.TRADES})) == {steps.out[0].kind}


@pytest.mark.parametrize(
    ("op", "interval"),
    [
        (TickBars(count=100), "tick:100"),
        (VolumeBars(volume=10_000), "volume:10000"),
        (VolumeBars(volume=0.5), "volume:0.5"),
        (VolumeBars(volume=20.0), "volume:20"),
        (DollarBars(value=1_000_000), "dollar:1000000"),
        (DollarBars(value="1e6"), "dollar:1000000"),
    ],
)
def test_the_interval_is_named_in_plain_digits(op, interval):
    """It is part of a bar's key."""
    assert op.interval == interval


def test_bars_that_begin_at_one_time_are_told_apart():
    """By 1 ns each, also where time goes back."""
    events = [trade(5), trade(5), trade(5), trade(4), trade(9)]
    assert [b[0] for b in bars(Steps(lambda: TickBars(count=1)).run([events, BARRIER]))] == [5, 6, 7, 8, 9]


def test_a_series_goes_on_from_one_source_to_the_next():
    """The end of a file closes nothing, and its day is not forgotten."""
    steps = Steps(lambda: TickBars(count=2)).run([trade(1, source="a"), BARRIER, end("a"), BARRIER])
    assert (steps.rows, steps.op.in_flight()) == ([], 1)
    steps.run([trade(2, source="b"), mark(5, "b"), BARRIER])
    assert [b[0] for b in bars(steps)] == [1]


def test_the_last_bar_can_be_had_in_part():
    """When the instrument's last source has ended; the row says so."""
    steps = Steps(lambda: TickBars(count=2, partial=True))
    steps.run([trade(1, source="a"), trade(2, source="b"), trade(3, source="b"), end("a"), BARRIER])
    assert [b[0] for b in bars(steps)] == [1]
    steps.run([end("b"), BARRIER])
    assert [(r["reason"], r["trade_count"]) for r in steps.rows] == [(None, 2), ("partial", 1)]
    assert steps.op.in_flight() == 0


def test_trades_of_two_sources_are_taken_in_log_order():
    """Though they reach the operator source by source."""
    steps = Steps(lambda: TickBars(count=2))
    first, second = trade(1, 1.0, source="a"), trade(2, 2.0, source="b")
    batches = [steps._batch([first])]
    steps.seq = 1
    batches.insert(0, steps._batch([second]))
    steps.entered = steps.seq = 2
    for batch in batches:
        steps.op.process(batch)
    assert bars(steps.run([BARRIER])) == [(1, 1.0, 2.0, 1.0, 2.0, 2.0, 2)]


def test_what_is_no_trade_is_filtered_out():
    """No price, a size below 0, a time far ahead; an absent size is none."""
    events = [trade(1, None), trade(1, float("nan")), trade(1, 1.0, -1.0), trade(1, flags=int(Flag.TS_EVENT_FUTURE))]
    steps = Steps(lambda: TickBars(count=1)).run([[*events, trade(2, 1.0, None)], BARRIER])
    assert steps.counts["filtered"] == 4
    assert bars(steps) == [(2, 1.0, 1.0, 1.0, 1.0, 0.0, 1)]
    assert steps.rows[0]["vwap"] is None


def test_a_bound_finer_than_the_steps_is_reached_by_the_next_step():
    """Sizes come in whole units here."""
    steps = Steps(lambda: VolumeBars(volume=1.5), decimals=(2, 0)).run([[trade(1), trade(2), trade(3)], BARRIER])
    assert [b[-1] for b in bars(steps)] == [2]


@pytest.mark.parametrize("bound", [0, -1, float("nan"), float("inf"), "many", True, 1e31])
@pytest.mark.parametrize("make", [lambda b: VolumeBars(volume=b), lambda b: DollarBars(value=b)])
def test_wrong_bounds_are_refused(make, bound):
    """The message says which."""
    with pytest.raises(ConfigurationError, match="above 0"):
        make(bound)


@pytest.mark.parametrize("count", [0, 2.5, True])
def test_a_count_is_a_whole_number(count):
    """And above 0."""
    with pytest.raises(ConfigurationError, match="number"):
        TickBars(count=count)


PRICES = st.one_of(st.integers(-20, 2000).map(lambda n: n / 100), st.sampled_from([0.0, 250_000.12345678]))
SIZES = st.one_of(
    st.integers(0, 50).map(lambda n: n / 10), st.sampled_from([0.1, 0.3, 0.00000001, 90_071_992.54740993, 3e25])
)
TRADES = st.builds(
    lambda ts, price, size, symbol, source: trade(ts, price, size, symbol=symbol, source=source),
    st.integers(0, 9),
    PRICES,
    SIZES,
    st.sampled_from("XY"),
    st.sampled_from("ab"),
)
MAKERS = st.sampled_from(
    [
        lambda: TickBars(count=3),
        lambda: TickBars(count=3, partial=True),
        lambda: VolumeBars(volume=0.7),
        lambda: VolumeBars(volume="6.1", partial=True),
        lambda: DollarBars(value=25),
    ]
)
SCRIPTS = st.lists(
    st.one_of(
        TRADES,
        st.lists(TRADES, min_size=1, max_size=8),
        st.just(BARRIER),
        st.sampled_from("ab").map(end),
    ),
    max_size=25,
)


@settings(deadline=None)
@given(st.lists(TRADES, max_size=50), st.sampled_from(["0.7", "3", "1000"]))
def test_volume_bars_equal_naive_ones_and_lose_nothing(events, volume):
    """Whole trades, in exact fractions: each in one bar, in order; every bar but the last has reached its volume."""
    steps = Steps(lambda: VolumeBars(volume=volume, partial=True)).run([events, end("a"), end("b"), BARRIER])
    for symbol in "XY":
        expected, open_ = [], []
        for e in (e for e in events if e.symbol == symbol):
            open_.append(e)
            if sum(Fraction(repr(t.values["size"])) for t in open_) >= Fraction(volume):
                expected.append(open_)
                open_ = []
        expected += [open_] if open_ else []
        rows = [r for r in steps.rows if r["symbol"] == symbol]
        found = [(r["volume"], r["trade_count"], r["open"], r["close"], r["high"], r["low"]) for r in rows]
        assert found == [
            (
                float(sum(Fraction(repr(t.values["size"])) for t in ts)),
                len(ts),
                ts[0].values["price"],
                ts[-1].values["price"],
                max(t.values["price"] for t in ts),
                min(t.values["price"] for t in ts),
            )
            for ts in expected
        ]
        starts = [r["ts_event"] for r in rows]
        assert all(a < b for a, b in pairwise(starts))


@settings(deadline=None)
@given(SCRIPTS, st.lists(st.integers(1, 5), max_size=10), MAKERS)
def test_batches_and_barriers_change_no_bar(script, cuts, make):
    """Not a digit, nor a start."""
    cut = []
    for step in script:
        cut += [x for part in split(step, cuts) for x in (part, BARRIER)] if isinstance(step, list) else [step]
    whole = Steps(make).run([*(s for s in script if s != BARRIER), BARRIER])
    parts = Steps(make).run([*cut, BARRIER])
    assert content(parts) == content(whole)
    assert parts.counts == whole.counts
    assert parts.op.in_flight() == whole.op.in_flight()


@settings(deadline=None)
@given(SCRIPTS, MAKERS, st.sets(st.integers(0, 25)))
def test_going_on_from_a_snapshot_changes_nothing(script, make, stops):
    """At any point, between barriers too, and under other instrument ids."""
    script = [*script, BARRIER]
    steady = Steps(make).run(script)
    again = stopped(make, script, stops)
    assert again.rows == steady.rows
    assert again.counts == steady.counts
    assert sum(r["trade_count"] for r in steady.rows) + steady.op.in_flight() == len(flat(script))
