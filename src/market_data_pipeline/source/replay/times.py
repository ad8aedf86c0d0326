"""Times of recorded files, whole columns at once, to UTC nanoseconds since the epoch."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from functools import cache, lru_cache
from typing import Final
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from market_data_core.errors import ConfigurationError

Int64s = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

_SECOND_NS: Final = 1_000_000_000
_MINUTE_NS: Final = 60 * _SECOND_NS
_HOUR_NS: Final = 60 * _MINUTE_NS
_DAY_NS: Final = 24 * _HOUR_NS
_LIMIT_NS: Final = 2**63 - 1 - 2 * _DAY_NS  # room for a zone's offset without overflow
_FIXED = re.compile(r"^UTC([+-])(\d{2}):(\d{2})$")
_ISO = r"^\d{4}-\d\d-\d\d[T ]\d\d:\d\d(:\d\d(\.\d{1,9})?)?(Z|[+-]\d\d(:?\d\d)?)?$"
_COMPACT = r"^(\d{4})(\d{2})(\d{2}) (\d{2}:\d{2})$"
_ISO_OFFSET = r"(Z|[T ].*[+-]\d\d(:?\d\d)?)$"


class TimeUnit(StrEnum):
    """How a file writes its times."""

    NS = "ns"
    US = "us"
    MS = "ms"
    S = "s"
    NS_SINCE_MIDNIGHT = "ns_since_midnight"
    US_SINCE_MIDNIGHT = "us_since_midnight"
    MS_SINCE_MIDNIGHT = "ms_since_midnight"
    S_SINCE_MIDNIGHT = "s_since_midnight"
    ISO8601 = "iso8601"
    YYYYMMDD_HHMM = "yyyymmdd_hhmm"
    DAY = "day"

    @property
    def since_midnight(self) -> bool:
        """True if the day is not in the value but in the file's name."""
        return self is TimeUnit.DAY or self.value.endswith("_since_midnight")

    @property
    def is_text(self) -> bool:
        """True if the value is no count."""
        return self in {TimeUnit.ISO8601, TimeUnit.YYYYMMDD_HHMM}

    @property
    def unit_ns(self) -> int:
        """Nanoseconds of one count; 1 for text."""
        return {"ns": 1, "us": 1_000, "ms": 1_000_000, "s": _SECOND_NS}.get(self.value.split("_")[0], 1)


class Zone:
    """A time zone: UTC, a fixed offset such as ``UTC-05:00``, or an IANA name such as ``America/New_York``.

    Local times are wall-clock times. One that a clock change makes happen twice is taken as the first of the two; one
    that it leaves out is read with the offset from before the change, so it comes out after it. Offsets are looked up
    once an hour of local time, once a minute in hours with a change.

    Raises:
        ConfigurationError: There is no such zone.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self._fixed_ns: int | None = None
        self._info: ZoneInfo | None = None
        fixed = _FIXED.match(name)
        if name in {"UTC", "Z"}:
            self._fixed_ns = 0
        elif fixed:
            sign = -1 if fixed[1] == "-" else 1
            self._fixed_ns = sign * (int(fixed[2]) * _HOUR_NS + int(fixed[3]) * _MINUTE_NS)
        else:
            try:
                self._info = ZoneInfo(name)
            except (ZoneInfoNotFoundError, ValueError, OSError) as exc:
                raise ConfigurationError(
                    f"time zone {name!r} is neither UTC, nor like UTC-05:00, nor a name of the IANA database"
                ) from exc

    def to_utc(self, local_ns: Int64s) -> Int64s:
        """Return UTC nanoseconds for wall-clock nanoseconds since 1970-01-01 00:00 of this zone's clock, same order."""
        if self._info is None:
            return local_ns if not self._fixed_ns else local_ns - self._fixed_ns
        if not len(local_ns):
            return local_ns
        hours, places = _runs(local_ns // _HOUR_NS)
        offsets: list[int] = []
        changes: list[int] = []
        for i, hour in enumerate(hours.tolist()):
            offset, changing = _hour_offset(self._info, hour)
            offsets.append(offset)
            if changing:
                changes.append(i)
        result: Int64s = local_ns - np.array(offsets, np.int64)[places]
        if changes:
            rows = np.flatnonzero(np.isin(places, changes))
            minutes, at = _runs(local_ns[rows] // _MINUTE_NS)
            exact = [_offset_ns(self._info, m * _MINUTE_NS) for m in minutes.tolist()]
            result[rows] = local_ns[rows] - np.array(exact, np.int64)[at]
        return result


@cache
def zone(name: str) -> Zone:
    """Return the zone of that name.

    Raises:
        ConfigurationError: There is no such zone.
    """
    return Zone(name)


# Distinct values and, for each row, which of them. Rows of a file come in runs, and np.unique over every row would
# sort them: only the first of each run goes there.
def _runs(values: Int64s) -> tuple[Int64s, npt.NDArray[np.intp]]:
    starts = np.concatenate(([0], np.flatnonzero(values[1:] != values[:-1]) + 1))
    distinct, which = np.unique(values[starts], return_inverse=True)
    return distinct, np.repeat(which, np.diff(np.append(starts, len(values))))


def _offset_ns(info: ZoneInfo, local_ns: int) -> int:
    wall = datetime(1970, 1, 1, tzinfo=info) + timedelta(seconds=local_ns // _SECOND_NS)
    offset = wall.utcoffset()
    return 0 if offset is None else round(offset.total_seconds()) * _SECOND_NS


@lru_cache(maxsize=65_536)
def _hour_offset(info: ZoneInfo, hour: int) -> tuple[int, bool]:
    first = _offset_ns(info, hour * _HOUR_NS)
    return first, first != _offset_ns(info, (hour + 1) * _HOUR_NS)


def midnight_ns(yyyymmdd: str) -> int:
    """Return the wall-clock nanoseconds of a day's midnight, on the scale that `Zone.to_utc` reads.

    Raises:
        ConfigurationError: It is no date.
    """
    try:
        day = datetime.strptime(yyyymmdd.replace("-", ""), "%Y%m%d").replace(tzinfo=UTC)
    except ValueError as exc:
        raise ConfigurationError(f"{yyyymmdd!r} is not a date like 20131007") from exc
    return int(day.timestamp()) * _SECOND_NS


def counts_to_utc(values: Int64s, *, unit: TimeUnit, zone: Zone, midnight: int = 0) -> tuple[Int64s, Bools]:
    """Return UTC nanoseconds for whole counts of a unit, and which of them int64 can hold.

    Args:
        values: Counts since the epoch, or since midnight, by the zone's clock.
        unit: What is counted.
        zone: Whose clock; UTC for counts since the true epoch.
        midnight: What `midnight_ns` gives, for units that count from midnight.
    """
    limit = (_LIMIT_NS - abs(midnight)) // unit.unit_ns
    fits = (values <= limit) & (values >= -limit)
    if not fits.all():
        values = np.where(fits, values, 0)
    return zone.to_utc(values * unit.unit_ns + midnight), fits


def iso_to_utc(texts: pa.Array, *, zone: Zone | None) -> tuple[Int64s, Bools, Bools]:
    """Return UTC nanoseconds for ISO 8601 texts, each by its own offset.

    Args:
        texts: Dates with times to nanoseconds; null where there is none.
        zone: Whose clock texts without an offset follow; None if they cannot be placed.

    Returns:
        The times, which texts are a time at all, and which of these lack an offset that `zone` does not give.
    """
    shaped = _as_bools(pc.match_substring_regex(texts, _ISO))
    aware = shaped & _as_bools(pc.match_substring_regex(texts, _ISO_OFFSET))
    naive = shaped & ~aware
    times = np.zeros(len(texts), np.int64)
    valid = shaped.copy()
    for rows, tz in ((np.flatnonzero(aware), "UTC"), (np.flatnonzero(naive), None)):
        if not len(rows):
            continue
        found, good = _parse_iso(texts.take(pa.array(rows)), tz)
        if tz is None and zone is not None:
            inside = (found <= _LIMIT_NS) & (found >= -_LIMIT_NS)
            good &= inside
            found = zone.to_utc(np.where(inside, found, 0))
        times[rows] = found
        valid[rows] = good
    placeless = naive & valid if zone is None else np.zeros(len(texts), np.bool_)
    return times, valid, placeless


def compact_to_iso(texts: pa.Array) -> pa.Array:
    """Return texts like ``20140605 00:00`` as ISO 8601, anything else as null."""
    fits = pc.match_substring_regex(texts, _COMPACT)
    return pc.if_else(fits, pc.replace_substring_regex(texts, _COMPACT, r"\1-\2-\3T\4"), None)


def _as_bools(values: pa.Array) -> Bools:
    result: Bools = pc.fill_null(values, False).to_numpy(zero_copy_only=False)  # noqa: FBT003  Arrow's own call
    return result


# Arrow's cast stops at the first text that has the form of a time but is none (a month 13), so halves are tried until
# those stand alone.
def _parse_iso(texts: pa.Array, tz: str | None) -> tuple[Int64s, Bools]:
    try:
        parsed = texts.cast(pa.timestamp("ns", tz)).cast(pa.int64())
    except pa.ArrowInvalid:
        if len(texts) == 1:
            return np.zeros(1, np.int64), np.zeros(1, np.bool_)
        half = len(texts) // 2
        first, second = _parse_iso(texts[:half], tz), _parse_iso(texts[half:], tz)
        return np.concatenate((first[0], second[0])), np.concatenate((first[1], second[1]))
    return parsed.to_numpy(zero_copy_only=False), np.ones(len(texts), np.bool_)
