"""What is measured in a process of its own: it prints one JSON line and ends."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

from benchmarks.context import REPOSITORY


def ours(module: str, *arguments: str, timeout_s: float) -> dict[str, Any]:
    """Run one of our modules and return what it printed last.

    Raises:
        RuntimeError: It failed, did not end in time or printed nothing.
    """
    path = os.pathsep.join([str(REPOSITORY / "src"), str(REPOSITORY)])
    return run([sys.executable, "-m", module, *arguments], timeout_s=timeout_s, env=os.environ | {"PYTHONPATH": path})


def run(command: Sequence[str], *, timeout_s: float, env: dict[str, str]) -> dict[str, Any]:
    """Run a command and return the JSON object in the last line that it printed.

    Raises:
        RuntimeError: It failed, did not end in time or printed none.
    """
    name = command[-1] if len(command) < 3 else command[2] if command[1] == "-m" else command[1]
    try:
        done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=timeout_s, env=env)
    except subprocess.TimeoutExpired as exc:
        raise RuntimeError(f"{name} did not end within {timeout_s:.0f} s") from exc
    last = done.stdout.strip().rpartition("\n")[2]
    if done.returncode or not last:
        raise RuntimeError(f"{name} ended with code {done.returncode}: {done.stderr.strip()[-300:]}")
    try:
        return dict(json.loads(last))
    except ValueError as exc:
        raise RuntimeError(f"{name} printed no JSON: {last[-300:]}") from exc
