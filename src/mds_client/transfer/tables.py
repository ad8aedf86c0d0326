"""What the stored tables are to those who carry rows in and out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import pyarrow as pa
import pyarrow.compute as pc

from market_data_core.errors import ConfigurationError
from market_data_core.schemas import KEYS, STORED_SCHEMAS
from market_data_store.backend import Backend, Wanted
from mds_client.transfer.pieces import Piece

Progress = Callable[[int, int | None], None]
"""Told how many rows are through and how many there are, None where that is not known."""

COMMIT_ROWS = 131_072
"""How many rows go into one commit: enough that its syncs cost little, few enough for small machines."""

_COMMIT_BYTES = 64 << 20


def schema_of(table: str) -> pa.Schema:
    """Return a table's columns.

    Raises:
        ConfigurationError: There is no such table; names those there are.
    """
    if table not in STORED_SCHEMAS:
        raise ConfigurationError(f"there is no table {table!r}; there are {', '.join(STORED_SCHEMAS)}")
    return STORED_SCHEMAS[table]


def every_row(table: str) -> Wanted:
    """Return what to ask a store for to get all of a table, of keyed rows every version."""
    return Wanted(versions=table in KEYS)


def settled(backend: Backend, table: str, wanted: Wanted) -> Iterator[pa.RecordBatch]:
    """Give stored rows so that they say the same in any store.

    A version that came without a number is the first, and without a time was known when it was received: that is how
    stores read it.
    """
    schema = schema_of(table)
    for batch in backend.stream(table, wanted):
        rows = batch.select(schema.names)
        if table in KEYS:
            revision = pc.fill_null(rows.column("revision"), 0)
            known = pc.coalesce(rows.column("ts_known"), rows.column("ts_recv"))
            columns = {"revision": revision, "ts_known": known}
            rows = pa.RecordBatch.from_arrays(
                [columns.get(n, c) for n, c in zip(schema.names, rows.columns, strict=True)], schema=schema
            )
        if rows.num_rows:
            yield rows


def gathered(pieces: Iterable[Piece]) -> Iterator[list[Piece]]:
    """Give pieces together that make one commit."""
    held: list[Piece] = []
    rows = size_bytes = 0
    for piece in pieces:
        held.append(piece)
        rows += piece.rows.num_rows
        size_bytes += piece.rows.nbytes
        if rows >= COMMIT_ROWS or size_bytes >= _COMMIT_BYTES:
            yield held
            held, rows, size_bytes = [], 0, 0
    if held:
        yield held
