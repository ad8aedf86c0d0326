"""``mdo bench``: how fast is this machine, with this disk?"""

from __future__ import annotations

import asyncio
import os
import platform
import shutil
import tempfile
import time
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Final

import numpy as np
import typer
from rich.console import Console

from market_data_core import __version__, disk
from market_data_core.clock import SystemClock
from market_data_core.errors import LogError, PipelineError, TemporaryUnavailable
from market_data_core.protocols import Mark
from market_data_core.schemas import Kind
from market_data_orchestrator.cli.options import AsJson, DataDir
from market_data_orchestrator.cli.output import ERR, print_facts, print_json, say, size
from market_data_orchestrator.composition import load
from market_data_orchestrator.settings import OrchestratorSettings
from market_data_pipeline.capture import CaptureSettings, stamped
from market_data_pipeline.engine import Engine, EngineSettings
from market_data_pipeline.log import LogSettings, LogWriter
from market_data_pipeline.source.synthetic import SyntheticSource
from market_data_store.lake import Lake

_SYNCS: Final = 200
_SYNC_S: Final = 0.5
_SYNC_BYTES: Final = 4096
_RATE: Final = 10_000
_LATENCY_S: Final = 2.0
_DRAIN_S: Final = 20.0
_ROOM_BYTES: Final = 1 << 30
# What may wait to be stored: little, so that the figure is what the store keeps up with and the end comes soon.
_WAITING: Final = CaptureSettings(lag_rows=1 << 62, lag_rows_hard=1 << 19)


def bench(
    seconds: Annotated[float, typer.Option(min=0.5, max=60, help="How long events are given at full speed.")] = 3.0,
    as_json: AsJson = False,
    data_dir: DataDir = None,
) -> int:
    """Measure this machine in about ten seconds: disk, log, and the whole way from source to store.

    Made-up quotes and trades go through log, validation, one-minute bars and the embedded lake, whichever store is
    configured, in a folder of their own in the data directory that is removed again; nothing else there is touched. At
    full speed they come in large batches, as recordings do; the steady rate is that of a busy live feed. Other work on
    the machine, a running service too, takes its part: stop it for a clean figure.

    Example: mdo bench --data-dir data
    """
    settings, _ = load(data_dir=data_dir)
    path = settings.data_path.absolute()
    home = next(p for p in (path, *path.parents) if p.is_dir())
    free = shutil.disk_usage(home).free
    if free < _ROOM_BYTES:
        raise TemporaryUnavailable(f"{size(free)} are free at {home}; measuring takes up to {size(_ROOM_BYTES)}")
    # Progress is for people who look.
    told = Console(stderr=True, quiet=as_json or not ERR.is_terminal)
    with tempfile.TemporaryDirectory(prefix="mdo-bench-", dir=home) as name, told.status("the disk") as status:
        folder = Path(name)
        found: dict[str, Any] = {"machine": _machine(home), "disk": _disk(folder)}
        status.update("the log, at a steady rate")
        found["log"] = asyncio.run(_log(folder / "log", fsync=settings.log_fsync))
        status.update("from source to store, at full speed")
        found["store"] = _store(folder / "data", settings, seconds)
    if as_json:
        print_json(found)
    else:
        _show(found)
    return 0


def _machine(home: Path) -> dict[str, Any]:
    return {
        "platform": __version__,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "cores": os.cpu_count(),
        "folder": str(home),
    }


def _disk(folder: Path) -> dict[str, Any]:
    path, spent = folder / "syncs", list[float]()
    block, until = b"x" * _SYNC_BYTES, time.monotonic() + _SYNC_S
    fd = os.open(path, os.O_WRONLY | os.O_CREAT)
    try:
        while len(spent) < _SYNCS and time.monotonic() < until:
            os.write(fd, block)
            started = time.perf_counter()
            disk.sync_fd(fd, path)
            spent.append(time.perf_counter() - started)
    finally:
        os.close(fd)
    return {"syncs": len(spent), "write_bytes": _SYNC_BYTES, "sync_ms": percentiles_ms(spent)}


# Appends at a rate that no machine is short of, and notes when each batch was durable: what a live feed would see.
async def _log(folder: Path, *, fsync: bool) -> dict[str, Any]:
    source, clock = SyntheticSource(rate=_RATE, time="real", count=int(_RATE * _LATENCY_S)), SystemClock()
    waiting: deque[tuple[int, float, int]] = deque()
    spent: list[tuple[float, int]] = []

    def durable(end: int) -> None:
        now = time.perf_counter()
        while waiting and waiting[0][0] <= end:
            _, started, rows = waiting.popleft()
            spent.append((now - started, rows))

    log = LogWriter(folder, LogSettings(fsync=fsync), durable_hook=durable)
    try:
        async for item in source.batches({}):
            if isinstance(item, Mark):
                continue
            rows, started = item.data.num_rows, time.perf_counter()
            # Noted before it is appended: the disk may be done with it before this thread goes on.
            waiting.append((log.end + rows, started, rows))
            log.append(stamped(item, clock.now_ns()), origin=source.origin)
        if not await asyncio.to_thread(log.wait_durable, log.end, _DRAIN_S):
            raise LogError(f"the log did not become durable within {_DRAIN_S:g} s: {log.status.problem}")
        groups = log.status.groups
    finally:
        log.close()
        await source.close()
    each_s = np.repeat([s for s, _ in spent], [rows for _, rows in spent])
    return {
        "events": int(each_s.size),
        "rate_events_s": _RATE,
        "groups": groups,
        "fsync": fsync,
        "append_to_durable_ms": percentiles_ms(each_s),
    }


def _store(folder: Path, settings: OrchestratorSettings, seconds: float) -> dict[str, Any]:
    engine = Engine(
        EngineSettings(
            data_dir=folder,
            consumers=settings.workers,
            log=LogSettings(fsync=settings.log_fsync),
            capture=_WAITING,
        )
    )
    # In its own time 10,000 a second, so that minutes pass and bars are made; it comes as fast as it is taken.
    source = SyntheticSource(rate=_RATE, time="virtual", max_skew_s=1.0)
    engine.open()
    try:
        started = time.perf_counter()
        status = engine.add(source)
        # A wait on what should stay as it is: it ends early where the source or the consumers do.
        while time.perf_counter() - started < seconds and status.state not in ("failed", "done") and not engine.problem:
            time.sleep(0.02)
        engine.capture.remove(source.name)
        end = engine.log.end
        if status.problem and status.state == "failed":
            raise PipelineError(f"the source failed: {status.problem}")
        if not engine.log.wait_durable(end, _DRAIN_S):
            raise LogError(f"the log did not become durable within {_DRAIN_S:g} s: {engine.log.status.problem}")
        logged_s = time.perf_counter() - started
        if not engine.wait_stored(end, _DRAIN_S):
            raise PipelineError(engine.problem or f"not everything was stored within {_DRAIN_S:g} s")
        stored_s = time.perf_counter() - started
        log_bytes = engine.log.status.size_bytes
    finally:
        engine.close()
    counts = Lake(folder / "lake", "default").counts()
    rows = sum(counts[kind].rows for kind in (Kind.QUOTES, Kind.TRADES))
    if rows != status.events:
        raise PipelineError(f"{status.events} events were taken in and {rows} are stored: please report this")
    return {
        "events": status.events,
        "bars": counts[Kind.BARS].rows,
        "seconds": stored_s,
        "logged_events_s": status.events / logged_s,
        "stored_events_s": status.events / stored_s,
        "log_bytes": log_bytes,
        "lake_bytes": sum(c.size_bytes for c in counts.values()),
        "workers": settings.workers,
    }


def percentiles_ms(spent_s: Sequence[float] | np.typing.NDArray[np.float64]) -> dict[str, float]:
    """Return median, 99th percentile and maximum of durations in seconds, as milliseconds."""
    middle, high, most = np.percentile(spent_s, (50, 99, 100)) * 1000
    return {"p50": float(middle), "p99": float(high), "max": float(most)}


def _show(found: dict[str, Any]) -> None:
    machine, syncs, log, store = found["machine"], found["disk"], found["log"], found["store"]
    unsafe = "" if log["fsync"] else ", without waiting for the disk (ORCH_LOG_FSYNC)"
    print_facts(
        {
            "machine": f"{machine['system']}, {machine['cores']} cores, Python {machine['python']}",
            "folder": machine["folder"],
            "disk, 4 KiB made durable": f"{_ms(syncs['sync_ms'])}, {syncs['syncs']} times",
            "append to durable": f"{_ms(log['append_to_durable_ms'])}, at {log['rate_events_s']:,} events/s{unsafe}",
            "through the log": f"{store['logged_events_s']:,.0f} events/s",
            "from source to store": f"{store['stored_events_s']:,.0f} events/s, the last commit included",
            "stored": f"{store['events']:,} events, {store['bars']:,} bars in {store['seconds']:.1f} s",
            "size": f"log {size(store['log_bytes'])}, lake {size(store['lake_bytes'])}",
        }
    )
    say("every event taken in was found in the store again")


def _ms(spent: dict[str, float]) -> str:
    return f"p50 {spent['p50']:.2f} ms, p99 {spent['p99']:.2f} ms, at most {spent['max']:.2f} ms"
