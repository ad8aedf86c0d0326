"""The lake: one tenant's tables in a folder."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds

from market_data_core.schemas import Kind
from market_data_store.lake import recovery
from market_data_store.lake.declarations import TABLES, spec_of
from market_data_store.lake.folder import TableFolder
from market_data_store.lake.maintenance import MaintenancePolicy, maintain
from market_data_store.lake.paths import tenant_root, translated
from market_data_store.lake.reads import END_OF_TIME_NS, START_OF_TIME_NS, Selection, TableReader, newest
from market_data_store.lake.table import LakeTable


@dataclass(frozen=True, slots=True, kw_only=True)
class TableCounts:
    """How much a table holds.

    Attributes:
        files: Data files of its newest version.
        size_bytes: Their size together.
        rows: Their rows together.
        leftover_files: Files of failed commits of this process that only the vacuum can take away.
    """

    files: int
    size_bytes: int
    rows: int
    leftover_files: int


class Lake:
    """One tenant's stored market data, in Delta Lake tables under ``<root>/<tenant>``.

    Reading needs nothing but the folder. Whoever writes calls `open` first, once, holding the data directory's lock.
    Safe to use from several threads.

    Args:
        root: A folder or ``file://`` URL.
        tenant: Whose data; 1 to 64 letters, digits, ``_`` and ``-``. No other tenant's folder is ever looked at.

    Raises:
        ConfigurationError: The root is no local folder, or the tenant's name could lead out of it.
    """

    def __init__(self, root: Path | str, tenant: str) -> None:
        self.path = tenant_root(root, tenant)
        self.tenant = tenant
        self.repairs: list[str] = []
        """What `open` repaired, one sentence each."""
        self._folders = {name: TableFolder(self.path, spec) for name, spec in TABLES.items()}
        self._readers = {name: TableReader(folder) for name, folder in self._folders.items()}

    def open(self) -> None:
        """Repair what a crash tore and make the tables that are missing.

        Raises:
            MarketDataError: ``LakeDamaged``: a table is in a state that no crash leaves; names it and what to do.
            TemporaryUnavailable: The storage is away.
        """
        for folder in self._folders.values():
            self.repairs += recovery.repair(folder)
            folder.make()

    def table(self, name: str) -> LakeTable:
        """Return a fresh view of a table, making the table if it is not there.

        Everything that the view shows survives a power cut.

        Raises:
            ConfigurationError: No table of that name is declared.
            TemporaryUnavailable: The storage is away, or the table was there before and has vanished.
        """
        folder = self.folder(name)
        folder.make()
        return LakeTable(folder, folder.spec)

    def written(self) -> frozenset[str]:
        """Return the names of the tables that anything was ever committed to.

        Raises:
            TemporaryUnavailable: The storage is away.
        """
        with translated("listing tables"):
            # Version 0 makes a table; later ones are commits, or checkpoints of them.
            return frozenset(
                name
                for name, folder in self._folders.items()
                if max((*folder.log.versions(), *folder.log.checkpoints()), default=0) > 0
            )

    def maintain(self, policy: MaintenancePolicy | None = None) -> dict[str, Any]:
        """Do what upkeep is due; see `market_data_store.lake.maintenance.maintain`."""
        return asdict(maintain(self, now_ns=time.time_ns(), policy=policy))

    def describe(self) -> dict[str, Any]:
        """Return what each table holds, and what `open` repaired, as plain values.

        Raises:
            TemporaryUnavailable: The storage is away.
        """
        return {"tables": {name: asdict(c) for name, c in self.counts().items()}, "repairs": list(self.repairs)}

    def folder(self, name: str) -> TableFolder:
        """Return where a table lies.

        Raises:
            ConfigurationError: No table of that name is declared.
        """
        return self._folders[spec_of(name).name]

    def read(
        self,
        name: str,
        *,
        columns: Sequence[str] | None = None,
        start_ns: int = START_OF_TIME_NS,
        end_ns: int = END_OF_TIME_NS,
        vendor: str | None = None,
        symbol: str | None = None,
        where: ds.Expression | None = None,
    ) -> pa.Table:
        """Return stored rows, every version of each, in no promised order.

        Args:
            name: Which table.
            columns: Which columns; all that the kind declares if None.
            start_ns: Inclusive, by ``ts_event``, UTC nanoseconds.
            end_ns: Exclusive.
            vendor: One vendor's rows only.
            symbol: One instrument's rows only.
            where: A further condition, such as ``pyarrow.compute.field("seq") > 10``.

        Raises:
            ConfigurationError: No table of that name is declared.
            TemporaryUnavailable: The storage is away.
        """
        selection = Selection(start_ns=start_ns, end_ns=end_ns, vendor=vendor, symbol=symbol, where=where)
        return self._readers[spec_of(name).name].scan(selection, columns)

    def ticks(self, kind: Kind, vendor: str, symbol: str, *, start_ns: int, end_ns: int, below_seq: int) -> pa.Table:
        """Return stored events of one instrument in ``[start_ns, end_ns)`` by ``ts_event`` with ``seq < below_seq``.

        Ascending ``(ts_event, seq)``, in ``TABLE_SCHEMAS[kind]``.

        Raises:
            ConfigurationError: Events of that kind are not stored.
            TemporaryUnavailable: The storage is away.
        """
        rows = self.read(
            str(kind), start_ns=start_ns, end_ns=end_ns, vendor=vendor, symbol=symbol, where=pc.field("seq") < below_seq
        )
        order = np.lexsort([rows.column("seq").to_numpy(), rows.column("ts_event").to_numpy()])
        return rows.take(pa.array(order))

    def bars(
        self,
        symbol: str,
        interval: str,
        *,
        start_ns: int,
        end_ns: int,
        vendor: str | None = None,
        what: str = "TRADES",
        session: str = "ALL",
        source: str | None = None,
        as_of_ns: int | None = None,
    ) -> pa.Table:
        """Return bars of one instrument, of each the newest version.

        Args:
            symbol: The instrument.
            interval: Such as ``1m``.
            start_ns: Inclusive, compared with the bar's start, UTC nanoseconds.
            end_ns: Exclusive.
            vendor: One vendor's only; None for all, which are never merged.
            what: Of which prices the bars are made.
            session: Which session they cover.
            source: ``internal`` or ``external``; None for both, which are never merged.
            as_of_ns: Only what was known at that time, UTC nanoseconds, by ``ts_known``; None for now.

        Returns:
            In the columns of the bars table, ascending ``ts_event``, then by the rest of the key.

        Raises:
            TemporaryUnavailable: The storage is away.
        """
        where = (pc.field("interval") == interval) & (pc.field("what") == what) & (pc.field("session") == session)
        if source is not None:
            where &= pc.field("source") == source
        if as_of_ns is not None:
            # A bar from outside that does not say when it became known did so when we received it.
            where &= pc.coalesce(pc.field("ts_known"), pc.field("ts_recv")) <= as_of_ns
        return newest(
            self.read(str(Kind.BARS), start_ns=start_ns, end_ns=end_ns, vendor=vendor, symbol=symbol, where=where)
        )

    def counts(self) -> dict[str, TableCounts]:
        """Return how much each table holds, by name.

        Raises:
            TemporaryUnavailable: The storage is away.
        """
        return {name: self._count(name) for name in TABLES}

    def _count(self, name: str) -> TableCounts:
        files = self._readers[name].files()
        with translated(f"counting table {name}"):
            return TableCounts(
                files=files.num_rows,
                size_bytes=_total(files, "size_bytes"),
                rows=_total(files, "num_records"),
                leftover_files=self._folders[name].leftovers,
            )


def _total(files: pa.Table, column: str) -> int:
    return int(pc.sum(files.column(column)).as_py() or 0) if column in files.schema.names else 0
