"""Operators as a compiled graph beside the same as chains written by hand, over one durable log to no store."""

from __future__ import annotations

import itertools
import shutil
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow.compute as pc

from benchmarks import ticks
from benchmarks.context import Context, median_rate, rate_spread, rounds, seconds
from benchmarks.forgetful import ForgetfulStore
from benchmarks.logged import write_log
from benchmarks.profiles import profiled
from benchmarks.results import Result, Target
from benchmarks.yardsticks_venv import foreign
from market_data_core.errors import MarketDataError
from market_data_core.protocols import Store
from market_data_core.schemas import Kind
from market_data_pipeline.compiler import SinkDef, compile_graph
from market_data_pipeline.consumers import ConsumerSettings, ConsumerSpec, Ledger
from market_data_pipeline.consumers.model import ConsumerStatus, Surroundings
from market_data_pipeline.consumers.session import Session
from market_data_pipeline.dag import parse_graph
from market_data_pipeline.operators import Bars, Validate
from market_data_pipeline.operators.filter import Filter
from market_data_pipeline.operators.spread import Spread
from market_data_pipeline.writing import DeadLetters

ROW = "dag"
CHAIN = "the same operators as chains written by hand"
WHERE = "ask_price > bid_price and bid_size > 0 and ask_size > 0"
OUTPUTS = ("mid", "spread_bps")
FORGET = "forget"

TWO_CHAINS: Mapping[str, Any] = {
    "nodes": {
        "trades": {"source": "all", "kinds": ["trades"]},
        "checked-trades": {"operator": "validate"},
        "bars": {"operator": "bars", "interval": "1s"},
        "all-bars": {"sink": FORGET, "kinds": ["bars"]},
        "quotes": {"source": "all", "kinds": ["quotes"]},
        "checked-quotes": {"operator": "validate"},
        "in-order": {"operator": "filter", "where": WHERE},
        "spread": {"operator": "spread", "outputs": list(OUTPUTS)},
        "all-values": {"sink": FORGET, "kinds": ["analytics"]},
    },
    "edges": [
        "trades -> checked-trades -> bars -> all-bars",
        "quotes -> checked-quotes -> in-order -> spread -> all-values",
    ],
}
"""The graph that is compared with chains written by hand."""

FIVE_BRANCHES: Mapping[str, Any] = {
    "nodes": {
        "every": {"source": "all", "kinds": ["trades", "quotes"]},
        "checked": {"operator": "validate"},
        "bars": {"operator": "bars", "interval": "1s"},
        "midpoints": {"operator": "bars", "interval": "1s", "what": "MIDPOINT"},
        "in-order": {"operator": "filter", "where": WHERE},
        "spread": {"operator": "spread", "outputs": list(OUTPUTS)},
        "by-ticks": {"operator": "tick_bars", "count": 100},
        "joined": {"operator": "asof_join"},
        "all": {"sink": FORGET, "kinds": ["bars", "analytics", "taq"]},
    },
    "edges": [
        "every -> checked",
        "checked -> bars -> all",
        "checked -> midpoints -> all",
        "checked -> in-order -> spread -> all",
        "checked -> by-ticks -> all",
        "checked -> joined -> all",
    ],
}
"""One source and five branches into one sink, which is one consumer."""

# Snapshots and commits by the clock would come in some rounds and not in others.
_SETTINGS = ConsumerSettings(commit_s=3600.0, commit_max_s=3600.0, snapshot_s=3600.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ran:
    """What consumers did with a log.

    Attributes:
        stores: What each gave, by the consumer's name.
        unaccounted: Events that no account shows; anything but 0 is an error.
        nodes: How many nodes they have together.
    """

    stores: dict[str, ForgetfulStore] = field(default_factory=dict)
    unaccounted: int = 0
    nodes: int = 0

    @property
    def rows(self) -> dict[str, int]:
        """How many rows each consumer gave."""
        return {name: sum(store.rows.values()) for name, store in self.stores.items()}


def by_hand() -> list[ConsumerSpec]:
    """Return the chains, written as the platform's own pipelines are."""
    return [
        ConsumerSpec(
            name="all-bars",
            kinds=frozenset({Kind.TRADES}),
            operators=lambda: [Validate(), Bars("1s", what="TRADES")],
            routes={Kind.BARS: "bars"},
        ),
        ConsumerSpec(
            name="all-values",
            kinds=frozenset({Kind.QUOTES}),
            operators=lambda: [Validate(), Filter(where=WHERE), Spread(outputs=OUTPUTS)],
            routes={Kind.ANALYTICS: "analytics"},
        ),
    ]


def compiled(graph: Mapping[str, Any], folder: Path) -> list[ConsumerSpec]:
    """Return the consumers of a graph, its sinks being stores that forget."""
    sinks = {FORGET: SinkDef(sink="benchmarks.forgetful:ForgetfulStore")}
    return compile_graph(parse_graph(graph, sinks=list(sinks)), sinks=sinks, folder=folder, history=_no_history)


def _no_history(writer: str, dedupe: bool) -> Any:  # noqa: FBT001  as the compiler calls it
    raise MarketDataError(f"history of {writer} was asked for, and nothing is stored here (dedupe {dedupe})")


def consume(specs: Sequence[ConsumerSpec], log: Path, end: int, folder: Path, *, keep: bool = False) -> Ran:
    """Run consumers over a whole log, one after the other in this thread.

    Args:
        specs: What runs.
        log: Folder of the log.
        end: Its end.
        folder: Where their snapshots go; must be there, and none of theirs in it.
        keep: Keep what they give.
    """
    stores, unaccounted, nodes = {}, 0, 0
    for spec in specs:
        published: list[Ledger] = []
        stores[spec.name] = store = ForgetfulStore(keep=keep)
        Session(_surroundings(spec=spec, log=log, end=end, folder=folder, store=store, publish=published.append)).run()
        unaccounted += published[-1].unaccounted
        nodes += len(published[-1].nodes)
    return Ran(stores=stores, unaccounted=unaccounted, nodes=nodes)


def _surroundings(
    *, spec: ConsumerSpec, log: Path, end: int, folder: Path, store: Store, publish: Callable[[Ledger], None]
) -> Surroundings:
    return Surroundings(
        spec=spec,
        settings=_SETTINGS,
        log_folder=log,
        store=store,
        snapshot_path=folder / f"{spec.name}.snapshot",
        durable=lambda: end,
        status=ConsumerStatus(),
        abort=threading.Event(),
        stopping=lambda done: done >= end,
        awaited=lambda: 0,
        ends_at=lambda _: False,
        publish=publish,
        letters=DeadLetters(folder / "dead_letters"),
    )


def compare(log: Path, end: int, folder: Path) -> dict[str, float]:
    """Run chains and graph over a log; return what both found.

    Raises:
        AssertionError: Their rows differ, or an event is unaccounted for, so no figure would mean anything.
    """
    ran = [
        consume(specs, log, end, _fresh(folder), keep=True)
        for specs in (by_hand(), compiled(TWO_CHAINS, folder), compiled(FIVE_BRANCHES, folder))
    ]
    if lost := [r.unaccounted for r in ran if r.unaccounted]:
        raise AssertionError(f"{lost} events are unaccounted for")
    chains, graph, _ = ran
    for name, store in chains.stores.items():
        for table in store.kept.keys() | graph.stores[name].kept.keys():
            ours, theirs = store.found(table), graph.stores[name].found(table)
            if ours is None or theirs is None or not ours.equals(theirs):
                raise AssertionError(f"{table} of {name} differ between chain and graph: {ours} and {theirs}")
    bars = chains.stores["all-bars"].found("bars")
    volume = pc.sum(bars.column("volume")).as_py() if bars is not None else None
    rows = chains.rows
    return {"bars": rows["all-bars"], "volume": volume or 0.0, "values": rows["all-values"]}


_COUNT = itertools.count()


# A consumer that finds a snapshot of its own goes on from there, so every run has a folder to itself.
def _fresh(folder: Path) -> Path:
    made = folder / f"run-{next(_COUNT)}"
    made.mkdir(parents=True)
    return made


def run(ctx: Context) -> list[Result]:
    """Measure chains, the graph that is the same, and a graph of five branches, in turn."""
    made = ticks.prepare(ctx)
    sample_end = write_log(made.sample, ctx.work / "dag-sample-log")
    checked = compare(ctx.work / "dag-sample-log", sample_end, ctx.work / "dag-compare")
    log, folder = ctx.work / "dag-log", ctx.work / "dag"
    end = write_log(made.files, log)
    others = foreign(ctx, ROW, "graph", files=made.sample, expected=checked)
    wide: list[Ran] = []
    cpu: dict[str, list[float]] = {"graph": [], CHAIN: []}

    def measured(
        specs: Sequence[ConsumerSpec], cpu_s: list[float] | None = None, into: list[Ran] | None = None
    ) -> float:
        into = [] if into is None else into
        place = _fresh(folder)
        return seconds(lambda: into.append(consume(specs, log, end, place)), cpu_s)

    times = rounds(
        {
            "graph": lambda: measured(compiled(TWO_CHAINS, folder), cpu["graph"]),
            CHAIN: lambda: measured(by_hand(), cpu[CHAIN]),
            "five": lambda: measured(compiled(FIVE_BRANCHES, folder), None, wide),
            **others.runs,
        },
        ctx.rounds,
    )
    if ctx.profile:
        profiled(ROW, lambda: measured(compiled(TWO_CHAINS, folder)))
    shutil.rmtree(log)
    theirs = {name: median_rate(made.sample_events, times[name]) for name in others.runs}
    chain = median_rate(made.events, times[CHAIN])
    return [
        Result(
            row=ROW,
            what="log → graph of validate → 1 s bars and validate → filter → spread → store that forgets",
            value=median_rate(made.events, times["graph"]),
            spread=rate_spread(made.events, times["graph"]),
            unit="events/s",
            yardsticks={CHAIN: chain, **theirs},
            target=Target(value=0.8 * chain, yardstick=CHAIN, ratio=0.8),
            detail={
                "events": made.events,
                "ticks": made.described,
                "rounds": ctx.rounds,
                "compared_on_sample": checked,
                **others.said,
                "events_per_cpu_s": round(median_rate(made.events, cpu["graph"])),
                "events_per_cpu_s_chains": round(median_rate(made.events, cpu[CHAIN])),
            },
        ),
        Result(
            row=ROW,
            what="log → one source, validate, five branches, one sink that forgets",
            value=median_rate(made.events, times["five"]),
            spread=rate_spread(made.events, times["five"]),
            unit="events/s",
            yardsticks={"graph of two chains": median_rate(made.events, times["graph"])},
            detail={"events": made.events, "nodes": wide[-1].nodes, "rows_given": wide[-1].rows},
        ),
        *others.skipped,
    ]
