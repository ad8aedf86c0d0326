"""The lake: one tenant's tables in a folder or an object store."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final

import deltalake
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds

from market_data_core.errors import ConfigurationError, MarketDataError
from market_data_core.schemas import Kind
from market_data_store.backend import END_OF_TIME_NS, START_OF_TIME_NS, OutboxJob, Upserted, Wanted
from market_data_store.lake import recovery, streams
from market_data_store.lake.asking import ask
from market_data_store.lake.coverage import coverage
from market_data_store.lake.declarations import TABLES, spec_of
from market_data_store.lake.folder import TableFolder
from market_data_store.lake.maintenance import MaintenancePolicy, maintain
from market_data_store.lake.outbox import FileOutbox, Outbox, TableOutbox
from market_data_store.lake.paths import tenant_root, translated
from market_data_store.lake.prices import latest_prices
from market_data_store.lake.reads import Selection, TableReader
from market_data_store.lake.table import LakeTable
from market_data_store.lake.upserts import Upserter

_LAYOUT: Final = 1
_OUTBOX: Final = "outbox"


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

    Reading needs nothing but the files. Whoever writes calls `open` first, once, holding the data directory's lock.
    Safe to use from several threads.

    Args:
        root: A folder, ``file://`` URL or ``s3://bucket/prefix``.
        tenant: Whose data; 1 to 64 letters, digits, ``_`` and ``-``. No other tenant's folder is ever looked at.

    Raises:
        ConfigurationError: The root is no folder or object store, or the tenant's name could lead out of it.
    """

    def __init__(self, root: Path | str, tenant: str) -> None:
        self.path = tenant_root(root, tenant)
        self.tenant = tenant
        self.repairs: list[str] = []
        """What `open` repaired, one sentence each."""
        self._folders = {name: TableFolder(self.path, spec) for name, spec in TABLES.items()}
        self._readers = {name: TableReader(folder) for name, folder in self._folders.items()}
        self._upserters = {name: Upserter(folder) for name, folder in self._folders.items()}
        self._outbox: Outbox = (
            FileOutbox(self.path / f"{_OUTBOX}.db") if isinstance(self.path, Path) else TableOutbox(self.path / _OUTBOX)
        )
        self._whole: set[str] = set()

    def open(self) -> None:
        """Repair what a crash tore and make the tables that are missing.

        Raises:
            MarketDataError: ``LakeDamaged``: a table is in a state that no crash leaves; names it and what to do.
            TemporaryUnavailable: The storage is away.
        """
        for folder in self._folders.values():
            if folder.spec.from_start or folder.exists():
                self.repairs += recovery.repair(folder)
                folder.make()
                self._whole.add(folder.spec.name)

    def close(self) -> None:
        """Do nothing: files are opened for each call."""

    def schema_version(self) -> int:
        """Return the version of the lake's layout; 0 where nothing was made yet.

        Raises:
            TemporaryUnavailable: The storage is away.
        """
        with translated("looking for tables"):
            return _LAYOUT if any(folder.exists() for folder in self._folders.values()) else 0

    def health(self) -> dict[str, Any]:
        """Return ``backend``, ``version`` of its software, ``schema_version`` and ``latency_ms`` of looking at it.

        Raises:
            TemporaryUnavailable: The storage is away.
        """
        started_s = time.perf_counter()
        version = self.schema_version()
        latency_ms = (time.perf_counter() - started_s) * 1e3
        return {
            "backend": "lake",
            "version": deltalake.__version__,
            "schema_version": version,
            "latency_ms": round(latency_ms, 3),
        }

    def table(self, name: str) -> LakeTable:
        """Return a fresh view of a table, making the table if it is not there.

        Everything that the view shows survives a power cut.

        Raises:
            ConfigurationError: No table of that name is declared.
            MarketDataError: ``LakeTorn``: a power cut left the table in need of `open`.
            TemporaryUnavailable: The storage is away, or the table was there before and has vanished.
        """
        folder = self.folder(name)
        self._refuse_torn(folder)
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
            ConfigurationError: No table or column of that name is declared.
            TemporaryUnavailable: The storage is away.
        """
        spec = spec_of(name)
        unknown = sorted(set(columns or ()) - set(spec.rows_schema.names))
        if unknown:
            raise ConfigurationError(f"table {name} has no column {', '.join(unknown)}")
        symbols = () if symbol is None else (symbol,)
        selection = Selection(start_ns=start_ns, end_ns=end_ns, vendor=vendor, symbols=symbols, where=where)
        return self._readers[spec.name].scan(selection, columns)

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
        equal = {"interval": interval, "what": what, "session": session} | (
            {} if source is None else {"source": source}
        )
        wanted = Wanted(
            start_ns=start_ns, end_ns=end_ns, vendor=vendor, symbols=(symbol,), equal=equal, as_of_ns=as_of_ns
        )
        return self.fetch(str(Kind.BARS), wanted)

    def fetch(self, table: str, wanted: Wanted, *, columns: Sequence[str] | None = None) -> pa.Table:
        """Return rows; see `market_data_store.backend.Backend.fetch`.

        Raises:
            ConfigurationError: No table or column of that name is declared, or what is compared is not text.
            TemporaryUnavailable: The storage is away.
        """
        spec = spec_of(table)
        return streams.fetch(self._readers[spec.name], ask(spec, wanted, columns))

    def stream(
        self, table: str, wanted: Wanted, *, columns: Sequence[str] | None = None, batch_rows: int = 65_536
    ) -> Iterator[pa.RecordBatch]:
        """Give rows, a few at a time; see `market_data_store.backend.Backend.stream`.

        Raises:
            ConfigurationError: No table or column of that name is declared, what is compared is not text, or
                `batch_rows` is below 1.
            TemporaryUnavailable: The storage is away, or the reader took so long that upkeep deleted what it read.
        """
        if batch_rows < 1:
            raise ConfigurationError(f"batch_rows is {batch_rows}; at least 1")
        spec = spec_of(table)
        return streams.stream(self._readers[spec.name], ask(spec, wanted, columns), batch_rows=batch_rows)

    def upsert(self, table: str, rows: pa.Table, *, now_ns: int) -> Upserted:
        """Add versions of keyed rows; see `market_data_store.backend.Backend.upsert`.

        Raises:
            ConfigurationError: No keyed table of that name is declared.
            MarketDataError: ``LakeTorn``: a power cut left the table in need of `open`; nothing is stored.
            SchemaValidationError: A row cannot be stored; nothing is.
            TemporaryUnavailable: The storage did not take it; nothing, or all of it, is there.
        """
        self._refuse_torn(self.folder(table))
        return self._upserters[spec_of(table).name].upsert(rows, now_ns=now_ns)

    # Who writes without `open`, as clients do, would build on a torn commit, and lose what was acknowledged when
    # somebody repairs it. They may not repair it themselves: others may be writing.
    def _refuse_torn(self, folder: TableFolder) -> None:
        name = folder.spec.name
        if name in self._whole:
            return
        if (cause := recovery.find_torn(folder)) is not None:
            raise MarketDataError(
                f"table {name} in {folder.path} is as a power cut left it: {cause}; start the service, or run "
                "`mds migrate` while nobody writes there, and try again",
                "LakeTorn",
            )
        self._whole.add(name)

    def latest_prices(self, symbols: Sequence[str] = (), *, vendor: str | None = None) -> pa.Table:
        """Return the last price of each instrument; see `market_data_store.lake.prices.latest_prices`."""
        return latest_prices(self._readers, symbols, vendor=vendor)

    def coverage(self, table: str, wanted: Wanted) -> pa.Table:
        """Return how much there is; see `market_data_store.backend.Backend.coverage`.

        Raises:
            ConfigurationError: No table of that name is declared, or what is compared is not text.
            TemporaryUnavailable: The storage is away.
        """
        spec = spec_of(table)
        # Every version counts, whichever is the newest.
        return coverage(self._readers[spec.name], ask(spec, replace(wanted, versions=True)))

    def enqueue(
        self, job_type: str, payload: Mapping[str, Any], *, idempotency_key: str, priority: int = 0, now_ns: int
    ) -> OutboxJob:
        """Ask for work; see `market_data_store.lake.outbox.Outbox.enqueue`."""
        return self._outbox.enqueue(
            job_type, payload, idempotency_key=idempotency_key, priority=priority, now_ns=now_ns
        )

    def claim(
        self, owner: str, *, job_types: Sequence[str] = (), lease_s: float = 60.0, now_ns: int
    ) -> OutboxJob | None:
        """Take the next job; see `market_data_store.lake.outbox.Outbox.claim`."""
        return self._outbox.claim(owner, job_types=job_types, lease_s=lease_s, now_ns=now_ns)

    def finish(self, job_id: int, *, owner: str, error: str | None = None, now_ns: int) -> OutboxJob:
        """Say what came of a job; see `market_data_store.lake.outbox.Outbox.finish`."""
        return self._outbox.finish(job_id, owner=owner, error=error, now_ns=now_ns)

    def jobs(self, *, state: str | None = None, limit: int = 100) -> list[OutboxJob]:
        """Return jobs, newest first."""
        return self._outbox.jobs(state=state, limit=limit)

    def counts(self) -> dict[str, TableCounts]:
        """Return how much each table holds, by name.

        Raises:
            TemporaryUnavailable: The storage is away.
        """
        names = [n for n, folder in self._folders.items() if folder.spec.from_start or folder.exists()]
        return {name: self._count(name) for name in names}

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
