"""How much of the processor a process claims beside the others."""

from __future__ import annotations

import contextlib
import os
import sys
from pathlib import Path


def lower(nice: int, pid: int | None = None) -> None:
    """Have a process give way to less nice ones; what the system does not offer or allow is left as it is.

    Args:
        nice: From 0, an equal share, to 19, only what nobody else wants.
        pid: Whose, None for this process. One that has ended is nobody's error.
    """
    if sys.platform == "win32":
        return
    pid = os.getpid() if pid is None else pid
    with contextlib.suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, pid, nice)
    # Linux shares the processor between sessions before it looks at niceness within one: the leader of a session is as
    # strong as all other sessions, however nice it is, unless its session is made nice too. Only what leads one may
    # speak for it; any other process would make its user's terminal nice.
    with contextlib.suppress(OSError):
        if os.getsid(pid) == pid:
            Path(f"/proc/{pid}/autogroup").write_text(f"{nice}\n", encoding="ascii")
