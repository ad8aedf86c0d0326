"""Rows on their way into a table: sorted, numbered, and copied into a temporary table beside it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Final

import numpy as np
import numpy.typing as npt
import psycopg
import pyarrow as pa
import pyarrow.compute as pc

from market_data_store.postgres.declarations import TableSpec
from market_data_store.postgres.encode import NUL_SHOWN, copy_binary
from market_data_store.postgres.errors import translate
from market_data_store.postgres.queries import query
from market_data_store.postgres.talk import CopyIn, Execute, Talk

Ints = npt.NDArray[np.int64]

_TURN: Final = "turn"
_VERSION: Final = ("revision", "ts_known", "seq")


@dataclass(frozen=True, slots=True, kw_only=True)
class Arranged:
    """In which order rows of a keyed table are written.

    All who write a table write its keys in one order, so two who write the same keys wait for each other once instead
    of for ever.

    Attributes:
        order: Which row stands where, ascending by key.
        place: By row, as it stands there, how many rows of the same key come before it. One statement may touch a key
            once, so versions of one thing go in one after the other.
    """

    order: Ints
    place: Ints


def by_given_order(spec: TableSpec, rows: pa.Table) -> Arranged:
    """Arrange `rows` of a keyed table so that those of one key stay in the order in which they are given."""
    keys = _keys(spec, rows)
    order = np.lexsort(keys[::-1]) if keys else np.arange(rows.num_rows)
    return _arranged(keys, order)


def by_version(spec: TableSpec, rows: pa.Table) -> Arranged:
    """Arrange `rows` of a keyed table so that those of one key go from the oldest version to the newest."""
    keys = _keys(spec, rows)
    arranged = _arranged(keys, np.lexsort(keys[::-1]) if keys else np.arange(rows.num_rows))
    if not arranged.place.any():
        return arranged
    age = [rows.column(n).fill_null(0).to_numpy() for n in _VERSION]
    return _arranged(keys, np.lexsort([*reversed(age), *reversed(keys)]))


def staging(spec: TableSpec, rows: pa.Table) -> Talk[None]:
    """Copy rows of events into the table's staging table, which empties itself at the end of the transaction.

    Tables with row level security take no COPY, and one with a key has to be asked about each row.

    Raises:
        SchemaValidationError: The server cannot read a value; ``details`` say ``row`` and, if it can tell, ``column``.
    """
    yield from _copying(spec, rows, list(rows.columns), rows.schema.names)


def staging_versions(spec: TableSpec, rows: pa.Table, order: Ints, turn: npt.NDArray[np.int32]) -> Talk[None]:
    """Copy rows of a keyed table, in `order` and each with its `turn`, into the table's staging table.

    Raises:
        SchemaValidationError: As `staging` does.
    """
    sorted_already = bool((order[1:] > order[:-1]).all())
    standing = rows if sorted_already else rows.take(pa.array(order))
    columns = [*standing.columns, pa.chunked_array([pa.array(turn, pa.int32())])]
    yield from _copying(spec, rows, columns, [*rows.schema.names, _TURN], order=order)


def _copying(
    spec: TableSpec,
    rows: pa.Table,
    columns: Sequence[pa.ChunkedArray],
    names: Sequence[str],
    *,
    order: Ints | None = None,
) -> Talk[None]:
    yield Execute(_staging(spec.name, tuple(rows.schema.names)))
    try:
        yield CopyIn(_copy_in(spec.name, tuple(names)), copy_binary(columns))
    except psycopg.Error as exc:
        error = translate(f"writing rows to table {spec.name}", exc)
        if order is not None and "row" in error.details:
            error.details["row"] = int(order[error.details["row"]])
        raise error from exc


# As text, because putting one together takes longer than a small statement itself.
@cache
def _staging(table: str, columns: tuple[str, ...]) -> bytes:
    return query("staging", staging=f"staging_{table}", table=table, columns=columns).as_bytes(None)


@cache
def _copy_in(table: str, columns: tuple[str, ...]) -> bytes:
    return query("copy_in", staging=f"staging_{table}", columns=columns).as_bytes(None)


def _arranged(keys: Sequence[npt.NDArray[np.generic]], order: Ints) -> Arranged:
    new = np.ones(len(order), np.bool_)
    if keys:
        new[1:] = np.logical_or.reduce([(s := k[order])[1:] != s[:-1] for k in keys])
    else:
        new[1:] = False
    at = np.arange(len(order))
    return Arranged(order=order, place=at - np.maximum.accumulate(np.where(new, at, 0)))


def _keys(spec: TableSpec, rows: pa.Table) -> list[npt.NDArray[np.generic]]:
    # Ranks by value, in the order of the table's index, so that rows that follow each other are neighbours there.
    # A column that is the same in all rows, as most are, decides nothing.
    names = ["ts_event", *(n for n in spec.key if n != "ts_event")] if "ts_event" in spec.key else spec.key
    return [ranks for n in names if (ranks := _ranks(rows.column(n))) is not None]


def _ranks(column: pa.ChunkedArray) -> npt.NDArray[np.generic] | None:
    if not pa.types.is_string(column.type):
        values: npt.NDArray[np.generic] = column.to_numpy()
        return values
    encoded = column.dictionary_encode().unify_dictionaries().combine_chunks()
    if len(encoded.dictionary) <= 1 and (encoded.null_count in {0, len(encoded)}):
        return None
    # Two texts that the server cannot tell apart are one key.
    stored = pc.replace_substring(encoded.dictionary, "\0", NUL_SHOWN)
    ranks = pc.rank(stored, tiebreaker="dense").to_numpy().astype(np.int64)
    # Null, the last place of all, comes last.
    ranks = np.append(ranks, len(ranks) + 1)
    by_row: npt.NDArray[np.generic] = ranks[encoded.indices.fill_null(-1).to_numpy(zero_copy_only=False)]
    return by_row
