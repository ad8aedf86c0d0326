"""The same from the recordings as they come: zipped CSV."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pyarrow as pa
import pyarrow.csv as pc

from benchmarks import direct, ticks
from benchmarks.context import Context, median_rate, rate_spread, rounds, seconds
from benchmarks.results import Result, Target

ROW = "csv"
PARSE, PARSE_ALL = "unzip and pyarrow.csv alone, one thread", "the same, all cores"
WHAT = "ticks in zipped CSV → validate → 1 s bars → null sink"


def run(ctx: Context) -> list[Result]:
    """Measure over the recordings; there is nothing to measure without them."""
    files = ticks.zipped_csv(ctx)
    if not files:
        return [Result(row=ROW, what=WHAT, skipped="no recordings; MDP_RECORDINGS may name their folder")]
    files = files[:2] if ctx.rounds == 1 else files
    events = sum(_parse(f, threads=True) for f in files)
    cpu: list[float] = []
    times = rounds(
        {
            "ours": lambda: seconds(lambda: direct.run(files), cpu),
            PARSE: lambda: seconds(lambda: [_parse(f, threads=False) for f in files]),
            PARSE_ALL: lambda: seconds(lambda: [_parse(f, threads=True) for f in files]),
        },
        ctx.rounds,
    )
    return [
        Result(
            row=ROW,
            what=WHAT,
            value=median_rate(events, times["ours"]),
            spread=rate_spread(events, times["ours"]),
            unit="events/s",
            yardsticks={name: median_rate(events, times[name]) for name in (PARSE, PARSE_ALL)},
            target=Target(value=1.5e6, yardstick=PARSE, ratio=0.7),
            detail={
                "events": events,
                "files": len(files),
                "rounds": ctx.rounds,
                "events_per_cpu_s": round(median_rate(events, cpu)),
            },
        )
    ]


def _parse(path: Path, *, threads: bool) -> int:
    rows = 0
    with zipfile.ZipFile(path) as archive:
        for name in archive.namelist():
            options = pc.ReadOptions(autogenerate_column_names=True, use_threads=threads)
            rows += pc.read_csv(pa.py_buffer(archive.read(name)), read_options=options).num_rows
    return rows
