"""One table of the database as a writer sees it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pyarrow as pa
from psycopg.types.json import Jsonb

from market_data_core.errors import ConfigurationError, MarketDataError, TemporaryUnavailable, WriterConflict
from market_data_core.steps import Step, reached
from market_data_store.postgres.connect import Connection, Connections
from market_data_store.postgres.declarations import TableSpec
from market_data_store.postgres.partitions import Partitions
from market_data_store.postgres.prices import noting_last
from market_data_store.postgres.queries import QUERIES, query
from market_data_store.postgres.staging import staging
from market_data_store.postgres.talk import Execute, Talk, talk
from market_data_store.postgres.versions import appending_versions


class PostgresTable:
    """A view of one table at one moment, through which its writers commit.

    It advances with its own commits alone, which is how a commit that somebody else made as the same writer is
    noticed; of other writers it shows what they had committed when it was opened. Used by one thread at a time. After
    an error from `append` take a fresh view from the store.
    """

    def __init__(self, connections: Connections, partitions: Partitions, spec: TableSpec) -> None:
        self._connections = connections
        self._partitions = partitions
        self._spec = spec
        self._dead = False
        self._positions: dict[str, int] = {}
        self._commits: dict[str, int] = {}
        self._covers: dict[str, dict[str, int]] = {}
        with connections.lend(f"opening table {spec.name}") as connection:
            rows: list[Any] = connection.execute(QUERIES["checkpoints_of"], (spec.name,)).fetchall()
        for writer, position, covers, commits in rows:
            self._positions[writer] = position
            self._covers[writer] = covers
            self._commits[writer] = commits

    @property
    def name(self) -> str:
        """The table's name, such as ``trades``."""
        return self._spec.name

    def position(self, writer: str) -> int | None:
        """Return the exclusive end position of `writer`'s last commit, or None if it never made one."""
        return self._positions.get(writer)

    def covers(self, writer: str) -> dict[str, int]:
        """Return, by source id, the exclusive end of what `writer` had seen at its last commit."""
        return dict(self._covers.get(writer, {}))

    def append(self, rows: pa.Table, *, writer: str, position: int, covers: Mapping[str, int]) -> None:
        """Add rows and the writer's position in one transaction.

        Of a keyed row, such as a bar, only a version newer than the stored one counts, by (revision, ts_known, seq),
        and only if its values differ; the version it takes the place of is kept beside.

        Args:
            rows: In the table's declared columns, any order; may be empty, to move the position alone. The character
                NUL, which PostgreSQL cannot hold, is stored as U+2400.
            writer: Who commits; one writer has one position. Not empty.
            position: Exclusive end position in the log; not below the last one.
            covers: By source id, the exclusive end of what the writer has seen; only those that moved.

        Raises:
            WriterConflict: Somebody else committed as this writer, or the position lies below the last one.
            TemporaryUnavailable: The server did not take it; nothing, or the whole commit, is there.
            SchemaValidationError: The rows are not in the table's columns, lack a time or seq, or have a NaN.
            ConfigurationError: The writer's name is empty, or the role lacks a right.
        """
        if not writer:
            raise ConfigurationError(f"the writer of table {self.name} has no name")
        if self._dead:
            raise TemporaryUnavailable(f"this view of table {self.name} failed before; take a fresh one")
        self._spec.check(rows)
        last = self.position(writer)
        if last is not None and position < last:
            raise WriterConflict(f"{writer} would move back from {last} to {position} in table {self.name}")
        try:
            self._partitions.ensure(self._spec, self._spec.partitions(rows))
            with self._connections.lend(f"appending to table {self.name}") as connection:
                with connection.transaction():
                    self._claim(connection, writer, position)
                    stored = self._insert(connection, rows)
                    moved = (position, Jsonb(dict(covers)), stored, writer, self.name)
                    connection.execute(QUERIES["checkpoint_move"], moved)
                    reached(Step.DATA_FILE_WRITTEN)
                reached(Step.TABLE_COMMITTED)
        except MarketDataError:
            self._dead = True
            self._partitions.forget()
            raise
        self._positions[writer] = position
        self._commits[writer] = self._commits.get(writer, 0) + 1
        self._covers[writer] = {**self._covers.get(writer, {}), **covers}
        reached(Step.TABLE_SYNCED)

    def _claim(self, connection: Connection, writer: str, position: int) -> None:
        # Whoever else commits as this writer waits here until we are through, and then sees that it moved.
        expected = self.position(writer)
        if expected is None:
            made = connection.execute(QUERIES["checkpoint_make"], (writer, self.name, position)).fetchone()
            if made is None:
                raise WriterConflict(f"somebody else committed to table {self.name} as {writer}, which had no position")
            return
        found = connection.execute(QUERIES["checkpoint_lock"], (writer, self.name)).fetchone()
        # Commits are counted because one may leave the position where it is.
        if found is None or found != (expected, self._commits[writer]):
            at = found[0] if found else None
            raise WriterConflict(f"somebody else moved {writer} to {at} in table {self.name}; it was at {expected}")

    def _insert(self, connection: Connection, rows: pa.Table) -> int:
        if rows.num_rows == 0:
            return 0
        if self._spec.key:
            return talk(connection, appending_versions(self._spec, rows))
        return talk(connection, self._appending(rows))

    def _appending(self, rows: pa.Table) -> Talk[int]:
        yield from staging(self._spec, rows)
        names = {"table": self.name, "staging": f"staging_{self.name}", "columns": rows.schema.names}
        stored = yield Execute(query("insert_rows", **names).as_bytes(None))
        yield from noting_last(self._spec, rows)
        return stored.count
