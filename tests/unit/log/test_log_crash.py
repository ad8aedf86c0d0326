from __future__ import annotations

from dataclasses import replace

import pytest

from market_data_core import disk, steps
from market_data_core.schemas import Origin
from market_data_core.steps import Step
from market_data_pipeline.log import LogReader, LogWriter
from support import powerloss
from support.log_writer_child import NEEDED, Task, acknowledged
from support.logs import TINY, events, prices, trades

STEPS = [
    Step.LOG_APPEND_BEFORE,
    Step.LOG_APPEND_AFTER,
    Step.LOG_SYNC_AFTER,
    Step.LOG_ROLL,
    Step.LOG_TRIM_BEFORE,
    Step.LOG_TRIM_AFTER,
]
KILLS = [(420, 3), (840, 1), (1260, 5)]


def check(folder, offset, end):
    """Assert that all that was acknowledged is there once, in order and rightly named, and sources claim no more."""
    first = min((int(p.stem) for p in folder.glob("*.log")), default=0)
    log = LogWriter(folder, TINY)
    assert log.durable_end >= end
    assert not log.new_epoch
    claimed = log.sources().get("file:x", 0)
    assert claimed >= offset
    log.close()
    assert first <= max(0, end - NEEDED)
    found = events(folder, first)
    numbers = [int(p) for *_, p in found]
    assert numbers == list(range(claimed - len(numbers), claimed))
    assert all(symbol == f"S{int(p) // 10}" for _, _, symbol, p in found)
    with LogReader(folder, first) as reader:
        assert sum(r.count for r in reader.read()) == log.end - first
        assert not reader.problems


@pytest.mark.parametrize("step", STEPS)
def test_a_killed_writer_loses_nothing_it_acknowledged(tmp_path, step):
    """Killed again and again at the same step, the log goes on each time from a whole record."""
    told = [(0, 0)]
    for count, nth in KILLS:
        told.extend(acknowledged(Task(folder=tmp_path, count=count, step=step, nth=nth)))
        check(tmp_path, *max(told))


@pytest.mark.parametrize("seed", [None, 1, 2])
@pytest.mark.parametrize("step", STEPS)
def test_a_power_cut_loses_nothing_acknowledged(tmp_path, step, seed):
    """What was not synced is forgotten, or comes back in part: below the acknowledged end all is there."""
    folder, shadow = tmp_path / "log", tmp_path / "shadow"
    folder.mkdir()
    told = [(0, 0)]
    for count, nth in KILLS:
        told.extend(acknowledged(Task(folder=folder, count=count, step=step, nth=nth, shadow=shadow)))
        powerloss.restore(shadow, folder, seed=seed)
        check(folder, *max(told))


def test_what_a_killed_writer_left_is_durable_once_the_log_is_open(tmp_path):
    """Records written, never synced, and taken up by the next start survive a power cut after it."""
    folder, shadow = tmp_path / "log", tmp_path / "shadow"
    folder.mkdir()
    powerloss.install(folder, shadow)
    try:
        log = LogWriter(folder, replace(TINY, segment_bytes=1 << 20, fsync=False))
        log.append(trades(0, 10), origin=Origin.REPLAY)
        log.close()
        reopened = LogWriter(folder, TINY)
        told = reopened.durable_end
        reopened.close()
    finally:
        disk.observe(None)
    assert told > 10
    powerloss.restore(shadow, folder)
    assert prices(folder_opened(folder)) == list(range(10))


def folder_opened(folder):
    LogWriter(folder, TINY).close()
    return folder


@pytest.mark.parametrize("seed", range(8))
def test_a_power_cut_while_trimming_leaves_no_hole(tmp_path, seed):
    """Of segments that were being removed, only the last can come back: never one before a hole."""
    folder, shadow = tmp_path / "log", tmp_path / "shadow"
    folder.mkdir()
    log = LogWriter(folder, replace(TINY, retention_s=0.0))
    for at in range(0, 100, 5):
        log.append(trades(at, 5), origin=Origin.REPLAY)
        assert log.wait_durable(at + 5, 5)
    segments = sorted(p.name for p in folder.glob("*.log"))
    powerloss.install(folder, shadow)
    left = iter(range(4))

    def cut(step):
        if step is Step.LOG_TRIM_BEFORE and next(left, None) is None:
            raise RuntimeError("power is gone")

    steps.install(cut)
    try:
        with pytest.raises(RuntimeError, match="power"):
            log.trim(100)
    finally:
        steps.install(None)
        disk.observe(None)
        log.close()
    powerloss.restore(shadow, folder, seed=seed)
    came_back = sorted(p.name for p in folder.glob("*.log"))
    assert came_back[-1] >= segments[-1]
    assert [s for s in came_back if s <= segments[-1]] == segments[-len([s for s in came_back if s <= segments[-1]]) :]
