"""A process that writes a log, says what is durable, and dies where it is told to.

    python -m support.log_writer_child FOLDER COUNT [STEP NTH [SHADOW]]

Takes up the source where the log left off, to COUNT trades. A line for each acknowledgement: the offset of the source
and the durable end of the log. At the NTH time STEP is reached it kills itself; with SHADOW, its power can be cut.
"""

from __future__ import annotations

import os
import signal
import sys
from dataclasses import replace
from pathlib import Path

from support import powerloss
from support.logs import TINY, growing

from market_data_core import steps
from market_data_core.batch import Instrument
from market_data_core.schemas import Origin
from market_data_core.steps import Step
from market_data_pipeline.log import LogWriter


def die_at(step: Step, nth: int) -> None:
    left = nth

    def hook(reached: Step) -> None:
        nonlocal left
        left -= reached is step
        if not left:
            os.kill(os.getpid(), signal.SIGKILL)

    steps.install(hook)


def main(folder: Path, count: int) -> None:
    table: list[Instrument] = []
    # What is needed is the newest two hundred: older segments are let go at once.
    log = LogWriter(folder, replace(TINY, retention_s=0.0))
    at = log.sources().get("file:x", 0)
    while at < count:
        size = min(7, count - at)
        end = log.append(growing(at, size, table), origin=Origin.REPLAY) + size
        at += size
        if at % 3 == 0:
            assert log.wait_durable(end, 10)
            sys.stdout.write(f"{at} {end}\n")
            sys.stdout.flush()
            log.trim(max(0, end - 200))
    log.close()


if __name__ == "__main__":
    where = Path(sys.argv[1])
    if len(sys.argv) > 5:
        powerloss.install(where, Path(sys.argv[5]))
    if len(sys.argv) > 3:
        die_at(Step(sys.argv[3]), int(sys.argv[4]))
    main(where, int(sys.argv[2]))
