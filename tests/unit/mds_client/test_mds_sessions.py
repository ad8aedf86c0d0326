"""Which times lie in a trading session."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

from market_data_core.errors import ConfigurationError
from mds_client.moments import moment_ns
from mds_client.sessions import in_session

MINUTE_NS = 60_000_000_000


def lies(*times, **options):
    ts_ns = np.array([moment_ns(t, "time") for t in times], dtype=np.int64)
    return in_session(ts_ns, **options).tolist()


def test_regular_hours_are_from_open_to_close():
    """In New York from 09:30, inclusive, to 16:00, exclusive; summer time counts."""
    winter = (
        "2024-01-02T14:29:59.999999999Z",
        "2024-01-02T14:30:00Z",
        "2024-01-02T20:59:59.9Z",
        "2024-01-02T21:00:00Z",
    )
    summer = ("2024-07-02T13:29:59Z", "2024-07-02T13:30:00Z", "2024-07-02T19:59:59Z", "2024-07-02T20:00:00Z")
    assert lies(*winter, session="regular") == [False, True, True, False]
    assert lies(*summer, session="regular") == [False, True, True, False]


def test_extended_hours_have_what_is_before_and_after():
    """In New York from 04:00 to 20:00, and after an early close at 13:00 until 17:00."""
    usual = (
        "2024-01-02T03:59:59-05:00",
        "2024-01-02T04:00:00-05:00",
        "2024-01-02T19:59:59-05:00",
        "2024-01-02T20:00:00-05:00",
    )
    short = ("2024-07-03T12:59:59-04:00", "2024-07-03T16:59:59-04:00", "2024-07-03T17:00:00-04:00")
    assert lies(*usual, session="extended") == [False, True, True, False]
    assert lies(*short, session="extended") == [True, True, False]
    assert lies(*short, session="regular") == [True, False, False]


def test_days_without_trading_have_no_session():
    """At noon of a holiday and of a Sunday nothing is open."""
    assert lies("2024-01-01T12:00:00-05:00", "2024-01-07T12:00:00-05:00", session="extended") == [False, False]


def test_an_interval_lies_in_a_session_as_a_whole():
    """A bar that has minutes from before the open or from after the close is none of regular hours."""
    hour_ns = 60 * MINUTE_NS
    times = (
        "2024-01-02T09:00:00-05:00",
        "2024-01-02T10:00:00-05:00",
        "2024-01-02T15:00:00-05:00",
        "2024-01-02T15:30:00-05:00",
    )
    assert lies(*times, session="regular", length_ns=hour_ns) == [False, True, True, False]


def test_a_break_at_noon_is_no_regular_session():
    """Hong Kong stops from 12:00 to 13:00."""
    times = (
        "2024-01-02T11:59:59+08:00",
        "2024-01-02T12:00:00+08:00",
        "2024-01-02T12:59:59+08:00",
        "2024-01-02T13:00:00+08:00",
    )
    assert lies(*times, session="regular", calendar="XHKG") == [True, False, False, True]


def test_other_names_of_an_exchange_are_known():
    """Nasdaq keeps the hours of New York, before and after too."""
    assert lies("2024-01-02T05:00:00-05:00", session="extended", calendar="NASDAQ") == [True]


def test_all_takes_everything():
    """Without asking any calendar."""
    assert lies("2024-01-01T12:00:00Z", "2024-01-07T12:00:00Z", session="all", calendar="none") == [True, True]


def test_no_times_need_no_calendar():
    """Nothing is in the session of nothing."""
    assert lies(session="regular") == []


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"session": "rth"}, "rth"),
        ({"session": "regular", "calendar": "XXXX"}, "no calendar 'XXXX'"),
        ({"session": "extended", "calendar": "XLON"}, "no extended hours"),
        ({"session": "regular", "calendar": "XKRX", "when": "2060-01-01"}, "does not reach"),
    ],
)
def test_what_is_not_there_is_said(options, why):
    """A session, a calendar, its extended hours, or its years."""
    when = options.pop("when", "2024-01-02")
    with pytest.raises(ConfigurationError, match=why):
        lies(when, **options)


def test_warnings_of_others_are_not_touched():
    """What filters there are stays as it was."""
    before = list(warnings.filters)
    lies("1999-01-04T12:00:00-05:00", session="regular")
    assert warnings.filters == before
