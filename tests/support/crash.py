"""Lives, deaths and the one verdict: nothing lost, nothing doubled, every event accounted for."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
from support import crash_child, powerloss
from support.crash_child import Life

from market_data_core.schemas import BAR_KEY
from market_data_store.lake import Lake

Rows = Counter[tuple[Any, ...]]

_TESTS = Path(crash_child.__file__).resolve().parents[1]
# When and under which number an event came differs between runs; what the venue said does not. How often a bar was made
# again before its last version depends on where the barriers fell.
_INCIDENTAL = frozenset({"seq", "ts_recv", "ts_known", "revision", "reason"})
_KINDS = {"raw": ("quotes", "trades"), "bars-trades-1s": ("trades",), "bars-midpoint-2s": ("quotes",)}
_ACCOUNTS = frozenset(
    ("passed", "absorbed", "filtered", "duplicate", "late", "suppressed", "quarantined", "failed", "in_flight")
)


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How a life went.

    Attributes:
        killed: True if it ended by SIGKILL.
        opened: Where the data path stood when it was open; empty if it did not come to that.
        ended: What it said at its end; empty if it did not come to that.
        stderr: What it logged.
    """

    killed: bool
    opened: dict[str, Any]
    ended: dict[str, Any]
    stderr: str


@dataclass(frozen=True, kw_only=True)
class Contents:
    """What a lake holds, without what differs from run to run.

    Attributes:
        ticks: Rows of quotes and of trades.
        bars: Newest version of every bar.
        versions: Rows of the bars table, by interval and price type.
        doubled_versions: Versions of bars that are there more than once.
        trades_in_bars: Sum of `trade_count` over the newest versions, by interval and price type.
    """

    ticks: dict[str, Rows]
    bars: Rows
    versions: Counter[tuple[str, str]]
    doubled_versions: int
    trades_in_bars: Counter[tuple[str, str]]


@dataclass(kw_only=True)
class Chain:
    """One data directory through any number of lives.

    Attributes:
        life: What every life does, but for how it dies.
        power: True if its power can be cut; then every sync is noted on the side.
        kills: How many lives ended by SIGKILL.
        stands: Where the log ended, and where the oldest snapshot was, at every opening.
    """

    life: Life
    power: bool = False
    kills: int = 0
    stands: list[tuple[int, int]] = field(default_factory=list)

    @property
    def data_dir(self) -> Path:
        """Where everything is kept."""
        return Path(self.life.data_dir)

    @property
    def shadow(self) -> Path:
        """Where is noted what a power cut leaves."""
        return self.data_dir.with_name(self.data_dir.name + ".shadow")

    def live(self, **changes: Any) -> Outcome:
        """Run one life to its end."""
        shadow = str(self.shadow) if self.power else ""
        outcome = run_life(replace(self.life, shadow=shadow, **changes))
        self.kills += outcome.killed
        if outcome.opened:
            self.stands.append((outcome.opened["log_end"], outcome.opened["snapshot"]))
        return outcome

    def die(self, step: str = "", nth: int = 1) -> bool:
        """Run a life that is to be killed at a step; False if it was through before it came there."""
        outcome = self.live(step=step, nth=nth)
        if not outcome.killed and not outcome.ended:
            raise AssertionError(f"the life broke down: {outcome.stderr[-3000:]}")
        return outcome.killed

    def cut_power(self, seed: int | None = None) -> None:
        """Forget what was not synced: all of it, or, with a seed, some of it by chance."""
        powerloss.restore(self.shadow, self.data_dir, seed=seed)

    def finish(self, *, same_log: bool = True) -> list[str]:
        """Run a last life to the end of the source and return what is wrong.

        Args:
            same_log: The log was left alone, so it must still be whole.
        """
        outcome = self.live()
        return broken_promises(self.life, outcome, same_log=same_log) + self.lost_ground()

    def lost_ground(self) -> list[str]:
        """Return where an opening found less than one before it."""
        pairs = zip(self.stands, self.stands[1:], strict=False)
        return [f"opened at {b} after {a}" for a, b in pairs if b[0] < a[0] or b[1] < a[1]]


def run_life(life: Life) -> Outcome:
    """Run one life in a process of its own and wait for its end."""
    path = os.pathsep.join(filter(None, [str(_TESTS), os.environ.get("PYTHONPATH")]))
    done = subprocess.run(
        [sys.executable, "-m", "support.crash_child", json.dumps(asdict(life))],
        env=os.environ | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=life.timeout_s + 30,
        check=False,
    )
    said: dict[str, Any] = {}
    for line in done.stdout.splitlines():
        said |= json.loads(line)
    return Outcome(
        killed=done.returncode == -9,
        opened=said.get("opened", {}),
        ended=said.get("ended", {}) if done.returncode == 0 else {},
        stderr=done.stderr,
    )


_references: dict[tuple[Any, ...], Contents] = {}


def reference(life: Life) -> Contents:
    """Return what an uninterrupted run over the same source stores."""
    key = (life.count, life.seed, tuple(life.files))
    if key not in _references:
        folder = Path(life.data_dir).with_name("uninterrupted")
        outcome = run_life(Life(data_dir=str(folder), count=life.count, seed=life.seed, files=life.files))
        if not outcome.ended:
            raise AssertionError(f"the uninterrupted run broke down: {outcome.stderr[-3000:]}")
        _references[key] = contents(folder / "lake")
    return _references[key]


def contents(lake_root: Path) -> Contents:
    """Read a lake."""
    lake = Lake(lake_root, "default")
    bars = lake.read("bars")
    versions = Counter(tuple(row.values()) for row in bars.select([*BAR_KEY, "revision"]).to_pylist())
    newest = _newest(bars)
    series = [(r["interval"], r["what"]) for r in newest.select(["interval", "what"]).to_pylist()]
    trades: Counter[tuple[str, str]] = Counter()
    for name, count in zip(series, newest.column("trade_count").to_pylist(), strict=True):
        trades[name] += count
    return Contents(
        ticks={name: _rows(lake.read(name)) for name in ("quotes", "trades")},
        bars=_rows(newest),
        versions=Counter((r["interval"], r["what"]) for r in bars.select(["interval", "what"]).to_pylist()),
        doubled_versions=sum(n - 1 for n in versions.values()),
        trades_in_bars=trades,
    )


def _rows(table: pa.Table) -> Rows:
    columns = [table.column(n).to_pylist() for n in table.column_names if n not in _INCIDENTAL]
    return Counter(zip(*columns, strict=True))


def _newest(bars: pa.Table) -> pa.Table:
    best: dict[tuple[Any, ...], tuple[int, int]] = {}
    for place, row in enumerate(bars.select([*BAR_KEY, "revision"]).to_pylist()):
        *key, revision = row.values()
        best[tuple(key)] = max(best.get(tuple(key), (-1, -1)), (revision, place))
    return bars.take(pa.array([place for _, place in best.values()], pa.int64()))


def broken_promises(life: Life, outcome: Outcome, *, same_log: bool = True) -> list[str]:
    """Return everything that a finished life and its lake show to be wrong; empty when all is well."""
    ended = outcome.ended
    if not ended:
        return [f"the last life did not come to its end: {outcome.stderr[-3000:]}"]
    expected = reference(life)
    found = contents(Path(life.store_root or Path(life.data_dir) / "lake"))
    ledgers = {name: c["ledger"] for name, c in ended["consumers"].items()}
    return [
        *differences(expected, found),
        *(p for name, ledger in ledgers.items() for p in unbalanced(name, ledger)),
        *_miscounted(ledgers, expected, found),
        *_complaints(ended, same_log=same_log),
    ]


def differences(expected: Contents, found: Contents) -> list[str]:
    """Return what one lake lacks, or has too often, by the other."""
    wrong = []
    for name, rows in {**expected.ticks, "bars": expected.bars}.items():
        there = found.bars if name == "bars" else found.ticks[name]
        lost, more = (rows - there).total(), (there - rows).total()
        if lost:
            wrong.append(f"{name}: {lost} rows lost or changed, such as {next(iter(rows - there))}")
        if more:
            wrong.append(f"{name}: {more} rows doubled or changed, such as {next(iter(there - rows))}")
    if found.doubled_versions:
        wrong.append(f"bars: {found.doubled_versions} versions doubled")
    return wrong


def unbalanced(name: str, ledger: Mapping[str, Mapping[str, int]]) -> list[str]:
    """Return where the accounts of one consumer do not add up: within a node, or between two."""
    wrong = []
    for node, counts in ledger.items():
        unaccounted = counts["received"] - sum(counts[a] for a in _ACCOUNTS)
        if unaccounted or counts["in_flight"]:
            wrong.append(f"{name}.{node}: {unaccounted} unaccounted, {counts['in_flight']} in flight")
    nodes = list(ledger)
    for sender, receiver in zip(nodes, nodes[1:], strict=False):
        sent = ledger[sender]["passed"] + ledger[sender]["emitted"]
        if sent != ledger[receiver]["received"]:
            wrong.append(f"{name}: {sender} sent {sent}, {receiver} received {ledger[receiver]['received']}")
    return wrong


def _miscounted(
    ledgers: Mapping[str, Mapping[str, Mapping[str, int]]], expected: Contents, found: Contents
) -> Iterator[str]:
    # The recount: what the ledger says against what is in the tables and what the source gave.
    stored = sum(rows.total() for rows in found.ticks.values())
    if ledgers["raw"]["store"]["passed"] != stored:
        yield f"raw: {ledgers['raw']['store']['passed']} stored by the ledger, {stored} in the tables"
    for name, kinds in _KINDS.items():
        given = sum(expected.ticks[kind].total() for kind in kinds)
        if ledgers[name]["log"]["passed"] != given:
            yield f"{name}: {ledgers[name]['log']['passed']} events counted of {given}"
    for config in crash_child.BARS:
        name, series = config.consumer, (config.interval, config.what)
        counts = ledgers[name]["bars"]
        if counts["absorbed"] + counts["late"] != found.trades_in_bars[series]:
            yield f"{name}: {counts} by the ledger, {found.trades_in_bars[series]} events in the bars"
        if ledgers[name]["store"]["passed"] != found.versions[series]:
            yield f"{name}: {ledgers[name]['store']['passed']} bars by the ledger, {found.versions[series]} in the table"


def _complaints(ended: Mapping[str, Any], *, same_log: bool) -> Iterator[str]:
    if not ended["stored"] or ended["late"] or ended["problem"]:
        yield f"not everything was stored in time: {ended['late']} {ended['problem']}"
    for name, consumer in ended["consumers"].items():
        if consumer["restarts"]:
            yield f"consumer {name} had to begin again {consumer['restarts']} times: {consumer['problem']}"
        if same_log and consumer["reports"]:
            yield f"consumer {name} reports {consumer['reports']}"
    if same_log and ended["log"]["epoch"] != 1:
        yield f"the log lost what was durable: {ended['log']['reports']}"
    failures = ended["store"].get("maintenance", {}).get("failures", [])
    if failures:
        yield f"maintenance failed: {failures}"


def random_lives(seed: int, deaths: int) -> Sequence[int]:
    """Return after how many steps each life is to die."""
    chance = random.Random(seed)
    return [chance.randrange(3, 160) for _ in range(deaths)]
