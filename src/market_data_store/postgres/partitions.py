"""Partitions of tables, made when rows need them."""

from __future__ import annotations

from collections.abc import Mapping

from market_data_store.postgres.connect import Connections
from market_data_store.postgres.declarations import TableSpec
from market_data_store.postgres.queries import QUERIES
from market_data_store.postgres.talk import Execute, Talk, talk


class SeenPartitions:
    """Knows which partitions of tables were seen, and how the others are made. Safe to use from several threads."""

    def __init__(self) -> None:
        self._seen: set[tuple[str, str]] = set()

    def missing(self, spec: TableSpec, wanted: Mapping[str, int]) -> dict[str, int]:
        """Return those of `wanted`, as `TableSpec.partitions` gives them, that were not seen yet."""
        return {n: ts_ns for n, ts_ns in wanted.items() if (spec.name, n) not in self._seen}

    def making(self, spec: TableSpec, wanted: Mapping[str, int]) -> Talk[int]:
        """Make those of `wanted` that are missing; return how many were made. Each is a transaction of its own."""
        made = 0
        for name, ts_ns in self.missing(spec, wanted).items():
            found = yield Execute(QUERIES["partition"], (spec.name, ts_ns))
            made += bool(found.rows[0][0])
            self._seen.add((spec.name, name))
        return made

    def forget(self) -> None:
        """Look again; somebody may have dropped what was there."""
        self._seen.clear()


class Partitions(SeenPartitions):
    """Makes the partitions of tables, and remembers which it has seen. Safe to use from several threads."""

    def __init__(self, connections: Connections) -> None:
        super().__init__()
        self._connections = connections

    def ensure(self, spec: TableSpec, wanted: Mapping[str, int]) -> int:
        """Make those of `wanted`, as `TableSpec.partitions` gives them, that are missing; return how many were made.

        Each is a transaction of its own, so that no lock is held while rows are written.

        Raises:
            TemporaryUnavailable: The server is away.
        """
        if not self.missing(spec, wanted):
            return 0
        with self._connections.lend(f"making partitions of table {spec.name}") as connection:
            return talk(connection, self.making(spec, wanted))
