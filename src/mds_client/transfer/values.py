"""Texts of a file as the values of a column."""

from __future__ import annotations

from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc

from market_data_core.schemas import STORED_SCHEMAS

TIMES: Final = frozenset(
    f.name
    for s in STORED_SCHEMAS.values()
    for f in s
    if f.name.startswith(("ts_", "valid_")) or f.name.endswith("_ts_event")
)
"""The columns that hold a time, in UTC nanoseconds; a file may say them in ISO 8601 too."""

_UTC_NS: Final = pa.timestamp("ns", "UTC")


class Unreadable(Exception):
    """A text is no value of its column.

    Attributes:
        row: Which, from 0.
        why: What it should be.
    """

    def __init__(self, row: int, why: str) -> None:
        super().__init__(why)
        self.row = row
        self.why = why


def typed(texts: pa.Array, field: pa.Field) -> pa.Array:
    """Return texts as values of a column.

    Raises:
        Unreadable: One is none; says which.
    """
    if pa.types.is_string(field.type):
        return texts
    try:
        return _cast(texts, field)
    except pa.ArrowInvalid:
        row = _first_bad(texts, field)
        raise Unreadable(row, f"{texts[row].as_py()!r} is no {meaning(field)}") from None


def meaning(field: pa.Field) -> str:
    """Return in words what a value of the column is."""
    if field.name in TIMES:
        return "time: UTC nanoseconds, or ISO 8601 with its offset such as 2024-01-02T14:30:00Z"
    if pa.types.is_integer(field.type):
        return f"whole number of {field.type.bit_width} bits"
    return "text" if pa.types.is_string(field.type) else "number"


def ns_of(text: str) -> int:
    """Return a time in ISO 8601 with its offset, up to nine decimals, as UTC nanoseconds.

    Raises:
        ValueError: It is none, has no offset, or lies outside of the years 1677 to 2262.
    """
    value: Any = pc.cast(pa.scalar(text, pa.string()), _UTC_NS).cast(pa.int64()).as_py()
    return int(value)


def _cast(texts: pa.Array, field: pa.Field) -> pa.Array:
    if field.name not in TIMES:
        return pc.cast(texts, field.type)
    plain = pc.match_substring_regex(texts, r"^-?\d+$")
    if pc.all(plain, min_count=0).as_py():
        return pc.cast(texts, pa.int64())
    written = pc.cast(pc.if_else(plain, None, texts), _UTC_NS).cast(pa.int64())
    return pc.coalesce(pc.cast(pc.if_else(plain, texts, None), pa.int64()), written)


def _first_bad(texts: pa.Array, field: pa.Field) -> int:
    # What is left of `low` is good, and a bad one lies in [low, high).
    low, high = 0, len(texts)
    while high - low > 1:
        middle = (low + high) // 2
        try:
            _cast(texts.slice(low, middle - low), field)
        except pa.ArrowInvalid:
            high = middle
        else:
            low = middle
    return low
