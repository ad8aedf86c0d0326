"""Real ticks in Parquet through validation into 1 s bars, to a null sink, in one process."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from benchmarks import direct, ticks, yardsticks
from benchmarks.context import Context, median_rate, rate_spread, rounds, seconds
from benchmarks.direct import BarsFound
from benchmarks.profiles import profiled
from benchmarks.results import Result, Target
from benchmarks.yardsticks_venv import foreign

ROW = "parquet"
OBJECTS, KERNEL, COPY, READ = "object per tick", "NumPy kernel", "memory copy", "pyarrow reading alone"


def run(ctx: Context) -> list[Result]:
    """Measure, and compare the bars of all ways over the same ticks."""
    made = ticks.prepare(ctx)
    checked = compare(made.sample)
    wanted = {"bars": checked["bars_compared"], "volume": checked["volume"]}
    others = foreign(ctx, ROW, "bars", files=made.sample, expected=wanted)
    loaded = [yardsticks.load(f)[1] for f in made.files]
    kernel_events = sum(len(c[0]) for c in loaded)
    # Copied into memory that is there already: a fresh page costs more than the copy into it.
    copies = [[np.empty_like(column) for column in columns] for columns in loaded]
    cpu: dict[str, list[float]] = {"ours": [], OBJECTS: []}
    times = rounds(
        {
            "ours": lambda: seconds(lambda: direct.run(made.files), cpu["ours"]),
            OBJECTS: lambda: seconds(lambda: yardsticks.object_pipeline(made.sample), cpu[OBJECTS]),
            KERNEL: lambda: seconds(lambda: [yardsticks.kernel(c) for c in loaded]),
            COPY: lambda: seconds(lambda: _copy(loaded, copies)),
            READ: lambda: seconds(lambda: [pq.read_table(f) for f in made.files]),
            **others.runs,
        },
        ctx.rounds,
    )
    result = Result(
        row=ROW,
        what="ticks in Parquet → validate → 1 s bars → null sink",
        value=median_rate(made.events, times["ours"]),
        spread=rate_spread(made.events, times["ours"]),
        unit="events/s",
        yardsticks={
            OBJECTS: median_rate(made.sample_events, times[OBJECTS]),
            KERNEL: median_rate(kernel_events, times[KERNEL]),
            COPY: median_rate(kernel_events, times[COPY]),
            READ: median_rate(made.events, times[READ]),
            **{name: median_rate(made.sample_events, times[name]) for name in others.runs},
        },
        # The reference machine's kernel makes 23.2 M events/s of such batches.
        target=Target(value=5e6, yardstick=KERNEL, ratio=5 / 23.2),
        detail={
            "events": made.events,
            "events_of_object_pipeline": made.sample_events,
            "ticks": made.described,
            "rounds": ctx.rounds,
            **checked,
            **others.said,
            "events_per_cpu_s": round(median_rate(made.events, cpu["ours"])),
            "events_per_cpu_s_object_pipeline": round(median_rate(made.sample_events, cpu[OBJECTS])),
            "cores_used": round(statistics.median(cpu["ours"]) / statistics.median(times["ours"]), 2),
        },
    )
    if ctx.profile:
        profiled("parquet", lambda: direct.run(made.files))
    return [result, *others.skipped]


def _copy(loaded: list[yardsticks.Columns], copies: list[list[np.ndarray]]) -> None:
    for columns, places in zip(loaded, copies, strict=True):
        for column, place in zip(columns, places, strict=True):
            np.copyto(place, column)


def compare(sample: Sequence[Path]) -> dict[str, float]:
    """Make the bars of a sample in all three ways; return counts.

    Raises:
        AssertionError: A bar differs, so no figure would mean anything.
    """
    sink = direct.run(sample, keep=True)
    ours = sink.found()
    objects = yardsticks.object_pipeline(sample)
    kernel: BarsFound = {}
    for path in sample:
        kernel |= yardsticks.kernel_bars(path)
    for name, theirs in (("object pipeline", objects), ("kernel", kernel)):
        if ours.keys() != theirs.keys():
            raise AssertionError(f"{len(ours.keys() ^ theirs.keys())} bars are only in ours or only in the {name}'s")
        differing = [key for key in ours if not all(map(math.isclose, ours[key], theirs[key]))]
        if differing:
            key = differing[0]
            raise AssertionError(f"{len(differing)} bars differ from the {name}'s, {key}: {ours[key]}, {theirs[key]}")
    return {
        "bars_compared": len(ours),
        "late": sink.late,
        "volume": sum(v[4] for v in ours.values()),
        "volume_object_pipeline": sum(v[4] for v in objects.values()),
        "volume_kernel": sum(v[4] for v in kernel.values()),
        "events_in_bars": sum(v[5] for v in ours.values()),
    }
