"""The tables of the database as writers see them: columns, keys, partitions, and what may be stored."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Final, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from market_data_core.errors import ConfigurationError, SchemaValidationError
from market_data_core.schemas import KEYS, STORED_SCHEMAS, VERSION_COLUMNS, Kind, Record

DAY_NS: Final = 86_400 * 1_000_000_000

NOT_NULL: Final = ("ts_event", "ts_recv", "seq")
"""Columns that place a row in time and in the log; a stored row has them all."""

_EPOCH: Final = date(1970, 1, 1)
# What says how a row came to us, and of which version it is; two rows that differ in no more say the same.
_ABOUT: Final = frozenset({"flags", "origin", "ts_recv", "seq", *VERSION_COLUMNS})


@dataclass(frozen=True, slots=True, kw_only=True)
class TableSpec:
    """One declared table.

    Attributes:
        name: Such as ``trades``.
        rows_schema: Columns that writers hand in and readers get; the table has a ``tenant_id`` before them.
        key: What makes two rows versions of the same thing; empty where rows are events.
        dated_by: The time column, UTC nanoseconds, that decides the partition.
        unit: How much time a partition covers, in UTC; `mds.partition_unit` must say the same. None: no partitions.
    """

    name: str
    rows_schema: pa.Schema
    key: tuple[str, ...] = ()
    dated_by: str = "ts_event"
    unit: Literal["day", "month"] | None = "day"

    @property
    def versions(self) -> str:
        """The relation with every version of a keyed table; the table itself where rows are events."""
        return f"{self.name}_versions" if self.key else self.name

    @property
    def archivable(self) -> bool:
        """Whether closed days can be archived: rows are events, in partitions of a day by the time of the event."""
        return not self.key and self.unit == "day" and self.dated_by == "ts_event"

    @property
    def relation(self) -> str:
        """The relation to read rows from, archived ones too; of a keyed table it has the current versions."""
        return f"{self.name}_all" if self.archivable else self.name

    @property
    def values(self) -> tuple[str, ...]:
        """Columns of a keyed table in which two versions have to differ to be two."""
        return tuple(n for n in self.rows_schema.names if n not in _ABOUT and n not in self.key)

    def check(self, rows: pa.Table) -> None:
        """Raise SchemaValidationError, saying row and column, unless `rows` can be stored as they are."""
        self.check_columns(rows)
        self.check_values(rows, not_null=NOT_NULL)

    def check_columns(self, rows: pa.Table) -> None:
        """Raise SchemaValidationError unless `rows` have the declared columns."""
        if rows.schema.equals(self.rows_schema):
            return
        wrong = next((f.name for f in self.rows_schema if f not in list(rows.schema)), None)
        raise SchemaValidationError(
            f"rows for table {self.name} have columns {rows.schema.names} of types "
            f"{[str(t) for t in rows.schema.types]}; declared: {self.rows_schema}",
            details={} if wrong is None else {"column": wrong},
        )

    def check_values(self, rows: pa.Table, *, not_null: tuple[str, ...]) -> None:
        """Raise SchemaValidationError unless `rows` have a value in every column of `not_null`, and nowhere a NaN."""
        for name in not_null:
            if rows.column(name).null_count:
                self._refuse(pc.is_null(rows.column(name)), name, "null")
        for field in self.rows_schema:
            if pa.types.is_floating(field.type):
                nan = pc.is_nan(rows.column(field.name))
                if pc.any(nan).as_py():
                    self._refuse(nan, field.name, "NaN")

    def _refuse(self, wrong: pa.ChunkedArray, column: str, what: str) -> None:
        row = pc.index(wrong, value=True).as_py()
        raise SchemaValidationError(
            f"rows for table {self.name}: row {row} has {what} in {column}",
            details={"row": row, "column": column},
        )

    def partitions(self, rows: pa.Table) -> dict[str, int]:
        """Return, by a name of the partition within the table, one time that falls into it, UTC nanoseconds."""
        if self.unit is None:
            return {}
        days = np.unique(rows.column(self.dated_by).to_numpy() // DAY_NS).tolist()
        return {self.partition_of(day * DAY_NS): max(day * DAY_NS, -(2**63)) for day in days}

    def partition_of(self, ts_ns: int) -> str:
        """Return the name, within the table, of the partition a time falls into, such as ``20240131``."""
        day = _EPOCH + timedelta(days=ts_ns // DAY_NS)
        return day.strftime("%Y%m%d" if self.unit == "day" else "%Y%m")

    def bounds_of(self, partition: str) -> tuple[int, int]:
        """Return what a partition of that name covers, UTC nanoseconds, the end exclusive, within what 64 bits hold."""
        year, month = int(partition[:4]), int(partition[4:6])
        first = date(year, month, int(partition[6:] or 1))
        end = first + timedelta(days=1) if self.unit == "day" else date(year + month // 12, month % 12 + 1, 1)
        low, high = ((day - _EPOCH).days * DAY_NS for day in (first, end))
        return max(low, -(2**63)), min(high, 2**63 - 1)

    def columns(self, names: Sequence[str] | None) -> list[str]:
        """Return `names`, or all columns for None.

        Raises:
            ConfigurationError: There is no column of that name; says which.
        """
        wanted = self.rows_schema.names if names is None else list(names)
        unknown = [n for n in wanted if n not in self.rows_schema.names]
        if unknown:
            raise ConfigurationError(
                f"table {self.name} has no column {', '.join(map(repr, unknown))}; "
                f"there are: {', '.join(self.rows_schema.names)}"
            )
        return wanted


_UNITS: Final[dict[str, Literal["month"] | None]] = {
    Kind.BARS: "month",
    Kind.DEFINITIONS: "month",
    Kind.STATUS: "month",
    Record.OPTION_SNAPSHOTS: "month",
    # Few rows over many years.
    Record.FUNDAMENTALS: None,
    Record.CORPORATE_ACTIONS: None,
    # Its key has no time, and a key of a partitioned table must have that of its partitions.
    Record.NEWS: None,
}

TABLES: Final[dict[str, TableSpec]] = {
    name: TableSpec(
        name=name,
        rows_schema=schema,
        key=KEYS.get(name, ()),
        # What could not be parsed has no trustworthy event time.
        dated_by="ts_recv" if name == Kind.QUARANTINE else "ts_event",
        unit=_UNITS.get(name, "day"),
    )
    for name, schema in STORED_SCHEMAS.items()
}
"""Every table for rows, by name."""


def spec_of(name: str) -> TableSpec:
    """Return the declaration of a table.

    Raises:
        ConfigurationError: No table of that name is declared; names those that are.
    """
    spec = TABLES.get(name)
    if spec is None:
        raise ConfigurationError(f"no table {name!r} is declared in PostgreSQL; there are: {', '.join(TABLES)}")
    return spec
