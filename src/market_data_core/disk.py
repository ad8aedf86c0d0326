"""The one seam through which the platform makes files durable.

A file's bytes survive a power cut once `sync_file` has returned, its name once `sync_dir` of its folder has. Everything
that must outlive a power cut goes through here, so a test can forget exactly what was not synced.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Literal

Synced = Callable[[Literal["file", "dir"], Path], None]

_observer: Synced | None = None


def observe(observer: Synced | None) -> None:
    """Have `observer` called after every sync; None takes it out again."""
    global _observer  # noqa: PLW0603  one observer per process, installed by fault tests alone
    _observer = observer


def sync_fd(fd: int, path: Path) -> None:
    """Make the bytes written to an open file durable. `path` is its name, for the observer."""
    if hasattr(os, "fdatasync"):
        os.fdatasync(fd)
    else:  # pragma: no cover  macOS and Windows
        os.fsync(fd)
    if _observer is not None:
        _observer("file", path)


def sync_file(path: Path) -> None:
    """Make the bytes of a closed file durable."""
    fd = os.open(path, os.O_RDWR)
    try:
        sync_fd(fd, path)
    finally:
        os.close(fd)


def sync_dir(path: Path) -> None:
    """Make the names in a folder durable: files made, renamed and removed."""
    if os.name == "nt":  # pragma: no cover  Windows has no such call and needs none
        return
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
    if _observer is not None:
        _observer("dir", path)


def make_dirs(path: Path) -> None:
    """Make a folder and its parents, durably; also one that a process made which died before it came to that."""
    made = not path.is_dir()
    if made:
        make_dirs(path.parent)
        path.mkdir(exist_ok=True)
    try:
        sync_dir(path.parent)
    except OSError:
        # What was there before may lie in a folder that is not ours to read, or on a disk that is only read.
        if made:
            raise


def write_atomic(path: Path, content: bytes, *, written: Callable[[], None] | None = None, mode: int = 0o644) -> None:
    """Replace a file so that after any crash it holds either the old bytes or the new ones, whole.

    Args:
        path: The file; its folder exists.
        content: The new bytes.
        written: Called when the new bytes are durable but do not have their name yet.
        mode: Who may read and write the file, from its first byte on.
    """
    temporary = path.with_name(path.name + ".new")
    if mode & 0o077 == 0:
        temporary.unlink(missing_ok=True)  # one that a crash left behind would keep the mode it was made with
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
    try:
        view = memoryview(content)
        while view:
            view = view[os.write(fd, view) :]
        sync_fd(fd, temporary)
    finally:
        os.close(fd)
    if written is not None:
        written()
    temporary.replace(path)
    sync_dir(path.parent)
