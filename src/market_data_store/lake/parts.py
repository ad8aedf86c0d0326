"""Data files: how rows become sorted Parquet files, and what the table's log says of each."""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from deltalake.transaction import AddAction

from market_data_store.lake.declarations import DAY_NS, STATS_COLUMNS, TableSpec, date_of
from market_data_store.places import Place, opened, sync_dir, sync_file

# Measured on 256 k trades of 500 symbols: zstd 1 with delta-coded integers and dictionaries takes 66 ms and 15 B a row,
# Arrow's defaults 116 ms and 34 B, zstd 3 80 ms and 17 B.
_COMPRESSION_LEVEL: Final = 1
UNIQUE_STRINGS: Final = frozenset({"trade_id", "order_id", "raw", "id", "title", "url"})
"""Columns whose values hardly repeat."""

# A reader of one symbol decodes whole row groups, so small ones keep it quick; smaller still and the footer grows.
ROW_GROUP_ROWS: Final = 32_768

_NARROW: Final = 1 << 15

_UNSAFE: Final = re.compile(r"[^A-Za-z0-9_-]+")


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """Rows of one UTC date, sorted as their table wants them."""

    date: str
    rows: pa.Table


@dataclass(frozen=True, slots=True, kw_only=True)
class DataFile:
    """A written data file that no commit names yet.

    Attributes:
        name: Relative to the table's folder.
        path: Where it lies.
        size_bytes: Its size.
        date: Its UTC date.
        rows: How many it holds.
        stats: What the table's log says of them. The rows themselves are not kept: a rewrite makes many files.
    """

    name: str
    path: Place
    size_bytes: int
    date: str
    rows: int
    stats: str

    def add_action(self, *, modified_ms: int, data_change: bool) -> AddAction:
        """Return what a commit says of the file. `modified_ms` is milliseconds since the epoch, UTC."""
        return AddAction(
            path=self.name,
            size=self.size_bytes,
            partition_values={"date": self.date},
            modification_time=modified_ms,
            data_change=data_change,
            stats=self.stats,
        )


def file_prefix(writer: str, position: int) -> str:
    """Return how the names of the data files of one append begin, fit for a file system and a URL."""
    return f"part-{_UNSAFE.sub('_', writer)[:80]}-{position}"


def split(rows: pa.Table, spec: TableSpec) -> list[Part]:
    """Return `rows` as one sorted part per UTC date, ascending. No rows, no parts."""
    if rows.num_rows == 0:
        return []
    days = rows.column(spec.dated_by).to_numpy() // DAY_NS
    ordered, days = _sorted(rows, spec, days)
    at = ordered.schema.get_field_index("symbol")
    if pa.types.is_dictionary(ordered.column(at).type):
        # Readers leave out row groups by the range of a text column, not by that of a dictionary.
        ordered = ordered.set_column(at, spec.rows_schema.field("symbol"), ordered.column(at).cast(pa.string()))
    starts = [0, *(np.flatnonzero(np.diff(days)) + 1).tolist(), len(days)]
    return [
        Part(date=date_of(int(days[start]) * DAY_NS), rows=ordered.slice(start, end - start))
        for start, end in pairwise(starts)
    ]


def _sorted(rows: pa.Table, spec: TableSpec, days: npt.NDArray[np.int64]) -> tuple[pa.Table, npt.NDArray[np.int64]]:
    order = _order([_narrowed(days), *(sort_rank(rows.column(name)) for name in spec.order)])
    return (rows, days) if order is None else (rows.take(pa.array(order)), days[order])


# In what order rows ascend by some keys, the first of which counts most, equal ones as they stand; None where they do.
# A key at a time, the least first: rows mostly come in the order of their times, so that only the symbol is sorted by,
# and its ranks are counted instead of compared where they fit into 16 bits. A third of what NumPy's `lexsort` takes.
def _order(keys: Sequence[npt.NDArray[np.generic]]) -> npt.NDArray[np.int64] | None:
    order: npt.NDArray[np.int64] | None = None
    for key in reversed(keys):
        values = key if order is None else key[order]
        if not (values[1:] >= values[:-1]).all():
            step = np.argsort(values, kind="stable")
            order = step if order is None else order[step]
    return order


def _narrowed(values: npt.NDArray[np.int64]) -> npt.NDArray[np.int64] | npt.NDArray[np.int16]:
    low = values.min()
    return (values - low).astype(np.int16) if values.max() - low < _NARROW else values


def sort_rank(column: pa.ChunkedArray) -> npt.NDArray[np.generic]:
    """Return integers that compare as the values of a column do, nulls first."""
    if not (pa.types.is_string(column.type) or pa.types.is_dictionary(column.type)):
        if not column.null_count:
            plain: npt.NDArray[np.generic] = column.to_numpy()
            return plain
        # With nulls NumPy would have floats, which are not exact and never equal where they are absent.
        values: npt.NDArray[np.generic] = np.where(column.is_null(), 0, pc.rank(column, tiebreaker="dense"))
        return values
    encoded = column.dictionary_encode().unify_dictionaries().combine_chunks()
    rank = np.empty(len(encoded.dictionary), np.int16 if len(encoded.dictionary) < _NARROW else np.int64)
    rank[pc.sort_indices(encoded.dictionary).to_numpy()] = np.arange(len(rank))
    indices = encoded.indices.fill_null(-1).to_numpy(zero_copy_only=False)
    return np.where(indices < 0, -1, rank[indices] if len(rank) else -1)


def write(part: Part, *, table_folder: Place, prefix: str) -> DataFile:
    """Write one part as a Parquet file of a new name into its date's folder, which exists. Syncs nothing.

    Raises:
        OSError: The disk did not take it; nothing of it is left where that could be arranged.
        pyarrow.ArrowException: The rows cannot be written.
    """
    name = f"date={part.date}/{prefix}-{uuid.uuid4().hex}.parquet"
    path = table_folder / name
    schema = part.rows.schema
    integers = [f.name for f in schema if pa.types.is_integer(f.type)]
    try:
        where, filesystem = opened(path)
        pq.write_table(
            part.rows,
            where,
            filesystem=filesystem,
            row_group_size=ROW_GROUP_ROWS,
            compression="zstd",
            compression_level=_COMPRESSION_LEVEL,
            use_dictionary=[n for n in schema.names if n not in integers and n not in UNIQUE_STRINGS],
            column_encoding=dict.fromkeys(integers, "DELTA_BINARY_PACKED"),
            store_schema=False,
        )
        return DataFile(
            name=name,
            path=path,
            size_bytes=path.stat().st_size,
            date=part.date,
            rows=part.rows.num_rows,
            stats=_stats(part.rows),
        )
    except BaseException:
        remove([path])
        raise


def sync(files: Sequence[DataFile]) -> None:
    """Make written data files durable, bytes and names.

    Raises:
        OSError: The disk refused.
    """
    for file in files:
        sync_file(file.path)
    for folder in sorted({f.path.parent for f in files}, key=str):
        sync_dir(folder)


def remove(paths: Sequence[Place]) -> int:
    """Remove files that no commit names; return how many could not be, which the vacuum then takes."""
    left = 0
    for path in paths:
        try:
            path.unlink(missing_ok=True)
        except OSError:
            left += 1
    return left


def _stats(rows: pa.Table) -> str:
    low: dict[str, object] = {}
    high: dict[str, object] = {}
    nulls: dict[str, int] = {}
    for name in STATS_COLUMNS:
        column = rows.column(name)
        nulls[name] = column.null_count
        if pa.types.is_dictionary(column.type):
            column = column.unique().cast(pa.string())
        if column.null_count < len(column):
            bounds = pc.min_max(column).as_py()
            low[name], high[name] = bounds["min"], bounds["max"]
    return json.dumps({"numRecords": rows.num_rows, "minValues": low, "maxValues": high, "nullCount": nulls})
