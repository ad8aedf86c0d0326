"""How much of what a table holds, by vendor, symbol and date."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import pyarrow as pa

from market_data_store.lake.asking import Question
from market_data_store.lake.reads import TableReader, order_by, scan_batches
from market_data_store.lake.streams import days

_SCHEMA: Final = pa.schema(
    [
        ("vendor", pa.string()),
        ("symbol", pa.string()),
        ("date", pa.string()),
        ("rows", pa.int64()),
        ("first_ts", pa.int64()),
        ("last_ts", pa.int64()),
    ]
)
_INSTRUMENT: Final = ["vendor", "symbol"]
_SCAN_ROWS: Final = 262_144


def coverage(reader: TableReader, question: Question) -> pa.Table:
    """Return ``vendor, symbol, date, rows, first_ts, last_ts``, ascending by the first three.

    Args:
        reader: The table.
        question: Which rows count.

    Raises:
        TemporaryUnavailable: The storage is away.
    """
    found = [_SCHEMA.empty_table()]
    for day in days(reader, question):
        batches = scan_batches(
            reader.folder, day.files, day.read.expression(), [*_INSTRUMENT, "ts_event"], batch_rows=_SCAN_ROWS
        )
        counted = _sum([_count(b) for b in batches])
        if counted is not None:
            found.append(counted.append_column("date", pa.array([day.date] * counted.num_rows)).select(_SCHEMA.names))
    rows = pa.concat_tables(found)
    return rows.take(pa.array(order_by(rows, ("vendor", "symbol", "date"))))


def _count(batch: pa.RecordBatch) -> pa.Table:
    counted = pa.Table.from_batches([batch]).group_by(_INSTRUMENT)
    summed = counted.aggregate([([], "count_all"), ("ts_event", "min"), ("ts_event", "max")])
    return summed.select([*_INSTRUMENT, "count_all", "ts_event_min", "ts_event_max"]).rename_columns(
        [*_INSTRUMENT, "rows", "first_ts", "last_ts"]
    )


def _sum(counted: Iterable[pa.Table]) -> pa.Table | None:
    tables = list(counted)
    if not tables:
        return None
    summed = pa.concat_tables(tables).group_by(_INSTRUMENT)
    return (
        summed.aggregate([("rows", "sum"), ("first_ts", "min"), ("last_ts", "max")])
        .select([*_INSTRUMENT, "rows_sum", "first_ts_min", "last_ts_max"])
        .rename_columns([*_INSTRUMENT, "rows", "first_ts", "last_ts"])
    )
