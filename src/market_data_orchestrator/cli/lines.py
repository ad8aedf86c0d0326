"""Events as lines: aligned for people, JSON for machines."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any, Final

import orjson

from market_data_core.batch import DEFAULT_DECIMALS, EventBatch, Instrument
from market_data_core.schemas import Kind

_NS: Final = 1_000_000_000
_LONGEST: Final = 200
_WIDEST: Final = 32
_BOOK: Final = (("bid", "bid_price"), ("x", "bid_size"), ("ask", "ask_price"), ("x", "ask_size"))
_SHOWN: Final[Mapping[Kind, tuple[tuple[str, str], ...]]] = {
    Kind.QUOTES: _BOOK,
    Kind.TRADES: (("", "price"), ("x", "size"), ("", "aggressor_side"), ("", "exchange"), ("id", "trade_id")),
    Kind.BARS: (
        ("", "interval"),
        ("", "what"),
        ("o", "open"),
        ("h", "high"),
        ("l", "low"),
        ("c", "close"),
        ("v", "volume"),
        ("vwap", "vwap"),
        ("n", "trade_count"),
        ("rev", "revision"),
    ),
    Kind.DEPTH: (("", "action"), ("", "side"), ("level", "level"), ("", "price"), ("x", "size")),
    Kind.OPTIONS: (
        ("", "underlying"),
        ("", "expiry"),
        ("", "strike"),
        ("", "right"),
        ("bid", "bid_price"),
        ("ask", "ask_price"),
        ("iv", "implied_vol"),
        ("delta", "delta"),
    ),
    Kind.DEFINITIONS: (("tick", "tick_size"), ("step", "size_step"), ("x", "multiplier"), ("", "currency")),
    Kind.STATUS: (("", "status"), ("", "reason")),
    Kind.TAQ: (("", "price"), ("x", "size"), ("", "aggressor_side"), *_BOOK),
    Kind.ANALYTICS: (("", "name"), ("=", "value")),
    Kind.QUARANTINE: (("", "kind"), ("", "reason"), ("line", "line"), ("", "raw")),
    Kind.CONTROL: (("", "action"), ("", "detail")),
}
"""What is shown of each kind: a word before the value, and the column."""

_PRICES: Final = frozenset({"price", "open", "high", "low", "close", "bid_price", "ask_price", "strike"})
_SIZES: Final = frozenset({"size", "volume", "bid_size", "ask_size"})


class Lines:
    """Writes events as lines for people; columns grow with what they hold and never shrink, so lines stay aligned."""

    def __init__(self) -> None:
        self._widths: dict[tuple[str, str], int] = {}

    def of(self, port: str, batch: EventBatch) -> Iterator[str]:
        """Give one line per event: time of the event (UTC), vendor, symbol, kind and output, main values."""
        shown = _SHOWN[batch.kind]
        kind = f"{batch.kind}.{port}" if port else str(batch.kind)
        columns = [batch.data.column(name).to_pylist() for _, name in shown]
        ids, times = batch.data.column("instrument").to_pylist(), batch.data.column("ts_event").to_pylist()
        for place, (instrument_id, ts_event) in enumerate(zip(ids, times, strict=True)):
            instrument = batch.instruments[instrument_id]
            parts = [
                moment(ts_event),
                self._fit("", "vendor", _clean(instrument.vendor)),
                self._fit("", "symbol", _clean(instrument.symbol)),
                self._fit("", "kind", kind),
            ]
            for (word, name), column in zip(shown, columns, strict=True):
                value = self._fit(batch.kind, name, *_written(column[place], name, instrument))
                parts.append(f"{word} {value}" if word else value)
            yield "  ".join(parts).rstrip()

    def _fit(self, kind: str, name: str, text: str, right: bool = False) -> str:
        width = self._widths[kind, name] = max(self._widths.get((kind, name), 0), min(len(text), _WIDEST))
        return text.rjust(width) if right else text.ljust(width)


def json_lines(port: str, batch: EventBatch) -> Iterator[str]:
    """Give one JSON object per event: ``event`` says its kind, ``port`` the output, the rest is its row.

    Times are UTC nanoseconds since the epoch; numbers JSON does not have (NaN, infinity) are null.
    """
    for row in batch.to_table().to_pylist():
        yield orjson.dumps({"event": str(batch.kind), "port": port, **row}).decode()


def moment(ts_ns: int) -> str:
    """Return a time in UTC nanoseconds since the epoch as a date and a time with microseconds."""
    seconds, rest = divmod(ts_ns, _NS)
    try:
        whole = datetime.fromtimestamp(seconds, UTC)
    except (OverflowError, ValueError, OSError):
        return f"{ts_ns} ns"
    return f"{whole:%Y-%m-%d %H:%M:%S}.{rest // 1000:06d}Z"


def _written(value: Any, name: str, instrument: Instrument) -> tuple[str, bool]:
    # The text, and whether it belongs to the right of its column.
    if value is None:
        return "-", name in _PRICES | _SIZES
    if isinstance(value, float):
        return _number(value, name, instrument), True
    if isinstance(value, int):
        return str(value), True
    return _clean(str(value)), False


def _number(value: float, name: str, instrument: Instrument) -> str:
    if name not in _PRICES | _SIZES:
        return f"{value:.8g}"
    decimals = instrument.price_decimals if name in _PRICES else instrument.size_decimals
    # Fixed digits where the source says its steps, the default says nothing about them; never so that a digit is lost.
    if decimals < DEFAULT_DECIMALS and float(fixed := f"{value:.{decimals}f}") == value:
        return fixed
    return f"{value:.15g}"


def _clean(text: str) -> str:
    # What others sent may hold anything; a terminal must not act on it.
    if len(text) > _LONGEST:
        text = f"{text[: _LONGEST - 3]}..."
    return text if text.isprintable() else "".join(c if c.isprintable() else "�" for c in text)
