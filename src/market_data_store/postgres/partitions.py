"""Partitions of tables, made when rows need them."""

from __future__ import annotations

from collections.abc import Mapping

from market_data_store.postgres.connect import Connections
from market_data_store.postgres.declarations import TableSpec
from market_data_store.postgres.queries import QUERIES


class Partitions:
    """Makes the partitions of tables, and remembers which it has seen. Safe to use from several threads."""

    def __init__(self, connections: Connections) -> None:
        self._connections = connections
        self._seen: set[tuple[str, str]] = set()

    def ensure(self, spec: TableSpec, wanted: Mapping[str, int]) -> int:
        """Make those of `wanted`, as `TableSpec.partitions` gives them, that are missing; return how many were made.

        Each is a transaction of its own, so that no lock is held while rows are written.

        Raises:
            TemporaryUnavailable: The server is away.
        """
        missing = {n: ts_ns for n, ts_ns in wanted.items() if (spec.name, n) not in self._seen}
        if not missing:
            return 0
        made = 0
        with self._connections.lend(f"making partitions of table {spec.name}") as connection:
            for name, ts_ns in missing.items():
                found = connection.execute(QUERIES["partition"], (spec.name, ts_ns)).fetchone()
                made += bool(found and found[0])
                self._seen.add((spec.name, name))
        return made

    def forget(self) -> None:
        """Look again; somebody may have dropped what was there."""
        self._seen.clear()
