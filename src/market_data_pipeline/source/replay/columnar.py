"""Parquet files in blocks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import IO, Final

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from market_data_core.errors import SourceError
from market_data_pipeline.source.replay.blocks import Block
from market_data_pipeline.source.replay.files import Part, PartBytes
from market_data_pipeline.source.replay.parsers import RAW_CHARS, locate, types_of

_PARQUET_ROWS: Final = 131_072
_FIRST_ROWS: Final = 8192
_NAMES: Final = ("symbol", "vendor")  # few of them in many rows: they stay in the dictionary that the file has them in


def read_parquet(part: Part, source: PartBytes, *, ahead: bool = True) -> Iterator[Block]:
    """Give the rows of a Parquet file in blocks, from its start.

    Args:
        part: What to read.
        source: Its bytes.
        ahead: Decode what follows meanwhile; False for who wants the first rows alone.

    Raises:
        SourceError: The file is damaged or has other columns than its layout says.
    """
    handle = source.seekable()
    first = 1
    dictionaries = [c for n, c in part.layout.used.items() if n in _NAMES and isinstance(c, str)]
    with _parquet_errors(part):
        options = ds.ParquetReadOptions(dictionary_columns=set(dictionaries))
        file = ds.ParquetFileFormat(read_options=options).make_fragment(handle)
        names, rows = file.physical_schema.names, file.metadata.num_rows
    located = locate(part, names)
    wanted = list(dict.fromkeys(names[i] for i in located.values()))
    batches = _scanned(part, file, wanted) if ahead else _first(part, handle, wanted, dictionaries)
    while True:
        with _parquet_errors(part):
            batch = next(batches, None)
        if batch is None:
            return
        table = _cast(part, batch, {ours: names[i] for ours, i in located.items()})
        describe = _parquet_row(table, first)
        yield Block(rows=batch.num_rows, table=table, places=np.arange(batch.num_rows), bad=(), describe=describe)
        first += batch.num_rows
        source.note((first - 1) / rows)


# Arrow decodes the next batches on its own threads meanwhile, in the file's order.
def _scanned(part: Part, file: ds.ParquetFileFragment, columns: list[str]) -> Iterator[pa.RecordBatch]:
    with _parquet_errors(part):
        scanner = file.scanner(columns=columns, batch_size=_PARQUET_ROWS, batch_readahead=4, use_threads=True)
        return iter(scanner.to_batches())


# A scanner has the whole of the first row groups read and decoded before it gives a row of them.
def _first(part: Part, handle: IO[bytes], columns: list[str], dictionaries: list[str]) -> Iterator[pa.RecordBatch]:
    with _parquet_errors(part):
        file = pq.ParquetFile(handle, pre_buffer=False, read_dictionary=dictionaries)
        return iter(file.iter_batches(_FIRST_ROWS, columns=columns, use_threads=False))


@contextmanager
def _parquet_errors(part: Part) -> Iterator[None]:
    try:
        yield
    except (pa.ArrowException, OSError) as exc:
        raise SourceError(f"{part.place} cannot be read as Parquet: {exc}") from exc


def _parquet_row(table: pa.Table, first: int) -> Callable[[int], tuple[int, str]]:
    return lambda row: (first + row, str(table.slice(row, 1).to_pylist()[0])[:RAW_CHARS])


# A Parquet file has its types once for all, so a wrong one is the file's fault and not a row's.
def _cast(part: Part, batch: pa.RecordBatch, columns: Mapping[str, str]) -> pa.Table:
    arrays = {}
    for ours, type_ in types_of(part.layout).items():
        if ours not in columns:
            continue
        array = batch.column(columns[ours])
        known = array.type
        if pa.types.is_dictionary(known):
            known = known.value_type
            if ours in _NAMES and known == pa.string():
                arrays[ours] = array
                continue
            array = array.dictionary_decode()
        if ours == "time" and pa.types.is_timestamp(known):
            if known.tz is None:
                raise SourceError(f"{part.place}: column {columns[ours]} holds times without a zone")
            if known.unit != part.layout.time.unit.value:
                raise SourceError(
                    f"{part.place}: column {columns[ours]} holds {known}; layout {part.layout.name} says "
                    f"{part.layout.time.unit}"
                )
            array = array.cast(pa.int64())
        elif not _takes(known, type_):
            raise SourceError(
                f"{part.place}: column {columns[ours]} is {known}; layout {part.layout.name} expects {type_}"
            )
        try:
            arrays[ours] = array.cast(type_, safe=not pa.types.is_float64(type_))
        except pa.ArrowInvalid as exc:
            raise SourceError(f"{part.place}: column {columns[ours]} does not fit {type_}: {exc}") from exc
    return pa.table(arrays)


def _takes(known: pa.DataType, wanted: pa.DataType) -> bool:
    if pa.types.is_null(known):
        return True
    if pa.types.is_float64(wanted):
        return bool(pa.types.is_integer(known) or pa.types.is_floating(known) or pa.types.is_decimal(known))
    if pa.types.is_int64(wanted):
        return bool(pa.types.is_integer(known) or pa.types.is_boolean(known))
    return known in (pa.string(), pa.large_string(), pa.string_view())
