"""Event-time windows: where an event belongs, and when its window ends."""

from __future__ import annotations

import datetime as dt
import re
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import numpy as np
import numpy.typing as npt

from market_data_core.errors import ConfigurationError

Ints = npt.NDArray[np.int64]
_DAY_NS = 86_400_000_000_000


class Windows:
    """Left-closed, right-open windows of one length.

    Args:
        step_ns: Length.
        align: ``epoch``: starts are whole multiples of the length since the epoch, UTC. ``HH:MM Zone``, such as
            ``09:30 America/New_York``: starts are counted from that local time of each day, so a window never spans
            two sessions; the last one before the next session begins may be short. A window of a day is the whole
            session, also on the days of 23 and 25 hours.

    Raises:
        ConfigurationError: The alignment cannot be read, or the length is longer than a session.
    """

    def __init__(self, step_ns: int, align: str = "epoch") -> None:
        self.step_ns = step_ns
        self._zone: ZoneInfo | None = None
        self._at = dt.time()
        self._anchors: Ints = np.empty(0, np.int64)
        if align == "epoch":
            return
        match = re.fullmatch(r"(\d\d):(\d\d) (\S+)", align)
        if match is None:
            raise ConfigurationError(f"bar alignment {align!r} is neither epoch nor HH:MM and a time zone")
        try:
            self._at = dt.time(int(match[1]), int(match[2]))
            self._zone = ZoneInfo(match[3])
        # A zone's name is looked up as a path, so half a name may be a folder.
        except (ValueError, ZoneInfoNotFoundError, OSError) as exc:
            raise ConfigurationError(f"bar alignment {align!r}: {exc}") from exc
        if step_ns > _DAY_NS:
            raise ConfigurationError(f"bar alignment {align!r} is by day; bars longer than 1d need epoch")

    def starts(self, ts_ns: Ints) -> Ints:
        """Return the start of the window of each time."""
        if self._zone is None:
            # NumPy divides by one number in a quarter of the time that it takes for the remainder.
            return ts_ns // self.step_ns * self.step_ns
        anchors = self._sessions(ts_ns)
        anchor = anchors[np.searchsorted(anchors, ts_ns, "right") - 1]
        if self.step_ns == _DAY_NS:
            return anchor
        return anchor + (ts_ns - anchor) // self.step_ns * self.step_ns

    def ends(self, starts: Ints) -> Ints:
        """Return the exclusive end of the window of each start."""
        if self._zone is None:
            return starts + self.step_ns
        anchors = self._sessions(starts)
        following = anchors[np.searchsorted(anchors, starts, "right")]
        if self.step_ns == _DAY_NS:
            return following
        return np.minimum(starts + self.step_ns, following)

    def _sessions(self, ts_ns: Ints) -> Ints:
        if not len(ts_ns):
            return self._anchors
        low, high = int(ts_ns.min()), int(ts_ns.max())
        known = self._anchors
        if not len(known) or known[0] > low or known[-1] <= high:
            # Local days begin up to 14 hours before and 12 after those of UTC; two days on either side cover that.
            first = dt.datetime.fromtimestamp(low // 10**9, dt.UTC).date() - dt.timedelta(days=2)
            days = (high - low) // _DAY_NS + 6
            at = [
                dt.datetime.combine(first + dt.timedelta(days=d), self._at, self._zone).timestamp() for d in range(days)
            ]
            self._anchors = np.array(at, np.int64) * 10**9
        return self._anchors
