"""Validation: flags what is odd, quarantines only what cannot be represented."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson
import pyarrow as pa

from market_data_core.batch import EventBatch, Instruments
from market_data_core.protocols import END_OF_TIME_NS, Mark, Result
from market_data_core.schemas import EVENT_SCHEMAS, Flag, Kind
from market_data_pipeline.operators.streams import Ints, Streams, running_max, segment_starts, stream_order

Bools = npt.NDArray[np.bool_]
_SECOND_NS = 1_000_000_000
FUTURE_NS = 60 * _SECOND_NS
"""How far a venue's clock may run before ours."""
_DAY_NS = 86_400 * _SECOND_NS
_BEFORE_ALL = -(2**63)
_LATEST_NS = 7_258_118_400 * _SECOND_NS  # 2200-01-01: beyond it a time is a unit error, and sums with it could wrap

_CHECKED = {
    Kind.QUOTES: ("bid_price", "bid_size", "ask_price", "ask_size"),
    Kind.TRADES: ("price", "size"),
}


class Validate:
    """Flags crossed quotes, negative prices, trades of no size, times that go back and times far ahead.

    Quarantined, with the reason, is what no column can hold: NaN and infinite numbers, a trade without a price, times
    outside 1970 to 2200. Everything else is passed on.

    A time is far ahead when it lies more than `future_ns` past our own receipt of the event, or more than `jump_ns`
    past all that its source gave before; two such events in a row that agree are believed.

    Args:
        future_ns: How far a venue's clock may run before ours.
        jump_ns: The longest silence, in event time, after which a source is still believed at once.
        name: Of the node.
    """

    def __init__(self, *, future_ns: int = FUTURE_NS, jump_ns: int = 30 * _DAY_NS, name: str = "validate") -> None:
        self._future_ns = future_ns
        self._jump_ns = jump_ns
        self._name = name
        self._reset()

    def _reset(self) -> None:
        self._streams = Streams()
        # By kind, because kinds come in batches of their own: between them, order is not the venue's.
        self._latest = {kind: np.empty(0, np.int64) for kind in _CHECKED}
        self._clock: dict[str, int] = {}
        self._suspect: dict[str, int] = {}

    @property
    def name(self) -> str:
        """The node's name."""
        return self._name

    @property
    def kinds(self) -> frozenset[Kind]:
        """Quotes and trades."""
        return frozenset(_CHECKED)

    def gives(self, incoming: frozenset[Kind]) -> frozenset[Kind]:
        """What comes in, and what had to be quarantined of it."""
        return incoming | {Kind.QUARANTINE}

    def process(self, batch: EventBatch) -> Result:
        """Return the batch with its flags, and what was quarantined from it."""
        if not len(batch):
            return Result()
        values = {name: batch.floats(name) for name in _CHECKED[batch.kind]}
        bad = _unrepresentable(batch, values)
        out: list[EventBatch] = []
        quarantined = 0
        if bad:
            rows = np.zeros(len(batch), np.bool_)
            rows[list(bad)] = True
            quarantined = len(bad)
            out.append(_quarantine(batch, bad))
            batch = batch.filter(~rows)
            values = {name: v[~rows] for name, v in values.items()}
        if len(batch):
            out.append(self._flagged(batch, values))
        return Result(out=out, emitted=quarantined, quarantined=quarantined)

    def _flagged(self, batch: EventBatch, values: Mapping[str, npt.NDArray[np.float64]]) -> EventBatch:
        before = batch.column("flags").astype(np.int32, copy=False)
        flags = before
        for flag, rows in (*_value_flags(batch.kind, values), *self._time_flags(batch)):
            if rows.any():
                flags = np.where(rows, flags | np.int32(flag), flags).astype(np.int32)
        return batch if flags is before else batch.with_flags(flags)

    def _time_flags(self, batch: EventBatch) -> list[tuple[Flag, Bools]]:
        ts = batch.column("ts_event").astype(np.int64, copy=False)
        future = ts > batch.column("ts_recv").astype(np.int64, copy=False) + self._future_ns
        clock = self._clock.get(batch.source_id, _BEFORE_ALL)
        believed = ts[~future] if future.any() else ts
        if len(believed) and clock == _BEFORE_ALL:
            clock = int(believed[0])  # nothing was given before it, so there is nothing it could be far ahead of
        newest = int(believed.max()) if len(believed) else clock
        if len(believed) and newest <= clock + self._jump_ns:
            self._clock[batch.source_id] = max(clock, newest)
            self._suspect.pop(batch.source_id, None)
        elif len(believed):
            future = self._one_by_one(batch.source_id, ts, future)
        return [(Flag.TS_EVENT_FUTURE, future), (Flag.TS_EVENT_BACK, self._going_back(batch, ts, future))]

    def _one_by_one(self, source_id: str, ts: Ints, future: Bools) -> Bools:
        # The rule looks at the event before, so rows are taken one by one; only where there is a jump.
        flagged = future.copy()
        clock = self._clock.get(source_id, _BEFORE_ALL)
        suspect = self._suspect.get(source_id)
        for row, (t, ahead) in enumerate(zip(ts.tolist(), future.tolist(), strict=True)):
            if ahead:
                continue
            if clock == _BEFORE_ALL or t <= clock + self._jump_ns:
                clock, suspect = max(clock, t), None
            elif suspect is not None and abs(t - suspect) <= self._jump_ns:
                clock, suspect = t, None
            else:
                flagged[row], suspect = True, t
        self._clock[source_id] = clock
        if suspect is None:
            self._suspect.pop(source_id, None)
        else:
            self._suspect[source_id] = suspect
        return flagged

    def _going_back(self, batch: EventBatch, ts: Ints, future: Bools) -> Bools:
        places = self._streams.places(batch)
        latest = self._latest[batch.kind]
        if len(latest) < len(self._streams):
            grown = np.full(len(self._streams) - len(latest), _BEFORE_ALL, np.int64)
            latest = self._latest[batch.kind] = np.concatenate([latest, grown])
        back = np.zeros(len(ts), np.bool_)
        if not future.any() and ts[0] >= latest.max() and (ts[1:] >= ts[:-1]).all():
            # In order as a whole, so each stream is; of a stream's times NumPy leaves the last, its largest.
            latest[places] = ts
            return back
        counted = np.flatnonzero(~future) if future.any() else np.arange(len(ts))
        if not len(counted):
            return back
        order = counted[stream_order(places[counted])]
        ordered, stream = ts[order], places[order]
        starts = segment_starts(stream)
        heads = stream[starts]
        in_order = ordered[1:] >= ordered[:-1]
        in_order[starts[1:] - 1] = True
        floor = latest[heads]
        if not (in_order.all() and bool((ordered[starts] >= floor).all())):
            back[order] = ordered < running_max(ordered, starts, floor)
        latest[heads] = np.maximum(floor, np.maximum.reduceat(ordered, starts))
        return back

    def advance(self, mark: Mark) -> None:
        """Forget a source that has ended."""
        if mark.ts_ns != END_OF_TIME_NS:
            return
        stay, _ = self._streams.forget(self._streams.matching(mark.vendor, mark.symbols, mark.source_id))
        # A kind of which nothing came lately may know fewer streams.
        self._latest = {kind: latest[stay[stay < len(latest)]] for kind, latest in self._latest.items()}
        if all(source_id != mark.source_id for _, source_id in self._streams.entries):
            self._clock.pop(mark.source_id, None)
            self._suspect.pop(mark.source_id, None)

    def barrier(self, end: int, ts_known_ns: int) -> Result:
        """Return nothing: what goes in comes out at once."""
        del end, ts_known_ns
        return Result()

    def in_flight(self) -> int:
        """Return 0."""
        return 0

    def snapshot(self) -> dict[str, Any]:
        """Return the clocks of sources and streams."""
        return {
            "streams": self._streams.snapshot(),
            "latest": {str(kind): latest.tolist() for kind, latest in self._latest.items()},
            "clock": dict(self._clock),
            "suspect": dict(self._suspect),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take up what `snapshot` gave."""
        self._reset()
        self._streams.restore(state["streams"])
        self._latest = {Kind(kind): np.array(latest, np.int64) for kind, latest in state["latest"].items()}
        self._clock = dict(state["clock"])
        self._suspect = dict(state["suspect"])


def _unrepresentable(batch: EventBatch, values: Mapping[str, npt.NDArray[np.float64]]) -> dict[int, str]:
    reasons: dict[int, str] = {}
    ts = batch.column("ts_event").astype(np.int64, copy=False)
    if int(ts.min()) < 0 or int(ts.max()) >= _LATEST_NS:
        for row in np.flatnonzero((ts < 0) | (ts >= _LATEST_NS)).tolist():
            reasons[row] = f"ts_event {ts[row]} is outside 1970 to 2200"
    for name, column in values.items():
        if np.isfinite(column).all():
            continue
        # Null becomes NaN on the way into NumPy; only what is not null is a bad number.
        present = batch.data.column(name).is_valid().to_numpy(zero_copy_only=False)
        for row in np.flatnonzero(~np.isfinite(column) & present).tolist():
            reasons[row] = f"{name} is {column[row]}"
        if name == "price":
            for row in np.flatnonzero(~present).tolist():
                reasons[row] = "a trade without a price"
    return reasons


def _value_flags(kind: Kind, values: Mapping[str, npt.NDArray[np.float64]]) -> list[tuple[Flag, Bools]]:
    if kind is Kind.TRADES:
        return [(Flag.NEGATIVE_PRICE, values["price"] < 0), (Flag.ZERO_SIZE, values["size"] == 0)]
    bid, ask = values["bid_price"], values["ask_price"]
    return [(Flag.CROSSED, bid > ask), (Flag.NEGATIVE_PRICE, (bid < 0) | (ask < 0))]


def _quarantine(batch: EventBatch, reasons: Mapping[int, str]) -> EventBatch:
    rows = sorted(reasons)
    taken = batch.data.take(pa.array(rows))
    raw = [_raw(row, batch.instruments) for row in taken.to_pylist()]
    own = {
        "kind": pa.repeat(pa.scalar(str(batch.kind)), len(rows)),
        "source_id": pa.repeat(pa.scalar(batch.source_id), len(rows)),
        "line": pa.nulls(len(rows), pa.int64()),
        "reason": pa.array([reasons[row] for row in rows], pa.string()),
        "raw": pa.array(raw, pa.string()),
    }
    schema = EVENT_SCHEMAS[Kind.QUARANTINE]
    arrays = [own[n] if n in own else taken.column(n) for n in schema.names]
    return EventBatch(
        kind=Kind.QUARANTINE,
        data=pa.RecordBatch.from_arrays(arrays, schema=schema),
        instruments=batch.instruments,
        origin=batch.origin,
        source_id=batch.source_id,
        offset=batch.offset,
    )


def _raw(row: dict[str, Any], instruments: Instruments) -> str:
    # By name, because an instrument's id means nothing outside the log, nor in the next one.
    instrument = instruments[row.pop("instrument")]
    named = {"vendor": instrument.vendor, "symbol": instrument.symbol, **row}
    return orjson.dumps({k: _plain(v) for k, v in named.items() if v is not None}).decode()


def _plain(value: Any) -> Any:
    # JSON has no NaN and no infinity; the text says what was there.
    return repr(value) if isinstance(value, float) and not np.isfinite(value) else value
