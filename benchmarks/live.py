"""The live path at 10,000 events/s: from receipt to taps and to the durable log, alone and under load.

Every variant is the whole service in a process of its own. An event's time is the one at which it fell due, so a loop
that wakes late cannot hide it; the linger of the source (1 ms) is therefore inside. Before each variant a bare process
shows what the machine itself allows.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from benchmarks.context import REPOSITORY, Context
from benchmarks.results import Result, Target
from market_data_core.schemas import TABLE_SCHEMAS, Kind
from market_data_store.lake import Lake

ROW = "live"
RATE = 10_000
LOADS = ("alone", "query", "maintenance", "clients")
WORKERS = ("thread", "process")
_DAY_NS = 86_400 * 1_000_000_000
_FIRST_DAY_NS = 19_000 * _DAY_NS
_FILE_ROWS = 15_000
_FILES_PER_DATE = 24
_TARGETS_MS = {"tap": 10.0, "log": 20.0}


def run(ctx: Context) -> list[Result]:
    """Measure every load with consumers in threads and in a process of their own."""
    full = ctx.live_s >= 10
    dates = 12 if full else 2
    # Compaction wants small files; everything else finds a lake that has been looked after.
    untidy, tidy = _stored(ctx, dates, tidy=False), _stored(ctx, dates, tidy=True)
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for load in LOADS:
        # Both modes of one load stand side by side, so that a drift of the machine touches them alike.
        for workers in WORKERS:
            stored = untidy if load == "maintenance" else tidy
            found[(load, workers)] = _variant(ctx, stored, load, workers, warmup_s=3.0 if full else 1.0)
    return [_result(*key, to, figures) for key, figures in found.items() for to in _TARGETS_MS]


def _result(load: str, workers: str, to: str, figures: dict[str, Any]) -> Result:
    what = (
        f"live at {RATE} events/s, {load}, consumers by {workers}: receive → {'tap' if to == 'tap' else 'durable log'}"
    )
    if "problem" in figures:
        return Result(row=ROW, what=what, skipped=figures["problem"])
    # From our receipt on is what capture answers for. From when the event fell due, which a source that wakes late
    # would hide, stands beside it.
    recv, due = figures[f"recv_to_{to}_ms"], figures[f"due_to_{to}_ms"]
    bare = figures["bare"]
    floor = {"bare loop waking": bare["wake_p99_ms"]}
    if to == "log":
        floor["bare write and fdatasync"] = bare["sync_p99_ms"]
    kept = {"recv": recv, "due": due}
    kept |= {k: v for k, v in figures.items() if "_to_" not in k and k != "bare"}
    return Result(
        row=ROW,
        what=what,
        value=recv["p99"],
        spread=(recv["p50"], recv["p999"]),
        unit="ms p99 (p50 to p99.9)",
        yardsticks=floor,
        target=Target(value=_TARGETS_MS[to], higher_is_better=False),
        detail=kept,
    )


def _variant(ctx: Context, stored: Path, load: str, workers: str, *, warmup_s: float) -> dict[str, Any]:
    data_dir = ctx.work / "live"
    shutil.rmtree(data_dir, ignore_errors=True)
    data_dir.mkdir()
    shutil.copytree(stored, data_dir / "lake")
    order = {"data_dir": str(data_dir), "load": load, "workers": workers, "rate": RATE}
    order |= {"seconds": ctx.live_s, "warmup_s": warmup_s}
    try:
        bare = _child("benchmarks.live_floor", str(data_dir), str(ctx.live_s / 3), timeout_s=60)
        figures = _child("benchmarks.live_service", json.dumps(order), timeout_s=ctx.live_s + warmup_s + 120)
    except (RuntimeError, subprocess.TimeoutExpired) as exc:
        return {"problem": str(exc)}
    finally:
        shutil.rmtree(data_dir, ignore_errors=True)
    return {"bare": bare, **figures}


def _child(module: str, *arguments: str, timeout_s: float) -> dict[str, Any]:
    path = os.pathsep.join([str(REPOSITORY / "src"), str(REPOSITORY)])
    done = subprocess.run(
        [sys.executable, "-m", module, *arguments],
        check=False,  # how it ended is told with the row
        capture_output=True,
        text=True,
        timeout=timeout_s,
        env=os.environ | {"PYTHONPATH": path},
    )
    last = done.stdout.strip().rpartition("\n")[2]
    if done.returncode or not last:
        raise RuntimeError(f"{module} ended with code {done.returncode}: {done.stderr.strip()[-300:]}")
    return dict(json.loads(last))


# A lake with quotes of past dates, in many small files unless it is tidy: what a query reads and compaction has to do.
def _stored(ctx: Context, dates: int, *, tidy: bool) -> Path:
    root = ctx.cache / f"quotes-{dates}-{'tidy' if tidy else 'small-files'}"
    if (root / "ready").is_file():
        return root
    shutil.rmtree(root, ignore_errors=True)
    root.mkdir(parents=True)
    lake = Lake(root, "default")
    lake.open()
    table = lake.table(str(Kind.QUOTES))
    position = 0
    for date in range(dates):
        for file in range(_FILES_PER_DATE):
            rows = _quotes(_FIRST_DAY_NS + date * _DAY_NS, position, seed=file)
            position += rows.num_rows
            table.append(rows, writer="filling", position=position, covers={})
    if tidy:
        lake.maintain()
    (root / "ready").write_text("\n")
    return root


def _quotes(start_ns: int, seq: int, *, seed: int) -> pa.Table:
    draw = np.random.default_rng(seed)
    rows = _FILE_ROWS
    ts = start_ns + np.sort(draw.integers(0, _DAY_NS, rows))
    bid = np.round(100 + draw.normal(0, 1, rows), 2)
    columns = {
        "vendor": pa.repeat("bench", rows),
        "symbol": pa.array([f"S{i:03d}" for i in range(100)]).take(pa.array(draw.integers(0, 100, rows))),
        "ts_event": ts,
        "ts_recv": ts,
        "seq": np.arange(seq, seq + rows),
        "flags": np.zeros(rows, np.int32),
        "origin": pa.repeat("synthetic", rows),
        "bid_price": bid,
        "bid_size": draw.integers(1, 100, rows).astype(np.float64),
        "ask_price": bid + 0.01,
        "ask_size": draw.integers(1, 100, rows).astype(np.float64),
    }
    schema = TABLE_SCHEMAS[Kind.QUOTES]
    return pa.Table.from_arrays([pa.array(columns[f.name]).cast(f.type) for f in schema], schema=schema)
