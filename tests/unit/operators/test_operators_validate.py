from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from operator_events import BASE, SECOND, Barrier, Drive, Quote, Trade, batch_of, end

from market_data_core.batch import Instruments
from market_data_core.protocols import Operator
from market_data_core.schemas import EVENT_SCHEMAS, Flag, Kind
from market_data_pipeline.operators import Bars, Validate

DAY = 86_400 * SECOND
LATER = 3000 * DAY
TIMES = Flag.TS_EVENT_FUTURE | Flag.TS_EVENT_BACK


def recorded(ts, **more):
    """A recorded event: received long after it happened, so only its neighbours tell whether its time is odd."""
    return Trade(ts, ts_recv=LATER, **more)


def flags_of(drive):
    return [Flag(r["flags"]) for r in drive.rows if "reason" not in r]


def flagged(events, **settings):
    return flags_of(Drive(lambda: Validate(**settings)).run(events))


def test_it_is_an_operator_on_quotes_and_trades():
    """Other kinds go past it."""
    op: Operator = Validate()
    assert (op.name, op.kinds) == ("validate", {Kind.QUOTES, Kind.TRADES})


@pytest.mark.parametrize(
    ("event", "flag"),
    [
        (Trade(0, 10.0, 1.0), Flag(0)),
        (Trade(0, -37.63, 1.0), Flag.NEGATIVE_PRICE),
        (Trade(0, 10.0, 0.0), Flag.ZERO_SIZE),
        (Trade(0, 10.0, None), Flag(0)),
        (Trade(0, 0.0, 1.0), Flag(0)),
        (Trade(0, 10.0, 1.0, flags=int(Flag.SUSPICIOUS)), Flag.SUSPICIOUS),
        (Trade(0, -1.0, 1.0, flags=int(Flag.SUSPICIOUS)), Flag.SUSPICIOUS | Flag.NEGATIVE_PRICE),
        (Quote(0, 10.0, 11.0), Flag(0)),
        (Quote(0, 11.0, 11.0), Flag(0)),
        (Quote(0, 11.0, 10.0), Flag.CROSSED),
        (Quote(0, -2.0, None), Flag.NEGATIVE_PRICE),
        (Quote(0, None, -2.0), Flag.NEGATIVE_PRICE),
        (Quote(0), Flag(0)),
    ],
)
def test_odd_values_are_flagged_and_passed_on(event, flag):
    """Flags are added to those that were there; null sides are no oddity."""
    assert flagged([event]) == [flag]


def test_a_sound_batch_is_handed_on_as_it_is():
    """Nothing is copied where nothing is flagged."""
    batch = batch_of([Trade(0), Trade(1)], instruments=Instruments())
    assert Validate().process(batch).out == [batch]


@pytest.mark.parametrize(
    ("event", "reason", "raw"),
    [
        (Trade(0, float("nan")), "price is nan", {"price": "nan"}),
        (Trade(0, float("inf")), "price is inf", {"price": "inf"}),
        (Trade(0, 5.0, float("-inf")), "size is -inf", {"size": "-inf", "price": 5.0}),
        (Trade(0, None), "a trade without a price", {"size": 1.0}),
        (Quote(0, float("nan"), 11.0), "bid_price is nan", {"bid_price": "nan", "ask_price": 11.0}),
        (Trade(-BASE - 1), "ts_event -1 is outside 1970 to 2200", {"ts_event": -1}),
        (Trade(7_258_118_400 * SECOND - BASE), "is outside 1970 to 2200", {"ts_event": 7_258_118_400 * SECOND}),
    ],
)
def test_what_no_column_can_hold_is_quarantined_with_reason_and_raw(event, reason, raw):
    """The row goes to quarantine and says what it was; its neighbours pass."""
    sound = Trade(0) if isinstance(event, Trade) else Quote(0, 1.0)
    drive = Drive(Validate).run([[sound, event._replace(ts_recv=LATER), sound]])
    assert (drive.counts["quarantined"], drive.passed) == (1, 2)
    quarantine = drive.out[0]
    assert quarantine.kind is Kind.QUARANTINE
    assert quarantine.data.schema.equals(EVENT_SCHEMAS[Kind.QUARANTINE])
    (row,) = quarantine.to_table().to_pylist()
    assert reason in row["reason"]
    assert (row["kind"], row["source_id"], row["seq"], row["symbol"]) == (str(drive.out[1].kind), "a", 1, "X")
    assert {"vendor": "v", "symbol": "X", "seq": 1, **raw}.items() <= json.loads(row["raw"]).items()


def test_nulls_beside_a_bad_number_stay_what_they_are():
    """Only what is not null can be a bad number."""
    drive = Drive(Validate).run([[Quote(0, None, 1.0), Quote(0, float("nan"), 1.0)]])
    assert (drive.counts["quarantined"], drive.passed) == (1, 1)


def test_a_batch_of_nothing_but_bad_rows_gives_quarantine_alone():
    """And the operator goes on."""
    drive = Drive(Validate).run([[Trade(0, None), Trade(1, None)], Trade(2)])
    assert (drive.counts["quarantined"], drive.passed) == (2, 1)


def test_an_empty_batch_is_nothing():
    """No rows in, no rows out."""
    batch = batch_of([Trade(0)], instruments=Instruments()).filter(np.array([False]))
    assert Validate().process(batch).out == []


def test_times_that_go_back_are_flagged():
    """Below the latest of its stream and kind; equal times and other symbols, sources and kinds are not."""
    trades = [Trade(5), Trade(5), Trade(4), Trade(1, symbol="Y"), Trade(6)]
    assert flagged([trades]) == flagged(trades) == [0, 0, Flag.TS_EVENT_BACK, 0, 0]
    assert flagged([Trade(5), Trade(4, source="b")]) == [0, 0]
    assert flagged([Quote(5, 1.0), Trade(4), Quote(4, 1.0), Trade(3)]) == [0, 0, *2 * [Flag.TS_EVENT_BACK]]


def test_times_ahead_of_our_receipt_are_flagged_and_move_nothing():
    """The one after them is neither back in time nor ahead."""
    ahead = Trade(61 * SECOND, ts_recv=0)
    assert flagged([[Trade(0), ahead, ahead, Trade(1)]]) == [0, *2 * [Flag.TS_EVENT_FUTURE], 0]
    assert flagged([Trade(60 * SECOND, ts_recv=0)]) == [0]


def test_one_time_far_ahead_is_not_believed():
    """It is flagged and does not make those after it go back in time."""
    assert flagged([recorded(0), recorded(100 * DAY), recorded(1)]) == [0, Flag.TS_EVENT_FUTURE, 0]


def test_two_times_far_ahead_that_agree_are_believed():
    """The first of them stays flagged; from the second on it is the source's time."""
    events = [recorded(0), recorded(100 * DAY), recorded(100 * DAY + 1), recorded(101 * DAY)]
    assert flagged(events) == flagged([events]) == [0, Flag.TS_EVENT_FUTURE, 0, 0]


def test_two_times_far_ahead_that_disagree_are_not_believed():
    """Nor are two with an ordinary one in between."""
    future = Flag.TS_EVENT_FUTURE
    assert flagged([recorded(0), recorded(100 * DAY), recorded(900 * DAY), recorded(1)]) == [0, future, future, 0]
    assert flagged([recorded(0), recorded(100 * DAY), recorded(1), recorded(100 * DAY)]) == [0, future, 0, future]


def test_a_silence_of_less_than_the_jump_is_believed_at_once():
    """A long weekend is no oddity."""
    assert flagged([recorded(0), recorded(29 * DAY)]) == [0, 0]


def test_sources_have_clocks_of_their_own():
    """One that begins later than another is not ahead of it."""
    assert flagged([recorded(0), recorded(500 * DAY, source="b"), recorded(1)]) == [0, 0, 0]


def test_a_source_that_has_ended_is_forgotten():
    """Begun anew it goes neither back nor ahead; its state is gone, that of others is not."""
    drive = Drive(Validate).run([recorded(5), recorded(7, source="b"), end("a"), recorded(1), recorded(6, source="b")])
    assert flags_of(drive) == [0, 0, 0, Flag.TS_EVENT_BACK]
    state = drive.run([end("a"), end("b"), Barrier()]).op.snapshot()
    assert not any([state["streams"], state["clock"], state["suspect"], *state["latest"].values()])


def test_the_end_of_some_symbols_keeps_the_clock_of_the_rest():
    """What is left of the source is still judged by what it gave."""
    script = [recorded(0), recorded(0, symbol="Y"), end("a", symbols=("X",)), recorded(100 * DAY, symbol="Y")]
    assert flagged(script)[-1] == Flag.TS_EVENT_FUTURE


EVENTS = st.lists(
    st.one_of(
        st.tuples(
            st.sampled_from([0, 1, 2, 50 * DAY, 51 * DAY, 120 * DAY, 2900 * DAY, 4000 * DAY, -BASE - 1]),
            st.sampled_from([1.0, -1.0, float("nan"), None]),
            st.sampled_from(["X", "Y"]),
            st.sampled_from(["a", "b"]),
        ).map(lambda e: recorded(e[0], price=e[1], symbol=e[2], source=e[3])),
        st.tuples(st.sampled_from([0, 1, 2, 50 * DAY]), st.sampled_from([1.0, None]), st.sampled_from(["a", "b"])).map(
            lambda e: Quote(e[0], e[1], 1.0, source=e[2], ts_recv=LATER)
        ),
    ),
    max_size=30,
)


def shown(drive):
    """Rows by what they were, for quarantine and the rest come in batches of their own."""
    return sorted((json.dumps(r, sort_keys=True, default=str) for r in drive.rows), key=str)


@settings(deadline=None)
@given(EVENTS, st.sets(st.integers(0, 30)))
def test_batches_and_restarts_change_no_flag(events, stops):
    """One by one, with state through JSON and other instrument ids in between, as all at once."""
    whole = Drive(Validate).run([events] if events else [])
    stopped = Drive(Validate)
    for at, event in enumerate(events):
        if at in stops:
            stopped.restart()
        stopped.run([event])
    assert shown(stopped) == shown(whole)
    assert stopped.counts == whole.counts


def test_a_time_far_ahead_closes_no_bar():
    """Validated events keep the bars of those after them on time."""
    validate, bars, table = Validate(), Bars("10s"), Instruments()
    events = [recorded(0), recorded(100 * DAY), recorded(1), recorded(2)]
    late = 0
    for seq, event in enumerate(events):
        for batch in validate.process(batch_of([event], instruments=table, first_seq=seq)).out:
            late += bars.process(batch).late
    assert (late, bars.in_flight(), bars.barrier(4, BASE).out) == (0, 3, [])
