"""The newest quote and trade of every symbol, for people to look at."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from market_data_core.schemas import Kind
from market_data_pipeline.taps import Tapped


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
        for item in items:
            if item.batch.kind is Kind.QUOTES:
                self._fold(item, ("bid_price", "bid"), ("ask_price", "ask"))
            elif item.batch.kind is Kind.TRADES:
                self._fold(item, ("price", "last"))

    def _fold(self, item: Tapped, *fields: tuple[str, str]) -> None:
        data = item.batch.data
        ids = data.column(0).to_numpy()
        # The last row of each instrument: the first in the reversed batch.
        unique, from_end, counts = np.unique(ids[::-1], return_index=True, return_counts=True)
        rows = len(ids) - 1 - from_end
        recv = data.column(2)
        for place, row, count in zip(unique.tolist(), rows.tolist(), counts.tolist(), strict=True):
            instrument = item.batch.instruments[place]
            shown = self._rows.setdefault((instrument.vendor, instrument.symbol), _Row())
            for column, name in fields:
                setattr(shown, name, data.column(column)[row].as_py())
            shown.ts_recv = recv[row].as_py()
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
