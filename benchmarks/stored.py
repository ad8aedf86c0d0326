"""From Parquet through the durable log into the lake, until every tick and bar is stored."""

from __future__ import annotations

import os
import shutil
import statistics
import struct
import time
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq
from deltalake import write_deltalake

from benchmarks import ticks
from benchmarks.context import Context, median_rate, rate_spread, rounds
from benchmarks.profiles import profiled
from benchmarks.results import Result, Target
from benchmarks.ticks import Ticks
from market_data_core.batch import unlogged
from market_data_core.schemas import TABLE_SCHEMAS, Kind
from market_data_pipeline.engine import Engine, EngineSettings
from market_data_pipeline.pipelines import BarsConfig
from market_data_pipeline.source.replay import ReplaySource

ROW = "stored"
DELTA, LOG = "bare Delta append", "bare framed log append"
_TIMEOUT_S = 600.0
_GROUP_BYTES = 1 << 20
_BATCH_ROWS = 8192
_COMMIT_ROWS = 256 * 1024
_FRAME = struct.Struct("<IIQ")


def run(ctx: Context) -> list[Result]:
    """Measure with the consumers in threads and in a process of their own."""
    made = ticks.prepare(ctx)
    found: dict[str, dict[str, Any]] = {}

    def ours(consumers: Literal["process", "thread"]) -> float:
        taken = store(made, ctx.work / "engine", consumers)
        found[consumers] = taken
        return float(taken["until_stored_s"])

    # The yardsticks start from decoded columns in memory, so what they do not do is reading, bars and bookkeeping.
    tables, batches = _tables(made.files), _batches(made.files)
    times = rounds(
        {
            "thread": lambda: ours("thread"),
            "process": lambda: ours("process"),
            DELTA: lambda: _delta(tables, ctx.work / "delta"),
            LOG: lambda: _framed_log(batches, ctx.work / "bare.log"),
        },
        max(1, ctx.rounds // 2 + 1),
    )
    bare = {name: median_rate(made.events, times[name]) for name in (DELTA, LOG)}
    results = [
        Result(
            row=ROW,
            what=f"ticks in Parquet → durable log → validate, 1 s bars → lake, consumers by {consumers}",
            value=median_rate(made.events, times[consumers]),
            spread=rate_spread(made.events, times[consumers]),
            unit="events/s",
            yardsticks=bare,
            target=Target(value=1e6, yardstick=DELTA, ratio=1 / 3),
            detail={"rounds": len(times[consumers]), "median_s": statistics.median(times[consumers]), **last},
        )
        for consumers, last in found.items()
    ]
    if ctx.profile:
        profiled("stored", lambda: store(made, ctx.work / "engine", "thread"))
    return results


def store(made: Ticks, data_dir: Path, consumers: Literal["process", "thread"]) -> dict[str, Any]:
    """Run one engine over all files in a fresh folder; return times and counts.

    Raises:
        AssertionError: Not everything came to be stored.
    """
    shutil.rmtree(data_dir, ignore_errors=True)
    settings = EngineSettings(
        data_dir=data_dir, bars=(BarsConfig(interval="1s"),), consumers=consumers, maintenance_s=0.0
    )
    engine = Engine(settings)
    engine.open()
    try:
        started = time.perf_counter()
        status = engine.add(ReplaySource(made.files))
        until = time.monotonic() + _TIMEOUT_S
        while status.state not in ("done", "failed", "stopped") and time.monotonic() < until:
            time.sleep(0.005)
        logged_s = time.perf_counter() - started
        if status.state != "done" or status.events != made.events:
            raise AssertionError(f"replay {status.state} after {status.events} of {made.events}: {status.problem}")
        engine.log.barrier()
        if not engine.wait_stored(engine.log.end, _TIMEOUT_S):
            raise AssertionError(f"not everything was stored in time: {engine.problem or engine.status()}")
        stored_s = time.perf_counter() - started
        raw = engine.consumers().consumers["raw"]
        return {
            "events": made.events,
            "until_logged_s": round(logged_s, 3),
            "until_stored_s": stored_s,
            "raw_commits": raw["commits"],
            "log_bytes": engine.log.status.size_bytes,
        }
    finally:
        engine.close()
        shutil.rmtree(data_dir, ignore_errors=True)


def _tables(files: Sequence[Path]) -> list[tuple[Kind, pa.Table]]:
    found = []
    for path in files:
        kind = _kind(path)
        read = pq.read_table(path)
        schema = TABLE_SCHEMAS[kind]
        columns = [
            read.column(f.name) if f.name in read.column_names else pa.nulls(read.num_rows, f.type) for f in schema
        ]
        found.append((kind, pa.Table.from_arrays(columns, schema=schema)))
    return found


def _batches(files: Sequence[Path]) -> list[pa.RecordBatch]:
    found = []
    for path in files:
        for read in pq.ParquetFile(path).iter_batches(_BATCH_ROWS):
            columns = {n: read.column(n) for n in read.schema.names if n not in ("vendor", "symbol")}
            found.append(unlogged(_kind(path), read.num_rows, columns))
    return found


def _kind(path: Path) -> Kind:
    return Kind.TRADES if "trades" in path.name else Kind.QUOTES


def _delta(tables: Sequence[tuple[Kind, pa.Table]], folder: Path) -> float:
    shutil.rmtree(folder, ignore_errors=True)
    started = time.perf_counter()
    for kind, table in tables:
        for at in range(0, table.num_rows, _COMMIT_ROWS):
            write_deltalake(folder / str(kind), table.slice(at, _COMMIT_ROWS), mode="append")
    taken = time.perf_counter() - started
    shutil.rmtree(folder)
    return taken


def _framed_log(batches: Sequence[pa.RecordBatch], path: Path) -> float:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    started = time.perf_counter()
    try:
        group = bytearray()
        for at, batch in enumerate(batches):
            payload = batch.serialize()
            group += _FRAME.pack(payload.size, zlib.crc32(payload), at)
            group += payload
            if len(group) >= _GROUP_BYTES or at == len(batches) - 1:
                _write_all(fd, group)
                os.fdatasync(fd)
                group = bytearray()
    finally:
        os.close(fd)
    taken = time.perf_counter() - started
    path.unlink()
    return taken


def _write_all(fd: int, data: bytearray) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]
