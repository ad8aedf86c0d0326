"""One tenant's market data in PostgreSQL."""

from __future__ import annotations

import time
import weakref
from collections.abc import Sequence
from typing import Any, Final, Self

import pyarrow as pa
from psycopg.sql import Composed

from market_data_core.errors import ConfigurationError
from market_data_core.schemas import Kind
from market_data_store.postgres.connect import Connections
from market_data_store.postgres.declarations import DAY_NS, TABLES, spec_of
from market_data_store.postgres.queries import QUERIES, query, read_migrations
from market_data_store.postgres.schema import migrate, schema_version
from market_data_store.postgres.table import Partitions, PostgresTable

START_OF_TIME_NS: Final = -(2**63)
END_OF_TIME_NS: Final = 2**63 - 1

_FETCH_ROWS: Final = 50_000
_VERSIONS: Final = "bars_versions"


class PostgresStore:
    """One tenant's stored market data, in tables of a PostgreSQL database that other tenants share.

    Every connection is of the role ``mds_app``, which owns nothing, and of one tenant; row level security shows it
    that tenant's rows alone. Safe to use from several threads.

    Args:
        dsn: A connection string, such as ``postgresql://host/db``.
        tenant: Whose data; 1 to 64 letters, digits, ``_`` and ``-``.
        connections: How many connections at once.
        timeout_s: How long to wait for one before the server counts as away.

    Raises:
        ConfigurationError: `dsn` or `tenant` are not of that form.
    """

    def __init__(self, dsn: str, tenant: str, *, connections: int = 8, timeout_s: float = 10.0) -> None:
        self.tenant = tenant
        self._dsn = dsn
        self._connections = Connections(dsn, tenant, most=connections, timeout_s=timeout_s)
        self._partitions = Partitions(self._connections)
        # Who is given a store as such does not know that this one could be closed.
        self._closing = weakref.finalize(self, self._connections.close)

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
        latest = read_migrations()[-1].version
        found = schema_version(self._dsn)
        if found > latest:
            raise ConfigurationError(f"the database's schema is version {found}; this platform knows {latest}")
        if found < latest:
            migrate(self._dsn)

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

    def describe(self) -> dict[str, Any]:
        """Return what the tenant stored in each table, as plain values; of bars, how often one was made or replaced.

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
        wanted = spec.rows_schema.names if columns is None else list(columns)
        unknown = set(wanted) - set(spec.rows_schema.names)
        if unknown:
            raise ConfigurationError(f"table {name} has no column {', '.join(sorted(unknown))}")
        relation = _VERSIONS if spec.kind is Kind.BARS else name
        values = _range(start_ns, end_ns) | {"vendor": vendor, "symbol": symbol, "below_seq": below_seq}
        schema = pa.schema([spec.rows_schema.field(n) for n in wanted])
        return self._fetch(query("read", table=relation, columns=wanted), values, schema)

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
        values = _range(start_ns, end_ns) | {
            "symbol": symbol,
            "interval": interval,
            "vendor": vendor,
            "what": what,
            "session": session,
            "source": source,
            "as_of_ns": as_of_ns,
        }
        schema = TABLES["bars"].rows_schema
        relation = "bars" if as_of_ns is None else _VERSIONS
        return self._fetch(query("bars", table=relation, columns=schema.names), values, schema)

    def _checkpoints(self) -> list[Any]:
        with self._connections.lend("reading how far the writers are") as connection:
            return connection.execute(QUERIES["checkpoints"]).fetchall()

    def _fetch(self, statement: Composed, values: dict[str, Any], schema: pa.Schema) -> pa.Table:
        pieces = [schema.empty_table()]
        with (
            self._connections.lend("reading rows") as connection,
            connection.transaction(),
            connection.cursor("rows", binary=True) as cursor,
        ):
            cursor.execute(statement, values)
            while rows := cursor.fetchmany(_FETCH_ROWS):
                columns = [pa.array(c, f.type) for c, f in zip(zip(*rows, strict=True), schema, strict=True)]
                pieces.append(pa.Table.from_arrays(columns, schema=schema))
        return pa.concat_tables(pieces)


def _range(start_ns: int, end_ns: int) -> dict[str, Any]:
    return {"start_ns": start_ns, "last_ns": end_ns if end_ns == END_OF_TIME_NS else end_ns - 1}
