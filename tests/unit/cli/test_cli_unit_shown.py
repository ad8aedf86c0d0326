"""Times, spans, values and percentiles as the command shows them."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from market_data_core.errors import ConfigurationError
from market_data_orchestrator.cli.bench import percentiles_ms
from market_data_orchestrator.cli.moments import asked_ns, shown_span, shown_time
from market_data_orchestrator.cli.output import print_json, print_table, text

SECOND = 1_000_000_000


@pytest.mark.parametrize(
    ("span_ns", "shown"),
    [
        (0, "0 ms"),
        (120_000_000, "120 ms"),
        (SECOND, "1.0 s"),
        (90 * SECOND, "1.5 m"),
        (9_000 * SECOND, "2.5 h"),
        (3 * 86_400 * SECOND, "3.0 d"),
    ],
)
def test_spans_have_the_unit_that_fits(span_ns, shown):
    """The largest unit of which there is at least one."""
    assert shown_span(span_ns) == shown


def test_times_are_utc_to_the_millisecond():
    """And one that no calendar has is its nanoseconds."""
    assert shown_time(1_704_205_800_123_456_789) == "2024-01-02 14:30:00.123Z"
    assert shown_time(10**21) == f"{10**21} ns"


def test_times_on_the_command_line_need_a_zone():
    """Nanoseconds, a date, or a moment with its zone; the error names the option."""
    assert asked_ns("--from", None) is None
    assert asked_ns("--from", "2024-01-02") == 1_704_153_600 * SECOND
    with pytest.raises(ConfigurationError, match="--to"):
        asked_ns("--to", "2024-01-02T10:00:00")


@given(st.text())
def test_no_stored_text_reaches_a_terminal_as_anything_but_text(words):
    """What a terminal would act on is shown as a replacement character."""
    assert all(c.isprintable() or c == "\n" for c in text(words))


def test_tables_have_their_title_and_json_no_nan(capsys):
    """A title stands above where there is one; numbers that JSON has not are null."""
    print_table("title", ["number"], [[1234]])
    out = capsys.readouterr().out
    assert "title" in out
    assert "1,234" in out
    print_json({"x": float("nan")})
    assert json.loads(capsys.readouterr().out) == {"x": None}


@given(st.lists(st.floats(0, 1e3), min_size=1))
def test_percentiles_are_ordered_and_among_the_values(spent_s):
    """Median, 99th percentile and maximum ascend, and the maximum is one of them."""
    found = percentiles_ms(spent_s)
    assert found["p50"] <= found["p99"] * (1 + 1e-9)
    assert found["p99"] <= found["max"] * (1 + 1e-9)
    assert found["max"] == pytest.approx(max(spent_s) * 1000)
