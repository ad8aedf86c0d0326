"""A driver for operators on any kind: rows as dicts, numbered as a log does, with the ledger kept after every call."""

from __future__ import annotations

import json
from itertools import groupby
from typing import Any, NamedTuple

import pyarrow as pa

from market_data_core.batch import EventBatch, Instrument, Instruments
from market_data_core.protocols import END_OF_TIME_NS, Mark
from market_data_core.schemas import EVENT_SCHEMAS, Kind, Origin

BASE = 1_700_000_000_000_000_000
SECOND = 1_000_000_000


class Event(NamedTuple):
    """One event; `ts` counts from BASE, `values` are the kind's own columns."""

    kind: Kind
    ts: int
    values: dict[str, Any]
    symbol: str = "X"
    source: str = "a"
    vendor: str = "v"
    flags: int = 0


def trade(ts, price=1.0, size=1.0, **rest):
    """A trade."""
    own = {"price": price, "size": size} | {k: rest.pop(k) for k in ("trade_id", "exchange") if k in rest}
    return Event(Kind.TRADES, ts, own, **rest)


def quote(ts, bid=None, ask=None, bid_size=None, ask_size=None, **rest):
    """A quote."""
    values = {"bid_price": bid, "ask_price": ask, "bid_size": bid_size, "ask_size": ask_size}
    return Event(Kind.QUOTES, ts, values, **rest)


BARRIER = "barrier"


def mark(ts, source="a", symbols=()):
    """Punctuation."""
    return Mark(vendor="v", ts_ns=BASE + ts, source_id=source, symbols=symbols)


def end(source="a", symbols=()):
    """The end of a source."""
    return Mark(vendor="v", ts_ns=END_OF_TIME_NS, source_id=source, symbols=symbols)


class Steps:
    """Runs an operator and asserts after every call that each row is accounted for.

    Attributes:
        rows: Everything that came out, as dicts.
        out: The same as batches.
        counts: The ledger.
    """

    COUNTS = ("absorbed", "filtered", "duplicate", "late", "suppressed", "quarantined", "failed")

    def __init__(self, make, *, decimals=(8, 8)):
        self._make = make
        self._decimals = decimals
        self._instruments = Instruments()
        self.op = make()
        self.out = []
        self.rows = []
        self.seq = self.entered = self.passed = 0
        self.counts = dict.fromkeys(self.COUNTS, 0)

    def _take(self, result):
        self.passed += sum(len(b) for b in result.out) - result.emitted
        for name in self.COUNTS:
            self.counts[name] += getattr(result, name)
        self.out += result.out
        for batch in result.out:
            assert batch.data.schema.equals(EVENT_SCHEMAS[batch.kind])
            self.rows += batch.to_table().to_pylist()
        assert self.entered == self.passed + sum(self.counts.values()) + self.op.in_flight()

    def _batch(self, events):
        places = []
        for e in events:
            price, size = self._decimals
            instrument = Instrument(vendor=e.vendor, symbol=e.symbol, price_decimals=price, size_decimals=size)
            places.append(self._instruments.add(instrument))
        columns = {
            "instrument": places,
            "ts_event": [BASE + e.ts for e in events],
            "ts_recv": [BASE + e.ts + 1 for e in events],
            "seq": list(range(self.seq, self.seq + len(events))),
            "flags": [e.flags for e in events],
        }
        schema = EVENT_SCHEMAS[events[0].kind]
        arrays = [
            pa.array(columns.get(f.name) or [e.values.get(f.name) for e in events], f.type, from_pandas=False)
            for f in schema
        ]
        data = pa.RecordBatch.from_arrays(arrays, schema=schema)
        return EventBatch(
            kind=events[0].kind,
            data=data,
            instruments=self._instruments,
            origin=Origin.REPLAY,
            source_id=events[0].source,
        )

    def run(self, script):
        """Run events (alone, or lists that make as few batches as they can), marks and barriers."""
        for step in script:
            if isinstance(step, str):
                self._take(self.op.barrier(self.seq, BASE + self.seq))
            elif isinstance(step, Mark):
                self.op.advance(step)
                assert self.entered == self.passed + sum(self.counts.values()) + self.op.in_flight()
            else:
                events = step if isinstance(step, list) else [step]
                for _, group in groupby(events, key=lambda e: (e.kind, e.source)):
                    batch = self._batch(list(group))
                    self.seq += len(batch)
                    self.entered += len(batch)
                    self._take(self.op.process(batch))
        return self

    def restart(self):
        """Go on in another process: state through JSON, the instruments under other ids."""
        state = json.loads(json.dumps(self.op.snapshot()))
        self.op = self._make()
        self.op.restore(state)
        assert self.entered == self.passed + sum(self.counts.values()) + self.op.in_flight()
        self._instruments = Instruments([Instrument(vendor="other", symbol="FIRST"), *reversed([*self._instruments])])


def split(events, cuts):
    """The events in batches of these lengths, then the rest."""
    parts, at = [], 0
    for length in cuts:
        parts.append(events[at : at + length])
        at += length
    return [p for p in [*parts, events[at:]] if p]


def flat(script):
    """The events of a script, in order."""
    return [
        e for step in script if isinstance(step, list | Event) for e in (step if isinstance(step, list) else [step])
    ]


def stopped(make, script, stops, **settings):
    """Run a script with a restart before each of the steps named by number."""
    steps = Steps(make, **settings)
    for at, step in enumerate(script):
        if at in stops:
            steps.restart()
        steps.run([step])
    return steps
