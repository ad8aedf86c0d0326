"""Rows of a table into a file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final, Protocol

import pyarrow as pa

from market_data_store.backend import Backend, Wanted
from mds_client.transfer.csv_codec import CsvWriter
from mds_client.transfer.digest import Digest
from mds_client.transfer.files import Format, format_of, writing
from mds_client.transfer.ndjson_codec import NdjsonWriter
from mds_client.transfer.parquet_codec import ParquetFileWriter
from mds_client.transfer.tables import Progress, every_row, schema_of, settled


@dataclass(frozen=True, slots=True, kw_only=True)
class Dumped:
    """What went into a file.

    Attributes:
        rows: How many.
        digest: Of them; see `mds_client.transfer.digest`.
    """

    rows: int
    digest: str


class _Writer(Protocol):
    def write(self, rows: pa.RecordBatch) -> None: ...

    def close(self) -> None: ...


class _Made(Protocol):
    def __call__(self, stream: IO[bytes], schema: pa.Schema) -> _Writer: ...


_WRITERS: Final[dict[Format, _Made]] = {
    Format.CSV: CsvWriter,
    Format.NDJSON: NdjsonWriter,
    Format.PARQUET: ParquetFileWriter,
}


def dump(
    backend: Backend,
    table: str,
    target: str | Path,
    *,
    wanted: Wanted | None = None,
    format: Format | str | None = None,  # noqa: A002  what users call it
    progress: Progress | None = None,
) -> Dumped:
    """Write rows of a table to a file, in memory that does not grow with their number.

    The file has its name once all rows are in it and durable; what was there before stays until then.

    Args:
        backend: Where the rows are.
        table: Which table.
        target: A path; one that ends in ``.gz`` is compressed. ``-`` is standard output.
        wanted: Which rows; all of them and, of a keyed table, every version if None.
        format: CSV, NDJSON or Parquet; by the path's ending if None.
        progress: Told how far it is.

    Returns:
        How many rows, and their digest, which is that of the same rows in any other store or file.

    Raises:
        ConfigurationError: The table, format or folder is not there.
        TemporaryUnavailable: The store is away or the disk did not take it; there is no file then.
    """
    schema, name = schema_of(table), str(target)
    written = format_of(name, format)
    digest = Digest()
    with writing(name, written) as stream:
        writer = _WRITERS[written](stream, schema)
        for rows in settled(backend, table, wanted or every_row(table)):
            writer.write(rows)
            digest.add(rows)
            if progress is not None:
                progress(digest.rows, None)
        writer.close()
    return Dumped(rows=digest.rows, digest=digest.hexdigest())


def digest_of(backend: Backend, table: str, *, wanted: Wanted | None = None) -> Dumped:
    """Return how many rows a table has and their digest, of a keyed table every version, as `dump` would.

    Raises:
        ConfigurationError: There is no such table.
        TemporaryUnavailable: The store is away.
    """
    digest = Digest()
    for rows in settled(backend, table, wanted or every_row(table)):
        digest.add(rows)
    return Dumped(rows=digest.rows, digest=digest.hexdigest())
