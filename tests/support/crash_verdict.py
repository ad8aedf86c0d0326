"""The one verdict on a data path: nothing lost, nothing doubled, every event accounted for."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from market_data_core import plugins
from market_data_core.schemas import BAR_KEY
from support.crash_child import BARS, store_named

Rows = Counter[tuple[Any, ...]]

# When and under which number an event came differs between runs; what the venue said does not. How often a bar was made
# again before its last version depends on where the barriers fell.
_INCIDENTAL = frozenset({"seq", "ts_recv", "ts_known", "revision", "reason"})
_KINDS = {"raw": ("quotes", "trades")} | {
    config.consumer: ("trades" if config.what == "TRADES" else "quotes",) for config in BARS
}
_ACCOUNTS = frozenset(
    ("passed", "absorbed", "filtered", "duplicate", "late", "suppressed", "quarantined", "failed", "in_flight")
)


@dataclass(frozen=True, kw_only=True)
class Contents:
    """What a store holds, without what differs from run to run.

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


def broken_promises(
    expected: Contents, store_root: Path | str, ended: Mapping[str, Any], *, same_log: bool = True, calm: bool = True
) -> list[str]:
    """Return everything that shows to be wrong when a source has been taken in to its end; empty when all is well.

    Args:
        expected: What an uninterrupted run over the same source stores.
        store_root: Where the store is: a lake's folder or the address of a database.
        ended: What `crash_child.end_of` returned.
        same_log: Nobody harmed the log, so it must be whole.
        calm: Nothing was withheld in the last life, so no consumer had a reason to begin again.
    """
    found = contents(store_root)
    ledgers = {name: c["ledger"] for name, c in ended["consumers"].items()}
    return [
        *differences(expected, found),
        *(p for name, ledger in ledgers.items() for p in unbalanced(name, ledger)),
        *_miscounted(ledgers, expected, found, same_log=same_log),
        *_complaints(ended, same_log=same_log, calm=calm),
    ]


def contents(store_root: Path | str) -> Contents:
    """Read a store, a lake's folder or the address of a database."""
    address = str(store_root)
    with closing(plugins.load(plugins.SINKS, store_named(address))(address, "default")) as store:
        bars = store.read("bars")
        ticks = {name: _rows(store.read(name)) for name in ("quotes", "trades")}
    versions = Counter(tuple(row.values()) for row in bars.select([*BAR_KEY, "revision"]).to_pylist())
    newest = _newest(bars)
    series = [(r["interval"], r["what"]) for r in newest.select(["interval", "what"]).to_pylist()]
    trades: Counter[tuple[str, str]] = Counter()
    for name, count in zip(series, newest.column("trade_count").to_pylist(), strict=True):
        trades[name] += count
    return Contents(
        ticks=ticks,
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


def differences(expected: Contents, found: Contents) -> list[str]:
    """Return what one store lacks, or has too often, by the other."""
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
    for sender, receiver in itertools.pairwise(nodes):
        sent = ledger[sender]["passed"] + ledger[sender]["emitted"]
        if sent != ledger[receiver]["received"]:
            wrong.append(f"{name}: {sender} sent {sent}, {receiver} received {ledger[receiver]['received']}")
    return wrong


def _miscounted(
    ledgers: Mapping[str, Mapping[str, Mapping[str, int]]], expected: Contents, found: Contents, *, same_log: bool
) -> Iterator[str]:
    # The recount: what the ledger says against what is in the tables and what the source gave.
    stored = sum(rows.total() for rows in found.ticks.values())
    if ledgers["raw"]["store"]["passed"] != stored:
        yield f"raw: {ledgers['raw']['store']['passed']} stored by the ledger, {stored} in the tables"
    for name, kinds in _KINDS.items():
        given = sum(expected.ticks[kind].total() for kind in kinds)
        if ledgers[name]["log"]["passed"] != given:
            yield f"{name}: {ledgers[name]['log']['passed']} events counted of {given}"
    for config in BARS:
        name, series = config.consumer, (config.interval, config.what)
        counts = ledgers[name]["bars"]
        if counts["absorbed"] + counts["late"] != found.trades_in_bars[series]:
            yield f"{name}: {counts} by the ledger, {found.trades_in_bars[series]} events in the bars"
        # Barriers fall elsewhere in another log, and with them how many late events share a revision.
        if same_log and ledgers[name]["store"]["passed"] != found.versions[series]:
            yield f"{name}: {ledgers[name]['store']['passed']} bars stored by the ledger, not {found.versions[series]}"


def _complaints(ended: Mapping[str, Any], *, same_log: bool, calm: bool) -> Iterator[str]:
    if not ended["stored"] or ended["late"] or ended["problem"]:
        yield f"not everything was stored in time: {ended['late']} {ended['problem']}"
    for name, consumer in ended["consumers"].items():
        if calm and consumer["restarts"]:
            yield f"consumer {name} had to begin again {consumer['restarts']} times: {consumer['problem']}"
        if same_log and consumer["reports"]:
            yield f"consumer {name} reports {consumer['reports']}"
    if same_log and any("was given to consumers" in report for report in ended["log"]["reports"]):
        yield f"the log lost what was durable: {ended['log']['reports']}"
    failures = ended["store"].get("maintenance", {}).get("failures", [])
    if calm and failures:
        yield f"maintenance failed: {failures}"
