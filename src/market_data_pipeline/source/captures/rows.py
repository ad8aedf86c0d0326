"""Events of one capture, gathered in columns and given in the order of the file."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from decimal import Decimal
from itertools import chain
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from market_data_core.batch import DEFAULT_DECIMALS, Instrument, SourceBatch, unlogged
from market_data_core.protocols import END_OF_TIME_NS, Gap, Mark
from market_data_core.schemas import Flag, Kind
from market_data_pipeline.source.replay.events import UNKNOWN_SYMBOL, InstrumentTable

Levels = tuple[list[float], list[float]]
"""Prices and sizes of one side of a book."""

Item = tuple[int, SourceBatch | Gap | Mark]
"""What is given, and when it was received, UTC nanoseconds; never descends within a file."""

_EMPTY: Final[Levels] = ([], [])
_NOTHING: Final = float("nan")  # in columns under way; null in what is given
_MOST_DECIMALS: Final = 12  # sums of more digits would leave int64
_RAW_CHARS: Final = 500
_SYNTHETIC: Final = int(Flag.TS_EVENT_SYNTHETIC)
_SUSPECT: Final = int(Flag.MAYBE_BAD_BOOK)
_SNAPSHOT: Final = int(Flag.SNAPSHOT)
_LAST: Final = int(Flag.LAST)
_ACTIONS: Final = pa.array(["set", "delete", "clear"])
_SIDES: Final = pa.array([None, "bid", "ask"], pa.string())

# Columns of rows that are kept as tuples; depth is kept by message, since its messages have many rows.
_COMMON: Final = ("instrument", "ts_event", "ts_recv", "flags")
_COLUMNS: Final[dict[Kind, tuple[str, ...]]] = {
    Kind.QUOTES: (*_COMMON, "bid_price", "bid_size", "ask_price", "ask_size"),
    Kind.TRADES: (*_COMMON, "price", "size", "conditions", "trade_id", "aggressor_side"),
    Kind.STATUS: (*_COMMON, "status", "reason"),
    Kind.QUARANTINE: (*_COMMON, "source_id", "line", "reason", "raw"),
}


class Rows:
    """Takes events one by one and gives batches.

    An event's place is its number among all events of the file, those of unwanted symbols included, so that what is
    wanted may change between two runs.

    Args:
        vendor: Of all instruments.
        source_id: Of the file.
        instruments: Where instruments are entered.
        symbols: Only these, upper-cased; None for all.
        span_ns: A batch reaches over at most so much receive time; None for no limit.

    Attributes:
        end: Events so far.
        line: Of the file, where reading is; from 1.
        ts_recv: When that line was received, UTC nanoseconds.
        waiting: Wanted rows that have not been given.
    """

    def __init__(
        self,
        *,
        vendor: str,
        source_id: str,
        instruments: InstrumentTable,
        symbols: Collection[str] | None,
        span_ns: int | None,
    ) -> None:
        self.end = 0
        self.line = 0
        self.ts_recv = 0
        self.waiting = 0
        self._vendor = vendor
        self._source_id = source_id
        self._instruments = instruments
        self._symbols = symbols
        self._span_ns = span_ns
        self._ids: dict[str, int | None] = {}
        self._key = 0
        self._start_over()

    def _start_over(self) -> None:
        self.waiting = 0
        self._order: list[tuple[Gap, int, int] | list[Any]] = []
        self._rows: dict[Kind, list[tuple[Any, ...]]] = {}
        self._messages: list[tuple[Any, ...]] = []
        self._prices: list[float] = []
        self._sizes: list[float] = []

    def quote(self, symbol: str, *, ts_event: int | None, bid: Levels | None, ask: Levels | None) -> None:
        """Enter a best bid and offer; a side is one level, None if there is none."""
        (bid_price,), (bid_size,) = bid or ((None,), (None,))
        (ask_price,), (ask_size,) = ask or ((None,), (None,))
        seen = [p for p in (bid_price, ask_price) if p is not None]
        instrument = self._instrument(symbol, seen, [s for s in (bid_size, ask_size) if s is not None])
        values = (bid_price, bid_size, ask_price, ask_size)
        self._add(Kind.QUOTES, instrument, ts_event, 0, values)

    def trade(
        self,
        symbol: str,
        *,
        ts_event: int,
        price: float,
        size: float,
        trade_id: str,
        aggressor_side: str,
        conditions: str | None = None,
    ) -> None:
        """Enter a trade."""
        instrument = self._instrument(symbol, [price], [size])
        self._add(Kind.TRADES, instrument, ts_event, 0, (price, size, conditions, trade_id, aggressor_side))

    def status(self, symbol: str, *, ts_event: int, status: str, reason: str) -> None:
        """Enter what has befallen an instrument's data."""
        self._add(Kind.STATUS, self._instrument(symbol), ts_event, 0, (status, reason))

    def quarantine(self, reason: str, raw: bytes, *, line: int | None = None) -> None:
        """Enter a line that could not be read; its beginning is kept."""
        text = raw[: 4 * _RAW_CHARS].decode(errors="replace")[:_RAW_CHARS]
        values = (self._source_id, self.line if line is None else line, reason[:_RAW_CHARS], text)
        # Always wanted: nobody can say whose it is.
        instrument = self._instruments.add(Instrument(vendor=self._vendor, symbol=UNKNOWN_SYMBOL))
        self._add(Kind.QUARANTINE, instrument, None, 0, values)

    def gap(self, symbol: str, *, from_ns: int, to_ns: int, detail: str) -> None:
        """Say that updates of an instrument's book are missing; not an event, it stands before the next one."""
        if self._instrument(symbol) is not None:
            found = Gap(
                vendor=self._vendor,
                symbols=(symbol,),
                from_ns=min(from_ns, to_ns),
                to_ns=to_ns,
                cause="sequence",
                detail=detail,
            )
            self._order.append((found, self.end, self._key))

    def depth(
        self,
        symbol: str,
        *,
        ts_event: int | None,
        ts_recv: int,
        sequence: int | None,
        bids: Levels = _EMPTY,
        asks: Levels = _EMPTY,
        snapshot: bool = False,
        suspect: bool = False,
    ) -> None:
        """Enter one message of an order book: new sizes by price, 0 for a level that is gone.

        Args:
            symbol: Whose.
            ts_event: UTC nanoseconds; None if the exchange does not say.
            ts_recv: When it was received; messages may have been held back.
            sequence: The exchange's update id.
            bids: Levels of that side.
            asks: Levels of that side.
            snapshot: These levels are the whole book.
            suspect: The book may be wrong from here on.
        """
        rows = snapshot + len(bids[0]) + len(asks[0])
        if rows == 0:
            return
        instrument = self._instrument(symbol, chain(bids[0], asks[0]), chain(bids[1], asks[1]))
        first, self.end = self.end, self.end + rows
        if instrument is None:
            return
        flags = (_SNAPSHOT if snapshot else 0) | (_SUSPECT if suspect else 0) | (_SYNTHETIC if ts_event is None else 0)
        self._messages.append(
            (
                *(instrument, ts_recv if ts_event is None else ts_event, ts_recv, flags, sequence),
                *(int(snapshot), len(bids[0]), len(asks[0]), first),
            )
        )
        nothing = [_NOTHING] * snapshot
        self._prices += chain(nothing, bids[0], asks[0])
        self._sizes += chain(nothing, bids[1], asks[1])
        self._count(Kind.DEPTH, rows, ts_recv)

    def cut(self, given: int, batch_rows: int) -> Iterator[Item]:
        """Give what waits, from place `given` on, at most so many rows a batch; then nothing waits."""
        order, rows = self._order, self._rows
        messages, prices, sizes = self._messages, self._prices, self._sizes
        self._start_over()
        if self.end < given:
            return
        made = {kind: _table(kind, found) for kind, found in rows.items()}
        if messages:
            made[Kind.DEPTH] = _depth_table(messages, np.array(prices), np.array(sizes))
        at = dict.fromkeys(made, 0)
        for entry in order:
            if isinstance(entry, tuple):
                gap, place, key = entry
                if place >= given:
                    yield key, gap
                continue
            kind, count, key = entry[:3]
            data, places = made[kind]
            start, stop = at[kind], at[kind] + count
            at[kind] = stop
            start += int(np.searchsorted(places[start:stop], given))
            for first in range(start, stop, batch_rows):
                last = min(first + batch_rows, stop)
                yield key, self._batch(kind, data.slice(first, last - first), int(places[last - 1]) + 1)

    def mark(self) -> Item | None:
        """Return what closes the instruments of the file; None if it has none that is wanted."""
        symbols = tuple(s for s, i in self._ids.items() if i is not None)
        if not symbols:
            return None
        closing = Mark(
            vendor=self._vendor,
            ts_ns=END_OF_TIME_NS,
            symbols=symbols,
            source_id=self._source_id,
            offset=self.end + 1,
        )
        return self._key, closing

    def _batch(self, kind: Kind, data: pa.RecordBatch, offset: int) -> SourceBatch:
        entries = self._instruments.entries
        return SourceBatch(kind=kind, data=data, instruments=entries, source_id=self._source_id, offset=offset)

    def _add(
        self, kind: Kind, instrument: int | None, ts_event: int | None, flags: int, values: tuple[Any, ...]
    ) -> None:
        place, self.end = self.end, self.end + 1
        if instrument is None:
            return
        if ts_event is None:
            ts_event, flags = self.ts_recv, flags | _SYNTHETIC
        self._rows.setdefault(kind, []).append((instrument, ts_event, self.ts_recv, flags, *values, place))
        self._count(kind, 1, self.ts_recv)

    def _count(self, kind: Kind, rows: int, ts_recv: int) -> None:
        self.waiting += rows
        self._key = key = max(self._key, ts_recv)
        last = self._order[-1] if self._order else None
        if isinstance(last, list) and last[0] is kind and (self._span_ns is None or key - last[2] < self._span_ns):
            last[1] += rows
        else:
            self._order.append([kind, rows, key])

    # The place of a wanted symbol. Digits are fixed when a symbol is first met, by the values it comes with.
    def _instrument(self, symbol: str, prices: Any = (), sizes: Any = ()) -> int | None:
        if symbol not in self._ids:
            wanted = self._symbols is None or symbol in self._symbols
            entry = Instrument(
                vendor=self._vendor, symbol=symbol, price_decimals=_decimals(prices), size_decimals=_decimals(sizes)
            )
            self._ids[symbol] = self._instruments.add(entry) if wanted else None
        return self._ids[symbol]


def _decimals(values: Any) -> int:
    found = (-int(Decimal(repr(v)).as_tuple().exponent) for v in values)
    return min(_MOST_DECIMALS, max(DEFAULT_DECIMALS, *found, 0))


def _table(kind: Kind, rows: list[tuple[Any, ...]]) -> tuple[pa.RecordBatch, npt.NDArray[np.int64]]:
    *columns, places = zip(*rows, strict=True)
    named = dict(zip(_COLUMNS[kind], columns, strict=True))
    return unlogged(kind, len(rows), named), np.array(places, np.int64)


# A message's rows stand in turn: the clear of a snapshot, bids, asks.
def _depth_table(
    messages: list[tuple[Any, ...]], prices: npt.NDArray[np.float64], sizes: npt.NDArray[np.float64]
) -> tuple[pa.RecordBatch, npt.NDArray[np.int64]]:
    instrument, ts_event, ts_recv, flags, sequence, clear, bids, asks, first = zip(*messages, strict=True)
    counts = np.array([clear, bids, asks], np.int64)
    per_message = counts.sum(axis=0)
    starts = np.cumsum(per_message) - per_message
    of_message = np.repeat(np.arange(len(messages)), per_message)

    def spread(column: Any, dtype: Any = np.int64) -> npt.NDArray[Any]:
        return np.array(column, dtype)[of_message]

    row_flags = spread(flags, np.int32)
    row_flags[starts + per_message - 1] |= _LAST
    sides = np.repeat(np.tile(np.arange(3, dtype=np.int8), len(messages)), counts.T.ravel())
    actions = np.where(sides == 0, 2, np.where(sizes == 0, 1, 0)).astype(np.int8)
    columns: dict[str, object] = {
        "instrument": spread(instrument, np.int32),
        "ts_event": spread(ts_event),
        "ts_recv": spread(ts_recv),
        "flags": row_flags,
        "action": _ACTIONS.take(pa.array(actions)),
        "side": _SIDES.take(pa.array(sides)),
        "price": pa.array(prices, from_pandas=True),
        "size": pa.array(sizes, from_pandas=True),
        "sequence": pa.array(sequence, pa.int64()).take(pa.array(of_message)),
    }
    places = spread(first) + np.arange(len(prices)) - starts[of_message]
    return unlogged(Kind.DEPTH, len(prices), columns), places
