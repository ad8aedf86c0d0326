from __future__ import annotations

import datetime as dt
from zoneinfo import ZoneInfo

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from market_data_core.errors import ConfigurationError
from market_data_pipeline.operators.windows import Windows

HOUR = 3_600_000_000_000
DAY = 24 * HOUR
ZONES = ["America/New_York", "Asia/Tokyo", "Australia/Sydney", "Pacific/Kiritimati", "Pacific/Pago_Pago", "UTC"]


def ns(text, zone="UTC"):
    return int(dt.datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone)).timestamp()) * 10**9


def spans(windows, first, last, step=HOUR // 4):
    """The windows met on the way from first to last."""
    ts = np.arange(first, last, step, dtype=np.int64)
    starts = np.unique(windows.starts(ts))
    return list(zip(starts.tolist(), windows.ends(starts).tolist(), strict=True))


@settings(deadline=None)
@given(
    st.sampled_from(ZONES),
    st.sampled_from([7 * 60, 900, 3600, 4 * 3600, 86_400]),
    st.integers(0, 23),
    st.lists(st.integers(-(10**9), 5 * 10**9), min_size=1, max_size=8),
)
def test_each_time_lies_in_its_window_of_the_last_session(zone, step_s, hour, seconds):
    """For any zone, length and time: inside, not longer than asked, counted from the session's beginning."""
    windows = Windows(step_s * 10**9, f"{hour:02}:30 {zone}")
    ts = np.array(seconds, np.int64) * 10**9
    starts = windows.starts(ts)
    ends = windows.ends(starts)
    assert (windows.starts(starts) == starts).all()
    for t, start, end in zip(seconds, (starts // 10**9).tolist(), (ends // 10**9).tolist(), strict=True):
        local = dt.datetime.fromtimestamp(t, ZoneInfo(zone)).date()
        days = [local + dt.timedelta(days=d) for d in (-2, -1, 0, 1, 2)]
        sessions = [int(dt.datetime.combine(d, dt.time(hour, 30), ZoneInfo(zone)).timestamp()) for d in days]
        begin = max(s for s in sessions if s <= t)
        following = min(s for s in sessions if s > t)
        assert begin <= start <= t < end <= following
        assert (start - begin) % step_s == 0
        assert end == following or (step_s < 86_400 and end - start == step_s)


@settings(deadline=None)
@given(st.integers(1, 10**6), st.lists(st.integers(-(2**61), 2**61), min_size=1))
def test_epoch_windows_are_whole_multiples(step_s, times):
    """Before 1970 too."""
    windows = Windows(step_s * 10**9)
    ts = np.array(times, np.int64)
    starts = windows.starts(ts)
    assert (starts % (step_s * 10**9) == 0).all()
    assert ((starts <= ts) & (ts < windows.ends(starts))).all()


def test_the_last_window_of_a_session_is_short():
    """Seven hours do not divide a day: the fourth one ends where the next session begins."""
    found = spans(Windows(7 * HOUR, "09:30 America/New_York"), ns("2014-06-05T13:30"), ns("2014-06-06T13:30"))
    assert [(end - start) // HOUR for start, end in found] == [7, 7, 7, 3]


@pytest.mark.parametrize(("day", "hours"), [("2014-03-08", 23), ("2014-11-01", 25), ("2014-06-05", 24)])
def test_clock_changes_make_sessions_shorter_or_longer(day, hours):
    """Windows of four hours fill a session of 23, 24 or 25 hours; a window of a day is all of it."""
    begin = ns(f"{day}T09:30", "America/New_York")
    four = spans(Windows(4 * HOUR, "09:30 America/New_York"), begin, begin + hours * HOUR)
    assert [(end - start) // HOUR for start, end in four] == [4] * (hours // 4) + ([hours % 4] if hours % 4 else [])
    daily = spans(Windows(DAY, "09:30 America/New_York"), begin, begin + hours * HOUR)
    assert daily == [(begin, begin + hours * HOUR)]


def test_the_next_session_is_known_where_days_begin_before_those_of_utc():
    """A span whose end lies in a session that began on the UTC day before has an end too."""
    windows = Windows(HOUR, "08:45 Asia/Tokyo")
    ts = np.array([ns("2024-05-01T23:50"), ns("2024-05-02T23:49")], np.int64)
    assert (windows.ends(windows.starts(ts)) > ts).all()


@pytest.mark.parametrize(
    "align",
    ["", "noon", "25:00 UTC", "09:30 Nowhere/City", "09:30 America", "09:30 ../etc/passwd", "9:30 UTC"],
)
def test_alignments_that_cannot_be_read_are_named(align):
    """Also half a zone's name and a path."""
    with pytest.raises(ConfigurationError, match="bar alignment"):
        Windows(HOUR, align)


def test_windows_longer_than_a_session_need_the_epoch():
    """Two days counted from a session would be cut to one, and named two."""
    with pytest.raises(ConfigurationError, match="longer than 1d"):
        Windows(2 * DAY, "09:30 America/New_York")
