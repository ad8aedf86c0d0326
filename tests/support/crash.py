"""Data paths that live in processes of their own, and die there."""

from __future__ import annotations

import atexit
import csv
import functools
import hashlib
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

from support import crash_child, powerloss
from support.crash_child import Life
from support.crash_verdict import Contents, broken_promises, contents

_TESTS = Path(crash_child.__file__).resolve().parents[1]
_START_NS = 1_704_205_800_000_000_000
_HOUR_S = 3600.0


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How a life went.

    Attributes:
        killed: True if it ended by SIGKILL.
        opened: Where the data path stood when it was open; empty if it did not come to that.
        ended: What `crash_child.end_of` returned; empty if it did not come to that.
        stderr: What it logged.
    """

    killed: bool
    opened: dict[str, Any]
    ended: dict[str, Any]
    stderr: str


class _Zygote:
    # The process that lives are forked from, started with the first one.
    def __init__(self) -> None:
        path = os.pathsep.join(filter(None, [str(_TESTS), os.environ.get("PYTHONPATH")]))
        self._process = subprocess.Popen(
            [sys.executable, "-m", "support.crash_zygote"],
            env=os.environ | {"PYTHONPATH": path},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        atexit.register(self.close)

    def bear(self, life: Life, out: Path, err: Path) -> int:
        asked = {"life": asdict(life), "out": str(out), "err": str(err), "timeout_s": life.timeout_s + 30}
        pipes = self._process
        assert pipes.stdin is not None
        assert pipes.stdout is not None
        pipes.stdin.write(json.dumps(asked) + "\n")
        pipes.stdin.flush()
        return int(pipes.stdout.readline())

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()


@functools.cache
def _zygote() -> _Zygote:
    return _Zygote()


def run_life(life: Life) -> Outcome:
    """Run one life in a process of its own and wait for its end."""
    with tempfile.TemporaryDirectory(prefix="life-") as folder:
        out, err = Path(folder, "out"), Path(folder, "err")
        out.touch()
        err.touch()
        code = _zygote().bear(life, out, err)
        said: dict[str, Any] = {}
        for line in out.read_text().splitlines():
            said |= json.loads(line)
        told = err.read_text(errors="replace")
    return Outcome(
        killed=code == -9,
        opened=said.get("opened", {}),
        ended=said.get("ended", {}) if code == 0 else {},
        stderr=f"exit code {code}\n{told[-20000:]}",
    )


_references: dict[tuple[Any, ...], Contents] = {}


def reference(life: Life) -> Contents:
    """Return what an uninterrupted run over the same source stores."""
    key = (life.count, life.seed, *(hashlib.sha256(Path(f).read_bytes()).hexdigest() for f in life.files))
    if key not in _references:
        folder = Path(life.data_dir).with_name("uninterrupted")
        outcome = run_life(Life(data_dir=str(folder), count=life.count, seed=life.seed, files=life.files))
        if not outcome.ended:
            raise AssertionError(f"the uninterrupted run broke down: {outcome.stderr}")
        found = contents(folder / "lake")
        wrong = broken_promises(found, folder / "lake", outcome.ended)
        stored, given = sum(rows.total() for rows in found.ticks.values()), outcome.ended["sources"].values()
        if wrong or stored != sum(source["events"] for source in given):
            raise AssertionError(f"the uninterrupted run is no measure: {wrong}, {stored} rows, {outcome.stderr}")
        _references[key] = found
    return _references[key]


@dataclass(kw_only=True)
class Chain:
    """One data directory through any number of lives.

    Attributes:
        life: What every life does, but for how it dies.
        power: True if its power can be cut; then every sync is noted on the side.
        deaths: How many lives ended by SIGKILL.
        stands: How far the log was durable, and where the oldest snapshot was, at every opening.
        epochs: Of the log, at every opening.
    """

    life: Life
    power: bool = False
    deaths: int = 0
    stands: list[tuple[int, int]] = field(default_factory=list)
    epochs: list[int] = field(default_factory=list)

    @property
    def data_dir(self) -> Path:
        """Where everything is kept."""
        return Path(self.life.data_dir)

    @property
    def log(self) -> Path:
        """Where the log is."""
        return self.data_dir / "log"

    @property
    def shadow(self) -> Path:
        """Where is noted what a power cut leaves."""
        return self.data_dir.with_name(self.data_dir.name + ".shadow")

    def live(self, **changes: Any) -> Outcome:
        """Run one life to its end. `changes` are fields of `Life`."""
        self._make_older()
        shadow = str(self.shadow) if self.power else ""
        outcome = run_life(replace(self.life, shadow=shadow, **changes))
        self.deaths += outcome.killed
        if outcome.opened:
            self.stands.append((outcome.opened["log_end"], outcome.opened["snapshot"]))
            self.epochs.append(outcome.opened["epoch"])
        return outcome

    def die(self, step: str = "", nth: int = 1, **changes: Any) -> bool:
        """Run a life that is to be killed at a step; False if it was through before it came there."""
        outcome = self.live(step=step, nth=nth, **changes)
        if not outcome.killed and not outcome.ended:
            raise AssertionError(f"the life broke down: {outcome.stderr}")
        return outcome.killed

    def cut_power(self, seed: int | None = None) -> None:
        """Forget what was not synced: all of it, or, with a seed, some of it by chance."""
        powerloss.restore(self.shadow, self.data_dir, seed=seed)

    def finish(self, *, same_log: bool = True) -> list[str]:
        """Run a last life to the end of the source and return what is wrong.

        Args:
            same_log: Nobody harmed the log, so it must be whole.
        """
        expected = reference(self.life)
        outcome = self.live()
        if not outcome.ended:
            return [f"the last life did not come to its end: {outcome.stderr}"]
        store = self.life.store_root or self.data_dir / "lake"
        wrong = broken_promises(expected, store, outcome.ended, same_log=same_log, calm=same_log)
        if same_log:
            wrong += self.lost_ground()
        return [*wrong, outcome.stderr] if wrong else []

    def lost_ground(self) -> list[str]:
        """Return where an opening found less than one before it, or the log took something for lost."""
        less = [f"opened at {b} after {a}" for a, b in pairwise(self.stands) if b[0] < a[0] or b[1] < a[1]]
        return less + [f"the log lost what was durable: epoch {b} after {a}" for a, b in pairwise(self.epochs) if b > a]

    def _make_older(self) -> None:
        # What was left by lives before this one has served its time: upkeep may clean it away.
        then = time.time() - _HOUR_S - 1
        for path in (self.data_dir / "lake").rglob("*"):
            if path.is_file():
                os.utime(path, (then, then))


def segments(log: Path) -> list[Path]:
    """Return the files of a log, oldest first."""
    return sorted(log.glob("*.log"))


def death_steps(seed: int) -> Iterator[int]:
    """Give, for ever, after how many steps a life is to die."""
    chance = random.Random(seed)
    while True:
        yield chance.randrange(20, 250)


def write_recording(folder: Path, rows: int, *, seed: int = 1, late_share: float = 0.01) -> list[str]:
    """Write recorded trades and quotes, some of them seconds late, and return the files."""
    chance = random.Random(seed)
    folder.mkdir(parents=True, exist_ok=True)
    made = {"trades": ["price", "size", "trade_id"], "quotes": ["bid_price", "bid_size", "ask_price", "ask_size"]}
    files = []
    for kind, columns in made.items():
        path = folder / f"made_{kind}.csv"
        with path.open("w", newline="") as file:
            out = csv.writer(file)
            out.writerow(["vendor", "symbol", "ts_event", *columns])
            for n in range(rows):
                late_ns = 3_000_000_000 if chance.random() < late_share else 0
                ts = _START_NS + n * 1_000_000 + chance.randrange(900_000) - late_ns
                bid = chance.randrange(1000, 2000)
                values = [bid / 100, chance.randrange(1, 900), (bid + 1) / 100, chance.randrange(1, 900)]
                if kind == "trades":
                    values = [bid / 100, chance.randrange(1, 900), f"T{n}"]
                out.writerow(["made", f"MADE{chance.randrange(8)}", ts, *values])
        files.append(str(path))
    return files
