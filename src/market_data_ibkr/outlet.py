"""Where ticks wait for one reader: rows in, batches out, in the order they came."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final

from market_data_core.batch import Instrument, SourceBatch, unlogged
from market_data_core.protocols import Gap
from market_data_core.schemas import Kind
from market_data_ibkr.lines import VENDOR, QuoteRow, TradeRow

Row = QuoteRow | TradeRow

_COLUMNS: Final = {
    Kind.QUOTES: ("instrument", "ts_event", "ts_recv", "flags", "bid_price", "bid_size", "ask_price", "ask_size"),
    Kind.TRADES: ("instrument", "ts_event", "ts_recv", "flags", "price", "size", "exchange", "conditions"),
}
_TS_RECV: Final = 2


class Outlet:
    """Rows and gaps of a provider for one reader.

    Args:
        kinds: What the reader wants.
        instruments: Places in the provider's table that it wants; None for all.
        max_rows: How many wait at most. What comes beyond is left out and becomes a gap.
    """

    def __init__(
        self, *, kinds: frozenset[Kind], instruments: frozenset[int] | None = None, max_rows: int = 1_000_000
    ) -> None:
        self._kinds = kinds
        self._instruments = instruments
        self._max_rows = max_rows
        self._waiting: list[tuple[Kind, Row] | Gap] = []
        self._left_out: tuple[int, int] | None = None
        self.ready = asyncio.Event()

    def put(self, kind: Kind, row: Row) -> None:
        """Add a row if the reader wants it and there is room."""
        if kind not in self._kinds or (self._instruments is not None and row[0] not in self._instruments):
            return
        if len(self._waiting) >= self._max_rows:
            begin = row[_TS_RECV] if self._left_out is None else self._left_out[0]
            self._left_out = (begin, row[_TS_RECV] + 1)
            return
        self._waiting.append((kind, row))
        self.ready.set()

    def mark(self, gap: Gap) -> None:
        """Add a gap, in its place between rows."""
        self._waiting.append(gap)
        self.ready.set()

    def rows(self) -> list[tuple[Kind, Row] | Gap]:
        """Take all that waits, in order."""
        found, self._waiting = self._waiting, []
        if self._left_out is not None:
            begin, end = self._left_out
            detail = "the reader was too slow and ticks were left out"
            found.append(Gap(vendor=VENDOR, from_ns=begin, to_ns=end, cause="overrun", detail=detail))
            self._left_out = None
        self.ready.clear()
        return found

    def batches(self, instruments: Sequence[Instrument]) -> list[SourceBatch | Gap]:
        """Take all that waits as batches: between two gaps, one of each kind."""
        found: list[SourceBatch | Gap] = []
        rows: dict[Kind, list[Row]] = {}
        for item in self.rows():
            if isinstance(item, Gap):
                found += _batches(rows, instruments)
                rows = {}
                found.append(item)
            else:
                rows.setdefault(item[0], []).append(item[1])
        return found + _batches(rows, instruments)


def _batches(rows: dict[Kind, list[Row]], instruments: Sequence[Instrument]) -> list[SourceBatch | Gap]:
    return [
        SourceBatch(
            kind=kind,
            data=unlogged(kind, len(of), dict(zip(_COLUMNS[kind], zip(*of, strict=True), strict=True))),
            instruments=instruments,
        )
        for kind, of in rows.items()
    ]
