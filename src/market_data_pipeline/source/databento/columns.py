"""From DBN records of one type to rows of our kinds, whole columns at a time."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import databento_dbn as dbn
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from databento_dbn import RType, StatType

from market_data_core.schemas import Flag, Kind
from market_data_pipeline.source.databento.records import Group, Int64s, Records
from market_data_pipeline.source.databento.symbols import text

Int32s = npt.NDArray[np.int32]

_UNDEF_PRICE: Final = dbn.UNDEF_PRICE
_UNDEF_SIZE: Final = dbn.UNDEF_ORDER_SIZE  # the same 32 ones stand for absent quantities elsewhere
_SCALE: Final = float(dbn.FIXED_PRICE_SCALE)
_LEVELS: Final = 10
_LOW_EIGHT: Final = 0xFF
_DELETED: Final = int(dbn.StatUpdateAction.DELETE)

_SAMPLED: Final = frozenset(map(int, (RType.BBO_1S, RType.BBO_1M, RType.CBBO_1S, RType.CBBO_1M)))
_AGGRESSOR: Final = {"B": "buy", "A": "sell"}
_BOOK_SIDE: Final = {"B": "bid", "A": "ask"}
_ORDER_ACTION: Final = {
    "A": "add",
    "C": "cancel",
    "M": "modify",
    "R": "clear",
    "T": "trade",
    "F": "fill",
    "N": "none",
}
_INTERVAL: Final = {
    int(RType.OHLCV_1S): ("1s", "ALL"),
    int(RType.OHLCV_1M): ("1m", "ALL"),
    int(RType.OHLCV_1H): ("1h", "ALL"),
    int(RType.OHLCV_1D): ("1d", "ALL"),
    # By trading session where the others go by UTC: both may be had of one day, and are two bars.
    int(RType.OHLCV_EOD): ("1d", "EOD"),
}
# Statistics that are a quantity; the others are a price, some with a quantity beside it.
_QUANTITIES: Final = frozenset(
    int(t)
    for t in (
        StatType.CLEARED_VOLUME,
        StatType.OPEN_INTEREST,
        StatType.BLOCK_VOLUME,
        StatType.VENUE_SPECIFIC_VOLUME_1,
    )
)
_IMBALANCE_PRICES: Final = (
    *("ref_price", "cont_book_clr_price", "auct_interest_clr_price", "ssr_filling_price", "ind_match_price"),
    *("upper_collar", "lower_collar"),
)
_IMBALANCE_SIZES: Final = ("paired_qty", "total_imbalance_qty", "market_imbalance_qty", "unpaired_qty")


@dataclass(frozen=True, slots=True, kw_only=True)
class Rows:
    """Rows of one kind.

    Attributes:
        kind: What they are.
        at: For each row the place of its record in the group; ascending.
        columns: Those of the kind, and `flags` where they are not the record's.
    """

    kind: Kind
    at: Int64s
    columns: Mapping[str, object]


@dataclass(frozen=True, slots=True, kw_only=True)
class Stamps:
    """What every record of a group has.

    Attributes:
        ts_event: The venue's time, or Databento's receive time where the venue gave none.
        index: The time that order, days and symbol mappings go by: Databento's receive time where there is one.
        flags: Bits of `Flag`.
    """

    ts_event: Int64s
    index: Int64s
    flags: Int32s


def stamps(group: Group) -> Stamps:
    """Return times (UTC nanoseconds, 0 where there is none at all) and flags of records.

    Records sampled at an interval say as their event time when the last trade was; the quote in them is as of the
    interval's end, which is their receive time, so that is taken and flagged.
    """
    records = group.records
    names = records.dtype.names or ()
    # The absent time is all ones, so it is negative here, as is all that int64 cannot hold.
    venue = records["ts_event"].astype(np.int64)
    received = records["ts_recv"].astype(np.int64) if "ts_recv" in names else venue
    absent = venue < 0 if group.rtype not in _SAMPLED else received >= 0
    ts_event = np.maximum(np.where(absent, received, venue), 0)
    flags = np.where(absent, np.int32(Flag.TS_EVENT_SYNTHETIC), np.int32(0))
    if "flags" in names:
        flags |= records["flags"].astype(np.int32) & _LOW_EIGHT
    return Stamps(ts_event=ts_event, index=np.where(received >= 0, received, ts_event), flags=flags)


def rows_of(group: Group, flags: Int32s) -> list[Rows]:
    """Return the rows that records stand for; none for messages about the feed itself.

    Args:
        group: Records of one type.
        flags: Theirs, as `stamps` gives them.
    """
    convert = _CONVERT.get(group.rtype)
    return convert(group, flags) if convert else []


def raw_symbols(group: Group) -> list[str]:
    """Return the symbol that each record itself carries; none unless they are definitions."""
    if group.rtype != int(RType.INSTRUMENT_DEF):
        return []
    return [text(s) for s in group.records["raw_symbol"].tolist()]


def _all(records: Records) -> Int64s:
    return np.arange(len(records))


def _price(values: npt.NDArray[Any]) -> pa.Array:
    return pa.array(values / _SCALE, mask=values == _UNDEF_PRICE)


def _size(values: npt.NDArray[Any], *, absent: npt.NDArray[np.bool_] | None = None) -> pa.Array:
    mask = values == np.iinfo(values.dtype).max
    return pa.array(values.astype(np.float64), mask=mask if absent is None else mask | absent)


# One letter a row into a word; null for any letter that is not listed.
def _words(letters: npt.NDArray[Any], words: Mapping[str, str]) -> pa.Array:
    places = np.full(256, len(words), np.int64)
    places[[ord(letter) for letter in words]] = np.arange(len(words))
    codes = np.ascontiguousarray(letters).view(np.uint8)
    return pa.array([*words.values(), None], pa.string()).take(pa.array(places[codes]))


def _numbers(values: npt.NDArray[Any]) -> pa.Array:
    return pa.array(values.astype(np.uint64)).cast(pa.string())


def _same(value: str, count: int) -> pa.Array:
    return pa.repeat(pa.scalar(value, pa.string()), count)


def _trades(records: Records, at: Int64s) -> Rows:
    columns = {
        "price": _price(records["price"]),
        "size": _size(records["size"]),
        "exchange": _numbers(records["publisher_id"]),
        "aggressor_side": _words(records["side"], _AGGRESSOR),
    }
    return Rows(kind=Kind.TRADES, at=at, columns=columns)


def _trade_rows(records: Records) -> list[Rows]:
    at = np.flatnonzero(records["action"] == b"T")
    return [_trades(records[at], at)] if len(at) else []


def _quotes(records: Records) -> Rows:
    columns: dict[str, object] = {}
    for side in ("bid", "ask"):
        price = records[f"{side}_px_00"]
        columns[f"{side}_price"] = _price(price)
        columns[f"{side}_size"] = _size(records[f"{side}_sz_00"], absent=price == _UNDEF_PRICE)
    return Rows(kind=Kind.QUOTES, at=_all(records), columns=columns)


# Each record is the whole book, so it is said as one: cleared, then set level by level. Whoever waits for the end of
# an update must not take a record in the midst of one for it, so `LAST` stays where the venue put it.
def _levels(group: Group, flags: Int32s) -> list[Rows]:
    records = group.records
    sides = [(side, level) for side in ("bid", "ask") for level in range(_LEVELS)]
    price = np.stack([records[f"{side}_px_{level:02}"] for side, level in sides], axis=1)
    size = np.stack([records[f"{side}_sz_{level:02}"] for side, level in sides], axis=1)
    there = np.concatenate((np.ones((len(records), 1), np.bool_), price != _UNDEF_PRICE), axis=1)
    at, column = np.nonzero(there)
    set_ = column > 0
    level = np.maximum(column - 1, 0)
    last = np.append(np.diff(at) > 0, [True] * bool(len(at)))
    kept = np.where(last, flags[at], flags[at] & ~np.int32(Flag.LAST)) | np.int32(Flag.SNAPSHOT)
    words = pa.array(["bid", "ask"], pa.string())
    columns = {
        "flags": kept.astype(np.int32),
        "action": pa.array(["clear", "set"], pa.string()).take(pa.array(set_.astype(np.int64))),
        "side": pc.if_else(pa.array(set_), words.take(pa.array(level // _LEVELS)), pa.scalar(None, pa.string())),
        "level": pa.array((level % _LEVELS).astype(np.int32), mask=~set_),
        "price": pa.array(price[at, level] / _SCALE, mask=~set_),
        "size": pa.array(size[at, level].astype(np.float64), mask=~set_),
        "sequence": records["sequence"].astype(np.int64)[at],
    }
    return [Rows(kind=Kind.DEPTH, at=at, columns=columns), *_trade_rows(records)]


def _orders(group: Group, _: Int32s) -> list[Rows]:
    records = group.records
    columns = {
        "action": _words(records["action"], _ORDER_ACTION),
        "side": _words(records["side"], _BOOK_SIDE),
        "price": _price(records["price"]),
        "size": _size(records["size"]),
        "order_id": _numbers(records["order_id"]),
        "sequence": records["sequence"].astype(np.int64),
    }
    return [Rows(kind=Kind.DEPTH, at=_all(records), columns=columns)]


def _bars(group: Group, _: Int32s) -> list[Rows]:
    records = group.records
    interval, session = _INTERVAL[group.rtype]
    count = len(records)
    columns: dict[str, object] = {
        "interval": _same(interval, count),
        "what": _same("TRADES", count),
        "session": _same(session, count),
        "source": _same("external", count),
        "volume": _size(records["volume"]),
        "revision": np.zeros(count, np.int32),
        **{name: _price(records[name]) for name in ("open", "high", "low", "close")},
    }
    return [Rows(kind=Kind.BARS, at=_all(records), columns=columns)]


def _time(values: npt.NDArray[Any]) -> pa.Array:
    times = values.astype(np.int64)
    return pa.array(times, mask=times <= 0)


def _definitions(group: Group, _: Int32s) -> list[Rows]:
    records = group.records
    lot = records["min_lot_size"]
    until = _time(records["expiration"])
    columns = {
        "valid_from": _time(records["activation"]),
        "valid_to": until,
        "tick_size": _price(records["min_price_increment"]),
        "size_step": _size(lot, absent=lot <= 0),
        "multiplier": _price(records["unit_of_measure_qty"]),
        "currency": pa.array([text(c) or None for c in records["currency"].tolist()], pa.string()),
        "expiry": pc.strftime(until.cast(pa.timestamp("ns")), format="%Y%m%d"),
    }
    return [Rows(kind=Kind.DEFINITIONS, at=_all(records), columns=columns)]


# A word for each row, looked up once for every distinct number.
def _named(numbers: npt.NDArray[Any], name: Callable[[int], str | None]) -> pa.Array:
    distinct, places = np.unique(numbers, return_inverse=True)
    return pa.array([name(n) for n in distinct.tolist()], pa.string()).take(pa.array(places))


def _lower(values: Any) -> dict[int, str]:
    return {int(v): str(v.name).lower() for v in values}


_STATUS: Final = _lower(dbn.StatusAction.variants())
_REASONS: Final = _lower(dbn.StatusReason.variants())
_EVENTS: Final = _lower(dbn.TradingEvent.variants())
_STATISTICS: Final = _lower(StatType.variants())


# A number that the library does not know stands for itself.
def _or_number(names: Mapping[int, str]) -> Callable[[int], str]:
    return lambda number: names.get(number, str(number))


# Reason and event, either of which is 0 where the venue gives none, as one number and then as one text.
def _why(number: int) -> str | None:
    reason, event = number >> 16, number & 0xFFFF
    said = [_or_number(names)(n) for names, n in ((_REASONS, reason), (_EVENTS, event)) if n]
    return ", ".join(said) or None


def _status(group: Group, _: Int32s) -> list[Rows]:
    records = group.records
    why = records["reason"].astype(np.int64) << 16 | records["trading_event"]
    columns = {"status": _named(records["action"], _or_number(_STATUS)), "reason": _named(why, _why)}
    return [Rows(kind=Kind.STATUS, at=_all(records), columns=columns)]


# A statistic is one row; a price that a quantity comes with is two. One that is withdrawn has no value.
def _statistics(group: Group, _: Int32s) -> list[Rows]:
    records = group.records
    quantity = records["quantity"]
    counted = np.isin(records["stat_type"], list(_QUANTITIES))
    there = np.stack((records["price"] != _UNDEF_PRICE, quantity != np.iinfo(quantity.dtype).max), axis=1)
    values = np.stack((records["price"] / _SCALE, quantity.astype(np.float64)), axis=1)
    # The first of a record's two places is the statistic itself, be it price or quantity; the second what is beside it.
    main = counted.astype(np.int64)
    beside = ~counted & there[:, 1]
    at, second = np.nonzero(np.stack((np.ones(len(records), np.bool_), beside), axis=1))
    which = np.where(second == 1, 1, main[at])
    absent = ~there[at, which] | (records["update_action"][at] == _DELETED)
    names = _named(records["stat_type"], _or_number(_STATISTICS)).take(pa.array(at))
    ending = pa.array(["", "_quantity"], pa.string()).take(pa.array(second))
    columns = {
        "name": pc.binary_join_element_wise(names, ending, ""),
        "value": pa.array(values[at, which], mask=absent),
    }
    return [Rows(kind=Kind.ANALYTICS, at=at, columns=columns)]


def _imbalance(group: Group, _: Int32s) -> list[Rows]:
    records = group.records
    prices = np.stack([records[n] for n in _IMBALANCE_PRICES], axis=1)
    sizes = np.stack([records[n] for n in _IMBALANCE_SIZES], axis=1)
    side = (records["side"] == b"B").astype(np.float64) - (records["side"] == b"A")
    values = np.concatenate((prices / _SCALE, sizes.astype(np.float64), side[:, None]), axis=1)
    sided = np.ones((len(records), 1), np.bool_)
    there = np.concatenate((prices != _UNDEF_PRICE, sizes != _UNDEF_SIZE, sided), axis=1)
    at, column = np.nonzero(there)
    names = pa.array([f"imbalance_{n}" for n in (*_IMBALANCE_PRICES, *_IMBALANCE_SIZES, "side")], pa.string())
    columns = {"name": names.take(pa.array(column)), "value": values[at, column]}
    return [Rows(kind=Kind.ANALYTICS, at=at, columns=columns)]


def _top(group: Group, _: Int32s) -> list[Rows]:
    return [_quotes(group.records), *_trade_rows(group.records)]


def _sampled(group: Group, _: Int32s) -> list[Rows]:
    return [_quotes(group.records)]


def _prints(group: Group, _: Int32s) -> list[Rows]:
    return [_trades(group.records, _all(group.records))]


_CONVERT: Final[dict[int, Callable[[Group, Int32s], list[Rows]]]] = {
    int(RType.MBP_0): _prints,
    **dict.fromkeys(map(int, (RType.MBP_1, RType.TBBO, RType.CMBP_1, RType.TCBBO)), _top),
    **dict.fromkeys(_SAMPLED, _sampled),
    **dict.fromkeys(_INTERVAL, _bars),
    int(RType.MBP_10): _levels,
    int(RType.MBO): _orders,
    int(RType.STATUS): _status,
    int(RType.INSTRUMENT_DEF): _definitions,
    int(RType.STATISTICS): _statistics,
    int(RType.IMBALANCE): _imbalance,
}
