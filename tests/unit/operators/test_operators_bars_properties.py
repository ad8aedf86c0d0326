from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from operator_events import (
    BASE,
    SECOND,
    Barrier,
    Drive,
    Log,
    Trade,
    bars,
    end,
    events_of,
    finished,
    naive_bar,
    naive_windows,
    newest,
    plain_bar,
    scripts,
    trades,
)

from market_data_core.schemas import Flag
from market_data_pipeline.operators import Bars

STEP = 2 * SECOND
LATENESS = st.sampled_from([0, SECOND, 5 * SECOND])


def make(*, lateness=0, history=None, align="epoch"):
    return lambda: Bars("2s", allowed_lateness_ns=lateness, history=history, align=align)


def cut(events, cuts):
    """The events in batches of the given lengths, then the rest."""
    out, at = [], 0
    for length in cuts:
        if at < len(events):
            out.append(events[at : at + length])
        at += length
    return [*out, *([events[at:]] if at < len(events) else [])]


@settings(deadline=None)
@given(st.lists(trades(), max_size=60), st.lists(st.integers(1, 12), max_size=20), LATENESS)
def test_a_split_into_batches_changes_no_row(events, cuts, lateness):
    """The same span in other batches gives the same rows in the same order."""
    whole = Drive(make(lateness=lateness)).run([events, Barrier(), end(), Barrier()])
    split = Drive(make(lateness=lateness)).run([*cut(events, cuts), Barrier(), end(), Barrier()])
    assert split.rows == whole.rows
    assert split.counts == whole.counts


@settings(deadline=None)
@given(st.lists(trades(), max_size=60), st.lists(st.integers(1, 12), max_size=20), LATENESS, st.sampled_from([1, 2, 3]))
def test_barriers_anywhere_give_the_same_bars(events, cuts, lateness, every):
    """Where barriers fall decides when a bar comes out, and nothing else."""
    whole = Drive(make(lateness=lateness)).run([events, end(), Barrier()])
    script = []
    for n, batch in enumerate(cut(events, cuts)):
        script += [batch, Barrier()] if n % every == 0 else [batch]
    split = Drive(make(lateness=lateness)).run([*script, end(), Barrier()])
    assert bars(split.rows) == bars(whole.rows)
    assert split.counts == whole.counts


@settings(deadline=None)
@given(st.lists(trades(), max_size=60), LATENESS)
def test_bars_equal_a_naive_implementation(events, lateness):
    """Every on-time event is in its bar, sums are exact and correctly rounded, and late ones are counted."""
    drive = Drive(make(lateness=lateness)).run([events, end(), Barrier()])
    windows, late = naive_windows(events, step=STEP, lateness=lateness)
    assert drive.counts["late"] == late
    assert {(r["symbol"], r["ts_event"]): plain_bar(r) for r in drive.rows} == {
        (symbol, start): naive_bar(e) for (_, symbol, _, start), e in windows.items()
    }


@settings(deadline=None)
@given(
    st.lists(trades(), max_size=40, unique_by=lambda e: e.ts),
    st.lists(st.integers(0, 5 * SECOND), min_size=40, max_size=40),
)
def test_arrival_order_within_the_allowed_lateness_changes_no_bar(events, delays):
    """Events that arrive at most as late as allowed make the bars they make in order."""
    in_order = sorted(events, key=lambda e: e.ts)
    delay_of = dict(zip(in_order, delays, strict=False))
    arriving = sorted(in_order, key=lambda e: e.ts + delay_of[e])
    expected = Drive(make(lateness=5 * SECOND)).run([in_order, end(), Barrier()])
    delayed = Drive(make(lateness=5 * SECOND)).run([*arriving, end(), Barrier()])
    assert delayed.counts["late"] == 0
    assert bars(delayed.rows) == bars(expected.rows)


@settings(deadline=None)
@given(scripts(), LATENESS, st.data())
def test_going_on_from_a_snapshot_equals_never_having_stopped(script, lateness, data):
    """State through JSON at any point, under other instrument ids, changes no row and no count."""
    script = finished(script)
    stops = data.draw(st.sets(st.integers(0, len(script))))
    log, log_again = Log(), Log()
    steady = Drive(make(lateness=lateness, history=log), log=log).run(script)
    stopped = Drive(make(lateness=lateness, history=log_again), log=log_again)
    for at, step in enumerate(script):
        if at in stops:
            stopped.restart()
        stopped.run([step])
    assert stopped.rows == steady.rows
    assert stopped.counts == steady.counts
    assert stopped.op.snapshot() == steady.op.snapshot()


@settings(deadline=None)
@given(scripts(), LATENESS)
def test_with_history_the_newest_bars_hold_every_tick(script, lateness):
    """However late, from whichever source, before or after its source ended: each tick is in the newest bar."""
    log = Log()
    script = finished(script)
    drive = Drive(make(lateness=lateness, history=log), log=log).run(script)
    expected = {}
    for e in events_of(script):
        if not e.flags & Flag.TS_EVENT_FUTURE:
            expected.setdefault(("v", e.symbol, (BASE + e.ts) // STEP * STEP), []).append(e)
    assert {key: plain_bar(row) for key, row in newest(drive.rows).items()} == {
        key: naive_bar(events) for key, events in expected.items()
    }
    assert drive.op.in_flight() == 0


@settings(deadline=None)
@given(scripts(sources=("a",)))
def test_nothing_is_kept_of_a_source_that_has_ended(script):
    """Streams, origins and windows go with their source."""
    state = Drive(make()).run(finished(script, sources=("a",))).op.snapshot()
    assert not state["streams"]
    assert not state["watermark"] + state["price_scale"] + state["size_scale"]
    assert not state["origins"]
    assert not any(state["open"].values())
    assert not state["ended"]


@settings(deadline=None)
@given(st.lists(trades(sources=("a", "b"))), st.booleans())
def test_a_source_alone_is_not_changed_by_another_of_other_instruments(events, barriers):
    """Watermarks belong to streams: what one source says moves no other."""
    alone = [e for e in events if e.source == "a"]
    beside = [e._replace(symbol=f"{e.symbol}2") if e.source == "b" else e for e in events]
    script = [x for e in beside for x in ((e, Barrier()) if barriers else (e,))]
    both = Drive(make()).run(finished(script))
    one = Drive(make()).run([alone, end(), Barrier()])
    assert bars([r for r in both.rows if r["symbol"] in "XY"]) == bars(one.rows)


@pytest.mark.parametrize("align", ["epoch", "09:30 America/New_York", "08:45 Asia/Tokyo"])
def test_bars_of_a_row_never_overlap(align):
    """Within an instrument windows follow each other, whatever they are aligned to."""
    events = [Trade(ts * 7 * SECOND) for ts in range(500)]
    drive = Drive(make(align=align)).run([events, end(), Barrier()])
    starts = [r["ts_event"] for r in drive.rows]
    assert all(b - a >= STEP for a, b in pairwise(starts))
    assert sum(r["trade_count"] for r in drive.rows) == len(events)
