"""TimescaleDB, where it is: an archive of closed days, compressed and counted.

It neither compresses nor aggregates tables that have row level security, which all of ours do. So those stay as they
are, and whole days that are over move from them into hypertables that only the schema's owner may read. Others read
them through views that show a tenant its own rows: ``mds.<table>_all`` has all rows, ``mds.archived_days`` how many an
instrument has by day. Without the extension the same views are there and the archive is empty.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import psycopg
from psycopg.sql import Literal

from market_data_core.errors import ConfigurationError
from market_data_store.postgres.connect import Connection, connect
from market_data_store.postgres.declarations import DAY_NS, TABLES, TableSpec, spec_of
from market_data_store.postgres.errors import translated
from market_data_store.postgres.queries import QUERIES, archive_sql, query

_OLDEST: Final = (2, 18)  # the columnstore by the names that are used here


@dataclass(frozen=True, slots=True, kw_only=True)
class Archived:
    """What one call moved into the archive.

    Attributes:
        days: The days whose rows moved, such as ``20240131``, ascending; one twice where a former call was cut off and
            rows came to it since.
        rows: How many rows.
        chunks: How many days were compressed; those without rows are not.
        bytes_before: What the rows took with their indexes.
        bytes_after: What those days take in the archive; with what they had there before, where late rows came to them.
    """

    days: tuple[str, ...] = ()
    rows: int = 0
    chunks: int = 0
    bytes_before: int = 0
    bytes_after: int = 0


def timescale_version(dsn: str) -> str | None:
    """Return the version of TimescaleDB that is installed in a database; None where it is not, offered or no.

    Raises:
        ConfigurationError: The dsn is malformed.
        TemporaryUnavailable: The server is away.
    """
    with (
        translated("asking for TimescaleDB"),
        connect(dsn) as connection,
    ):
        found = connection.execute(QUERIES["timescale"]).fetchone()
    return None if found is None else str(found[0])


def make_archive(connection: psycopg.Connection[Any]) -> bool:
    """Make or renew the archive within a transaction, and return whether there is one.

    There is none where the schema is one without, or where TimescaleDB is missing, too old, or without its columnstore.
    """
    possible = connection.execute(QUERIES["archive_possible"]).fetchone()
    if possible is None or not possible[0] or _refusal(connection) is not None:
        return False
    connection.execute(archive_sql())
    return True


def archive(dsn: str, table: str, *, before_ns: int) -> Archived:
    """Move the closed days of a table, of all tenants, into the archive, and return what was moved.

    Whole days in UTC go, from the oldest on, each by itself. Its rows are read at any moment, and once: they are taken
    out of their table, which waits up to five seconds for who uses it and then takes no time; then they are moved and
    compressed while others read on; then readers of the table are waited for once more. What a crash leaves undone the
    next call finishes, whatever its `before_ns`. Rows that come late to an archived day are stored beside it, read with
    it, and moved by the next call. Appends to a day that was just taken fail once and work when tried again.

    Args:
        dsn: Of the owner of the schema, or of a superuser.
        table: One whose rows are events, in partitions of days, such as ``trades``.
        before_ns: By ``ts_event``, UTC nanoseconds, exclusive; days that are not over stay in any case, and so do the
            first and the last that 64 bits can say.

    Raises:
        ConfigurationError: No such table is declared or it cannot be archived, the database has no TimescaleDB that
            can do it, its archive was not made yet, or the role is not the owner.
        TemporaryUnavailable: The server is away, somebody else archives or drops days, or somebody uses the table for
            longer. Days before this one were moved; of this one every row is where it can be read.
    """
    spec = spec_of(table)
    if not spec.archivable:
        able = ", ".join(n for n, s in TABLES.items() if s.archivable)
        raise ConfigurationError(f"table {table} cannot be archived; those that can: {able}")
    with (
        translated(f"archiving table {table}"),
        connect(dsn) as connection,
    ):
        _check(connection)
        connection.execute(QUERIES["archive_settings"])
        connection.execute(QUERIES["archive_alone"])
        settled = list(_settling(connection, spec, min(before_ns, time.time_ns())))
        _aggregate(connection, table)
    return Archived(
        days=tuple(sorted(day for day, *_ in settled)),
        rows=sum(rows for _, rows, _, _ in settled),
        chunks=sum(after > 0 for *_, after in settled),
        bytes_before=sum(before for _, _, before, _ in settled),
        bytes_after=sum(after for *_, after in settled),
    )


def _refusal(connection: psycopg.Connection[Any]) -> str | None:
    found = connection.execute(QUERIES["timescale"]).fetchone()
    return why_no_archive(*(found or (None, None)))


def why_no_archive(version: str | None, licence: str | None) -> str | None:
    """Return why a database can have no archive; None where it can.

    Args:
        version: Of TimescaleDB, as the extension says it, such as ``2.29.2``; None where it is not installed.
        licence: What ``timescaledb.license`` is set to.
    """
    if version is None:
        return "closed days are archived by TimescaleDB only, which this database does not have"
    oldest = ".".join(map(str, _OLDEST))
    if tuple(int(n) for n in re.findall(r"\d+", version)[:2]) < _OLDEST:
        return f"closed days are archived by TimescaleDB {oldest} or later; this database has {version}"
    if licence == "apache":
        return f"closed days are archived by a columnstore, which TimescaleDB {version} lacks under the licence apache"
    return None


def _check(connection: Connection) -> None:
    if (why := _refusal(connection)) is not None:
        raise ConfigurationError(why)
    found = connection.execute(QUERIES["archive_owner"]).fetchone()
    if found is None:
        raise ConfigurationError("this database has no archive yet; `mds migrate` makes it")
    may, owner = found
    if not may:
        raise ConfigurationError(f"only {owner}, the owner of the schema, may archive")


def _settling(connection: Connection, spec: TableSpec, before_ns: int) -> Iterator[tuple[str, int, int, int]]:
    # Gives of each day its rows and its bytes before and after. What was taken before comes first: a day that is taken
    # again would have the same name.
    for name in _names(connection, "archive_incoming", spec):
        yield _settle(connection, spec, name)
    for name in sorted(_names(connection, "partitions_of", spec)):
        first_ns, end_ns = spec.bounds_of(_day(spec, name))
        if first_ns > -(2**63) and end_ns <= before_ns:
            connection.execute(QUERIES["archive_take"], (spec.name, name))
            yield _settle(connection, spec, name)


def _names(connection: Connection, statement: str, spec: TableSpec) -> list[str]:
    return [str(row[0]) for row in connection.execute(QUERIES[statement], (spec.name,))]


def _day(spec: TableSpec, partition: str) -> str:
    return partition.removeprefix(f"{spec.name}_")


def _settle(connection: Connection, spec: TableSpec, name: str) -> tuple[str, int, int, int]:
    found: Any = connection.execute(QUERIES["archive_settle"], (spec.name, name)).fetchone()
    return _day(spec, name), *found


def _aggregate(connection: Connection, table: str) -> None:
    stale: list[Any] = connection.execute(QUERIES["archive_stale"], (table,)).fetchall()
    for (day_ns,) in stale:
        aggregate = Literal(f"mds_archive.{table}_days")
        bounds = Literal(day_ns), Literal(day_ns + DAY_NS)
        connection.execute(query("archive_aggregate", aggregate=aggregate, first_ns=bounds[0], end_ns=bounds[1]))
        # From here on the aggregate is asked for that day, not the rows.
        connection.execute(QUERIES["archive_aggregated"], (table, day_ns))
