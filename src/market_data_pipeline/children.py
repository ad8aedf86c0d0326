"""Child processes that speak in lines over their standard input and output."""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable
from typing import IO, Protocol

_LOOK_S = 0.01


class Child(Protocol):
    """What is used of a child process; `subprocess.Popen` is one."""

    stdin: IO[str] | None
    stdout: IO[str] | None
    pid: int

    def poll(self) -> int | None:
        """Return its exit code, None while it runs."""
        ...

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end and return its exit code; raises `subprocess.TimeoutExpired`."""
        ...

    def kill(self) -> None:
        """End it at once."""
        ...


def spawned(module: str) -> Child:
    """Return a new Python that runs a module, the leader of a session of its own: Ctrl-C is for its parent alone."""
    return subprocess.Popen(  # noqa: S603  a module of ours
        [sys.executable, "-m", module],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def can_fork() -> bool:
    """Return whether a copy of this process can run on: on Linux, before it has a second thread."""
    return sys.platform == "linux" and threading.active_count() == 1


def forked(main: Callable[[], int]) -> Child:
    """Return a copy of this process that runs a function; it shares what is loaded, so it is there at once.

    Call it only where `can_fork`.
    """
    to_child, from_child = os.pipe(), os.pipe()
    # What is loaded by now stays where it is, shared, as long as no collection touches it.
    gc.collect()
    gc.freeze()
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid == 0:
        _run_child(main, to_child, from_child)
    os.close(to_child[0])
    os.close(from_child[1])
    return _Forked(pid, os.fdopen(to_child[1], "w"), os.fdopen(from_child[0], "r"))


def _run_child(main: Callable[[], int], to_child: tuple[int, int], from_child: tuple[int, int]) -> None:
    code = 1
    try:
        os.setsid()
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_DFL)
        os.close(to_child[1])
        os.close(from_child[0])
        os.dup2(to_child[0], 0)
        os.dup2(from_child[1], 1)
        os.close(to_child[0])
        os.close(from_child[1])
        sys.stdin, sys.stdout = os.fdopen(0, "r", closefd=False), os.fdopen(1, "w", closefd=False)
        code = main()
    except BaseException:  # noqa: BLE001  nothing of the parent may run on in here
        traceback.print_exc()
    finally:
        with contextlib.suppress(OSError, ValueError):
            sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


class _Forked:
    def __init__(self, pid: int, stdin: IO[str], stdout: IO[str]) -> None:
        self.pid = pid
        self.stdin: IO[str] | None = stdin
        self.stdout: IO[str] | None = stdout
        self._code: int | None = None
        self._reaping = threading.Lock()

    def poll(self) -> int | None:
        with self._reaping:
            if self._code is None:
                try:
                    pid, status = os.waitpid(self.pid, os.WNOHANG)
                except ChildProcessError:
                    self._code = -1  # somebody else heard of its end
                else:
                    self._code = os.waitstatus_to_exitcode(status) if pid else None
            return self._code

    def wait(self, timeout: float | None = None) -> int:
        until = None if timeout is None else time.monotonic() + timeout
        while (code := self.poll()) is None:
            if until is not None and time.monotonic() >= until:
                raise subprocess.TimeoutExpired(f"process {self.pid}", timeout or 0.0)
            time.sleep(_LOOK_S)
        return code

    def kill(self) -> None:
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)
