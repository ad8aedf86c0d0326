"""Versions of keyed rows: the current one in a table, those that it took the place of beside it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import stamina
from psycopg.sql import SQL, Composed, Identifier

from market_data_core.errors import ConfigurationError, MarketDataError
from market_data_core.steps import Step, reached
from market_data_store.backend import Upserted
from market_data_store.postgres.connect import Connection, Connections
from market_data_store.postgres.declarations import TABLES, TableSpec, spec_of
from market_data_store.postgres.partitions import Partitions
from market_data_store.postgres.queries import QUERIES, query
from market_data_store.postgres.staging import by_given_order, by_version, stage_versions

# Somebody else was in the way: serialization, deadlock, and a partition that was dropped while we wrote to it.
_IN_THE_WAY: Final = re.compile("40001|40P01|23514")


class Versions:
    """Adds versions to the keyed tables of one tenant. Safe to use from several threads."""

    def __init__(self, connections: Connections, partitions: Partitions) -> None:
        self._connections = connections
        self._partitions = partitions

    def upsert(self, table: str, rows: pa.Table, *, now_ns: int) -> Upserted:
        """Add versions; see `market_data_store.backend.Backend.upsert`."""
        spec = spec_of(table)
        if not spec.key:
            keyed = ", ".join(n for n, s in TABLES.items() if s.key)
            raise ConfigurationError(f"table {table} has no key, so its rows have no versions; those that do: {keyed}")
        spec.check_columns(rows)
        spec.check_values(rows, not_null=tuple(dict.fromkeys((*spec.key, "ts_event"))))
        if rows.num_rows == 0:
            return Upserted()
        restored = rows.column("revision").is_valid().to_numpy()
        rows = _filled(rows, now_ns)
        arranged = by_given_order(spec, rows)
        # Even turns say what is true now, odd ones restore; a row comes after those of its key that were given before.
        turn = (2 * arranged.place + restored[arranged.order]).astype(np.int32)

        def once() -> Upserted:
            self._partitions.ensure(spec, spec.partitions(rows))
            with self._connections.lend(f"upserting into table {table}") as connection:
                with connection.transaction():
                    stage_versions(connection, spec, rows, arranged.order, turn)
                    done = _write(connection, spec, turn)
                    if stored := done.inserted + done.revised:
                        connection.execute(QUERIES["upserts_count"], (table, stored))
                    reached(Step.DATA_FILE_WRITTEN)
                reached(Step.TABLE_COMMITTED)
            return done

        return self._again_if_in_the_way(once)

    def _again_if_in_the_way(self, once: Any) -> Upserted:
        def in_the_way(exc: Exception) -> bool:
            self._partitions.forget()
            return (
                isinstance(exc, MarketDataError)
                and exc.retryable
                and _IN_THE_WAY.fullmatch(str(exc.details.get("sqlstate"))) is not None
            )

        done: Upserted = stamina.retry(
            on=in_the_way, attempts=8, timeout=30.0, wait_initial=0.01, wait_max=0.5, wait_jitter=0.05
        )(once)()
        return done


def append_versions(connection: Connection, spec: TableSpec, rows: pa.Table) -> int:
    """Add versions that a writer made, within its transaction; return how many are current now or were for a moment.

    A version counts if it is newer than the stored one, by (revision, ts_known, seq), and its values differ.
    """
    arranged = by_version(spec, rows)
    stage_versions(connection, spec, rows, arranged.order, arranged.place.astype(np.int32))
    turns = range(int(arranged.place.max()) + 1)
    return sum(connection.execute(_statement("append_versions", spec.name, turn)).rowcount for turn in turns)


def _filled(rows: pa.Table, now_ns: int) -> pa.Table:
    for name, value in (("ts_recv", now_ns), ("seq", 0)):
        rows = _with(rows, name, pc.fill_null(rows.column(name), value))
    # When a version that is restored became known may be unknown.
    told = pc.and_(rows.column("ts_known").is_null(), rows.column("revision").is_null())
    rows = _with(rows, "ts_known", pc.if_else(told, pa.scalar(now_ns, pa.int64()), rows.column("ts_known")))
    return _with(rows, "revision", pc.fill_null(rows.column("revision"), 0))


def _with(rows: pa.Table, name: str, values: Any) -> pa.Table:
    at = rows.schema.get_field_index(name)
    return rows.set_column(at, rows.schema.field(at), values.cast(rows.schema.field(at).type))


def _write(connection: Connection, spec: TableSpec, turn: np.typing.NDArray[np.int32]) -> Upserted:
    done = Upserted()
    for number, rows in zip(*(part.tolist() for part in np.unique(turn, return_counts=True)), strict=True):
        done += (_restore if number % 2 else _tell)(connection, spec, number, rows)
    return done


def _tell(connection: Connection, spec: TableSpec, turn: int, rows: int) -> Upserted:
    found: Any = connection.execute(_statement("upsert_versions", spec.name, turn)).fetchone()
    inserted, revised = found
    return Upserted(inserted=inserted, revised=revised, unchanged=rows - inserted - revised)


def _restore(connection: Connection, spec: TableSpec, turn: int, rows: int) -> Upserted:
    inserted = connection.execute(_statement("restore_new", spec.name, turn)).rowcount
    if inserted == rows:
        return Upserted(inserted=inserted)
    # The keys are locked now, whether they get a newer version or not, so what is older stays so.
    revised = connection.execute(_statement("restore_newer", spec.name, turn)).rowcount
    revised += connection.execute(_statement("restore_older", spec.name, turn)).rowcount
    return Upserted(inserted=inserted, revised=revised, unchanged=rows - inserted - revised)


def _statement(name: str, table: str, turn: int) -> Composed:
    return query(name, turn=turn, **_parts(name, table))


@cache
def _parts(name: str, table: str) -> dict[str, str | Sequence[str] | Composed]:
    spec = TABLES[table]
    changed = [n for n in spec.rows_schema.names if n not in spec.key]
    if name == "upsert_versions":
        changed.remove("revision")
    return {
        "table": table,
        "superseded": f"{table}_superseded",
        "versions": spec.versions,
        "staging": f"staging_{table}",
        "columns": spec.rows_schema.names,
        "key": spec.key,
        "changes": SQL(", ").join(SQL("{0} = excluded.{0}").format(Identifier(n)) for n in changed),
        "new_values": SQL(", ").join(Identifier("excluded", n) for n in spec.values),
        "old_values": SQL(", ").join(Identifier("b", n) for n in spec.values),
        "same_key": SQL(" AND ").join(SQL("b.{0} = s.{0}").format(Identifier(n)) for n in spec.key),
    }
