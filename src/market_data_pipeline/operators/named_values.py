"""Rows of kind ``analytics`` from a table of values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from market_data_core.batch import EventBatch
from market_data_core.schemas import Kind
from market_data_pipeline.operators.streams import Ints
from market_data_pipeline.operators.watermarks import Watermarks


def named_values(
    watermarks: Watermarks,
    streams: Ints,
    ts: Ints,
    names: Sequence[str],
    table: npt.NDArray[np.float64],
    *,
    end: int,
    ts_known_ns: int,
) -> list[EventBatch]:
    """Return derived rows as batches, one per source, row by row of the table and within it by column.

    Args:
        watermarks: What the streams are.
        streams: The place of each row of the table.
        ts: Its `ts_event`.
        names: Of the columns.
        table: Values; NaN gives no row.
        end: Exclusive end position of the span.
        ts_known_ns: When the rows became known.
    """
    row_of, column_of = np.nonzero(np.isfinite(table))
    if not len(row_of):
        return []
    labels = pa.array(list(names), pa.string())

    def columns(rows: Ints) -> Mapping[str, Any]:
        of, at = row_of[rows], column_of[rows]
        return {
            "ts_event": pa.array(ts[of]),
            "ts_recv": pa.repeat(pa.scalar(ts_known_ns, pa.int64()), len(rows)),
            "seq": pa.repeat(pa.scalar(end - 1, pa.int64()), len(rows)),
            "flags": pa.array(np.zeros(len(rows), np.int32)),
            "name": labels.take(pa.array(at)),
            "value": pa.array(table[of, at]),
        }

    return watermarks.batches(Kind.ANALYTICS, streams[row_of], columns)
