"""What the operating system can forbid a process that runs somebody else's query, without being root.

On Linux: no writing of files, bounded memory, processor time and open files, death with the parent, first choice of the
out-of-memory killer, and with Landlock (Linux 5.13 and later) reading of some places alone and no TCP (6.7 and later).
Elsewhere what the platform offers of it. Nothing here can be undone by the process itself.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from market_data_core.errors import TemporaryUnavailable

_PR_SET_PDEATHSIG: Final = 1
_PR_SET_NO_NEW_PRIVS: Final = 38
# The numbers of Landlock's calls are the same on every architecture that Python is built for, alpha apart.
_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_RULE_PATH, _RULE_PORT = 1, 2
_READ_FILE: Final = 1 << 2
_READ_FILE_AND_DIR: Final = _READ_FILE | 1 << 3
# How many file rights each version of Landlock's interface knows; a ruleset must not name others.
_FILE_RIGHTS: Final = {1: 13, 2: 14, 3: 15, 4: 15}
_FILE_RIGHTS_LATEST: Final = 16
_TCP_CONNECT: Final = 0b10
_TCP_BIND_AND_CONNECT: Final = 0b11
_ABSTRACT_SOCKETS_AND_SIGNALS: Final = 0b11
# A table between two checkpoints is some hundred commit files, and they are opened at once.
_OPEN_FILES: Final = 4096


class _RulesetAttr(ctypes.Structure):
    _fields_ = (("fs", ctypes.c_uint64), ("net", ctypes.c_uint64), ("scoped", ctypes.c_uint64))


class _PathBeneathAttr(ctypes.Structure):
    _pack_ = 1
    _layout_ = "ms"
    _fields_ = (("allowed", ctypes.c_uint64), ("fd", ctypes.c_int32))


class _NetPortAttr(ctypes.Structure):
    _fields_ = (("allowed", ctypes.c_uint64), ("port", ctypes.c_uint64))


def die_with(parent_pid: int) -> None:
    """Have this process killed when the thread that started it ends.

    Args:
        parent_pid: Who started us; had it died before the kernel was asked, this process ends here.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent_pid:
            os._exit(1)


def limit_resources(*, memory_bytes: int, cpu_s: int) -> None:
    """Bound what this process may take.

    Args:
        memory_bytes: Address space beyond what is mapped now; enforced on Linux.
        cpu_s: Processor seconds, all threads together; then the process is killed.
    """
    if sys.platform == "win32":  # no such calls there; the parent's time limit still holds
        return
    import resource  # noqa: PLC0415  Windows has no such module

    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CPU, (cpu_s, cpu_s + 1))
    files = min(_OPEN_FILES, resource.getrlimit(resource.RLIMIT_NOFILE)[1])
    resource.setrlimit(resource.RLIMIT_NOFILE, (files, files))
    if sys.platform == "linux":
        # Raising one's own score needs no right: if the machine runs out of memory, a query goes first.
        Path("/proc/self/oom_score_adj").write_text("1000", encoding="ascii")
        mapped = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (mapped + memory_bytes, mapped + memory_bytes))


def landlock_version() -> int:
    """Return the version of Landlock's interface that the kernel offers; 0 where there is none."""
    if sys.platform != "linux":
        return 0
    return max(0, int(ctypes.CDLL(None).syscall(_CREATE_RULESET, None, 0, 1)))


def read_only_below(*places: Path, ports: Sequence[int] = ()) -> bool:
    """Leave this thread, and those it starts from now on, nothing of the machine but reading below some places.

    Files that are open stay open. Call it before the engine has started its threads.

    Args:
        places: Folders and files that may be read.
        ports: Of TCP, to which connections may be made.

    Returns:
        False where the kernel has no Landlock; nothing is confined then.

    Raises:
        TemporaryUnavailable: A place is not there, or the kernel refused.
    """
    version = landlock_version()
    if version == 0:
        return False
    libc = ctypes.CDLL(None, use_errno=True)
    attr = _RulesetAttr(
        fs=(1 << _FILE_RIGHTS.get(version, _FILE_RIGHTS_LATEST)) - 1,
        net=_TCP_BIND_AND_CONNECT if version >= 4 else 0,
        scoped=_ABSTRACT_SOCKETS_AND_SIGNALS if version >= 6 else 0,
    )
    size = 8 * (1 + (version >= 4) + (version >= 6))
    try:
        ruleset = _checked(libc.syscall(_CREATE_RULESET, ctypes.byref(attr), size, 0))
        for place in places:
            beneath = os.open(place, os.O_PATH | os.O_CLOEXEC)
            allowed = _READ_FILE_AND_DIR if place.is_dir() else _READ_FILE
            rule = _PathBeneathAttr(allowed=allowed, fd=beneath)
            _checked(libc.syscall(_ADD_RULE, ruleset, _RULE_PATH, ctypes.byref(rule), 0))
            os.close(beneath)
        for port in ports if version >= 4 else ():
            to = _NetPortAttr(allowed=_TCP_CONNECT, port=port)
            _checked(libc.syscall(_ADD_RULE, ruleset, _RULE_PORT, ctypes.byref(to), 0))
        _checked(libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
        _checked(libc.syscall(_RESTRICT_SELF, ruleset, 0))
        os.close(ruleset)
    except OSError as exc:
        raise TemporaryUnavailable(f"cannot confine a query to {', '.join(map(str, places))}: {exc}") from exc
    return True


def _checked(result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result
