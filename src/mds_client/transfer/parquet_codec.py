"""Parquet: the columns as they are declared, compressed with Zstandard."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import IO, Final

import pyarrow as pa
import pyarrow.parquet as pq

from market_data_core.errors import SchemaValidationError
from mds_client.transfer.pieces import Piece, refused, shown
from mds_client.transfer.values import meaning

_GROUP_ROWS: Final = 131_072
_READ_ROWS: Final = 32_768


class ParquetFileWriter:
    """Writes rows of one schema.

    Args:
        stream: Where to.
        schema: The columns.
    """

    def __init__(self, stream: IO[bytes], schema: pa.Schema) -> None:
        self._writer = pq.ParquetWriter(stream, schema, compression="zstd")
        self._schema = schema
        self._waiting: list[pa.RecordBatch] = []
        self._rows = 0

    def write(self, rows: pa.RecordBatch) -> None:
        """Add rows."""
        self._waiting.append(rows)
        self._rows += rows.num_rows
        if self._rows >= _GROUP_ROWS:
            self._write_group()

    def close(self) -> None:
        """Write what is left, and the footer."""
        self._write_group()
        self._writer.close()

    def _write_group(self) -> None:
        if self._rows:
            self._writer.write_table(pa.Table.from_batches(self._waiting, schema=self._schema))
        self._waiting, self._rows = [], 0


def read_parquet(path: Path, schema: pa.Schema, name: str) -> Iterator[Piece]:
    """Give the rows of a file; columns in any order, missing ones null.

    Args:
        path: The file.
        schema: The table's columns.
        name: The file's, for errors.

    Raises:
        SchemaValidationError: It is no Parquet file, or a column or value cannot be taken; ``details`` say ``row`` and
            ``field``.
    """
    try:
        with pq.ParquetFile(path, memory_map=False, pre_buffer=False) as file:
            unknown = [n for n in file.schema_arrow.names if n not in schema.names]
            if unknown:
                raise SchemaValidationError(
                    f"{name}: the table has no column {shown(unknown[0])}; it has {', '.join(schema.names)}",
                    details={"field": unknown[0]},
                )
            first = 1
            for batch in file.iter_batches(batch_size=_READ_ROWS, use_threads=False):
                yield _piece(batch, first, schema, name)
                first += batch.num_rows
    except pa.ArrowInvalid as exc:
        raise SchemaValidationError(f"{name} is no Parquet file, or a damaged one: {str(exc).splitlines()[0]}") from exc


def _piece(batch: pa.RecordBatch, first: int, schema: pa.Schema, name: str) -> Piece:
    columns = []
    for field in schema:
        if field.name not in batch.schema.names:
            columns.append(pa.nulls(batch.num_rows, field.type))
            continue
        column = batch.column(field.name)
        try:
            columns.append(_cast(column, field.type))
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as exc:
            row = next((i for i in range(len(column)) if not _fits(column.slice(i, 1), field.type)), 0)
            why = f"{shown(column[row].as_py())} is no {meaning(field)}"
            raise refused(name, "row", first + row, field.name, why) from exc
    rows = pa.RecordBatch.from_arrays(columns, schema=schema)
    return Piece(rows=rows, unit="row", number=lambda row: first + row)


def _cast(column: pa.Array, type_: pa.DataType) -> pa.Array:
    if pa.types.is_string(type_) and (pa.types.is_primitive(column.type) or pa.types.is_decimal(column.type)):
        raise pa.ArrowInvalid("not a text")
    if pa.types.is_timestamp(column.type) and pa.types.is_integer(type_):
        if column.type.tz is None:
            raise pa.ArrowInvalid("a time without a zone")
        column = column.cast(pa.timestamp("ns", "UTC")).cast(pa.int64())
    return column.cast(type_)


def _fits(column: pa.Array, type_: pa.DataType) -> bool:
    try:
        _cast(column, type_)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        return False
    return True
