"""Killed, and its power cut, at every named step."""

from __future__ import annotations

import pytest
from support.crash import Chain
from support.crash_child import Life

from market_data_core.steps import Step


@pytest.mark.parametrize("step", Step)
def test_nothing_is_lost_or_doubled_by_an_end_at_this_step(tmp_path, step):
    """A kill at the step, then a power cut at the step: what is stored equals the uninterrupted run."""
    chain = Chain(life=Life(data_dir=str(tmp_path / "data"), count=8000), power=True)
    assert chain.die(step), "the step was not reached"
    assert chain.die(step), "the step was not reached a second time"
    chain.cut_power()
    assert chain.finish() == []
