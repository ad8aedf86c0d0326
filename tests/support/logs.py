"""Logs of small events whose content says which they are, for tests that lose them and count."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa

from market_data_core.batch import Instrument, SourceBatch, unlogged
from market_data_core.schemas import Kind
from market_data_pipeline.log import LogReader, LogSettings, Record, RecordType
from market_data_pipeline.log.frames import HEADER_SIZE
from market_data_pipeline.log.segments import read_header

ROOT = Path(__file__).resolve().parents[2]
AT_ONCE = LogSettings(linger_s=0.0, reserve_bytes=0)
TINY = LogSettings(linger_s=0.0, reserve_bytes=0, segment_bytes=1500)
TABLE = (Instrument(vendor="v", symbol="A"), Instrument(vendor="v", symbol="B"), Instrument(vendor="w", symbol="A"))


def trades(start: int, count: int, source_id: str = "file:x", table: Sequence[Instrument] = TABLE) -> SourceBatch:
    """Trades `start` to `start + count` of a source: the n-th has price n and the instrument n modulo the table."""
    ns = range(start, start + count)
    data = unlogged(
        Kind.TRADES,
        count,
        {
            "instrument": [n % len(table) for n in ns],
            "ts_event": [n * 1000 for n in ns],
            "price": [float(n) for n in ns],
        },
    )
    return SourceBatch(
        kind=Kind.TRADES, data=data, instruments=table, source_id=source_id, offset=start + count if source_id else 0
    )


def growing(start: int, count: int, table: list[Instrument]) -> SourceBatch:
    """As `trades`, but every ten trades there is a new instrument, which `table` then has."""
    ids = [n // 10 for n in range(start, start + count)]
    table.extend(Instrument(vendor="v", symbol=f"S{n}") for n in range(len(table), ids[-1] + 1))
    batch = trades(start, count, table=table)
    data = batch.data.set_column(0, batch.data.schema.field(0), pa.array(ids, pa.int32()))
    return SourceBatch(kind=batch.kind, data=data, instruments=table, source_id=batch.source_id, offset=batch.offset)


def drain(reader: LogReader) -> list[Record]:
    """All records there are, through as many reads as it takes."""
    found: list[Record] = []
    while True:
        before = reader.position
        found.extend(reader.read(64))
        if reader.position == before:
            return found


def read_all(folder: Path, position: int = 0) -> list[Record]:
    """All durable records from a position on."""
    with LogReader(folder, position) as reader:
        return drain(reader)


def events(folder: Path, position: int = 0) -> list[tuple[int, str, str, float]]:
    """Every trade from a position on, as (seq, vendor, symbol, price); corrupt records are left out."""
    found: list[tuple[int, str, str, float]] = []
    with LogReader(folder, position) as reader:
        for record in drain(reader):
            if record.type is RecordType.EVENTS and not record.corrupt:
                rows = record.events(reader.instruments).to_table().select(["seq", "vendor", "symbol", "price"])
                found.extend(tuple(row.values()) for row in rows.to_pylist())
    return found


def prices(folder: Path, position: int = 0) -> list[int]:
    """The numbers of the trades from a position on, in order."""
    return [int(price) for _, _, _, price in events(folder, position)]


def named_right(found: list[tuple[int, str, str, float]], table: Sequence[Instrument] = TABLE) -> bool:
    """Whether every trade has the instrument its number says."""
    return all((v, s) == (table[int(p) % len(table)].vendor, table[int(p) % len(table)].symbol) for _, v, s, p in found)


def places(path: Path) -> list[tuple[int, RecordType, int, int]]:
    """Every record of a whole segment, as (place in bytes, type, place of the payload, size in bytes)."""
    found = []
    fd = os.open(path, os.O_RDONLY)
    try:
        at, size = 0, os.fstat(fd).st_size
        while at < size:
            header = read_header(fd, at)
            assert header is not None
            found.append((at, header.type, at + header.payload_at, header.size_bytes))
            at += header.size_bytes
    finally:
        os.close(fd)
    return found


def flip(path: Path, at: int) -> None:
    """Damage one byte of a file."""
    with path.open("r+b") as file:
        file.seek(at)
        old = file.read(1)
        file.seek(at)
        file.write(bytes([old[0] ^ 0xFF]))


def flip_header(path: Path, at: int) -> None:
    """Damage the header of the record at a place."""
    flip(path, at + HEADER_SIZE - 1)
