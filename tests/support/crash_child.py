"""One life of a data path, in a process of its own: takes in a whole source, stores it, and says what it counted.

A life may end itself at a named step with SIGKILL, and
may have a bug planted, so that the tests which look for loss are seen to find it. Two lines of JSON go to standard out:
where the path stood when it was open, and how it ended.
"""

from __future__ import annotations

import asyncio
import faulthandler
import json
import logging
import os
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partialmethod
from pathlib import Path
from typing import Any

from market_data_core import disk, steps
from market_data_core.addresses import is_postgres
from market_data_core.batch import EventBatch
from market_data_core.protocols import BatchSource, Result
from market_data_pipeline.capture import CaptureSettings
from market_data_pipeline.consumers import ConsumerSettings
from market_data_pipeline.consumers.session import Session
from market_data_pipeline.engine import Engine, EngineSettings
from market_data_pipeline.log import LogSettings
from market_data_pipeline.operators import Validate
from market_data_pipeline.pipelines import BarsConfig
from market_data_pipeline.source.replay import ReplaySource
from market_data_pipeline.source.synthetic import SyntheticSource
from market_data_store.lake import Lake, MaintenancePolicy
from market_data_store.lake.planning import CompactionPolicy

SYNC = "before a sync of "
"""With part of a path behind it, a step of these tests' own: just before a file or folder of that is made durable."""

RATE = 2000
"""Events per second of virtual time."""
SYMBOLS = 20
BARS = (BarsConfig(interval="1s"), BarsConfig(interval="2s", what="MIDPOINT"))

_SECOND_NS = 1_000_000_000
# Every step is reached often, yet nothing goes that an open handle may still need: tests make files older instead.
_POLICY = MaintenancePolicy(
    compaction=CompactionPolicy(fan_in=4, settle_ns=_SECOND_NS // 10),
    checkpoint_commits=3,
    log_versions=3,
    data_retention_ns=10 * _SECOND_NS,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Life:
    """What a life is to do.

    Attributes:
        data_dir: Where everything is kept; made if it is not there.
        store_root: The store, if it is not the lake in `data_dir`: another folder, or the address of a database.
        count: Synthetic events, where there are no files to replay.
        seed: Of the synthetic source.
        files: What to replay.
        consumers: ``thread`` or ``process``.
        shadow: Where to note what a power cut would leave; empty for none.
        step: Die when this step is reached, `SYNC` among them, or, if empty, at whichever step comes as `nth`.
        nth: Die when it is reached for the so many-th time; 0 for never.
        planted: A bug: ``position_before_data``, ``drop_row`` or ``no_sync:<part of a path>``; empty for none.
        retention_s: How long the log keeps what nobody needs.
        timeout_s: Give up after so long.
    """

    data_dir: str
    store_root: str = ""
    count: int = 0
    seed: int = 1
    files: list[str] = field(default_factory=list)
    consumers: str = "thread"
    shadow: str = ""
    step: str = ""
    nth: int = 0
    planted: str = ""
    retention_s: float = 0.0
    timeout_s: float = 60.0


def settings_of(life: Life) -> EngineSettings:
    """Return settings under which every step is reached often."""
    return EngineSettings(
        data_dir=Path(life.data_dir),
        store=store_named(life.store_root),
        store_root=life.store_root or None,
        bars=BARS,
        consumers="process" if life.consumers == "process" else "thread",
        log=LogSettings(segment_bytes=32 << 10, retention_s=life.retention_s, reserve_bytes=1 << 20, linger_s=0.002),
        capture=CaptureSettings(barrier_s=0.02, lag_rows=600, lag_rows_hard=1200, full_retry_s=0.02),
        commit=ConsumerSettings(
            commit_rows=300,
            commit_s=0.05,
            commit_max_s=0.2,
            side_by_side_rows=200,  # some commits are, and some are not
            snapshot_s=0.08,
            poll_s=0.005,
            retry_s=0.05,
            retry_max_s=0.2,
        ),
        maintenance_s=0.05,
        trim_s=0.04,
    )


def store_named(address: str) -> str:
    """Return the entry point of the store at an address."""
    return "postgres" if is_postgres(address) else "store"


def source_of(life: Life) -> BatchSource:
    """Return what the life takes in: always the same events."""
    if life.files:
        return ReplaySource(life.files, batch_rows=200)
    return SyntheticSource(symbols=SYMBOLS, seed=life.seed, time="virtual", rate=RATE, count=life.count)


def run(life: Life, reached: Mapping[str, int], say: Callable[[dict[str, Any]], None]) -> None:
    """Run a life to its end. `reached` counts its steps."""
    # A life that hangs says where, before its parent gives up on it.
    faulthandler.dump_traceback_later(max(life.timeout_s - 5, 1))
    engine = Engine(settings_of(life))
    engine.open()
    say(
        {
            "opened": {
                "log_end": engine.log.durable_end,
                "snapshot": engine.consumers().trim_below,
                "epoch": engine.log.epoch,
            }
        }
    )
    source = source_of(life)
    engine.add(source)
    ended = end_of(engine, source.name, life.timeout_s)
    say({"ended": {**ended, "steps": dict(reached)}})


def end_of(engine: Engine, source: str, timeout_s: float) -> dict[str, Any]:
    """Wait until a source has ended and all it gave is stored, close, and return how everything stands.

    Raises:
        TimeoutError: The source did not end in time.
    """
    until = time.monotonic() + timeout_s
    try:
        asyncio.run(asyncio.wait_for(engine.capture.wait(source), timeout_s))
    except TimeoutError:
        sys.stderr.write(f"hangs at {json.dumps(engine.status(), default=str)}\n")
        raise
    engine.log.barrier()
    stored = engine.wait_stored(engine.log.end, max(until - time.monotonic(), 0.1))
    problem = engine.problem
    late = engine.close()
    return {**engine.status(), "stored": stored, "late": late, "problem": problem}


class _Steps:
    # Counts steps and kills the process, at once and without a word, at the one that was asked for.
    def __init__(self, step: str, nth: int) -> None:
        self.reached: Counter[str] = Counter()
        self._step, self._nth = step, nth
        self._lock = threading.Lock()

    def __call__(self, step: str) -> None:
        with self._lock:
            self.reached[str(step)] += 1
            count = self.reached[self._step] if self._step else self.reached.total()
            if count == self._nth:
                os.kill(os.getpid(), signal.SIGKILL)


def _plant(bug: str) -> None:
    if bug == "position_before_data":
        commit = Session._commit

        def save_first(session: Session, *, save: bool = False) -> None:
            session._save()
            commit(session, save=save)

        Session._commit = save_first  # type: ignore[method-assign]
    elif bug == "drop_row":
        process, dropped = Validate.process, threading.Event()

        def drop(operator: Validate, batch: EventBatch) -> Result:
            if not dropped.is_set():
                dropped.set()
                batch = batch.with_data(batch.data.slice(1))
            return process(operator, batch)

        Validate.process = drop  # type: ignore[method-assign]
    elif bug.startswith("no_sync:"):
        _plant_no_sync(bug.removeprefix("no_sync:"))


def _plant_no_sync(part: str) -> None:
    sync_fd, sync_dir = disk.sync_fd, disk.sync_dir
    disk.sync_fd = lambda fd, path: None if part in str(path) else sync_fd(fd, path)
    disk.sync_dir = lambda path: None if part in f"{path}/" else sync_dir(path)


def _tell_of_syncs(step: str, hook: Callable[[str], None]) -> None:
    sync_fd, sync_dir, part = disk.sync_fd, disk.sync_dir, step.removeprefix(SYNC)

    def told(path: Path) -> None:
        if part in f"{path}/":
            hook(step)

    disk.sync_fd = lambda fd, path: (told(path), sync_fd(fd, path))[1]
    disk.sync_dir = lambda path: (told(path), sync_dir(path))[1]


def main(life: Life) -> None:
    """Run a life; the process is its own from here on."""
    logging.basicConfig(level="WARNING", format="%(asctime)s %(threadName)s %(name)s: %(message)s")
    Lake.maintain = partialmethod(Lake.maintain, _POLICY)  # type: ignore[assignment]
    data_dir = Path(life.data_dir)
    data_dir.mkdir(parents=True, exist_ok=True)
    if life.shadow:
        from support import powerloss  # noqa: PLC0415  only where power is to be cut

        powerloss.install(data_dir, Path(life.shadow))
    _plant(life.planted)
    hook = _Steps(life.step, life.nth)
    steps.install(hook)
    if life.step.startswith(SYNC):
        _tell_of_syncs(life.step, hook)
    run(life, hook.reached, lambda said: print(json.dumps(said), flush=True))  # noqa: T201  the parent reads it
