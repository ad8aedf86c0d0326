"""The columns of every kind of market data, declared once.

Two shapes per kind, with the same columns in between:

- the **event schema** is what flows through log and operators: instruments are int32 ids into a table that travels
  beside the batch (`market_data_core.batch.Instruments`), because strings cost more than all the arithmetic;
- the **table schema** is what users and stores see: vendor, symbol and origin spelled out, one row complete in itself.

Times are int64 nanoseconds since the epoch, UTC. `ts_event` is the venue's time, `ts_recv` ours. Prices and sizes are
float64. What is absent is null: never NaN, -1 or 0. Stores change unsigned integers, nanosecond timestamps and
dictionaries without telling, so no table schema has any.
"""

from __future__ import annotations

from enum import IntFlag, StrEnum
from typing import Final

import pyarrow as pa

from market_data_core.errors import ConfigurationError


class Kind(StrEnum):
    """What a batch of events holds."""

    QUOTES = "quotes"
    TRADES = "trades"
    BARS = "bars"
    DEPTH = "depth"
    OPTIONS = "options"
    DEFINITIONS = "definitions"
    STATUS = "status"
    TAQ = "taq"
    ANALYTICS = "analytics"
    QUARANTINE = "quarantine"
    CONTROL = "control"


class Origin(StrEnum):
    """How an event came to us."""

    LIVE = "live"
    REPLAY = "replay"
    BACKFILL = "backfill"
    SYNTHETIC = "synthetic"


class Flag(IntFlag):
    """Bits of the `flags` column. The low eight are Databento's, with the same meaning."""

    PUBLISHER_SPECIFIC = 1 << 1
    MAYBE_BAD_BOOK = 1 << 2
    BAD_TS_RECV = 1 << 3
    MBP = 1 << 4
    SNAPSHOT = 1 << 5
    TOB = 1 << 6
    LAST = 1 << 7
    TS_EVENT_SYNTHETIC = 1 << 8
    """The venue gave no time; `ts_event` equals `ts_recv`."""
    TS_EVENT_FUTURE = 1 << 9
    """`ts_event` lies far ahead of the stream; it does not advance the watermark."""
    TS_EVENT_BACK = 1 << 10
    """`ts_event` is earlier than one already seen for the instrument."""
    CROSSED = 1 << 11
    """Bid above ask."""
    NEGATIVE_PRICE = 1 << 12
    """A price below zero, which some instruments can have."""
    ZERO_SIZE = 1 << 13
    """A trade of no size."""
    OFF_STEP = 1 << 14
    """A price or size that is no multiple of the instrument's step."""
    SUSPICIOUS = 1 << 15
    """The vendor itself marked the event as suspicious."""


def _field(name: str, type_: pa.DataType, *, nullable: bool = True) -> pa.Field:
    return pa.field(name, type_, nullable=nullable)


_F64 = pa.float64()
_I64 = pa.int64()
_I32 = pa.int32()
_STR = pa.string()

KIND_FIELDS: Final[dict[Kind, tuple[pa.Field, ...]]] = {
    Kind.QUOTES: (
        _field("bid_price", _F64),
        _field("bid_size", _F64),
        _field("ask_price", _F64),
        _field("ask_size", _F64),
    ),
    Kind.TRADES: (
        _field("price", _F64),
        _field("size", _F64),
        _field("exchange", _STR),
        _field("conditions", _STR),
        _field("trade_id", _STR),
        _field("aggressor_side", _STR),
    ),
    Kind.BARS: (
        _field("interval", _STR),
        _field("what", _STR),
        _field("session", _STR),
        _field("source", _STR),
        _field("open", _F64),
        _field("high", _F64),
        _field("low", _F64),
        _field("close", _F64),
        _field("volume", _F64),
        _field("vwap", _F64),
        _field("trade_count", _I64),
        _field("revision", _I32),
        _field("ts_known", _I64),
        _field("reason", _STR),
    ),
    Kind.DEPTH: (
        _field("action", _STR),
        _field("side", _STR),
        _field("level", _I32),
        _field("price", _F64),
        _field("size", _F64),
        _field("order_id", _STR),
        _field("sequence", _I64),
    ),
    Kind.OPTIONS: (
        _field("underlying", _STR),
        _field("expiry", _STR),
        _field("strike", _F64),
        _field("right", _STR),
        _field("bid_price", _F64),
        _field("ask_price", _F64),
        _field("last_price", _F64),
        _field("volume", _F64),
        _field("open_interest", _F64),
        _field("underlying_price", _F64),
        _field("implied_vol", _F64),
        _field("delta", _F64),
        _field("gamma", _F64),
        _field("vega", _F64),
        _field("theta", _F64),
        _field("rho", _F64),
    ),
    Kind.DEFINITIONS: (
        _field("valid_from", _I64),
        _field("valid_to", _I64),
        _field("tick_size", _F64),
        _field("size_step", _F64),
        _field("multiplier", _F64),
        _field("currency", _STR),
        _field("calendar", _STR),
        _field("expiry", _STR),
    ),
    Kind.STATUS: (_field("status", _STR), _field("reason", _STR)),
    # A trade with the quote that stood when it happened.
    Kind.TAQ: (
        _field("price", _F64),
        _field("size", _F64),
        _field("exchange", _STR),
        _field("conditions", _STR),
        _field("trade_id", _STR),
        _field("aggressor_side", _STR),
        _field("bid_price", _F64),
        _field("bid_size", _F64),
        _field("ask_price", _F64),
        _field("ask_size", _F64),
        _field("quote_ts_event", _I64),
    ),
    # One named value at a time: a mid price, a rolling average, a published statistic.
    Kind.ANALYTICS: (_field("name", _STR), _field("value", _F64)),
    Kind.QUARANTINE: (
        _field("kind", _STR),
        _field("source_id", _STR),
        _field("line", _I64),
        _field("reason", _STR),
        _field("raw", _STR),
    ),
    Kind.CONTROL: (_field("action", _STR), _field("detail", _STR)),
}
"""The columns that make a kind what it is, in order."""


def interval_ns(name: str) -> int:
    """Return the length of a bar interval in nanoseconds.

    Args:
        name: A positive whole count and a unit: ``30s``, ``1m``, ``4h``, ``1d``.

    Raises:
        ConfigurationError: The name is not of that form.
    """
    units = {"s": 1, "m": 60, "h": 3600, "d": 86400}
    count, unit = name[:-1], name[-1:]
    if unit not in units or not count.isascii() or not count.isdigit() or int(count) == 0:
        raise ConfigurationError(f"interval {name!r} is not a count and one of s, m, h, d, such as 1m")
    return int(count) * units[unit] * 1_000_000_000


EVENT_FIELDS: Final[tuple[pa.Field, ...]] = (
    _field("instrument", _I32, nullable=False),
    _field("ts_event", _I64, nullable=False),
    _field("ts_recv", _I64, nullable=False),
    _field("seq", _I64, nullable=False),
    _field("flags", _I32, nullable=False),
)
"""The columns that every event has inside the platform."""

TABLE_FIELDS: Final[tuple[pa.Field, ...]] = (
    _field("vendor", _STR),
    _field("symbol", _STR),
    _field("ts_event", _I64),
    _field("ts_recv", _I64),
    _field("seq", _I64),
    _field("flags", _I32),
    _field("origin", _STR),
)
"""The columns that every stored row has."""

EVENT_SCHEMAS: Final[dict[Kind, pa.Schema]] = {k: pa.schema([*EVENT_FIELDS, *f]) for k, f in KIND_FIELDS.items()}
TABLE_SCHEMAS: Final[dict[Kind, pa.Schema]] = {k: pa.schema([*TABLE_FIELDS, *f]) for k, f in KIND_FIELDS.items()}

UNLOGGED_SCHEMAS: Final[dict[Kind, pa.Schema]] = {
    k: pa.schema([f for f in s if f.name != "seq"]) for k, s in EVENT_SCHEMAS.items()
}
"""Event schemas as sources give them and the log stores them: the log hands out `seq` when it appends."""

BAR_KEY: Final[tuple[str, ...]] = ("vendor", "symbol", "interval", "what", "session", "source", "ts_event")
"""What makes two bars the same bar; the newest `revision` of a key is the one to read."""


class Record(StrEnum):
    """What a store keeps beside events: statements about an instrument that may be corrected later."""

    FUNDAMENTALS = "fundamentals"
    NEWS = "news"
    OPTION_SNAPSHOTS = "option_snapshots"
    CORPORATE_ACTIONS = "corporate_actions"


_VERSION: Final = (_field("revision", _I32), _field("ts_known", _I64), _field("reason", _STR))

RECORD_FIELDS: Final[dict[Record, tuple[pa.Field, ...]]] = {
    # `ts_event` is the date that the figures are of.
    Record.FUNDAMENTALS: (
        _field("total_assets", _F64),
        _field("total_liabilities", _F64),
        _field("net_income", _F64),
        _field("eps", _F64),
        *_VERSION,
    ),
    # `ts_event` is when it was published.
    Record.NEWS: (
        _field("id", _STR),
        _field("title", _STR),
        _field("url", _STR),
        _field("sentiment_score", _F64),
        *_VERSION,
    ),
    # `symbol` is the underlying's, `expiry` a date such as 20240119, `right` C or P.
    Record.OPTION_SNAPSHOTS: (
        _field("expiry", _STR),
        _field("strike", _F64),
        _field("right", _STR),
        _field("implied_vol", _F64),
        _field("delta", _F64),
        _field("gamma", _F64),
        _field("vega", _F64),
        _field("theta", _F64),
        _field("open_interest", _F64),
        _field("volume", _F64),
        _field("underlying_price", _F64),
        *_VERSION,
    ),
    # Prices before `ts_event`, the first moment that trades without the right, are multiplied by the factors to be
    # comparable with prices after it: `split_factor` for splits, `price_factor` for what is paid out.
    Record.CORPORATE_ACTIONS: (
        _field("action", _STR),
        _field("split_factor", _F64),
        _field("price_factor", _F64),
        _field("reference_price", _F64),
        *_VERSION,
    ),
}
"""The columns that make a record what it is, in order."""

STORED_SCHEMAS: Final[dict[str, pa.Schema]] = {
    **{str(k): s for k, s in TABLE_SCHEMAS.items() if k is not Kind.CONTROL},
    **{str(r): pa.schema([*TABLE_FIELDS, *f]) for r, f in RECORD_FIELDS.items()},
}
"""The columns of every table that a store may have, by the table's name."""

KEYS: Final[dict[str, tuple[str, ...]]] = {
    str(Kind.BARS): BAR_KEY,
    str(Record.FUNDAMENTALS): ("vendor", "symbol", "ts_event"),
    str(Record.NEWS): ("vendor", "id"),
    str(Record.OPTION_SNAPSHOTS): ("vendor", "symbol", "expiry", "right", "strike", "ts_event"),
    str(Record.CORPORATE_ACTIONS): ("vendor", "symbol", "action", "ts_event"),
}
"""What makes two rows of a table versions of the same thing, by the table's name; rows of other tables are events.

The version to read is the one of the highest ``(revision, ts_known, seq)``.
"""

VERSION_COLUMNS: Final[tuple[str, ...]] = ("revision", "ts_known", "reason")
"""What every keyed table says of a version: its number, when it became known (UTC nanoseconds), and why."""
