"""What a pipeline finds is what was injected."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from synthetic_reading import KINDS, SECOND, column, made, read, rows_of, table

from market_data_core.batch import EventBatch, Instruments, SourceBatch
from market_data_core.schemas import EVENT_SCHEMAS, Flag, Kind, Origin
from market_data_pipeline.operators.bars import Bars
from market_data_pipeline.operators.dedupe import Dedupe
from market_data_pipeline.operators.validate import Validate

TIMES = ["ts_event", "ts_recv"]


@dataclass
class Found:
    """What came out at the end of a chain of operators, by kind, and what it counted on the way."""

    rows: dict[Kind, list[pa.RecordBatch]] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=lambda: dict.fromkeys(("late", "duplicate", "quarantined"), 0))

    def flagged(self, kind, flag):
        return int(np.count_nonzero(np.concatenate([b.column("flags") for b in self.rows[kind]]) & int(flag)))

    def table(self, kind):
        return pa.Table.from_batches(self.rows.get(kind, []), EVENT_SCHEMAS[kind])


def logged(items):
    """Batches as a log gives them."""
    seq, table_ = 0, Instruments()
    for item in items:
        if isinstance(item, SourceBatch):
            for instrument in item.instruments:
                table_.add(instrument)
            numbers = pa.array(range(seq, seq + item.data.num_rows), pa.int64())
            seq += item.data.num_rows
            arrays = [numbers if n == "seq" else item.data.column(n) for n in EVENT_SCHEMAS[item.kind].names]
            data = pa.RecordBatch.from_arrays(arrays, schema=EVENT_SCHEMAS[item.kind])
            origin = Origin.SYNTHETIC
            yield EventBatch(kind=item.kind, data=data, instruments=table_, origin=origin, source_id=item.source_id)


def find(items, *operators):
    """Run items through operators, one after the other."""
    found = Found()
    for batch in logged(items):
        batches = [batch]
        for operator in operators:
            results = [operator.process(b) for b in batches if b.kind in operator.kinds]
            for result in results:
                for name in found.counts:
                    found.counts[name] += getattr(result, name)
            batches = [b for b in batches if b.kind not in operator.kinds] + [b for r in results for b in r.out]
        for b in batches:
            found.rows.setdefault(b.kind, []).append(b.data)
    return found


@pytest.mark.parametrize("after", [0, 1, 700])
def test_every_repeat_is_dropped_and_nothing_else(after):
    """De-duplication gives the clean market back, and counts as many as were injected."""
    source = made(batch_rows=1000, defects={"duplicates": {"share": 0.01, "after": after}})
    found = find(read(source), Dedupe())
    assert found.counts["duplicate"] == source.injected["duplicates"] == (40 if after < 700 else 33)
    for kind in KINDS:
        assert found.table(kind).drop_columns(["seq"]).equals(rows_of(kind))


def test_every_crossed_quote_is_flagged():
    """Bid above ask: those and no others."""
    source = made(defects={"crossed": 0.005})
    found = find(read(source), Validate())
    assert found.flagged(Kind.QUOTES, Flag.CROSSED) == source.injected["crossed"] == 80


def test_bad_values_are_quarantined_or_flagged_by_what_they_are():
    """What is no number is quarantined; negative prices and trades of no size are flagged."""
    source = made(count=100_000, defects={"bad_values": 0.003})
    found, injected = find(read(source), Validate()), source.injected
    assert found.counts["quarantined"] == injected["bad_values.nan"] == found.table(Kind.QUARANTINE).num_rows
    negative = sum(found.flagged(kind, Flag.NEGATIVE_PRICE) for kind in KINDS)
    assert negative == injected["bad_values.negative"]
    assert found.flagged(Kind.TRADES, Flag.ZERO_SIZE) == injected["bad_values.zero_size"]
    assert injected["bad_values"] == 300
    assert min(injected.values()) > 5


def test_all_that_is_no_number_is_quarantined():
    """Where NaN is all that is bad, the quarantine has as many as were injected."""
    source = made(defects={"bad_values": {"share": 0.01, "what": ["nan"]}})
    assert find(read(source), Validate()).counts["quarantined"] == source.injected["bad_values"] == 200


def test_every_late_trade_is_late_for_its_bar():
    """Five seconds are too late for a bar of one second, and in time for one that waits as long."""
    arguments = {"symbols": ["AAPL"], "kinds": (0, 1), "defects": {"late": {"share": 0.02, "by_s": 5}}}
    source = made(**arguments)
    items = read(source)
    assert find(items, Bars("1s")).counts["late"] == source.injected["late"] == 400
    assert find(items, Bars("1s", allowed_lateness_ns=5 * SECOND)).counts["late"] == 0
    assert find(items, Validate()).flagged(Kind.TRADES, Flag.TS_EVENT_BACK) == 400


def test_late_events_come_when_they_would_have_come():
    """Only the venue's time is older; when they are received, and their order, stay."""
    late, clean = (rows_of(Kind.TRADES, defects=d) for d in ({"late": {"share": 0.1, "by_s": 2}}, None))
    assert late.drop_columns(["ts_event"]).equals(clean.drop_columns(["ts_event"]))
    age = column(clean, "ts_event") - column(late, "ts_event")
    assert set(age.tolist()) == {0, 2 * SECOND}
    assert np.count_nonzero(age) == 400


def test_events_out_of_order_are_older_by_up_to_so_much():
    """Ages are spread over the whole range; those older than what came before are flagged."""
    arguments = {"symbols": ["AAPL"], "kinds": (0, 1)}
    source = made(**arguments, defects={"out_of_order": {"share": 0.1, "by_s": 0.1}})
    items = read(source)
    times = column(table(items, Kind.TRADES), "ts_event")
    age = column(rows_of(Kind.TRADES, **arguments), "ts_event") - times
    assert np.count_nonzero(age) == source.injected["out_of_order"] == 2000
    assert 0 <= age.min() < age.max() <= SECOND // 10
    assert np.median(age[age > 0]) == pytest.approx(SECOND / 20, rel=0.1)
    back = np.count_nonzero(times[1:] < np.maximum.accumulate(times)[:-1])
    assert find(items, Validate()).flagged(Kind.TRADES, Flag.TS_EVENT_BACK) == back > 1900


def test_spikes_stand_alone():
    """One price is ten times what it would be; a quote's two prices move together and stay on ticks."""
    source = made(defects={"spikes": {"share": 0.0005, "factor": 10}})
    items = read(source)
    seen = 0
    for kind, price in ((Kind.TRADES, "price"), (Kind.QUOTES, "bid_price")):
        rows, clean = table(items, kind), rows_of(kind)
        ratio = column(rows, price) / column(clean, price)
        assert set(np.round(ratio, 6)) == {1.0, 10.0}
        seen += np.count_nonzero(ratio > 1)
        spiked = pa.array(ratio > 1)
        assert rows.filter(pc.invert(spiked)).equals(clean.filter(pc.invert(spiked)))
    assert seen == source.injected["spikes"] == 10
    spread = column(table(items, Kind.QUOTES), "ask_price") - column(table(items, Kind.QUOTES), "bid_price")
    assert 0.005 < spread.min() <= spread.max() < 0.055


def test_a_gap_shows_in_trade_ids():
    """Events are missing for a while each time, of all symbols, and the ids of trades count on over it."""
    source = made(count=100_000, symbols=3, defects={"gaps": {"every_s": 10, "for_s": 2}})
    items = read(source)
    missing = 0
    for kind in KINDS:
        rows, clean = table(items, kind), rows_of(kind, count=100_000, symbols=3)
        given = np.isin(column(clean, "ts_event"), column(rows, "ts_event"))
        assert rows.equals(clean.filter(pa.array(given)))
        missing += np.count_nonzero(~given)
        edges = np.flatnonzero(np.diff(column(rows, "ts_event")) > SECOND)
        lengths = np.diff(column(rows, "ts_event"))[edges] / SECOND
        assert len(edges) == 10
        assert lengths.tolist() == pytest.approx([2.0] * 10, abs=0.02)
    assert missing == source.injected["gaps"] == 20_000
    ids = np.array([int(i) for i in table(items, Kind.TRADES).column("trade_id").to_pylist()])
    assert (np.diff(ids) - 1).sum() == 4000


def test_a_gap_of_some_symbols_leaves_the_others():
    """Only those named are withheld."""
    source = made(symbols=["AAPL", "MSFT", "NVDA"], defects={"gaps": {"every_s": 10, "for_s": 5, "symbols": ["msft"]}})
    rows, clean = table(read(source), Kind.QUOTES), rows_of(Kind.QUOTES, symbols=["AAPL", "MSFT", "NVDA"])
    lost = clean.filter(pa.array(~np.isin(column(clean, "ts_event"), column(rows, "ts_event"))))
    assert set(lost.column("instrument").to_pylist()) == {1}
    assert 0 < lost.num_rows < source.injected["gaps"]
    assert rows.num_rows + lost.num_rows == clean.num_rows


@pytest.mark.parametrize("symbols", [(), ("NVDA", "AAPL")])
def test_silence_leaves_the_rate_as_it_is(symbols):
    """No event of the silent ones comes for a while each time; others have theirs, and no id is missing."""
    named = ["AAPL", "MSFT", "NVDA", "TSLA"]
    source = made(
        count=60_000, symbols=named, defects={"silence": {"every_s": 10, "for_s": 5, "symbols": list(symbols)}}
    )
    items = read(source)
    trades, clean = table(items, Kind.TRADES), rows_of(Kind.TRADES, count=60_000, symbols=named)
    same = ["ts_event", "ts_recv", "trade_id"]
    assert trades.select(same).equals(clean.select(same))
    moved = column(trades, "instrument") != column(clean, "instrument")
    assert 0 < np.count_nonzero(moved) < source.injected["silence"]
    silent = column(clean, "instrument")[moved]
    assert not symbols or set(silent) == {0, 2}
    seconds = (column(trades, "ts_event") - column(trades, "ts_event")[0]) / SECOND
    for period in range(6):
        inside = seconds[moved & (seconds // 10 == period)]
        quiet = (seconds >= inside.min()) & (seconds <= inside.max())
        assert np.ptp(inside) == pytest.approx(5, abs=0.3)
        gone = set(silent[(seconds // 10 == period)[moved]])
        assert gone.isdisjoint(column(trades, "instrument")[quiet])
        assert len(gone) == max(len(symbols), 1)


def test_a_pipeline_finds_all_of_them_together():
    """With everything wrong at once, each defect is still counted for what it is."""
    defects = {
        "gaps": {"every_s": 4, "for_s": 0.5},
        "bursts": {"every_s": 5, "for_s": 0.5},
        "duplicates": 0.01,
        "late": {"share": 0.02, "by_s": 5},
        "crossed": 0.002,
        "spikes": 0.001,
        "bad_values": 0.003,
    }
    source = made(count=60_000, symbols=["AAPL"], batch_rows=2000, defects=defects)
    items = read(source)
    injected = source.injected
    found = find(items, Validate(), Dedupe())
    assert found.counts["duplicate"] == injected["duplicates"] > 50
    assert found.counts["quarantined"] == injected["bad_values.nan"] > 10
    assert found.flagged(Kind.QUOTES, Flag.CROSSED) == injected["crossed"] > 50
    assert sum(found.flagged(kind, Flag.TS_EVENT_BACK) for kind in KINDS) == _late_and_readable(items) > 500
    trades = [i for i in items if isinstance(i, SourceBatch) and i.kind is Kind.TRADES]
    back = find(trades, Validate(), Dedupe()).flagged(Kind.TRADES, Flag.TS_EVENT_BACK)
    assert find(trades, Validate(), Dedupe(), Bars("1s")).counts["late"] == back > 100
    rows = sum(table(items, kind).num_rows for kind in KINDS)
    assert rows == 60_000 - injected["gaps"] + injected["duplicates"]


def _late_and_readable(items):
    # Late by the times it was received at, of those whose price can be read; a repeat shares its original's time.
    late = 0
    for kind, price in ((Kind.QUOTES, "bid_price"), (Kind.TRADES, "price")):
        rows = table(items, kind)
        behind = column(rows, "ts_recv") - column(rows, "ts_event") > SECOND
        first = np.ones(rows.num_rows, np.bool_)
        if kind is Kind.TRADES:
            _, places = np.unique(np.array(rows.column("trade_id").to_pylist()), return_index=True)
            first = np.isin(np.arange(rows.num_rows), places)
        late += np.count_nonzero(behind & first & ~np.isnan(column(rows, price)))
    return late
