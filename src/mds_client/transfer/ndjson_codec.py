"""NDJSON: an object a line, absent values null; infinities, which JSON does not have, are ``"Infinity"`` and so on."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from operator import add
from typing import IO, Any, Final

import orjson
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.json

from market_data_core.errors import SchemaValidationError
from mds_client.transfer.pieces import Piece, refused, shown
from mds_client.transfer.values import TIMES, meaning, ns_of

_BLOCK: Final = 4 << 20
# Texts of Arrow end at 2 GiB together, and a byte becomes up to six.
_WRITTEN_BYTES: Final = 64 << 20
_LONGEST_LINE: Final = 64 << 20
_INFINITE: Final = {"Infinity": float("inf"), "-Infinity": float("-inf")}
# What Arrow writes for a float, where JSON has another text or none.
_RENAMED: Final = (("inf", '"Infinity"'), ("-inf", '"-Infinity"'), ("-0", "-0.0"))


class NdjsonWriter:
    """Writes rows of one schema.

    Args:
        stream: Where to.
        schema: The columns.
    """

    def __init__(self, stream: IO[bytes], schema: pa.Schema) -> None:
        self._stream = stream
        self._names = [orjson.dumps(n).decode() for n in schema.names]

    def write(self, rows: pa.RecordBatch) -> None:
        """Add rows."""
        if rows.num_rows == 0:
            return
        if rows.nbytes > _WRITTEN_BYTES and rows.num_rows > 1:
            middle = rows.num_rows // 2
            self.write(rows.slice(0, middle))
            self.write(rows.slice(middle))
            return
        parts: list[Any] = []
        for place, (name, column) in enumerate(zip(self._names, rows.columns, strict=True)):
            parts += [pa.scalar(f"{',' if place else '{'}{name}:"), _written(column)]
        # Columns are put side by side and rows behind each other by Arrow, not value by value.
        lines = pc.binary_join_element_wise(*parts, pa.scalar("}\n"), "")
        _, _, data = lines.buffers()
        self._stream.write(data)

    def close(self) -> None:
        """Write what is left: nothing."""


def _written(column: pa.Array) -> pa.Array:
    if pa.types.is_string(column.type):
        encoded = column.dictionary_encode()
        texts = pa.array([orjson.dumps(t).decode() for t in encoded.dictionary.to_pylist()], pa.string())
        text = texts.take(encoded.indices)
    else:
        text = pc.cast(column, pa.string())
        if pa.types.is_floating(column.type):
            for found, instead in _RENAMED:
                text = pc.if_else(pc.equal(text, found), instead, text)
    return pc.fill_null(text, "null")


def read_ndjson(stream: Any, schema: pa.Schema, name: str) -> Iterator[Piece]:
    """Give the rows of a file; fields in any order, missing ones null, empty lines passed over.

    Args:
        stream: The file, with ``read``.
        schema: The table's columns.
        name: The file's, for errors.

    Raises:
        SchemaValidationError: A line cannot be taken; its ``details`` say ``line`` and ``field``.
    """
    first = 1
    for block in line_blocks(stream, name):
        count = block.count(b"\n")
        rows = _fast(block, schema)
        if rows is not None and rows.num_rows == count:
            yield Piece(rows=rows, unit="line", number=partial(add, first))
        else:
            piece = _careful(block, first, schema, name)
            if piece.rows.num_rows:
                yield piece
        first += count


def line_blocks(stream: Any, name: str) -> Iterator[bytes]:
    """Give a file in blocks of whole lines, the last one ended where the file does not end it.

    Raises:
        SchemaValidationError: A line is longer than any row could be.
    """
    rest = b""
    while data := stream.read(_BLOCK):
        cut = data.rfind(b"\n") + 1
        if cut:
            yield rest + data[:cut]
            rest = data[cut:]
        else:
            rest += data
            if len(rest) > _LONGEST_LINE:
                raise SchemaValidationError(f"{name}: a line is longer than {_LONGEST_LINE >> 20} MiB; is it NDJSON?")
    if rest:
        yield rest + b"\n"


def _fast(block: bytes, schema: pa.Schema) -> pa.RecordBatch | None:
    # By columns, about ten times as fast. What this does not take is looked at line by line.
    try:
        table = pyarrow.json.read_json(
            pa.BufferReader(block),
            read_options=pyarrow.json.ReadOptions(use_threads=False, block_size=len(block) + 1),
            parse_options=pyarrow.json.ParseOptions(
                explicit_schema=schema, newlines_in_values=False, unexpected_field_behavior="error"
            ),
        )
        table.validate(full=True)  # texts may hold what is no UTF-8
    except pa.ArrowInvalid:
        return None
    columns = [table.column(f.name).combine_chunks() for f in schema]
    return pa.RecordBatch.from_arrays(columns, schema=schema)


def _careful(block: bytes, first: int, schema: pa.Schema, name: str) -> Piece:
    columns: dict[str, list[Any]] = {f.name: [] for f in schema}
    lines: list[int] = []
    for number, line in enumerate(block.split(b"\n"), first):
        if not line.strip():
            continue
        values = parsed(line, number, name)
        for unknown in values.keys() - columns.keys():
            raise refused(name, "line", number, unknown, f"the table has no such column; it has {', '.join(columns)}")
        for field in schema:
            try:
                columns[field.name].append(_value(values.get(field.name), field))
            except ValueError:
                why = f"{shown(values[field.name])} is no {meaning(field)}"
                raise refused(name, "line", number, field.name, why) from None
        lines.append(number)
    rows = pa.RecordBatch.from_arrays([pa.array(columns[f.name], f.type) for f in schema], schema=schema)
    return Piece(rows=rows, unit="line", number=lines.__getitem__)


def parsed(line: bytes, number: int, name: str) -> dict[str, Any]:
    """Return the object on a line.

    Raises:
        SchemaValidationError: There is none; its ``details`` say ``line``.
    """
    try:
        found = orjson.loads(line)
    except orjson.JSONDecodeError as exc:
        raise refused(name, "line", number, "", f"it is no JSON ({exc.msg}, column {exc.colno})") from exc
    if not isinstance(found, dict):
        raise refused(name, "line", number, "", f"it is no JSON object: {shown(found)}")
    return found


def _value(value: Any, field: pa.Field) -> Any:
    if value is None:
        return None
    if pa.types.is_string(field.type):
        if isinstance(value, str):
            return value
    elif pa.types.is_floating(field.type):
        if isinstance(value, str) and value in _INFINITE:
            return _INFINITE[value]
        if isinstance(value, int | float) and not isinstance(value, bool):
            return float(value)
    elif isinstance(value, int) and not isinstance(value, bool):
        if value.bit_length() < field.type.bit_width or value == -(2 ** (field.type.bit_width - 1)):
            return value
    elif field.name in TIMES and isinstance(value, str):
        return ns_of(value)
    raise ValueError(value)
