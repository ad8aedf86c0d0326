"""Versions of keyed rows: the current one in a table, those that it took the place of beside it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import stamina
from psycopg.sql import SQL, Composed, Identifier

from market_data_core.errors import ConfigurationError, MarketDataError
from market_data_core.steps import Step, reached
from market_data_store.backend import Upserted
from market_data_store.postgres.connect import Connections
from market_data_store.postgres.declarations import TABLES, TableSpec, spec_of
from market_data_store.postgres.partitions import Partitions, SeenPartitions
from market_data_store.postgres.prices import noting_last
from market_data_store.postgres.queries import QUERIES, query
from market_data_store.postgres.staging import Ints, by_given_order, by_version, staging_versions
from market_data_store.postgres.talk import Execute, Talk, talk

# Somebody else was in the way: serialization, deadlock, and a partition that was dropped while we wrote to it.
_IN_THE_WAY: Final = re.compile("40001|40P01|23514")


class Versions:
    """Adds versions to the keyed tables of one tenant. Safe to use from several threads."""

    def __init__(self, connections: Connections, partitions: Partitions) -> None:
        self._connections = connections
        self._partitions = partitions

    def upsert(self, table: str, rows: pa.Table, *, now_ns: int) -> Upserted:
        """Add versions; see `market_data_store.backend.Backend.upsert`."""
        told = arranged_versions(table, rows, now_ns=now_ns)

        def once() -> Upserted:
            self._partitions.ensure(told.spec, told.partitions)
            with self._connections.lend(f"upserting into table {table}") as connection:
                with connection.transaction():
                    done = talk(connection, told.upserting())
                    reached(Step.DATA_FILE_WRITTEN)
                reached(Step.TABLE_COMMITTED)
            return done

        return again_if_in_the_way(self._partitions)(once)() if told.rows.num_rows else Upserted()


@dataclass(frozen=True, slots=True, kw_only=True)
class ArrangedVersions:
    """Rows that are to be upserted, checked and in the order in which they are written.

    Attributes:
        spec: Of which table.
        rows: As they were given, with what the store settles filled in.
        order: Which row stands where.
        turn: By row, as it stands there, when it is written: even turns say what is true now, odd ones restore.
        partitions: Those that they need, as `TableSpec.partitions` gives them.
    """

    spec: TableSpec
    rows: pa.Table
    order: Ints
    turn: npt.NDArray[np.int32]
    partitions: Mapping[str, int]

    def upserting(self) -> Talk[Upserted]:
        """Write them, within a transaction."""
        yield from staging_versions(self.spec, self.rows, self.order, self.turn)
        done = yield from _writing(self.spec, self.turn)
        if stored := done.inserted + done.revised:
            yield from noting_last(self.spec, self.rows)
            yield Execute(QUERIES["upserts_count"], (self.spec.name, stored))
        return done


def arranged_versions(table: str, rows: pa.Table, *, now_ns: int) -> ArrangedVersions:
    """Check and arrange rows that are to be upserted; raises what `market_data_store.backend.Backend.upsert` says."""
    spec = spec_of(table)
    if not spec.key:
        keyed = ", ".join(n for n, s in TABLES.items() if s.key)
        raise ConfigurationError(f"table {table} has no key, so its rows have no versions; those that do: {keyed}")
    spec.check_columns(rows)
    spec.check_values(rows, not_null=tuple(dict.fromkeys((*spec.key, "ts_event"))))
    restored = rows.column("revision").is_valid().to_numpy()
    rows = _filled(rows, now_ns)
    arranged = by_given_order(spec, rows)
    # A row comes after those of its key that were given before.
    turn = (2 * arranged.place + restored[arranged.order]).astype(np.int32)
    return ArrangedVersions(spec=spec, rows=rows, order=arranged.order, turn=turn, partitions=spec.partitions(rows))


def again_if_in_the_way(partitions: SeenPartitions) -> Any:
    """Return what makes a function, of an event loop or not, be called again where somebody else was in its way."""

    def in_the_way(exc: Exception) -> bool:
        partitions.forget()
        return (
            isinstance(exc, MarketDataError)
            and exc.retryable
            and _IN_THE_WAY.fullmatch(str(exc.details.get("sqlstate"))) is not None
        )

    return stamina.retry(on=in_the_way, attempts=8, timeout=30.0, wait_initial=0.01, wait_max=0.5, wait_jitter=0.05)


def appending_versions(spec: TableSpec, rows: pa.Table) -> Talk[int]:
    """Add versions that a writer made, within its transaction; return how many are current now or were for a moment.

    A version counts if it is newer than the stored one, by (revision, ts_known, seq), and its values differ.
    """
    arranged = by_version(spec, rows)
    yield from staging_versions(spec, rows, arranged.order, arranged.place.astype(np.int32))
    stored = 0
    for turn in range(int(arranged.place.max()) + 1):
        stored += (yield Execute(_statement("append_versions", spec.name, turn))).count
    if stored:
        yield from noting_last(spec, rows)
    return stored


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


def _writing(spec: TableSpec, turn: npt.NDArray[np.int32]) -> Talk[Upserted]:
    done = Upserted()
    for number, rows in zip(*(part.tolist() for part in np.unique(turn, return_counts=True)), strict=True):
        done += yield from (_restoring if number % 2 else _telling)(spec, number, rows)
    return done


def _telling(spec: TableSpec, turn: int, rows: int) -> Talk[Upserted]:
    found = yield Execute(_statement("upsert_versions", spec.name, turn))
    inserted, revised = found.rows[0]
    return Upserted(inserted=inserted, revised=revised, unchanged=rows - inserted - revised)


def _restoring(spec: TableSpec, turn: int, rows: int) -> Talk[Upserted]:
    inserted = (yield Execute(_statement("restore_new", spec.name, turn))).count
    if inserted == rows:
        return Upserted(inserted=inserted)
    # The keys are locked now, whether they get a newer version or not, so what is older stays so.
    revised = (yield Execute(_statement("restore_newer", spec.name, turn))).count
    revised += (yield Execute(_statement("restore_older", spec.name, turn))).count
    return Upserted(inserted=inserted, revised=revised, unchanged=rows - inserted - revised)


# As text, because putting one together takes longer than a small statement itself.
@lru_cache(maxsize=256)
def _statement(name: str, table: str, turn: int) -> bytes:
    return query(name, turn=turn, **_parts(name, table)).as_bytes(None)


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
