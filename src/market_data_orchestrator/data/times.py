"""Moments as callers write them."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Final

from market_data_core.errors import ValidationError

_NS: Final = re.compile(r"-?\d{1,19}")
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MAX_CHARS: Final = 40


def read_time_ns(name: str, text: str | None, default: int) -> int:
    """Return a moment in UTC nanoseconds since the epoch.

    Args:
        name: Of the parameter, for the error.
        text: Whole nanoseconds, or ISO 8601 with an offset or ``Z``; a bare date is its beginning in UTC.
        default: What None stands for.

    Raises:
        ValidationError: It is neither, or has no time zone.
    """
    if text is None:
        return default
    moment_ns = int(text) if _NS.fullmatch(text) else _from_iso(name, text)
    if not -(1 << 63) <= moment_ns < 1 << 63:
        raise ValidationError(f"{name}: beyond what 64 bits of nanoseconds hold")
    return moment_ns


def _from_iso(name: str, text: str) -> int:
    try:
        # In a query, a plus sign that was not escaped arrives as a space.
        moment = datetime.fromisoformat(text[:_MAX_CHARS].replace(" ", "+") if "T" in text else text[:_MAX_CHARS])
    except ValueError as exc:
        raise ValidationError(
            f"{name}: send UTC nanoseconds, or a moment such as 2024-01-02T14:30:00Z or 2024-01-02"
        ) from exc
    if moment.tzinfo is None:
        if len(text) > len("2024-01-02"):
            raise ValidationError(f"{name}: say which time zone, such as 2024-01-02T14:30:00Z")
        moment = moment.replace(tzinfo=UTC)
    return (moment - _EPOCH) // timedelta(microseconds=1) * 1000
