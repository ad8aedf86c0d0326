"""Rows of a file into a table, each once however often it is tried."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc

from market_data_core.clock import Clock, SystemClock
from market_data_core.errors import SchemaValidationError
from market_data_core.schemas import KEYS, Origin
from market_data_store.backend import Backend, Upserted
from mds_client.transfer.csv_codec import read_csv
from mds_client.transfer.digest import Digest
from mds_client.transfer.files import Format, SourceFile, format_of
from mds_client.transfer.ndjson_codec import read_ndjson
from mds_client.transfer.parquet_codec import read_parquet
from mds_client.transfer.pieces import Piece
from mds_client.transfer.tables import Progress, gathered, schema_of

# What an event cannot be stored without; rows of dumps have it, other files belong to `mdo replay`.
_EVENT_NEEDS: Final = ("ts_event", "ts_recv", "seq")
# What a bar is that does not say it; what a row is that does not say which version it is.
_OF_KEY: Final = {"what": "TRADES", "session": "ALL", "source": "external"}
_OF_STATEMENT: Final = {"flags": 0, "origin": str(Origin.BACKFILL)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Restored:
    """What became of the rows of a file.

    Attributes:
        rows: How many the file has.
        inserted: Were not there; of a table without a key, were taken in now.
        revised: Are a new version of what was there.
        unchanged: Were there already.
        digest: Of the rows of the file; see `mds_client.transfer.digest`.
    """

    rows: int
    inserted: int
    revised: int
    unchanged: int
    digest: str


@dataclass(frozen=True, slots=True, kw_only=True)
class _Content:
    rows: int
    digest: str
    sha256: str


def restore(
    backend: Backend,
    table: str,
    source: str | Path,
    *,
    format: Format | str | None = None,  # noqa: A002  what users call it
    progress: Progress | None = None,
    clock: Clock | None = None,
) -> Restored:
    """Put the rows of a file into a table, in memory that does not grow with their number.

    The whole file is looked at before the first row is stored, so a file with a bad row changes nothing. Doing it
    again, after a crash too, takes in what is missing: versions of keyed rows are known by key, number and time, rows
    of other tables by the content of the file and how many of them were taken. (The same events in another file, or
    in the store they were dumped from, are other events.)

    Args:
        backend: Where to.
        table: Which table.
        source: A path, compressed or not; ``-`` is standard input, which is kept in the folder for temporary files
            meanwhile. Columns may come in any order; those a keyed table can do without may be missing.
        format: CSV, NDJSON or Parquet; by the path's ending if None.
        progress: Told how far it is.
        clock: Says when versions became known that do not say so.

    Raises:
        ConfigurationError: The table, format or file is not there.
        SchemaValidationError: A row cannot be stored; the message and ``details`` say which line and field.
        TemporaryUnavailable: The store is away; some rows may be in. Try again.
        WriterConflict: The same file is being restored by somebody else.
    """
    name = str(source)
    read = format_of(name, format)
    schema_of(table)
    with SourceFile(name) as file:
        content = _looked_at(file, table, read)
        pieces, tell = _pieces(file, table, read), progress or (lambda _done, _of: None)
        if table in KEYS:
            now_ns = (clock or SystemClock()).now_ns()
            done = _upsert(backend, table, pieces, content=content, tell=tell, name=file.name, now_ns=now_ns)
        else:
            done = _append(backend, table, pieces, content=content, tell=tell)
    return Restored(
        rows=content.rows,
        inserted=done.inserted,
        revised=done.revised,
        unchanged=done.unchanged,
        digest=content.digest,
    )


def _looked_at(file: SourceFile, table: str, read: Format) -> _Content:
    digest = Digest()
    with file.reading() as stream:
        # Parquet is read from its end, the others are hashed on the way.
        by_path = read is Format.PARQUET
        for piece in _decoded(file, None if by_path else stream, table, read):
            digest.add(_complete(piece, table, file.name).rows)
        return _Content(rows=digest.rows, digest=digest.hexdigest(), sha256=stream.sha256())


def _pieces(file: SourceFile, table: str, read: Format) -> Iterator[Piece]:
    with file.reading() as stream:
        for piece in _decoded(file, stream, table, read):
            yield _complete(piece, table, file.name)


def _decoded(file: SourceFile, stream: Any, table: str, read: Format) -> Iterator[Piece]:
    schema = schema_of(table)
    if read is Format.PARQUET:
        return read_parquet(file.path, schema, file.name)
    return (read_csv if read is Format.CSV else read_ndjson)(stream, schema, file.name)


def _complete(piece: Piece, table: str, name: str) -> Piece:
    # Fills in what a row need not say and refuses what no store takes.
    rows = _filled(piece.rows) if table in KEYS else piece.rows
    for needed in KEYS.get(table, _EVENT_NEEDS):
        if rows.column(needed).null_count:
            row = rows.column(needed).is_null().to_numpy(zero_copy_only=False).argmax()
            hint = "" if table in KEYS else "; recordings that are no dumps are taken in by `mdo replay`"
            raise piece.refused(name, int(row), needed, f"it is missing{hint}")
    for field, column in zip(rows.schema, rows.columns, strict=True):
        if pa.types.is_floating(field.type) and pc.any(pc.is_nan(column)).as_py():
            row = pc.is_nan(column).fill_null(fill_value=False).to_numpy(zero_copy_only=False).argmax()
            raise piece.refused(name, int(row), field.name, "it is NaN; leave empty what is absent")
    return Piece(rows=rows, unit=piece.unit, number=piece.number)


def _filled(rows: pa.RecordBatch) -> pa.RecordBatch:
    stated = rows.column("revision").is_null()  # a version that is restored says what it says
    columns = dict(zip(rows.schema.names, rows.columns, strict=True))
    for name in columns.keys() & _OF_KEY.keys():
        columns[name] = pc.fill_null(columns[name], _OF_KEY[name])
    for name, value in _OF_STATEMENT.items():
        missing = pc.and_(stated, columns[name].is_null())
        columns[name] = pc.if_else(missing, pa.scalar(value, columns[name].type), columns[name])
    return pa.RecordBatch.from_arrays(list(columns.values()), schema=rows.schema)


def _upsert(
    backend: Backend,
    table: str,
    pieces: Iterator[Piece],
    *,
    content: _Content,
    tell: Progress,
    name: str,
    now_ns: int,
) -> Upserted:
    done, rows = Upserted(), 0
    for held in gathered(pieces):
        together = pa.Table.from_batches([p.rows for p in held])
        try:
            done += backend.upsert(table, together, now_ns=now_ns)
        except SchemaValidationError as exc:
            raise _located(exc, held, name) from exc
        rows += together.num_rows
        tell(rows, content.rows)
    return done


def _located(exc: SchemaValidationError, held: list[Piece], name: str) -> SchemaValidationError:
    # The store names a row of what it was handed; people want the line.
    row = exc.details.get("row")
    if not isinstance(row, int):
        return SchemaValidationError(f"{name}: {exc.message}", details=exc.details)
    starts = list(itertools.accumulate((p.rows.num_rows for p in held), initial=0))
    place = next(i for i in range(len(held)) if row < starts[i + 1])
    return held[place].refused(name, row - starts[place], str(exc.details.get("column") or ""), exc.message)


def _append(backend: Backend, table: str, pieces: Iterator[Piece], *, content: _Content, tell: Progress) -> Upserted:
    writer = f"restore:{content.sha256}"
    view = backend.table(table)
    before = taken = view.position(writer) or 0
    tell(taken, content.rows)
    if taken < content.rows:
        for held in gathered(_behind(pieces, taken)):
            rows = pa.Table.from_batches([p.rows for p in held])
            taken += rows.num_rows
            # The position counts rows of this very content: whoever comes next goes on behind it.
            view.append(rows, writer=writer, position=taken, covers={})
            tell(taken, content.rows)
    return Upserted(inserted=taken - before, unchanged=before)


def _behind(pieces: Iterator[Piece], taken: int) -> Iterator[Piece]:
    for piece in pieces:
        size = piece.rows.num_rows
        if taken < size:
            yield Piece(rows=piece.rows.slice(taken), unit=piece.unit, number=piece.number) if taken else piece
        taken = max(taken - size, 0)
