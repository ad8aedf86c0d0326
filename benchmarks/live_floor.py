"""What the machine itself allows just now: ``python -m benchmarks.live_floor FOLDER SECONDS`` prints it as JSON.

A bare event loop that wakes every millisecond, and a bare thread that makes 8 KiB durable every 5 ms, in a process that
does nothing else. Latencies of the service cannot be better than these taken together.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import threading
import time
from pathlib import Path

import numpy as np
import uvloop

_TICK_S = 0.001
_SYNC_S = 0.005
_BLOCK = bytes(8192)


async def _lateness_ns(seconds: float) -> list[int]:
    late = []
    begin = time.monotonic_ns()
    until = begin + int(seconds * 1e9)
    due = begin
    while due < until:
        due += int(_TICK_S * 1e9)
        await asyncio.sleep((due - time.monotonic_ns()) / 1e9)
        # Every millisecond that has passed by now had an event that waited for this moment.
        now = time.monotonic_ns()
        while due <= now:
            late.append(now - due)
            due += int(_TICK_S * 1e9)
        due -= int(_TICK_S * 1e9)
    return late


def _sync_ns(path: Path, over: threading.Event, taken: list[int]) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    try:
        while not over.wait(_SYNC_S):
            started = time.monotonic_ns()
            os.write(fd, _BLOCK)
            os.fdatasync(fd)
            taken.append(time.monotonic_ns() - started)
    finally:
        os.close(fd)
        path.unlink()


def main() -> None:
    """Measure and print."""
    folder, seconds = Path(sys.argv[1]), float(sys.argv[2])
    over = threading.Event()
    taken: list[int] = []
    thread = threading.Thread(target=_sync_ns, args=(folder / "floor", over, taken))
    thread.start()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        late = runner.run(_lateness_ns(seconds))
    over.set()
    thread.join()
    wake, sync = (float(np.percentile(spans, 99)) / 1e6 for spans in (late, taken))
    print(json.dumps({"wake_p99_ms": round(wake, 3), "sync_p99_ms": round(sync, 3)}))


if __name__ == "__main__":
    main()
