from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from market_data_core.errors import ConfigurationError
from market_data_core.models import Quote
from market_data_pipeline import Batcher
from market_data_pipeline.pipeline.batcher import size_bytes


@given(values=st.lists(st.text(max_size=30)), rows=st.integers(1, 10), size=st.integers(1, 60))
def test_batches_are_the_values_cut_at_the_limits(values, rows, size):
    """Together the batches are what was put in; none is over a limit, unless one value alone is."""
    batcher = Batcher(max_rows=rows, max_bytes=size)
    batches = [batch for value in values for batch in batcher.add(value, 0.0)]
    rest = batcher.take()
    assert [v for b in [*batches, rest] for v in b] == values
    for batch in batches:
        assert 1 <= len(batch) <= rows
        assert len(batch) == 1 or sum(map(len, batch)) <= size


def test_age_counts_from_the_first_value():
    """A batch is due max_ms after its first value, whatever comes later."""
    batcher = Batcher(max_ms=1000)
    assert batcher.due_in_s(5.0) is None
    batcher.add("a", 5.0)
    batcher.add("b", 5.9)
    assert batcher.due_in_s(5.5) == pytest.approx(0.5)
    assert batcher.due_in_s(6.0) == 0.0


def test_sizes_are_about_what_columns_would_hold():
    """Eight bytes a number, one a character."""
    assert size_bytes("abc") == 3
    assert size_bytes({"a": 1.0, "b": "xyz"}) == 11
    assert size_bytes(7) == 8
    assert size_bytes(Quote(symbol="AAPL", bid=1.0, ts_event_ns=0)) > 8 * 4


@pytest.mark.parametrize("wrong", [{"max_rows": 0}, {"max_bytes": 0}, {"max_ms": -1}, {"max_ms": float("nan")}])
def test_a_limit_out_of_range_is_named(wrong):
    """The error says which limit."""
    with pytest.raises(ConfigurationError, match=next(iter(wrong))):
        Batcher(**wrong)
