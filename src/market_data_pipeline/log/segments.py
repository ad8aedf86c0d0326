"""The files of a log: one segment after the other, each named by its first sequence number.

A segment begins with a record that says whose log it is and repeats all that was known before it (instruments, source
offsets), so older segments can go without taking anything along that newer ones need.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa

from market_data_core.batch import Instrument
from market_data_pipeline.log.frames import (
    HEADER_SIZE,
    MAGIC_BYTES,
    NUMBERED,
    Header,
    Record,
    RecordType,
    decode_header,
    meta_size_at,
)

SUFFIX = ".log"
READ_BYTES = 4 << 20
UNKNOWN_VENDOR = "?"


def segment_path(folder: Path, first_seq: int) -> Path:
    """Return the path of the segment that begins at a sequence number."""
    return folder / f"{first_seq:020d}{SUFFIX}"


def list_segments(folder: Path) -> list[tuple[int, Path]]:
    """Return (first_seq, path) of all segments, ascending."""
    found = [(int(p.stem), p) for p in folder.glob(f"*{SUFFIX}") if p.stem.isdigit()]
    return sorted(found)


def instrument_meta(entry: Instrument) -> list[str | int]:
    """Return an instrument as it is written into the log."""
    return [entry.vendor, entry.symbol, entry.price_decimals, entry.size_decimals]


def instrument_from(meta: list[str | int]) -> Instrument:
    """Return an instrument as it was written into the log."""
    vendor, symbol, price_decimals, size_decimals = meta
    return Instrument(
        vendor=str(vendor),
        symbol=str(symbol),
        price_decimals=int(price_decimals),
        size_decimals=int(size_decimals),
    )


def unknown_instrument(instrument_id: int) -> Instrument:
    """Return what stands in the table for an id whose name was lost to damage."""
    return Instrument(vendor=UNKNOWN_VENDOR, symbol=f"#{instrument_id}")


def learn(known: list[Instrument], at: int, entries: list[Instrument]) -> None:
    """Put instruments at their ids; ids nobody told us of in between are unknown, never another's."""
    known.extend(unknown_instrument(i) for i in range(len(known), at))
    known[at : at + len(entries)] = entries


def can_repeat(record: Record) -> bool:
    """Return whether nothing is lost with a record that its source, or the writer, would not give again."""
    if record.type not in NUMBERED or record.source_id:
        return True
    return record.type is RecordType.CONTROL and record.meta.get("a") == "barrier"


@dataclass(slots=True)
class Damage:
    """A place in a segment that could not be read.

    Attributes:
        path: The segment.
        at_byte: Where the damage begins.
        size_bytes: How far it reaches.
        first_seq: The first sequence number it may have held.
        count: How many events are lost with it.
        repeatable: False if what is lost is known to come from a source that cannot give it again. Where it is not
            known, the rest of the log decides: cutting there costs nothing that is not lost already.
    """

    path: Path
    at_byte: int
    size_bytes: int
    first_seq: int
    count: int
    repeatable: bool

    @property
    def end_seq(self) -> int:
        """Exclusive end of the sequence numbers it held."""
        return self.first_seq + self.count

    def __str__(self) -> str:
        return (
            f"segment {self.path.name} at byte {self.at_byte}: {self.size_bytes} bytes damaged, "
            f"{self.count} events from seq {self.first_seq}"
        )


@dataclass(slots=True)
class SegmentScan:
    """What a walk over one segment found.

    Attributes:
        log_id, epoch: As its first record says, or else the segment before it.
        first_seq: Which its name says.
        records: How many whole records it holds.
        end_byte: Where the last whole record ends; what follows is a torn tail.
        end_seq: Exclusive end of the last whole record.
        after_barrier: True if the last numbered record, here or in the segment before, is a barrier; False where that
            is not known. One barrier too many does no harm, one too few keeps consumers waiting for ever.
        ts_last: When the last record was appended, UTC nanoseconds.
        instruments: All that were known at its end, by id.
        sources: By source id, the exclusive end of what was logged.
        damages: In order.
        torn: Those of them that no later group follows: where the segment is the newest, they may lie in a write that
            was cut off, before anybody was told that it is durable.
        replayable: True if every event in it, or from the first damage on, can be given again by its source.
    """

    log_id: str = ""
    epoch: int = 0
    first_seq: int = 0
    records: int = 0
    end_byte: int = 0
    end_seq: int = 0
    after_barrier: bool = False
    ts_last: int = 0
    instruments: list[Instrument] = field(default_factory=list)
    sources: dict[str, int] = field(default_factory=dict)
    damages: list[Damage] = field(default_factory=list)
    torn: list[Damage] = field(default_factory=list)
    replayable: bool = True


def read_at(fd: int, size: int, at: int) -> bytes:
    """Read `size` bytes at a place, fewer at the end of the file."""
    parts = []
    while size > 0:
        part = os.pread(fd, size, at)
        if not part:
            break
        parts.append(part)
        size -= len(part)
        at += len(part)
    return parts[0] if len(parts) == 1 else b"".join(parts)


def read_header(fd: int, at: int) -> Header | None:
    """Return the header at a place of a segment, or None if there is none whole and undamaged."""
    head = read_at(fd, HEADER_SIZE, at)
    meta_size = meta_size_at(head, 0)
    if meta_size is None:
        return None
    return decode_header(head + read_at(fd, meta_size, at + HEADER_SIZE) if meta_size else head, 0)


def has_head(path: Path) -> bool:
    """Return whether a segment's first record, which says what was known before it, is whole."""
    fd = os.open(path, os.O_RDONLY)
    try:
        header = read_header(fd, 0)
    finally:
        os.close(fd)
    return header is not None and header.type is RecordType.SEGMENT


def walk(path: Path, *, check: bool, sealed_end: int | None = None) -> Iterator[tuple[int, Record] | Damage]:
    """Walk over the records of a segment.

    Args:
        path: The segment.
        check: True to read every payload and check it; else records come without payload.
        sealed_end: Where the next segment begins, so that a tail that cannot be read is damage. None for the newest
            segment, where it is a write that was cut off: that ends the walk without a word.

    Yields:
        (place of the record's end in bytes, record), or the damage met.
    """
    fd = os.open(path, os.O_RDONLY)
    try:
        size = os.fstat(fd).st_size
        at, next_seq = 0, int(path.stem)
        while at < size:
            header = read_header(fd, at)
            if header is None:
                resumed = find_header(fd, at + 1, size, next_seq)
                if resumed is None:
                    break
                place, following = resumed
                yield Damage(path, at, place - at, next_seq, following.first_seq - next_seq, repeatable=True)
                at, next_seq = place, following.first_seq
                continue
            end = at + header.size_bytes
            if end > size:
                break
            payload = pa.py_buffer(read_at(fd, header.payload_size, at + header.payload_at)) if check else None
            record = header.record(payload)
            if record.corrupt:
                if sealed_end is None and find_header(fd, end, size, header.end) is None:
                    return
                yield Damage(path, at, header.size_bytes, header.first_seq, header.count, can_repeat(record))
            else:
                yield end, record
            at, next_seq = end, header.end
        if at < size and sealed_end is not None:
            yield Damage(path, at, size - at, next_seq, sealed_end - next_seq, repeatable=True)
    finally:
        os.close(fd)


def sources_before(path: Path) -> dict[str, int]:
    """Return, by source id, what the log had had before a segment: the exclusive end of each sequence."""
    for found in walk(path, check=False):
        if not isinstance(found, Damage) and found[1].type is RecordType.SEGMENT:
            return {str(s): int(offset) for s, offset in found[1].meta["sources"].items()}
        break
    return {}


def find_header(fd: int, at: int, size: int, least_seq: int) -> tuple[int, Header] | None:
    """Return where the next undamaged header begins at or after a place, and it; None if there is none up to `size`.

    The checksum and a sequence number that does not go back rule out a chance match.
    """
    while at < size:
        block = read_at(fd, READ_BYTES + HEADER_SIZE, at)
        found = block.find(MAGIC_BYTES)
        while 0 <= found < READ_BYTES:
            header = read_header(fd, at + found)
            if header is not None and header.first_seq >= least_seq:
                return at + found, header
            found = block.find(MAGIC_BYTES, found + 1)
        at += READ_BYTES
    return None


def scan(path: Path, *, check: bool, before: SegmentScan | None = None, sealed_end: int | None = None) -> SegmentScan:
    """Walk over a segment and say what it holds.

    Args:
        path: The segment.
        check: As in `walk`.
        before: What the segment before it holds, for a segment whose own first record is damaged.
        sealed_end: As in `walk`.
    """
    first_seq = int(path.stem)
    result = SegmentScan(first_seq=first_seq, end_seq=first_seq)
    if before is not None:
        result.log_id, result.epoch = before.log_id, before.epoch
        result.after_barrier = before.after_barrier
        result.instruments, result.sources = list(before.instruments), dict(before.sources)
    for found in walk(path, check=check, sealed_end=sealed_end):
        if isinstance(found, Damage):
            if not result.damages:
                result.replayable = True
            result.damages.append(found)
            result.torn.append(found)
            result.end_byte = found.at_byte + found.size_bytes
            result.end_seq = max(result.end_seq, found.end_seq)
            result.replayable = result.replayable and found.repeatable
            continue
        result.end_byte, record = found
        _note(result, record)
    return result


def _note(result: SegmentScan, record: Record) -> None:
    result.records += 1
    if record.starts_group:
        result.torn.clear()
    result.end_seq, result.ts_last = record.end, record.ts_append
    result.replayable = result.replayable and can_repeat(record)
    if record.type is RecordType.SEGMENT:
        result.log_id = str(record.meta["log_id"])
        result.epoch = int(record.meta["epoch"])
        result.sources = {str(k): int(v) for k, v in record.meta["sources"].items()}
        result.instruments = [instrument_from(m) for m in record.meta["instruments"]]
    elif record.type is RecordType.INSTRUMENTS:
        learn(result.instruments, int(record.meta["at"]), [instrument_from(m) for m in record.meta["add"]])
    else:
        result.after_barrier = record.barrier
        if record.source_id:
            result.sources[record.source_id] = record.offset
