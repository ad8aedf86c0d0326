"""Times as users write them, and tables as they want them."""

from __future__ import annotations

import sys
from datetime import UTC, date, datetime

import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from market_data_core.errors import ConfigurationError, ValidationError
from mds_client.frames import in_form
from mds_client.moments import moment_ns, span_ns

HALF_PAST_NS = 1_704_205_800_000_000_000


@pytest.mark.parametrize(
    ("value", "extra_ns"),
    [
        (datetime(2024, 1, 2, 14, 30, tzinfo=UTC), 0),
        (pd.Timestamp("2024-01-02T14:30:00.000000001Z"), 1),
        ("2024-01-02T14:30:00Z", 0),
        ("2024-01-02T09:30:00-05:00", 0),
        ("2024-01-02T14:30:00.123456789Z", 123_456_789),
        ("2024-01-02T14:30Z", 0),
        (date(2024, 1, 2), -52_200_000_000_000),
        ("2024-01-02", -52_200_000_000_000),
    ],
)
def test_a_time_may_be_written_in_many_ways(value, extra_ns):
    """They name the same instant, to the nanosecond; a date its first moment."""
    assert moment_ns(value, "start") == HALF_PAST_NS + extra_ns


@pytest.mark.parametrize(
    ("value", "why"),
    [
        (datetime(2024, 1, 2), "time zone"),  # noqa: DTZ001  what is refused
        ("2024-01-02T14:30:00", "time zone"),
        (1_704_205_800, "no datetime"),
        ("yesterday", "yesterday"),
        ("2024-01-40", "day"),
        (datetime(2300, 1, 1, tzinfo=UTC), "outside"),
        ("2300-01-01T00:00:00Z", "outside"),
        ("2024-01-02T14:30:00.1234567891Z", "finer"),
    ],
)
def test_what_is_no_time_is_refused(value, why):
    """With the name of the argument; numbers would be a guess."""
    with pytest.raises(ValidationError, match=f"^start: .*{why}"):
        moment_ns(value, "start")


def test_a_span_does_not_end_before_it_starts():
    """It is told, rather than answered with nothing."""
    assert span_ns(None, None, least=-5, most=5) == (-5, 5)
    with pytest.raises(ValidationError, match="before start"):
        span_ns("2024-01-03", "2024-01-02", least=0, most=0)


@given(st.lists(st.none() | st.integers(-(2**62), 2**62), min_size=1, max_size=5))
def test_forms_keep_every_digit(numbers):
    """Times and whole numbers are the same in each form, absent ones too."""
    times = [n or 0 for n in numbers]
    rows = pa.table({"ts_event": pa.array(times, pa.int64()), "trade_count": pa.array(numbers, pa.int64())})
    assert in_form(rows, "arrow") is rows
    as_pandas, as_polars = in_form(rows, "pandas"), in_form(rows, "polars")
    assert str(as_pandas["ts_event"].dtype) == "datetime64[ns, UTC]"
    assert as_pandas["ts_event"].astype("int64").to_list() == times
    assert [None if n is pd.NA else n for n in as_pandas["trade_count"]] == numbers
    assert as_polars.schema["ts_event"] == pl.Datetime("ns", "UTC")
    assert as_polars["ts_event"].dt.epoch("ns").to_list() == times
    assert as_polars["trade_count"].to_list() == numbers


def test_a_missing_package_is_named_with_its_cure(monkeypatch):
    """The message says what to install."""
    monkeypatch.setitem(sys.modules, "polars", None)
    with pytest.raises(ConfigurationError, match=r"polars is not installed; pip install '.*\[research\]'"):
        in_form(pa.table({"a": [1]}), "polars")


def test_an_unknown_form_is_refused():
    """The message names those there are."""
    with pytest.raises(ConfigurationError, match="arrow, pandas, polars"):
        in_form(pa.table({"a": [1]}), "csv")
