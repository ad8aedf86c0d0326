"""The records of the log on disk.

A record is a header of fixed size, a short JSON text (`meta`) and a payload. One checksum covers header and meta, one
the payload: where only a payload is damaged, the log still knows what is missing and where the next record begins.

    magic u32 | type u8 | kind u8 | origin u8 | flags u8 | partition u16 | - u16 | count u32
    first_seq i64 | ts_append i64 | meta_size u32 | payload_size u32 | payload_crc u32 | header_crc u32

Numbers are little-endian, times UTC nanoseconds. The payload of an event record is one Arrow record batch message
without its schema, in ``UNLOGGED_SCHEMAS[kind]``: the schema is known from the kind, the sequence numbers from
`first_seq`, and instruments are ids into a table that is itself logged.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, Final

import numpy as np
import orjson
import pyarrow as pa

from market_data_core.batch import EventBatch, Instruments
from market_data_core.errors import LogError, SchemaValidationError
from market_data_core.schemas import EVENT_SCHEMAS, UNLOGGED_SCHEMAS, Kind, Origin

HEADER: Final = struct.Struct("<IBBBBHHIqqIII")
HEADER_CRC: Final = struct.Struct("<I")
HEADER_SIZE: Final = HEADER.size + HEADER_CRC.size
MAGIC: Final = 0x4C444D31
MAGIC_BYTES: Final = MAGIC.to_bytes(4, "little")
MAX_META_BYTES: Final = 1 << 28
BARRIER: Final = 1
"""Header flag: operators run up to and including this record."""
GROUP: Final = 2
"""Header flag: all records before this one were durable when it was written."""

# The places are the wire format: append only.
_KINDS: Final = (
    Kind.QUOTES,
    Kind.TRADES,
    Kind.BARS,
    Kind.DEPTH,
    Kind.OPTIONS,
    Kind.DEFINITIONS,
    Kind.STATUS,
    Kind.QUARANTINE,
    Kind.CONTROL,
    Kind.TAQ,
    Kind.ANALYTICS,
)
_KIND_CODES: Final = {k: i for i, k in enumerate(_KINDS)}
_ORIGINS: Final = (Origin.LIVE, Origin.REPLAY, Origin.BACKFILL, Origin.SYNTHETIC)
_ORIGIN_CODES: Final = {o: i for i, o in enumerate(_ORIGINS)}


class RecordType(IntEnum):
    """What a record is. Only the first three take sequence numbers."""

    EVENTS = 1
    MARK = 2
    CONTROL = 3
    SEGMENT = 4
    INSTRUMENTS = 5


NUMBERED: Final = frozenset({RecordType.EVENTS, RecordType.MARK, RecordType.CONTROL})


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One record as read back.

    Attributes:
        type: What it is.
        first_seq: Its first sequence number.
        count: How many it takes: one per event, one for a mark or control record, none for the others.
        barrier: True if operators run up to here.
        starts_group: True if all before it was durable when it was written.
        partition: The partition it was appended to.
        ts_append: When it was appended, UTC nanoseconds.
        meta: Facts about it: ``s`` source id, ``o`` offset, and what control records say.
        payload: Its bytes; None where they were not asked for or are damaged.
        corrupt: True if the events cannot be had any more: the payload does not match its checksum, or damage took the
            names of its instruments.
    """

    type: RecordType
    kind: Kind
    origin: Origin
    first_seq: int
    count: int
    barrier: bool
    partition: int
    ts_append: int
    meta: dict[str, Any]
    payload: pa.Buffer | None
    starts_group: bool = False
    corrupt: bool = False

    @property
    def end(self) -> int:
        """Exclusive end position."""
        return self.first_seq + self.count

    @property
    def source_id(self) -> str:
        """The source sequence it came from; empty for none."""
        return str(self.meta.get("s", ""))

    @property
    def offset(self) -> int:
        """Exclusive end in the source sequence."""
        return int(self.meta.get("o", 0))

    def events(self, instruments: Instruments) -> EventBatch:
        """Decode an event record; views the bytes, makes nothing but the sequence numbers.

        Raises:
            LogError: The record is corrupt, or no record of events.
        """
        if self.payload is None or self.type is not RecordType.EVENTS:
            raise LogError(f"log record of seq {self.first_seq} to {self.end} has no events that can be read")
        stored = pa.ipc.read_record_batch(self.payload, UNLOGGED_SCHEMAS[self.kind])
        arrays = stored.columns
        seq = pa.array(np.arange(self.first_seq, self.end, dtype=np.int64))
        data = pa.RecordBatch.from_arrays([*arrays[:3], seq, *arrays[3:]], schema=EVENT_SCHEMAS[self.kind])
        return EventBatch(
            kind=self.kind,
            data=data,
            instruments=instruments,
            origin=self.origin,
            source_id=self.source_id,
            offset=self.offset,
        )


def encode_meta(meta: Mapping[str, Any]) -> bytes:
    """Return the JSON text of a record's meta.

    Raises:
        SchemaValidationError: It has values that JSON cannot say, or is too long.
    """
    try:
        text = orjson.dumps(meta)
    except TypeError as exc:
        raise SchemaValidationError(f"cannot be logged: {exc}") from exc
    if len(text) > MAX_META_BYTES:
        raise SchemaValidationError(f"cannot be logged: {len(text)} bytes are more than {MAX_META_BYTES}")
    return text


def encode(
    type_: RecordType,
    *,
    first_seq: int,
    count: int,
    ts_append: int,
    meta: bytes,
    payload: pa.Buffer | bytes = b"",
    kind: Kind = Kind.CONTROL,
    origin: Origin = Origin.LIVE,
    barrier: bool = False,
    starts_group: bool = False,
    partition: int = 0,
) -> list[bytes | pa.Buffer]:
    """Return the record as buffers to be written one after the other; `meta` is what `encode_meta` gave."""
    header = HEADER.pack(
        MAGIC,
        type_,
        _KIND_CODES[kind],
        _ORIGIN_CODES[origin],
        (BARRIER if barrier else 0) | (GROUP if starts_group else 0),
        partition,
        0,
        count,
        first_seq,
        ts_append,
        len(meta),
        len(payload),
        zlib.crc32(payload),
    )
    return [header + HEADER_CRC.pack(zlib.crc32(meta, zlib.crc32(header))) + meta, payload]


@dataclass(frozen=True, slots=True)
class Header:
    """A header, with its meta text, whose checksum holds."""

    type: RecordType
    kind: Kind
    origin: Origin
    flags: int
    partition: int
    count: int
    first_seq: int
    ts_append: int
    meta: bytes
    payload_size: int
    payload_crc: int

    @property
    def payload_at(self) -> int:
        """Where the payload begins, in bytes from the start of the record."""
        return HEADER_SIZE + len(self.meta)

    @property
    def size_bytes(self) -> int:
        """Size of the whole record."""
        return self.payload_at + self.payload_size

    @property
    def end(self) -> int:
        """Exclusive end position."""
        return self.first_seq + self.count

    def record(self, payload: pa.Buffer | None) -> Record:
        """Return the record of this header; a payload is checked against its checksum."""
        corrupt = payload is not None and zlib.crc32(payload) != self.payload_crc
        return Record(
            type=self.type,
            kind=self.kind,
            origin=self.origin,
            first_seq=self.first_seq,
            count=self.count,
            barrier=bool(self.flags & BARRIER),
            starts_group=bool(self.flags & GROUP),
            partition=self.partition,
            ts_append=self.ts_append,
            meta=orjson.loads(self.meta) if self.meta else {},
            payload=None if corrupt else payload,
            corrupt=corrupt,
        )


def decode_header(data: bytes, at: int) -> Header | None:
    """Return the header and meta at a place, or None if they are not there whole and undamaged."""
    meta_at = at + HEADER_SIZE
    if len(data) < meta_at or data[at : at + 4] != MAGIC_BYTES:
        return None
    _, type_, kind, origin, flags, partition, _, count, seq, ts, meta_size, size, payload_crc = HEADER.unpack_from(
        data, at
    )
    if meta_at + meta_size > len(data):
        return None
    meta = data[meta_at : meta_at + meta_size]
    (crc,) = HEADER_CRC.unpack_from(data, at + HEADER.size)
    if zlib.crc32(meta, zlib.crc32(data[at : at + HEADER.size])) != crc:
        return None
    return Header(
        RecordType(type_), _KINDS[kind], _ORIGINS[origin], flags, partition, count, seq, ts, meta, size, payload_crc
    )


def meta_size_at(data: bytes, at: int) -> int | None:
    """Return how long the meta text of the header at a place says it is, unchecked; None where no header begins."""
    if len(data) - at < HEADER_SIZE or data[at : at + 4] != MAGIC_BYTES:
        return None
    size = int(HEADER.unpack_from(data, at)[10])
    return size if size <= MAX_META_BYTES else None
