"""Which times lie in an exchange's trading session."""

from __future__ import annotations

import functools
import threading
import warnings
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt

from market_data_core.errors import ConfigurationError
from market_data_core.models import utc_from_ns
from mds_client.frames import package

Session = Literal["regular", "extended", "all"]
"""``regular``: from open to close; ``extended``: with the hours before and after; ``all``: whenever."""

SESSIONS: Final = ("regular", "extended", "all")

_HOUR_NS: Final = 3_600_000_000_000
_DAY_NS: Final = 24 * _HOUR_NS
# How long before the open and after the close there is trading, by calendar. In New York from 04:00 to 20:00, after an
# early close at 13:00 until 17:00: https://www.nyse.com/markets/hours-calendars
_EXTENDED_NS: Final = {"XNYS": (11 * _HOUR_NS // 2, 4 * _HOUR_NS)}

Int64s = npt.NDArray[np.int64]
_making = threading.Lock()


@dataclass(frozen=True, slots=True)
class _Hours:
    # One entry per session, ascending; where there is no break its two times are the same.
    name: str
    opens: Int64s
    closes: Int64s
    break_starts: Int64s
    break_ends: Int64s


def check_session(session: str) -> None:
    """Refuse a session that there is not.

    Raises:
        ConfigurationError: There is no such session.
    """
    if session not in SESSIONS:
        raise ConfigurationError(f"session is {session!r}; there are {', '.join(SESSIONS)}")


def in_session(
    ts_ns: Int64s, *, session: Session, calendar: str = "XNYS", length_ns: Int64s | int = 1
) -> npt.NDArray[np.bool_]:
    """Say of each time whether it lies in a session.

    Args:
        ts_ns: UTC nanoseconds, in any order.
        session: Which part of the day. ``regular`` leaves out a break at noon, where there is one.
        calendar: The exchange, by its ISO 10383 code or a name that `exchange_calendars` has for it.
        length_ns: How long what begins at each time lasts; all of it has to lie in the session.

    Raises:
        ConfigurationError: There is no such session or calendar, the calendar does not reach these times or says
            nothing of extended hours, or `exchange_calendars` is not installed.
    """
    check_session(session)
    if session == "all" or len(ts_ns) == 0:
        return np.ones(len(ts_ns), dtype=np.bool_)
    hours = _hours(calendar, utc_from_ns(int(ts_ns.min())).year, utc_from_ns(int(ts_ns.max())).year)
    opens, closes = hours.opens, hours.closes
    if session == "extended":
        if hours.name not in _EXTENDED_NS:
            raise ConfigurationError(f"calendar {calendar} has no extended hours; session can be regular or all")
        before_ns, after_ns = _EXTENDED_NS[hours.name]
        opens, closes = opens - before_ns, closes + after_ns
    ends = ts_ns + length_ns
    at = np.searchsorted(opens, ts_ns, side="right") - 1
    inside: npt.NDArray[np.bool_] = (at >= 0) & (ends <= closes[at])
    if session == "regular":
        inside &= (ends <= hours.break_starts[at]) | (ts_ns >= hours.break_ends[at])
    return inside


# Making a calendar takes a tenth of a second or more. Whole years make repeated questions find it.
@functools.lru_cache(maxsize=64)
def _hours(name: str, first_year: int, last_year: int) -> _Hours:
    calendars = package("exchange_calendars")
    # Sessions near midnight in UTC belong to another year there.
    start = datetime(first_year, 1, 1, tzinfo=UTC) - timedelta(days=7)
    end = datetime(last_year, 12, 31, tzinfo=UTC) + timedelta(days=7)
    try:
        # It reads pandas' columns in a way that is on its way out, and says so each time. Filters of warnings are the
        # whole process's, so one thread at a time.
        with _making, warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            found: Any = calendars.get_calendar(name, start=f"{start:%Y-%m-%d}", end=f"{end:%Y-%m-%d}")
    except calendars.errors.InvalidCalendarName as exc:
        raise ConfigurationError(f"there is no calendar {name!r}") from exc
    except (ValueError, calendars.errors.CalendarError) as exc:
        raise ConfigurationError(f"calendar {name} does not reach from {first_year} to {last_year}: {exc}") from exc
    starts, ends = found.break_starts_nanos, found.break_ends_nanos
    none = starts == np.iinfo(np.int64).min
    closes = found.closes_nanos
    return _Hours(found.name, found.opens_nanos, closes, np.where(none, closes, starts), np.where(none, closes, ends))
