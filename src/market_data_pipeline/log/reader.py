"""Reading a log from a position, in this process or another, as far as it is durable."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from enum import Enum
from pathlib import Path

import pyarrow as pa

from market_data_core.batch import Instruments
from market_data_core.errors import LogError
from market_data_pipeline.log.frames import HEADER_SIZE, NUMBERED, Record, RecordType, decode_header, meta_size_at
from market_data_pipeline.log.segments import READ_BYTES, find_header, instrument_from, list_segments, read_at
from market_data_pipeline.log.writer import read_durable


class _Found(Enum):
    WAIT = "not durable yet"
    DAMAGE = "no undamaged header here"
    END = "nothing more in this segment"


class LogReader:
    """One consumer's way through a log.

    Args:
        folder: Where the segments are.
        position: Where to begin; records that end at or below it are passed over.
        durable: Says how far reading may go; by default what the writer left in the folder.

    Attributes:
        instruments: What instrument ids mean, as far as has been read.
        position: Exclusive end of what `read` has given.
        problems: One sentence for every damage stepped over.

    Raises:
        LogError: The log no longer holds the position: it was trimmed.
    """

    def __init__(self, folder: Path, position: int, *, durable: Callable[[], int] | None = None) -> None:
        self._folder = folder
        self._durable = durable or (lambda: read_durable(folder))
        self.instruments = Instruments()
        self.position = position
        self.problems: list[str] = []
        self._fd = -1
        self._segment_first = -1
        self._at = 0
        self._buffer: bytes = b""
        self._buffer_at = 0
        first = list_segments(folder)
        if first and first[0][0] > position:
            raise LogError(
                f"log {folder} begins at seq {first[0][0]}, position {position} is no longer in it: "
                f"{first[0][0] - position} events were trimmed away before they were read",
                details={"first_seq": first[0][0]},
            )

    def __enter__(self) -> LogReader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Release the open segment; may be called twice."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def read(self, max_rows: int = 1 << 18) -> Iterator[Record]:
        """Give numbered records in order, from the position to what is durable now, at most about `max_rows` rows.

        A record whose payload is damaged comes with ``corrupt`` true and its count, so it can be accounted for. Where
        a whole stretch is damaged, the position jumps over it and `problems` says so.
        """
        durable, given = self._durable(), 0
        while self.position < durable and given < max_rows:
            if self._fd < 0 and not self._open(self.position):
                return
            found = self._next(durable)
            if found is _Found.WAIT:
                return
            if found is _Found.DAMAGE:
                self._step_over()
            elif found is _Found.END:
                self._follow(durable)
            elif isinstance(found, Record) and self._take(found):
                given += found.count
                yield found

    def _take(self, record: Record) -> bool:
        if record.type in NUMBERED:
            if record.end <= self.position:
                return False
            self.position = record.end
            return True
        for entry in record.meta["add" if record.type is RecordType.INSTRUMENTS else "instruments"]:
            self.instruments.add(instrument_from(entry))
        return False

    def _open(self, position: int) -> bool:
        segments = list_segments(self._folder)
        held = [i for i, (first, _) in enumerate(segments) if first <= position]
        if not held:
            if not segments:
                return False
            held = [0]
        index = held[-1]
        self.close()
        self._segment_first, path = segments[index]
        self._fd = os.open(path, os.O_RDONLY)
        self._at = self._buffer_at = 0
        self._buffer = b""
        return True

    def _follow(self, durable: int) -> None:
        # The list is read after the durable end was, so a segment that holds what is durable is in it.
        following = [first for first, _ in list_segments(self._folder) if first > self._segment_first]
        if following:
            # It may begin above where this one ends: an epoch that began higher up.
            self.position = max(self.position, min(following))
            self._open(min(following))
        else:
            self._report("the end of the log")
            self.position = durable

    def _step_over(self) -> None:
        size = os.fstat(self._fd).st_size
        resumed = find_header(self._fd, self._at + 1, size, self.position)
        self._report("the end of the segment" if resumed is None else f"byte {resumed}")
        self._at = size if resumed is None else resumed

    def _report(self, until: str) -> None:
        problem = f"log segment {self._segment_first:020d} damaged from byte {self._at} to {until}, after seq {self.position}"
        if problem not in self.problems:
            self.problems.append(problem)

    def _next(self, durable: int) -> Record | _Found:
        head = self._peek(self._at, HEADER_SIZE)
        if len(head) < HEADER_SIZE:
            return _Found.END
        meta_size = meta_size_at(head, 0)
        header = None if meta_size is None else decode_header(self._peek(self._at, HEADER_SIZE + meta_size), 0)
        if header is None:
            return _Found.DAMAGE
        if header.type in NUMBERED and header.end > durable:
            return _Found.WAIT
        payload: pa.Buffer | None = None
        if header.type is RecordType.EVENTS and header.end > self.position:
            # A copy of its own, so that the columns lie aligned in memory.
            body = self._peek(self._at + header.payload_at, header.payload_size)
            if len(body) < header.payload_size:
                return _Found.END
            payload = pa.py_buffer(body)
        self._at += header.size_bytes
        return header.record(payload)

    def _peek(self, at: int, size: int) -> bytes:
        start = at - self._buffer_at
        if start < 0 or start + size > len(self._buffer):
            self._buffer = read_at(self._fd, max(size, READ_BYTES), at)
            self._buffer_at, start = at, 0
        return self._buffer[start : start + size]
