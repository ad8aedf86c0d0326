"""Ticks written to a durable log once, for whatever reads logs."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Sequence
from pathlib import Path

from market_data_core.clock import SystemClock
from market_data_core.errors import LogError
from market_data_core.protocols import Mark
from market_data_pipeline.capture import stamped
from market_data_pipeline.log import LogSettings, LogWriter
from market_data_pipeline.source.replay import ReplaySource

_DURABLE_S = 120.0
_WAITING_BYTES = 1 << 30


def write_log(files: Sequence[Path], folder: Path) -> int:
    """Write files of ticks to a log of their own, as capture does; return its end.

    Raises:
        LogError: The log did not become durable in time.
    """
    shutil.rmtree(folder, ignore_errors=True)
    # Room for everything: nothing here waits for the disk as sources do.
    log = LogWriter(folder, LogSettings(pending_bytes=_WAITING_BYTES))
    try:
        asyncio.run(_fill(log, files))
        log.barrier()
        if not log.wait_durable(log.end, _DURABLE_S):
            raise LogError(f"log {folder} was not durable within {_DURABLE_S:.0f} s: {log.status.problem}")
        return log.end
    finally:
        log.close()


async def _fill(log: LogWriter, files: Sequence[Path]) -> None:
    source, clock = ReplaySource(files), SystemClock()
    async for item in source.batches({}):
        if isinstance(item, Mark):
            log.mark(item, origin=source.origin)
        else:
            log.append(stamped(item, clock.now_ns()), origin=source.origin)
    await source.close()
