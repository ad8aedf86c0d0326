"""Buffer, throttle, rolling statistics and windows: what waits for event time to pass."""

from __future__ import annotations

import math
import statistics
from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from op_drive import Ports, at, run, values
from operator_events import BASE, SECOND, Barrier, Quote, Trade, end, mark, trades

from market_data_core.errors import ConfigurationError
from market_data_core.schemas import Flag, Kind
from market_data_pipeline.operators import binary_sums
from market_data_pipeline.operators.buffer import Buffer
from market_data_pipeline.operators.rolling import Rolling
from market_data_pipeline.operators.throttle import Throttle
from market_data_pipeline.operators.tumbling import Window


def groups(drive):
    """The seqs of each batch that came out."""
    return [b.column("seq").tolist() for b in drive.out]


def test_a_buffer_gives_an_instruments_events_by_so_many():
    """Each group is a batch, in the order in which groups become complete; the end gives the rest in log order."""
    events = [Trade(n, symbol=s) for n, s in enumerate("XYXYXXXYZ")]
    drive = Ports(lambda: Buffer(rows=3)).run([events])
    assert groups(drive) == [[0, 2, 4], [1, 3, 7]]
    assert drive.op.in_flight() == 3
    drive.run([end(), Barrier()])
    assert groups(drive)[2:] == [[5, 6], [8]]
    assert drive.passed == 9


def test_a_buffer_waits_no_longer_than_so_many_seconds_of_event_time():
    """The first event so far past the group's beginning begins the next; a time that goes back does not."""
    events = [Trade(at(s)) for s in (0, 1, 0.5, 1.9, 2, 3, 7)]
    drive = Ports(lambda: Buffer(rows=100, seconds=2)).run([events, Barrier()])
    assert groups(drive) == [[0, 1, 2, 3], [4, 5]]
    drive.run([mark(at(8.9)), Barrier()])
    assert groups(drive)[2:] == []
    drive.run([mark(at(9)), Barrier()])
    assert groups(drive)[2:] == [[6]]


def test_events_far_ahead_do_not_move_a_buffers_clock():
    """They are held like others."""
    events = [Trade(0), Trade(at(100), flags=int(Flag.TS_EVENT_FUTURE)), Trade(at(1))]
    drive = Ports(lambda: Buffer(rows=100, seconds=2)).run([events, Barrier()])
    assert groups(drive) == []
    assert drive.op.in_flight() == 3


def naive_throttle(events, every, *, last):
    """Places of what passes, and how many are late and filtered, one by one."""
    latest, first, best = {}, {}, {}
    late = filtered = 0
    for n, e in enumerate(events):
        if e.flags & Flag.TS_EVENT_FUTURE:
            filtered += 1
            continue
        ts = BASE + e.ts
        key = (e.symbol, ts // every)
        if (ts // every + 1) * every <= latest.get(e.symbol, 0):
            late += 1
            continue
        latest[e.symbol] = max(latest.get(e.symbol, 0), ts)
        first.setdefault(key, n)
        if key not in best or events[best[key]].ts <= e.ts:
            best[key] = n
    return sorted((best if last else first).values()), late, filtered


@settings(deadline=None)
@given(st.lists(trades(), max_size=50), st.sampled_from(["500ms", "1s", "3s"]), st.sampled_from(["first", "last"]))
def test_a_throttle_equals_a_naive_one(events, every, keep):
    """At most one per instrument and interval; all others are suppressed, late or filtered."""
    length = {"500ms": SECOND // 2, "1s": SECOND, "3s": 3 * SECOND}[every]
    drive = run(lambda: Throttle(every=every, keep=keep), [events])
    expected, late, filtered = naive_throttle(events, length, last=keep == "last")
    assert sorted(r["seq"] for r in drive.rows) == expected
    assert (drive.counts["late"], drive.counts["filtered"]) == (late, filtered)
    assert drive.counts["suppressed"] == len(events) - len(expected) - late - filtered


def test_the_last_of_an_interval_comes_when_the_watermark_reaches_its_end():
    """By an event or a mark; until then it is in flight."""
    drive = Ports(lambda: Throttle(every="2s", keep="last")).run([[Trade(0), Trade(at(1))], mark(at(1.9)), Barrier()])
    assert (drive.rows, drive.op.in_flight(), drive.counts["suppressed"]) == ([], 1, 1)
    drive.run([mark(at(2)), Barrier()])
    assert [r["seq"] for r in drive.rows] == [1]


# Rolling.


def naive_rolling(events, window, every, lateness):
    """By (symbol, t, statistic), with fractions, one window at a time."""
    latest, kept, late = {}, {}, 0
    for n, e in enumerate(events):
        if e.flags & Flag.TS_EVENT_FUTURE:
            continue
        ts = BASE + e.ts
        step = -(-ts // every) * every
        if step < latest.get(e.symbol, 0) - lateness:
            late += 1
        else:
            kept.setdefault(e.symbol, []).append((ts, n, e))
        latest[e.symbol] = max(latest.get(e.symbol, 0), ts)
    found = {}
    for symbol, own in kept.items():
        own.sort()
        last_step = -(-own[-1][0] // every) * every
        passed = (latest[symbol] - lateness - 1) // every * every
        t = -(-own[0][0] // every) * every
        while t <= max(last_step, passed):
            inside = [x for x in own if t - window < x[0] <= t]
            found |= {(symbol, t, k): v for k, v in naive_statistics(inside, every).items() if v is not None}
            t += every
    return found, late


def naive_statistics(inside, every):
    if not inside:
        return {}
    prices = [e.price for _, _, e in inside]
    volume = sum(Fraction(repr(e.size)) for _, _, e in inside)
    value = sum(Fraction(repr(e.size)) * Fraction(repr(e.price)) for _, _, e in inside)
    lasts = list({-(-ts // every): e.price for ts, _, e in inside}.values())
    logs = [math.log(p) for p in lasts] if min(lasts) > 0 else []
    returns = [b - a for a, b in pairwise(logs)]
    return {
        "volume": float(volume),
        "vwap": float(value / volume) if volume else None,
        "count": float(len(inside)),
        "return": prices[-1] / prices[0] - 1 if len(prices) > 1 and prices[0] else None,
        "volatility": statistics.stdev(returns) if len(returns) > 1 else None,
    }


@settings(deadline=None, max_examples=60)
@given(st.lists(trades(), max_size=40), st.sampled_from([(3, 1), (4, 2), (2, 2)]), st.sampled_from([0, 2]))
def test_rolling_statistics_equal_naive_ones(events, sizes, lateness):
    """Sums to the last digit, deviations closely; every event is in every window it belongs to."""
    window, every = sizes
    make = lambda: Rolling(window=f"{window}s", every=f"{every}s", allowed_lateness=f"{lateness}s")  # noqa: E731
    drive = run(make, [events])
    expected, late = naive_rolling(events, window * SECOND, every * SECOND, lateness * SECOND)
    assert drive.counts["late"] == late
    found = {(s, t, n.removesuffix(f"_{window}s")): v for (s, t, n), v in values(drive).items()}
    assert {k: v for k, v in found.items() if k[2] != "volatility"} == {
        k: v for k, v in expected.items() if k[2] != "volatility"
    }
    deviations = {k: v for k, v in expected.items() if k[2] == "volatility"}
    assert {k: v for k, v in found.items() if k[2] == "volatility"} == pytest.approx(deviations, rel=1e-9, abs=1e-12)


def test_a_rolling_window_takes_in_its_end_and_not_its_start():
    """The row of t is about (t - window, t], once something after t has come."""
    make = lambda: Rolling(window="2s", statistics=["count"])  # noqa: E731
    drive = Ports(make).run([[Trade(0), Trade(at(2)), Trade(at(2))], Barrier()])
    assert values(drive) == {("X", BASE, "count_2s"): 1.0, ("X", BASE + at(1), "count_2s"): 1.0}
    drive.run([mark(at(2)), Barrier()])
    assert len(drive.rows) == 2
    drive.run([mark(at(2) + 1), Barrier()])
    assert values(drive)["X", BASE + at(2), "count_2s"] == 2.0
    assert (drive.counts["absorbed"], drive.op.in_flight()) == (1, 2)


def test_an_idle_instrument_gives_rows_until_its_window_is_empty():
    """However far a mark goes; nothing is filled forward."""
    make = lambda: Rolling(window="3s", statistics=["count", "volume"])  # noqa: E731
    drive = Ports(make).run([Trade(at(1), size=2.5), mark(at(10_000)), Barrier()])
    assert sorted(t - BASE for _, t, n in values(drive) if n == "volume_3s") == [at(1), at(2), at(3)]
    assert drive.counts["absorbed"] == 1


def test_rows_of_a_barrier_say_when_they_became_known():
    """They carry the span's end and its time, and the source's origin."""
    drive = Ports(lambda: Rolling(window="1s", statistics=["count"])).run([[Trade(0), Trade(at(5))], Barrier()])
    assert [(r["seq"], r["ts_recv"], r["flags"], r["origin"]) for r in drive.rows] == [(1, BASE + 2, 0, "replay")]
    assert drive.out[0].source_id == "a"


def test_midpoints_of_quotes_roll_too():
    """Quotes have no volume, so there is none to ask for."""
    quotes = [Quote(at(n), 99.0 + n, 101.0 + n) for n in range(4)]
    make = lambda: Rolling(window="10s", every="1s", kind="quotes", statistics=["return", "volatility"])  # noqa: E731
    drive = run(make, [quotes])
    logs = np.log([100.0, 101.0, 102.0, 103.0])
    assert values(drive)["X", BASE + at(3), "volatility_10s"] == pytest.approx(np.diff(logs).std(ddof=1))
    assert values(drive)["X", BASE + at(3), "return_10s"] == 103 / 100 - 1


# Windows.


def naive_windows(events, length, slide, lateness):
    latest, windows, late = {}, {}, 0
    for n, e in enumerate(events):
        if e.flags & Flag.TS_EVENT_FUTURE:
            continue
        ts = BASE + e.ts
        pane = ts // slide * slide
        if pane + slide + lateness <= latest.get(e.symbol, 0):
            late += 1
        else:
            for start in range(pane - length + slide, pane + 1, slide):
                windows.setdefault((e.symbol, start), []).append((ts, n, e))
        latest[e.symbol] = max(latest.get(e.symbol, 0), ts)
    return {key: [e for _, _, e in sorted(own)] for key, own in windows.items()}, late


@settings(deadline=None, max_examples=60)
@given(st.lists(trades(), max_size=40), st.sampled_from([(2, 2), (4, 2), (3, 1)]), st.sampled_from([0, 2]))
def test_windows_equal_naive_ones(events, sizes, lateness):
    """To the last digit: sums are rounded once."""
    length, slide = sizes
    aggregate = {
        "sum": "sum(price * size)",
        "mean": "mean(price)",
        "min": "min(price)",
        "max": "max(size)",
        "first": "first(size / price)",
        "last": "last(price)",
        "n": "count(log(price))",
        "all": "count()",
    }
    make = lambda: Window(  # noqa: E731
        length=f"{length}s", slide=f"{slide}s", aggregate=aggregate, allowed_lateness=f"{lateness}s"
    )
    drive = run(make, [events])
    windows, late = naive_windows(events, length * SECOND, slide * SECOND, lateness * SECOND)
    assert drive.counts["late"] == late
    expected = {}
    for (symbol, start), own in windows.items():
        prices = [e.price for e in own]
        ratios = [e.size / e.price for e in own if e.price]
        found = {
            "sum": math.fsum(e.price * e.size for e in own),
            "mean": float(sum(map(Fraction, prices)) / len(own)),
            "min": min(prices),
            "max": max(e.size for e in own),
            "last": prices[-1],
            "n": float(sum(p > 0 for p in prices)),
            "all": float(len(own)),
        } | ({"first": ratios[0]} if ratios else {})
        expected |= {(symbol, start, name): value for name, value in found.items()}
    assert values(drive) == expected


def test_an_event_is_late_to_all_windows_when_it_is_to_one():
    """So windows that overlap hold the same events."""
    make = lambda: Window(length="4s", slide="2s", aggregate={"n": "count()"})  # noqa: E731
    drive = run(make, [[Trade(at(0)), Trade(at(2)), Trade(at(1.5))]])
    assert drive.counts["late"] == 1
    assert values(drive) == {("X", BASE + at(s), "n"): n for s, n in ((-2, 1.0), (0, 2.0), (2, 1.0))}


def test_a_window_knows_its_kind_by_its_columns():
    """Trades come first; what could be several kinds has to be said."""
    assert Window(aggregate={"n": "count()"}).kinds == {Kind.TRADES}
    assert Window(aggregate={"n": "max(open)"}).kinds == {Kind.BARS}
    assert Window(aggregate={"n": "max(bid_size)"}, kind="quotes").kinds == {Kind.QUOTES}
    with pytest.raises(ConfigurationError, match="quotes, taq have the columns named; say which kind"):
        Window(aggregate={"n": "max(bid_size)"})


@settings(deadline=None)
@given(st.lists(st.floats(allow_nan=False, allow_infinity=False), max_size=30), st.lists(st.integers(0, 3)))
def test_binary_sums_are_those_of_fsum(numbers, groups_of):
    """By group, in any order, of any size down to the smallest float."""
    pairs = list(zip(numbers, groups_of, strict=False))
    group = np.array([g for _, g in pairs], np.int64)
    found = binary_sums.quotients(binary_sums.totals(np.array([v for v, _ in pairs]), group, 4))
    for g in range(4):
        try:
            expected = math.fsum(v for v, own in pairs if own == g)
        except OverflowError:
            # fsum gives up on sums that only pass through what is too large.
            continue
        assert found[g] == expected


@pytest.mark.parametrize(
    ("make", "problem"),
    [
        (lambda: Buffer(rows=0), "buffer: rows 0"),
        (lambda: Buffer(rows=2.5), "rows 2.5"),
        (lambda: Buffer(seconds=0), "seconds 0"),
        (lambda: Buffer(kind="ticks"), "kind 'ticks' is none of"),
        (lambda: Throttle(keep="best"), "keep 'best' is neither first nor last"),
        (lambda: Throttle(every="1 s"), "throttle every: interval '1 s'"),
        (lambda: Throttle(every=1), "throttle every: 1 is no length of time"),
        (lambda: Throttle(every="0ms"), "throttle every"),
        (lambda: Rolling(kind="bars"), "kind 'bars' is neither trades nor quotes"),
        (lambda: Rolling(kind="quotes"), "statistics .* of quotes: give a list of return, volatility, count"),
        (lambda: Rolling(statistics=["vwap", "vwap"]), "each once"),
        (lambda: Rolling(statistics="vwap"), "give a list"),
        (lambda: Rolling(statistics=[]), "give a list"),
        (lambda: Rolling(window="5s", every="2s"), "is not 1 to 10000 whole steps of 2 s"),
        (lambda: Rolling(window="1d", every="1s"), "is not 1 to 10000 whole steps of 1 s"),
        (lambda: Rolling(allowed_lateness="x"), "rolling allowed_lateness: interval 'x'"),
        (lambda: Window(aggregate={}), "at least one aggregate"),
        (lambda: Window(aggregate={"a": "median(size)"}), "window a: 'median.size.' is no aggregate; write one of sum"),
        (lambda: Window(aggregate={"a": "sum()"}), "is no aggregate"),
        (lambda: Window(aggregate={"a": "sum(size"}), "is no aggregate"),
        (lambda: Window(aggregate={"a": "sum(size, price)"}), "is no aggregate"),
        (lambda: Window(aggregate={"a": 3}), "is no aggregate"),
        (lambda: Window(aggregate={"a": "sum(sise)"}), "window a 'sise': no column"),
        (lambda: Window(aggregate={"a": "sum(symbol)"}), "a number is needed, this is text"),
        (lambda: Window(length="1m", slide="7s", aggregate={"a": "count()"}), "whole steps of 7 s"),
    ],
)
def test_wrong_lengths_and_names_are_refused(make, problem):
    """The message says which and what is allowed."""
    with pytest.raises(ConfigurationError, match=problem):
        make()
