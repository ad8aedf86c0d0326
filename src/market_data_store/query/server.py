"""SQL for users on a PostgreSQL server: the same one SELECT, in a transaction that writes nothing.

It is parsed, checked and written anew as for the embedded lake (`parse`), in a process of its own, because parsing can
take long. Then it runs as the application role with the tenant set, to which row level security shows the rows of that
tenant alone. Whoever may call ``set_config`` could set another: what a query may call is a list, and that is not on it,
nor is anything that runs a text as SQL or reads a file.

Where days were archived, the name of a table stands for all its rows, archived ones too.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from decimal import Decimal
from typing import Any, Final

import psycopg
import pyarrow as pa
from psycopg.sql import SQL, Identifier

from market_data_core.errors import MarketDataError, TemporaryUnavailable, ValidationError
from market_data_store.postgres.connect import Connection, connect
from market_data_store.postgres.declarations import TABLES
from market_data_store.postgres.errors import translate
from market_data_store.postgres.queries import QUERIES, query
from market_data_store.query.limits import QueryLimits, QueryResult, limit_reached
from market_data_store.query.parse import Statement, parse_statement, reading
from market_data_store.query.runner import run_query

TABLE_NAMES: Final = tuple(
    sorted(
        {*TABLES, *(s.versions for s in TABLES.values()), "bars_revisions", "latest_prices", "data_freshness"},
    )
)
"""What a query may read; ``bars_revisions`` is what the embedded lake calls ``bars_versions``."""

_OF_ALL: Final = frozenset({"latest_prices", "data_freshness"})
_RELATIONS: Final = {name: spec.relation for name, spec in TABLES.items() if spec.archivable}
_FETCH_ROWS: Final = 2048
_NUMERIC: Final = 1700
_TYPES: Final[dict[int, pa.DataType]] = {
    16: pa.bool_(),
    20: pa.int64(),
    21: pa.int16(),
    23: pa.int32(),
    700: pa.float32(),
    701: pa.float64(),
    1082: pa.date32(),
    1083: pa.time64("us"),
    1114: pa.timestamp("us"),
    1184: pa.timestamp("us", "UTC"),
    17: pa.binary(),
    1000: pa.list_(pa.bool_()),
    1005: pa.list_(pa.int16()),
    1007: pa.list_(pa.int32()),
    1016: pa.list_(pa.int64()),
    1021: pa.list_(pa.float32()),
    1022: pa.list_(pa.float64()),
    1009: pa.list_(pa.string()),
    1015: pa.list_(pa.string()),
}
# Connecting, or the server as such; a statement has no part in it.
_AWAY: Final = frozenset({"08", "53", "58"})


def run_server_query(dsn: str, tenant: str, sql: str, limits: QueryLimits | None = None) -> QueryResult:
    """Run one SELECT over a tenant's tables in PostgreSQL and wait for its rows; as `run_query`.

    Args:
        dsn: A ``postgresql://`` URL.
        tenant: Whose tables.
        sql: In the server's dialect; what it may call is what the embedded lake has too. ``bars`` is the newest version
            of every bar, ``bars_revisions`` all of them.
        limits: None for the defaults. `memory_bytes` is that of the process that asks, not of the server.

    Raises:
        ValidationError: As `run_query`.
        TemporaryUnavailable: The server is away, or refuses us.
    """
    return run_query(dsn, tenant, sql, limits=limits)


def ask(dsn: str, tenant: str, sql: str, *, limits: QueryLimits) -> pa.Table:
    """Return the rows of a query, and up to one batch more than the limits let through. For the query's own process.

    Raises:
        ValidationError: As `run_query`.
        TemporaryUnavailable: The server is away, or refuses us.
    """
    statement = parse_statement(sql, tables=TABLE_NAMES)
    if statement.kind == "tables":
        return pa.table({"table": pa.array(TABLE_NAMES, pa.string())})
    try:
        connection = connect(dsn, autocommit=False)
    except psycopg.Error as exc:
        raise _unfit(exc) from exc
    with connection:
        try:
            connection.read_only = True
            connection.execute(QUERIES["role"])
            connection.execute(QUERIES["tenant_set"], (tenant,))
            connection.execute(QUERIES["query_settings"], (str(max(1, round(limits.timeout_s * 1000))),))
            has_archive = _hold(connection, statement)
        except psycopg.Error as exc:
            raise _unfit(exc) from exc
        try:
            return _rows(connection, statement, limits, has_archive=has_archive)
        except psycopg.Error as exc:
            raise _failed(exc, limits) from exc


def _unfit(exc: psycopg.Error) -> TemporaryUnavailable:
    return TemporaryUnavailable(f"the store cannot be asked: {translate('connecting', exc).message}")


def _failed(exc: psycopg.Error, limits: QueryLimits) -> MarketDataError:
    if isinstance(exc, psycopg.errors.QueryCanceled):
        return limit_reached("timeout_s", limits.timeout_s, "the query took too long and was ended")
    state = exc.sqlstate or ""
    ended = isinstance(exc, psycopg.OperationalError) and (not state or state[:2] in _AWAY or state.startswith("57P"))
    if ended:
        return TemporaryUnavailable(translate("the query", exc).message)
    message = str(exc.diag.message_primary or exc).splitlines()[0]
    return ValidationError(f"the query failed: {message}", "query_failed", {"sqlstate": exc.sqlstate})


# Rows move into the archive while their table is locked, so it is locked for reading before the query's cursor takes
# its snapshot. Returns whether some of its tables have an archive.
def _hold(connection: Connection, statement: Statement) -> bool:
    everything = not _OF_ALL.isdisjoint(statement.tables)
    names = [name for name in _RELATIONS if everything or name in statement.tables]
    if not names:
        return False
    tables = SQL(", ").join(SQL("ONLY mds.{}").format(Identifier(name)) for name in names)
    connection.execute(query("lock_for_reading", tables=tables))
    found = connection.execute(QUERIES["archive_known"]).fetchone()
    return found is not None and bool(found[0])


def _rows(connection: Connection, statement: Statement, limits: QueryLimits, *, has_archive: bool) -> pa.Table:
    if statement.kind == "describe":
        found = connection.execute(QUERIES["query_describe"], (statement.tables[0],))
        return _Columns(found).table([found.fetchall()])
    with connection.cursor(name="query") as cursor:
        cursor.itersize = _FETCH_ROWS
        sql = reading(statement, _RELATIONS) if has_archive else statement.sql
        cursor.execute(sql.encode())
        columns = _Columns(cursor)
        return columns.table(_chunks(cursor, columns, limits))


def _chunks(cursor: psycopg.ServerCursor[Any], columns: _Columns, limits: QueryLimits) -> Iterator[list[Any]]:
    rows = size_bytes = 0
    # One row more shows that there are more; who writes the result cuts it.
    while rows <= limits.max_rows and size_bytes <= limits.max_result_bytes:
        chunk = cursor.fetchmany(min(_FETCH_ROWS, limits.max_rows + 1 - rows))
        if not chunk:
            return
        rows += len(chunk)
        size_bytes += columns.size_bytes(chunk)
        yield chunk


class _Columns:
    # The columns of an answer: their names, and what becomes of their values.
    def __init__(self, cursor: Any) -> None:
        self._names = [column.name for column in cursor.description or ()]
        self._oids = [column.type_code for column in cursor.description or ()]

    def size_bytes(self, chunk: list[Any]) -> int:
        return sum(_array(oid, values).nbytes for oid, values in self._split(chunk))

    def table(self, chunks: Any) -> pa.Table:
        rows = [row for chunk in chunks for row in chunk]
        return pa.Table.from_arrays([_array(oid, values) for oid, values in self._split(rows)], names=self._names)

    def _split(self, rows: list[Any]) -> Iterator[tuple[int, list[Any]]]:
        columns: Any = zip(*rows, strict=True) if rows else ((),) * len(self._oids)
        for oid, column in zip(self._oids, columns, strict=True):
            yield oid, list(column)


def _array(oid: int, values: list[Any]) -> pa.Array:
    if oid == _NUMERIC:
        return _numbers(values)
    if oid in _TYPES:
        return pa.array(values, _TYPES[oid])
    return pa.array([None if v is None else _text(v) for v in values], pa.string())


# Sums and means of whole numbers are of a type without bounds there: whole again where they are, as in the lake.
def _numbers(values: list[Any]) -> pa.Array:
    known = [v for v in values if v is not None]
    if all(_is_whole(v) for v in known):
        return pa.array([None if v is None else int(v) for v in values], pa.int64())
    return pa.array([None if v is None else float(v) for v in values], pa.float64())


def _is_whole(value: Decimal) -> bool:
    return value.is_finite() and value.as_tuple().exponent == 0 and -(2**63) <= value < 2**63


def _text(value: Any) -> str:
    return json.dumps(value, default=str) if isinstance(value, dict | list) else str(value)
