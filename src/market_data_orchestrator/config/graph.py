"""The graph of a configuration, and the bars that the environment may put into the default one."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from market_data_core.errors import ConfigurationError
from market_data_core.schemas import interval_ns
from market_data_pipeline.dag import GraphSpec
from market_data_pipeline.dag.document import Item, read_value
from market_data_pipeline.dag.parse import Defaults, read_graph
from market_data_pipeline.dag.problems import Problems


def default_graph(bars: Sequence[str]) -> dict[str, Any]:
    """Return the default graph with bars of these intervals: everything as it came, and bars of trades."""
    nodes: dict[str, dict[str, Any]] = {
        "everything": {"source": "all"},
        "checked": {"operator": "validate"},
        "raw": {"sink": "store"},
        "trades": {"source": "all", "kinds": ["trades"]},
        "checked-trades": {"operator": "validate"},
    }
    edges = ["everything -> checked -> raw", "trades -> checked-trades"]
    for interval in bars:
        nodes[f"bars-{interval}"] = {"operator": "bars", "interval": interval, "what": "TRADES"}
        nodes[f"bars-trades-{interval}"] = {"sink": "store", "kinds": ["bars"]}
        edges.append(f"checked-trades -> bars-{interval} -> bars-trades-{interval}")
    return {"nodes": nodes, "edges": edges}


def read_platform_graph(
    item: Item,
    default: Item,
    *,
    bars: Sequence[str] | None,
    problems: Problems,
    providers: Collection[str],
    sinks: Collection[str],
    defaults: Defaults,
) -> GraphSpec:
    """Read a configuration's graph.

    Args:
        item: The graph of the file, or the default one.
        default: The packaged default's.
        bars: The intervals that command line or environment name; None if they name none.
        problems: Where everything that is wrong goes.
        providers: Names that sources may have.
        sinks: Names that sinks may have.
        defaults: By operator, params of nodes that do not set them.
    """
    if bars is not None:
        if item.plain() != default.plain():
            problems.add(
                item.where,
                f"ORCH_BARS (or --bars) asks for {', '.join(bars)}, and this graph is not the default one: "
                "name the bars in the graph, or take the other away",
                key="dag",
            )
        elif _are_intervals(bars, problems):
            made = read_value(default_graph(list(dict.fromkeys(bars))), where="ORCH_BARS", problems=problems, env={})
            item = made or item
    return read_graph(item, problems, providers=providers, sinks=sinks, defaults=defaults)


def _are_intervals(bars: Sequence[str], problems: Problems) -> bool:
    before = len(problems)
    for interval in bars:
        try:
            interval_ns(interval)
        except ConfigurationError as exc:
            problems.add("ORCH_BARS", exc.message)
    return len(problems) == before
