"""Many parts as one stream in about recorded order."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from market_data_core.batch import SourceBatch
from market_data_core.protocols import Mark
from market_data_pipeline.source.reading import NO_TIME
from market_data_pipeline.source.replay.events import InstrumentTable
from market_data_pipeline.source.replay.files import Part
from market_data_pipeline.source.replay.reader import Chunk, Counts, PartReader, first_time
from market_data_pipeline.source.replay.times import zone

Item = tuple[SourceBatch | Mark, int]
"""What is given, and the time it reaches (`NO_TIME` if it has none)."""

MERGE_ROWS: Final = 32 * 1024
"""How far ahead of the others, in rows, a part may run while parts overlap in time."""

MAX_OPEN: Final = 256
"""How many parts are open at most; of more that overlap in time, the later ones wait until others are done."""

_BLOCK_BYTES: Final = 1 << 20
_LEAST_BLOCK_BYTES: Final = 128 << 10
_ALL_BLOCKS_BYTES: Final = 64 << 20


def start_of(part: Part) -> int:
    """Return a time that no row of a part is expected before: the day in its path, or else its first row's time.

    Raises:
        SourceError: The file cannot be read.
    """
    if part.midnight is None:
        return first_time(part)
    local = np.array([part.midnight], np.int64)
    return int(zone(part.layout.time.zone or "UTC").to_utc(local)[0])


@dataclass(slots=True)
class _Open:
    reader: PartReader
    chunk: Chunk
    at: int

    # Up to where rows may go in one step; places are counted from the part's start, so neither the size of batches
    # nor a resume changes how parts are laced.
    def step_end(self, *, alone: bool) -> int:
        if alone:
            return self.chunk.rows
        place = self.chunk.first_row + self.at
        return min(self.chunk.rows, (place // MERGE_ROWS + 1) * MERGE_ROWS - self.chunk.first_row)


class Merge:
    """Reads parts side by side and gives their rows in about recorded order.

    Parts are opened when their start is reached. In each step every open part gives its rows up to the least of the
    times that the open parts are known to. Within a part the order never changes: one that goes back in time counts as
    being where it has been furthest.

    Args:
        parts: What to read; not those that are done.
        resume: By source id, the exclusive end of what is already safe.
        instruments: Where instruments are entered.
        symbols: Only these, upper-cased; None for all.
        batch_rows: At most so many rows a batch.
        step_ns: At most so much recorded time a step; None for no limit.
        counts: What is added to.
        stopped: Asked between steps; once true, nothing more is given.
    """

    def __init__(
        self,
        parts: Sequence[Part],
        *,
        resume: Mapping[str, int],
        instruments: InstrumentTable,
        symbols: Collection[str] | None,
        batch_rows: int,
        step_ns: int | None,
        counts: Counts,
        stopped: Callable[[], bool],
    ) -> None:
        self._parts = parts
        self._resume = resume
        self._instruments = instruments
        self._symbols = symbols
        self._batch_rows = batch_rows
        self._step_ns = step_ns
        self._counts = counts
        self._stopped = stopped
        self._open: list[_Open] = []
        self._finished: list[PartReader] = []
        self._finished_bytes = 0

    def consumed_bytes(self) -> int:
        """Return how much of the parts' sizes on disk has been read."""
        return self._finished_bytes + sum(o.reader.consumed_bytes for o in tuple(self._open))

    def items(self) -> Iterator[Item]:
        """Give everything, and behind the last row of each part its marks, one per vendor.

        A mark at once, not at the end of it all, closes a part's windows before the next day's events pass them by.

        Raises:
            SourceError: A file is damaged or of another layout.
        """
        pending = sorted(((start_of(p), i, p) for i, p in enumerate(self._parts)), key=lambda x: x[:2], reverse=True)
        try:
            while (pending or self._open) and not self._stopped():
                while pending and not self._stopped() and self._may_open(pending[-1][0]):
                    self._start(pending.pop()[2])
                if self._open:
                    yield from self._step(alone=len(self._open) == 1 and not pending)
                for reader in self._finished if not self._stopped() else ():
                    for mark in reader.marks(self._resume.get(reader.part.source_id, 0)):
                        yield mark, NO_TIME
                self._finished.clear()
        finally:
            for o in self._open:
                o.reader.close()
            self._open = []

    def _may_open(self, start: int) -> bool:
        return not self._open or (len(self._open) < MAX_OPEN and start <= self._horizon(alone=False))

    def _horizon(self, *, alone: bool) -> int:
        horizon = min(int(o.chunk.key[o.step_end(alone=alone) - 1]) for o in self._open)
        if self._step_ns is not None:
            head = min(int(o.chunk.key[o.at]) for o in self._open)
            horizon = min(horizon, (head // self._step_ns + 1) * self._step_ns - 1)
        return horizon

    def _start(self, part: Part) -> None:
        share = _ALL_BLOCKS_BYTES // (len(self._open) + 1)
        reader = PartReader(
            part,
            instruments=self._instruments,
            symbols=self._symbols,
            block_bytes=max(_LEAST_BLOCK_BYTES, min(_BLOCK_BYTES, share)),
            counts=self._counts,
        )
        try:
            self._advance(reader, None)
        except BaseException:
            reader.close()
            raise

    # Take up a part's next chunk that holds anything not yet given; let the part go at its end.
    def _advance(self, reader: PartReader, current: _Open | None) -> None:
        given = self._resume.get(reader.part.source_id, 0)
        chunk = reader.next_chunk()
        while chunk is not None and chunk.first_row + chunk.rows <= given and not self._stopped():
            chunk = reader.next_chunk()
        if chunk is None:
            reader.close()
            self._finished.append(reader)
            self._finished_bytes += reader.part.size_bytes
            if current is not None:
                self._open.remove(current)
            return
        at = max(0, given - chunk.first_row)
        if current is None:
            self._open.append(_Open(reader, chunk, at))
        else:
            current.chunk, current.at = chunk, at

    def _step(self, *, alone: bool) -> Iterator[Item]:
        horizon = self._horizon(alone=alone)
        for o in tuple(self._open):
            stop = int(np.searchsorted(o.chunk.key, horizon, side="right"))
            if stop <= o.at:
                continue
            start, o.at = o.at, stop
            yield from o.reader.batches(o.chunk, start, stop, batch_rows=self._batch_rows)
            if stop == o.chunk.rows:
                self._advance(o.reader, o)
