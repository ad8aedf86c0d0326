"""Bars that close by what was traded, not by the clock."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import astuple, dataclass
from decimal import Decimal, InvalidOperation
from fractions import Fraction
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from market_data_core.batch import EventBatch, Instrument, Instruments
from market_data_core.errors import ConfigurationError
from market_data_core.protocols import END_OF_TIME_NS, Mark, Result
from market_data_core.schemas import EVENT_SCHEMAS, Kind, Origin
from market_data_pipeline.operators import exact
from market_data_pipeline.operators.placing import believed, ids_of, instrument_places
from market_data_pipeline.operators.streams import Ints, Streams, segment_starts

Floats = npt.NDArray[np.float64]
_ORIGINS: Final = tuple(Origin)
_BEFORE_ALL = -(2**63)
# As in bars by time: beyond it a sum of products may be more than any float can hold.
_LARGEST = 1e100
_LARGEST_BOUND = 10**30


# A bar in the making, or one that is closed: sums in whole steps, `amount` of what it closes by.
@dataclass(slots=True)
class _Bar:
    place: int
    start: int
    open: float
    high: float
    low: float
    close: float
    volume: int
    value: int
    count: int
    amount: int
    origin: int
    reason: str | None = None

    def add(self, later: _Bar) -> None:
        self.high, self.low, self.close = max(self.high, later.high), min(self.low, later.low), later.close
        self.volume += later.volume
        self.value += later.value
        self.count += later.count
        self.amount += later.amount
        self.origin = later.origin


# Trades that no barrier has dealt with, one array a column.
@dataclass(slots=True)
class _Trades:
    place: Ints
    ts: Ints
    seq: Ints
    price: Floats
    size: Floats
    origin: Ints

    def __len__(self) -> int:
        return len(self.place)

    def take(self, rows: npt.NDArray[Any] | slice) -> _Trades:
        return _Trades(*(getattr(self, n)[rows] for n in self.__slots__))


class _AmountBars(ABC):
    # What the three kinds share; each says what a trade adds (`_amounts`) and in which unit its bound is (`_unit`).
    _by = ""

    def __init__(self, bound: str | float, *, partial: bool, name: str | None) -> None:
        try:
            amount = Decimal(str(bound))
        except InvalidOperation:
            amount = Decimal("NaN")
        if isinstance(bound, bool) or not amount.is_finite() or not 0 < amount <= _LARGEST_BOUND:
            raise ConfigurationError(f"bars by {self._by}: {bound!r} is not a number above 0, up to 1e30")
        self._bound = Fraction(amount)
        plain = f"{amount:f}"
        self.interval = f"{self._by}:{plain.rstrip('0').rstrip('.') if '.' in plain else plain}"
        self._partial = partial
        self._name = name or f"bars_{self._by}"
        self._table: Instruments | None = None
        self._reset()

    def _reset(self) -> None:
        # By vendor and symbol: a series goes on from one source to the next, such as the files of a row of days.
        self._streams = Streams()
        self._sources: dict[int, set[str]] = {}
        self._bounds: list[int] = []
        self._open: dict[int, _Bar] = {}
        self._last_start: dict[int, int] = {}
        self._new: list[_Trades] = []
        self._closed: list[_Bar] = []

    @property
    def name(self) -> str:
        """The node's name."""
        return self._name

    @property
    def kinds(self) -> frozenset[Kind]:
        """Trades."""
        return frozenset({Kind.TRADES})

    def gives(self, incoming: frozenset[Kind]) -> frozenset[Kind]:
        """Bars, where trades come in."""
        return frozenset({Kind.BARS}) if Kind.TRADES in incoming else frozenset()

    def process(self, batch: EventBatch) -> Result:
        """Take trades; nothing comes out before the barrier."""
        rows = believed(batch)
        price, size = rows.floats("price"), np.nan_to_num(rows.floats("size"), nan=0.0, posinf=np.inf)
        usable = (np.abs(price) <= _LARGEST) & (size >= 0) & (size <= _LARGEST)
        filtered = len(batch) - int(usable.sum())
        if filtered == len(batch):
            return Result(filtered=filtered)
        self._table = batch.instruments
        rows = rows.filter(usable)
        places = instrument_places(self._streams, rows)
        for place in np.unique(places).tolist():
            self._sources.setdefault(place, set()).add(batch.source_id)
        ts, seq = (rows.column(n).astype(np.int64, copy=False) for n in ("ts_event", "seq"))
        origin = np.full(len(rows), _ORIGINS.index(batch.origin), np.int64)
        self._new.append(_Trades(places, ts, seq, price[usable], size[usable], origin))
        return Result(filtered=filtered)

    # Puts what came since into bars, in log order whatever sources it came from.
    def _settle(self) -> None:
        if not self._new:
            return
        fields = _Trades.__slots__
        new = _Trades(*(np.concatenate([getattr(t, n) for t in self._new]) for n in fields))
        self._new.clear()
        self._grow()
        new = new.take(np.lexsort((new.seq, new.place)))
        at = segment_starts(new.place)
        for start, stop in zip(at.tolist(), [*at[1:].tolist(), len(new)], strict=True):
            self._add(int(new.place[start]), new.take(slice(start, stop)))

    # The bound in whole steps of each instrument; of a bound between two steps the upper one is the first to reach it.
    def _grow(self) -> None:
        for instrument, _ in self._streams.entries[len(self._bounds) :]:
            self._bounds.append(math.ceil(self._bound * self._unit(instrument)))

    def _add(self, place: int, trades: _Trades) -> None:
        instrument = self._streams.entries[place][0]
        prices = exact.in_steps(trades.price, float(_scale(instrument.price_decimals)))
        sizes = exact.in_steps(trades.size, float(_scale(instrument.size_decimals)))
        amounts = self._amounts(prices, sizes)
        bar = self._open.pop(place, None)
        stops = _stops(amounts, self._bounds[place], bar.amount if bar else 0)
        for piece in _pieces(place, trades, (prices, sizes, amounts), stops):
            if bar is None:
                bar = piece
            else:
                bar.add(piece)
            if bar.amount >= self._bounds[place]:
                self._close(bar)
                bar = None
        if bar is not None:
            self._open[place] = bar

    # A bar's start is part of its key, so two bars of a series never have the same one.
    def _close(self, bar: _Bar, reason: str | None = None) -> None:
        bar.start = max(bar.start, self._last_start.get(bar.place, _BEFORE_ALL) + 1)
        bar.reason = reason
        self._last_start[bar.place] = bar.start
        self._closed.append(bar)

    @abstractmethod
    def _amounts(self, prices: exact.Exact, sizes: exact.Exact) -> exact.Exact: ...

    @abstractmethod
    def _unit(self, instrument: Instrument) -> int: ...

    def advance(self, mark: Mark) -> None:
        """Close nothing, unless bars are wanted in part: then the end of an instrument's last source closes its bar."""
        if mark.ts_ns != END_OF_TIME_NS:
            return
        self._settle()
        for place in self._streams.matching(mark.vendor, mark.symbols, ""):
            sources = self._sources.get(place, set())
            if mark.source_id not in sources:
                continue
            sources.discard(mark.source_id)
            if sources:
                continue
            del self._sources[place]
            if self._partial and place in self._open:
                self._close(self._open.pop(place), "partial")

    def barrier(self, end: int, ts_known_ns: int) -> Result:
        """Give the bars that have closed, by instrument and then in the order of closing."""
        self._settle()
        closed = sorted(self._closed, key=lambda b: b.place)
        self._closed.clear()
        out = [
            self._batch([b for b in closed if b.origin == origin], _ORIGINS[origin], end, ts_known_ns)
            for origin in sorted({b.origin for b in closed})
        ]
        return Result(out=out, emitted=len(closed), absorbed=sum(b.count for b in closed))

    def _batch(self, bars: list[_Bar], origin: Origin, end: int, ts_known_ns: int) -> EventBatch:
        places, place_of = np.unique([b.place for b in bars], return_inverse=True)
        entries = [self._streams.entries[p][0] for p in places.tolist()]
        ids, instruments = ids_of(entries, self._table)
        price_scale, size_scale = (
            [_scale(getattr(entries[i], n)) for i in place_of.tolist()] for n in ("price_decimals", "size_decimals")
        )
        rows = len(bars)
        vwap = [b.value / (b.volume * scale) if b.volume else None for b, scale in zip(bars, price_scale, strict=True)]
        columns: dict[str, Any] = {
            "instrument": ids[place_of],
            "ts_event": [b.start for b in bars],
            "ts_recv": np.full(rows, ts_known_ns),
            "seq": np.full(rows, end - 1),
            "flags": np.zeros(rows, np.int32),
            "interval": [self.interval] * rows,
            "what": ["TRADES"] * rows,
            "session": ["ALL"] * rows,
            "source": ["internal"] * rows,
            "volume": [b.volume / scale for b, scale in zip(bars, size_scale, strict=True)],
            "vwap": vwap,
            "trade_count": [b.count for b in bars],
            "revision": np.zeros(rows, np.int32),
            "ts_known": np.full(rows, ts_known_ns),
            "reason": [b.reason for b in bars],
        }
        columns |= {n: [getattr(b, n) for b in bars] for n in ("open", "high", "low", "close")}
        schema = EVENT_SCHEMAS[Kind.BARS]
        data = pa.RecordBatch.from_arrays([pa.array(columns[f.name], f.type) for f in schema], schema=schema)
        return EventBatch(kind=Kind.BARS, data=data, instruments=instruments, origin=origin)

    def in_flight(self) -> int:
        """Return the number of trades in open bars, and in closed ones that no barrier has given yet."""
        return sum(len(t) for t in self._new) + sum(b.count for b in (*self._open.values(), *self._closed))

    def snapshot(self) -> dict[str, Any]:
        """Return open bars and the start of each series' last one; sums may be integers of any size."""
        self._settle()
        return {
            "streams": self._streams.snapshot(),
            "sources": [[place, sorted(sources)] for place, sources in self._sources.items()],
            "open": [list(astuple(b)) for b in self._open.values()],
            "closed": [list(astuple(b)) for b in self._closed],
            "last_start": [list(item) for item in self._last_start.items()],
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take up what `snapshot` gave."""
        self._reset()
        self._streams.restore(state["streams"])
        self._sources = {place: set(sources) for place, sources in state["sources"]}
        self._grow()
        self._open = {bar[0]: _Bar(*bar) for bar in state["open"]}
        self._closed = [_Bar(*bar) for bar in state["closed"]]
        self._last_start = dict(state["last_start"])


class TickBars(_AmountBars):
    """Bars of a number of trades each.

    Trades are taken in log order, over all sources of an instrument; there is no lateness, and no revision ever comes.
    A bar is stamped with the time of its first trade, or 1 ns after the start of the bar before it where that would
    not be later. Sums are exact, as in bars by time. Trades whose price is absent or no number, whose size is below 0,
    and those flagged as far ahead are filtered out.

    The end of a source closes nothing: the bar goes on with the instrument's next source.

    Args:
        count: Trades in a bar.
        partial: True to close the open bar, with reason ``partial``, when the instrument's last source ends.
        name: Of the node.

    Raises:
        ConfigurationError: The count is not a whole number above 0.
    """

    _by = "tick"

    def __init__(self, *, count: int = 100, partial: bool = False, name: str | None = None) -> None:
        if isinstance(count, bool) or not isinstance(count, int):
            raise ConfigurationError(f"bars by tick: count {count!r} is not a whole number")
        super().__init__(count, partial=partial, name=name)

    def _amounts(self, prices: exact.Exact, sizes: exact.Exact) -> exact.Exact:
        del prices
        return np.ones(len(sizes), np.int64)

    def _unit(self, instrument: Instrument) -> int:
        del instrument
        return 1


class VolumeBars(_AmountBars):
    """Bars of a traded volume each, or more: a trade is never split, the bar closes with the one that reaches it.

    Everything else is as in `TickBars`.

    Args:
        volume: In the unit of sizes; text for more digits than a float has.
        partial: As in `TickBars`.
        name: Of the node.

    Raises:
        ConfigurationError: The volume is not a number above 0.
    """

    _by = "volume"

    def __init__(self, *, volume: str | float = 10_000, partial: bool = False, name: str | None = None) -> None:
        super().__init__(volume, partial=partial, name=name)

    def _amounts(self, prices: exact.Exact, sizes: exact.Exact) -> exact.Exact:
        del prices
        return sizes

    def _unit(self, instrument: Instrument) -> int:
        return _scale(instrument.size_decimals)


class DollarBars(_AmountBars):
    """Bars of a traded value each, or more: a trade is never split, the bar closes with the one that reaches it.

    The value of a trade is its size times its price without the sign. Everything else is as in `TickBars`.

    Args:
        value: In the currency of prices; text for more digits than a float has.
        partial: As in `TickBars`.
        name: Of the node.

    Raises:
        ConfigurationError: The value is not a number above 0.
    """

    _by = "dollar"

    def __init__(self, *, value: str | float = 1_000_000, partial: bool = False, name: str | None = None) -> None:
        super().__init__(value, partial=partial, name=name)

    def _amounts(self, prices: exact.Exact, sizes: exact.Exact) -> exact.Exact:
        return exact.products(np.abs(prices), sizes)

    def _unit(self, instrument: Instrument) -> int:
        return _scale(instrument.price_decimals) * _scale(instrument.size_decimals)


# After which trades a bar closes, where the open one already has `held`.
def _stops(amounts: exact.Exact, bound: int, held: int) -> list[int]:
    wide = amounts if exact.largest(amounts) * len(amounts) < 2**62 else amounts.astype(object)
    total = np.add.accumulate(wide).tolist()
    stops = []
    at, reached = 0, bound - held
    while (at := bisect_left(total, reached, lo=at)) < len(total):
        stops.append(at + 1)
        reached = total[at] + bound
        at += 1
    return stops


# The trades between the stops, as bars.
def _pieces(
    place: int, trades: _Trades, steps: tuple[exact.Exact, exact.Exact, exact.Exact], stops: list[int]
) -> list[_Bar]:
    prices, sizes, amounts = steps
    at = np.array([0, *(s for s in stops if s < len(trades))], np.int64)
    last = np.append(at[1:], len(trades)) - 1
    columns = (
        trades.ts[at],
        trades.price[at],
        np.maximum.reduceat(trades.price, at),
        np.minimum.reduceat(trades.price, at),
        trades.price[last],
        exact.sum_groups(sizes, at),
        exact.sum_products(prices, sizes, at),
        last - at + 1,
        exact.sum_groups(amounts, at),
        trades.origin[last],
    )
    return [_Bar(place, *row) for row in zip(*(c.tolist() for c in columns), strict=True)]


def _scale(decimals: int) -> int:
    # Finer steps than 10**-18 leave int64, and no float close to 1 has as many digits.
    return int(10 ** min(max(decimals, 0), 18))
