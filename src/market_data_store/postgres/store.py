"""One tenant's market data in PostgreSQL."""

from __future__ import annotations

import time
import weakref
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any, Self

import pyarrow as pa
from psycopg.sql import SQL

from market_data_core.schemas import Kind
from market_data_store.backend import END_OF_TIME_NS, START_OF_TIME_NS, OutboxJob, Upserted, Wanted
from market_data_store.postgres.connect import Connections, connect
from market_data_store.postgres.declarations import DAY_NS, TABLES, spec_of
from market_data_store.postgres.errors import translated
from market_data_store.postgres.jobs import Jobs
from market_data_store.postgres.partitions import Partitions
from market_data_store.postgres.queries import QUERIES
from market_data_store.postgres.reads import Reads, select
from market_data_store.postgres.schema import check_version, migrate, schema_version
from market_data_store.postgres.table import PostgresTable
from market_data_store.postgres.versions import Versions
from market_data_store.state import Gap


class PostgresStore:
    """One tenant's stored market data, in tables of a PostgreSQL database that other tenants share.

    A `market_data_store.backend.Backend`. Every connection is of the role ``mds_app``, which owns nothing, and of one
    tenant; row level security shows it that tenant's rows alone. Safe to use from several threads.

    Args:
        dsn: A connection string, such as ``postgresql://host/db``.
        tenant: Whose data; 1 to 64 letters, digits, ``_`` and ``-``.
        connections: How many connections at once.
        timeout_s: How long to wait for one before the server counts as away.
        statement_timeout_s: How long a statement may take before it fails with TemporaryUnavailable; None for as long
            as the server lets it.

    Raises:
        ConfigurationError: `dsn`, `tenant` or a limit are not of that form.
    """

    def __init__(
        self,
        dsn: str,
        tenant: str,
        *,
        connections: int = 8,
        timeout_s: float = 10.0,
        statement_timeout_s: float | None = None,
    ) -> None:
        self._tenant = tenant
        self._dsn = dsn
        self._connections = Connections(
            dsn, tenant, most=connections, timeout_s=timeout_s, statement_timeout_s=statement_timeout_s
        )
        self._partitions = Partitions(self._connections)
        self._versions = Versions(self._connections, self._partitions)
        self._reads = Reads(self._connections)
        self._jobs = Jobs(self._connections)
        # Who is given a store as such does not know that this one could be closed.
        self._closing = weakref.finalize(self, self._connections.close)

    @property
    def tenant(self) -> str:
        """Whose data, as it was named: by its name or by its id."""
        return self._tenant

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections. May be called twice; happens by itself when nobody has the store any more."""
        self._closing()

    def open(self) -> None:
        """Bring the database to the schema of this version; safe to call again.

        Raises:
            ConfigurationError: The schema is missing or old and the role may not change it, or it is a later one.
            TemporaryUnavailable: The server is away.
        """
        if not check_version(self._dsn):
            migrate(self._dsn)

    def schema_version(self) -> int:
        """Return the version of the schema that the database has; 0 where nothing was made yet.

        Raises:
            TemporaryUnavailable: The server is away.
        """
        return schema_version(self._dsn)

    def health(self) -> dict[str, Any]:
        """Return how the server is, by a connection made for it, so that it is told before the schema is made too.

        Returns:
            ``backend``, ``version`` of the server, ``schema_version``, ``latency_ms`` of one round trip,
            ``timescaledb``, the extension's version or None, and ``archive``, whether closed days can be archived.

        Raises:
            TemporaryUnavailable: The server is away.
        """
        with (
            translated("asking how the server is"),
            connect(self._dsn) as connection,
        ):
            begun = time.perf_counter()
            found = connection.execute(QUERIES["health"]).fetchone()
            latency_ms = (time.perf_counter() - begun) * 1000
        return health_of(found, schema_version=self.schema_version(), latency_ms=latency_ms)

    def table(self, name: str) -> PostgresTable:
        """Return a fresh view of a table.

        Raises:
            ConfigurationError: No table of that name is declared, or the database lacks it.
            TemporaryUnavailable: The server is away.
        """
        return PostgresTable(self._connections, self._partitions, spec_of(name))

    def written(self) -> frozenset[str]:
        """Return the names of the tables that anything was ever committed to.

        Raises:
            TemporaryUnavailable: The server is away.
        """
        return frozenset(str(row[0]) for row in self._checkpoints())

    def maintain(self) -> dict[str, Any]:
        """Make tomorrow's partitions today; the server's autovacuum does the rest. Returns how many were made.

        Raises:
            TemporaryUnavailable: The server is away.
        """
        made = 0
        now_ns = time.time_ns()
        for name in sorted(self.written()):
            spec = TABLES[name]
            wanted = {spec.partition_of(ts_ns): ts_ns for ts_ns in (now_ns, now_ns + DAY_NS)}
            made += self._partitions.ensure(spec, wanted)
        return {"partitions_made": made}

    def put_gaps(self, gaps: Sequence[Gap]) -> None:
        """Have ``mds.gaps`` say of each of these what it says now; in one transaction, and safe to repeat.

        Raises:
            ConfigurationError: The schema is missing or too old.
            TemporaryUnavailable: The server is away.
        """
        with self._connections.lend("writing gaps") as connection, connection.transaction():
            connection.cursor().executemany(QUERIES["gap_put"], [asdict(gap) for gap in gaps])

    def describe(self) -> dict[str, Any]:
        """Return what the tenant stored in each table, as plain values.

        ``rows`` counts what was added; of a keyed table every version, and what retention dropped too.

        Raises:
            TemporaryUnavailable: The server is away.
        """
        with self._connections.lend("describing the store") as connection:
            counts: dict[Any, Any] = dict(connection.execute(QUERIES["partition_counts"]).fetchall())  # type: ignore[arg-type]
        tables: dict[str, dict[str, Any]] = {
            n: {"rows": 0, "partitions": int(counts.get(n, 0)), "writers": {}} for n in TABLES
        }
        for name, writer, position, _, rows in self._checkpoints():
            tables[name]["rows"] += rows
            if writer:
                tables[name]["writers"][writer] = position
        return {"tables": tables, "repairs": []}

    def read(
        self,
        name: str,
        *,
        columns: Sequence[str] | None = None,
        start_ns: int = START_OF_TIME_NS,
        end_ns: int = END_OF_TIME_NS,
        vendor: str | None = None,
        symbol: str | None = None,
        below_seq: int | None = None,
    ) -> pa.Table:
        """Return stored rows, of bars every version, ascending ``(ts_event, seq)``.

        Args:
            name: Which table.
            columns: Which columns; all that the kind declares if None.
            start_ns: Inclusive, by ``ts_event``, UTC nanoseconds.
            end_ns: Exclusive; the greatest int64 is no bound.
            vendor: One vendor's rows only.
            symbol: One instrument's rows only.
            below_seq: Only rows of a lower ``seq``.

        Raises:
            ConfigurationError: No table or column of that name is declared.
            TemporaryUnavailable: The server is away.
        """
        spec = spec_of(name)
        schema = pa.schema([spec.rows_schema.field(n) for n in spec.columns(columns)])
        wanted = Wanted(
            start_ns=start_ns,
            end_ns=end_ns,
            vendor=vendor,
            symbols=() if symbol is None else (symbol,),
            versions=True,
        )
        statement, values = select(spec, wanted, schema.names, order=SQL("ts_event, seq"), below_seq=below_seq)
        return self._reads.table(f"reading table {name}", statement, values, schema)

    def ticks(self, kind: Kind, vendor: str, symbol: str, *, start_ns: int, end_ns: int, below_seq: int) -> pa.Table:
        """Return stored events of one instrument in ``[start_ns, end_ns)`` by ``ts_event`` with ``seq < below_seq``.

        Ascending ``(ts_event, seq)``, in ``TABLE_SCHEMAS[kind]``.

        Raises:
            ConfigurationError: Events of that kind are not stored.
            TemporaryUnavailable: The server is away.
        """
        return self.read(str(kind), start_ns=start_ns, end_ns=end_ns, vendor=vendor, symbol=symbol, below_seq=below_seq)

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
            TemporaryUnavailable: The server is away.
        """
        texts = {"interval": interval, "what": what, "session": session, "source": source}
        wanted = Wanted(
            start_ns=start_ns,
            end_ns=end_ns,
            vendor=vendor,
            symbols=(symbol,),
            equal={k: v for k, v in texts.items() if v is not None},
            as_of_ns=as_of_ns,
        )
        return self.fetch("bars", wanted)

    def upsert(self, table: str, rows: pa.Table, *, now_ns: int) -> Upserted:
        """Add versions of keyed rows in one transaction; see `market_data_store.backend.Backend.upsert`.

        Two who upsert the same keys at once wait for each other, and each finds what the other stored. Where they
        hinder each other all the same, it is tried again.
        """
        return self._versions.upsert(table, rows, now_ns=now_ns)

    def stream(
        self, table: str, wanted: Wanted, *, columns: Sequence[str] | None = None, batch_rows: int = 65_536
    ) -> Iterator[pa.RecordBatch]:
        """Give rows as they are at one moment; see `market_data_store.backend.Backend.stream`.

        Holds one of the connections until it is read to its end or closed. `statement_timeout_s` counts for each batch.
        """
        return self._reads.stream(spec_of(table), wanted, columns, batch_rows)

    def fetch(self, table: str, wanted: Wanted, *, columns: Sequence[str] | None = None) -> pa.Table:
        """Return rows; see `market_data_store.backend.Backend.fetch`."""
        return self._reads.fetch(spec_of(table), wanted, columns)

    def latest_prices(self, symbols: Sequence[str] = (), *, vendor: str | None = None) -> pa.Table:
        """Return the last price of each instrument; see `market_data_store.backend.Backend.latest_prices`.

        Takes as long as there are instruments that are asked for, however many rows they have.
        """
        return self._reads.latest_prices(symbols, vendor=vendor)

    def coverage(self, table: str, wanted: Wanted) -> pa.Table:
        """Return how much there is; see `market_data_store.backend.Backend.coverage`."""
        return self._reads.coverage(spec_of(table), wanted)

    def enqueue(
        self, job_type: str, payload: Mapping[str, Any], *, idempotency_key: str, priority: int = 0, now_ns: int
    ) -> OutboxJob:
        """Ask for work to be done; see `market_data_store.backend.Backend.enqueue`."""
        return self._jobs.enqueue(job_type, payload, idempotency_key=idempotency_key, priority=priority, now_ns=now_ns)

    def claim(
        self, owner: str, *, job_types: Sequence[str] = (), lease_s: float = 60.0, now_ns: int
    ) -> OutboxJob | None:
        """Take the next job; see `market_data_store.backend.Backend.claim`."""
        return self._jobs.claim(owner, job_types=job_types, lease_s=lease_s, now_ns=now_ns)

    def finish(self, job_id: int, *, owner: str, error: str | None = None, now_ns: int) -> OutboxJob:  # noqa: ARG002  the database needs no time for it
        """Say what came of a job; see `market_data_store.backend.Backend.finish`."""
        return self._jobs.finish(job_id, owner=owner, error=error)

    def jobs(self, *, state: str | None = None, limit: int = 100) -> list[OutboxJob]:
        """Return jobs, newest first; see `market_data_store.backend.Backend.jobs`."""
        return self._jobs.jobs(state=state, limit=limit)

    def _checkpoints(self) -> list[Any]:
        with self._connections.lend("reading how far the writers are") as connection:
            return connection.execute(QUERIES["checkpoints"]).fetchall()


def health_of(found: Sequence[object] | None, *, schema_version: int, latency_ms: float) -> dict[str, Any]:
    """Return what `PostgresStore.health` says, of the server's answer to the statement ``health``."""
    version, timescale, archive = found if found is not None else (None, None, False)
    return {
        "backend": "postgresql",
        "version": version,
        "schema_version": schema_version,
        "latency_ms": latency_ms,
        "timescaledb": timescale,
        "archive": archive,
    }
