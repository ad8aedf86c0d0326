"""One table's folder: making it, opening it, and what all views of it in this process share."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Final

from deltalake import DeltaTable
from deltalake.exceptions import DeltaError

from market_data_core.errors import TemporaryUnavailable
from market_data_store.lake.declarations import CONFIGURATION, TableSpec
from market_data_store.lake.log import TableLog
from market_data_store.lake.paths import translated
from market_data_store.places import Place, make_dirs, storage_options, sync_dir, sync_file

_LOOKS: Final = 3


class TableFolder:
    """The folder of one table. One object per table and lake; safe to use from several threads.

    Args:
        root: The tenant's folder.
        spec: What the table is declared to be.
    """

    def __init__(self, root: Place, spec: TableSpec) -> None:
        self.path = root / spec.name
        self.spec = spec
        self.log = TableLog(self.path, spec.name)
        self._lock = threading.Lock()
        self._seen = False
        self._dates: set[str] = set()
        self._leftovers = 0

    @property
    def leftovers(self) -> int:
        """Files of failed commits that could not be removed at once; the vacuum takes them."""
        return self._leftovers

    def count_leftovers(self, count: int) -> None:
        """Note files of a failed commit that could not be removed."""
        with self._lock:
            self._leftovers += count

    def exists(self) -> bool:
        """Return whether there is a table here.

        Raises:
            TemporaryUnavailable: The storage is away, or there was one before: a lake that vanishes while we run is an
                unmounted disk, and an empty table in its place would hide that.
        """
        with translated(f"looking for table {self.spec.name}"):
            found = bool(self.log.versions() or self.log.checkpoints())
        if found:
            self._seen = True
            return True
        if self._seen:
            raise TemporaryUnavailable(f"table {self.spec.name} is gone from {self.path}; is its disk mounted?")
        return False

    def make(self) -> None:
        """Make the table, durably, unless it is there.

        Raises:
            TemporaryUnavailable: The storage is away, or the table was there before and is gone.
        """
        with self._lock, translated(f"making table {self.spec.name}"):
            if self.exists():
                return
            make_dirs(self.path)
            create(self.path, self.spec)
            sync_file(self.log.commit_path(0))
            for folder in (self.log.path, self.path, self.path.parent):
                sync_dir(folder)
            self._seen = True

    def open(self) -> DeltaTable:
        """Return a handle on the newest version.

        Raises:
            OSError, DeltaError: The table cannot be read.
        """
        for _ in range(_LOOKS - 1):
            try:
                return DeltaTable(str(self.path), storage_options=storage_options(self.path))
            except DeltaError:
                # Upkeep may clean a checkpoint away between its being found and read; a newer one has what it said.
                continue
        return DeltaTable(str(self.path), storage_options=storage_options(self.path))

    def make_date(self, date: str) -> None:
        """Make the folder of a UTC date, durably.

        Raises:
            OSError: The disk refused.
        """
        with self._lock:
            if date in self._dates:
                return
            make_dirs(self.path / f"date={date}")
            # It may have been made by a process that died before it came to this.
            sync_dir(self.path)
            self._dates.add(date)

    def data_files(self) -> Sequence[Place]:
        """Return every data file that lies here, whether a commit names it or not."""
        return [f for d in self.path.glob("date=*") for f in d.glob("*.parquet")]


def create(path: Place, spec: TableSpec) -> None:
    """Make an empty table in a folder; leave one alone that is there. Syncs nothing.

    Raises:
        OSError, DeltaError: The storage did not take it.
    """
    try:
        DeltaTable.create(
            str(path),
            schema=spec.stored_schema,
            partition_by=["date"],
            mode="error",
            configuration=dict(CONFIGURATION),
            storage_options=storage_options(path),
        )
    except DeltaError:
        # Another process may have made it in the same moment.
        if not DeltaTable.is_deltatable(str(path), storage_options(path)):
            raise
