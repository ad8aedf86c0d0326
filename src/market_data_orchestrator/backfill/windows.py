"""What to ask for: which bars, of which instruments, from when to when."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import pyarrow as pa

from market_data_core.models import Bar
from market_data_core.schemas import STORED_SCHEMAS, Kind, Origin, interval_ns
from market_data_orchestrator.config import ProviderEntry
from market_data_pipeline.dag import GraphSpec
from market_data_store.state import Gap

_MAKERS: Final = frozenset({"bars", "resample_ohlc"})
_DEFAULT: Final = ("1m", "TRADES")
_SCHEMA: Final = STORED_SCHEMAS[str(Kind.BARS)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """Bars of one instrument, as a provider is asked for them.

    Attributes:
        provider: Its configured name.
        symbol: Upper-cased.
        interval: Their length, such as ``1m``.
        what: The prices they are made of.
        start_ns: Start of the first, UTC nanoseconds.
        end_ns: End of the last.
    """

    provider: str
    symbol: str
    interval: str
    what: str
    start_ns: int
    end_ns: int

    def __str__(self) -> str:
        return f"{self.interval} {self.what} bars of {self.symbol}"


def series_of(graph: GraphSpec) -> tuple[tuple[str, str], ...]:
    """Return interval and price type of all bars that a graph makes, each once; bars of a minute where it makes none.

    What is missing of a feed is then there in the bars that its readers look at.
    """
    made = [
        (str(node.params["interval"]), str(node.params.get("what", "TRADES")))
        for node in graph.nodes
        if node.type in _MAKERS and "interval" in node.params
    ]
    return tuple(dict.fromkeys(made)) or (_DEFAULT,)


def requests_of(gap: Gap, entries: Sequence[ProviderEntry], series: Sequence[tuple[str, str]]) -> list[Request]:
    """Return what has to be asked for to fill a gap: whole bars, from the one it begins in to the one it ends in.

    Args:
        gap: Over.
        entries: The providers to ask; a gap of all symbols is filled for those they are configured with.
        series: Interval and price type of the bars.
    """
    if gap.to_ns is None:
        return []
    return [
        Request(
            provider=entry.name,
            symbol=symbol,
            interval=interval,
            what=what,
            start_ns=gap.from_ns - gap.from_ns % interval_ns(interval),
            end_ns=-(-gap.to_ns // interval_ns(interval)) * interval_ns(interval),
        )
        for entry in entries
        for symbol in (entry.symbols if gap.symbol == "*" else (gap.symbol,))
        for interval, what in series
    ]


def rows_of(bars: Sequence[Bar], *, reason: str) -> pa.Table:
    """Return bars of a vendor as rows to be upserted, in their order and in ``STORED_SCHEMAS["bars"]``."""
    return pa.Table.from_pylist([_row(bar, reason) for bar in bars], schema=_SCHEMA)


def _row(bar: Bar, reason: str) -> dict[str, object]:
    meta = bar.meta
    return {
        "vendor": meta.vendor if meta else "",
        "symbol": bar.symbol,
        "ts_event": bar.ts_event_ns,
        "ts_recv": meta.ts_recv_ns if meta else None,
        "flags": meta.flags if meta else 0,
        "origin": str(Origin.BACKFILL),
        "interval": bar.resolution,
        "what": bar.what,
        "session": bar.session,
        "source": "external",
        "open": bar.open,
        "high": bar.high,
        "low": bar.low,
        "close": bar.close,
        "volume": bar.volume,
        "vwap": bar.vwap,
        "trade_count": bar.trade_count,
        "reason": reason,
    }
