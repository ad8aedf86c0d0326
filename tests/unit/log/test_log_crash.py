from __future__ import annotations

import signal
from dataclasses import replace

import pytest
from support import powerloss
from support.logs import TINY, child, events, lines, prices, trades

from market_data_core import disk
from market_data_core.schemas import Origin
from market_data_core.steps import Step
from market_data_pipeline.log import LogReader, LogWriter

COUNT = 420
STEPS = [
    Step.LOG_APPEND_BEFORE,
    Step.LOG_APPEND_AFTER,
    Step.LOG_SYNC_AFTER,
    Step.LOG_ROLL,
    Step.LOG_TRIM_BEFORE,
    Step.LOG_TRIM_AFTER,
]


def run_until_killed(folder, step, nth, shadow=None):
    """Run a writer that dies at a step; return the offset and the durable end it acknowledged last."""
    arguments = [folder, COUNT, step, nth, *([shadow] if shadow else [])]
    with child("support.log_writer_child", *arguments) as process:
        acknowledged = [tuple(map(int, line.split())) for line in lines(process)]
    assert process.returncode in (-signal.SIGKILL, 0)
    assert process.returncode or acknowledged[-1][0] == COUNT
    return acknowledged[-1] if acknowledged else (0, 0)


def check(folder, offset, end):
    """Assert that all that was acknowledged is there, once, in order and rightly named, and that sources claim no more."""
    first = min((int(p.stem) for p in folder.glob("*.log")), default=0)
    log = LogWriter(folder, TINY)
    assert log.durable_end >= end
    assert not log.new_epoch
    claimed = log.sources().get("file:x", 0)
    assert claimed >= offset
    log.close()
    assert first <= max(0, end - 200)
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
    for nth in (9, 4, 1):
        offset, end = run_until_killed(tmp_path, step, nth)
        check(tmp_path, offset, end)


@pytest.mark.parametrize("seed", [None, 1, 2])
@pytest.mark.parametrize("step", STEPS)
def test_a_power_cut_loses_nothing_acknowledged(tmp_path, step, seed):
    """What was not synced is forgotten, or comes back in part: below the acknowledged end all is there."""
    folder, shadow = tmp_path / "log", tmp_path / "shadow"
    folder.mkdir()
    for nth in (12, 3):
        offset, end = run_until_killed(folder, step, nth, shadow)
        powerloss.restore(shadow, folder, seed=seed)
        check(folder, offset, end)


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
