"""A lake on a disk that is full, read-only or failing."""

from __future__ import annotations

import errno
import os
import subprocess

import pytest

from market_data_core import disk
from market_data_core.errors import TemporaryUnavailable
from market_data_core.steps import Step
from market_data_store.lake import Lake, maintain


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 4 MiB of its own."""
    path = tmp_path / "small"
    path.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(path)], capture_output=True, text=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"cannot mount a tmpfs here: {mounted.stderr.strip()}")
    yield path
    subprocess.run(["umount", "-l", str(path)], check=True)


@pytest.fixture
def small_lake(small_disk):
    """A lake on it."""
    lake = Lake(small_disk / "lake", "acme")
    lake.open()
    return lake


def _fill_up(path, leaving):
    blocks = os.statvfs(path)
    filler = path / "filler"
    filler.write_bytes(bytes(max(0, blocks.f_bavail * blocks.f_bsize - leaving)))
    return filler


@pytest.mark.parametrize("leaving", [0, 4096, 8192, 16384])
def test_a_full_disk_is_a_refusal_and_no_loss(small_disk, small_lake, trades, seqs, leaving):
    """Wherever the space ends, the append is refused naming the table; with space again it succeeds, once."""
    small_lake.table("trades").append(trades(0, 10), writer="w", position=10, covers={})
    filler = _fill_up(small_disk, leaving)
    table = small_lake.table("trades")
    done = 10
    refusal = None
    while refusal is None:
        try:
            table.append(trades(done, 200), writer="w", position=done + 200, covers={})
            done += 200
        except TemporaryUnavailable as exc:
            refusal = exc
    assert "table trades" in str(refusal)
    assert "No space left" in str(refusal)
    assert seqs(small_lake) == list(range(done))
    filler.unlink()
    again = Lake(small_disk / "lake", "acme")
    again.open()
    table = again.table("trades")
    position = table.position("w")
    assert position == done
    table.append(trades(done, 200), writer="w", position=done + 200, covers={})
    assert seqs(again) == list(range(done + 200))


def test_refused_appends_do_not_fill_the_disk_further(small_disk, small_lake, trades):
    """What a refused append had written is gone again."""
    small_lake.table("trades").append(trades(0, 10), writer="w", position=10, covers={})
    _fill_up(small_disk, 8192)
    free = os.statvfs(small_disk).f_bavail
    for _ in range(5):
        with pytest.raises(TemporaryUnavailable):
            small_lake.table("trades").append(trades(10, 5000), writer="w", position=5010, covers={})
    assert os.statvfs(small_disk).f_bavail == free
    assert small_lake.counts()["trades"].leftover_files == 0


def test_upkeep_on_a_full_disk_reports_and_harms_nothing(small_disk, small_lake, trades, seqs):
    """Rewriting needs space; without it the files stay as they are."""
    table = small_lake.table("trades")
    for i in range(10):
        table.append(trades(i * 10, 10), writer="w", position=i * 10 + 10, covers={})
    filler = _fill_up(small_disk, 0)
    report = maintain(small_lake, now_ns=4 * 10**18)
    assert len(report.failures) >= 1
    assert seqs(small_lake) == list(range(100))
    filler.unlink()
    assert maintain(small_lake, now_ns=4 * 10**18).failures == []
    assert seqs(small_lake) == list(range(100))


def test_a_read_only_disk_is_a_refusal(small_disk, small_lake, trades, seqs):
    """Reading goes on; writing is refused until the disk is writable again."""
    small_lake.table("trades").append(trades(0, 10), writer="w", position=10, covers={})
    table = small_lake.table("trades")
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    with pytest.raises(TemporaryUnavailable, match="trades"):
        table.append(trades(10, 10), writer="w", position=20, covers={})
    assert seqs(small_lake) == list(range(10))
    subprocess.run(["mount", "-o", "remount,rw", str(small_disk)], check=True)
    small_lake.table("trades").append(trades(10, 10), writer="w", position=20, covers={})
    assert seqs(small_lake) == list(range(20))


def test_a_commit_whose_sync_fails_is_not_acknowledged_and_then_written_again(lake, trades, seqs, monkeypatch):
    """The rows may be there, so the position says so; a kernel that forgot the bytes is given them anew."""
    table = lake.table("trades")
    log = lake.folder("trades").log
    real, inode = disk.sync_file, {}

    def fail(path):
        if path == log.commit_path(1):
            inode[path] = path.stat().st_ino
            raise OSError(errno.EIO, "Input/output error")
        real(path)

    monkeypatch.setattr(disk, "sync_file", fail)
    with pytest.raises(TemporaryUnavailable, match="trades"):
        table.append(trades(0, 10), writer="w", position=10, covers={})
    with pytest.raises(TemporaryUnavailable, match="fresh"):
        table.append(trades(0, 10), writer="w", position=10, covers={})
    fresh = lake.table("trades")
    assert (fresh.position("w"), seqs(lake)) == (10, list(range(10)))
    assert log.commit_path(1).stat().st_ino != inode[log.commit_path(1)]
    fresh.append(trades(10, 1), writer="w", position=11, covers={})
    assert seqs(lake) == list(range(11))


def test_a_commit_that_is_there_although_it_raised_keeps_its_files(lake, trades, seqs, monkeypatch):
    """An error after the fact is looked up in the log, and what the log names stays."""
    from market_data_store.lake import commits  # noqa: PLC0415

    real = commits.commit

    def late(*args, **options):
        real(*args, **options)
        raise OSError(errno.EIO, "Input/output error")

    table = lake.table("trades")
    monkeypatch.setattr(commits, "commit", late)
    with pytest.raises(TemporaryUnavailable, match="present"):
        table.append(trades(0, 10), writer="w", position=10, covers={})
    assert (lake.table("trades").position("w"), seqs(lake)) == (10, list(range(10)))


@pytest.mark.parametrize("step", [Step.DATA_FILE_WRITTEN, Step.DATA_FILE_SYNCED, Step.TABLE_COMMITTED])
def test_an_append_that_died_anywhere_is_whole_or_absent(lake, trades, at_step, reopened, seqs, step):  # noqa: PLR0917  fixtures
    """A restart finds the position and exactly the rows below it."""

    class Killed(BaseException):
        pass

    def kill(at):
        if at is step:
            raise Killed

    table = lake.table("trades")
    table.append(trades(0, 10), writer="w", position=10, covers={})
    at_step(kill)
    with pytest.raises(Killed):
        table.append(trades(10, 10), writer="w", position=20, covers={})
    at_step(None)
    again = reopened(lake)
    position = again.table("trades").position("w")
    assert position == (20 if step is Step.TABLE_COMMITTED else 10)
    assert seqs(again) == list(range(position))
