"""From a graph to consumers: one per sink, each with the part of the graph that feeds it."""

from __future__ import annotations

import hashlib
import importlib
import inspect
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from market_data_core import plugins
from market_data_core.errors import ConfigurationError
from market_data_core.protocols import Operator, Store
from market_data_core.schemas import Kind
from market_data_pipeline.consumers import ConsumerSpec, Edge
from market_data_pipeline.consumers.model import LOG_NODE, STORE_NODE
from market_data_pipeline.consumers.sink import SinkStore
from market_data_pipeline.dag import GraphSpec, NodeSpec, catalogue
from market_data_pipeline.operators import Bars, TickHistory
from market_data_pipeline.operators.entrance import EVENT_KINDS, Entrance
from market_data_pipeline.sinks import MemorySink, NullSink

STORE: Final = "store"
"""The sink that is the platform's own store."""
_OWN_SINKS: Final[Mapping[str, type]] = {"null": NullSink, "memory": MemorySink}
# What leaves rows as they are stored, so that bars behind it may be made again from stored rows.
_TRANSPARENT: Final = frozenset({"validate", "dedupe", "deduplicate"})
_DEDUPES: Final = frozenset({"dedupe", "deduplicate"})


@dataclass(frozen=True, slots=True, kw_only=True)
class SinkDef:
    """A sink as it is configured.

    Attributes:
        sink: ``store``, ``null``, ``memory``, an installed one or ``package.module:Class``.
        params: What it is made with.
    """

    sink: str
    params: Mapping[str, Any] = field(default_factory=dict)


def compile_graph(
    graph: GraphSpec,
    *,
    sinks: Mapping[str, SinkDef],
    folder: Path,
    history: Callable[[str, bool], TickHistory],
    vendors: Mapping[str, Sequence[str]] | None = None,
    tenant: str = "default",
) -> list[ConsumerSpec]:
    """Return the consumers that run a graph, one per sink and named after it.

    Args:
        graph: Checked already.
        sinks: What the graph's sinks stand for; a name that is not in it stands for itself.
        folder: Where sinks that have no position of their own keep it.
        history: Makes the history of stored ticks, from the name of the consumer that stores them and whether repeated
            trade ids are to be left out.
        vendors: Whose events a source gives, by its name in the graph; of one that is not named, all are let in.
        tenant: Whose tables, for sinks that ask and were not told.

    Raises:
        ConfigurationError: An operator or sink cannot be made, or two consumers would store the same bars; names the
            node and its place.
    """
    parts = _Parts(graph=graph, sinks=sinks, folder=folder, history=history, vendors=vendors or {}, tenant=tenant)
    taken: set[tuple[str, str]] = set()
    return [_consumer(parts, sink, taken) for sink in graph.of("sink")]


@dataclass(frozen=True, kw_only=True)
class _Parts:
    graph: GraphSpec
    sinks: Mapping[str, SinkDef]
    folder: Path
    history: Callable[[str, bool], TickHistory]
    vendors: Mapping[str, Sequence[str]]
    tenant: str

    def sink(self, node: NodeSpec) -> SinkDef:
        return self.sinks.get(node.type) or SinkDef(sink=node.type)

    # The consumer that stores events of a kind as they came, from all sources: what bars can be made again from.
    def raw(self, kind: Kind) -> str | None:
        for node in self.graph.of("sink"):
            part = self.graph.upstream(node.name)
            stores = self.sink(node).sink == STORE and str(kind) in node.params.get("kinds", (str(kind),))
            whole = all(
                str(kind) in s.params.get("kinds", (str(kind),))
                and not s.params.keys() & {"symbols", "vendors"}
                and s.type not in self.vendors
                for s in part.of("source")
            )
            if stores and whole and all(o.type == "validate" for o in part.of("operator")):
                return node.name
        return None


def _consumer(parts: _Parts, sink: NodeSpec, taken: set[tuple[str, str]]) -> ConsumerSpec:
    part, definition = parts.graph.upstream(sink.name), parts.sink(sink)
    nodes = [n for n in part.topological() if n.role != "sink"]
    if found := {n.name for n in nodes} & {LOG_NODE, STORE_NODE}:
        names = " or ".join(sorted(found))
        raise ConfigurationError(f"{sink.where}: sink {sink.name!r}: no node before it may be called {names}")

    def operators() -> Sequence[Operator]:
        return [_operator(node, part, parts) for node in nodes]

    # Made once now, so that what is wrong with them ends a reload, and not a consumer later.
    first = {o.name: o for o in operators()}
    own = definition.sink != STORE
    if not own:
        _refuse_double_bars(sink, first.values(), taken)
    edges = [Edge(LOG_NODE, "", n.name) for n in nodes if n.role == "source"]
    edges += [Edge(e.sender, e.port, STORE_NODE if e.receiver == sink.name else e.receiver) for e in part.edges]
    target = {"sink": definition.sink, "params": definition.params if own else {}}
    given = {n.type: list(parts.vendors[n.type]) for n in nodes if n.role == "source" and n.type in parts.vendors}
    return ConsumerSpec(
        name=sink.name,
        kinds=_kinds(part, sink, first),
        operators=operators,
        routes={kind: str(kind) for kind in map(Kind, sink.params.get("kinds") or EVENT_KINDS)},
        edges=tuple(edges),
        config=hashlib.sha256(json.dumps([part.version, target, given], sort_keys=True).encode()).hexdigest(),
        versions={n.name: part.node_version(n.name) for n in nodes},
        sink=_sink(sink, definition, parts) if own else None,
    )


def _operator(node: NodeSpec, part: GraphSpec, parts: _Parts) -> Operator:
    if node.role == "source":
        wanted = {k: node.params[k] for k in ("kinds", "symbols", "vendors") if k in node.params}
        return Entrance(**{"vendors": parts.vendors.get(node.type, ()), **wanted}, name=node.name)
    made = catalogue.build(node)
    before = [n for n in part.upstream(node.name).nodes if n.role == "operator" and n.name != node.name]
    if not isinstance(made, Bars) or not all(n.type in _TRANSPARENT for n in before):
        return made
    (kind,) = made.kinds
    writer = parts.raw(kind)
    if writer is None:
        return made
    return catalogue.build(node, history=parts.history(writer, any(n.type in _DEDUPES for n in before)))


def _refuse_double_bars(sink: NodeSpec, operators: Iterable[Operator], taken: set[tuple[str, str]]) -> None:
    for operator in operators:
        if isinstance(operator, Bars):
            series = (operator.interval, operator.what)
            if series in taken:
                raise ConfigurationError(
                    f"{sink.where}: sink {sink.name!r} would store bars of {operator.interval} {operator.what} from "
                    f"{operator.name!r}, which another sink stores already"
                )
            taken.add(series)


# What has to be read from the log: what the sources let through and somebody behind them takes, or hands on.
def _kinds(part: GraphSpec, sink: NodeSpec, operators: Mapping[str, Operator]) -> frozenset[Kind]:
    kinds: set[Kind] = set()
    for node in part.of("source"):
        entrance = operators[node.name]
        wanted = entrance.wanted if isinstance(entrance, Entrance) else EVENT_KINDS
        for edge in part.out_of(node.name):
            if edge.receiver == sink.name:
                kinds |= wanted
            else:
                receiver = operators[edge.receiver]
                kinds |= {k for k in wanted if k in receiver.kinds or k in receiver.gives(frozenset({k}))}
    return frozenset(kinds)


def _sink(node: NodeSpec, definition: SinkDef, parts: _Parts) -> Callable[[], Store]:
    made, params = _sink_class(node, definition.sink), dict(definition.params)
    if "tenant" in inspect.signature(made).parameters:
        params.setdefault("tenant", parts.tenant)
    try:
        inspect.signature(made).bind(**params)
    except TypeError as exc:
        raise ConfigurationError(f"{node.where}: sink {node.name!r} ({definition.sink}): {exc}") from exc

    def make() -> Any:
        return made(**params)

    def opened() -> Any:
        store = make()
        store.open()
        return store

    if hasattr(made, "table"):
        return opened
    if not all(hasattr(made, method) for method in ("write", "flush", "close")):
        raise ConfigurationError(f"{node.where}: sink {node.name!r} ({definition.sink}) has no write, flush and close")
    return lambda: SinkStore(make, parts.folder / f"{node.name}.sink")


def _sink_class(node: NodeSpec, name: str) -> Any:
    if name in _OWN_SINKS:
        return _OWN_SINKS[name]
    if ":" not in name:
        return plugins.load(plugins.SINKS, name)
    module, _, attribute = name.partition(":")
    try:
        return getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as exc:
        raise ConfigurationError(f"{node.where}: sink {node.name!r}: {name} cannot be loaded: {exc}") from exc
