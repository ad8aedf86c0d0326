"""What opening a lake repairs after a crash or a power cut."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from market_data_core.errors import MarketDataError
from market_data_core.steps import Step
from market_data_store.lake import Lake, MaintenancePolicy, maintain
from market_data_store.lake.planning import CompactionPolicy

COMMITS = 6
PER_COMMIT = 10


@pytest.fixture
def filled(lake, trades):
    """A lake whose trades have version 0 and six commits of ten rows."""
    table = lake.table("trades")
    for i in range(COMMITS):
        table.append(trades(i * PER_COMMIT, PER_COMMIT), writer="w", position=(i + 1) * PER_COMMIT, covers={"s": i})
    return lake


@pytest.fixture
def log(filled):
    """The log of its trades."""
    return filled.folder("trades").log


def _added_file(log, version):
    return next(log.folder / a["add"]["path"] for a in log.actions(version) if "add" in a)


def _truncate(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _cut(path, lines):
    whole = path.read_bytes().splitlines(keepends=True)
    assert len(whole) > lines
    path.write_bytes(b"".join(whole[:lines]))


TEARS = {
    "truncated commit": lambda log, v: _truncate(log.commit_path(v)),
    "empty commit": lambda log, v: log.commit_path(v).write_bytes(b""),
    "zeroed commit": lambda log, v: log.commit_path(v).write_bytes(bytes(log.commit_path(v).stat().st_size)),
    **{f"commit of {n} lines": lambda log, v, n=n: _cut(log.commit_path(v), n) for n in (1, 2, 3)},
    "commit of no object": lambda log, v: log.commit_path(v).write_bytes(b"[1]\n"),
    "missing commit": lambda log, v: log.commit_path(v).unlink(),
    "missing data file": lambda log, v: _added_file(log, v).unlink(),
    "short data file": lambda log, v: _truncate(_added_file(log, v)),
}


@pytest.mark.parametrize("at", [3, COMMITS])
@pytest.mark.parametrize("tear", TEARS)
def test_a_torn_commit_and_all_behind_it_are_set_aside(filled, log, reopened, trades, seqs, tear, at):  # noqa: PLR0917  fixtures
    """Every commit before the tear stands, the position says so, nothing is deleted, and writing goes on."""
    before = {p.name for p in log.path.iterdir()}
    TEARS[tear](log, at)
    left = {p.name for p in log.path.iterdir()}
    again = reopened(filled)
    kept = (at - 1) * PER_COMMIT
    assert seqs(again) == list(range(kept))
    table = again.table("trades")
    assert (table.position("w"), table.covers("w")) == (kept, {"s": at - 2})
    if tear == "missing commit" and at == COMMITS:
        assert again.repairs == []
    else:
        assert len(again.repairs) == 1
        assert "trades" in again.repairs[0]
        aside = {p.name.rpartition(".")[0] for p in (log.path / "_torn").iterdir()}
        assert aside == left - {p.name for p in log.path.iterdir()}
    assert left <= before
    table.append(trades(kept, 5), writer="w", position=kept + 5, covers={})
    assert seqs(reopened(again)) == list(range(kept + 5))


def test_a_whole_lake_needs_no_repair(filled, reopened, seqs):
    """Opening again changes nothing and reports nothing."""
    again = reopened(filled)
    assert (again.repairs, seqs(again)) == ([], list(range(COMMITS * PER_COMMIT)))


def test_a_second_repair_keeps_what_the_first_set_aside(filled, log, reopened, trades):
    """The same version can be torn twice; both stay to be looked at."""
    for _ in range(2):
        _truncate(log.commit_path(COMMITS))
        again = reopened(filled)
        again.table("trades").append(trades(50, 10), writer="w", position=60, covers={})
    assert len(list((log.path / "_torn").iterdir())) == 2


@pytest.fixture
def checkpointed(filled, log):
    """The same lake with a checkpoint at its newest version and every commit still there."""
    report = maintain(filled, now_ns=0, policy=MaintenancePolicy(checkpoint_commits=1), tables=["trades"])
    assert (report.checkpoints, report.failures) == (1, [])
    return log


@pytest.mark.parametrize(
    "tear",
    [
        lambda log: _truncate(log.checkpoint_path(COMMITS)),
        lambda log: log.checkpoint_path(COMMITS).write_bytes(b""),
        lambda log: log.checkpoint_path(COMMITS).unlink(),
        lambda log: (log.path / "_last_checkpoint").write_bytes(b'{"version":'),
        lambda log: (log.path / "_last_checkpoint").write_bytes(b"[]"),
    ],
    ids=["truncated", "empty", "missing", "torn pointer", "odd pointer"],
)
def test_a_torn_checkpoint_is_no_loss_while_the_commits_are_there(filled, checkpointed, reopened, seqs, tear):
    """The table is read from its commits, and the next checkpoint can be made."""
    tear(checkpointed)
    again = reopened(filled)
    assert seqs(again) == list(range(COMMITS * PER_COMMIT))
    assert again.table("trades").covers("w") == {"s": COMMITS - 1}
    assert again.repairs
    assert maintain(again, now_ns=0, policy=MaintenancePolicy(checkpoint_commits=1)).failures == []
    assert reopened(again).repairs == []


def test_a_commit_behind_the_checkpoint_is_judged_by_itself(filled, checkpointed, reopened, trades, seqs):
    """What stands in a checkpoint stays, whatever is torn behind it."""
    for i in (60, 61):
        filled.table("trades").append(trades(i, 1), writer="w", position=i + 1, covers={})
    checkpointed.commit_path(COMMITS + 1).write_bytes(b"")
    again = reopened(filled)
    assert seqs(again) == list(range(60))
    assert again.table("trades").position("w") == 60


def test_a_file_that_was_replaced_and_deleted_is_not_missed(filled, reopened, seqs):
    """A commit is whole although the file it added was rewritten by a later one and vacuumed."""
    policy = MaintenancePolicy(
        compaction=CompactionPolicy(fan_in=2), data_retention_ns=0, checkpoint_commits=1000, log_versions=1000
    )
    now_ns = 4 * 10**18
    maintain(filled, now_ns=now_ns, policy=policy)
    deleted = maintain(filled, now_ns=now_ns + 1, policy=policy)
    assert len(filled.folder("trades").data_files()) < COMMITS
    assert deleted.failures == []
    again = reopened(filled)
    assert (again.repairs, seqs(again)) == ([], list(range(60)))


def test_leftovers_of_a_crash_are_removed_from_the_log(filled, log, reopened):
    """Half-written files under temporary names go, and only they."""
    before = sorted(p.name for p in log.path.iterdir())
    for name in ("00000000000000000007.json.new", "_commit_0a.json.tmp", "00000000000000000007.json#1"):
        (log.path / name).write_bytes(b"{")
    assert len(reopened(filled).repairs) == 1
    assert sorted(p.name for p in log.path.iterdir()) == before


@pytest.mark.parametrize("content", [b"", b'{"protocol":', b'{"protocol":{}}\n', None])
def test_a_table_whose_making_was_cut_short_is_made_anew(lake, reopened, trades, seqs, content):
    """A torn or missing first commit of an empty table is the declaration again."""
    path = lake.folder("trades").log.commit_path(0)
    path.unlink() if content is None else path.write_bytes(content)
    again = reopened(lake)
    assert len(again.repairs) == 1
    again.table("trades").append(trades(0, 3), writer="w", position=3, covers={})
    assert seqs(reopened(again)) == [0, 1, 2]


def test_a_torn_first_commit_takes_no_later_one_along(filled, log, reopened, seqs):
    """It holds nothing but the declaration, so every row survives it."""
    _truncate(log.commit_path(0))
    again = reopened(filled)
    assert seqs(again) == list(range(60))
    assert again.table("trades").position("w") == 60


@pytest.mark.parametrize("lost", ["the whole log", "its beginning"])
def test_a_log_that_no_crash_could_lose_is_not_made_anew(filled, log, reopened, lost):
    """Data files without a log are not an empty table; the error names the table and says what to do."""
    if lost == "the whole log":
        shutil.rmtree(log.path)
    else:
        for version in (0, 1, 2):
            log.commit_path(version).unlink()
    with pytest.raises(MarketDataError, match=r"trades.*restore") as caught:
        reopened(filled)
    assert caught.value.code == "LakeDamaged"
    assert len(filled.folder("trades").data_files()) == COMMITS


class _Disk:
    """What a power cut leaves of a folder: names and bytes as they were when last synced."""

    def __init__(self, root: Path) -> None:
        self._root = root
        # A second name for every synced file keeps its inode from being given to a new one.
        self._held = root.with_name("held")
        self._held.mkdir()
        self._bytes: dict[int, bytes] = {}
        self._names: dict[Path, dict[str, int | None]] = {}
        for folder in [root, *(p for p in root.rglob("*") if p.is_dir())]:
            self.synced("dir", folder)
        for file in (p for p in root.rglob("*") if p.is_file()):
            self.synced("file", file)

    def synced(self, what: str, path: Path) -> None:
        if self._root not in [path, *path.parents]:
            return
        if what == "file":
            inode = path.stat().st_ino
            if inode not in self._bytes:
                os.link(path, self._held / str(inode))
            self._bytes[inode] = path.read_bytes()
        else:
            self._names[path] = {p.name: None if p.is_dir() else p.stat().st_ino for p in path.iterdir()}

    def remains(self, target: Path, *, names_reach_disk: bool) -> None:
        """Write what is left; names that were never synced may reach the disk all the same, without their bytes."""
        self._write(self._root, target, names_reach_disk)

    def _write(self, folder: Path, target: Path, unsynced: bool) -> None:
        target.mkdir()
        names = dict(self._names.get(folder, {}))
        if unsynced:
            names = {p.name: None if p.is_dir() else p.stat().st_ino for p in folder.iterdir()}
        for name, inode in names.items():
            if inode is None:
                self._write(folder / name, target / name, unsynced)
            else:
                (target / name).write_bytes(self._bytes.get(inode, b""))


class _PowerCut(BaseException):
    pass


@pytest.mark.parametrize("names_reach_disk", [False, True])
@pytest.mark.parametrize(
    "step",
    [s for s in Step if s.name.startswith(("DATA_FILE", "TABLE", "MAINTENANCE"))],
)
def test_a_power_cut_at_any_step_loses_nothing_acknowledged(  # noqa: PLR0917  fixtures
    tmp_path, lake, trades, seqs, at_step, on_sync, step, names_reach_disk
):
    """All rows up to the position are there once, the position is not below the last acknowledged one, work goes on."""
    disk_left = _Disk(tmp_path / "lake")
    on_sync(disk_left.synced)
    table = lake.table("trades")
    acknowledged = 0
    reached = []

    def cut(at):
        reached.append(at)
        if at is step and acknowledged >= 70:
            raise _PowerCut

    at_step(cut)
    policy = MaintenancePolicy(
        compaction=CompactionPolicy(fan_in=2),
        checkpoint_commits=4,
        log_versions=2,
        log_retention_ns=0,
        data_retention_ns=0,
    )
    now_ns = 4 * 10**18
    try:
        for i in range(10):
            table.append(trades(i * 10, 10), writer="w", position=i * 10 + 10, covers={"s": i})
            acknowledged = i * 10 + 10
            if i % 2:
                assert maintain(lake, now_ns=now_ns + i, policy=policy, tables=["trades"]).failures == []
    except _PowerCut:
        pass
    assert step in reached
    at_step(None)
    on_sync(None)
    disk_left.remains(tmp_path / "after", names_reach_disk=names_reach_disk)
    again = Lake(tmp_path / "after", "acme")
    again.open()
    position = again.table("trades").position("w")
    assert position >= acknowledged
    assert seqs(again) == list(range(position))
    again.table("trades").append(trades(position, 5), writer="w", position=position + 5, covers={})
    assert maintain(again, now_ns=now_ns + 99, policy=policy, tables=["trades"]).failures == []
    assert seqs(again) == list(range(position + 5))


def test_what_a_fresh_view_shows_is_durable(lake, trades, at_step, tmp_path, on_sync, seqs):  # noqa: PLR0917  fixtures
    """A commit whose maker died before its sync is synced before anybody is told its position."""
    disk_left = _Disk(tmp_path / "lake")
    on_sync(disk_left.synced)

    def die(at):
        if at is Step.TABLE_COMMITTED:
            raise _PowerCut

    at_step(die)
    with pytest.raises(_PowerCut):
        lake.table("trades").append(trades(0, 5), writer="w", position=5, covers={})
    at_step(None)
    assert lake.table("trades").position("w") == 5
    disk_left.remains(tmp_path / "after", names_reach_disk=False)
    again = Lake(tmp_path / "after", "acme")
    again.open()
    assert (again.table("trades").position("w"), seqs(again)) == (5, list(range(5)))


def test_a_last_checkpoint_that_names_no_checkpoint_is_removed(filled, log, reopened):
    """The pointer alone does not make a checkpoint."""
    (log.path / "_last_checkpoint").write_text(json.dumps({"version": 3, "size": 1}))
    assert "_last_checkpoint" in reopened(filled).repairs[0]
    assert not (log.path / "_last_checkpoint").exists()
