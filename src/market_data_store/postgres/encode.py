"""Arrow columns as PostgreSQL's binary COPY format, assembled by whole columns.

A row is its number of fields and, for each, a length and so many bytes, all big-endian; a null has the length -1 and
no bytes. https://www.postgresql.org/docs/current/sql-copy.html
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

Ints = npt.NDArray[np.int64]

_HEADER: Final = b"PGCOPY\n\xff\r\n\0" + bytes(8)
_TRAILER: Final = b"\xff\xff"
_ROWS: Final = 16_384
_BYTES: Final = {pa.float64(): ">f8", pa.int64(): ">i8", pa.int32(): ">i4"}

NUL_SHOWN: Final = "\u2400"
"""What stands for the character NUL, which PostgreSQL's text cannot hold: its own picture."""


def shown(text: str | None) -> str | None:
    """Return `text` as it is stored: with the picture of NUL in place of NUL."""
    return None if text is None else text.replace("\0", NUL_SHOWN)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Field:
    # The bytes of one column: how many each row has, null being -1, and where strings begin in `data`.
    lengths: Ints
    fixed: npt.NDArray[np.void] | None = None
    data: npt.NDArray[np.uint8] | None = None
    starts: Ints | None = None


def copy_binary(columns: Sequence[pa.ChunkedArray]) -> Iterator[bytes]:
    """Give the rows of `columns` in pieces of some megabytes at most, header and trailer included.

    Args:
        columns: Of one length; float64, int64, int32 or string.
    """
    yield _HEADER
    rows = len(columns[0])
    for start in range(0, rows, _ROWS):
        fields = [_field(pa.concat_arrays(c.slice(start, _ROWS).chunks)) for c in columns]
        yield _assemble(fields)
    yield _TRAILER


def _field(column: pa.Array) -> _Field:
    if pa.types.is_string(column.type):
        return _strings(column)
    form = np.dtype(_BYTES[column.type])
    items = np.empty(len(column), np.dtype([("length", ">i4"), ("value", form)]))
    items["length"] = form.itemsize
    lengths = np.full(len(column), form.itemsize, np.int64)
    if column.null_count:
        lengths[column.is_null().to_numpy(zero_copy_only=False)] = -1
        column = column.fill_null(0)
    items["value"] = column.to_numpy()
    return _Field(lengths=lengths, fixed=items.view(np.dtype((np.void, items.dtype.itemsize))))


def _strings(column: pa.Array) -> _Field:
    data = _data(column)
    if (data == 0).any():
        column = pc.replace_substring(column, "\0", NUL_SHOWN)
        data = _data(column)
    offsets = np.frombuffer(column.buffers()[1], np.int32, len(column) + 1, column.offset * 4).astype(np.int64)
    lengths = np.diff(offsets)
    if column.null_count:
        lengths[column.is_null().to_numpy(zero_copy_only=False)] = -1
    return _Field(lengths=lengths, data=data, starts=offsets[:-1])


def _data(column: pa.Array) -> npt.NDArray[np.uint8]:
    buffer = column.buffers()[2]
    return np.frombuffer(buffer, np.uint8) if buffer is not None else np.zeros(0, np.uint8)


def _assemble(fields: Sequence[_Field]) -> bytes:
    rows = len(fields[0].lengths)
    sizes = np.full(rows, 2 + 4 * len(fields), np.int64)
    for field in fields:
        sizes += np.maximum(field.lengths, 0)
    ends = np.cumsum(sizes)
    out = np.empty(int(ends[-1]), np.uint8)
    at = ends - sizes
    _windows(out, 2)[at] = np.full(rows, len(fields), ">i2").view("V2")
    at += 2
    for field in fields:
        _put(out, at, field)
        at += 4 + np.maximum(field.lengths, 0)
    return out.tobytes()


def _put(out: npt.NDArray[np.uint8], at: Ints, field: _Field) -> None:
    if field.fixed is not None:
        there = field.lengths >= 0
        if there.all():
            _windows(out, field.fixed.itemsize)[at] = field.fixed
            return
        _windows(out, field.fixed.itemsize)[at[there]] = field.fixed[there]
        _windows(out, 4)[at[~there]] = np.full(int((~there).sum()), -1, ">i4").view("V4")
        return
    _windows(out, 4)[at] = field.lengths.astype(">i4").view("V4")
    assert field.data is not None  # noqa: S101  a column has either
    assert field.starts is not None  # noqa: S101
    # Strings of one length are moved at once; there are few lengths.
    order = np.argsort(field.lengths, kind="stable")
    lengths, firsts = np.unique(field.lengths[order], return_index=True)
    for length, rows in zip(lengths.tolist(), np.split(order, firsts[1:]), strict=True):
        if length > 0:
            _windows(out, length)[at[rows] + 4] = _windows(field.data, length)[field.starts[rows]]


def _windows(data: npt.NDArray[np.uint8], size: int) -> Any:
    # Every run of `size` bytes of `data`, by where it begins; they overlap.
    if len(data) < size:
        return np.zeros(0, f"V{size}")
    return np.ndarray((len(data) - size + 1,), f"V{size}", data, strides=(1,))
