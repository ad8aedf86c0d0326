"""The newest quote and trade of every symbol, for people to look at."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from market_data_core.batch import SourceBatch
from market_data_core.schemas import Kind
from market_data_pipeline.taps import Tapped

_SHOWN: Final = {
    Kind.QUOTES: (("bid_price", "bid"), ("ask_price", "ask")),
    Kind.TRADES: (("price", "last"),),
}


@dataclass(slots=True)
class _Row:
    bid: float | None = None
    ask: float | None = None
    last: float | None = None
    ts_recv: int = 0
    events: int = 0
    decimals: int = 2


class SymbolBoard:
    """Keeps one row per instrument, from a tap; may miss events in between, never the newest for long."""

    def __init__(self) -> None:
        self._rows: dict[tuple[str, str], _Row] = {}
        self.missed = 0

    def take(self, items: Sequence[Tapped], missed: int) -> None:
        """Take what a tap gave."""
        self.missed += missed
        groups: dict[tuple[Kind, int], list[SourceBatch]] = {}
        for item in items:
            if item.batch.kind in _SHOWN and item.batch.data.num_rows:
                groups.setdefault((item.batch.kind, id(item.batch.instruments)), []).append(item.batch)
        for batches in groups.values():
            self._fold(batches)

    def _fold(self, batches: Sequence[SourceBatch]) -> None:
        # One pass over all of a kind and source: a live feed may give hundreds of small batches in between two looks.
        parts = [batch.data.column(0).to_numpy() for batch in batches]
        ids, ends = np.concatenate(parts), np.cumsum([len(part) for part in parts])
        # The last row of each instrument: the first in the reversed rows.
        unique, from_end, counts = np.unique(ids[::-1], return_index=True, return_counts=True)
        rows = len(ids) - 1 - from_end
        whose = np.searchsorted(ends, rows, "right")
        for place, row, count, number in zip(
            unique.tolist(), (rows - ends[whose]).tolist(), counts.tolist(), whose.tolist(), strict=True
        ):
            # `row` counts from the batch's end, below zero.
            batch = batches[number]
            instrument = batch.instruments[place]
            shown = self._rows.setdefault((instrument.vendor, instrument.symbol), _Row())
            for column, name in _SHOWN[batch.kind]:
                setattr(shown, name, batch.data.column(column)[row].as_py())
            shown.ts_recv = max(shown.ts_recv, batch.data.column(2)[row].as_py())
            shown.events += count
            shown.decimals = min(instrument.price_decimals, 6)

    def rows(self, now_ns: int, limit: int) -> list[dict[str, Any]]:
        """Return the rows as plain values, by vendor and symbol, at most `limit`."""
        return [
            {
                "vendor": vendor,
                "symbol": symbol,
                "bid": row.bid,
                "ask": row.ask,
                "last": row.last,
                "age_s": max((now_ns - row.ts_recv) / 1e9, 0.0),
                "events": row.events,
                "decimals": row.decimals,
            }
            for (vendor, symbol), row in sorted(self._rows.items())[:limit]
        ]
