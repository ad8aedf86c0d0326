"""Processes that write a log, say what is durable, and die where they are told to."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from pathlib import Path

from market_data_core import steps
from market_data_core.batch import Instrument
from market_data_core.schemas import Origin
from market_data_core.steps import Step
from market_data_pipeline.log import LogWriter
from support import powerloss
from support.logs import ROOT, TINY, growing

CONTEXT = multiprocessing.get_context("forkserver")
# The server forks processes that have imported all this; without it each takes a second to start.
CONTEXT.set_forkserver_preload(["support.log_writer_child"])
NEEDED = 200


@dataclass(frozen=True, kw_only=True)
class Task:
    """What a writer is to do: write up to trade `count`, and kill itself the `nth` time it reaches `step`.

    With `trim` it lets go of what is not needed for the newest `NEEDED` records.
    """

    folder: Path
    count: int
    step: Step | None = None
    nth: int = 0
    shadow: Path | None = None
    trim: bool = True


def acknowledged(task: Task) -> Iterator[tuple[int, int]]:
    """Run a task in a process; give what it acknowledges, as (offset, durable end), until it ends as it was told to."""
    paths = [str(ROOT / "src"), str(ROOT / "tests")]
    before = os.environ.get("PYTHONPATH", "")
    os.environ["PYTHONPATH"] = os.pathsep.join([*paths, before])
    ours, theirs = CONTEXT.Pipe(duplex=False)
    process = CONTEXT.Process(target=_write, args=(task, theirs))
    process.start()
    os.environ["PYTHONPATH"] = before
    theirs.close()
    with closing(ours):
        try:
            while ours.poll(30):
                yield ours.recv()
        except EOFError:
            process.join(30)
    assert process.exitcode == (0 if task.step is None else -signal.SIGKILL), process.exitcode


def _write(task: Task, answers: Connection) -> None:
    if task.shadow is not None:
        powerloss.install(task.folder, task.shadow)
    if task.step is not None:
        _die_at(task.step, task.nth)
    table: list[Instrument] = []
    log = LogWriter(task.folder, replace(TINY, retention_s=0.0))
    at = log.sources().get("file:x", 0)
    while at < task.count:
        size = min(7, task.count - at)
        end = log.append(growing(at, size, table), origin=Origin.REPLAY) + size
        at += size
        if at % 3 == 0:
            assert log.wait_durable(end, 10)
            answers.send((at, end))
            log.trim(max(0, end - NEEDED) if task.trim else 0)
    log.close()
    answers.send((at, log.durable_end))


def _die_at(step: Step, nth: int) -> None:
    left = nth

    def hook(reached: Step) -> None:
        nonlocal left
        left -= reached is step
        if not left:
            os.kill(os.getpid(), signal.SIGKILL)

    steps.install(hook)
