"""One number for what a table holds, whichever store keeps it and whichever file carries it.

A value is 64 bits: a number its two's complement or IEEE 754 bits, with one zero and one NaN; a text the BLAKE2b hash
of its UTF-8, with U+2400 for the character NUL, which PostgreSQL cannot hold. Value bits, moved by a constant of the
column's name, are mixed and added up over the columns of a row; a null adds nothing, so a column that a later version
brings leaves older digests as they are. The mixed sums of the rows are added up modulo 2**64, twice, differently
mixed. Sums know no order, but how often a row is there counts.

The digest finds what was lost, doubled or changed by accident. It is no seal against somebody who wants two tables to
look the same.
"""

from __future__ import annotations

import functools
import hashlib
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

Bits = npt.NDArray[np.uint64]

_SECOND: Final = np.uint64(0x9E3779B97F4A7C15)
_NUL_SHOWN: Final = "\u2400"


class Digest:
    """Adds up rows.

    Attributes:
        rows: How many there were.
    """

    def __init__(self) -> None:
        self.rows = 0
        self._first = 0
        self._second = 0

    def add(self, rows: pa.RecordBatch) -> None:
        """Take rows in; the same rows in any order and any batches come to the same."""
        self.add_hashes(row_hashes(rows))

    def add_hashes(self, hashes: Bits) -> None:
        """Take rows in by what `row_hashes` gave for them."""
        self.rows += len(hashes)
        self._first = (self._first + int(hashes.sum(dtype=np.uint64))) % 2**64
        self._second = (self._second + int(_mixed(hashes ^ _SECOND).sum(dtype=np.uint64))) % 2**64

    def hexdigest(self) -> str:
        """Return the sums as 32 hexadecimal digits; without rows all are 0."""
        return f"{self._first:016x}{self._second:016x}"


def row_hashes(rows: pa.RecordBatch) -> Bits:
    """Return 64 bits for each row, the same for equal rows in any order of columns.

    Args:
        rows: Columns of int32, int64, float64 or string.
    """
    total = np.zeros(rows.num_rows, np.uint64)
    for name, column in zip(rows.schema.names, rows.columns, strict=True):
        if column.null_count == len(column):
            continue
        bits = _mixed(_bits(column) ^ _salt(name))
        if column.null_count:
            bits[column.is_null().to_numpy(zero_copy_only=False)] = 0
        total += bits
    return _mixed(total)


def _bits(column: pa.Array) -> Bits:
    if pa.types.is_string(column.type):
        return _text_bits(column)
    values = (column.fill_null(0) if column.null_count else column).to_numpy(zero_copy_only=False)
    if values.dtype.kind == "f":
        values = values + 0.0  # the two zeros are equal numbers
        values[np.isnan(values)] = np.nan
    else:
        values = values.astype(np.int64)
    bits: Bits = values.view(np.uint64)
    return bits


def _text_bits(column: pa.Array) -> Bits:
    # Most texts come often: each is hashed once a batch.
    encoded = column.dictionary_encode()
    texts = pc.replace_substring(encoded.dictionary, "\0", _NUL_SHOWN).to_pylist()
    hashed = b"".join([hashlib.blake2b(t.encode(), digest_size=8).digest() for t in texts])
    bits: Bits = np.frombuffer(hashed, "<u8")[encoded.indices.fill_null(0).to_numpy(zero_copy_only=False)]
    return bits.astype(np.uint64)


@functools.cache
def _salt(name: str) -> np.uint64:
    return np.uint64(int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "little"))


def _mixed(values: Bits) -> Bits:
    # The finalizer of splitmix64: every bit of the input moves about half of the output's.
    # https://prng.di.unimi.it/splitmix64.c
    mixed: Bits = values + _SECOND
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))
