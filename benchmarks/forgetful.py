"""A store that takes everything and keeps nothing, so that what comes before it is what is measured."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import pyarrow as pa

from market_data_core.errors import ConfigurationError
from market_data_core.schemas import Kind


class ForgetfulStore:
    """A `Store` of tables that accept rows and forget them.

    Args:
        keep: Keep the rows after all, to compare them.
    """

    def __init__(self, *, keep: bool = False) -> None:
        self.rows: Counter[str] = Counter()
        """How many rows each table was given."""
        self.kept: dict[str, list[pa.Table]] = {}
        self._keep = keep

    def open(self) -> None:
        """Do nothing."""

    def maintain(self) -> Mapping[str, Any]:
        """Do nothing."""
        return {}

    def describe(self) -> Mapping[str, Any]:
        """Return nothing."""
        return {}

    def written(self) -> frozenset[str]:
        """Return nothing: whoever begins again finds no position here."""
        return frozenset()

    def table(self, name: str) -> ForgetfulTable:
        """Return a view of a table; there is one of every name."""
        return ForgetfulTable(self, name)

    def ticks(self, kind: Kind, vendor: str, symbol: str, *, start_ns: int, end_ns: int, below_seq: int) -> pa.Table:
        """Refuse: nothing is kept."""
        del vendor, symbol, start_ns, end_ns, below_seq
        raise ConfigurationError(f"{kind} cannot be read back from a store that forgets")

    def take(self, name: str, rows: pa.Table) -> None:
        """Count rows, and keep them where that was asked for."""
        self.rows[name] += rows.num_rows
        if self._keep:
            self.kept.setdefault(name, []).append(rows)

    def found(self, name: str) -> pa.Table | None:
        """Return the rows of a table that were kept, in the order they came; None if there was none."""
        parts = self.kept.get(name)
        return pa.concat_tables(parts).combine_chunks() if parts else None


class ForgetfulTable:
    """One table of a `ForgetfulStore`."""

    def __init__(self, store: ForgetfulStore, name: str) -> None:
        self._store = store
        self.name = name

    def position(self, writer: str) -> None:
        """Return None: no commit is remembered."""
        del writer

    def covers(self, writer: str) -> dict[str, int]:
        """Return nothing: no commit is remembered."""
        del writer
        return {}

    def append(self, rows: pa.Table, *, writer: str, position: int, covers: Mapping[str, int]) -> None:
        """Take rows and forget them."""
        del writer, position, covers
        self._store.take(self.name, rows)
