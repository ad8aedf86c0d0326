"""The two small files beside the segments: the writer's lock, and how far the log is durable.

The durable end is written in place and never synced: it only tells other processes what the writer knows, and a new
writer finds it out from the segments. It stands there twice, the second time with all bits turned, because a reader
may look while it is being written.
"""

from __future__ import annotations

import os
import struct
import sys
from pathlib import Path
from typing import Final

from market_data_core.errors import LogLocked

DURABLE_FILE: Final = "durable"
LOCK_FILE: Final = "lock"
_DURABLE: Final = struct.Struct("<qq")
_LOOKS: Final = 100


def lock(folder: Path) -> int:
    """Take the writer's lock of a folder; it is held until the returned descriptor is closed.

    Raises:
        LogLocked: Another writer has it, in this process or another.
        OSError: The lock file cannot be opened.
    """
    fd = os.open(folder / LOCK_FILE, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        _lock_fd(fd)
    except OSError as exc:
        os.close(fd)
        if isinstance(exc, BlockingIOError | PermissionError):
            raise LogLocked(f"log {folder} is in use by another writer") from exc
        raise
    return fd


def _lock_fd(fd: int) -> None:
    if sys.platform == "win32":  # pragma: no cover
        import msvcrt  # noqa: PLC0415  Windows alone has it

        msvcrt.locking(fd, msvcrt.LK_NBLCK, 1)
    else:
        import fcntl  # noqa: PLC0415  absent on Windows

        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)


class DurableEnd:
    """The writer's side of the durable end.

    Args:
        folder: Of the log.
        end: What to say first.

    Raises:
        OSError: The file cannot be written.
    """

    def __init__(self, folder: Path, end: int) -> None:
        self._fd = os.open(folder / DURABLE_FILE, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            self.publish(end)
        except OSError:
            os.close(self._fd)
            raise

    def publish(self, end: int) -> None:
        """Tell readers that everything below `end` is durable; raises OSError where that fails."""
        os.pwrite(self._fd, _DURABLE.pack(end, ~end), 0)

    def close(self) -> None:
        """Release the file; once."""
        os.close(self._fd)


def read_durable(folder: Path) -> int:
    """Return the exclusive end of what is durable, as the writer last said; 0 where nobody has said so."""
    try:
        fd = os.open(folder / DURABLE_FILE, os.O_RDONLY)
    except FileNotFoundError:
        return 0
    try:
        for _ in range(_LOOKS):
            raw = os.pread(fd, _DURABLE.size, 0)
            if len(raw) < _DURABLE.size:
                return 0
            end, turned = _DURABLE.unpack(raw)
            if turned == ~end:
                return int(end)
    finally:
        os.close(fd)
    # The writer was killed in the middle of saying so; the next one will say it anew.
    return 0
