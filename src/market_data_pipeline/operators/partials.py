"""Bars in the making: what has to be known of each window to go on adding events to it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import numpy.typing as npt

from market_data_pipeline.operators import exact
from market_data_pipeline.operators.exact import Exact
from market_data_pipeline.operators.streams import Ints, segment_starts
from market_data_pipeline.operators.windows import Windows

Floats = npt.NDArray[np.float64]
_SUMS = ("volume", "value")
_SECOND_NS = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Events:
    """Prices and sizes of some events, one row each."""

    stream: Ints
    ts: Ints
    seq: Ints
    price: Floats
    size: Floats

    def __len__(self) -> int:
        return len(self.stream)

    def take(self, rows: npt.NDArray[Any]) -> Events:
        """Return some rows, by place or by mask."""
        rows = _as_places(rows)
        return Events(
            self.stream.take(rows), self.ts.take(rows), self.seq.take(rows), self.price.take(rows), self.size.take(rows)
        )


@dataclass(slots=True)
class Partials:
    """Windows that have events, one row each, ascending (stream, start).

    `volume` counts steps of size; `value` adds up price times size, in steps of both.
    """

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
    volume: Exact
    value: Exact
    count: Ints

    @classmethod
    def empty(cls) -> Partials:
        """Return no windows."""
        i, f = np.empty(0, np.int64), np.empty(0)
        return cls(i, i, f, i, i, f, f, f, i, i, i, i, i)

    @classmethod
    def of(cls, events: Events, windows: Windows, price_scale: Floats, size_scale: Floats) -> Partials:
        """Return the windows of some events.

        Args:
            events: At least one, ascending (stream, ts, seq).
            windows: Where they belong.
            price_scale: Steps per unit of price, by stream.
            size_scale: Steps per unit of size, by stream.
        """
        at = segment_starts(events.stream)
        last = np.append(at[1:], len(events)) - 1
        starts = windows.starts(events.ts[at])
        if not np.array_equal(starts, windows.starts(events.ts[last])):
            starts = windows.starts(events.ts)
            at = segment_starts(events.stream, starts)
            last = np.append(at[1:], len(events)) - 1
            starts = starts[at]
        streams = events.stream[at]
        if events.size.any():
            prices = exact.in_steps(events.price, scale_of(price_scale, events.stream, streams))
            sizes = exact.in_steps(events.size, scale_of(size_scale, events.stream, streams))
            volume, value = exact.sum_groups(sizes, at), exact.sum_products(prices, sizes, at)
        else:
            # Quotes have no size of their own: their sums are 0 whatever the prices.
            volume, value = np.zeros(len(at), np.int64), np.zeros(len(at), np.int64)
        return cls(
            streams,
            starts,
            events.price[at],
            events.ts[at],
            events.seq[at],
            np.maximum.reduceat(events.price, at),
            np.minimum.reduceat(events.price, at),
            events.price[last],
            events.ts[last],
            events.seq[last],
            volume,
            value,
            last - at + 1,
        )

    def __len__(self) -> int:
        return len(self.stream)

    def take(self, rows: npt.NDArray[Any] | slice) -> Partials:
        """Return some windows, by place, mask or slice."""
        rows = rows if isinstance(rows, slice) else _as_places(rows)
        return Partials(*(getattr(self, name)[rows] for name in _COLUMNS))

    def merged(self, other: Partials) -> Partials:
        """Return the windows of both as one; neither may be used afterwards."""
        if not len(self):
            return other
        if not len(other):
            return self
        mine, theirs = self._keys(), other._keys()
        place = np.minimum(np.searchsorted(mine, theirs), len(mine) - 1)
        shared = mine[place] == theirs
        if shared.all():
            self._add(place, other)
            return self
        if shared.any():
            self._add(place[shared], other.take(shared))
            other, theirs = other.take(~shared), theirs[~shared]
        both = Partials(*(_joined(name, getattr(self, name), getattr(other, name)) for name in _COLUMNS))
        return both.take(np.argsort(np.concatenate([mine, theirs]), kind="stable"))

    def _keys(self) -> Ints:
        # One integer that orders as (stream, start) do: windows start at whole seconds, and all seconds that int64
        # nanoseconds can name fit in 35 bits.
        return (self.stream << 36) + self.start // _SECOND_NS

    def _add(self, rows: Ints, other: Partials) -> None:
        first = _precedes(other.open_ts, other.open_seq, self.open_ts[rows], self.open_seq[rows])
        at = rows[first]
        self.open[at], self.open_ts[at], self.open_seq[at] = (
            other.open[first],
            other.open_ts[first],
            other.open_seq[first],
        )
        last = _precedes(self.close_ts[rows], self.close_seq[rows], other.close_ts, other.close_seq)
        at = rows[last]
        self.close[at], self.close_ts[at], self.close_seq[at] = (
            other.close[last],
            other.close_ts[last],
            other.close_seq[last],
        )
        self.high[rows] = np.maximum(self.high[rows], other.high)
        self.low[rows] = np.minimum(self.low[rows], other.low)
        self.volume = exact.add_at(self.volume, rows, other.volume)
        self.value = exact.add_at(self.value, rows, other.value)
        self.count[rows] += other.count

    def refine(self, stream: int, *, price: int = 1, size: int = 1) -> None:
        """Count one stream's sums in steps that are so many times smaller."""
        rows = np.flatnonzero(self.stream == stream)
        self.volume = exact.scaled_at(self.volume, rows, size)
        self.value = exact.scaled_at(self.value, rows, price * size)

    def snapshot(self) -> dict[str, list[Any]]:
        """Return all columns as plain values; sums may be integers of any size."""
        return {name: getattr(self, name).tolist() for name in _COLUMNS}

    @classmethod
    def restored(cls, state: Mapping[str, list[Any]]) -> Partials:
        """Return the windows of which `snapshot` gave the state."""
        empty = cls.empty()
        return cls(
            *(
                exact.restored(state[name]) if name in _SUMS else np.array(state[name], getattr(empty, name).dtype)
                for name in _COLUMNS
            )
        )


_COLUMNS = tuple(f.name for f in fields(Partials))


# A mask is looked through once, and not again for each column.
def _as_places(rows: npt.NDArray[Any]) -> npt.NDArray[Any]:
    return np.flatnonzero(rows) if rows.dtype == np.bool_ else rows


def _precedes(ts: Ints, seq: Ints, other_ts: Ints, other_seq: Ints) -> npt.NDArray[np.bool_]:
    earlier: npt.NDArray[np.bool_] = (ts < other_ts) | ((ts == other_ts) & (seq < other_seq))
    return earlier


def _joined(name: str, a: npt.NDArray[Any], b: npt.NDArray[Any]) -> npt.NDArray[Any]:
    return exact.joined(a, b) if name in _SUMS else np.concatenate([a, b])


def scale_of(scale: Floats, stream: Ints, streams: Ints) -> Floats | float:
    """Return the scale of each row, by its stream; one number where all `streams` among them have the same."""
    each = scale[streams]
    return float(each[0]) if (each == each[0]).all() else scale[stream]
