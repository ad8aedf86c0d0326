"""Quotes from depth: the best bid and ask of a book that is kept from its updates."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import isfinite, isnan
from typing import Any, Final

import numpy as np
import pyarrow as pa

from market_data_core.batch import EventBatch
from market_data_core.errors import ConfigurationError
from market_data_core.protocols import END_OF_TIME_NS, Mark, Result
from market_data_core.schemas import EVENT_SCHEMAS, Flag, Kind
from market_data_pipeline.operators import exact
from market_data_pipeline.operators.book import ASK, BID, Book, Top
from market_data_pipeline.operators.streams import Streams

_SIDES: Final = {"bid": BID, "ask": ASK}
_ORDER_ACTIONS: Final = frozenset({"add", "modify"})
# Executions and messages without content say nothing that the book's own messages do not say too.
_SILENT: Final = frozenset({"trade", "fill", "none"})
_QUOTE_COLUMNS: Final = ("bid_price", "bid_size", "ask_price", "ask_size")
_EMPTY: Final[Top] = (None, None, None, None)
_LAST: Final = int(Flag.LAST)
_CROSSED: Final = int(Flag.CROSSED)
_DOUBTFUL: Final = int(Flag.MAYBE_BAD_BOOK)


# A stream's book, the top given last, and the update under way: its rows so far and what they are flagged.
@dataclass(slots=True)
class _Kept:
    book: Book
    given: Top = _EMPTY
    rows: int = 0
    flags: int = 0


class TopOfBook:
    """Gives a quote whenever the best bid or ask, price or size, has changed after a complete update.

    An update is the rows of one stream up to and with the one that carries `Flag.LAST`. The quote has that row's times
    and seq and the flags of all rows of the update, and `Flag.CROSSED` where the bid is above the ask. Sides that are
    empty are null.

    Books by price: ``set`` gives a price its size, and 0 or ``delete`` removes it. Books by order, where ``order_id``
    is given: ``add`` and ``modify`` say how an order stands, ``cancel`` takes its size away from it (all of it where
    there is none); a price has the sum of its orders. ``trade``, ``fill`` and ``none`` change nothing. ``clear``
    empties a side, or both where none is named. A cancel of an unknown order flags all quotes up to the next clear as
    `Flag.MAYBE_BAD_BOOK`.

    A row is absorbed when its update is complete; those that change nothing are filtered out, those that cannot be
    read (an unknown action, no side, no price) have failed. With its source a book goes.

    Args:
        depth: Levels to look at; quotes have room for 1.
        name: Of the node.

    Raises:
        ConfigurationError: The depth is not 1.
    """

    def __init__(self, *, depth: int = 1, name: str = "top_of_book") -> None:
        if depth != 1:
            raise ConfigurationError(f"{name}: depth {depth!r} is not 1, which is what a quote holds")
        self._name = name
        self._reset()

    def _reset(self) -> None:
        self._streams = Streams()
        self._kept: list[_Kept] = []
        self._broken_off = 0

    @property
    def name(self) -> str:
        """The node's name."""
        return self._name

    @property
    def kinds(self) -> frozenset[Kind]:
        """Depth."""
        return frozenset({Kind.DEPTH})

    def gives(self, incoming: frozenset[Kind]) -> frozenset[Kind]:
        """Quotes, where depth comes in."""
        return frozenset({Kind.QUOTES}) if Kind.DEPTH in incoming else frozenset()

    def process(self, batch: EventBatch) -> Result:
        """Take updates in log order and give the quotes that they make."""
        places = self._streams.places(batch).tolist()
        for instrument, _ in self._streams.entries[len(self._kept) :]:
            self._kept.append(_Kept(Book(10 ** min(max(instrument.size_decimals, 0), 18))))
        columns = (batch.data.column(n).to_pylist() for n in ("action", "side", "order_id", "flags"))
        amounts = zip(batch.floats("price").tolist(), *self._sizes(batch, places), strict=True)
        result = Result()
        quotes: list[tuple[int, int, Top]] = []
        rows = enumerate(zip(places, *columns, amounts, strict=True))
        for row, (place, action, side, order_id, flags, values) in rows:
            kept = self._kept[place]
            if action in _SILENT:
                result.filtered += 1
            elif _applied(kept.book, action, _SIDES.get(side), order_id, values):
                kept.rows += 1
            else:
                result.failed += 1
            kept.flags |= flags
            if not flags & _LAST:
                continue
            result.absorbed += kept.rows
            flagged, kept.rows, kept.flags = kept.flags, 0, 0
            top = kept.book.top()
            if top != kept.given:
                kept.given = top
                quotes.append((row, _flags(flagged, kept.book, top), top))
        if quotes:
            result.out.append(_quotes(batch, quotes))
            result.emitted = len(quotes)
        return result

    # Sizes as given, and the same in whole steps where rows are of orders.
    def _sizes(self, batch: EventBatch, places: list[int]) -> tuple[list[float], list[int]]:
        sizes = batch.floats("size")
        orders = batch.data.column("order_id")
        if orders.null_count == len(orders):
            return sizes.tolist(), [0] * len(batch)
        scale = np.array([k.book.size_scale for k in self._kept], np.float64)[places]
        return sizes.tolist(), exact.in_steps(np.where(np.isfinite(sizes), sizes, 0.0), scale).tolist()

    def advance(self, mark: Mark) -> None:
        """Forget the books of a source that has ended."""
        if mark.ts_ns != END_OF_TIME_NS:
            return
        gone = self._streams.matching(mark.vendor, mark.symbols, mark.source_id)
        self._broken_off += sum(self._kept[p].rows for p in gone)
        stay, _ = self._streams.forget(gone)
        self._kept = [self._kept[p] for p in stay.tolist() if p < len(self._kept)]

    def barrier(self, end: int, ts_known_ns: int) -> Result:
        """Give no quote; count the rows of updates that a source broke off as filtered."""
        del end, ts_known_ns
        broken_off, self._broken_off = self._broken_off, 0
        return Result(filtered=broken_off)

    def in_flight(self) -> int:
        """Return the number of rows of updates under way."""
        return sum(k.rows for k in self._kept) + self._broken_off

    def snapshot(self) -> dict[str, Any]:
        """Return the books."""
        return {
            "streams": self._streams.snapshot(),
            "kept": [[k.book.snapshot(), list(k.given), k.rows, k.flags] for k in self._kept],
            "broken_off": self._broken_off,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take up what `snapshot` gave."""
        self._reset()
        self._streams.restore(state["streams"])
        for book, (bid, bid_size, ask, ask_size), rows, flags in state["kept"]:
            self._kept.append(_Kept(Book.restored(book), (bid, bid_size, ask, ask_size), rows, flags))
        self._broken_off = state["broken_off"]


# Changes the book as a row says; False if it cannot be read. Of `amounts`, price and size are NaN where absent.
def _applied(
    book: Book, action: str, side: int | None, order_id: str | None, amounts: tuple[float, float, int]
) -> bool:
    price, size, steps = amounts
    if action == "clear":
        book.clear(side)
        return True
    if action == "cancel" and order_id is not None:
        book.reduce_order(order_id, None if isnan(size) else steps)
        return True
    if side is None or not isfinite(price):
        return False
    if order_id is None and action == "delete":
        book.set_level(side, price, 0.0)
    elif order_id is None and action == "set" and isfinite(size):
        book.set_level(side, price, size)
    elif order_id is not None and action in _ORDER_ACTIONS and isfinite(size):
        book.put_order(order_id, side, price, steps)
    else:
        return False
    return True


def _flags(flagged: int, book: Book, top: Top) -> int:
    bid, _, ask, _ = top
    flags = flagged & ~_CROSSED
    if bid is not None and ask is not None and bid > ask:
        flags |= _CROSSED
    return flags | _DOUBTFUL if book.doubtful else flags


def _quotes(batch: EventBatch, quotes: list[tuple[int, int, Top]]) -> EventBatch:
    rows, flags, tops = zip(*quotes, strict=True)
    taken = batch.data.take(pa.array(rows, pa.int64()))
    columns = {
        "flags": pa.array(flags, pa.int32()),
        **{
            n: pa.array(values, pa.float64()) for n, values in zip(_QUOTE_COLUMNS, zip(*tops, strict=True), strict=True)
        },
    }
    schema = EVENT_SCHEMAS[Kind.QUOTES]
    return EventBatch(
        kind=Kind.QUOTES,
        data=pa.RecordBatch.from_arrays(
            [columns[n] if n in columns else taken.column(n) for n in schema.names], schema=schema
        ),
        instruments=batch.instruments,
        origin=batch.origin,
        source_id=batch.source_id,
        offset=batch.offset,
    )
