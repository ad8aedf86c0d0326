"""The newest quote and trade of every symbol, for people to look at."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pyarrow as pa

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
        shown = _SHOWN[batches[0].kind]
        table = pa.Table.from_batches([batch.data for batch in batches])
        data = table.select(["instrument", "ts_recv", *(column for column, _ in shown)]).combine_chunks()
        # The last row of each instrument: the first in the reversed rows.
        ids = data.column(0).to_numpy()
        unique, from_end, counts = np.unique(ids[::-1], return_index=True, return_counts=True)
        newest = data.take(pa.array(len(ids) - 1 - from_end))
        values = zip(*(newest.column(column).to_pylist() for column, _ in shown), strict=True)
        times = newest.column("ts_recv").to_pylist()
        instruments = batches[0].instruments
        for place, count, ts_recv, row in zip(unique.tolist(), counts.tolist(), times, values, strict=True):
            instrument = instruments[place]
            kept = self._rows.setdefault((instrument.vendor, instrument.symbol), _Row())
            for (_, name), value in zip(shown, row, strict=True):
                setattr(kept, name, value)
            kept.ts_recv = max(kept.ts_recv, ts_recv)
            kept.events += count
            kept.decimals = min(instrument.price_decimals, 6)

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
