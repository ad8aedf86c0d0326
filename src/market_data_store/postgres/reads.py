"""What is asked of tables, as statements, and their answers as Arrow."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import lru_cache
from typing import Any, Final

import psycopg
import pyarrow as pa
from psycopg.sql import SQL, Composable, Composed, Identifier, Literal, Placeholder

from market_data_core.errors import ConfigurationError
from market_data_store.backend import END_OF_TIME_NS, START_OF_TIME_NS, Wanted
from market_data_store.postgres.connect import Connection, Connections
from market_data_store.postgres.declarations import DAY_NS, TABLES, TableSpec
from market_data_store.postgres.encode import shown
from market_data_store.postgres.prices import Noted, asking_prices
from market_data_store.postgres.queries import QUERIES, query
from market_data_store.postgres.talk import talk

_FETCH_ROWS: Final = 50_000
_DAY: Final = SQL("ts_event / 86400000000000 - (mod(ts_event, 86400000000000) < 0)::int")
_VERSION: Final = SQL("coalesce(revision, 0), coalesce(ts_known, 0), seq")
_NUMBER: Final = re.compile(r"_(\d{4})(\d{2})(\d{2})?$")

COVERAGE_SCHEMA: Final = pa.schema(
    [
        ("vendor", pa.string()),
        ("symbol", pa.string()),
        ("date", pa.string()),
        ("rows", pa.int64()),
        ("first_ts", pa.int64()),
        ("last_ts", pa.int64()),
    ]
)


class Reads:
    """Reads the tables of one tenant. Safe to use from several threads."""

    def __init__(self, connections: Connections) -> None:
        self._connections = connections
        self._noted = Noted()

    def fetch(self, spec: TableSpec, wanted: Wanted, columns: Sequence[str] | None) -> pa.Table:
        """Return rows; see `market_data_store.backend.Backend.fetch`."""
        return self.table(f"reading table {spec.name}", *fetching(spec, wanted, columns))

    def stream(
        self, spec: TableSpec, wanted: Wanted, columns: Sequence[str] | None, batch_rows: int
    ) -> Iterator[pa.RecordBatch]:
        """Give rows; see `market_data_store.backend.Backend.stream`. All are of one moment, that of the first.

        Holds a connection until it is read to its end or closed. The server sorts a partition of a keyed table at a
        time, and the whole of a table whose partitions do not follow the event time.
        """
        if batch_rows < 1:
            raise ConfigurationError(f"batch_rows is {batch_rows}; at least 1")
        _where(spec, wanted)  # what is not declared is said now, not with the first row
        return self._stream(spec, wanted, _schema(spec, columns), batch_rows)

    def _stream(self, spec: TableSpec, wanted: Wanted, schema: pa.Schema, batch_rows: int) -> Iterator[pa.RecordBatch]:
        order = SQL("{}, {}").format(_DAY, _names(spec)) if spec.key else _DAY
        with self._connections.lend(f"streaming table {spec.name}") as connection, connection.transaction():
            # The lock comes before the moment; see `_held`.
            moment = query("one_moment_of", table=spec.name) if spec.archivable else QUERIES["one_moment"]
            connection.execute(moment)
            for part in self._parts(connection, spec, wanted):
                # A day of events needs no order.
                statement, values = select(spec, part, schema.names, order=None if spec.archivable else order)
                for batch in _batches(connection, statement, values, schema, batch_rows):
                    yield from batch.to_batches()

    def _parts(self, connection: Connection, spec: TableSpec, wanted: Wanted) -> list[Wanted]:
        # By partition, where those follow the time that is asked for, so that no sort is larger than one.
        if spec.unit is None or spec.dated_by != "ts_event":
            return [wanted]
        names = [str(row[0]) for row in connection.execute(QUERIES["partitions_of"], (spec.name,))]
        found = {m[1] + m[2] + (m[3] or "") for n in names if (m := _NUMBER.search(n)) is not None}
        if spec.archivable:
            bounds = (max(wanted.start_ns - DAY_NS, START_OF_TIME_NS), wanted.end_ns)
            days: list[Any] = connection.execute(QUERIES["archived_dates"], (spec.name, *bounds)).fetchall()
            found |= {spec.partition_of(day_ns) for (day_ns,) in days}
        parts = []
        for part in sorted(found):
            first_ns, end_ns = spec.bounds_of(part)
            start_ns = max(wanted.start_ns, first_ns)
            end_ns = min(wanted.end_ns, end_ns)
            if start_ns < end_ns or (end_ns == END_OF_TIME_NS and start_ns == end_ns):
                parts.append(replace(wanted, start_ns=start_ns, end_ns=end_ns))
        return parts

    def coverage(self, spec: TableSpec, wanted: Wanted) -> pa.Table:
        """Return how much there is; see `market_data_store.backend.Backend.coverage`."""
        where, values = _where(spec, wanted)
        if spec.key and wanted.as_of_ns is not None:
            where = SQL("{} AND {}").format(where, SQL("coalesce(ts_known, ts_recv) <= %(as_of_ns)s"))
            values["as_of_ns"] = wanted.as_of_ns
        if spec.archivable and _is_of_whole_days(wanted):
            days_where, _ = _where(spec, wanted, time="day")
            named = SQL("{} = {}").format(Identifier("table_name"), Literal(spec.name))
            days_where = SQL("{} AND {}").format(named, days_where)
            statement = query("coverage_with_archive", table=spec.name, where=where, days_where=days_where, day=_DAY)
        else:
            relation = spec.versions if spec.key else spec.relation
            statement = query("coverage", held=_held(spec), relation=relation, where=where, day=_DAY)
        return self.table(f"counting table {spec.name}", statement, values, COVERAGE_SCHEMA)

    def latest_prices(self, symbols: Sequence[str], *, vendor: str | None) -> pa.Table:
        """Return last prices; see `market_data_store.backend.Backend.latest_prices`.

        Takes as long as there are instruments; until the last step of migration 4 was taken, as there are rows.
        """
        with self._connections.lend("reading the latest prices") as connection:
            return talk(connection, asking_prices(symbols, vendor=vendor, noted=self._noted))

    def table(self, what: str, statement: Composed | bytes, values: Mapping[str, Any], schema: pa.Schema) -> pa.Table:
        """Return the answer to a statement, whole."""
        with self._connections.lend(what) as connection, connection.transaction():
            return pa.concat_tables(
                [schema.empty_table(), *_batches(connection, statement, values, schema, _FETCH_ROWS)]
            )


def fetching(spec: TableSpec, wanted: Wanted, columns: Sequence[str] | None) -> tuple[bytes, dict[str, Any], pa.Schema]:
    """Return the statement for rows as `market_data_store.backend.Backend.fetch` orders them, its values and columns.

    Raises:
        ConfigurationError: A column that is asked for or compared is not declared, or that is compared is not text.
    """
    schema = _schema(spec, columns)
    _, values = _where(spec, wanted)
    if wanted.as_of_ns is not None:
        values["as_of_ns"] = wanted.as_of_ns
    bounds = (wanted.start_ns > START_OF_TIME_NS, wanted.end_ns < END_OF_TIME_NS)
    told = (wanted.vendor is not None, bool(wanted.symbols), wanted.as_of_ns is not None, wanted.versions)
    return _fetching(spec.name, tuple(schema.names), bounds, told, tuple(wanted.equal)), values, schema


# As text, because putting one together takes longer than a small statement itself: it depends on what is asked, not on
# the values.
@lru_cache(maxsize=256)
def _fetching(
    table: str,
    columns: tuple[str, ...],
    bounds: tuple[bool, bool],
    told: tuple[bool, bool, bool, bool],
    equal: tuple[str, ...],
) -> bytes:
    spec = TABLES[table]
    wanted = Wanted(
        start_ns=0 if bounds[0] else START_OF_TIME_NS,
        end_ns=0 if bounds[1] else END_OF_TIME_NS,
        vendor="" if told[0] else None,
        symbols=("",) if told[1] else (),
        equal=dict.fromkeys(equal, ""),
        as_of_ns=0 if told[2] else None,
        versions=told[3],
    )
    order = _names(spec, first="ts_event") if spec.key else SQL("ts_event, seq")
    statement, _ = select(spec, wanted, columns, order=order)
    return statement.as_bytes(None)


def select(
    spec: TableSpec, wanted: Wanted, columns: Sequence[str], *, order: Composable | None, below_seq: int | None = None
) -> tuple[Composed, dict[str, Any]]:
    """Return the statement for rows of a table, and its values.

    Args:
        spec: The table.
        wanted: Which rows.
        columns: Which columns.
        order: In which order; None for any.
        below_seq: Only rows of a lower ``seq``.

    Raises:
        ConfigurationError: A column that is compared is not declared or not text.
    """
    where, values = _where(spec, wanted)
    if below_seq is not None:
        where = SQL("{} AND seq < %(below_seq)s").format(where)
        values["below_seq"] = below_seq
    source: Composable = Identifier("mds", spec.relation)
    if spec.key and (wanted.versions or wanted.as_of_ns is not None):
        source = Identifier("mds", spec.versions)
        if wanted.as_of_ns is not None:
            values["as_of_ns"] = wanted.as_of_ns
            form = "known" if wanted.versions else "newest_known"
            source = query(form, versions=source, key=_names(spec, versions=False))
    held = _held(spec)
    statement = query("select", held=held, columns=columns, source=source, where=where, order=order or SQL("1 - 1"))
    return statement, values


# Rows are archived while their table is locked. A cursor takes its snapshot before it locks what lies below a view, so
# with a view alone it would wait with one that shows the rows neither here nor there; what the statement itself names
# is locked when it is parsed. Nothing else comes of naming it: nobody asks for its rows there.
def _held(spec: TableSpec) -> Composable:
    return query("held", table=spec.name) if spec.archivable else SQL("")


# Whether the archive's counts by day and instrument are enough to answer it.
def _is_of_whole_days(wanted: Wanted) -> bool:
    bounds = (wanted.start_ns, START_OF_TIME_NS), (wanted.end_ns, END_OF_TIME_NS)
    return not wanted.equal and all(ts_ns == none or ts_ns % DAY_NS == 0 for ts_ns, none in bounds)


def _where(spec: TableSpec, wanted: Wanted, *, time: str = "ts_event") -> tuple[Composable, dict[str, Any]]:
    terms: list[Composable] = []
    values: dict[str, Any] = {}
    if wanted.start_ns > START_OF_TIME_NS:
        terms.append(SQL("{} >= %(start_ns)s").format(Identifier(time)))
        values["start_ns"] = wanted.start_ns
    if wanted.end_ns < END_OF_TIME_NS:
        terms.append(SQL("{} < %(end_ns)s").format(Identifier(time)))
        values["end_ns"] = wanted.end_ns
    if wanted.vendor is not None:
        terms.append(SQL("vendor = %(vendor)s"))
        values["vendor"] = shown(wanted.vendor)
    if wanted.symbols:
        terms.append(SQL("symbol = ANY(%(symbols)s)"))
        values["symbols"] = [shown(s) for s in wanted.symbols]
    spec.columns(list(wanted.equal))
    for number, (column, value) in enumerate(wanted.equal.items()):
        if not pa.types.is_string(spec.rows_schema.field(column).type):
            raise ConfigurationError(f"column {column} of table {spec.name} is not text")
        terms.append(SQL("{} = {}").format(Identifier(column), Placeholder(f"equal_{number}")))
        values[f"equal_{number}"] = shown(value)
    return SQL(" AND ").join(terms) if terms else SQL("true"), values


def _names(spec: TableSpec, *, first: str | None = None, versions: bool = True) -> Composed:
    names = [first, *(k for k in spec.key if k != first)] if first else list(spec.key)
    parts = SQL(", ").join(Identifier(n) for n in names)
    return SQL("{}, {}").format(parts, _VERSION) if versions else SQL("{}").format(parts)


def _schema(spec: TableSpec, columns: Sequence[str] | None) -> pa.Schema:
    return pa.schema([spec.rows_schema.field(n) for n in spec.columns(columns)])


def from_tuples(rows: Sequence[Sequence[Any]], schema: pa.Schema) -> pa.Table:
    """Return rows as the server gave them in the columns of `schema`."""
    columns = zip(*rows, strict=True) if rows else ([] for _ in schema)
    arrays = [pa.array(c, f.type) for c, f in zip(columns, schema, strict=True)]
    return pa.Table.from_arrays(arrays, schema=schema)


def _batches(
    connection: Connection, statement: Composed | bytes, values: Mapping[str, Any], schema: pa.Schema, batch_rows: int
) -> Iterator[pa.Table]:
    with _cursor(connection) as cursor:
        cursor.execute(statement, values)
        while rows := cursor.fetchmany(batch_rows):
            yield from_tuples(rows, schema)


@contextmanager
def _cursor(connection: Connection) -> Iterator[psycopg.ServerCursor[Any]]:
    # The server's, so that no more than a batch is ever here. The end of the transaction closes it there in any case;
    # here it takes a second call where the first one found the connection dead.
    cursor = connection.cursor("rows", binary=True)
    try:
        yield cursor
    finally:
        for _ in range(2):
            with suppress(psycopg.Error):
                cursor.close()
