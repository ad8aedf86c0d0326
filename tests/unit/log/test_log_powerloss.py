from __future__ import annotations

import os
import sqlite3

import pytest

from market_data_core import disk
from market_data_core.steps import Step
from support import powerloss
from support.log_writer_child import Task, acknowledged


@pytest.fixture
def power(tmp_path):
    """A watched data directory, and a way to cut its power."""
    data, shadow = tmp_path / "data", tmp_path / "shadow"
    data.mkdir()
    yield data, lambda **how: powerloss.restore(shadow, data, **how), lambda: powerloss.install(data, shadow)
    disk.observe(None)


def tree(folder):
    return {str(p.relative_to(folder)): p.read_bytes() if p.is_file() else None for p in folder.rglob("*")}


def test_bytes_survive_as_they_were_synced(power):
    """Appended and overwritten bytes are gone unless synced; a file never synced is empty."""
    data, cut, install = power
    install()
    (data / "grown").write_bytes(b"one")
    (data / "rewritten").write_bytes(b"before" * 2000)
    (data / "shrunk").write_bytes(b"0123456789")
    for path in sorted(data.iterdir()):
        disk.sync_file(path)
    (data / "never").write_bytes(b"lost")
    disk.sync_dir(data)
    with (data / "grown").open("ab") as file:
        file.write(b"two")
    disk.sync_file(data / "grown")
    with (data / "grown").open("ab") as file:
        file.write(b"three")
    (data / "rewritten").write_bytes(b"after!" * 2000)
    os.truncate(data / "shrunk", 4)
    disk.sync_file(data / "shrunk")
    cut()
    assert tree(data) == {"grown": b"onetwo", "rewritten": b"before" * 2000, "shrunk": b"0123", "never": b""}


def test_names_survive_as_they_were_synced(power):
    """Creating, renaming and removing are undone unless the folder was synced."""
    data, cut, install = power
    install()
    for name in ("kept", "renamed", "removed"):
        (data / name).write_bytes(name.encode())
        disk.sync_file(data / name)
    disk.sync_dir(data)
    (data / "renamed").rename(data / "other")
    (data / "removed").unlink()
    (data / "made").write_bytes(b"made")
    disk.sync_file(data / "made")
    cut()
    assert tree(data) == {"kept": b"kept", "renamed": b"renamed", "removed": b"removed"}


def test_a_number_that_passes_to_another_file_brings_no_bytes_along(power):
    """Files made and removed many times never show each other's bytes."""
    data, cut, install = power
    install()
    disk.write_atomic(data / "kept", b"kept")
    for n in range(50):
        (data / "short").write_bytes(f"life {n}".encode())
        disk.sync_file(data / "short")
        (data / "short").unlink()
    disk.sync_dir(data)
    (data / "late").write_bytes(b"never synced")
    disk.sync_dir(data)
    cut()
    assert tree(data) == {"kept": b"kept", "late": b""}


def test_folders_in_folders_need_every_name(power):
    """A file deep down is there only if each folder on the way was synced; a renamed folder moves with it."""
    data, cut, install = power
    install()
    disk.make_dirs(data / "a" / "b")
    disk.write_atomic(data / "a" / "b" / "deep", b"deep")
    (data / "unsynced").mkdir()
    disk.write_atomic(data / "unsynced" / "file", b"gone")
    disk.make_dirs(data / "from")
    disk.write_atomic(data / "from" / "file", b"moved")
    (data / "from").rename(data / "to")
    (data / "unsynced").rename(data / "a" / "unsynced")
    disk.sync_dir(data)
    cut()
    assert tree(data) == {"a": None, "a/b": None, "a/b/deep": b"deep", "to": None, "to/file": b"moved"}


def test_what_was_there_before_counts_as_durable(power):
    """A machine that boots with files has them; nothing outside of the folder is looked at."""
    data, cut, install = power
    (data / "sub").mkdir()
    (data / "sub" / "old").write_bytes(b"old")
    install()
    (data / "sub" / "old").write_bytes(b"changed")
    disk.write_atomic(data.parent / "elsewhere", b"x")
    cut()
    assert tree(data) == {"sub": None, "sub/old": b"old"}


def test_a_second_process_goes_on_with_the_same_shadow(power):
    """Killed and started again without a power cut, what was unsynced still is, and what was removed may come back."""
    data, cut, install = power
    install()
    disk.write_atomic(data / "kept", b"kept")
    disk.write_atomic(data / "removed", b"removed")
    (data / "unsynced").write_bytes(b"unsynced")
    (data / "removed").unlink()
    disk.observe(None)
    again = install()
    (data / "reuses").write_bytes(b"reuses a number")
    disk.sync_file(data / "reuses")
    assert again is not None
    cut()
    assert tree(data) == {"kept": b"kept", "removed": b"removed"}


def test_state_databases_come_back_as_they_are(power):
    """SQLite syncs by itself, unseen; what it committed stays."""
    data, cut, install = power
    install()
    disk.make_dirs(data / "state")
    base = sqlite3.connect(data / "state" / "state.db")
    base.execute("PRAGMA journal_mode=WAL")
    base.execute("CREATE TABLE t (n)")
    base.execute("INSERT INTO t VALUES (7)")
    base.commit()
    cut()
    base.close()
    after = sqlite3.connect(data / "state" / "state.db")
    assert after.execute("SELECT n FROM t").fetchall() == [(7,)]
    after.close()


def test_chance_stays_between_what_was_synced_and_what_was_written(tmp_path):
    """Each seed gives one outcome, the same each time; over many, every unsynced change both stays and goes."""
    outcomes = {}
    for seed in [*range(30), 0]:
        data, shadow = tmp_path / f"data{len(list(tmp_path.iterdir()))}", tmp_path / "shadow"
        data.mkdir()
        powerloss.install(data, shadow)
        disk.write_atomic(data / "grown", b"synced")
        with (data / "grown").open("ab") as file:
            file.write(b"+tail")
        (data / "made").write_bytes(b"made")
        disk.observe(None)
        powerloss.restore(shadow, data, seed=seed)
        outcome = tree(data)
        assert outcome["grown"].startswith(b"synced")
        assert len(outcome["grown"]) <= len(b"synced+tail")
        assert outcomes.setdefault(seed, outcome) == outcome
    assert {len(o) for o in outcomes.values()} == {1, 2}
    assert len({o["grown"] for o in outcomes.values()}) > 4


def test_the_shadow_of_a_killed_process_is_whole(tmp_path):
    """A process that dies in the middle of its work leaves a shadow that can be restored."""
    data, shadow = tmp_path / "data", tmp_path / "shadow"
    data.mkdir()
    assert list(acknowledged(Task(folder=data, count=210, step=Step.LOG_SYNC_AFTER, nth=6, shadow=shadow)))
    powerloss.restore(shadow, data)
    assert list(data.glob("*.log"))
    assert not shadow.exists()
