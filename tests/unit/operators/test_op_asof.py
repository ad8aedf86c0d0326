from __future__ import annotations

import json

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from op_steps import BARRIER, BASE, Steps, end, flat, mark, quote, split, stopped, trade

from market_data_core.batch import EventBatch, Instruments
from market_data_core.errors import ConfigurationError
from market_data_core.protocols import Mark
from market_data_core.schemas import EVENT_SCHEMAS, Flag, Kind, Origin
from market_data_pipeline.operators.asof import AsOfJoin
from market_data_pipeline.source.replay import ReplaySource

FUTURE = int(Flag.TS_EVENT_FUTURE)


def matched(steps):
    """(trade time, bid price, quote time) of what came out, in order, times from BASE."""
    return [
        (r["ts_event"] - BASE, r["bid_price"], None if r["quote_ts_event"] is None else r["quote_ts_event"] - BASE)
        for r in steps.rows
    ]


def content(steps):
    """The rows without what says when they came out."""
    plain = [{k: v for k, v in r.items() if k not in ("seq", "ts_recv")} for r in steps.rows]
    return sorted(plain, key=lambda r: json.dumps(r, sort_keys=True))


def test_a_trade_gets_the_newest_quote_that_is_not_after_it():
    """Of quotes with the trade's own time the last one by seq counts."""
    steps = Steps(AsOfJoin).run([quote(1, 1.0), quote(5, 2.0), quote(5, 3.0), quote(6, 4.0), trade(5), BARRIER])
    assert matched(steps) == [(5, 3.0, 5)]


def test_quotes_of_the_same_time_can_be_left_out():
    """Then only what stood before the trade counts."""
    script = [quote(1, 1.0), quote(5, 2.0), quote(6, 4.0), trade(5), BARRIER]
    assert matched(Steps(lambda: AsOfJoin(allow_exact=False)).run(script)) == [(5, 1.0, 1)]


def test_a_trade_waits_until_no_quote_can_come_that_changes_it():
    """A quote of the trade's own time may be followed by another one."""
    steps = Steps(AsOfJoin).run([trade(5), quote(5, 1.0), BARRIER])
    assert steps.rows == []
    steps.run([quote(5, 2.0), BARRIER])
    assert steps.rows == []
    steps.run([quote(6, 3.0), BARRIER])
    assert matched(steps) == [(5, 2.0, 5)]


def test_a_trade_keeps_its_columns_and_flags():
    """What comes out is the trade, with the quote beside it."""
    event = trade(5, 10.5, 3.0, trade_id="7", exchange="Q", flags=int(Flag.SUSPICIOUS))
    steps = Steps(AsOfJoin).run([quote(4, 10.0, 11.0, 100.0, 200.0), event, end(), BARRIER])
    (row,) = steps.rows
    assert (row["price"], row["size"], row["trade_id"], row["exchange"]) == (10.5, 3.0, "7", "Q")
    assert (row["bid_price"], row["ask_price"], row["bid_size"], row["ask_size"]) == (10.0, 11.0, 100.0, 200.0)
    assert (row["flags"], row["seq"], row["ts_recv"]) == (int(Flag.SUSPICIOUS), 1, BASE + 2)
    assert steps.op.gives(frozenset({Kind.TRADES, Kind.QUOTES})) == {steps.out[0].kind}


def test_an_absent_side_stays_absent():
    """The quote stands all the same."""
    steps = Steps(AsOfJoin).run([quote(1, None, 2.0), trade(1), end(), BARRIER])
    assert matched(steps) == [(1, None, 1)]


def test_a_quote_older_than_the_tolerance_is_none():
    """As old as the tolerance is young enough."""
    script = [quote(0, 1.0), trade(1000), trade(1001), end(), BARRIER]
    assert matched(Steps(lambda: AsOfJoin(tolerance="1us")).run(script)) == [(1000, 1.0, 0), (1001, None, None)]


def test_vendors_and_symbols_are_kept_apart():
    """Whatever other instruments are quoted at."""
    script = [quote(1, 1.0, symbol="Y"), quote(1, 2.0, vendor="w"), trade(1), quote(1, 3.0), quote(2, 9.0), BARRIER]
    assert matched(Steps(AsOfJoin).run(script)) == [(1, 3.0, 1)]


def test_trades_and_quotes_of_other_sources_meet():
    """Recordings give them in files of their own."""
    script = [quote(1, 1.0, source="q"), trade(2, source="t"), quote(3, 2.0, source="q"), BARRIER]
    assert matched(Steps(AsOfJoin).run(script)) == [(2, 1.0, 1)]


def test_the_end_of_the_quotes_decides_what_waits():
    """No quote can come any more, though trades go on."""
    steps = Steps(AsOfJoin).run([quote(1, 1.0, source="q"), trade(2, source="t"), BARRIER, end("q"), BARRIER])
    assert matched(steps) == [(2, 1.0, 1)]


def test_trades_wait_for_quotes_though_their_own_source_has_ended():
    """The quotes' source is still speaking."""
    steps = Steps(AsOfJoin).run([quote(1, 1.0, source="q"), trade(2, source="t"), end("t"), BARRIER])
    assert steps.rows == []
    steps.run([quote(2, 5.0, source="q"), end("q"), BARRIER])
    assert matched(steps) == [(2, 5.0, 2)]


def test_a_mark_of_the_quotes_passes_the_time():
    """It says that no quote before it will come; another source's mark says nothing of quotes."""
    steps = Steps(AsOfJoin).run([quote(1, 1.0, source="q"), trade(4, source="t"), mark(5, "t"), BARRIER])
    assert steps.rows == []
    steps.run([mark(5, "q"), BARRIER])
    assert matched(steps) == [(4, 1.0, 1)]


def test_where_nobody_gives_quotes_the_trades_own_marks_count():
    """A quiet side must not hold back trades for ever."""
    steps = Steps(AsOfJoin).run([trade(4, source="t"), trade(5, source="t"), mark(5, "t"), BARRIER])
    assert matched(steps) == [(4, None, None)]


def test_a_late_quote_changes_nothing():
    """It comes behind the quotes' own time by more than allowed."""
    late = Steps(AsOfJoin).run([quote(5, 1.0), quote(3, 9.0), trade(4), quote(6, 2.0), BARRIER])
    assert (matched(late), late.counts["late"]) == ([(4, None, None)], 1)
    allowed = Steps(lambda: AsOfJoin(allowed_lateness="2ns"))
    allowed.run([quote(5, 1.0), quote(3, 9.0), trade(4), quote(7, 2.0), BARRIER, end(), BARRIER])
    assert (matched(allowed), allowed.counts["late"]) == ([(4, 9.0, 3)], 0)


def test_a_late_trade_is_counted_and_goes_no_further():
    """Its quotes may be gone, and the wrong one is worse than none."""
    steps = Steps(AsOfJoin).run([quote(1, 1.0), quote(9, 1.0), trade(5), trade(4), BARRIER])
    assert (len(steps.rows), steps.counts["late"]) == (1, 1)


def test_events_far_ahead_are_filtered_out():
    """They move no clock."""
    steps = Steps(AsOfJoin).run([quote(10**15, 9.0, flags=FUTURE), trade(10**15, flags=FUTURE), BARRIER])
    assert (steps.counts["filtered"], steps.op.in_flight()) == (2, 0)


def test_only_quotes_that_a_trade_can_need_are_kept():
    """The newest one before the oldest trade to come, and those after it."""
    script = [x for n in range(100) for x in (quote(2 * n, 1.0), trade(2 * n + 1), BARRIER)]
    steps = Steps(AsOfJoin).run(script)
    assert steps.op.in_flight() == 2
    assert len(steps.rows) == 99


def test_a_side_that_nobody_asks_for_is_kept_no_longer_than_the_reach():
    """Quotes without trades, and trades whose quotes have fallen silent."""
    quotes = Steps(lambda: AsOfJoin(reach=10)).run([x for n in range(50) for x in (quote(n, 1.0), BARRIER)])
    assert quotes.op.in_flight() <= 12
    script = [quote(0, 1.0), *(x for n in range(50) for x in (trade(n + 1), BARRIER))]
    trades = Steps(lambda: AsOfJoin(reach=10)).run(script)
    assert trades.op.in_flight() <= 12
    assert matched(trades) == [(n + 1, 1.0, 0) for n in range(len(trades.rows))]


def test_a_trade_whose_quotes_were_given_up_is_late():
    """Rather than joined to a quote that is not its own."""
    steps = Steps(lambda: AsOfJoin(reach=10)).run([x for n in range(50) for x in (quote(n, 1.0), BARRIER)])
    steps.run([trade(5), trade(49), quote(60, 2.0), BARRIER])
    assert (matched(steps), steps.counts["late"]) == ([(49, 1.0, 49)], 1)


def test_nothing_is_kept_of_instruments_whose_sources_have_ended():
    """State does not grow with every file."""
    steps = Steps(AsOfJoin).run([quote(1, 1.0, source="q"), trade(2, source="t"), end("q"), end("t"), BARRIER])
    assert steps.op.in_flight() == 0
    assert not any(v for v in steps.op.snapshot().values() if not isinstance(v, dict | list))
    assert steps.op.snapshot()["streams"] == []
    steps.run([trade(0, source="t"), quote(0, 5.0, source="q"), end("t"), end("q"), BARRIER])
    assert matched(steps)[-1] == (0, 5.0, 0)


@pytest.mark.parametrize(
    "setting", [{"tolerance": "5"}, {"tolerance": "5 s"}, {"allowed_lateness": "-1s"}, {"reach": 0}]
)
def test_wrong_settings_are_refused(setting):
    """The message says what is allowed."""
    with pytest.raises(ConfigurationError, match=next(iter(setting))):
        AsOfJoin(**setting)


TIMES = st.integers(0, 12)
SOURCES = st.sampled_from("ab")
SYMBOLS = st.sampled_from("XY")
EVENTS = st.one_of(
    st.builds(
        lambda ts, price, symbol, source: quote(ts, price, symbol=symbol, source=source),
        TIMES,
        st.sampled_from([None, 1.0, 2.0, 3.0]),
        SYMBOLS,
        SOURCES,
    ),
    st.builds(
        lambda ts, price, symbol, source, flags: trade(ts, price, symbol=symbol, source=source, flags=flags),
        TIMES,
        st.sampled_from([1.0, 2.0]),
        SYMBOLS,
        SOURCES,
        st.sampled_from([0, 0, 0, FUTURE]),
    ),
)
SETTINGS = st.fixed_dictionaries(
    {
        "allowed_lateness": st.sampled_from(["0s", "3ns"]),
        "allow_exact": st.booleans(),
        "tolerance": st.sampled_from([None, "4ns"]),
    }
)
SCRIPTS = st.lists(
    st.one_of(
        EVENTS,
        EVENTS,
        st.lists(EVENTS, min_size=1, max_size=6),
        st.just(BARRIER),
        st.builds(mark, TIMES, SOURCES),
        st.builds(end, SOURCES),
    ),
    max_size=30,
)
FINISH = [end("a"), end("b"), BARRIER]


@settings(deadline=None)
@given(st.lists(EVENTS, max_size=40), SETTINGS)
def test_it_equals_a_naive_join(events, given_settings):
    """Every trade on time, with the newest quote on time that is not after it, however they came."""
    steps = Steps(lambda: AsOfJoin(**given_settings)).run([*events, *FINISH])
    lateness = 0 if given_settings["allowed_lateness"] == "0s" else 3
    clock, on_time = {}, []
    for e in events:
        if e.flags:
            continue
        before = clock.get((e.kind, e.symbol), -100)
        clock[e.kind, e.symbol] = max(before, e.ts)
        if e.ts >= before - lateness:
            on_time.append(e)
    expected = []
    for t in (e for e in on_time if e.kind is Kind.TRADES):
        best = None
        for q in on_time:
            fits = q.kind is Kind.QUOTES and q.symbol == t.symbol
            fits = fits and (q.ts <= t.ts if given_settings["allow_exact"] else q.ts < t.ts)
            if fits and (best is None or q.ts >= best.ts):
                best = q
        if best is not None and given_settings["tolerance"] and t.ts - best.ts > 4:
            best = None
        expected.append((t.ts, best and best.values["bid_price"], best and best.ts, t.symbol))
    found = [(*m, r["symbol"]) for m, r in zip(matched(steps), steps.rows, strict=True)]
    assert sorted(found, key=repr) == sorted(expected, key=repr)
    assert steps.op.in_flight() == 0


@settings(deadline=None)
@given(SCRIPTS, st.lists(st.integers(1, 5), max_size=10), SETTINGS)
def test_batches_and_barriers_change_no_row(script, cuts, given_settings):
    """Where batches are cut and barriers fall decides when a trade comes out, and nothing else."""
    cut = []
    for step in [*script, *FINISH]:
        cut += [x for part in split(step, cuts) for x in (part, BARRIER)] if isinstance(step, list) else [step]
    whole = Steps(lambda: AsOfJoin(**given_settings)).run([*(s for s in script if s != BARRIER), *FINISH])
    parts = Steps(lambda: AsOfJoin(**given_settings)).run(cut)
    assert content(parts) == content(whole)
    assert parts.counts == whole.counts


@settings(deadline=None)
@given(SCRIPTS, SETTINGS, st.integers(1, 12), st.sets(st.integers(0, 40)))
def test_going_on_from_a_snapshot_changes_nothing(script, given_settings, reach, stops):
    """At any point, between barriers too, and under other instrument ids."""
    script = [*script, *FINISH]
    steady = Steps(lambda: AsOfJoin(reach=reach, **given_settings)).run(script)
    again = stopped(lambda: AsOfJoin(reach=reach, **given_settings), script, stops)
    assert again.rows == steady.rows
    assert again.counts == steady.counts
    assert len(steady.rows) + steady.counts["late"] <= len(flat(script))


async def replayed(paths, op):
    """What an operator makes of files, with a barrier after every batch, as one table."""
    table, out, seq = Instruments(), [], 0
    async for item in ReplaySource(paths).batches({}):
        if isinstance(item, Mark):
            op.advance(item)
            continue
        for instrument in item.instruments:
            table.add(instrument)
        rows = len(item.data)
        numbers = {"seq": pa.array(np.arange(seq, seq + rows))}
        schema = EVENT_SCHEMAS[item.kind]
        data = pa.RecordBatch.from_arrays(
            [numbers[n] if n in numbers else item.data.column(n) for n in schema.names], schema=schema
        )
        seq += rows
        batch = EventBatch(kind=item.kind, data=data, instruments=table, origin=Origin.REPLAY, source_id=item.source_id)
        op.process(batch)
        out += op.barrier(seq, 0).out
    out += op.barrier(seq, 0).out
    assert op.in_flight() == 0
    return pa.concat_tables([b.to_table() for b in out])


@pytest.mark.recordings
async def test_recorded_trades_against_recorded_quotes_equal_the_truth(recordings):
    """Every trade of the regular session of two symbols, to the cent and the share."""
    truth = json.loads((recordings / "truth.json").read_text())
    paths = [recordings / "equity_ticks" / s / f"20131008_{k}.zip" for s in ("bac", "ibm") for k in ("quote", "trade")]
    taq = await replayed(paths, AsOfJoin())
    first, last = 1_381_239_000 * 10**9, 1_381_262_400 * 10**9  # 09:30 and 16:00 New York
    for symbol in ("bac", "ibm"):
        name = f"equity_ticks/{symbol}/20131008_quote.zip"
        assert truth[name]["bbo_minute_samples"]["first"][0] == first
        ts = taq.column("ts_event").to_numpy()
        rows = (ts >= first) & (ts < last) & (np.array(taq.column("symbol").to_pylist()) == symbol.upper())
        session = taq.filter(pa.array(rows))
        price, bid, ask = (
            np.rint(session.column(c).to_numpy() * 10_000).astype(int) for c in ("price", "bid_price", "ask_price")
        )
        size = session.column("size").to_numpy().astype(int)
        at_bid, at_ask = price == bid, (price == ask) & (price != bid)
        expected = dict(truth[name]["asof_trades_rth"])
        del expected["sum_matched_quote_row_index"]
        assert expected == {
            "trades": session.num_rows,
            "below_bid": int((price < bid).sum()),
            "at_bid": int(at_bid.sum()),
            "inside": int(((price > bid) & (price < ask)).sum()),
            "at_ask": int(at_ask.sum()),
            "above_ask": int(((price > ask) & (price >= bid)).sum()),
            "size_at_bid": int(size[at_bid].sum()),
            "size_at_ask": int(size[at_ask].sum()),
            "sum_matched_bid": int(bid.sum()),
            "sum_matched_ask": int(ask.sum()),
        }
