"""The same work by other people's engines, which live in a venv of their own: made on demand with ``--yardsticks``."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

from benchmarks import children
from benchmarks.context import Context
from benchmarks.results import Result

Work = Literal["bars", "graph"]
"""What they are to do: 1 s bars of trades and of midpoints; or 1 s bars of trades and named values of quotes."""

PINS = Path(__file__).with_name("yardsticks.txt")
_INSTALL_S = 900.0
_RUN_S = 900.0
_SHARED = ("numpy", "pyarrow")


@dataclass(frozen=True, slots=True, kw_only=True)
class Tool:
    """An engine that is measured beside ours.

    Attributes:
        name: As it stands in results.
        package: What pip installs.
        script: What runs in its venv; it imports nothing of ours.
    """

    name: str
    package: str
    script: Path


TOOLS = (
    Tool(name="NautilusTrader", package="nautilus_trader", script=Path(__file__).with_name("foreign_nautilus.py")),
    Tool(name="Bytewax", package="bytewax", script=Path(__file__).with_name("foreign_bytewax.py")),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Foreign:
    """What there is to measure beside ours.

    Attributes:
        runs: By the tool's name, does the work once and returns how long it took, in seconds.
        said: What each tool counted, for the detail of the row.
        skipped: A result for each tool that there is no figure of, with the reason.
    """

    runs: dict[str, Callable[[], float]] = field(default_factory=dict)
    said: dict[str, dict[str, Any]] = field(default_factory=dict)
    skipped: list[Result] = field(default_factory=list)


def foreign(
    ctx: Context,
    row: str,
    work: Work,
    *,
    files: Sequence[Path],
    expected: Mapping[str, float],
    tools: Sequence[Tool] = TOOLS,
) -> Foreign:
    """Return the tools that can be measured, each having done the work once and found what we found.

    Args:
        ctx: How the rows run; without `Context.yardsticks` there are none.
        row: Which row it is for.
        work: What is to be done.
        files: Ticks, trades and quotes apart, by time within each file.
        expected: What our own run counted, such as ``bars`` and ``volume``; a tool that counts otherwise has done
            other work, and its figure would mean nothing.
        tools: Which.
    """
    found = Foreign()
    for tool in tools if ctx.yardsticks else ():
        try:
            python = installed(ctx.cache / "yardsticks-venv", tool)
            found.said[tool.name] = _compared(python, tool, work, files, expected)
        except RuntimeError as exc:
            found.skipped.append(Result(row=row, what=f"yardstick {tool.name}", skipped=str(exc)))
        else:
            found.runs[tool.name] = partial(_seconds, python, tool, work, files)
    return found


def _compared(
    python: Path, tool: Tool, work: Work, files: Sequence[Path], expected: Mapping[str, float]
) -> dict[str, Any]:
    said = _run(python, tool, work, files)
    if problem := differs(said, expected):
        raise RuntimeError(f"it counts otherwise than we do, so its time is of other work: {problem}")
    return said


def differs(said: Mapping[str, Any], expected: Mapping[str, float]) -> str:
    """Return what a tool counted otherwise than we did; empty if nothing."""
    # Sums of floats in another order are the same to about the last digit.
    wrong = [n for n, v in expected.items() if n not in said or abs(said[n] - v) > 1e-9 * max(abs(v), 1.0)]
    return "; ".join(f"{n} {said.get(n)}, ours {expected[n]}" for n in wrong)


def installed(venv: Path, tool: Tool) -> Path:
    """Return the interpreter of the venv, with a tool in it, at the version pinned.

    Raises:
        RuntimeError: It cannot be installed on this machine or this Python; says why.
    """
    python = venv / "bin" / "python"
    pins = hashlib.sha256(PINS.read_bytes() + sys.version.encode()).hexdigest()[:12]
    ready = venv / f"{tool.package}-{pins}"
    if ready.is_file():
        return python
    if not python.is_file() or not list(venv.glob(f"*-{pins}")):
        # Other pins or another Python: what is there is of no use.
        shutil.rmtree(venv, ignore_errors=True)
        venv.parent.mkdir(parents=True, exist_ok=True)
        _checked([sys.executable, "-m", "venv", str(venv)], f"no venv for {tool.name}")
    pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--only-binary", ":all:"]
    _checked([*pip, "-c", str(PINS), tool.package, *_SHARED], f"{tool.name} does not install on this Python")
    ready.touch()
    return python


def _checked(command: Sequence[str], problem: str) -> None:
    try:
        subprocess.run(command, check=True, capture_output=True, text=True, timeout=_INSTALL_S)
    except subprocess.CalledProcessError as exc:
        said = [line for line in (exc.stderr or exc.stdout).splitlines() if line.startswith("ERROR")]
        raise RuntimeError(f"{problem}: {(said or ['pip ended with code ' + str(exc.returncode)])[-1]}") from exc
    except (OSError, subprocess.TimeoutExpired) as exc:
        raise RuntimeError(f"{problem}: {exc}") from exc


def _run(python: Path, tool: Tool, work: Work, files: Sequence[Path]) -> dict[str, Any]:
    # Our own packages are none of its business.
    env = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    return children.run([str(python), str(tool.script), work, *map(str, files)], timeout_s=_RUN_S, env=env)


def _seconds(python: Path, tool: Tool, work: Work, files: Sequence[Path]) -> float:
    return float(_run(python, tool, work, files)["seconds"])
