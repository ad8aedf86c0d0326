"""Rows on their way into a table: data files that are durable before a commit names them."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa

from market_data_core.errors import TemporaryUnavailable
from market_data_core.steps import Step, reached
from market_data_store.lake import parts
from market_data_store.lake.folder import TableFolder
from market_data_store.lake.paths import translated


def write_files(folder: TableFolder, rows: pa.Table, *, prefix: str) -> list[parts.DataFile]:
    """Write rows into data files of a table, durably. Commits nothing.

    Args:
        folder: The table.
        rows: In its declared columns, any order; no rows make no files.
        prefix: How the files' names begin.

    Raises:
        TemporaryUnavailable: The storage did not take it; what was written is removed again.
    """
    files: list[parts.DataFile] = []
    try:
        with translated(f"writing rows of table {folder.spec.name}"):
            for part in parts.split(rows, folder.spec):
                folder.make_date(part.date)
                files.append(parts.write(part, table_folder=folder.path, prefix=prefix))
                reached(Step.DATA_FILE_WRITTEN)
            parts.sync(files)
    except TemporaryUnavailable:
        discard(folder, files)
        raise
    if files:
        reached(Step.DATA_FILE_SYNCED)
    return files


def discard(folder: TableFolder, files: Sequence[parts.DataFile]) -> None:
    """Remove data files that no commit names; the vacuum takes those that cannot be."""
    folder.count_leftovers(parts.remove([f.path for f in files]))
