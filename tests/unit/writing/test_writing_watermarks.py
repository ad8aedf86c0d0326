"""Levels of a queue."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from market_data_core.errors import ConfigurationError
from market_data_core.telemetry import BackpressureLevel
from market_data_pipeline.writing import Watermarks


def test_a_level_rises_at_once_and_falls_later():
    """Each change is said once, and a queue that stays about as full changes nothing."""
    marks = Watermarks(100)
    said = [
        (size, str(marks.level))
        for size in (0, 49, 50, 40, 50, 99, 100, 60, 100, 50, 49, 30, 25, 24)
        if marks.update(size)
    ]
    assert said == [(50, "soft"), (100, "hard"), (49, "soft"), (24, "ok")]


def test_a_jump_passes_over_the_level_between():
    """From empty to full is one change."""
    marks = Watermarks(100)
    assert marks.update(100)
    assert marks.level is BackpressureLevel.HARD
    assert marks.update(0)
    assert marks.level is BackpressureLevel.OK


@given(st.lists(st.integers(0, 120), max_size=60), st.floats(0.1, 1.0))
def test_levels_keep_to_their_marks(sizes, falling):
    """Above a mark the level is at least that, below its falling mark less, and a change is told iff there is one."""
    marks = Watermarks(100, soft=0.4, hard=0.8, falling=falling)
    for size in sizes:
        before = marks.level
        assert marks.update(size) == (marks.level is not before)
        if size >= 80:
            assert marks.level is BackpressureLevel.HARD
        elif size >= 40:
            assert marks.level is not BackpressureLevel.OK
        if size < 40 * falling:
            assert marks.level is BackpressureLevel.OK
        elif size < 80 * falling:
            assert marks.level is not BackpressureLevel.HARD or size >= 80 * falling


@pytest.mark.parametrize("wrong", [{"capacity": 0}, {"soft": 0.0}, {"soft": 0.9, "hard": 0.8}, {"falling": 0.0}])
def test_marks_out_of_order_are_refused(wrong):
    """The error names the figures."""
    with pytest.raises(ConfigurationError, match="watermarks"):
        Watermarks(**({"capacity": 10} | wrong))
