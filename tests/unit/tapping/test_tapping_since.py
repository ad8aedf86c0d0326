"""Where in the log a time is."""

from __future__ import annotations

import pytest

from market_data_core.clock import ManualClock
from market_data_core.schemas import Origin
from market_data_pipeline.log import LogSettings, LogWriter
from market_data_pipeline.log.segments import list_segments
from market_data_pipeline.tapping import position_at
from support.logs import AT_ONCE, TINY, trades

START_NS = 1_700_000_000_000_000_000
SECOND = 1_000_000_000


def written(folder, settings: LogSettings, count: int = 60) -> dict[int, int]:
    """One trade a second; gives the position of each by the second."""
    clock = ManualClock(START_NS)
    writer = LogWriter(folder, settings, clock=clock)
    found = {}
    for second in range(count):
        found[second] = writer.append(trades(second, 1), origin=Origin.LIVE)
        writer.barrier()
        assert writer.wait_durable(writer.end, 5)
        clock.advance(1.0)
    writer.close()
    return found


@pytest.mark.parametrize("settings", [AT_ONCE, TINY], ids=["one segment", "many segments"])
def test_a_time_is_the_position_of_what_was_logged_then_or_next(tmp_path, settings):
    """Exact times and times between, in the first, any and the last segment."""
    found = written(tmp_path / "log", settings)
    assert (len(list_segments(tmp_path / "log")) > 3) == (settings is TINY)
    for second in range(60):
        assert position_at(tmp_path / "log", START_NS + second * SECOND) == found[second]
        assert position_at(tmp_path / "log", START_NS + second * SECOND - 1) == found[second]


def test_before_all_is_the_begin_and_after_all_the_end(tmp_path):
    """A time before the log is its first record; one after it, or in a log that is not there, its durable end."""
    found = written(tmp_path / "log", TINY, 20)
    assert position_at(tmp_path / "log", 0) == found[0]
    assert position_at(tmp_path / "log", START_NS + 3600 * SECOND) > found[19]
    assert position_at(tmp_path / "nothing", START_NS) == 0
