"""Parts in blocks: rows that can be parsed as Arrow columns, and those that cannot with the reason.

Whether a row can be parsed depends on that row alone. A block that Arrow takes whole is taken whole; one that it
refuses is cut in halves and tried again by the very same parser, down to the single rows that are at fault. So neither
the size of a block nor what stands around a row changes what becomes of it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq

from market_data_core.errors import SourceError
from market_data_pipeline.source.replay.files import Part, PartBytes
from market_data_pipeline.source.replay.layout import Format, Layout
from market_data_pipeline.source.replay.times import Int64s, TimeUnit

RAW_CHARS: Final = 500
"""How much of a refused row is kept."""

_LINE_BYTES: Final = 16 << 20  # a longer line is no row of anything we read
_FIRST_BYTES: Final = 64 << 10
_PARQUET_ROWS: Final = 65_536
_BYTE_ORDER_MARK: Final = b"\xef\xbb\xbf"


@dataclass(frozen=True, slots=True, kw_only=True)
class BadRow:
    """A row that could not be read.

    Attributes:
        row: Its place in the block.
        line: Its line in the file, from 1; in a Parquet file its row.
        reason: What is wrong with it.
        raw: Its beginning, as it stands in the file.
        found_columns: How many columns it has, if that is what is wrong.
    """

    row: int
    line: int
    reason: str
    raw: str
    found_columns: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """Some rows of a part, in order.

    Attributes:
        rows: How many, bad ones included.
        table: The good ones; the columns are those of `Layout.used` that the file has.
        places: For each row of `table` its place in the block; ascending.
        bad: The others; ascending.
        describe: Gives line and raw text of a row by its place, for one found bad later.
    """

    rows: int
    table: pa.Table
    places: Int64s
    bad: Sequence[BadRow]
    describe: Callable[[int], tuple[int, str]]


class _Unparsable(Exception):
    def __init__(self, reason: str, found_columns: int | None = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.found_columns = found_columns


def _types(layout: Layout) -> dict[str, pa.DataType]:
    types: dict[str, pa.DataType] = {}
    for ours in layout.used:
        if ours in {"flags", "suspicious"}:
            types[ours] = pa.int64()
        elif ours == "time":
            types[ours] = pa.string() if layout.time.unit is TimeUnit.ISO8601 else pa.int64()
        else:
            floating = ours.endswith(("price", "size"))
            types[ours] = pa.float64() if floating else pa.string()
    return types


# Where each of our columns stands among those of the file; absent optional ones are left out.
def _locate(part: Part, names: Sequence[str]) -> dict[str, int]:
    found: dict[str, int] = {}
    for ours, theirs in part.layout.used.items():
        at = [i for i, name in enumerate(names) if theirs in (i, name)]
        if len(at) == 1:
            found[ours] = at[0]
        elif at or ours not in part.layout.optional:
            how = f"has column {theirs!r} {len(at)} times" if at else f"has no column {theirs!r}"
            raise SourceError(
                f"{part.place} {how}: layout {part.layout.name} expects columns "
                f"{', '.join(map(str, part.layout.used.values()))}; found {', '.join(names)[:RAW_CHARS]}"
            )
    return found


def read_blocks(part: Part, source: PartBytes, *, block_bytes: int) -> Iterator[Block]:
    """Give the rows of a part in blocks, from its start.

    Args:
        part: What is read.
        source: Its bytes, from the start.
        block_bytes: About how much text makes a block.

    Raises:
        SourceError: The file is damaged or has other columns than its layout says.
    """
    if part.format is Format.PARQUET:
        return _read_parquet(part, source)
    return _read_text(part, source, block_bytes)


def _read_text(part: Part, source: PartBytes, block_bytes: int) -> Iterator[Block]:
    parse: _Parser | None = None
    line = 1
    for data in _whole_lines(part, source, block_bytes):
        start = 0
        if parse is None:
            start, names = _heading(part, data)
            line += data.count(b"\n", 0, start)
            parse = _JsonLines(part.layout) if part.format is Format.NDJSON else _Csv(part, names)
        body = data[start:] if start else data
        if body:
            count = _count_lines(body)
            block = _parse_block(body, count, line, parse)
            line += count
            if block.rows:
                yield block


# Blocks that end with a line's end, whatever the file ends with.
def _whole_lines(part: Part, source: PartBytes, block_bytes: int) -> Iterator[bytes]:
    # The first block is small, so a file of another layout is found out before many of its rows are tried one by one.
    tail = source.read(min(block_bytes, _FIRST_BYTES)).removeprefix(_BYTE_ORDER_MARK)
    end = tail.rfind(b"\n") + 1
    if end:
        yield tail[:end]
        tail = tail[end:]
    while data := source.read(block_bytes):
        end = data.rfind(b"\n") + 1
        if not end:
            tail += data
            if len(tail) > _LINE_BYTES:
                raise SourceError(f"{part.place} has a line of more than {_LINE_BYTES} bytes: it is not text in rows")
            continue
        yield tail + data[:end]
        tail = data[end:]
    if tail:
        yield tail + b"\n"


# bytes.count would keep the interpreter, and with it the event loop, ten times as long.
def _count_lines(data: bytes) -> int:
    return int(np.count_nonzero(np.frombuffer(data, np.uint8) == ord("\n")))


# How many bytes the header takes, and what the columns are called.
def _heading(part: Part, data: bytes) -> tuple[int, list[str]]:
    if part.format is Format.NDJSON or not part.layout.header:
        return 0, list(part.layout.fields)
    end = data.index(b"\n") + 1
    text = data[:end].decode("utf-8", "replace").rstrip("\r\n")
    quote = part.layout.quote or ""
    return end, [name.strip().strip(quote) if quote else name.strip() for name in text.split(part.layout.delimiter)]


class _Csv:
    def __init__(self, part: Part, names: Sequence[str]) -> None:
        layout = part.layout
        located = _locate(part, names)
        types = _types(layout)
        self._ours = list(located)
        self._types = {ours: types[ours] for ours in located}
        self._names = names
        # Columns go by place: a header may name two alike, of which we want neither.
        keys = [str(i) for i in range(len(names))]
        wanted = [keys[located[ours]] for ours in self._ours]
        self._quote = layout.quote.encode() if layout.quote else b""
        self._read = {"column_names": keys, "use_threads": False}
        self._parse = pacsv.ParseOptions(delimiter=layout.delimiter, quote_char=layout.quote or False)
        self._convert = pacsv.ConvertOptions(
            column_types={keys[located[ours]]: types[ours] for ours in self._ours},
            include_columns=list(dict.fromkeys(wanted)),
            null_values=[""],
            strings_can_be_null=True,
        )
        self._wanted = wanted

    def empty(self) -> pa.Table:
        return pa.table({ours: pa.array([], type_) for ours, type_ in self._types.items()})

    def table(self, data: bytes, count: int) -> pa.Table:
        if b"\r" in data and data.count(b"\r") != data.count(b"\r\n"):
            raise _Unparsable("a carriage return inside the row")
        if self._quote and self._quote in data and data.count(self._quote) % 2:
            raise _Unparsable("a quote that does not end")
        try:
            table = pacsv.read_csv(
                pa.BufferReader(data),
                read_options=pacsv.ReadOptions(block_size=len(data) + 1, **self._read),
                parse_options=self._parse,
                convert_options=self._convert,
            )
        except pa.ArrowInvalid as exc:
            raise self._explained(str(exc)) from exc
        if table.num_rows != count:
            raise _Unparsable("not one row on one line")
        return table.select(self._wanted).rename_columns(self._ours)

    def _explained(self, message: str) -> _Unparsable:
        if count := re.search(r"Expected (\d+) columns, got (\d+)", message):
            return _Unparsable(f"expected {count[1]} columns, found {count[2]}", int(count[2]))
        if value := re.search(
            r"In CSV column #(\d+): (?:Row #\d+: )?(?:CSV conversion error to )?(.*)", message, re.DOTALL
        ):
            return _Unparsable(f"column {self._names[int(value[1])]}: {value[2].strip()}"[:RAW_CHARS])
        return _Unparsable(message[:RAW_CHARS])


# One JSON object on each line, through orjson: pyarrow.json ends the process on a line that is just `null`.
class _JsonLines:
    def __init__(self, layout: Layout) -> None:
        self._types = _types(layout)
        self._columns = layout.used
        self._optional = layout.optional

    def empty(self) -> pa.Table:
        return pa.table({ours: pa.array([], type_) for ours, type_ in self._types.items()})

    def table(self, data: bytes, count: int) -> pa.Table:
        try:
            rows = list(map(orjson.loads, data.split(b"\n", count)[:count]))
        except orjson.JSONDecodeError as exc:
            raise _Unparsable(f"not JSON: {exc}") from exc
        if not all(type(row) is dict for row in rows):
            raise _Unparsable("not a JSON object")
        return pa.table({ours: self._column(ours, rows) for ours in self._types})

    def _column(self, ours: str, rows: Sequence[Mapping[Any, Any]]) -> pa.Array:
        theirs, wanted = self._columns[ours], self._types[ours]
        try:
            # Arrow says what it saw before it is told what to make of it: told at once, it would cut 1.5 to 1 and
            # take true for 1.
            seen = pa.array([row.get(theirs) for row in rows])
        except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError, UnicodeEncodeError) as exc:
            raise _Unparsable(f"{theirs}: {exc}") from exc
        fits = pa.types.is_null(seen.type) or seen.type == wanted
        if not fits and not (pa.types.is_int64(seen.type) and pa.types.is_float64(wanted)):
            raise _Unparsable(f"{theirs}: {seen.type} where {wanted} is expected")
        try:
            return seen.cast(wanted)
        except pa.ArrowInvalid as exc:
            raise _Unparsable(f"{theirs}: {exc}") from exc


_Parser = _Csv | _JsonLines


def _parse_block(data: bytes, count: int, first_line: int, parser: _Parser) -> Block:
    try:
        table = parser.table(data, count)
    except _Unparsable:
        pass
    else:
        describe = _Lines(data, first_line, None).describe
        return Block(rows=count, table=table, places=np.arange(count), bad=(), describe=describe)
    # Empty lines are no rows, and no parser takes them for one: they end up here.
    lines = data.split(b"\n")[:-1]
    filled = [i for i, line in enumerate(lines) if line not in (b"", b"\r")]
    text = _Lines(data, first_line, filled)
    good: list[tuple[int, pa.Table]] = []
    bad: list[BadRow] = []
    _halve(parser, [lines[i] for i in filled], 0, text=text, good=good, bad=bad)
    places = [np.arange(at, at + table.num_rows) for at, table in good]
    return Block(
        rows=len(filled),
        table=pa.concat_tables([table for _, table in good]) if good else parser.empty(),
        places=np.concatenate(places) if places else np.zeros(0, np.int64),
        bad=bad,
        describe=text.describe,
    )


def _halve(
    parser: _Parser,
    lines: list[bytes],
    at: int,
    *,
    text: _Lines,
    good: list[tuple[int, pa.Table]],
    bad: list[BadRow],
) -> None:
    if not lines:
        return
    try:
        good.append((at, parser.table(b"\n".join(lines) + b"\n", len(lines))))
    except _Unparsable as exc:
        if len(lines) == 1:
            line, raw = text.describe(at)
            bad.append(BadRow(row=at, line=line, reason=exc.reason, raw=raw, found_columns=exc.found_columns))
            return
        half = len(lines) // 2
        _halve(parser, lines[:half], at, text=text, good=good, bad=bad)
        _halve(parser, lines[half:], at + half, text=text, good=good, bad=bad)


# Line and text of a row, cut out only once something is wrong with one.
@dataclass(slots=True)
class _Lines:
    data: bytes
    first_line: int
    filled: Sequence[int] | None
    cut: list[bytes] | None = None

    def describe(self, row: int) -> tuple[int, str]:
        if self.cut is None:
            self.cut = self.data.split(b"\n")
        at = row if self.filled is None else self.filled[row]
        return self.first_line + at, self.cut[at].decode("utf-8", "replace").rstrip("\r")[:RAW_CHARS]


def _read_parquet(part: Part, source: PartBytes) -> Iterator[Block]:
    handle = source.seekable()
    first = 1
    with _parquet_errors(part):
        file = pq.ParquetFile(handle)
        names = file.schema_arrow.names
    located = _locate(part, names)
    wanted = list(dict.fromkeys(names[i] for i in located.values()))
    batches = file.iter_batches(batch_size=_PARQUET_ROWS, columns=wanted, use_threads=False)
    while True:
        with _parquet_errors(part):
            batch = next(batches, None)
        if batch is None:
            return
        table = _cast(part, batch, {ours: names[i] for ours, i in located.items()})
        describe = _parquet_row(table, first)
        yield Block(rows=batch.num_rows, table=table, places=np.arange(batch.num_rows), bad=(), describe=describe)
        first += batch.num_rows


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
    for ours, type_ in _types(part.layout).items():
        if ours not in columns:
            continue
        array = batch.column(columns[ours])
        if pa.types.is_dictionary(array.type):
            array = array.dictionary_decode()
        known = array.type
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
