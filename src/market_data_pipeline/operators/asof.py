"""Trades with the quote that stood when they happened."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from market_data_core.batch import EventBatch, Instruments
from market_data_core.errors import ConfigurationError
from market_data_core.protocols import END_OF_TIME_NS, Mark, Result
from market_data_core.schemas import EVENT_SCHEMAS, KIND_FIELDS, Kind, Origin
from market_data_pipeline.operators.placing import believed, ids_of, instrument_places
from market_data_pipeline.operators.quotes_kept import SIDES, Quotes
from market_data_pipeline.operators.streams import Ints, Streams, running_max, segment_starts

Bools = npt.NDArray[np.bool_]
_BEFORE_ALL = -(2**63)
_UNITS_NS = {"ns": 1, "us": 10**3, "ms": 10**6, "s": 10**9, "m": 60 * 10**9, "h": 3600 * 10**9, "d": 86_400 * 10**9}
_WAITING = pa.schema(
    [
        pa.field("place", pa.int64()),
        pa.field("origin", pa.string()),
        *(f for f in EVENT_SCHEMAS[Kind.TRADES] if f.name not in ("instrument", "ts_recv")),
    ]
)
_JOINED = pa.schema([*_WAITING, *(f for f in KIND_FIELDS[Kind.TAQ] if f.name not in _WAITING.names)])


class AsOfJoin:
    """Gives every trade with the newest quote of its vendor and symbol that is not after it.

    Of quotes with the same time the last one by seq counts. A trade waits until no quote at or before it can come any
    more: until the latest `ts_event` of the instrument's quotes, less the allowed lateness, has passed it, or a mark of
    their sources says so, or they have ended. Where no source gives quotes of the instrument, marks and the end of the
    trades' own sources count instead. When all sources of an instrument have ended nothing of it is kept.

    Trades and quotes have a clock each per instrument, the latest `ts_event` over all sources. What is more than the
    allowed lateness behind its own clock is late and goes no further: no trade is ever joined to the wrong quote.
    Neither side waits for the other for longer than `reach` positions of the log, which bounds memory: then a trade
    goes without the quotes to come, and a quote that is not the newest goes before the trades to come, which are late
    if they needed it. Only what is given up so depends on where barriers fall.

    A trade comes out at a barrier, with its own columns and flags, ordered by ``(ts_event, seq)`` of the trades of the
    span; without a quote those columns are null. Events flagged as far ahead are filtered out. A quote is absorbed when
    no trade can need it any more.

    Args:
        tolerance: The oldest a quote may be, such as ``5s`` (units ns, us, ms, s, m, h, d); None for any age.
        allowed_lateness: How far events may come behind those of their kind before them.
        allow_exact: False to take only quotes from before the trade's time.
        reach: In log positions, how long one side is kept for the other.
        name: Of the node.

    Raises:
        ConfigurationError: A duration cannot be read, or `reach` is not positive.
    """

    def __init__(
        self,
        *,
        tolerance: str | None = None,
        allowed_lateness: str = "0s",
        allow_exact: bool = True,
        reach: int = 1 << 20,
        name: str = "asof",
    ) -> None:
        if reach < 1:
            raise ConfigurationError(f"{name}: reach {reach} is not a positive number of log positions")
        self._tolerance_ns = None if tolerance is None else _duration_ns("tolerance", tolerance, name)
        self._lateness_ns = _duration_ns("allowed_lateness", allowed_lateness, name)
        self._allow_exact = allow_exact
        self._reach = reach
        self._name = name
        self._table: Instruments | None = None
        self._reset()

    def _reset(self) -> None:
        # By vendor and symbol; the sources are kept apart from that, in `_heard`.
        self._streams = Streams()
        self._clock = {Kind.QUOTES: np.empty(0, np.int64), Kind.TRADES: np.empty(0, np.int64)}
        # By place, the time before which quotes have been given up for reach.
        self._floor: Ints = np.empty(0, np.int64)
        self._heard: dict[str, dict[int, set[Kind]]] = {}
        self._sources: Counter[tuple[int, Kind]] = Counter()
        self._ended: set[int] = set()
        self._quotes = Quotes.none()
        self._trades = _WAITING.empty_table()
        self._new_quotes: list[Quotes] = []
        self._new_trades: list[pa.Table] = []
        # What is done with, but of which no barrier has spoken yet.
        self._joined: list[pa.Table] = []
        self._late = 0

    @property
    def name(self) -> str:
        """The node's name."""
        return self._name

    @property
    def kinds(self) -> frozenset[Kind]:
        """Trades and quotes."""
        return frozenset({Kind.TRADES, Kind.QUOTES})

    def gives(self, incoming: frozenset[Kind]) -> frozenset[Kind]:
        """Trades with quotes, where trades come in."""
        return frozenset({Kind.TAQ}) if Kind.TRADES in incoming else frozenset()

    def process(self, batch: EventBatch) -> Result:
        """Take trades or quotes; nothing comes out before the barrier."""
        rows = believed(batch)
        filtered = len(batch) - len(rows)
        if not len(rows):
            return Result(filtered=filtered)
        self._table = batch.instruments
        places = instrument_places(self._streams, rows)
        self._grow()
        heard = self._heard.setdefault(batch.source_id, {})
        for place in np.unique(places).tolist():
            kinds = heard.setdefault(place, set())
            if batch.kind not in kinds:
                kinds.add(batch.kind)
                self._sources[place, batch.kind] += 1
        if batch.kind is Kind.QUOTES:
            sides = np.column_stack([rows.floats(n) for n in SIDES])
            self._new_quotes.append(Quotes(places, _ints(rows, "ts_event"), _ints(rows, "seq"), sides))
        else:
            own = {"place": pa.array(places), "origin": pa.repeat(pa.scalar(str(batch.origin)), len(rows))}
            arrays = [own[n] if n in own else rows.data.column(n) for n in _WAITING.names]
            self._new_trades.append(pa.Table.from_arrays(arrays, schema=_WAITING))
        return Result(filtered=filtered)

    def _grow(self) -> None:
        more = len(self._streams) - len(self._floor)
        if more:
            unknown = np.full(more, _BEFORE_ALL, np.int64)
            self._floor = np.concatenate([self._floor, unknown])
            self._clock = {kind: np.concatenate([clock, unknown]) for kind, clock in self._clock.items()}

    # Whatever came since, in log order. That may be done at any moment, and more often than needed: what is late goes
    # by the events before it, and what is joined then could not be joined to anything else later.
    def _settle(self) -> None:
        if self._new_quotes:
            new = Quotes.joined(self._new_quotes)
            self._new_quotes.clear()
            on_time = self._on_time(Kind.QUOTES, new.place, new.ts, new.seq)
            self._quotes = Quotes.joined([self._quotes, new.take(on_time)]).in_order()
        if self._new_trades:
            trades = pa.concat_tables(self._new_trades).combine_chunks()
            self._new_trades.clear()
            place, ts = _numbers(trades, "place"), _numbers(trades, "ts_event")
            floor = self._floor[place]
            answerable = (ts >= floor) if self._allow_exact else (ts > floor) | (floor == _BEFORE_ALL)
            rows = self._on_time(Kind.TRADES, place, ts, _numbers(trades, "seq"), answerable)
            self._trades = pa.concat_tables([self._trades, trades.take(pa.array(rows))]).combine_chunks()
        self._decide()

    # Moves one side's clocks; returns the places of the rows that are not late.
    def _on_time(self, kind: Kind, place: Ints, ts: Ints, seq: Ints, answerable: Bools | None = None) -> Ints:
        order = np.lexsort((seq, place))
        ordered, times = place[order], ts[order]
        starts = segment_starts(ordered)
        heads = ordered[starts]
        clock = self._clock[kind]
        on_time = times >= self._behind(running_max(times, starts, clock[heads]))
        clock[heads] = np.maximum(clock[heads], np.maximum.reduceat(times, starts))
        if answerable is not None:
            on_time &= answerable[order]
        self._late += len(order) - int(on_time.sum())
        return order[on_time]

    # What the allowed lateness leaves of a clock; one that has not begun must not wrap around.
    def _behind(self, clock: Ints) -> Ints:
        begun = clock > _BEFORE_ALL + self._lateness_ns
        behind: Ints = np.where(begun, clock - np.where(begun, self._lateness_ns, 0), _BEFORE_ALL)
        return behind

    # Joins the trades that no quote to come can touch, those of `ended` places, and those below a log position.
    def _decide(self, ended: Iterable[int] = (), below_seq: int = _BEFORE_ALL) -> None:
        if not self._trades.num_rows:
            return
        place, ts = _numbers(self._trades, "place"), _numbers(self._trades, "ts_event")
        limit = self._behind(self._clock[Kind.QUOTES])[place]
        due = (ts < limit) if self._allow_exact else (ts <= limit) & (limit > _BEFORE_ALL)
        due |= _numbers(self._trades, "seq") < below_seq
        gone = list(ended)
        if gone:
            due |= np.isin(place, gone)
        if due.any():
            self._joined.append(self._with_quotes(self._trades.filter(pa.array(due)), place[due], ts[due]))
            self._trades = self._trades.filter(pa.array(~due)).combine_chunks()

    def _with_quotes(self, trades: pa.Table, place: Ints, ts: Ints) -> pa.Table:
        found = self._quotes.last_before(place, ts, allow_exact=self._allow_exact)
        none = found < 0
        quote = self._quotes.at(found)
        if self._tolerance_ns is not None:
            none |= ts - np.where(none, ts, quote.ts) > self._tolerance_ns
        columns = [*trades.columns]
        columns += [pa.array(quote.sides[:, i], mask=none | np.isnan(quote.sides[:, i])) for i in range(len(SIDES))]
        columns.append(pa.array(quote.ts, mask=none))
        return pa.Table.from_arrays(columns, schema=_JOINED)

    def advance(self, mark: Mark) -> None:
        """Move the clocks of the mark's source; the end of all quotes of an instrument decides what waits for them."""
        heard = self._heard.get(mark.source_id, {})
        places = [p for p in self._streams.matching(mark.vendor, mark.symbols, "") if p in heard]
        if not places:
            return
        self._settle()
        if mark.ts_ns == END_OF_TIME_NS:
            self._decide(ended=self._end(mark.source_id, places))
            return
        for kind, clock in self._clock.items():
            moved = [p for p in places if kind in heard[p] or not self._sources[p, kind]]
            clock[moved] = np.maximum(clock[moved], mark.ts_ns)
        self._decide()

    # Lets a source go; returns the places that no quotes will come for any more.
    def _end(self, source_id: str, places: Sequence[int]) -> list[int]:
        heard = self._heard[source_id]
        quiet = []
        for place in places:
            kinds = heard.pop(place)
            for kind in kinds:
                self._sources[place, kind] -= 1
            left = {kind for kind in self._clock if self._sources[place, kind]}
            if Kind.QUOTES not in left and (Kind.QUOTES in kinds or not left):
                quiet.append(place)
            if not left:
                # It is forgotten at the barrier; a source that begins anew before that must not get its quotes.
                self._ended.add(place)
                self._streams.retire([place])
        if not heard:
            del self._heard[source_id]
        self._sources = +self._sources
        return quiet

    def barrier(self, end: int, ts_known_ns: int) -> Result:
        """Give the trades whose quote is known by now."""
        self._settle()
        self._decide(below_seq=end - self._reach)
        out = self._emit(end, ts_known_ns)
        rows = sum(len(b) for b in out)
        before = len(self._quotes)
        self._trim(end - self._reach)
        if self._ended:
            self._forget_ended()
        late, self._late = self._late, 0
        return Result(out=out, emitted=rows, absorbed=rows + before - len(self._quotes), late=late)

    def _emit(self, end: int, ts_known_ns: int) -> list[EventBatch]:
        if not self._joined:
            return []
        joined = pa.concat_tables(self._joined).combine_chunks()
        self._joined.clear()
        joined = joined.take(pa.array(np.lexsort((_numbers(joined, "seq"), _numbers(joined, "ts_event")))))
        places, place_of = np.unique(_numbers(joined, "place"), return_inverse=True)
        ids, instruments = ids_of([self._streams.entries[p][0] for p in places.tolist()], self._table)
        own = {
            "instrument": pa.array(ids[place_of]),
            "ts_recv": pa.repeat(pa.scalar(ts_known_ns, pa.int64()), len(joined)),
            "seq": pa.repeat(pa.scalar(end - 1, pa.int64()), len(joined)),
        }
        schema = EVENT_SCHEMAS[Kind.TAQ]
        columns = [own[n] if n in own else joined.column(n).combine_chunks() for n in schema.names]
        data = pa.RecordBatch.from_arrays([_flat(c) for c in columns], schema=schema)
        origins = np.array(joined.column("origin").to_pylist())
        return [
            EventBatch(
                kind=Kind.TAQ,
                data=data.filter(pa.array(origins == name)),
                instruments=instruments,
                origin=Origin(name),
            )
            for name in sorted(set(origins.tolist()))
        ]

    # Drops the quotes that are followed by another one which every trade to come may use.
    def _trim(self, below_seq: int) -> None:
        quotes = self._quotes
        if not len(quotes):
            return
        waiting = np.full(len(self._floor), END_OF_TIME_NS, np.int64)
        np.minimum.at(waiting, _numbers(self._trades, "place"), _numbers(self._trades, "ts_event"))
        needed = np.minimum(waiting, self._behind(self._clock[Kind.TRADES]))
        followed, place, following = quotes.place[1:] == quotes.place[:-1], quotes.place[1:], quotes.ts[1:]
        passed = np.less_equal if self._allow_exact else np.less
        superseded = followed & passed(following, needed[place])
        beyond = followed & ~superseded & passed(following, waiting[place])
        beyond &= (quotes.seq[:-1] < below_seq) & (quotes.seq[1:] < below_seq)
        if beyond.any():
            rows = np.flatnonzero(beyond) + 1
            np.maximum.at(self._floor, quotes.place[rows], quotes.ts[rows])
        gone = superseded | beyond
        if gone.any():
            self._quotes = quotes.take(np.append(~gone, True))

    def _forget_ended(self) -> None:
        stay, moved = self._streams.forget(self._ended)
        self._ended.clear()
        self._floor = self._floor[stay]
        self._clock = {kind: clock[stay] for kind, clock in self._clock.items()}
        self._quotes = self._quotes.take(moved[self._quotes.place] >= 0)
        self._quotes.place = moved[self._quotes.place]
        place = pa.array(moved[_numbers(self._trades, "place")])
        self._trades = self._trades.set_column(0, _WAITING.field(0), place)
        self._heard = {s: {int(moved[p]): kinds for p, kinds in heard.items()} for s, heard in self._heard.items()}
        self._sources = Counter({(int(moved[p]), kind): n for (p, kind), n in self._sources.items()})

    def in_flight(self) -> int:
        """Return how many trades wait, how many quotes are kept for them, and what the next barrier will speak of."""
        tables = (*self._new_trades, self._trades, *self._joined)
        quotes = (*self._new_quotes, self._quotes)
        return sum(int(t.num_rows) for t in tables) + sum(map(len, quotes)) + self._late

    def snapshot(self) -> dict[str, Any]:
        """Return quotes, waiting trades and clocks."""
        self._settle()
        quotes = self._quotes
        return {
            "streams": self._streams.snapshot(),
            "ended": sorted(self._ended),
            "clock": {str(kind): clock.tolist() for kind, clock in self._clock.items()},
            "floor": self._floor.tolist(),
            "heard": [
                [s, p, sorted(map(str, kinds))] for s, heard in self._heard.items() for p, kinds in heard.items()
            ],
            "quotes": [
                quotes.place.tolist(),
                quotes.ts.tolist(),
                quotes.seq.tolist(),
                pa.array(quotes.sides.ravel(), from_pandas=True).to_pylist(),
            ],
            "trades": self._trades.to_pydict(),
            "joined": pa.concat_tables([_JOINED.empty_table(), *self._joined]).to_pydict(),
            "late": self._late,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take up what `snapshot` gave."""
        self._reset()
        self._streams.restore(state["streams"])
        self._ended = set(state["ended"])
        self._streams.retire(self._ended)
        self._clock = {Kind(kind): np.array(clock, np.int64) for kind, clock in state["clock"].items()}
        self._floor = np.array(state["floor"], np.int64)
        for source_id, place, kinds in state["heard"]:
            self._heard.setdefault(source_id, {})[place] = {Kind(k) for k in kinds}
            self._sources.update((place, Kind(k)) for k in kinds)
        place, ts, seq, sides = state["quotes"]
        self._quotes = Quotes(
            np.array(place, np.int64),
            np.array(ts, np.int64),
            np.array(seq, np.int64),
            np.array(sides, np.float64).reshape(-1, len(SIDES)),
        )
        self._trades = pa.table(state["trades"], schema=_WAITING)
        joined = pa.table(state["joined"], schema=_JOINED)
        self._joined = [joined] if joined.num_rows else []
        self._late = state["late"]


def _duration_ns(what: str, text: str, name: str) -> int:
    digits = text.rstrip("dhmnsu") if isinstance(text, str) else ""
    unit = _UNITS_NS.get(text[len(digits) :]) if digits else None
    if unit is None or not (digits.isascii() and digits.isdigit()):
        raise ConfigurationError(
            f"{name}: {what} {text!r} is not a count and one of {', '.join(_UNITS_NS)}, such as 5s"
        )
    return int(digits) * unit


def _numbers(table: pa.Table, name: str) -> Ints:
    numbers: Ints = table.column(name).to_numpy()
    return numbers


def _ints(batch: EventBatch, name: str) -> Ints:
    return batch.column(name).astype(np.int64, copy=False)


def _flat(column: pa.Array | pa.ChunkedArray) -> pa.Array:
    # A combined column of no rows or of several types of buffers may still be chunked.
    return pa.concat_arrays(column.chunks) if isinstance(column, pa.ChunkedArray) else column
