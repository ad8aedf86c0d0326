"""Times as users write them."""

from __future__ import annotations

import re
from datetime import UTC, date, datetime
from typing import Any, Final

from market_data_core.errors import ValidationError
from market_data_core.models import ns_from_datetime

When = datetime | date | str
"""An aware datetime, a date for its first moment in UTC, or either as text in ISO 8601, with up to nine decimals."""

_FRACTION: Final = re.compile(r"[.,]\d{6}(\d+)")


def moment_ns(value: When, what: str) -> int:
    """Return a time as int64 UTC nanoseconds.

    Args:
        value: The time. Numbers are refused: whether one is seconds or nanoseconds would be a guess.
        what: Which time it is, for the message.

    Raises:
        ValidationError: It is none, has no time zone, or lies outside of the years 1677 to 2262.
    """
    try:
        return _ns(value)
    except (ValueError, OverflowError) as exc:
        raise ValidationError(f"{what}: {exc}") from exc


def _ns(value: Any) -> int:
    if isinstance(value, str):
        return _ns(date.fromisoformat(value)) if len(value) == len("2024-01-02") else _text_ns(value)
    if isinstance(value, datetime):
        # What pandas calls a datetime is finer than one.
        return ns_from_datetime(value) + getattr(value, "nanosecond", 0)
    if isinstance(value, date):
        return ns_from_datetime(datetime(value.year, value.month, value.day, tzinfo=UTC))
    raise ValueError(f"{value!r} is no datetime, no date and no ISO 8601 text")


def _text_ns(text: str) -> int:
    moment = datetime.fromisoformat(text)
    if moment.utcoffset() is None:
        raise ValueError(f"{text} has no time zone; write its offset, or Z for UTC")
    return ns_from_datetime(moment) + ns_behind_micros(text)


def ns_behind_micros(text: str) -> int:
    """Return the nanoseconds of a time in ISO 8601 that a datetime made of it has dropped, 0 to 999.

    Raises:
        ValueError: It is finer than nanoseconds.
    """
    found = _FRACTION.search(text)
    if found is None:
        return 0
    if found[1][3:].strip("0"):
        raise ValueError(f"{text} is finer than nanoseconds")
    return int(found[1][:3].ljust(3, "0"))


def span_ns(start: When | None, end: When | None, *, least: int, most: int) -> tuple[int, int]:
    """Return the bounds of a span, first inclusive and last exclusive, where None is `least` or `most`.

    Raises:
        ValidationError: One of them is no time, or the end lies before the start.
    """
    start_ns = least if start is None else moment_ns(start, "start")
    end_ns = most if end is None else moment_ns(end, "end")
    if end_ns < start_ns:
        raise ValidationError(f"end {end} lies before start {start}")
    return start_ns, end_ns
