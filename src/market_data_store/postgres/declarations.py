"""The tables of the database as writers see them: columns, partitions, and what may be stored."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, timedelta
from typing import Final, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from market_data_core.errors import ConfigurationError, SchemaValidationError
from market_data_core.schemas import TABLE_SCHEMAS, Kind

DAY_NS: Final = 86_400 * 1_000_000_000

NOT_NULL: Final = ("ts_event", "ts_recv", "seq")
"""Columns that place a row in time and in the log; a stored row has them all."""

_EPOCH: Final = date(1970, 1, 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class TableSpec:
    """One declared table.

    Attributes:
        kind: What its rows are; also its name.
        dated_by: The time column, UTC nanoseconds, that decides the partition.
        unit: How much time a partition covers, in UTC; `mds.ensure_partition` must say the same.
    """

    kind: Kind
    dated_by: str = "ts_event"
    unit: Literal["day", "month"] = "day"

    @property
    def name(self) -> str:
        """The table's name, such as ``trades``."""
        return str(self.kind)

    @property
    def rows_schema(self) -> pa.Schema:
        """Columns that writers hand in and readers get; the table has a ``tenant_id`` before them."""
        return TABLE_SCHEMAS[self.kind]

    def check(self, rows: pa.Table) -> None:
        """Raise SchemaValidationError unless `rows` can be stored as they are."""
        if not rows.schema.equals(self.rows_schema):
            raise SchemaValidationError(
                f"rows for table {self.name} have columns {rows.schema.names} of types "
                f"{[str(t) for t in rows.schema.types]}; declared: {self.rows_schema}"
            )
        for column in NOT_NULL:
            if rows.column(column).null_count:
                raise SchemaValidationError(f"rows for table {self.name} have nulls in {column}")
        for field in self.rows_schema:
            if pa.types.is_floating(field.type) and pc.any(pc.is_nan(rows.column(field.name))).as_py():
                raise SchemaValidationError(f"rows for table {self.name} have NaN in {field.name}; absent is null")

    def partitions(self, rows: pa.Table) -> dict[str, int]:
        """Return, by a name of the partition within the table, one time that falls into it, UTC nanoseconds."""
        days = np.unique(rows.column(self.dated_by).to_numpy() // DAY_NS).tolist()
        return {self.partition_of(day * DAY_NS): max(day * DAY_NS, -(2**63)) for day in days}

    def partition_of(self, ts_ns: int) -> str:
        """Return the name, within the table, of the partition a time falls into, such as ``20240131``."""
        day = _EPOCH + timedelta(days=ts_ns // DAY_NS)
        return day.strftime("%Y%m%d" if self.unit == "day" else "%Y%m")


TABLES: Final[dict[str, TableSpec]] = {
    s.name: s
    for s in (
        TableSpec(kind=Kind.QUOTES),
        TableSpec(kind=Kind.TRADES),
        TableSpec(kind=Kind.BARS, unit="month"),
        TableSpec(kind=Kind.DEPTH),
        TableSpec(kind=Kind.OPTIONS),
        TableSpec(kind=Kind.DEFINITIONS, unit="month"),
        TableSpec(kind=Kind.STATUS, unit="month"),
        TableSpec(kind=Kind.TAQ),
        TableSpec(kind=Kind.ANALYTICS),
        # What could not be parsed has no trustworthy event time.
        TableSpec(kind=Kind.QUARANTINE, dated_by="ts_recv"),
    )
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
