"""A table's ``_delta_log``, read and made durable by us.

delta-rs neither lists the application transactions of a table nor syncs anything. Both are done here, from the files
that the Delta protocol defines: ``<version>.json`` per commit and ``<version>.checkpoint.parquet``.
"""

from __future__ import annotations

import json
import re
import threading
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq

from market_data_core import disk
from market_data_core.errors import TemporaryUnavailable
from market_data_store.places import Place, opened, sync_dir

_COMMIT: Final = re.compile(r"(\d{20})\.json")
_CHECKPOINT: Final = re.compile(r"(\d{20})\.checkpoint\.parquet")

LAST_CHECKPOINT: Final = "_last_checkpoint"

SCRATCH: Final = "_checkpoint-"
"""How the names of folders begin, beside the log, in which checkpoints are made."""

ACTIONS: Final = "platformActions"
"""In the information of a commit, how many actions it has: a file that was torn between two lines looks whole."""

_DECLARATION: Final = frozenset(("protocol", "metaData"))

Action = dict[str, Any]


def _read(checkpoint: Place, columns: list[str] | None = None) -> pa.Table:
    path, filesystem = opened(checkpoint)
    return pq.read_table(path, columns=columns, partitioning=None, filesystem=filesystem)


class TornCommit(ValueError):
    """A commit file is missing, empty or not whole."""


class TableLog:
    """The log of one table. One object per table and process; safe to use from several threads.

    Args:
        folder: The table's folder.
        name: The table's name, for messages.
    """

    def __init__(self, folder: Place, name: str) -> None:
        self.folder = folder
        self.name = name
        self.path = folder / "_delta_log"
        self._lock = threading.Lock()
        self._durable_version = -1
        self._sync_failed = False

    def commit_path(self, version: int) -> Place:
        """Return where the commit of that version lies."""
        return self.path / f"{version:020d}.json"

    def checkpoint_path(self, version: int) -> Place:
        """Return where the checkpoint of that version lies."""
        return self.path / f"{version:020d}.checkpoint.parquet"

    def versions(self) -> list[int]:
        """Return the versions whose commits are there, ascending; the oldest are cleaned away with time."""
        return self._numbered(_COMMIT)

    def checkpoints(self) -> list[int]:
        """Return the versions that have a checkpoint, whole or not, ascending."""
        return self._numbered(_CHECKPOINT)

    def _numbered(self, pattern: re.Pattern[str]) -> list[int]:
        if not self.path.is_dir():
            return []
        return sorted(int(m[1]) for m in map(pattern.fullmatch, (p.name for p in self.path.iterdir())) if m)

    def is_whole_checkpoint(self, version: int) -> bool:
        """Return whether a checkpoint can be read to its end."""
        try:
            _read(self.checkpoint_path(version))
        except (OSError, pa.ArrowException):
            return False
        return True

    def actions(self, version: int) -> list[Action]:
        """Return the actions of one commit, in order.

        Raises:
            TornCommit: The file is missing, empty, does not consist of whole JSON objects, one a line, or lacks some.
        """
        try:
            content = self.commit_path(version).read_bytes()
        except FileNotFoundError as exc:
            raise TornCommit(f"commit {version} is missing") from exc
        try:
            actions = [json.loads(line) for line in content.splitlines() if line.strip()]
        except ValueError as exc:
            raise TornCommit(f"commit {version} is not whole JSON lines") from exc
        if not actions or not all(isinstance(a, dict) for a in actions):
            raise TornCommit(f"commit {version} is empty or holds something other than actions")
        said = next((a["commitInfo"].get(ACTIONS) for a in actions if "commitInfo" in a), None)
        if said not in (None, str(len(actions))):
            raise TornCommit(f"commit {version} has {len(actions)} of {said} actions")
        if version == 0 and not _DECLARATION.issubset(key for a in actions for key in a):
            raise TornCommit("commit 0 does not say what the table is")
        return actions

    def later_actions(self, version: int) -> list[Action]:
        """Return the actions of all commits after `version`, in order.

        Raises:
            TornCommit: One of them is not whole.
            OSError: The log cannot be read.
        """
        return [a for v in self.versions() if v > version for a in self.actions(v)]

    def transactions(self, version: int) -> dict[str, int]:
        """Return the last version of every application transaction as the table stood at `version`.

        Raises:
            TemporaryUnavailable: The log cannot be read.
        """
        return {a["appId"]: a["version"] for a in self._replay(version, "txn")}

    def tombstones(self, version: int) -> dict[str, int]:
        """Return when each removed file that the log still remembers was removed, milliseconds since the epoch.

        Raises:
            TemporaryUnavailable: The log cannot be read.
        """
        return {a["path"]: a["deletionTimestamp"] or 0 for a in self._replay(version, "remove")}

    def _replay(self, version: int, wanted: str) -> list[Action]:
        # Maintenance may clean commits away between the listing and the reading; what it took away stands in a newer
        # checkpoint, so another look finds it there.
        attempts = 5
        while True:
            try:
                return self._replay_once(version, wanted)
            except (OSError, pa.ArrowException, TornCommit) as exc:
                attempts -= 1
                if attempts == 0:
                    raise TemporaryUnavailable(f"log of table {self.name} cannot be read: {exc}") from exc

    def _replay_once(self, version: int, wanted: str) -> list[Action]:
        base = max((v for v in self.checkpoints() if v <= version), default=-1)
        found: list[Action] = []
        if base >= 0:
            table = _read(self.checkpoint_path(base), [wanted])
            found = table.column(wanted).drop_null().to_pylist()
        for v in range(base + 1, version + 1):
            found += [a[wanted] for a in self.actions(v) if wanted in a]
        return found

    def make_durable(self, through: int) -> None:
        """Have every commit up to and including version `through` survive a power cut.

        Whoever committed them: another writer of the table may not have come to its own sync yet.

        Raises:
            OSError: The disk refused; nothing may be called durable.
        """
        with self._lock:
            if through <= self._durable_version:
                return
            for version in [v for v in self.versions() if self._durable_version < v <= through]:
                self._sync_commit(version)
            sync_dir(self.path)
            self._sync_failed = False
            self._durable_version = through

    def _sync_commit(self, version: int) -> None:
        path = self.commit_path(version)
        if not isinstance(path, Path):
            return  # durable since it was written
        try:
            if self._sync_failed:
                # After a failed fsync the kernel calls the pages clean although they never reached the disk; only
                # writing them again brings them there. https://wiki.postgresql.org/wiki/Fsync_Errors
                disk.write_atomic(path, path.read_bytes())
            else:
                disk.sync_file(path)
        except FileNotFoundError:
            return  # cleaned away: a durable checkpoint has what it said
        except OSError:
            self._sync_failed = True
            raise

    def forget_durable(self) -> None:
        """Have the next `make_durable` sync whatever is there, because the log was changed by a repair."""
        with self._lock:
            self._durable_version = -1
