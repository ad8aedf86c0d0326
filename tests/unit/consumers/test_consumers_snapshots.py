"""Snapshots that a process left behind which was killed before they were durable."""

from __future__ import annotations

import pytest

from market_data_core import disk
from market_data_core.schemas import Kind
from market_data_pipeline.consumers import ConsumerHost, ConsumerSpec, Snapshot, read_snapshot, write_snapshot
from support import powerloss
from support.trouble import Memory

SPEC = ConsumerSpec(name="all", kinds=frozenset({Kind.TRADES}), operators=list, routes={Kind.TRADES: "trades"})


@pytest.fixture
def power(tmp_path):
    """A watched data directory, and a way to cut its power."""
    data, shadow = tmp_path / "data", tmp_path / "shadow"
    data.mkdir()
    powerloss.install(data, shadow)
    yield data, lambda: powerloss.restore(shadow, data)
    disk.observe(None)


@pytest.mark.parametrize("before", [None, Snapshot(position=3)], ids=["its first", "a later one"])
def test_what_the_log_is_trimmed_by_survives_a_power_cut(power, monkeypatch, before):
    """A snapshot that has its name, but not yet for good, is made durable before anybody relies on it."""
    data, cut_power = power
    folder = data / "consumers"
    path = folder / "all.snapshot"
    disk.make_dirs(folder)
    if before is not None:
        write_snapshot(path, before)
    with monkeypatch.context() as killed:
        killed.setattr(disk, "sync_dir", lambda path: None)
        write_snapshot(path, Snapshot(position=7))
    host = ConsumerHost([SPEC], log_folder=data / "log", store=Memory(), folder=folder)
    assert host.status().trim_below == 7
    cut_power()
    saved = read_snapshot(path)
    assert saved is not None
    assert saved.position == 7


def test_a_folder_that_a_killed_process_made_survives_a_power_cut(power):
    """Whoever wants a folder that is there already has it for good."""
    data, cut_power = power
    (data / "made" / "here").mkdir(parents=True)
    disk.make_dirs(data / "made")
    disk.make_dirs(data / "made" / "here")
    disk.write_atomic(data / "made" / "here" / "file", b"kept")
    cut_power()
    assert (data / "made" / "here" / "file").read_bytes() == b"kept"
