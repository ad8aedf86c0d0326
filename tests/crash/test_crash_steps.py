"""Killed, and its power cut, at every named step."""

from __future__ import annotations

from dataclasses import replace
from itertools import count

import pytest

from market_data_core.steps import Step
from support.crash import Chain, write_recording
from support.crash_child import SYNC, Life
from support.postgres_server import shared_server

DEATHS = 10
LAKE_ALONE = {s for s in Step if s.name.startswith("MAINTENANCE_")} | {Step.DATA_FILE_SYNCED}
"""Steps that a database does not come to: it does its own upkeep and syncs its own files."""
IN_DATABASE = [s for s in Step if s not in LAKE_ALONE]


PARTS = ["/consumers/", "/log/", "/_delta_log/", "/trades/", "/bars/"]
"""Where it may be that something is synced."""
RELYING = [Step.LOG_TRIM_AFTER, Step.TABLE_SYNCED, Step.SNAPSHOT_AFTER, Step.MAINTENANCE_CLEANED]
"""Steps before which what was found is taken for granted."""


@pytest.mark.parametrize("step", Step)
def test_nothing_is_lost_or_doubled_by_an_end_at_this_step(tmp_path, step):
    """A kill at the step, then a power cut at the step: what is stored equals the uninterrupted run."""
    chain = Chain(life=Life(data_dir=str(tmp_path / "data"), count=8000), power=True)
    assert chain.die(step), "the step was not reached"
    assert chain.die(step), "the step was not reached a second time"
    chain.cut_power()
    assert chain.finish() == []


@pytest.mark.parametrize(
    "step", [Step.DATA_FILE_WRITTEN, Step.TABLE_COMMITTED, Step.POSITION_TAKEN, Step.SNAPSHOT_WRITTEN]
)
def test_a_database_has_everything_once_after_an_end_at_this_step(tmp_path, dsn, step):
    """A kill at the step, then a power cut of the machine that writes; the database's machine keeps its power."""
    chain = Chain(life=Life(data_dir=str(tmp_path / "data"), store_root=dsn, count=8000), power=True)
    assert chain.die(step), "the step was not reached"
    assert chain.die(step), "the step was not reached a second time"
    chain.cut_power()
    assert chain.finish() == []


@pytest.mark.chaos
@pytest.mark.parametrize("source", ["synthetic", "replay"])
@pytest.mark.parametrize("end", ["kill", "power cut"])
@pytest.mark.parametrize("step", Step)
def test_ten_ends_at_this_step_lose_and_double_nothing(tmp_path, step, end, source):
    """However often, and wherever in the run, the step is the last one reached."""
    die_ten_times(tmp_path, step, end, source, lambda: "")


@pytest.mark.chaos
@pytest.mark.parametrize("source", ["synthetic", "replay"])
@pytest.mark.parametrize("end", ["kill", "power cut"])
@pytest.mark.parametrize("step", IN_DATABASE)
def test_ten_ends_at_this_step_with_a_database_lose_and_double_nothing(tmp_path, step, end, source):
    """The same with what is stored in PostgreSQL."""
    die_ten_times(tmp_path, step, end, source, shared_server().database)


@pytest.mark.chaos
@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("step", RELYING)
def test_what_a_killed_process_left_unsynced_is_not_relied_upon(tmp_path, part, step):
    """Killed just before a sync, the next life finds what a power cut still takes back from it."""
    life = Life(data_dir=str(tmp_path / "data"), count=16000)
    for nth in (1, 2, 3, 4, 6, 9):
        chain = Chain(life=replace(life, data_dir=str(tmp_path / f"data{nth}")), power=True)
        assert chain.die(f"{SYNC}{part}", nth=nth), "nothing was synced"
        assert chain.die(step), "the step was not reached"
        chain.cut_power()
        assert chain.finish() == [], f"killed before sync {nth}"


def die_ten_times(tmp_path, step, end, source, new_store):
    files = write_recording(tmp_path / "files", 8000) if source == "replay" else []
    deaths = 0
    for round_ in count():
        life = Life(data_dir=str(tmp_path / f"data{round_}"), store_root=new_store(), count=16000, files=files)
        chain = Chain(life=life, power=end == "power cut")
        while deaths + chain.deaths < DEATHS and chain.die(step, nth=1 + (deaths + chain.deaths) % 3):
            if chain.power:
                chain.cut_power(seed=deaths + chain.deaths if chain.deaths % 2 else None)
        assert chain.finish() == [], f"after {chain.deaths} deaths"
        assert chain.deaths, "the step was not reached"
        deaths += chain.deaths
        if deaths >= DEATHS:
            return
