"""Rewriting data files: the same rows in fewer, better sorted files, in bounded memory."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds

from market_data_core.errors import SinkError
from market_data_core.steps import Step, reached
from market_data_store.lake import parts
from market_data_store.lake.folder import TableFolder
from market_data_store.lake.planning import Job, Layout
from market_data_store.places import opened_all


def rewrite(folder: TableFolder, job: Job, *, max_rows: int) -> list[parts.DataFile]:
    """Write the rows of a job's files into new ones, durably. Commits nothing.

    Args:
        folder: The table.
        job: What to read; the files are not touched.
        max_rows: How many rows are in memory at a time, and in a new file.

    Raises:
        OSError, pyarrow.ArrowException: The storage did not give or take it; what was written is removed again.
        SinkError: What was written is not what was read.
    """
    source = _source(folder, job)
    written: list[parts.DataFile] = []
    try:
        chunks = _by_instrument(source, max_rows) if job.layout is Layout.DAY else iter([None])
        for chunk in chunks:
            for part in parts.split(
                source.to_table(filter=chunk, batch_readahead=2, fragment_readahead=1), folder.spec
            ):
                written.append(parts.write(part, table_folder=folder.path, prefix=str(job.layout)))
                parts.sync(written[-1:])
                reached(Step.MAINTENANCE_WRITTEN)
        _check_nothing_lost(folder, job, written)
        parts.sync(written)
    except Exception:
        folder.count_leftovers(parts.remove([f.path for f in written]))
        raise
    return written


def _source(folder: TableFolder, job: Job) -> ds.Dataset:
    # Strings stay the dictionaries that they are in the file: less memory, and nothing to encode again. Not the symbol:
    # Arrow leaves out row groups by the range of a string column, not by that of a dictionary.
    schema = folder.spec.rows_schema
    names = {f.name for f in schema if pa.types.is_string(f.type)} - parts.UNIQUE_STRINGS - {"symbol"}
    encoded = pa.schema([f.with_type(pa.dictionary(pa.int32(), pa.string())) if f.name in names else f for f in schema])
    options = ds.ParquetReadOptions(dictionary_columns=names)
    paths, filesystem = opened_all(folder.path, [f.name for f in job.inputs])
    return ds.dataset(paths, schema=encoded, format=ds.ParquetFileFormat(read_options=options), filesystem=filesystem)


def _check_nothing_lost(folder: TableFolder, job: Job, written: Sequence[parts.DataFile]) -> None:
    rows = sum(f.rows for f in written)
    expected = sum(f.rows for f in job.inputs)
    if rows != expected or any(f.date != job.date for f in written):
        raise SinkError(
            f"rewriting {len(job.inputs)} files of table {folder.spec.name}, date {job.date}, gave {rows} rows instead "
            f"of {expected}; the files stay as they are"
        )


def _by_instrument(source: ds.Dataset, max_rows: int) -> Iterator[ds.Expression]:
    # Conditions that cut a date into ranges of instruments of at most `max_rows` rows each.
    counts: Counter[str | None] = Counter()
    for batch in source.to_batches(columns=["symbol"]):
        for entry in batch.column(0).value_counts().to_pylist():
            counts[entry["values"]] += entry["counts"]
    symbol: Any = pc.field("symbol")
    if None in counts:
        yield from _by_time(source, symbol.is_null(), max_rows)
    group: list[str] = []
    held = 0
    for name in sorted(n for n in counts if n is not None):
        if group and held + counts[name] > max_rows:
            yield _between(group)
            group, held = [], 0
        if counts[name] > max_rows:
            yield from _by_time(source, symbol == name, max_rows)
            continue
        group.append(name)
        held += counts[name]
    if group:
        yield _between(group)


def _between(names: Sequence[str]) -> ds.Expression:
    symbol: Any = pc.field("symbol")
    condition: ds.Expression = (symbol >= names[0]) & (symbol <= names[-1])
    return condition


def _by_time(source: ds.Dataset, only: Any, max_rows: int) -> Iterator[ds.Expression]:
    ts_event: Any = pc.field("ts_event")
    times = np.sort(source.to_table(columns=["ts_event"], filter=only).column(0).to_numpy())
    cuts = [int(t) for t in np.unique(times[max_rows::max_rows])]
    low = int(times[0])
    for cut in cuts:
        yield only & (ts_event >= low) & (ts_event < cut)
        low = cut
    yield only & (ts_event >= low)
