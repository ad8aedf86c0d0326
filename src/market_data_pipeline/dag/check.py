"""Whether a graph holds together: ends, ports, cycles, and kinds that fit."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from market_data_core.protocols import Operator
from market_data_core.schemas import Kind
from market_data_pipeline.dag.catalogue import make
from market_data_pipeline.dag.model import EdgeSpec, GraphSpec, NodeSpec, find_cycle
from market_data_pipeline.dag.problems import Problems, nearest

EVENT_KINDS: Final = frozenset(Kind) - {Kind.CONTROL}
"""What can flow through a graph."""


def check(graph: GraphSpec, problems: Problems) -> None:
    """Check a graph whose nodes and edges have been read one by one; what is wrong goes to `problems`."""
    names = {node.name for node in graph.nodes}
    for edge in graph.edges:
        for name in dict.fromkeys((edge.sender, edge.receiver)):
            if name not in names:
                problems.add(edge.where, f"the edge {edge} names no node {name!r}; {nearest(name, names)}")
    known = tuple(edge for edge in graph.edges if edge.sender in names and edge.receiver in names)
    graph = GraphSpec(nodes=graph.nodes, edges=known)
    operators = {node.name: made for node in graph.of("operator") if (made := make(node, problems)) is not None}
    for node in graph.nodes:
        _ends(graph, node, problems)
    _ports(graph, operators, problems)
    cycle = find_cycle(graph)
    if cycle:
        closing = next(e for e in graph.edges if (e.sender, e.receiver) == (cycle[-2], cycle[-1]))
        problems.add(closing.where, f"the edges make a cycle: {' -> '.join(cycle)}")
    else:
        _kinds(graph, operators, problems)


def let_through(node: NodeSpec) -> frozenset[Kind]:
    """Return the kinds that a source or sink node lets through."""
    named = node.params.get("kinds")
    return EVENT_KINDS if named is None else frozenset(Kind(kind) for kind in named)


def kinds_on_edges(graph: GraphSpec, operators: Mapping[str, Operator]) -> dict[EdgeSpec, frozenset[Kind]]:
    """Return the kinds that can come along every edge.

    Args:
        graph: Without cycles.
        operators: By node name, made; of a missing one it is assumed that it gives anything.
    """
    found: dict[EdgeSpec, frozenset[Kind]] = {}
    for node in graph.topological():
        incoming = frozenset[Kind]().union(*(found[edge] for edge in graph.into(node.name)))
        operator = operators.get(node.name)
        if node.role == "source":
            gives = let_through(node)
        else:
            gives = EVENT_KINDS if operator is None else frozenset(operator.gives(incoming)) & EVENT_KINDS
        found |= dict.fromkeys(graph.out_of(node.name), gives)
    return found


def _ends(graph: GraphSpec, node: NodeSpec, problems: Problems) -> None:
    into, out = graph.into(node.name), graph.out_of(node.name)
    if node.role == "source":
        for edge in into:
            problems.add(edge.where, f"the edge {edge} enters a source, which takes nothing", node=node.name)
    elif not into:
        problems.add(node.where, f"nothing comes into this {node.role}: no edge enters it", node=node.name)
    if node.role == "sink":
        for edge in out:
            problems.add(edge.where, f"the edge {edge} leaves a sink, which gives nothing", node=node.name)
    elif not out:
        problems.add(node.where, f"this {node.role} leads nowhere: no edge leaves it", node=node.name)


def _ports(graph: GraphSpec, operators: Mapping[str, Operator], problems: Problems) -> None:
    roles = {node.name: node.role for node in graph.nodes}
    for edge in graph.edges:
        if not edge.port:
            continue
        operator = operators.get(edge.sender)
        if roles[edge.sender] == "operator" and operator is None:
            continue  # it could not be made, which has been said
        ports = tuple(getattr(operator, "ports", ()))
        if edge.port not in ports:
            there = nearest(edge.port, ports) if ports else "it has the default output only"
            problems.add(edge.where, f"the edge {edge} leaves by a port that is not there; {there}", node=edge.sender)


def _kinds(graph: GraphSpec, operators: Mapping[str, Operator], problems: Problems) -> None:
    nodes = {node.name: node for node in graph.nodes}
    try:
        flows = kinds_on_edges(graph, operators)
        wanted = {name: frozenset(operator.kinds) for name, operator in operators.items()}
    except Exception as exc:  # noqa: BLE001  a user's operator may fail at this, and that is a wrong setting
        problems.add("dag", f"an operator cannot say which kinds it takes and gives: {type(exc).__name__}: {exc}")
        return
    for edge, gives in flows.items():
        receiver = nodes[edge.receiver]
        takes = let_through(receiver) if receiver.role == "sink" else wanted.get(receiver.name, EVENT_KINDS)
        # Without anything coming in, an operator gives nothing: the first edge of such a chain says why.
        if receiver.role != "source" and gives and not gives & takes:
            problems.add(
                edge.where,
                f"kinds do not fit on {edge}: {edge.sender} gives {_listed(gives)}, "
                f"{edge.receiver} takes {_listed(takes)}",
                node=edge.receiver,
            )


def _listed(kinds: frozenset[Kind]) -> str:
    return ", ".join(sorted(str(kind) for kind in kinds))
