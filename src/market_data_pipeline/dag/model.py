"""A graph of sources, operators and sinks as a value."""

from __future__ import annotations

import hashlib
import heapq
import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal, get_args

from market_data_core.errors import ConfigurationError
from market_data_pipeline.dag.problems import MASK, is_secret_name, masked

Role = Literal["source", "operator", "sink"]
ROLES: Final[tuple[Role, ...]] = get_args(Role)
ALL_SOURCES: Final = "all"
"""The source that stands for everything in the log, whichever provider, replay or backfill it came from."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeSpec:
    """One node.

    Attributes:
        name: Unique in its graph.
        type: The provider, operator or sink, by name.
        params: What it is made with, plain values. Of a source: ``kinds``, ``symbols`` and ``vendors`` to let through.
        role: What it is.
        secrets: Names of the params whose values came from the environment, and are not shown.
        where: ``file:line``; no part of what the node is.
    """

    name: str
    type: str
    params: Mapping[str, Any] = field(default_factory=dict)
    role: Role
    secrets: tuple[str, ...] = ()
    where: str = field(default="", compare=False)

    def shown(self) -> dict[str, Any]:
        """Return the params with secrets masked."""
        return masked(self.params, self.secrets)

    def to_dict(self, *, reveal: bool = False) -> dict[str, Any]:
        """Return the node as plain values, secrets masked unless `reveal`."""
        return {
            "name": self.name,
            "role": self.role,
            "type": self.type,
            "params": dict(self.params) if reveal else self.shown(),
            "secrets": list(self.secrets),
            "where": self.where,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class EdgeSpec:
    """From one node's output to another's input.

    Attributes:
        sender: Name of the node it leaves.
        port: Name of the output; empty for the default one.
        receiver: Name of the node it enters.
        where: ``file:line``; no part of what the edge is.
    """

    sender: str
    port: str = ""
    receiver: str
    where: str = field(default="", compare=False)

    def __str__(self) -> str:
        return f"{self.sender}{'.' if self.port else ''}{self.port} -> {self.receiver}"

    def to_dict(self) -> dict[str, Any]:
        """Return the edge as plain values."""
        return {"sender": self.sender, "port": self.port, "receiver": self.receiver, "where": self.where}


@dataclass(frozen=True, slots=True, kw_only=True)
class GraphSpec:
    """Nodes and edges, in the order they were written."""

    nodes: tuple[NodeSpec, ...] = ()
    edges: tuple[EdgeSpec, ...] = ()

    def node(self, name: str) -> NodeSpec:
        """Return the node of that name.

        Raises:
            ConfigurationError: There is none.
        """
        for node in self.nodes:
            if node.name == name:
                return node
        raise ConfigurationError(f"the graph has no node {name!r}; there are: {', '.join(n.name for n in self.nodes)}")

    def of(self, role: Role) -> tuple[NodeSpec, ...]:
        """Return the nodes of one role."""
        return tuple(node for node in self.nodes if node.role == role)

    def into(self, name: str) -> tuple[EdgeSpec, ...]:
        """Return the edges that enter a node."""
        return tuple(edge for edge in self.edges if edge.receiver == name)

    def out_of(self, name: str) -> tuple[EdgeSpec, ...]:
        """Return the edges that leave a node."""
        return tuple(edge for edge in self.edges if edge.sender == name)

    @property
    def version(self) -> str:
        """SHA-256, in hex, of all nodes and edges; places and the order in the file do not count."""
        nodes = sorted((_canonical(node) for node in self.nodes), key=lambda n: str(n["name"]))
        edges = sorted([e.sender, e.port, e.receiver] for e in self.edges)
        return _hashed({"nodes": nodes, "edges": edges})

    def node_version(self, name: str) -> str:
        """Return the SHA-256, in hex, of one node's type and params."""
        node = _canonical(self.node(name))
        return _hashed({"type": node["type"], "params": node["params"]})

    def upstream(self, sink: str) -> GraphSpec:
        """Return the part of the graph that feeds a node, with the node itself."""
        wanted, found = [self.node(sink).name], set[str]()
        while wanted:
            name = wanted.pop()
            if name not in found:
                found.add(name)
                wanted += [edge.sender for edge in self.into(name)]
        return GraphSpec(
            nodes=tuple(node for node in self.nodes if node.name in found),
            edges=tuple(e for e in self.edges if e.sender in found and e.receiver in found),
        )

    def topological(self) -> tuple[NodeSpec, ...]:
        """Return the nodes, senders before receivers, the same for every order in the file.

        Raises:
            ConfigurationError: The graph has a cycle.
        """
        waiting = {node.name: len(self.into(node.name)) for node in self.nodes}
        ready = [name for name, count in waiting.items() if count == 0]
        heapq.heapify(ready)
        order: list[NodeSpec] = []
        while ready:
            name = heapq.heappop(ready)
            order.append(self.node(name))
            for edge in self.out_of(name):
                waiting[edge.receiver] -= 1
                if waiting[edge.receiver] == 0:
                    heapq.heappush(ready, edge.receiver)
        if len(order) < len(self.nodes):
            raise ConfigurationError(f"the graph has a cycle: {' -> '.join(find_cycle(self))}")
        return tuple(order)

    def to_dict(self, *, reveal: bool = False) -> dict[str, Any]:
        """Return the graph as plain values, secrets masked unless `reveal`."""
        return {
            "nodes": [node.to_dict(reveal=reveal) for node in self.nodes],
            "edges": [edge.to_dict() for edge in self.edges],
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> GraphSpec:
        """Return the graph of `to_dict`.

        Raises:
            ConfigurationError: The values are not of that form.
        """
        try:
            nodes = tuple(NodeSpec(**{**node, "secrets": tuple(node["secrets"])}) for node in values["nodes"])
            return cls(nodes=nodes, edges=tuple(EdgeSpec(**edge) for edge in values["edges"]))
        except (KeyError, TypeError) as exc:
            raise ConfigurationError(f"this is no graph as GraphSpec.to_dict gives it: {exc}") from exc

    def to_json(self, *, reveal: bool = False) -> str:
        """Return the graph as one line of JSON, secrets masked unless `reveal`; nothing can be made of masked nodes."""
        return json.dumps(self.to_dict(reveal=reveal), allow_nan=False)

    @classmethod
    def from_json(cls, text: str) -> GraphSpec:
        """Return the graph of `to_json`.

        Raises:
            ConfigurationError: The text is not of that form.
        """
        try:
            values = json.loads(text)
        except ValueError as exc:
            raise ConfigurationError(f"this is no graph in JSON: {exc}") from exc
        if not isinstance(values, dict):
            raise ConfigurationError("this is no graph in JSON: it is no object")
        return cls.from_dict(values)


def find_cycle(graph: GraphSpec) -> list[str]:
    """Return the names along one cycle, the first again at the end; empty if there is none."""
    done: set[str] = set()
    for start in graph.nodes:
        # Each entry: a node and the receivers not yet gone to; no recursion, for graphs may be long.
        stack = [(start.name, [e.receiver for e in graph.out_of(start.name)])] if start.name not in done else []
        path = [start.name] if stack else []
        while stack:
            name, left = stack[-1]
            if not left:
                done.add(name)
                stack.pop()
                path.pop()
                continue
            receiver = left.pop(0)
            if receiver in path:
                return [*path[path.index(receiver) :], receiver]
            if receiver not in done:
                stack.append((receiver, [e.receiver for e in graph.out_of(receiver)]))
                path.append(receiver)
    return []


def _canonical(node: NodeSpec) -> dict[str, Any]:
    return {"name": node.name, "role": node.role, "type": node.type, "params": _hardened(node.params, node.secrets)}


def _hardened(params: Mapping[str, Any], secrets: Collection[str] = ()) -> dict[str, Any]:
    # A name with "key" in it may as well be that of a column: its value counts. Versions are shown, so what may be a
    # secret goes in as a hash that is costly to guess at.
    return {
        name: _costly(value) if name in secrets or is_secret_name(name) else _hardened_value(value)
        for name, value in params.items()
    }


def _hardened_value(value: Any) -> Any:
    if isinstance(value, Mapping):
        return _hardened(value)
    return [_hardened_value(v) for v in value] if isinstance(value, list | tuple) else value


def _costly(value: Any) -> str:
    text = json.dumps(value, sort_keys=True, allow_nan=False)
    return hashlib.pbkdf2_hmac("sha256", text.encode(), b"graph version", 100_000).hex()


def _hashed(value: Any) -> str:
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def is_masked(node: NodeSpec) -> bool:
    """Say whether the node's secrets are masked, so that nothing can be made of it."""
    return _holds_mask(node.params, hidden=set(node.secrets))


def _holds_mask(params: Mapping[str, Any], hidden: set[str]) -> bool:
    return any(
        (value == MASK and (name in hidden or is_secret_name(name)))
        or (isinstance(value, Mapping) and _holds_mask(value, set()))
        for name, value in params.items()
    )
