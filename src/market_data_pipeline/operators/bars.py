"""Bars from trades or quotes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from market_data_core.batch import EventBatch, Instrument, Instruments
from market_data_core.errors import ConfigurationError
from market_data_core.protocols import END_OF_TIME_NS, Mark, Result
from market_data_core.schemas import EVENT_SCHEMAS, Flag, Kind, Origin, interval_ns
from market_data_pipeline.operators import exact
from market_data_pipeline.operators.streams import Ints, Streams, running_max, segment_starts, stream_order
from market_data_pipeline.operators.windows import Windows

Floats = npt.NDArray[np.float64]
_BEFORE_ALL = -(2**63)


class TickHistory(Protocol):
    """All events of an instrument that the log has had up to a position, wherever they are kept by now."""

    def ticks(self, kind: Kind, instrument: Instrument, *, start_ns: int, end_ns: int, below_seq: int) -> pa.Table:
        """Return events in ``[start_ns, end_ns)`` by ``ts_event`` with ``seq < below_seq``, by (ts_event, seq)."""
        ...


@dataclass(slots=True)
class _Open:
    """Windows that have events, one row each, ordered by (stream, start)."""

    stream: Ints
    start: Ints
    open: Floats
    open_ts: Ints
    open_seq: Ints
    high: Floats
    low: Floats
    close: Floats
    close_ts: Ints
    close_seq: Ints
    volume: exact.Exact
    value: exact.Exact
    count: Ints

    @classmethod
    def empty(cls) -> _Open:
        i, f = np.empty(0, np.int64), np.empty(0)
        return cls(i, i, f, i, i, f, f, f, i, i, i, i, i)

    def __len__(self) -> int:
        return len(self.stream)

    def take(self, rows: npt.NDArray[Any]) -> _Open:
        return _Open(*(getattr(self, f.name)[rows] for f in fields(self)))

    def merged(self, other: _Open) -> _Open:
        if not len(self):
            return other
        if not len(other):
            return self
        both = _Open(
            *(
                exact.joined(getattr(self, f.name), getattr(other, f.name))
                if f.name in ("volume", "value")
                else np.concatenate([getattr(self, f.name), getattr(other, f.name)])
                for f in fields(self)
            )
        )
        order = np.lexsort((both.open_seq, both.open_ts, both.start, both.stream))
        both = both.take(order)
        at = segment_starts(both.stream, both.start)
        if len(at) == len(both):
            return both
        # Rows of a window lie by their first event; the one with the last event is found by a second order.
        by_close = np.lexsort((both.close_seq, both.close_ts, both.start, both.stream))
        last = by_close[np.append(at[1:], len(both)) - 1]
        return _Open(
            both.stream[at],
            both.start[at],
            both.open[at],
            both.open_ts[at],
            both.open_seq[at],
            np.maximum.reduceat(both.high, at),
            np.minimum.reduceat(both.low, at),
            both.close[last],
            both.close_ts[last],
            both.close_seq[last],
            exact.add_groups(both.volume, at),
            exact.add_groups(both.value, at),
            np.add.reduceat(both.count, at),
        )


class Bars:
    """Bars of one interval, stamped with the start of their interval.

    A bar is emitted once, when the stream's watermark (the largest `ts_event` seen) passes the interval's end plus
    the allowed lateness. Open and close go by ``(ts_event, seq)``. Volume adds up in whole steps of the instrument,
    the volume-weighted price divides exact sums, so no split into batches changes a digit. No bar without an event.

    Later events count as late; their bar is made again from stored ticks and emitted as a new revision, and so is the
    bar of a window that another source has closed before.

    Args:
        interval: A count and one of s, m, h, d.
        what: ``TRADES`` from trades; ``BID``, ``ASK`` or ``MIDPOINT`` from quotes.
        allowed_lateness_ns: How long a window waits for stragglers, in event time.
        align: See `Windows`.
        history: Where ticks are read again; without it late events are only counted.
        name: Of the node.

    Raises:
        ConfigurationError: The interval, price type or alignment is not one of these.
    """

    def __init__(
        self,
        interval: str = "1m",
        *,
        what: str = "TRADES",
        allowed_lateness_ns: int = 0,
        align: str = "epoch",
        history: TickHistory | None = None,
        name: str | None = None,
    ) -> None:
        if what not in ("TRADES", "BID", "ASK", "MIDPOINT"):
            raise ConfigurationError(f"bars of {what!r}: choose TRADES, BID, ASK or MIDPOINT")
        self.interval = interval
        self.what = what
        self._kind = Kind.TRADES if what == "TRADES" else Kind.QUOTES
        self._windows = Windows(interval_ns(interval), align)
        self._lateness_ns = allowed_lateness_ns
        self._history = history
        self._name = name or f"bars_{interval}"
        self._reset()

    def _reset(self) -> None:
        self._streams = Streams()
        self._watermark: Ints = np.empty(0, np.int64)
        self._price_scale: Floats = np.empty(0)
        self._size_scale: Floats = np.empty(0)
        self._open = _Open.empty()
        self._late: set[tuple[int, int]] = set()
        self._closed_until: dict[tuple[str, str], int] = {}
        self._revisions: dict[tuple[str, str, int], int] = {}
        self._ended: set[int] = set()
        self._origins: dict[str, Origin] = {}

    @property
    def name(self) -> str:
        """The node's name."""
        return self._name

    @property
    def kinds(self) -> frozenset[Kind]:
        """Trades, or quotes."""
        return frozenset({self._kind})

    def process(self, batch: EventBatch) -> Result:
        """Take trades or quotes; nothing comes out before the barrier."""
        price, size = self._values(batch)
        usable = ~np.isnan(price)
        flags = batch.column("flags")
        usable &= (flags & int(Flag.TS_EVENT_FUTURE)) == 0
        filtered = 0
        if not usable.all():
            filtered = len(batch) - int(usable.sum())
            batch, price, size = batch.filter(usable), price[usable], size[usable]
        if not len(price):
            return Result(filtered=filtered)
        late = self._add(batch, price, size)
        return Result(filtered=filtered, late=late)

    def _values(self, batch: EventBatch) -> tuple[Floats, Floats]:
        if self.what == "TRADES":
            return batch.floats("price"), np.nan_to_num(batch.floats("size"), nan=0.0)
        if self.what == "MIDPOINT":
            price = (batch.floats("bid_price") + batch.floats("ask_price")) / 2
        else:
            price = batch.floats(f"{self.what.lower()}_price")
        return price, np.zeros(len(batch))

    def _add(self, batch: EventBatch, price: Floats, size: Floats) -> int:
        places = self._streams.places(batch)
        self._origins[batch.source_id] = batch.origin
        self._grow()
        order = stream_order(places)
        stream, ts = places[order], batch.column("ts_event")[order].astype(np.int64, copy=False)
        segments = segment_starts(stream)
        heads = stream[segments]
        late = 0
        in_order = ts[1:] >= ts[:-1]
        in_order[segments[1:] - 1] = True
        if in_order.all() and bool((ts[segments] >= self._watermark[heads]).all()):
            self._watermark[heads] = ts[np.append(segments[1:], len(ts)) - 1]
        else:
            before = running_max(ts, segments, self._watermark[heads])
            self._watermark[heads] = np.maximum(self._watermark[heads], np.maximum.reduceat(ts, segments))
            starts = self._windows.starts(ts)
            # `end <= before - lateness` and not `end + lateness <= before`: a stream without a past has the least
            # integer as its watermark, which must not wrap around.
            threshold = np.where(before > _BEFORE_ALL + self._lateness_ns, before - self._lateness_ns, _BEFORE_ALL)
            is_late = self._windows.ends(starts) <= threshold
            late = int(is_late.sum())
            if late:
                self._late.update(zip(stream[is_late].tolist(), starts[is_late].tolist(), strict=True))
                order, stream, ts = order[~is_late], stream[~is_late], ts[~is_late]
            # Rows lie in log order within a stream, so a stable sort by time leaves equal times by seq.
            by_time = np.lexsort((ts, stream))
            order, stream, ts = order[by_time], stream[by_time], ts[by_time]
            if not len(ts):
                return late
        self._open = self._open.merged(
            self._partials(stream, ts, batch.column("seq")[order], price[order], size[order])
        )
        return late

    def _partials(self, stream: Ints, ts: Ints, seq: npt.NDArray[Any], price: Floats, size: Floats) -> _Open:
        starts = self._windows.starts(ts)
        at = segment_starts(stream, starts)
        last = np.append(at[1:], len(ts)) - 1
        whole_price = exact.in_steps(price, self._price_scale[stream])
        whole_size = exact.in_steps(size, self._size_scale[stream])
        return _Open(
            stream[at],
            starts[at],
            price[at],
            ts[at],
            seq[at],
            np.maximum.reduceat(price, at),
            np.minimum.reduceat(price, at),
            price[last],
            ts[last],
            seq[last],
            exact.sum_groups(whole_size, at),
            exact.sum_products(whole_price, whole_size, at),
            last - at + 1,
        )

    def _grow(self) -> None:
        known, now = len(self._watermark), len(self._streams)
        if known == now:
            return
        added = [i for i, _ in self._streams.entries[known:]]
        self._watermark = np.concatenate([self._watermark, np.full(now - known, _BEFORE_ALL, np.int64)])
        self._price_scale = np.concatenate([self._price_scale, [10.0**i.price_decimals for i in added]])
        self._size_scale = np.concatenate([self._size_scale, [10.0**i.size_decimals for i in added]])

    def advance(self, mark: Mark) -> None:
        """Move the watermarks of the mark's source; the end of a source closes all its windows."""
        places = self._streams.matching(mark.vendor, mark.symbols, mark.source_id)
        if not places:
            return
        if mark.ts_ns == END_OF_TIME_NS:
            self._ended.update(places)
        else:
            self._watermark[places] = np.maximum(self._watermark[places], mark.ts_ns)

    def barrier(self, end: int, ts_known_ns: int) -> Result:
        """Emit the bars whose time has come, and the revisions that late events ask for."""
        ends = self._windows.ends(self._open.start)
        closed = ends + self._lateness_ns <= self._watermark[self._open.stream]
        if self._ended:
            closed |= np.isin(self._open.stream, list(self._ended))
        emitted: list[EventBatch] = []
        absorbed = 0
        if closed.any():
            due, ends = self._open.take(closed), ends[closed]
            self._open = self._open.take(~closed)
            absorbed = int(due.count.sum())
            again = self._reopened(due, ends, end)
            if again is not None:
                self._late.update(
                    zip(due.stream[again].tolist(), due.start[again].tolist(), strict=True)
                )
                due = due.take(~again)
            emitted += self._emit(due, end, ts_known_ns)
        emitted += self._revise(end, ts_known_ns)
        if self._ended:
            self._forget_ended()
        return Result(out=emitted, emitted=sum(len(b) for b in emitted), absorbed=absorbed)

    def _reopened(self, due: _Open, ends: Ints, end: int) -> npt.NDArray[np.bool_] | None:
        # A window that lies below what another source of the same instrument has closed may have a bar already;
        # then stored ticks of both decide. Those whose every tick is in `due` are ordinary first bars.
        again: npt.NDArray[np.bool_] | None = None
        for stream in np.unique(due.stream).tolist():
            instrument = self._streams.entries[stream][0]
            key = (instrument.vendor, instrument.symbol)
            rows = due.stream == stream
            until = self._closed_until.get(key, _BEFORE_ALL)
            below = rows & (due.start < until)
            if below.any() and self._history is not None:
                counts = self._stored_counts(instrument, due.start[below], ends[below], end)
                mixed = below.copy()
                mixed[below] = counts > due.count[below]
                again = mixed if again is None else again | mixed
            self._closed_until[key] = max(until, int(ends[rows].max()))
        return again

    def _stored_counts(self, instrument: Instrument, starts: Ints, ends: Ints, below_seq: int) -> Ints:
        ticks = self._ticks(instrument, int(starts.min()), int(ends.max()), below_seq)
        ts = ticks.column("ts_event").to_numpy()
        return np.searchsorted(ts, ends) - np.searchsorted(ts, starts)

    def _ticks(self, instrument: Instrument, start_ns: int, end_ns: int, below_seq: int) -> pa.Table:
        if self._history is None:
            raise ConfigurationError(f"{self._name} has no tick history to read from")
        return self._history.ticks(self._kind, instrument, start_ns=start_ns, end_ns=end_ns, below_seq=below_seq)

    def _revise(self, end: int, ts_known_ns: int) -> list[EventBatch]:
        late, self._late = self._late, set()
        if self._history is None:
            return []
        by_stream: dict[int, list[int]] = {}
        for stream, start in sorted(late):
            by_stream.setdefault(stream, []).append(start)
        found: list[EventBatch] = []
        for stream, starts in by_stream.items():
            again = self._again(stream, np.array(starts, np.int64), end)
            instrument = self._streams.entries[stream][0]
            revisions = []
            for start in again.start.tolist():
                key = (instrument.vendor, instrument.symbol, start)
                self._revisions[key] = self._revisions.get(key, 0) + 1
                revisions.append(self._revisions[key])
            found += self._emit(again, end, ts_known_ns, revisions=np.array(revisions, np.int32), reason="late")
        return found

    def _again(self, stream: int, starts: Ints, end: int) -> _Open:
        instrument = self._streams.entries[stream][0]
        ends = self._windows.ends(starts)
        ticks = self._ticks(instrument, int(starts.min()), int(ends.max()), end)
        ts = ticks.column("ts_event").to_numpy().astype(np.int64)
        flags = ticks.column("flags").to_numpy()
        price, size = self._stored_values(ticks)
        usable = ~np.isnan(price) & ((flags & int(Flag.TS_EVENT_FUTURE)) == 0)
        usable &= np.isin(self._windows.starts(ts), starts)
        ts, price, size = ts[usable], price[usable], size[usable]
        if not len(ts):
            return _Open.empty()
        seq = ticks.column("seq").to_numpy()[usable]
        return self._partials(np.full(len(ts), stream, np.int64), ts, seq, price, size)

    def _stored_values(self, ticks: pa.Table) -> tuple[Floats, Floats]:
        def floats(name: str) -> Floats:
            values: Floats = ticks.column(name).to_numpy()
            return values

        if self.what == "TRADES":
            return floats("price"), np.nan_to_num(floats("size"), nan=0.0)
        if self.what == "MIDPOINT":
            return (floats("bid_price") + floats("ask_price")) / 2, np.zeros(ticks.num_rows)
        return floats(f"{self.what.lower()}_price"), np.zeros(ticks.num_rows)

    def _emit(
        self,
        due: _Open,
        end: int,
        ts_known_ns: int,
        *,
        revisions: npt.NDArray[np.int32] | None = None,
        reason: str | None = None,
    ) -> list[EventBatch]:
        if not len(due):
            return []
        if revisions is None:
            revisions = np.zeros(len(due), np.int32)
        origins = [self._origins[self._streams.entries[s][1]] for s in due.stream.tolist()]
        result = []
        for origin in sorted(set(origins)):
            rows = np.array([o == origin for o in origins])
            result.append(self._batch(due.take(rows), end, ts_known_ns, revisions[rows], reason, origin))
        return result

    def _batch(
        self, due: _Open, end: int, ts_known_ns: int, revisions: npt.NDArray[np.int32], reason: str | None, origin: Origin
    ) -> EventBatch:
        rows = len(due)
        streams, stream_of = np.unique(due.stream, return_inverse=True)
        instruments = Instruments()
        ids = np.array([instruments.add(self._streams.entries[s][0]) for s in streams.tolist()], np.int32)
        price_scale = self._price_scale[due.stream].astype(np.int64)
        known = pa.repeat(pa.scalar(ts_known_ns, pa.int64()), rows)
        columns: dict[str, Any] = {
            "instrument": pa.array(ids[stream_of]),
            "ts_event": pa.array(due.start),
            "ts_recv": known,
            "seq": pa.repeat(pa.scalar(end - 1, pa.int64()), rows),
            "flags": pa.array(np.zeros(rows, np.int32)),
            "interval": pa.repeat(pa.scalar(self.interval), rows),
            "what": pa.repeat(pa.scalar(self.what), rows),
            "session": pa.repeat(pa.scalar("ALL"), rows),
            "source": pa.repeat(pa.scalar("internal"), rows),
            "open": pa.array(due.open),
            "high": pa.array(due.high),
            "low": pa.array(due.low),
            "close": pa.array(due.close),
            "volume": pa.array(exact.ratio(due.volume, self._size_scale[due.stream].astype(np.int64))),
            "vwap": pa.array(exact.ratio(due.value, exact.products(due.volume, price_scale)), from_pandas=True),
            "trade_count": pa.array(due.count.astype(np.int64, copy=False)),
            "revision": pa.array(revisions),
            "ts_known": known,
            "reason": pa.repeat(pa.scalar(reason, pa.string()), rows),
        }
        schema = EVENT_SCHEMAS[Kind.BARS]
        data = pa.RecordBatch.from_arrays([columns[n] for n in schema.names], schema=schema)
        return EventBatch(kind=Kind.BARS, data=data, instruments=instruments, origin=origin)

    def _forget_ended(self) -> None:
        # A source that has ended never speaks again; keeping its streams would let state grow with every file.
        keep = np.array([s for s in range(len(self._streams)) if s not in self._ended], np.int64)
        moved = self._streams.keep(keep)
        self._watermark, self._price_scale = self._watermark[keep], self._price_scale[keep]
        self._size_scale = self._size_scale[keep]
        self._open.stream = moved[self._open.stream]
        speaking = {source_id for _, source_id in self._streams.entries}
        self._origins = {s: o for s, o in self._origins.items() if s in speaking}
        self._ended.clear()

    def in_flight(self) -> int:
        """Return the number of events in windows that are still open."""
        return int(self._open.count.sum())

    def snapshot(self) -> dict[str, Any]:
        """Return windows, watermarks and revisions."""
        return {
            "streams": self._streams.snapshot(),
            "watermark": self._watermark.tolist(),
            "open": {f.name: getattr(self._open, f.name).tolist() for f in fields(self._open)},
            "closed_until": [[*k, v] for k, v in self._closed_until.items()],
            "revisions": [[*k, v] for k, v in self._revisions.items()],
            "origins": {source_id: str(origin) for source_id, origin in self._origins.items()},
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take up what `snapshot` gave."""
        self._reset()
        self._streams.restore(state["streams"])
        self._grow()
        self._watermark = np.array(state["watermark"], np.int64)
        empty = _Open.empty()
        columns = []
        for f in fields(empty):
            values = state["open"][f.name]
            if f.name in ("volume", "value") and any(abs(v) >= 2**62 for v in values):
                columns.append(np.array(values, dtype=object))
            else:
                columns.append(np.array(values, getattr(empty, f.name).dtype))
        self._open = _Open(*columns)
        self._closed_until = {(v, s): until for v, s, until in state["closed_until"]}
        self._revisions = {(v, s, start): n for v, s, start, n in state["revisions"]}
        self._origins = {source_id: Origin(origin) for source_id, origin in state["origins"].items()}
