"""Upkeep of a lake: small files merged, finished dates laid out, logs shortened, replaced files deleted.

Runs beside writers and readers, of this process and others. Writers never conflict with it, because it only replaces
files by the same rows; where two of its kind meet, the later one gives up until next time. No version of a bar is ever
folded away: `as_of` needs them all.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Protocol

import pyarrow as pa
from deltalake import DeltaTable
from deltalake.exceptions import DeltaError
from deltalake.transaction import AddAction, RemoveAction

from market_data_core import disk
from market_data_core.errors import ConfigurationError, MarketDataError
from market_data_core.steps import Step, reached
from market_data_store.lake import commits, parts
from market_data_store.lake.declarations import TABLES, date_of
from market_data_store.lake.folder import TableFolder
from market_data_store.lake.log import LAST_CHECKPOINT, SCRATCH, TableLog
from market_data_store.lake.paths import reason
from market_data_store.lake.planning import CompactionPolicy, Job, StoredFile, plan
from market_data_store.lake.rewriting import rewrite
from market_data_store.places import Place, here, sync_dir, sync_file

# delta-rs 1.6 lets two commits replace the same file when neither changes data, and the rows would be there twice. An
# application transaction that every rewrite carries makes the later one conflict. No writer's name has a "|".
_REWRITER: Final = "|rewriter"

_TOMBSTONES_NS: Final = 24 * 3600 * 1_000_000_000
"""How long checkpoints remember removed files (``delta.deletedFileRetentionDuration``)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MaintenancePolicy:
    """What upkeep keeps and for how long.

    Attributes:
        compaction: When rewriting files pays.
        checkpoint_commits: A checkpoint is made when so many commits were made since the last.
        log_versions: So many of the newest commits stay in the log.
        log_retention_ns: Commits younger than this stay too: writers that were idle so long can still follow.
        data_retention_ns: Files that no version names any more, or that no commit names yet, are deleted after this;
            readers may take so long. At most a day.
    """

    compaction: CompactionPolicy = field(default_factory=CompactionPolicy)
    checkpoint_commits: int = 50
    log_versions: int = 20
    log_retention_ns: int = 600 * 1_000_000_000
    data_retention_ns: int = 3600 * 1_000_000_000

    def __post_init__(self) -> None:
        if not 0 <= self.data_retention_ns <= _TOMBSTONES_NS:
            raise ConfigurationError(f"data_retention_ns {self.data_retention_ns} is not between 0 and a day")
        if self.checkpoint_commits < 1 or self.log_versions < 1:
            raise ConfigurationError("checkpoint_commits and log_versions are at least 1")


class Tables(Protocol):
    """The tables of a lake."""

    def folder(self, name: str) -> TableFolder:
        """Return where a table lies."""
        ...


@dataclass(slots=True, kw_only=True)
class MaintenanceReport:
    """What one run did.

    Attributes:
        files_replaced, files_written: By rewriting.
        checkpoints: Made.
        commits_cleaned: Commit files deleted from logs.
        files_deleted: Data files deleted that no version names any more.
        conflicts: Rewrites given up because somebody else had replaced the same files.
        failures: What did not work, one sentence each; the next run tries again.
    """

    files_replaced: int = 0
    files_written: int = 0
    checkpoints: int = 0
    commits_cleaned: int = 0
    files_deleted: int = 0
    conflicts: int = 0
    failures: list[str] = field(default_factory=list)


def maintain(
    lake: Tables, *, now_ns: int, policy: MaintenancePolicy | None = None, tables: Sequence[str] = tuple(TABLES)
) -> MaintenanceReport:
    """Do what upkeep is due. Takes seconds and up to `CompactionPolicy.max_rows` rows of memory; run it in a thread.

    Args:
        lake: Opened.
        now_ns: UTC nanoseconds since the epoch.
        policy: What to keep; None for the defaults.
        tables: Which tables.

    Raises:
        ConfigurationError: A table is not declared.
        TemporaryUnavailable: A table that was there has vanished.
    """
    report = MaintenanceReport()
    for name in tables:
        folder = lake.folder(name)
        if folder.exists():
            _Upkeep(folder, now_ns, policy or MaintenancePolicy(), report).run()
    # Arrow keeps what a rewrite needed for the next one, which may be an hour away.
    pa.default_memory_pool().release_unused()
    return report


class _Upkeep:
    # One run over one table. Its steps are independent: a full disk keeps a rewrite from working and makes the
    # cleaning all the more wanted.

    def __init__(self, folder: TableFolder, now_ns: int, policy: MaintenancePolicy, report: MaintenanceReport) -> None:
        self._folder = folder
        self._log = folder.log
        self._now_ns = now_ns
        self._policy = policy
        self._report = report

    def run(self) -> None:
        jobs: list[Job] = []
        with self._reporting("looking for what to rewrite"):
            jobs = self._plan()
        for job in jobs:
            with self._reporting(f"rewriting date {job.date}"):
                self._compact(job)
        with self._reporting("checkpoint"):
            self._checkpoint()
        with self._reporting("cleaning the log"):
            self._clean_log()
        with self._reporting("deleting replaced files"):
            self._vacuum()
        reached(Step.MAINTENANCE_CLEANED)

    @contextmanager
    def _reporting(self, what: str) -> Iterator[None]:
        try:
            yield
        except (OSError, DeltaError, pa.ArrowException, MarketDataError) as exc:
            self._report.failures.append(f"table {self._folder.spec.name}: {what}: {reason(exc)}")

    def _plan(self) -> list[Job]:
        files = [
            StoredFile(
                name=f["path"],
                date=f["partition.date"],
                rows=f["num_records"],
                size_bytes=f["size_bytes"],
                modified_ms=f["modification_time"],
            )
            for f in pa.table(self._folder.open().get_add_actions(flatten=True)).to_pylist()
        ]
        return plan(files, today=date_of(self._now_ns), now_ns=self._now_ns, policy=self._policy.compaction)

    def _compact(self, job: Job) -> None:
        delta = self._folder.open()
        written = rewrite(self._folder, job, max_rows=self._policy.compaction.max_rows)
        now_ms = self._now_ns // 1_000_000
        actions: list[AddAction | RemoveAction] = [
            RemoveAction(f.name, False, now_ms, f.size_bytes, {"date": f.date})  # noqa: FBT003  data_change
            for f in job.inputs
        ]
        actions += [f.add_action(modified_ms=now_ms, data_change=False) for f in written]
        token = commits.new_token()
        try:
            commits.commit(delta, actions, token=token, transactions={_REWRITER: delta.version()})
        except (OSError, DeltaError) as exc:
            outcome, conflict = commits.examine(self._log, after=delta.version(), token=token, writer=_REWRITER)
            if outcome is commits.Outcome.ABSENT:
                self._folder.count_leftovers(parts.remove([f.path for f in written]))
            if conflict:
                self._report.conflicts += 1
                return
            self._report.failures.append(
                f"table {self._folder.spec.name}: rewriting date {job.date}: commit failed: {reason(exc)}"
            )
            return
        reached(Step.MAINTENANCE_COMMITTED)
        self._log.make_durable(self._folder.open().version())
        self._report.files_replaced += len(job.inputs)
        self._report.files_written += len(written)

    def _checkpoint(self) -> None:
        delta = self._folder.open()
        version = delta.version()
        if version - max(self._log.checkpoints(), default=0) < self._policy.checkpoint_commits:
            return
        # A checkpoint must never hold a commit that a power cut can still take back.
        self._log.make_durable(version)
        if isinstance(self._folder.path, Path):
            with tempfile.TemporaryDirectory(prefix=SCRATCH, dir=self._folder.path) as scratch:
                self._checkpoint_aside(Path(scratch), version)
        else:
            delta.create_checkpoint()
        self._report.checkpoints += 1
        reached(Step.MAINTENANCE_CHECKPOINT)

    # delta-rs makes it where readers look, and syncs nothing: what a power cut tore could look whole. So it is made
    # over a copy of the log, and gets its name when it is durable.
    def _checkpoint_aside(self, scratch: Path, version: int) -> None:
        copy = TableLog(scratch, self._folder.spec.name)
        here(copy.path).mkdir()
        base = max((v for v in self._log.checkpoints() if v <= version), default=-1)
        if base >= 0:
            shutil.copyfile(here(self._log.checkpoint_path(base)), here(copy.checkpoint_path(base)))
        for v in range(base + 1, version + 1):
            shutil.copyfile(here(self._log.commit_path(v)), here(copy.commit_path(v)))
        DeltaTable(str(scratch)).create_checkpoint()
        made, target = here(copy.checkpoint_path(version)), here(self._log.checkpoint_path(version))
        disk.sync_file(made)
        made.replace(target)
        disk.sync_dir(target.parent)
        disk.write_atomic(target.with_name(LAST_CHECKPOINT), here(copy.path / LAST_CHECKPOINT).read_bytes())

    def _sync_checkpoint(self, version: int) -> None:
        sync_file(self._log.checkpoint_path(version))
        pointer = self._log.path / LAST_CHECKPOINT
        if pointer.exists():
            sync_file(pointer)
        sync_dir(self._log.path)

    def _clean_log(self) -> None:
        checkpoints, versions = self._log.checkpoints(), self._log.versions()
        if not checkpoints or not versions or versions[0] >= checkpoints[-1]:
            return
        keep_from = min(checkpoints[-1], versions[-1] - self._policy.log_versions + 1)
        old = self._older_than(self._policy.log_retention_ns)
        stale: list[Place] = []
        for version in versions:
            # From the oldest on without a hole: the log is read as an unbroken row.
            if version >= keep_from or not old(self._log.commit_path(version)):
                break
            stale.append(self._log.commit_path(version))
        self._report.commits_cleaned += len(stale)
        stale += [p for v in checkpoints[:-1] if old(p := self._log.checkpoint_path(v))]
        if not stale:
            return
        # Whoever made the checkpoint may have died before syncing it.
        self._sync_checkpoint(checkpoints[-1])
        for path in stale:
            path.unlink(missing_ok=True)
        sync_dir(self._log.path)

    def _vacuum(self) -> None:
        old = self._older_than(self._policy.data_retention_ns)
        # First the files, then the version: what is committed in between is in the version.
        candidates = [f for f in self._folder.data_files() if old(f)]
        if not candidates:
            return
        delta = self._folder.open()
        version = delta.version()
        # The commit that replaced a file must not be taken back by a power cut once the file is gone.
        self._log.make_durable(version)
        live = set(pa.table(delta.get_add_actions(flatten=True)).column("path").to_pylist())
        limit_ms = (self._now_ns - self._policy.data_retention_ns) // 1_000_000
        spared = {path for path, removed_ms in self._log.tombstones(version).items() if removed_ms > limit_ms}
        for path in candidates:
            name = f"{path.parent.name}/{path.name}"
            if name not in live and name not in spared:
                path.unlink(missing_ok=True)
                self._report.files_deleted += 1

    def _older_than(self, retention_ns: int) -> _OlderThan:
        return _OlderThan(self._now_ns - retention_ns)


@dataclass(frozen=True, slots=True)
class _OlderThan:
    limit_ns: int

    def __call__(self, path: Place) -> bool:
        try:
            return path.stat().st_mtime_ns <= self.limit_ns
        except FileNotFoundError:
            return False
