"""Parts in blocks: rows that can be parsed as Arrow columns, and those that cannot with the reason.

Whether a row can be parsed depends on that row alone. A block that Arrow takes whole is taken whole; one that it
refuses is cut into pieces that are tried again by the very same parser, down to the single rows that are at fault. So
neither the size of a block nor what stands around a row changes what becomes of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import pyarrow as pa

from market_data_core.errors import SourceError
from market_data_pipeline.source.replay.files import Part, PartBytes
from market_data_pipeline.source.replay.layout import Format
from market_data_pipeline.source.replay.parsers import RAW_CHARS, CsvParser, JsonParser, Parser, Unparsable
from market_data_pipeline.source.replay.times import Int64s

_LINE_BYTES: Final = 16 << 20  # a longer line is no row of anything we read
_FIRST_BYTES: Final = 64 << 10
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
        member: In which of the members that are joined its line counts.
    """

    row: int
    line: int
    reason: str
    raw: str
    found_columns: int | None = None
    member: str | None = None


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


def read_text(part: Part, source: PartBytes, *, block_bytes: int) -> Iterator[Block]:
    """Give the rows of a CSV or NDJSON part in blocks, from its start.

    Args:
        part: What is read.
        source: Its bytes, from the start.
        block_bytes: About how much text makes a block.

    Raises:
        SourceError: The file is damaged or has other columns than its layout says.
    """
    parse: Parser | None = None
    line = 1
    for data in _whole_lines(part, source, block_bytes):
        start = 0
        if parse is None:
            start, names = _heading(part, data)
            line += data.count(b"\n", 0, start)
            parse = JsonParser(part.layout) if part.format is Format.NDJSON else CsvParser(part, names)
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


def _parse_block(data: bytes, count: int, first_line: int, parser: Parser) -> Block:
    try:
        table = parser.table(data, count)
    except Unparsable:
        pass
    else:
        describe = _Lines(data, first_line, None).describe
        return Block(rows=count, table=table, places=np.arange(count), bad=(), describe=describe)
    # Empty lines are no rows, and no parser takes them for one: they end up here.
    lines = data.split(b"\n")[:-1]
    filled = [i for i, line in enumerate(lines) if line not in (b"", b"\r")]
    return _Sifted(parser, [lines[i] for i in filled], _Lines(data, first_line, filled)).block()


# Lines among which at least one is no row, taken apart.
class _Sifted:
    def __init__(self, parser: Parser, lines: Sequence[bytes], text: _Lines) -> None:
        self._parser = parser
        self._lines = lines
        self._text = text
        self._good: list[tuple[Sequence[int], pa.Table]] = []
        self._bad: list[BadRow] = []
        # Lines that look wrong are tried one by one; the others together, for mostly none of them is wrong.
        doubtful = [parser.doubtful(line) for line in lines]
        self._try([i for i, doubt in enumerate(doubtful) if not doubt])
        for i, doubt in enumerate(doubtful):
            if doubt:
                self._try([i])

    def _try(self, places: Sequence[int]) -> None:
        if not places:
            return
        data = b"\n".join([self._lines[i] for i in places]) + b"\n"
        try:
            self._good.append((places, self._parser.table(data, len(places))))
        except Unparsable as exc:
            if len(places) == 1:
                (row,) = places
                line, raw = self._text.describe(row)
                self._bad.append(
                    BadRow(row=row, line=line, reason=exc.reason, raw=raw, found_columns=exc.found_columns)
                )
                return
            half = len(places) // 2
            self._try(places[:half])
            self._try(places[half:])

    def block(self) -> Block:
        places = np.array([i for at, _ in self._good for i in at], np.int64)
        table = pa.concat_tables([t for _, t in self._good]) if self._good else self._parser.empty()
        order = np.argsort(places)
        if (np.diff(places) < 0).any():
            table = table.take(pa.array(order))
        return Block(
            rows=len(self._lines),
            table=table,
            places=places[order],
            bad=sorted(self._bad, key=lambda r: r.row),
            describe=self._text.describe,
        )


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
