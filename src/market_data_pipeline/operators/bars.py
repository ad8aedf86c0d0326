"""Bars from trades or quotes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from market_data_core.batch import EventBatch, Instrument, Instruments
from market_data_core.errors import ConfigurationError
from market_data_core.protocols import END_OF_TIME_NS, Mark, Result
from market_data_core.schemas import EVENT_SCHEMAS, Flag, Kind, Origin, interval_ns
from market_data_pipeline.operators import exact
from market_data_pipeline.operators.partials import Events, Floats, Partials, scale_of
from market_data_pipeline.operators.streams import (
    Ints,
    Streams,
    running_max,
    segment_starts,
    stream_order,
    time_order,
)
from market_data_pipeline.operators.windows import Windows

Bools = npt.NDArray[np.bool_]
_BEFORE_ALL = -(2**63)
# Beyond this a sum of products may be more than any float can hold; no price or size is near it.
_LARGEST = 1e100
# Windows to build again that lie this many lengths apart are read one by one, not with all that lies between them.
_FAR_APART = 64
# Sums are counted in steps this fine, or in the instrument's own once there was an event that needs them: instruments
# may be declared much finer than they trade, and sums in such steps leave the machine's integers.
_PRICE_DECIMALS, _SIZE_DECIMALS = 4, 0


class TickHistory(Protocol):
    """All events of an instrument that the log has had up to a position, wherever they are kept by now.

    They are as the operator was handed them: what an operator before it flagged is flagged, what it dropped is absent.
    """

    def ticks(self, kind: Kind, instrument: Instrument, *, start_ns: int, end_ns: int, below_seq: int) -> pa.Table:
        """Return events in ``[start_ns, end_ns)`` by ``ts_event`` with ``seq < below_seq``, by (ts_event, seq)."""
        ...


class Bars:
    """Bars of one interval, stamped with the start of their interval.

    A bar is emitted once, when the stream's watermark (the largest `ts_event` seen) passes the interval's end plus
    the allowed lateness. Open and close go by ``(ts_event, seq)``. Volume adds up in whole steps of the instrument,
    the volume-weighted price divides exact sums, so no split into batches changes a digit. No bar without an event.
    Bars of quotes have no volume. Events flagged as far ahead, and those whose price is absent or no number, are
    filtered out.

    Later events count as late; their bar is made again from stored ticks and emitted as a new revision, and so is the
    bar of a window that another source has closed before. A revision is numbered by how many events came after the
    first bar.

    Args:
        interval: A count and one of s, m, h, d.
        what: ``TRADES`` from trades; ``BID``, ``ASK`` or ``MIDPOINT`` from quotes.
        allowed_lateness_ns: How long a window waits for stragglers, in event time.
        align: See `Windows`.
        history: Where ticks are read again; without it late events are only counted, and a window that two sources
            share has a bar of each.
        name: Of the node.

    Raises:
        ConfigurationError: The interval, price type or alignment is not one of these, or the lateness is negative.
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
        if allowed_lateness_ns < 0:
            raise ConfigurationError(f"bars of {interval}: allowed lateness {allowed_lateness_ns} ns is below 0")
        self.interval = interval
        self.what = what
        self._kind = Kind.TRADES if what == "TRADES" else Kind.QUOTES
        self._windows = Windows(interval_ns(interval), align)
        self._lateness_ns = allowed_lateness_ns
        self._history = history
        self._name = name or f"bars_{interval}"
        self._texts: dict[str | None, pa.Array] = {}
        self._reset()

    def _reset(self) -> None:
        self._streams = Streams()
        self._watermark: Ints = np.empty(0, np.int64)
        self._price_scale: Floats = np.empty(0)
        self._size_scale: Floats = np.empty(0)
        self._finest_price: Floats = np.empty(0)
        self._finest_size: Floats = np.empty(0)
        self._open = Partials.empty()
        # By stream and window, how many events came too late since the last barrier.
        self._late: Counter[tuple[int, int]] = Counter()
        self._closed_until: dict[tuple[str, str], int] = {}
        # By instrument and window, its newest revision: how many events came after its first bar. Counting events and
        # not bars makes it the same wherever barriers fall, so what is made again after a loss agrees with what is
        # stored.
        self._revisions: dict[tuple[str, str, int], int] = {}
        # By stream and window that is still open, how many of its events a revision has already.
        self._included: dict[tuple[int, int], int] = {}
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

    def gives(self, incoming: frozenset[Kind]) -> frozenset[Kind]:
        """Bars, where trades or quotes come in."""
        return frozenset({Kind.BARS}) if incoming & self.kinds else frozenset()

    def process(self, batch: EventBatch) -> Result:
        """Take trades or quotes; nothing comes out before the barrier."""
        places = self._streams.places(batch)
        self._origins[batch.source_id] = batch.origin
        self._grow()
        price, size = _values(self.what, batch.floats)
        usable = _usable(price, size, batch.column("flags"))
        events = Events(places, _ints(batch.column("ts_event")), _ints(batch.column("seq")), price, size)
        filtered = 0
        if not usable.all():
            events = events.take(usable)
            filtered = len(batch) - len(events)
        if not len(events):
            return Result(filtered=filtered)
        if events.stream.min() != events.stream.max():
            events = events.take(stream_order(events.stream))
        in_time = self._in_time(events)
        if len(in_time):
            self._refine(in_time)
            self._open = self._open.merged(
                Partials.of(in_time, self._windows, self._price_scale, self._size_scale),
            )
        return Result(filtered=filtered, late=len(events) - len(in_time))

    def _in_time(self, events: Events) -> Events:
        # Moves the watermarks; returns what is not late, by (stream, ts, seq).
        stream, ts = events.stream, events.ts
        segments = segment_starts(stream)
        heads = stream[segments]
        floor = self._watermark[heads]
        in_order = ts[1:] >= ts[:-1]
        in_order[segments[1:] - 1] = True
        if in_order.all() and bool((ts[segments] >= floor).all()):
            self._watermark[heads] = ts[np.append(segments[1:], len(ts)) - 1]
            return events
        before = running_max(ts, segments, floor)
        self._watermark[heads] = np.maximum(floor, np.maximum.reduceat(ts, segments))
        starts = self._windows.starts(ts)
        # `end <= before - lateness` and not `end + lateness <= before`: a stream without a past has the least
        # integer as its watermark, which must not wrap around.
        threshold = np.where(before > _BEFORE_ALL + self._lateness_ns, before - self._lateness_ns, _BEFORE_ALL)
        late = self._windows.ends(starts) <= threshold
        if late.any():
            if self._history is not None:
                self._late.update(zip(stream[late].tolist(), starts[late].tolist(), strict=True))
            events = events.take(~late)
            if not len(events):
                return events
            segments = segment_starts(events.stream)
        # Rows lie in log order within a stream, so a stable sort by time leaves equal times by seq.
        return events.take(time_order(events.ts, segments))

    def _refine(self, events: Events) -> None:
        if self._kind is not Kind.TRADES:
            return  # quotes have no sums
        streams = events.stream[segment_starts(events.stream)]
        for name, values, now, finest in (
            ("price", events.price, self._price_scale, self._finest_price),
            ("size", events.size, self._size_scale, self._finest_size),
        ):
            if (now[streams] == finest[streams]).all():
                continue
            whole = exact.are_whole(values, scale_of(now, events.stream, streams))
            if whole.all():
                continue
            for stream in np.unique(events.stream[~whole]).tolist():
                self._open.refine(stream, **{name: int(finest[stream] / now[stream])})
                now[stream] = finest[stream]

    def _grow(self) -> None:
        known, now = len(self._watermark), len(self._streams)
        if known == now:
            return
        added = [i for i, _ in self._streams.entries[known:]]
        self._watermark = np.concatenate([self._watermark, np.full(now - known, _BEFORE_ALL, np.int64)])
        finest_price, finest_size = [_scale(i.price_decimals) for i in added], [_scale(i.size_decimals) for i in added]
        self._finest_price = np.concatenate([self._finest_price, finest_price])
        self._finest_size = np.concatenate([self._finest_size, finest_size])
        self._price_scale = np.concatenate([self._price_scale, np.minimum(finest_price, _scale(_PRICE_DECIMALS))])
        self._size_scale = np.concatenate([self._size_scale, np.minimum(finest_size, _scale(_SIZE_DECIMALS))])

    def advance(self, mark: Mark) -> None:
        """Move the watermarks of the mark's source; the end of a source closes all its windows."""
        places = self._streams.matching(mark.vendor, mark.symbols, mark.source_id)
        if not places:
            return
        if mark.ts_ns == END_OF_TIME_NS:
            # Their windows close at the barrier; a source that begins anew before it must not be closed with them.
            self._ended.update(places)
            self._streams.retire(places)
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
        due, contested = Partials.empty(), np.empty(0, np.bool_)
        if closed.any():
            due = self._open.take(closed)
            self._open = self._open.take(~closed)
            absorbed = int(due.count.sum())
            contested = self._contested(due, ends[closed])
        revised: list[tuple[Partials, npt.NDArray[np.int32]]] = []
        if contested.any() or self._late:
            contested, revised = self._revise(due, contested, end)
        first = due.take(~contested) if contested.any() else due
        scales = (self._price_scale, self._size_scale)
        emitted += self._emit(first, scales, np.zeros(len(first), np.int32), end, ts_known_ns)
        for bars, revisions in revised:
            finest = (self._finest_price, self._finest_size)
            emitted += self._emit(bars, finest, revisions, end, ts_known_ns)
        if self._ended:
            self._forget_ended()
        return Result(out=emitted, emitted=sum(len(b) for b in emitted), absorbed=absorbed)

    def _contested(self, due: Partials, ends: Ints) -> Bools:
        # Which windows lie below what has been closed for the instrument already, by another source or by this one
        # before it ended: they may have a bar.
        contested = np.zeros(len(due), np.bool_)
        at = segment_starts(due.stream)
        stops = np.append(at[1:], len(due))
        firsts, last_ends = due.start[at].tolist(), ends[stops - 1].tolist()
        spans = zip(due.stream[at].tolist(), at.tolist(), stops.tolist(), firsts, last_ends, strict=True)
        for stream, row, stop, start, last_end in spans:
            key = self._key(stream)
            until = self._closed_until.get(key, _BEFORE_ALL)
            if start < until and self._history is not None:
                contested[row:stop] = due.start[row:stop] < until
            self._closed_until[key] = max(until, last_end)
        return contested

    def _key(self, stream: int) -> tuple[str, str]:
        instrument = self._streams.entries[stream][0]
        return instrument.vendor, instrument.symbol

    def _revise(
        self, due: Partials, contested: Bools, end: int
    ) -> tuple[Bools, list[tuple[Partials, npt.NDArray[np.int32]]]]:
        # Makes late and contested windows again from stored ticks, once per instrument however many sources ask.
        # Contested windows whose every tick is in `due` are ordinary first bars: they leave the mask.
        late, self._late = self._late, Counter()
        rows = np.flatnonzero(contested)
        windows = [*zip(due.stream[rows].tolist(), due.start[rows].tolist(), strict=True)]
        by_instrument: dict[tuple[str, str], tuple[int, set[int]]] = {}
        for stream, start in [*windows, *sorted(late)]:
            by_instrument.setdefault(self._key(stream), (stream, set()))[1].add(start)
        again = {
            key: self._again(stream, np.array(sorted(starts), np.int64), end)
            for key, (stream, starts) in by_instrument.items()
        }
        added: Counter[tuple[str, str, int]] = Counter()
        for (stream, start), events in late.items():
            added[(*self._key(stream), start)] += events
        counts = {
            (*key, start): n
            for key, bars in again.items()
            for start, n in zip(bars.start.tolist(), bars.count.tolist(), strict=True)
        }
        for row, (stream, start) in zip(rows.tolist(), windows, strict=True):
            events, window = int(due.count[row]), (*self._key(stream), start)
            included = self._included.pop((stream, start), 0)
            if not included and window not in added and counts.get(window, 0) <= events:
                contested[row] = False
            elif events > included:
                added[window] += events - included
        self._include_open(added)
        return contested, [
            revised for key, bars in again.items() if len((revised := self._revisions_of(key, bars, added))[0])
        ]

    def _include_open(self, added: Counter[tuple[str, str, int]]) -> None:
        # A revision is made of every event there is, so also of those in windows that other sources still hold open.
        if not added:
            return
        opens = zip(self._open.stream.tolist(), self._open.start.tolist(), self._open.count.tolist(), strict=True)
        for stream, start, events in opens:
            window = (*self._key(stream), start)
            if window in added:
                added[window] += events - self._included.get((stream, start), 0)
                self._included[stream, start] = events

    def _revisions_of(
        self, key: tuple[str, str], bars: Partials, added: Mapping[tuple[str, str, int], int]
    ) -> tuple[Partials, npt.NDArray[np.int32]]:
        rows, revisions = [], []
        for row, start in enumerate(bars.start.tolist()):
            window = (*key, start)
            if window in added:
                self._revisions[window] = self._revisions.get(window, 0) + added[window]
                rows.append(row)
                revisions.append(self._revisions[window])
        return bars.take(np.array(rows, np.int64)), np.array(revisions, np.int32)

    def _again(self, stream: int, starts: Ints, end: int) -> Partials:
        if self._history is None:
            raise ConfigurationError(f"{self._name} has no tick history to read from")
        instrument = self._streams.entries[stream][0]
        ends = self._windows.ends(starts)
        key = self._key(stream)
        self._closed_until[key] = max(self._closed_until.get(key, _BEFORE_ALL), int(ends[-1]))
        cuts = np.flatnonzero(starts[1:] - ends[:-1] > _FAR_APART * self._windows.step_ns) + 1
        again = Partials.empty()
        for near, near_ends in zip(np.split(starts, cuts), np.split(ends, cuts), strict=True):
            ticks = self._history.ticks(
                self._kind, instrument, start_ns=int(near[0]), end_ns=int(near_ends[-1]), below_seq=end
            )
            events = self._stored(stream, ticks, near, near_ends)
            if len(events):
                again = again.merged(Partials.of(events, self._windows, self._finest_price, self._finest_size))
        return again

    def _stored(self, stream: int, ticks: pa.Table, starts: Ints, ends: Ints) -> Events:
        price, size = _values(self.what, lambda name: ticks.column(name).to_numpy())
        ts = _ints(ticks.column("ts_event").to_numpy())
        window = np.searchsorted(starts, ts, "right") - 1
        wanted = _usable(price, size, ticks.column("flags").to_numpy()) & (ts < ends[window]) & (window >= 0)
        streams = np.full(len(ts), stream, np.int64)
        return Events(streams, ts, _ints(ticks.column("seq").to_numpy()), price, size).take(wanted)

    def _emit(
        self,
        bars: Partials,
        scales: tuple[Floats, Floats],
        revisions: npt.NDArray[np.int32],
        end: int,
        ts_known_ns: int,
    ) -> list[EventBatch]:
        if not len(bars):
            return []
        result = []
        for origin, rows in self._by_origin(bars):
            data, instruments = self._rows(bars.take(rows), scales, revisions[rows], end, ts_known_ns)
            result.append(EventBatch(kind=Kind.BARS, data=data, instruments=instruments, origin=origin))
        return result

    def _by_origin(self, bars: Partials) -> list[tuple[Origin, Bools | slice]]:
        given = set(self._origins.values())
        if len(given) == 1:
            return [(given.pop(), slice(None))]
        streams, stream_of = np.unique(bars.stream, return_inverse=True)
        names = [str(self._origins[self._streams.entries[s][1]]) for s in streams.tolist()]
        origins = np.array(names)[stream_of]
        return [(Origin(name), origins == name) for name in sorted(set(names))]

    def _rows(
        self,
        bars: Partials,
        scales: tuple[Floats, Floats],
        revisions: npt.NDArray[np.int32],
        end: int,
        ts_known_ns: int,
    ) -> tuple[pa.RecordBatch, Instruments]:
        rows = len(bars)
        at = segment_starts(bars.stream)
        instruments = Instruments()
        ids = np.array([instruments.add(self._streams.entries[s][0]) for s in bars.stream[at].tolist()], np.int32)
        price_scale, size_scale = (scale[bars.stream].astype(np.int64) for scale in scales)
        trades = self._kind is Kind.TRADES
        known = pa.array(np.full(rows, ts_known_ns))
        columns: dict[str, Any] = {
            "instrument": pa.array(np.repeat(ids, np.diff(at, append=rows))),
            "ts_event": pa.array(bars.start),
            "ts_recv": known,
            "seq": pa.array(np.full(rows, end - 1)),
            "flags": pa.array(np.zeros(rows, np.int32)),
            "interval": self._said(self.interval, rows),
            "what": self._said(self.what, rows),
            "session": self._said("ALL", rows),
            "source": self._said("internal", rows),
            "open": pa.array(bars.open),
            "high": pa.array(bars.high),
            "low": pa.array(bars.low),
            "close": pa.array(bars.close),
            "volume": pa.array(exact.ratio(bars.volume, size_scale)) if trades else pa.nulls(rows, pa.float64()),
            "vwap": pa.array(exact.ratio(bars.value, exact.products(bars.volume, price_scale)), from_pandas=True),
            "trade_count": pa.array(bars.count),
            "revision": pa.array(revisions),
            "ts_known": known,
            "reason": self._said("late" if revisions[0] else None, rows),
        }
        schema = EVENT_SCHEMAS[Kind.BARS]
        return pa.RecordBatch.from_arrays([columns[n] for n in schema.names], schema=schema), instruments

    def _said(self, text: str | None, rows: int) -> pa.Array:
        # All bars say the same, and making columns of text is slow: one that is long enough is kept.
        column = self._texts.get(text)
        if column is None or len(column) < rows:
            column = self._texts[text] = pa.repeat(pa.scalar(text, pa.string()), 2 * rows)
        return column.slice(0, rows)

    def _forget_ended(self) -> None:
        # A source that has ended never speaks again; keeping its streams would let state grow with every file.
        stay, moved = self._streams.forget(self._ended)
        self._watermark, self._price_scale = self._watermark[stay], self._price_scale[stay]
        self._size_scale = self._size_scale[stay]
        self._finest_price, self._finest_size = self._finest_price[stay], self._finest_size[stay]
        self._open.stream = moved[self._open.stream]
        self._included = {(int(moved[s]), start): n for (s, start), n in self._included.items() if moved[s] >= 0}
        speaking = {source_id for _, source_id in self._streams.entries}
        self._origins = {s: o for s, o in self._origins.items() if s in speaking}
        self._ended.clear()

    def in_flight(self) -> int:
        """Return the number of events in windows that are still open."""
        return int(self._open.count.sum())

    def snapshot(self) -> dict[str, Any]:
        """Return windows, watermarks and revisions; sums may be integers of any size."""
        return {
            "streams": self._streams.snapshot(),
            "ended": sorted(self._ended),
            "watermark": self._watermark.tolist(),
            "open": self._open.snapshot(),
            "price_scale": self._price_scale.tolist(),
            "size_scale": self._size_scale.tolist(),
            "late": sorted([stream, start, events] for (stream, start), events in self._late.items()),
            "closed_until": [[*k, v] for k, v in self._closed_until.items()],
            "revisions": [[*k, v] for k, v in self._revisions.items()],
            "included": [[*k, v] for k, v in self._included.items()],
            "origins": {source_id: str(origin) for source_id, origin in self._origins.items()},
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take up what `snapshot` gave."""
        self._reset()
        self._streams.restore(state["streams"])
        self._ended = set(state["ended"])
        self._streams.retire(self._ended)
        self._grow()
        self._watermark = np.array(state["watermark"], np.int64)
        self._open = Partials.restored(state["open"])
        # A state without scales has its sums in the instruments' own steps.
        self._price_scale = np.array(state.get("price_scale", self._finest_price), np.float64)
        self._size_scale = np.array(state.get("size_scale", self._finest_size), np.float64)
        self._late = Counter({(stream, start): events for stream, start, events in state["late"]})
        self._closed_until = {(v, s): until for v, s, until in state["closed_until"]}
        self._revisions = {(v, s, start): revision for v, s, start, revision in state["revisions"]}
        self._included = {(stream, start): n for stream, start, n in state["included"]}
        self._origins = {source_id: Origin(origin) for source_id, origin in state["origins"].items()}


def _values(what: str, floats: Callable[[str], Floats]) -> tuple[Floats, Floats]:
    # Price and size of every row, NaN where there is no price.
    if what == "TRADES":
        price, size = floats("price"), floats("size")
        absent = np.isnan(size)
        return price, np.where(absent, 0.0, size) if absent.any() else size
    if what == "MIDPOINT":
        bid, ask = floats("bid_price"), floats("ask_price")
        with np.errstate(invalid="ignore"):  # infinities of both signs have no middle, and are not usable anyway
            price = bid / 2 + ask / 2  # halves first: the sum of two large prices may be no float
    else:
        price = floats(f"{what.lower()}_price")
    return price, np.zeros(len(price))


def _usable(price: Floats, size: Floats, flags: npt.NDArray[Any]) -> Bools:
    usable: Bools = (np.abs(price) <= _LARGEST) & (np.abs(size) <= _LARGEST)
    if flags.any():
        usable &= (flags & int(Flag.TS_EVENT_FUTURE)) == 0
    return usable


def _ints(column: npt.NDArray[Any]) -> Ints:
    return column.astype(np.int64, copy=False)


def _scale(decimals: int) -> float:
    # Finer steps than 10**-18 leave int64, and no float close to 1 has as many digits.
    return float(10.0 ** min(max(decimals, 0), 18))
