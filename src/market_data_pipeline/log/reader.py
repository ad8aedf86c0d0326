"""Reading a log from a position, in this process or another, as far as it is durable."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from enum import Enum
from pathlib import Path
from typing import Any, Self

import numpy as np
import pyarrow as pa

from market_data_core.batch import Instrument, Instruments
from market_data_core.errors import LogError
from market_data_core.schemas import Kind
from market_data_pipeline.log.folder import read_durable
from market_data_pipeline.log.frames import HEADER_SIZE, NUMBERED, Record, RecordType, decode_header, meta_size_at
from market_data_pipeline.log.segments import (
    READ_BYTES,
    UNKNOWN_VENDOR,
    find_header,
    has_head,
    instrument_from,
    learn,
    list_segments,
    read_at,
    segment_path,
)


class _Found(Enum):
    WAIT = "not durable yet"
    DAMAGE = "no undamaged header here"
    END = "nothing more in this segment"


class LogReader:
    """One consumer's way through a log.

    Args:
        folder: Where the segments are.
        position: Where to begin; records that end at or below it are passed over. A record that reaches across it is
            given whole.
        durable: Says how far reading may go; by default what the writer left in the folder.
        kinds: Events of other kinds come without their payload, which is then not read; None for all.

    Attributes:
        instruments: What instrument ids mean, as far as has been read. A segment that does not agree with what was
            known (the log was cut and went on) brings a new table; what was decoded before keeps the old one.
        position: Exclusive end of what `read` has given.
        problems: One sentence for every damage or hole stepped over.

    Raises:
        LogError: The log no longer holds the position (`details` says where it begins, as ``first_seq``), or cannot
            be read.
    """

    def __init__(
        self,
        folder: Path,
        position: int,
        *,
        durable: Callable[[], int] | None = None,
        kinds: frozenset[Kind] | None = None,
    ) -> None:
        self._folder = folder
        self._kinds = kinds
        self._durable = durable or (lambda: read_durable(folder))
        self.instruments = Instruments()
        self.position = position
        self.problems: list[str] = []
        self._fd = -1
        self._segment_first = -1
        self._at = 0
        # Exclusive end of the last record walked over: numbers in a segment never go back.
        self._walked = 0
        self._buffer: bytes = b""
        self._buffer_at = 0
        # True while ids may be met whose names damage took.
        self._doubtful = False
        segments = list_segments(folder)
        if segments:
            self._check_held(segments[0][0])

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Release the open segment; may be called twice."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def read(self, max_rows: int = 1 << 18) -> Iterator[Record]:
        """Give numbered records in order, from the position to what is durable now, at most about `max_rows` rows.

        Records whose events cannot be had any more come with ``corrupt`` true and their count, so they can be
        accounted for. Where a whole stretch is damaged, or an epoch began higher up, the position jumps and
        `problems` says so.

        Raises:
            LogError: What comes next was trimmed away, or the disk cannot be read.
        """
        try:
            yield from self._walk(max_rows)
        except OSError as exc:
            for first_seq, _ in list_segments(self._folder)[:1]:
                # A file that is not there was trimmed between looking for it and opening it.
                self._check_held(first_seq)
            raise LogError(f"log {self._folder} cannot be read after seq {self.position}: {exc}") from exc

    def _walk(self, max_rows: int) -> Iterator[Record]:
        durable, given = self._durable(), 0
        while self.position < durable and given < max_rows:
            if self._fd < 0 and not self._open_at(self.position):
                return
            found = self._next(durable)
            if isinstance(found, Record):
                if self._take(found):
                    given += found.count
                    yield self._checked(found) if self._doubtful else found
            elif not self._go_on(found, durable):
                return

    def _go_on(self, found: _Found, durable: int) -> bool:
        if found is _Found.DAMAGE:
            return self._step_over(durable)
        return found is _Found.END and self._follow(durable)

    def _check_held(self, first_seq: int) -> None:
        if first_seq > self.position:
            raise LogError(
                f"log {self._folder} begins at seq {first_seq}, position {self.position} is no longer in it: "
                f"{first_seq - self.position} events were trimmed away or lost before they were read",
                details={"first_seq": first_seq},
            )

    def _take(self, record: Record) -> bool:
        self._walked = record.end
        if record.type in NUMBERED:
            if record.end <= self.position:
                return False
            if record.first_seq > self.position:
                self._problem(f"the log holds nothing of seq {self.position} to {record.first_seq}")
            self.position = record.end
            return True
        if record.type is RecordType.SEGMENT:
            known = [instrument_from(m) for m in record.meta["instruments"]]
            if known != list(self.instruments):
                self.instruments = Instruments(known)
            self._doubtful = any(entry.vendor == UNKNOWN_VENDOR for entry in known)
        else:
            self._learn(record.meta)
        return False

    def _learn(self, meta: dict[str, Any]) -> None:
        at, added = int(meta["at"]), [instrument_from(m) for m in meta["add"]]
        if at == len(self.instruments):
            for entry in added:
                self.instruments.add(entry)
            return
        # Read again after a cut write, or told of ids whose record is lost.
        known: list[Instrument] = list(self.instruments)
        before = list(known)
        learn(known, at, added)
        if known != before:
            self._doubtful = self._doubtful or at > len(before)
            self.instruments = Instruments(known)

    def _checked(self, record: Record) -> Record:
        if record.payload is None:
            return record
        ids = np.unique(record.events(self.instruments).column("instrument"))
        if ids[-1] < len(self.instruments) and all(self.instruments[i].vendor != UNKNOWN_VENDOR for i in ids.tolist()):
            return record
        self._problem(f"seq {record.first_seq} to {record.end} name instruments that damage took")
        return replace(record, payload=None, corrupt=True)

    def _open_at(self, position: int) -> bool:
        segments = list_segments(self._folder)
        if not segments:
            return False
        self._check_held(segments[0][0])
        index = max(i for i, (first, _) in enumerate(segments) if first <= position)
        try:
            # Where damage took what a segment repeats at its beginning, the one before it still says it.
            while index > 0 and not has_head(segments[index][1]):
                index -= 1
            self._open(*segments[index])
        except FileNotFoundError:
            # Where the log ended at the position, the segment before it may go as soon as the next one is begun.
            if list_segments(self._folder) == segments:
                raise
            return self._open_at(position)
        return True

    def _open(self, first_seq: int, path: Path) -> None:
        fd = os.open(path, os.O_RDONLY)
        self.close()
        self._fd, self._segment_first, self._walked = fd, first_seq, first_seq
        self._at = self._buffer_at = 0
        self._buffer = b""

    def _follow(self, durable: int) -> bool:
        # The list is read after the durable end was, so a segment that holds what is durable is in it.
        segments = dict(list_segments(self._folder))
        here = segments.get(self._segment_first)
        if here is not None and _is_another_file(here, self._fd):
            # A segment that came to hold nothing was begun anew under the same name.
            self._open(self._segment_first, here)
            return True
        following = min((first for first in segments if first > self._segment_first), default=None)
        if following is not None:
            if here is None and following > self.position:
                self._check_held(following)
            self._open(following, segments[following])
            return True
        # Cut or put back under our hands. What comes of it is for the writer to say when it opens the log again.
        self._problem(f"the log ends at seq {self._walked} or before, though it is said to be durable to {durable}")
        return False

    def _step_over(self, durable: int) -> bool:
        self._doubtful = True
        resumed = find_header(self._fd, self._at + 1, os.fstat(self._fd).st_size, self._walked)
        if resumed is not None:
            at, header = resumed
            if header.first_seq > self.position:
                self._problem(f"{self._damage} to byte {at}, seq {self.position} to {header.first_seq} are lost")
            self._at = at
            return True
        if any(first > self._segment_first for first, _ in list_segments(self._folder)):
            self._problem(f"{self._damage} to its end")
            return self._follow(durable)
        # What is written next is looked for from the same place on.
        self._problem(f"{self._damage} on, seq {self.position} to {durable} are lost")
        self.position = durable
        return False

    @property
    def _damage(self) -> str:
        return f"log segment {segment_path(self._folder, self._segment_first).name} damaged from byte {self._at}"

    def _problem(self, sentence: str) -> None:
        if sentence not in self.problems:
            self.problems.append(sentence)

    def _next(self, durable: int, *, fresh: bool = False) -> Record | _Found:
        if fresh:
            self._buffer = b""
        head = self._peek(self._at, HEADER_SIZE)
        if len(head) < HEADER_SIZE:
            return _Found.END
        meta_size = meta_size_at(head, 0)
        header = None if meta_size is None else decode_header(self._peek(self._at, HEADER_SIZE + meta_size), 0)
        if header is None:
            # What was read ahead may have been cut since; only what is in the file now is damage.
            return _Found.DAMAGE if fresh else self._next(durable, fresh=True)
        if header.type in NUMBERED and header.end > durable:
            return _Found.WAIT
        payload: pa.Buffer | None = None
        wanted = self._kinds is None or header.kind in self._kinds
        if header.type is RecordType.EVENTS and wanted and header.end > self.position:
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


def _is_another_file(path: Path, fd: int) -> bool:
    try:
        return path.stat().st_ino != os.fstat(fd).st_ino
    except FileNotFoundError:
        return False  # trimmed since it was listed
