"""Where time goes."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from rich.console import Console

_TOP = 25
_SAMPLES_PER_S = 200


def profiled(name: str, run: Callable[[], object]) -> None:
    """Run something once under a sampling profiler and print its hottest lines, by own time and with what they call."""
    console = Console(stderr=True)
    sampler = shutil.which("py-spy", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}")
    if sampler is None:
        console.print("py-spy is not installed; no profile")
        return
    with tempfile.TemporaryDirectory() as folder:
        stacks = Path(folder) / "stacks"
        arguments = ("record", "--pid", str(os.getpid()), "--format", "raw", "--output", str(stacks), "--threads")
        process = subprocess.Popen(
            [sampler, *arguments, "--rate", str(_SAMPLES_PER_S), "--duration", "600", "--nonblocking"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            run()
        finally:
            process.send_signal(signal.SIGINT)
            process.wait()
        if stacks.is_file():
            _show(name, stacks.read_text().splitlines(), console)


def _show(name: str, lines: list[str], console: Console) -> None:
    own: Counter[str] = Counter()
    whole: Counter[str] = Counter()
    threads: Counter[str] = Counter()
    total = 0
    for line in lines:
        text, _, count = line.rpartition(" ")
        frames = text.split(";")
        samples = int(count)
        total += samples
        threads[frames[0]] += samples
        own[frames[-1]] += samples
        for frame in set(frames):
            whole[frame] += samples
    for title, counts in (("threads", threads), ("own time", own), ("with what is called", whole)):
        console.print(f"[bold]{name}: {title}[/] ({total} samples at {_SAMPLES_PER_S}/s)")
        for frame, samples in counts.most_common(_TOP):
            console.print(f"  {100 * samples / total:5.1f} %  {frame}", markup=False, highlight=False)
