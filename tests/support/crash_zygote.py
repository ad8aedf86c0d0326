"""Gives birth to lives: a process that has loaded everything once, and forks for every life it is asked for.

Each line on standard input is a JSON object: ``life`` (fields of `crash_child.Life`), ``out`` and ``err`` (files for
what the life prints) and ``timeout_s``, after which it is killed. Each is answered with its exit code; a life that a
signal ended has the signal's negative number.
"""

from __future__ import annotations

import json
import os
import select
import signal
import sys
import traceback

from support import crash_child


def main() -> None:
    """Serve until standard input ends."""
    for line in sys.stdin:
        asked = json.loads(line)
        pid = os.fork()
        if pid == 0:
            _live(asked["life"], asked["out"], asked["err"])
        print(_wait(pid, asked["timeout_s"]), flush=True)  # noqa: T201  who asked reads it


def _live(life: dict[str, object], out: str, err: str) -> None:
    code = 1
    try:
        for name, fd, flags in ((os.devnull, 0, os.O_RDONLY), (out, 1, os.O_WRONLY), (err, 2, os.O_WRONLY)):
            opened = os.open(name, flags)
            os.dup2(opened, fd)
            os.close(opened)
        crash_child.main(crash_child.Life(**life))  # type: ignore[arg-type]
        code = 0
    except BaseException:  # noqa: BLE001  nothing of the zygote may run on in here
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _wait(pid: int, timeout_s: float) -> int:
    watch = os.pidfd_open(pid)
    try:
        if not select.select([watch], [], [], timeout_s)[0]:
            os.kill(pid, signal.SIGKILL)
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    finally:
        os.close(watch)


if __name__ == "__main__":
    main()
