"""Locks between processes, let go by the system when their holder dies."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path


def lock_file(path: Path, *, wait_s: float = 0.0) -> int:
    """Lock a file, making it if need be.

    Args:
        path: The file; its folder exists.
        wait_s: How long to wait for another holder to let go.

    Returns:
        A descriptor that holds the lock until `unlock`, or -1 if another holder did not let go.
    """
    fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    until = time.monotonic() + wait_s
    while not _try(fd):
        if time.monotonic() >= until:
            os.close(fd)
            return -1
        time.sleep(0.05)
    return fd


def unlock(fd: int) -> None:
    """Let go of a lock."""
    os.close(fd)


def _try(fd: int) -> bool:
    if sys.platform == "win32":
        import msvcrt  # noqa: PLC0415  there alone

        try:
            msvcrt.locking(fd, msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        return True
    import fcntl  # noqa: PLC0415  absent on Windows

    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
