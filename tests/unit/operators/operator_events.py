"""What the operator tests share: events as tuples, a log that numbers them, and a driver that keeps the books."""

from __future__ import annotations

import json
from dataclasses import dataclass
from fractions import Fraction
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from hypothesis import strategies as st

from market_data_core.batch import EventBatch, Instrument, Instruments
from market_data_core.protocols import END_OF_TIME_NS, Mark, Result
from market_data_core.schemas import EVENT_SCHEMAS, TABLE_SCHEMAS, Flag, Kind, Origin

SECOND = 1_000_000_000
BASE = 1_700_000_000 * SECOND


class Trade(NamedTuple):
    """A trade as tests write it; `ts` counts from BASE."""

    ts: int
    price: float | None = 1.0
    size: float | None = 1.0
    symbol: str = "X"
    source: str = "a"
    vendor: str = "v"
    flags: int = 0
    trade_id: str | None = None
    ts_recv: int | None = None


class Quote(NamedTuple):
    """A quote as tests write it; `ts` counts from BASE."""

    ts: int
    bid_price: float | None = None
    ask_price: float | None = None
    symbol: str = "X"
    source: str = "a"
    vendor: str = "v"
    flags: int = 0
    ts_recv: int | None = None


@dataclass(frozen=True)
class Barrier:
    """A barrier at the end of what came before it."""


def mark(ts, *, source="a", vendor="v", symbols=()):
    """Punctuation at `ts` from BASE."""
    return Mark(vendor=vendor, ts_ns=BASE + ts, source_id=source, symbols=symbols)


def end(source="a", vendor="v", symbols=()):
    """The end of a source."""
    return Mark(vendor=vendor, ts_ns=END_OF_TIME_NS, source_id=source, symbols=symbols)


def batch_of(events, *, instruments, first_seq=0, decimals=(8, 8), origin=Origin.REPLAY):
    """Events of one kind and source as a batch."""
    kind = Kind.TRADES if isinstance(events[0], Trade) else Kind.QUOTES
    for e in events:
        instruments.add(
            Instrument(vendor=e.vendor, symbol=e.symbol, price_decimals=decimals[0], size_decimals=decimals[1])
        )
    columns = {
        "instrument": [instruments.find(e.vendor, e.symbol) for e in events],
        "ts_event": [BASE + e.ts for e in events],
        "ts_recv": [BASE + (e.ts if e.ts_recv is None else e.ts_recv) for e in events],
        "seq": range(first_seq, first_seq + len(events)),
    }
    names = set(type(events[0])._fields)
    schema = EVENT_SCHEMAS[kind]
    arrays = []
    for f in schema:
        values = columns.get(f.name)
        if values is None:
            values = [getattr(e, f.name) if f.name in names else None for e in events]
        # Through an object list NaN stays NaN, and only None is null.
        arrays.append(pa.array(list(values), f.type, from_pandas=False))
    data = pa.RecordBatch.from_arrays(arrays, schema=schema)
    return EventBatch(kind=kind, data=data, instruments=instruments, origin=origin, source_id=events[0].source)


class Log:
    """Every batch there was, readable as the history of ticks that operators ask for."""

    def __init__(self):
        self.batches = []
        self.reads = 0

    def ticks(self, kind, instrument, *, start_ns, end_ns, below_seq):
        """Events of one instrument in a span of time, by (ts_event, seq)."""
        self.reads += 1
        whole = pa.concat_tables(
            [TABLE_SCHEMAS[kind].empty_table(), *(b.to_table() for b in self.batches if b.kind is kind)]
        )
        ts, seq = whole["ts_event"].to_numpy(), whole["seq"].to_numpy()
        wanted = (ts >= start_ns) & (ts < end_ns) & (seq < below_seq)
        wanted &= np.array(whole["vendor"].to_pylist(), object) == instrument.vendor
        wanted &= np.array(whole["symbol"].to_pylist(), object) == instrument.symbol
        return whole.filter(pa.array(wanted)).sort_by([("ts_event", "ascending"), ("seq", "ascending")])


COUNTERS = ("absorbed", "filtered", "duplicate", "late", "suppressed", "quarantined", "failed")


class Drive:
    """Runs an operator over a script of events, marks and barriers, and keeps its ledger.

    Attributes:
        rows: Everything that came out, as dicts.
        entered, passed, counts: The ledger.
    """

    def __init__(self, make, *, log=None, decimals=(8, 8)):
        self._make = make
        self._decimals = decimals
        self._instruments = Instruments()
        self.op = make()
        self.log = log if log is not None else Log()
        self.rows = []
        self.out = []
        self.seq = 0
        self.entered = self.passed = 0
        self.counts = dict.fromkeys(COUNTERS, 0)

    @property
    def unaccounted(self):
        """Rows that went in and are nowhere."""
        return self.entered - self.passed - sum(self.counts.values()) - self.op.in_flight()

    def _take(self, result: Result):
        self.passed += sum(len(b) for b in result.out) - result.emitted
        for name in COUNTERS:
            self.counts[name] += getattr(result, name)
        self.out += result.out
        for batch in result.out:
            self.rows += batch.to_table().to_pylist()

    def events(self, events):
        """Hand over events, one batch per run of the same source and kind."""
        at = 0
        while at < len(events):
            stop = at + 1
            while stop < len(events) and (type(events[stop]), events[stop].source) == (
                type(events[at]),
                events[at].source,
            ):
                stop += 1
            batch = batch_of(
                events[at:stop], instruments=self._instruments, first_seq=self.seq, decimals=self._decimals
            )
            self.seq += len(batch)
            self.entered += len(batch)
            self.log.batches.append(batch)
            self._take(self.op.process(batch))
            at = stop

    def barrier(self):
        """Close a span."""
        self._take(self.op.barrier(self.seq, BASE + self.seq))

    def run(self, script, *, whole=True):
        """Run a script; `whole` checks the ledger after every step."""
        for step in script:
            if isinstance(step, Barrier):
                self.barrier()
            elif isinstance(step, Mark):
                self.op.advance(step)
            else:
                self.events(step if isinstance(step, list) else [step])
            if whole:
                assert self.unaccounted == 0, step
        return self

    def restart(self):
        """Stop, and go on in another process: state through JSON, instruments in another order with other ids."""
        state = json.loads(json.dumps(self.op.snapshot()))
        self.op = self._make()
        self.op.restore(state)
        self._instruments = Instruments([Instrument(vendor="other", symbol="FIRST"), *reversed([*self._instruments])])


def bars(rows, *, without=("seq", "ts_known", "ts_recv", "reason")):
    """Rows of bars in an order of their own, without what depends on where barriers fall."""
    plain = [{k: v for k, v in row.items() if k not in without} for row in rows]
    return sorted(plain, key=lambda r: (r["vendor"], r["symbol"], r["ts_event"], r["revision"]))


def newest(rows):
    """By (vendor, symbol, start) the newest revision; a key and revision may be there only once."""
    found = {}
    for row in sorted(rows, key=lambda r: r["revision"]):
        key = (row["vendor"], row["symbol"], row["ts_event"])
        assert key not in found or found[key]["revision"] < row["revision"], "two rows of one revision"
        assert key not in found or found[key]["trade_count"] < row["trade_count"], "a revision that says nothing new"
        found[key] = row
    return found


def naive_bar(events):
    """(open, high, low, close, volume, vwap, count) of trades, in exact fractions, told apart by (ts, place)."""
    in_time = sorted(enumerate(events), key=lambda e: (e[1].ts, e[0]))
    prices = [e.price for _, e in in_time]
    volume = sum(Fraction(repr(e.size)) for e in events)
    value = sum(Fraction(repr(e.price)) * Fraction(repr(e.size)) for e in events)
    return (
        prices[0],
        max(prices),
        min(prices),
        prices[-1],
        float(volume),
        float(value / volume) if volume else None,
        len(events),
    )


def plain_bar(row):
    """The same of an emitted row."""
    return tuple(row[k] for k in ("open", "high", "low", "close", "volume", "vwap", "trade_count"))


def naive_windows(events, *, step, lateness):
    """What is on time by watermarks alone, by (vendor, symbol, source, start), and how many events are late."""
    watermark, windows, late = {}, {}, 0
    for e in events:
        if e.flags & Flag.TS_EVENT_FUTURE or e.price is None:
            continue
        stream = (e.vendor, e.symbol, e.source)
        start = (BASE + e.ts) // step * step
        if start + step + lateness <= watermark.get(stream, -(2**63)):
            late += 1
        else:
            windows.setdefault((*stream, start), []).append(e)
        watermark[stream] = max(watermark.get(stream, -(2**63)), BASE + e.ts)
    return windows, late


SIZES = st.one_of(
    st.integers(0, 50).map(lambda n: n / 10),
    st.integers(1, 10**10).map(lambda n: n / 10**8),
    st.sampled_from([0.1, 0.2, 0.3, 90_071_992.54740993, 1e15, 123_456_789_012.5, 3e25]),
)
PRICES = st.one_of(
    st.integers(-200, 20_000).map(lambda n: n / 100),
    st.integers(1, 10**9).map(lambda n: n / 10**8),
    st.sampled_from([0.0, -37.63, 1e7, 250_000.12345678]),
)


def trades(*, sources=("a",), symbols=("X", "Y"), span_s=12):
    """Trades within `span_s` seconds on a grid of 0.25 s, so times collide and go back."""
    fields = st.tuples(
        st.integers(0, span_s * 4).map(lambda n: n * SECOND // 4),
        PRICES,
        SIZES,
        st.sampled_from(symbols),
        st.sampled_from(sources),
        st.sampled_from([0, 0, 0, 0, int(Flag.TS_EVENT_FUTURE), int(Flag.CROSSED)]),
    )
    return fields.map(lambda f: Trade(*f[:5], flags=f[5]))


def scripts(*, sources=("a", "b"), max_size=40):
    """Events of several sources with barriers, marks and ends of sources in between."""
    step = st.one_of(
        trades(sources=sources),
        trades(sources=sources),
        st.lists(trades(sources=sources), min_size=1, max_size=8),
        st.just(Barrier()),
        st.tuples(st.integers(0, 12 * SECOND), st.sampled_from(sources)).map(lambda m: mark(m[0], source=m[1])),
        st.sampled_from(sources).map(end),
    )
    return st.lists(step, max_size=max_size)


def finished(script, sources=("a", "b")):
    """The script with every source ended and a last barrier."""
    return [*script, *(end(s) for s in sources), Barrier()]


def events_of(script):
    """The events of a script, in order."""
    return [
        e for step in script if isinstance(step, list | Trade) for e in (step if isinstance(step, list) else [step])
    ]
