"""What every row is given: where it may write, how much it shall do, and on what machine."""

from __future__ import annotations

import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil

REPOSITORY = Path(__file__).resolve().parents[1]


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """How the rows run.

    Attributes:
        work: A folder that is removed afterwards.
        cache: A folder for what is dear to build; kept from run to run.
        recordings: Recorded ticks; None for made-up ones.
        rounds: Interleaved rounds.
        repeats: How often the recorded week is laid end to end.
        sample_rows: How many events the slowest yardstick is given, and all are compared on.
        bar_rows: Rows of the table that bars are read from.
        live_s: How long each variant of the live path is measured,
        idle_s: and how long a service idles before its memory is.
        profile: Also say where time goes.
        yardsticks: Also run the engines of others, installed on demand.
    """

    work: Path
    cache: Path
    recordings: Path | None
    rounds: int = 5
    repeats: int = 2
    sample_rows: int = 400_000
    bar_rows: int = 16_000_000
    live_s: float = 15.0
    idle_s: float = 10.0
    profile: bool = False
    yardsticks: bool = False

    @classmethod
    def quick(cls, **fields: Any) -> Context:
        """Return a context whose rows end in seconds and prove nothing but that they work."""
        small: dict[str, Any] = {"rounds": 1, "repeats": 1, "sample_rows": 20_000, "bar_rows": 100_000}
        return cls(**{**small, "live_s": 2.0, "idle_s": 1.0, **fields})


def find_recordings() -> Path | None:
    """Return where recorded ticks are: ``MDP_RECORDINGS``, or beside the repository; None if they are absent."""
    folder = Path(os.environ.get("MDP_RECORDINGS") or REPOSITORY.parent / "shared" / "data")
    return folder if (folder / "equity_ticks").is_dir() else None


def default_cache() -> Path:
    """Return the folder that outlives a run."""
    return Path(tempfile.gettempdir()) / "market-data-benchmarks"


def machine() -> dict[str, Any]:
    """Return what the figures depend on besides the code."""
    cpu = platform.processor()
    info = Path("/proc/cpuinfo")
    if info.is_file():
        names = [line.partition(":")[2].strip() for line in info.read_text().splitlines() if "model name" in line]
        cpu = names[0] if names else cpu
    packages = ("market-data-platform", "pyarrow", "numpy", "deltalake", "uvicorn", "uvloop")
    return {
        "host": platform.node(),
        "cpu": cpu,
        "cores": os.cpu_count(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "kernel": platform.release(),
        "python": platform.python_version(),
        **{name: version(name) for name in packages},
        "load_before": [round(x, 2) for x in os.getloadavg()],
        "taken": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }


def rounds(contenders: Mapping[str, Callable[[], float]], count: int) -> dict[str, list[float]]:
    """Run all contenders in turn, `count` times; return by name what each call returned.

    A drift of the machine then touches all of them alike, which running one after the other would not see.
    """
    found: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(count):
        for name, run in contenders.items():
            found[name].append(run())
    return found


def seconds(run: Callable[[], object], cpu_s: list[float] | None = None) -> float:
    """Return how long a call takes.

    Args:
        run: What is called.
        cpu_s: Given the processor time of all threads, which other work on the machine hardly changes.
    """
    started, cpu = time.perf_counter(), time.process_time()
    run()
    if cpu_s is not None:
        cpu_s.append(time.process_time() - cpu)
    return time.perf_counter() - started


def median_rate(count: int, times_s: list[float]) -> float:
    """Return so many per second, by the median of the times."""
    return count / statistics.median(times_s)


def rate_spread(count: int, times_s: list[float]) -> tuple[float, float]:
    """Return the lowest and the highest rate."""
    return count / max(times_s), count / min(times_s)
