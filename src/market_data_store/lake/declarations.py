"""The tables of a lake, declared once: columns, order of rows in a file, what decides the date."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, timedelta
from typing import Final

import pyarrow as pa

from market_data_core.errors import ConfigurationError, SchemaValidationError
from market_data_core.schemas import TABLE_SCHEMAS, Kind

DAY_NS: Final = 86_400 * 1_000_000_000

_EPOCH: Final = date(1970, 1, 1)

DATE_FIELD: Final = pa.field("date", pa.string())
"""The partition column: a UTC date, ``2024-01-31``. It stands in folder names, not in data files."""

STATS_COLUMNS: Final = ("vendor", "symbol", "ts_event", "seq")
"""Columns whose range per file the table's log holds, so that readers can leave files out."""

NOT_NULL: Final = ("ts_event", "ts_recv", "seq")
"""Columns that place a row in time and in the log; a stored row has them all."""

CONFIGURATION: Final = {
    # Rows are only ever added; what maintenance rewrites changes no data. Foreign tools are held to that too.
    "delta.appendOnly": "true",
    # Checkpoints and clean-up are ours alone, because they have to be synced in order.
    "delta.enableExpiredLogCleanup": "false",
    "delta.dataSkippingStatsColumns": ",".join(STATS_COLUMNS),
    # How long a checkpoint remembers removed files; the vacuum needs that for as long as it spares them.
    "delta.deletedFileRetentionDuration": "interval 1 days",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class TableSpec:
    """One declared table.

    Attributes:
        kind: What its rows are; also its name.
        order: How rows are sorted within a data file.
        dated_by: The time column, UTC nanoseconds, whose date decides the partition.
    """

    kind: Kind
    order: tuple[str, ...] = ("symbol", "ts_event", "seq")
    dated_by: str = "ts_event"

    @property
    def name(self) -> str:
        """The table's name, such as ``trades``."""
        return str(self.kind)

    @property
    def rows_schema(self) -> pa.Schema:
        """Columns that writers hand in, readers get and data files hold."""
        return TABLE_SCHEMAS[self.kind]

    @property
    def stored_schema(self) -> pa.Schema:
        """Columns as the table declares them: those of the rows and the date."""
        return TABLE_SCHEMAS[self.kind].append(DATE_FIELD)

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


TABLES: Final[dict[str, TableSpec]] = {
    s.name: s
    for s in (
        TableSpec(kind=Kind.QUOTES),
        TableSpec(kind=Kind.TRADES),
        TableSpec(kind=Kind.BARS, order=("symbol", "interval", "ts_event", "seq")),
        TableSpec(kind=Kind.DEPTH),
        TableSpec(kind=Kind.OPTIONS),
        TableSpec(kind=Kind.DEFINITIONS),
        TableSpec(kind=Kind.STATUS),
        TableSpec(kind=Kind.TAQ),
        TableSpec(kind=Kind.ANALYTICS, order=("symbol", "name", "ts_event", "seq")),
        # What could not be parsed has no trustworthy event time.
        TableSpec(kind=Kind.QUARANTINE, dated_by="ts_recv"),
    )
}
"""Every table a lake has, by name."""


def spec_of(name: str) -> TableSpec:
    """Return the declaration of a table.

    Raises:
        ConfigurationError: No table of that name is declared; names those that are.
    """
    spec = TABLES.get(name)
    if spec is None:
        raise ConfigurationError(f"no table {name!r} is declared in the lake; there are: {', '.join(TABLES)}")
    return spec


def date_of(ts_ns: int) -> str:
    """Return the UTC date of a time in nanoseconds since the epoch, as it stands in folder names."""
    return (_EPOCH + timedelta(days=ts_ns // DAY_NS)).isoformat()
