from __future__ import annotations

import json

import numpy as np
import pytest
from operator_events import (
    BASE,
    SECOND,
    Barrier,
    Drive,
    Log,
    Quote,
    Trade,
    batch_of,
    end,
    mark,
    naive_bar,
    newest,
    plain_bar,
)

from market_data_core.batch import Instruments
from market_data_core.errors import ConfigurationError
from market_data_core.protocols import Operator
from market_data_core.schemas import EVENT_SCHEMAS, Flag, Kind, Origin
from market_data_pipeline.operators import Bars
from market_data_pipeline.operators.partials import Partials

DAY = 86_400 * SECOND


def ten_seconds(**more):
    return lambda: Bars("10s", **more)


def test_bars_are_an_operator_of_their_kind():
    """Trade bars take trades, all others quotes."""
    op: Operator = Bars("1m")
    assert (op.name, op.kinds) == ("bars_1m", {Kind.TRADES})
    assert Bars("1m", what="BID").kinds == {Kind.QUOTES}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"interval": "1x"}, "interval '1x'"),
        ({"what": "LAST"}, "LAST"),
        ({"allowed_lateness_ns": -1}, "lateness"),
        ({"align": "09:30"}, "neither epoch"),
    ],
)
def test_wrong_settings_are_refused_by_name(arguments, message):
    """What cannot be meant is refused at the start, and named."""
    with pytest.raises(ConfigurationError, match=message):
        Bars(**arguments)


def test_a_bar_says_what_it_is():
    """An emitted row is complete: key, times, position and the declared columns."""
    drive = Drive(ten_seconds()).run([Trade(1 * SECOND, 10.0, 2.0), Trade(3 * SECOND, 11.0, 2.0), end(), Barrier()])
    (row,) = drive.rows
    (batch,) = drive.out
    assert batch.data.schema.equals(EVENT_SCHEMAS[Kind.BARS])
    assert row == {
        "vendor": "v", "symbol": "X", "ts_event": BASE, "ts_recv": BASE + 2, "seq": 1, "flags": 0, "origin": "replay",
        "interval": "10s", "what": "TRADES", "session": "ALL", "source": "internal",
        "open": 10.0, "high": 11.0, "low": 10.0, "close": 11.0, "volume": 4.0, "vwap": 10.5, "trade_count": 2,
        "revision": 0, "ts_known": BASE + 2, "reason": None,
    }  # fmt: skip


def test_a_bar_comes_at_the_first_barrier_after_its_end():
    """Not at the event that passes it, and not before the lateness is over."""
    drive = Drive(ten_seconds(allowed_lateness_ns=5 * SECOND))
    drive.run([Trade(0), Trade(15 * SECOND - 1), Barrier()])
    assert not drive.rows
    drive.run([Trade(15 * SECOND)])
    assert not drive.rows
    drive.run([Barrier()])
    assert [r["ts_event"] for r in drive.rows] == [BASE]
    assert drive.op.in_flight() == 2


def test_lateness_is_decided_event_by_event():
    """Within one batch: what passed the end makes the next one late, the end itself belongs to the next window."""
    drive = Drive(ten_seconds()).run([[Trade(0), Trade(10 * SECOND), Trade(9 * SECOND), Trade(11 * SECOND)]])
    assert drive.counts["late"] == 1
    assert drive.op.in_flight() == 3


def test_a_mark_closes_windows_of_quiet_instruments():
    """And what comes below it afterwards is late; other symbols and sources are not touched."""
    drive = Drive(ten_seconds())
    drive.run([Trade(0, symbol="X"), Trade(0, symbol="Y"), Trade(0, source="b", symbol="Z")])
    drive.run([mark(10 * SECOND, symbols=("X",)), Barrier()])
    assert [r["symbol"] for r in drive.rows] == ["X"]
    drive.run([[Trade(9 * SECOND, symbol="X"), Trade(9 * SECOND, symbol="Y")]])
    assert drive.counts["late"] == 1


def test_a_mark_never_takes_time_back():
    """An earlier mark changes nothing."""
    drive = Drive(ten_seconds()).run([Trade(20 * SECOND), mark(0), Trade(5 * SECOND)])
    assert drive.counts["late"] == 1


def test_open_and_close_go_by_time_then_sequence():
    """Equal times are told apart by the log's order, also across batches."""
    rows = [Trade(SECOND, 3.0), Trade(0, 1.0), Trade(SECOND, 4.0), Trade(0, 2.0)]
    for script in ([rows], rows, [rows[:2], rows[2:]]):
        (row,) = Drive(ten_seconds()).run([*script, end(), Barrier()]).rows
        assert (row["open"], row["close"]) == (1.0, 4.0)


def test_fractional_sizes_add_up_exactly():
    """Ten thousand times 0.1 and 0.2 are 3000, not 3000.0000000000336."""
    events = [Trade(n, 0.1, 0.1 + 0.1 * (n % 2)) for n in range(20_000)]
    (row,) = Drive(ten_seconds()).run([events[:7], events[7:9000], events[9000:], end(), Barrier()]).rows
    assert row["volume"] == 3000.0
    assert row["vwap"] == 0.1


def test_sizes_beyond_what_floats_count_in_steps_are_exact():
    """77,323,401.0681308 is more 10**-8ths than a float can tell apart; the sum is right to the last of them."""
    size = 77_323_401.0681308
    (row,) = Drive(ten_seconds()).run([[Trade(0, 1.0, size)] * 3, end(), Barrier()]).rows
    assert row["volume"] == 231_970_203.2043924
    assert size + size + size != 231_970_203.2043924


def test_sums_wider_than_64_bits_survive_json():
    """State holds integers beyond 2**63, and going on from it gives the same bar."""
    events = [Trade(n, 1e7 + n, 3e25) for n in range(6)]
    drive = Drive(ten_seconds()).run([events[:3]])
    state = json.loads(json.dumps(drive.op.snapshot()))
    assert state["open"]["value"][0] > 2**63
    assert state == drive.op.snapshot()
    drive.restart()
    (row,) = drive.run([events[3:], end(), Barrier()]).rows
    assert plain_bar(row) == naive_bar(events)


@pytest.mark.parametrize("restart", [False, True])
def test_finer_prices_and_sizes_in_mid_window_keep_every_digit(restart):
    """What was summed in coarse steps before goes on in fine ones, beside a symbol that stays coarse."""
    events = [
        Trade(0, 10.25, 300.0),
        Trade(1, 10.25, 7.0, symbol="Y"),
        Trade(2, 10.123456, 200.0),
        Trade(3, 10.5, 0.12345678),
        Trade(4, 10.75, 100.0),
        Trade(5, 10.5, 9.0, symbol="Y"),
    ]
    drive = Drive(ten_seconds())
    for event in events:
        drive.run([event])
        if restart:
            drive.restart()
    drive.run([end(), Barrier()])
    found = {row["symbol"]: plain_bar(row) for row in drive.rows}
    assert found == {s: naive_bar([e for e in events if e.symbol == s]) for s in ("X", "Y")}


def test_sums_of_coarse_values_stay_in_machine_integers():
    """However fine the instrument is declared; only who needs its finest steps is counted in them."""
    drive = Drive(ten_seconds()).run([[Trade(0, 187.23, 3e6)] * 50, [Trade(0, 187.23, 3e6, symbol="Y")]])
    assert drive.op.snapshot()["open"]["value"] == [1872300 * 3_000_000 * 50, 1872300 * 3_000_000]
    drive.run([Trade(1, 187.230001, 0.5, symbol="Y")])
    assert drive.op.snapshot()["open"]["value"] == [
        1872300 * 3_000_000 * 50,
        18_723_000_000 * 3 * 10**14 + 18_723_000_100 * 5 * 10**7,
    ]


def test_a_state_without_scales_is_read_in_the_instruments_own_steps():
    """As it was saved before there were coarser ones."""
    drive = Drive(ten_seconds()).run([Trade(0, 10.0, 2.0)])
    state = drive.op.snapshot()
    del state["price_scale"], state["size_scale"]
    state["open"] |= {"volume": [2 * 10**8], "value": [20 * 10**16]}
    drive.op.restore(state)
    (row,) = drive.run([Trade(1, 11.0, 2.0), end(), Barrier()]).rows
    assert (row["volume"], row["vwap"]) == (4.0, 10.5)


def test_one_absurd_number_stops_nothing():
    """Numbers whose sums no float holds, infinities and NaN are filtered out; the rest makes its bar."""
    odd = [Trade(0, p, s) for p, s in [(1e308, 1.0), (1.0, 1e308), (float("inf"), 1.0), (1.0, float("-inf"))]]
    odd.append(Trade(0, float("nan"), 1.0))
    drive = Drive(ten_seconds()).run([[*odd, Trade(0, 5.0, 2.0)], end(), Barrier()])
    assert drive.counts["filtered"] == 5
    assert [plain_bar(r) for r in drive.rows] == [(5.0, 5.0, 5.0, 5.0, 2.0, 5.0, 1)]


@pytest.mark.parametrize("decimals", [(0, 0), (4, 0), (18, 18), (30, -3)])
def test_any_step_that_an_instrument_may_name_works(decimals):
    """Digits beyond 18 leave the integers and are kept to 18; digits below 0 count in ones."""
    drive = Drive(ten_seconds(), decimals=decimals).run([[Trade(0, 7.0, 3.0), Trade(1, 9.0, 1.0)], end(), Barrier()])
    assert [(r["volume"], r["vwap"]) for r in drive.rows] == [(4.0, 7.5)]


def test_trades_without_sizes_make_bars_without_an_average():
    """A size that is absent adds nothing; an average over nothing is absent, not 0 and not NaN."""
    (row,) = Drive(ten_seconds()).run([[Trade(0, 5.0, None), Trade(1, 6.0, 0.0)], end(), Barrier()]).rows
    assert (row["volume"], row["vwap"], row["trade_count"]) == (0.0, None, 2)


def test_events_flagged_as_far_ahead_move_nothing():
    """They are filtered out, and what comes after them is on time."""
    future = Trade(50 * DAY, flags=int(Flag.TS_EVENT_FUTURE))
    drive = Drive(ten_seconds()).run([[Trade(0), future, Trade(1)], Barrier()])
    assert (drive.counts["filtered"], drive.counts["late"], drive.op.in_flight()) == (1, 0, 2)
    assert not drive.rows


@pytest.mark.parametrize(
    ("what", "prices"),
    [("BID", [10.0, 12.0]), ("ASK", [11.0, 14.0]), ("MIDPOINT", [10.5])],
)
def test_bars_of_quotes_take_their_side_alone(what, prices):
    """A quote without the price asked for makes no bar and counts as filtered; there is no volume."""
    quotes = [Quote(0, 10.0, 11.0), Quote(1, 12.0, None), Quote(2, None, 14.0), Quote(3)]
    drive = Drive(ten_seconds(what=what)).run([quotes, end(), Barrier()])
    (row,) = drive.rows
    assert (row["what"], row["open"], row["close"], row["trade_count"]) == (what, prices[0], prices[-1], len(prices))
    assert (row["volume"], row["vwap"]) == (None, None)
    assert drive.counts["filtered"] == 4 - len(prices)


def test_a_window_of_nothing_but_the_other_side_makes_no_bar():
    """No bar without an event of its price type."""
    assert not Drive(ten_seconds(what="BID")).run([Quote(0, None, 5.0), end(), Barrier()]).rows


def test_a_late_event_makes_a_revision_of_all_ticks():
    """The bar comes again with everything in it, one revision on, and says why."""
    log = Log()
    events = [Trade(0, 5.0), Trade(12 * SECOND, 6.0), Trade(3 * SECOND, 9.0, 0.5), Trade(4 * SECOND, 1.0)]
    drive = Drive(ten_seconds(history=log), log=log)
    drive.run([events[0], events[1], Barrier(), events[2], Barrier(), events[3], Barrier()])
    assert [(r["revision"], r["reason"], r["seq"]) for r in drive.rows] == [
        (0, None, 1),
        (1, "late", 2),
        (2, "late", 3),
    ]
    assert plain_bar(drive.rows[1]) == naive_bar([events[0], events[2]])
    assert plain_bar(drive.rows[2]) == naive_bar([events[0], events[2], events[3]])


def test_late_events_of_two_sources_make_one_revision():
    """A window is made again once per barrier, whoever asks for it."""
    log = Log()
    first = [Trade(0, source=s) for s in "ab"] + [Trade(20 * SECOND, source=s) for s in "ab"]
    late = [Trade(1, source=s) for s in "ab"]
    drive = Drive(ten_seconds(history=log), log=log).run([*first, Barrier(), *late, Barrier()])
    assert drive.counts["late"] == 2
    assert [r["revision"] for r in drive.rows if r["seq"] == 5] == [3]
    assert newest(drive.rows)[("v", "X", BASE)]["trade_count"] == 4


def test_late_events_without_history_are_counted_only():
    """There is nothing to read them from again."""
    drive = Drive(ten_seconds()).run([Trade(0), Trade(30 * SECOND), Barrier(), Trade(1), Barrier()])
    assert drive.counts["late"] == 1
    assert [r["revision"] for r in drive.rows] == [0]


def test_a_source_that_is_late_where_another_is_open_loses_nothing():
    """A revision made while the other source still fills the window is not the last word."""
    log = Log()
    script = [Trade(1, source="b"), Trade(20 * SECOND, source="a"), Trade(2, source="a"), Barrier()]
    drive = Drive(ten_seconds(history=log), log=log).run([*script, Trade(3, source="b"), end("b"), Barrier()])
    assert newest(drive.rows)[("v", "X", BASE)]["trade_count"] == 3


def test_the_day_before_after_the_day_makes_first_bars():
    """A file of an earlier day under its own source has ordinary bars, late nothing and revised nothing."""
    log = Log()
    day_8 = [Trade(DAY + n * SECOND, source="8") for n in range(0, 40, 3)]
    day_7 = [Trade(n * SECOND, source="7") for n in range(0, 40, 3)]
    drive = Drive(ten_seconds(history=log), log=log)
    drive.run([day_8, Barrier(), end("8"), Barrier(), day_7, Barrier(), end("7"), Barrier()])
    assert drive.counts["late"] == 0
    assert {r["revision"] for r in drive.rows} == {0}
    assert sum(r["trade_count"] for r in drive.rows) == len(day_7) + len(day_8)
    assert len(drive.rows) == 8


def test_quotes_of_an_earlier_day_with_empty_sides_make_first_bars():
    """Stored quotes without the price are no events of the window."""
    log = Log()
    script = [
        Quote(DAY, 1.0, source="8"),
        end("8"),
        Barrier(),
        [Quote(0, 1.0, source="7"), Quote(1, None, 2.0, source="7")],
    ]
    drive = Drive(ten_seconds(what="BID", history=log), log=log).run([*script, end("7"), Barrier()])
    assert [r["revision"] for r in drive.rows] == [0, 0]


def test_a_window_cut_by_the_end_of_a_file_is_made_whole_by_the_next():
    """Two files meet inside a window: the second one's barrier gives the bar of both."""
    log = Log()
    drive = Drive(ten_seconds(history=log), log=log)
    drive.run([Trade(1, 5.0, source="1"), end("1"), Barrier(), Trade(2, 6.0, source="2"), end("2"), Barrier()])
    assert [(r["revision"], r["trade_count"]) for r in drive.rows] == [(0, 1), (1, 2)]


def test_a_source_that_begins_again_before_the_barrier_is_not_closed_with_its_past():
    """Its end closes what was there; what comes after waits for its own watermark."""
    drive = Drive(ten_seconds()).run([Trade(0), Trade(20 * SECOND), end(), Trade(5 * SECOND), Barrier()])
    assert [r["ts_event"] - BASE for r in drive.rows] == [0, 20 * SECOND]
    assert (drive.counts["late"], drive.op.in_flight()) == (0, 1)


def test_late_windows_far_apart_are_read_apart():
    """Making two windows a year apart again does not read the year between them."""
    log = Log()
    spans = []

    class Watched:
        def ticks(self, kind, instrument, *, start_ns, end_ns, below_seq):
            spans.append(end_ns - start_ns)
            return log.ticks(kind, instrument, start_ns=start_ns, end_ns=end_ns, below_seq=below_seq)

    drive = Drive(ten_seconds(history=Watched()), log=log)
    drive.run([Trade(400 * DAY), [Trade(0), Trade(365 * DAY)], Barrier()])
    assert spans == [10 * SECOND, 10 * SECOND]
    assert {r["revision"] for r in drive.rows} == {1}


def test_vendors_are_never_mixed():
    """The same symbol of two vendors is two instruments, also within one source and one revision."""
    log = Log()
    script = [[Trade(0, vendor="v"), Trade(0, vendor="w")], end(vendor="v"), Barrier(), end(vendor="w"), Barrier()]
    drive = Drive(ten_seconds(history=log), log=log).run(script)
    assert [(r["vendor"], r["revision"], r["trade_count"]) for r in drive.rows] == [("v", 0, 1), ("w", 0, 1)]


def test_origins_stay_apart():
    """A bar has the origin of its source's events; one barrier gives a batch per origin."""
    op, table = Bars("10s"), Instruments()
    op.process(batch_of([Trade(0, source="a")], instruments=table, origin=Origin.LIVE))
    op.process(batch_of([Trade(0, source="b", symbol="Y")], instruments=table, first_seq=1, origin=Origin.BACKFILL))
    op.advance(end("a"))
    op.advance(end("b"))
    out = op.barrier(2, BASE).out
    assert [(b.origin, b.to_table()["symbol"].to_pylist()) for b in out] == [("backfill", ["Y"]), ("live", ["X"])]


def test_an_empty_batch_is_nothing():
    """No rows in, no rows out, no state."""
    op, table = Bars("10s"), Instruments()
    batch = batch_of([Trade(0)], instruments=table)
    result = op.process(batch.filter(np.array([False])))
    assert (result.out, result.filtered, op.in_flight()) == ([], 0, 0)


def test_the_ledger_sees_a_row_that_vanishes(monkeypatch):
    """In-flight is measured, so an operator that loses one row is one row short."""
    make_partials = Partials.of

    def lossy(events, *more):
        return make_partials(events.take(np.arange(len(events)) != 1), *more)

    script = [[Trade(0), Trade(1), Trade(2)], Barrier(), end(), Barrier()]
    assert Drive(ten_seconds()).run(script).unaccounted == 0
    monkeypatch.setattr(Partials, "of", lossy)
    drive = Drive(ten_seconds())
    for n in range(1, len(script) + 1):
        assert drive.run(script[n - 1 : n], whole=False).unaccounted == 1
