"""A hundred small pipelines in one process, with a source each and as graphs over one log: lateness, memory, CPU."""

from __future__ import annotations

import json
import shutil
import statistics
from pathlib import Path
from typing import Any

from benchmarks import children
from benchmarks.context import Context
from benchmarks.results import Result, Target

ROW = "many"
RATE = 100
BARE = "bare loop waking"
_TARGET_MS = 50.0
_WHAT = {
    "pipelines": "pipelines in one process, a paced source → 1 s bars → null sink each: due → taken in",
    "graphs": "graphs over one log, one symbol → validate → 1 s bars → store that forgets each: due → in the graph",
}


def run(ctx: Context) -> list[Result]:
    """Measure both shapes in turn, each in a process of its own."""
    full = ctx.live_s >= 10
    count, rounds = (100, max(1, ctx.rounds // 2)) if full else (10, 1)
    found: dict[str, list[dict[str, Any]]] = {shape: [] for shape in _WHAT}
    problems: dict[str, str] = {}
    bare = []
    folder = ctx.work / "many"
    folder.mkdir(exist_ok=True)
    for _ in range(rounds):
        floor = children.ours("benchmarks.live_floor", str(folder), str(ctx.live_s / 3), timeout_s=60)
        bare.append(floor["wake_p99_ms"])
        for shape in _WHAT.keys() - problems.keys():
            try:
                found[shape].append(_variant(ctx, folder / shape, shape, count, warmup_s=3.0 if full else 0.5))
            except RuntimeError as exc:
                problems[shape] = str(exc)
    return [
        Result(row=ROW, what=f"{count} {_WHAT[shape]}", skipped=problems[shape])
        if shape in problems
        else _result(shape, count, figures, statistics.median(bare))
        for shape, figures in found.items()
    ]


def _variant(ctx: Context, folder: Path, shape: str, count: int, *, warmup_s: float) -> dict[str, Any]:
    folder.mkdir()
    order = {"shape": shape, "count": count, "rate": RATE, "folder": str(folder)}
    order |= {"warmup_s": warmup_s, "seconds": ctx.live_s}
    try:
        return children.ours("benchmarks.many_service", json.dumps(order), timeout_s=ctx.live_s + warmup_s + 90)
    finally:
        shutil.rmtree(folder)


def _result(shape: str, count: int, found: list[dict[str, Any]], bare_ms: float) -> Result:
    p99 = [f["p99"] for f in found]
    last = found[-1]
    rate = statistics.median(f["events"] / f["taken_s"] for f in found)
    return Result(
        row=ROW,
        what=f"{count} {_WHAT[shape]}",
        value=statistics.median(p99),
        spread=(min(p99), max(p99)),
        unit="ms p99",
        yardsticks={BARE: bare_ms},
        # Graphs run from barrier to barrier, so theirs is a figure of the barriers and no target is set for it.
        target=Target(value=_TARGET_MS, higher_is_better=False) if shape == "pipelines" else None,
        detail={
            "events_per_s": round(rate),
            "events_per_s_due": count * RATE,
            "cores_used": statistics.median(f["cores_used"] for f in found),
            "mib_each": statistics.median(f["mib_each"] for f in found),
            "rounds": len(found),
            **{k: v for k, v in last.items() if k not in {"events", "taken_s", "cores_used", "mib_each"}},
        },
    )
