"""One part, read to its end: blocks of events ready to be cut into batches."""

from __future__ import annotations

from collections.abc import Collection, Generator, Iterator
from dataclasses import dataclass, replace
from typing import Final, NoReturn

import numpy as np
import pyarrow as pa

from market_data_core.batch import SourceBatch, unlogged
from market_data_core.errors import SourceError
from market_data_core.protocols import END_OF_TIME_NS, Mark
from market_data_core.schemas import Flag, Kind
from market_data_pipeline.source.reading import NO_TIME
from market_data_pipeline.source.replay.blocks import BadRow, Block, read_text
from market_data_pipeline.source.replay.columnar import read_parquet
from market_data_pipeline.source.replay.events import Converter, InstrumentTable, Rows, sort_by_time
from market_data_pipeline.source.replay.fanout import FanOut
from market_data_pipeline.source.replay.files import Part, PartBytes
from market_data_pipeline.source.replay.layout import Format
from market_data_pipeline.source.replay.sides import TopOfBook
from market_data_pipeline.source.replay.times import Int64s

_WRONG_ROWS: Final = 100  # so many bad rows at the start mean that the layout is wrong, not the rows
_PEEK_BYTES: Final = 64 << 10


@dataclass(slots=True)
class Counts:
    """What has been read so far; kept by the reading thread, looked at from others."""

    rows_read: int = 0
    rows_rejected: int = 0
    files_done: int = 0
    files_empty: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Chunk:
    """Rows of a part, ready to be cut anywhere; where rows hold several events, each of these counts as a row.

    Attributes:
        first_row: Of the part, where it begins.
        rows: How many rows, with bad and unwanted ones.
        key: For every row the latest time up to it; rows before the first event have `NO_TIME`. Never descends.
        events: The events in ``UNLOGGED_SCHEMAS``.
        places: For each event its place in the chunk.
        bad: The rows that are none.
    """

    first_row: int
    rows: int
    key: Int64s
    events: pa.RecordBatch
    places: Int64s
    bad: list[BadRow]


class PartReader:
    """Reads one part from its start to its end.

    Args:
        part: What to read.
        instruments: Where its instruments are entered.
        symbols: Only these, upper-cased; None for all.
        block_bytes: About how much text is held at once.
        counts: What is added to.
        ahead: Prepare what follows while rows are taken; False for who wants the first ones alone.

    Raises:
        SourceError: The file cannot be opened.
    """

    def __init__(
        self,
        part: Part,
        *,
        instruments: InstrumentTable,
        symbols: Collection[str] | None,
        block_bytes: int,
        counts: Counts,
        ahead: bool = True,
    ) -> None:
        self.part = part
        self._ahead = ahead
        self.rows = 0
        self._instruments = instruments
        self._counts = counts
        self._converter = Converter(part, instruments, symbols)
        self._source = PartBytes(part)
        self._chunks = self._read(block_bytes)
        self._latest = NO_TIME
        self._sections = {s.member: s for s in part.sections}

    def next_chunk(self) -> Chunk | None:
        """Return the next rows, or None at the end.

        Raises:
            SourceError: The file is damaged or of another layout.
        """
        return next(self._chunks, None)

    @property
    def consumed_bytes(self) -> int:
        """How much of the part's size on disk has been read."""
        return self._source.consumed_bytes

    def close(self) -> None:
        """Close the file. May be called twice."""
        self._chunks.close()
        self._source.close()

    def batches(self, chunk: Chunk, start: int, stop: int, *, batch_rows: int) -> Iterator[tuple[SourceBatch, int]]:
        """Give rows ``[start, stop)`` of a chunk as batches, each with the time it reaches.

        Bad rows come as batches of their own, where they stand: the end of a batch is then always the end of all that
        was given before it.
        """
        edges = np.searchsorted(chunk.places, (start, stop))
        at, end = int(edges[0]), int(edges[1])
        inside = [r for r in chunk.bad if start <= r.row < stop]
        for bad in _neighbours(inside):
            until = int(np.searchsorted(chunk.places, bad[0].row))
            yield from self._events(chunk, at, until, batch_rows)
            yield from self._quarantine(chunk, bad, batch_rows)
            at = until
        yield from self._events(chunk, at, end, batch_rows)

    def marks(self, given: int) -> Iterator[Mark]:
        """Give the marks that close the part, one per vendor; those are the events after its last row.

        Args:
            given: Exclusive end of what is already safe.

        Raises:
            SourceError: More is said to be safe than the part has.
        """
        if given > self.rows + len(self._converter.seen):
            raise SourceError(f"{self.part.place} has {self.rows} rows, but {given} are said to have been read of it")
        for i, (vendor, symbols) in enumerate(self._converter.seen.items(), start=self.rows + 1):
            if symbols and i > given:
                yield Mark(
                    vendor=vendor,
                    ts_ns=END_OF_TIME_NS,
                    symbols=tuple(symbols),
                    source_id=self.part.source_id,
                    offset=i,
                )

    def _events(self, chunk: Chunk, at: int, end: int, batch_rows: int) -> Iterator[tuple[SourceBatch, int]]:
        for first in range(at, end, batch_rows):
            last = min(first + batch_rows, end) - 1
            place = int(chunk.places[last])
            yield (
                self._batch(
                    self.part.layout.kind, chunk.events.slice(first, last + 1 - first), chunk.first_row + place
                ),
                int(chunk.key[place]),
            )

    def _quarantine(self, chunk: Chunk, bad: list[BadRow], batch_rows: int) -> Iterator[tuple[SourceBatch, int]]:
        for first in range(0, len(bad), batch_rows):
            rows = bad[first : first + batch_rows]
            sections = [self._sections.get(r.member, self.part) for r in rows]
            key = chunk.key[[r.row for r in rows]]
            columns = {
                "instrument": np.array([self._converter.instrument_of_bad_rows(s) for s in sections], np.int32),
                "ts_event": np.where(key == NO_TIME, 0, key),
                "flags": np.full(len(rows), Flag.TS_EVENT_SYNTHETIC, np.int32),
                "kind": [str(self.part.layout.kind)] * len(rows),
                "source_id": [s.source_id for s in sections],
                "line": [r.line for r in rows],
                "reason": [r.reason for r in rows],
                "raw": [r.raw for r in rows],
            }
            data = unlogged(Kind.QUARANTINE, len(rows), columns)
            yield self._batch(Kind.QUARANTINE, data, chunk.first_row + rows[-1].row), int(key[-1])

    def _batch(self, kind: Kind, data: pa.RecordBatch, last_row: int) -> SourceBatch:
        return SourceBatch(
            kind=kind,
            data=data,
            instruments=self._instruments.entries,
            source_id=self.part.source_id,
            offset=last_row + 1,
        )

    def _read(self, block_bytes: int) -> Generator[Chunk, None, None]:
        layout = self.part.layout
        book = TopOfBook() if layout.one_side else None
        fan_out = FanOut(layout.events) if layout.events else None
        blocks = self._converted(block_bytes)
        if layout.order == "time":
            whole = list(blocks)
            blocks = iter([sort_by_time(whole)] if whole else [])
        for block in blocks:
            rows = book.fill(block) if book else block
            yield self._chunk(fan_out.apply(rows) if fan_out else rows)
        self._counts.files_done += 1
        self._counts.files_empty += self.rows == 0

    def _converted(self, block_bytes: int) -> Iterator[Rows]:
        # Rows that are bad one and all from the start on are a wrong layout: until that is decided nothing is given.
        held: list[Rows] = []
        undecided: list[BadRow] | None = []
        for block in self._blocks(block_bytes):
            rows = self._converter.convert(block)
            self._counts.rows_read += rows.rows
            self._counts.rows_rejected += len(rows.bad)
            held.append(rows)
            if undecided is not None:
                leading = [r for i, r in enumerate(rows.bad) if r.row == i]
                undecided += leading
                if len(undecided) >= _WRONG_ROWS:
                    self._refuse(undecided)
                if len(leading) == rows.rows:
                    continue
                undecided = None
            yield from held
            held = []
        if undecided and all(r.found_columns is not None for r in undecided):
            self._refuse(undecided)
        yield from held

    def _blocks(self, block_bytes: int) -> Iterator[Block]:
        if self.part.format is Format.PARQUET:
            yield from read_parquet(self.part, self._source, ahead=self._ahead)
            return
        if not self.part.sections:
            yield from read_text(self.part, self._source, block_bytes=block_bytes)
        for section in self.part.sections:
            self._source.enter(section)
            self._converter.enter(section)
            yield from read_text(section, self._source, block_bytes=block_bytes)

    def _refuse(self, bad: list[BadRow]) -> NoReturn:
        layout = self.part.layout
        expected = ", ".join(layout.fields or map(str, layout.used.values()))
        found = bad[0].found_columns
        seen = f"{found} columns" if found is not None else bad[0].reason
        raise SourceError(
            f"{self.part.place} is not of layout {layout.name}: each of its first {len(bad)} rows is bad; expected "
            f"columns {expected}; found {seen} in line {bad[0].line}: {bad[0].raw!r}"
        )

    def _chunk(self, rows: Rows) -> Chunk:
        key = np.maximum.accumulate(np.concatenate(([self._latest], rows.order)))[1:]
        self._latest = int(key[-1])
        first_row = self.rows
        self.rows += rows.rows
        return Chunk(
            first_row=first_row,
            rows=rows.rows,
            key=key,
            events=rows.to_batch(self.part.layout.kind),
            places=rows.places,
            bad=list(rows.bad),
        )


# Bad rows that follow one another share a batch.
def _neighbours(bad: list[BadRow]) -> Iterator[list[BadRow]]:
    run: list[BadRow] = []
    for row in bad:
        if run and row.row != run[-1].row + 1:
            yield run
            run = []
        run.append(row)
    if run:
        yield run


def first_time(part: Part) -> int:
    """Return where a part begins in time, UTC nanoseconds, from its first rows alone; `NO_TIME` if they have none.

    Raises:
        SourceError: The file cannot be read.
    """
    with_times = part.layout.model_copy(update={"order": "file", "one_side": None})
    reader = PartReader(
        replace(part, layout=with_times),
        instruments=InstrumentTable(),
        symbols=None,
        block_bytes=_PEEK_BYTES,
        counts=Counts(),
        ahead=False,
    )
    try:
        chunk = reader.next_chunk()
        if chunk is None:
            return NO_TIME
        timed = chunk.key[chunk.key > NO_TIME]
        return int(timed[0]) if len(timed) else NO_TIME
    finally:
        reader.close()
