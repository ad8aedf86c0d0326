"""Bars of one symbol and day out of a table of many."""

from __future__ import annotations

import shutil
import statistics
import time
from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds

from benchmarks.context import Context, rounds
from benchmarks.results import Result, Target
from market_data_core.schemas import TABLE_SCHEMAS, Kind
from market_data_store.lake import Lake
from market_data_store.lake.maintenance import MaintenancePolicy
from market_data_store.lake.planning import CompactionPolicy

ROW = "lake"
BARE = "bare pyarrow over the day's files"
TENANT = "default"
_MINUTE_NS = 60 * 1_000_000_000
_DAY_NS = 1440 * _MINUTE_NS
_FIRST_DAY_NS = 19_723 * _DAY_NS  # 2024-01-01
_SYMBOLS = 500
_COMMIT_ROWS = 256 * 1024
_LOOKS = 20


def run(ctx: Context) -> list[Result]:
    """Measure single reads spread over symbols and days, each checked for its volume."""
    symbols, days = _shape(ctx.bar_rows)
    rows = symbols * days * 1440
    lake, built_s = _lake(ctx, symbols, days)
    places = np.random.default_rng(1)

    def place() -> tuple[int, int]:
        return int(places.integers(symbols)), int(places.integers(days))

    times = rounds(
        {"ours": lambda: _look(lake, *place()), BARE: lambda: _bare_look(lake, *place())}, _LOOKS * ctx.rounds
    )
    ours = [s * 1000 for s in times["ours"]]
    bare_ms = statistics.median(times[BARE]) * 1000
    files = lake.counts()[str(Kind.BARS)].files
    detail = {
        "rows": rows,
        "files": files,
        "looks": len(ours),
        "p99_ms": round(float(np.percentile(ours, 99)), 2),
        "first_ms": round(ours[0], 2),
        "built_s": round(built_s, 1),
    }
    return [
        Result(
            row=ROW,
            what=f"1 m bars of one symbol and day out of {rows / 1e6:.3g} M rows in the lake",
            value=statistics.median(ours),
            spread=(min(ours), max(ours)),
            unit="ms",
            yardsticks={BARE: bare_ms},
            target=Target(value=50.0, higher_is_better=False),
            detail=detail,
        )
    ]


def _shape(rows: int) -> tuple[int, int]:
    symbols = min(_SYMBOLS, max(1, rows // (1440 * 2)))
    return symbols, max(1, -(-rows // (1440 * symbols)))


def volumes(symbol: int, day: int) -> np.ndarray:
    """Return the volumes of a symbol's day as the table is filled with them."""
    return ((np.arange(1440) * 7 + symbol * 13 + day * 29) % 997 + 1).astype(np.float64)


def _look(lake: Lake, symbol: int, day: int) -> float:
    start = _FIRST_DAY_NS + day * _DAY_NS
    started = time.perf_counter()
    found = lake.bars(f"S{symbol:04d}", "1m", start_ns=start, end_ns=start + _DAY_NS)
    taken = time.perf_counter() - started
    if not np.array_equal(found.column("volume").to_numpy(), volumes(symbol, day)):
        raise AssertionError(f"bars of symbol {symbol} on day {day} are not what was stored")
    return taken


def _bare_look(lake: Lake, symbol: int, day: int) -> float:
    start = _FIRST_DAY_NS + day * _DAY_NS
    date = np.datetime64(start, "ns").astype("datetime64[D]")
    started = time.perf_counter()
    dataset = ds.dataset(str(lake.path / str(Kind.BARS) / f"date={date}"), format="parquet")
    where = (pc.field("symbol") == f"S{symbol:04d}") & (pc.field("interval") == "1m")
    found = dataset.to_table(filter=where & (pc.field("ts_event") >= start) & (pc.field("ts_event") < start + _DAY_NS))
    taken = time.perf_counter() - started
    if found.num_rows < 1440:
        raise AssertionError(f"bare reading found {found.num_rows} bars of symbol {symbol} on day {day}")
    return taken


def _lake(ctx: Context, symbols: int, days: int) -> tuple[Lake, float]:
    root = ctx.cache / f"lake-{symbols}x{days}"
    ready = root / "ready"
    lake = Lake(root, TENANT)
    if ready.is_file():
        return lake, 0.0
    started = time.perf_counter()
    shutil.rmtree(root, ignore_errors=True)
    root.mkdir(parents=True)
    lake.open()
    table = lake.table(str(Kind.BARS))
    position = 0
    for rows in _filling(symbols, days):
        position += rows.num_rows
        table.append(rows, writer="bars", position=position, covers={})
    # As a table looks once its days are over and it has been looked after.
    settled = MaintenancePolicy(compaction=CompactionPolicy(settle_ns=0), data_retention_ns=0)
    lake.maintain(settled)
    ready.write_text("\n")
    return lake, time.perf_counter() - started


def _filling(symbols: int, days: int) -> Iterator[pa.Table]:
    names = pa.array([f"S{i:04d}" for i in range(symbols)])
    minutes = max(1, _COMMIT_ROWS // symbols)
    seq = 0
    for day in range(days):
        of_day = np.stack([volumes(s, day) for s in range(symbols)])  # symbol, minute
        for begin in range(0, 1440, minutes):
            end = min(begin + minutes, 1440)
            # All symbols of one minute, then of the next, as they are made live.
            minute, symbol = (a.ravel() for a in np.mgrid[begin:end, 0:symbols])
            yield _rows(names.take(pa.array(symbol)), day, minute, of_day[symbol, minute], seq)
            seq += len(minute)


def _rows(symbol: pa.Array, day: int, minute: np.ndarray, volume: np.ndarray, seq: int) -> pa.Table:
    rows = len(minute)
    start = _FIRST_DAY_NS + day * _DAY_NS + minute.astype(np.int64) * _MINUTE_NS
    price = 100 + (volume % 50) / 100
    numbers = np.arange(seq, seq + rows)
    columns = {
        "vendor": pa.repeat("bench", rows),
        "symbol": symbol,
        "ts_event": start,
        "ts_recv": start + _MINUTE_NS,
        "seq": numbers,
        "flags": np.zeros(rows, np.int32),
        "origin": pa.repeat("synthetic", rows),
        "interval": pa.repeat("1m", rows),
        "what": pa.repeat("TRADES", rows),
        "session": pa.repeat("ALL", rows),
        "source": pa.repeat("internal", rows),
        **dict.fromkeys(("open", "high", "low", "close", "vwap"), price),
        "volume": volume,
        "trade_count": np.full(rows, 10),
        "revision": np.zeros(rows, np.int32),
        "ts_known": start + _MINUTE_NS,
        "reason": pa.nulls(rows, pa.string()),
    }
    schema = TABLE_SCHEMAS[Kind.BARS]
    arrays = [pa.array(columns[f.name]).cast(f.type) for f in schema]
    return pa.Table.from_arrays(arrays, schema=schema)
