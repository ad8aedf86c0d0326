"""CSV: a header, then a row a line.

Text stands in quotes, so that an absent value (``,,``) is not an empty one (``""``). Numbers have as many digits as it
takes to read the same float back; times are UTC nanoseconds.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import IO, Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

from market_data_core.errors import SchemaValidationError
from mds_client.transfer.pieces import Piece, refused, shown
from mds_client.transfer.values import Unreadable, typed

# A row has to fit into one block, and Arrow reads several ahead.
_BLOCK: Final = 4 << 20


class CsvWriter:
    """Writes rows of one schema.

    Args:
        stream: Where to.
        schema: The columns.
    """

    def __init__(self, stream: IO[bytes], schema: pa.Schema) -> None:
        options = pyarrow.csv.WriteOptions(quoting_style="needed")
        # A stream of Python's is not Arrow's to close.
        self._sink = pa.PythonFile(_Unclosing(stream), mode="w")
        self._writer = pyarrow.csv.CSVWriter(self._sink, schema, write_options=options)

    def write(self, rows: pa.RecordBatch) -> None:
        """Add rows."""
        self._writer.write_batch(rows)

    def close(self) -> None:
        """Write what is left."""
        self._writer.close()


class _Unclosing:
    closed = False

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream

    def write(self, data: bytes) -> int:
        return self._stream.write(data)

    def flush(self) -> None:
        self._stream.flush()


def read_csv(stream: Any, schema: pa.Schema, name: str) -> Iterator[Piece]:
    """Give the rows of a file; columns in any order, missing ones null.

    Args:
        stream: The file, with ``read``.
        schema: The table's columns.
        name: The file's, for errors.

    Raises:
        SchemaValidationError: A line or the header cannot be taken; its ``details`` say ``line`` and ``field``.
    """
    bad_rows: list[Any] = []

    def note(row: Any) -> str:
        bad_rows.append(row)
        return "skip"

    try:
        reader = pyarrow.csv.open_csv(
            stream,
            read_options=pyarrow.csv.ReadOptions(use_threads=False, block_size=_BLOCK),
            parse_options=pyarrow.csv.ParseOptions(
                newlines_in_values=True,
                ignore_empty_lines=False,
                invalid_row_handler=note,
            ),
            convert_options=pyarrow.csv.ConvertOptions(
                # Bytes that are no UTF-8 are found with the line they are in.
                column_types=dict.fromkeys(schema.names, pa.binary()),
                strings_can_be_null=True,
                quoted_strings_can_be_null=False,
                null_values=[""],
            ),
        )
        _check_header(reader.schema.names, schema, name)
        yield from _pieces(reader, schema, name, bad_rows)
    except pa.ArrowInvalid as exc:
        raise SchemaValidationError(f"{name}: {_reason(exc)}") from exc
    except UnicodeDecodeError as exc:
        raise refused(name, "line", 1, "", "the header is not UTF-8") from exc


def _check_header(names: Sequence[str], schema: pa.Schema, name: str) -> None:
    unknown = [n for n in names if n not in schema.names]
    if unknown:
        raise refused(
            name,
            "line",
            1,
            unknown[0],
            f"the table has no column {shown(unknown[0])}; it has {', '.join(schema.names)}",
        )
    twice = [n for n in names if names.count(n) > 1]
    if twice:
        raise refused(name, "line", 1, twice[0], "the header names it twice")


def _pieces(reader: Any, schema: pa.Schema, name: str, bad_rows: list[Any]) -> Iterator[Piece]:
    # Rows of the file before this batch, the header included, and lines within values before it.
    rows_before, breaks_before = 1, 0
    for batch in reader:
        breaks = _breaks(batch)
        first = rows_before + breaks_before + 1
        # The parser may be blocks ahead of what it has handed out.
        if bad_rows and (at := bad_rows[0].number - rows_before - 1) <= batch.num_rows:
            line = first + at + int(breaks[:at].sum())
            raise refused(name, "line", line, "", _why(bad_rows[0]))
        piece = _piece(batch, schema, name, first + np.arange(len(breaks)) + np.cumsum(breaks) - breaks)
        rows_before += batch.num_rows
        breaks_before += int(breaks.sum())
        if piece is not None:
            yield piece
    if bad_rows:
        raise refused(name, "line", bad_rows[0].number + breaks_before, "", _why(bad_rows[0]))


def _piece(batch: pa.RecordBatch, schema: pa.Schema, name: str, lines: npt.NDArray[np.int64]) -> Piece | None:
    # A line with nothing on it, such as a last one, is no row.
    empty = np.logical_and.reduce([c.is_null().to_numpy(zero_copy_only=False) for c in batch.columns])
    if empty.any():
        batch, lines = batch.filter(pa.array(~empty)), lines[~empty]
        if batch.num_rows == 0:
            return None
    columns = []
    for field in schema:
        try:
            texts = _decoded(batch.column(field.name)) if field.name in batch.schema.names else None
            columns.append(pa.nulls(batch.num_rows, field.type) if texts is None else typed(texts, field))
        except Unreadable as exc:
            raise refused(name, "line", int(lines[exc.row]), field.name, exc.why) from exc
    rows = pa.RecordBatch.from_arrays(columns, schema=schema)
    return Piece(rows=rows, unit="line", number=lambda row: int(lines[row]))


def _decoded(column: pa.Array) -> pa.Array:
    try:
        return pc.cast(column, pa.string())
    except pa.ArrowInvalid:
        for row, value in enumerate(column.to_pylist()):
            try:
                _ = value is None or value.decode()
            except UnicodeDecodeError as exc:
                raise Unreadable(row, "it is not UTF-8") from exc
        raise


def _breaks(batch: pa.RecordBatch) -> npt.NDArray[np.int64]:
    # How many line ends each row has within its values.
    total = np.zeros(batch.num_rows, np.int64)
    for column in batch.columns:
        total += pc.count_substring(column, b"\n").fill_null(0).to_numpy(zero_copy_only=False)
    return total


def _why(row: Any) -> str:
    text = row.text or ""
    if text.count('"') % 2:
        return f"a quote in it does not end: {shown(text)}"
    return f"it has {row.actual_columns} fields, the header {row.expected_columns}: {shown(text)}"


def _reason(exc: pa.ArrowInvalid) -> str:
    text = str(exc)
    if "Empty CSV" in text:
        return "there is no header"
    if "straddling" in text:
        return f"a row is longer than {_BLOCK >> 20} MiB, or a quote in it does not end"
    return text.splitlines()[0]
