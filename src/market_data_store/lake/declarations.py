"""The tables of a lake, declared once: columns, order of rows in a file, what decides the date."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, timedelta
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc

from market_data_core.errors import ConfigurationError, SchemaValidationError
from market_data_core.schemas import KEYS, STORED_SCHEMAS, Kind, Record

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
        name: Such as ``trades``.
        rows_schema: Columns that writers hand in, readers get and data files hold.
        key: What makes two rows versions of the same thing; empty where rows are events.
        order: How rows are sorted within a data file.
        dated_by: The time column, UTC nanoseconds, whose date decides the partition.
        from_start: Made when the lake is opened; else with its first write.
    """

    name: str
    rows_schema: pa.Schema
    key: tuple[str, ...]
    order: tuple[str, ...]
    dated_by: str
    from_start: bool

    @property
    def stored_schema(self) -> pa.Schema:
        """Columns as the table declares them: those of the rows and the date."""
        return self.rows_schema.append(DATE_FIELD)

    def check(self, rows: pa.Table) -> None:
        """Raise SchemaValidationError, saying row and column, unless `rows` can be stored as they are.

        Text may be dictionaries.
        """
        if not pa.schema(map(_decoded, rows.schema)).equals(self.rows_schema):
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
            f"rows for table {self.name}: row {row} has {what} in {column}", details={"row": row, "column": column}
        )


def _decoded(field: pa.Field) -> pa.Field:
    return field.with_type(field.type.value_type) if field.type.equals(_CODED) else field


_CODED: Final = pa.dictionary(pa.int32(), pa.string())
_ORDER: Final = ("symbol", "ts_event", "seq")
_ORDERS: Final[dict[str, tuple[str, ...]]] = {
    str(Kind.BARS): ("symbol", "interval", "ts_event", "seq"),
    str(Kind.ANALYTICS): ("symbol", "name", "ts_event", "seq"),
}


def _declare(name: str) -> TableSpec:
    return TableSpec(
        name=name,
        rows_schema=STORED_SCHEMAS[name],
        key=KEYS.get(name, ()),
        order=_ORDERS.get(name, _ORDER),
        # What could not be parsed has no trustworthy event time.
        dated_by="ts_recv" if name == Kind.QUARANTINE else "ts_event",
        # Making a table costs a start tens of milliseconds, and few lakes ever have one of these.
        from_start=name not in set(Record),
    )


TABLES: Final[dict[str, TableSpec]] = {name: _declare(name) for name in STORED_SCHEMAS}
"""Every table a lake may have, by name."""


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
