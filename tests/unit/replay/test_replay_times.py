"""Times of files: units, zones, clock changes."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from market_data_core.errors import ConfigurationError
from market_data_core.schemas import Kind
from market_data_pipeline.source.replay.times import TimeUnit, Zone, counts_to_utc, iso_to_utc, midnight_ns

HOUR_NS = 3_600 * 10**9


def utc(*parts):
    return int(datetime(*parts, tzinfo=UTC).timestamp()) * 10**9


@given(
    st.lists(st.integers(-3_000_000_000, 9_000_000_000), min_size=1, max_size=50),
    st.sampled_from(["America/New_York", "Australia/Lord_Howe", "America/St_Johns", "Asia/Kolkata"]),
)
def test_wall_clock_agrees_with_zoneinfo(seconds, name):
    """Whole columns give what the standard library gives one by one, in any order, whatever the zone does."""
    local = np.array(seconds, np.int64) * 10**9
    found = Zone(name).to_utc(local)
    for ns, at in zip(found.tolist(), seconds, strict=True):
        wall = datetime(1970, 1, 1, tzinfo=ZoneInfo(name)) + timedelta(seconds=at)
        # Offsets of long ago have seconds, and changes fall inside minutes; both are read to the minute.
        assert abs(ns // 10**9 - int(wall.timestamp())) < 1 or wall.year < 1970


@pytest.mark.parametrize(
    ("day", "hour", "want"),
    [
        ("20131007", 9.5, utc(2013, 10, 7, 13, 30)),
        ("20130310", 1.5, utc(2013, 3, 10, 6, 30)),
        ("20130310", 2.5, utc(2013, 3, 10, 7, 30)),
        ("20130310", 9.5, utc(2013, 3, 10, 13, 30)),
        ("20131103", 1.5, utc(2013, 11, 3, 5, 30)),
        ("20131103", 9.5, utc(2013, 11, 3, 14, 30)),
    ],
)
async def test_times_since_midnight_are_wall_clock_times(lean_file, replay, day, hour, want):
    """9:30 in the file is 9:30 by the clocks of New York on days of clock changes too."""
    path = lean_file("trade", [f"{int(hour * 3_600_000)},10000,1,Q,0,0"], day=day)
    assert (await replay(path)).values(Kind.TRADES, "ts_event") == [(want,)]


def test_a_fixed_offset_knows_no_summer():
    """UTC-05:00 is five hours all year."""
    for month in (1, 7):
        local = np.array([utc(2014, month, 2, 12)], np.int64)
        assert Zone("UTC-05:00").to_utc(local)[0] == utc(2014, month, 2, 17)


@pytest.mark.parametrize("name", ["Mars/Olympus", "UTC+1", "", "../etc/passwd"])
def test_an_unknown_zone_is_refused(name):
    """A zone that is none is a configuration error that names it."""
    with pytest.raises(ConfigurationError, match="time zone"):
        Zone(name)


def test_a_day_that_is_none_is_refused():
    """Digits that are no date are refused."""
    with pytest.raises(ConfigurationError, match="20131399"):
        midnight_ns("20131399")


@given(st.sampled_from(list(TimeUnit)), st.integers(-(2**63), 2**63 - 1))
def test_counts_that_int64_cannot_hold_are_told_apart(unit, value):
    """A count either comes out exact or is said not to fit; it never wraps around."""
    times, fits = counts_to_utc(np.array([value], np.int64), unit=unit, zone=Zone("UTC"))
    exact = value * unit.unit_ns
    assert times[0] == exact if fits[0] else abs(exact) > 2**63 - 3 * 24 * HOUR_NS


def test_iso_texts_follow_their_own_offsets():
    """Each text is placed by its own offset; one without is placed by the zone, if there is one."""
    texts = pa.array(
        ["2014-05-02T12:00:00Z", "2014-05-02 12:00:00.5+05:30", "2014-05-02T12:00:00-0500", "2014-05-02T12:00", None]
    )
    times, valid, placeless = iso_to_utc(texts, zone=Zone("America/New_York"))
    noon = utc(2014, 5, 2, 12)
    want = [noon, noon - 5 * HOUR_NS - HOUR_NS // 2 + 5 * 10**8, noon + 5 * HOUR_NS, noon + 4 * HOUR_NS]
    assert (times[:4].tolist(), valid.tolist(), placeless.any()) == (want, [True] * 4 + [False], False)
    _, valid, placeless = iso_to_utc(texts, zone=None)
    assert (valid.tolist(), placeless.tolist()) == ([True] * 4 + [False], [False, False, False, True, False])


@pytest.mark.parametrize(
    "text", ["2014-13-02T12:00:00Z", "2014-05-02", "12:00", "9999-01-01T00:00:00Z", "2014-05-02T24:00:00Z", "x"]
)
def test_texts_that_are_no_times_stand_alone(text):
    """A wrong text is told apart from the right ones around it."""
    texts = pa.array(["2014-05-02T12:00:00Z", text, "2014-05-02T12:00:01Z", "2014-05-02T12:00:01"])
    times, valid, _ = iso_to_utc(texts, zone=Zone("UTC"))
    assert valid.tolist() == [True, False, True, True]
    assert times[2] - times[0] == 10**9
