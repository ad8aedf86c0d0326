"""From YAML or a Python dict to a checked graph."""

from __future__ import annotations

import itertools
import re
from collections.abc import Collection, Mapping
from typing import Any, Final, cast

from market_data_core import plugins
from market_data_pipeline.dag.check import EVENT_KINDS, check
from market_data_pipeline.dag.document import Item, read_value, read_yaml
from market_data_pipeline.dag.model import ALL_SOURCES, ROLES, EdgeSpec, GraphSpec, NodeSpec, Role
from market_data_pipeline.dag.problems import Problems, nearest

NAME: Final = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,62}[A-Za-z0-9_])?")
"""What names look like, of nodes and providers: they become names of consumers, files and metric labels."""
NAME_RULE: Final = "1 to 64 letters, digits, _ and -, no - at either end"

_SOURCE_KEYS: Final = ("kinds", "symbols", "vendors")
_SINK_KEYS: Final = ("kinds",)
Defaults = Mapping[str, Mapping[str, Any]]


def parse_graph(
    source: str | Mapping[str, Any],
    *,
    file: str = "dag",
    env: Mapping[str, str] | None = None,
    providers: Collection[str] | None = None,
    sinks: Collection[str] | None = None,
    defaults: Defaults | None = None,
) -> GraphSpec:
    """Read a graph and check all that can be known without running it.

    The text is a mapping with ``nodes`` and ``edges``, or one with such a mapping as its ``dag``. A node is a mapping
    with one of ``source``, ``operator`` and ``sink``, which names its type; its other keys are its params. An edge is
    ``a -> b -> c``, or ``a.big -> d`` from a named output.

    Args:
        source: YAML text, or the same as a Python dict.
        file: Name of the text in messages.
        env: Variables that ``${NAME}`` may name; none if not given.
        providers: Names that sources may have beside ``all``; the installed providers if None.
        sinks: Names that sinks may have; the installed ones if None.
        defaults: By operator type, params of nodes that do not set them.

    Raises:
        ConfigurationError: Something is wrong. The message lists everything, ``details["errors"]`` too, each with
            where, node, key and message.
    """
    problems = Problems()
    variables = env or {}
    if isinstance(source, str):
        item = read_yaml(source, file=file, problems=problems, env=variables)
    else:
        item = read_value(source, where=file, problems=problems, env=variables)
    graph = GraphSpec()
    if item is not None:
        graph = read_graph(item, problems, providers=providers, sinks=sinks, defaults=defaults)
    problems.check(file)
    return graph


def read_graph(
    item: Item,
    problems: Problems,
    *,
    providers: Collection[str] | None = None,
    sinks: Collection[str] | None = None,
    defaults: Defaults | None = None,
) -> GraphSpec:
    """Read a graph from an item; what is wrong goes to `problems`, and the rest is in the graph. See `parse_graph`."""
    fields = _mapping(item, problems, "dag")
    if "dag" in fields:
        _unknown(fields, ("dag",), problems, "")
        fields = _mapping(fields["dag"], problems, "dag")
    _unknown(fields, ("nodes", "edges"), problems, "dag")
    nodes = _Nodes(problems, providers, sinks, defaults or {}).read(fields.get("nodes"), item.where)
    edges = _edges(fields.get("edges"), problems)
    graph = GraphSpec(nodes=nodes, edges=edges)
    check(graph, problems)
    return graph


class _Nodes:
    def __init__(
        self,
        problems: Problems,
        providers: Collection[str] | None,
        sinks: Collection[str] | None,
        defaults: Defaults,
    ) -> None:
        self._problems = problems
        self._types = {
            "source": {ALL_SOURCES, *(plugins.available(plugins.PROVIDERS) if providers is None else providers)},
            "sink": {*(plugins.available(plugins.SINKS) if sinks is None else sinks)},
        }
        self._defaults = defaults

    def read(self, item: Item | None, where: str) -> tuple[NodeSpec, ...]:
        if item is None or not item.value:
            self._problems.add(item.where if item else where, "there are no nodes", key="dag.nodes")
            return ()
        found = [self._node(name, node) for name, node in _mapping(item, self._problems, "dag.nodes").items()]
        return tuple(node for node in found if node is not None)

    def _node(self, name: str, item: Item) -> NodeSpec | None:
        add = self._problems.add
        if NAME.fullmatch(name) is None:
            add(item.where, f"this name is not allowed: {NAME_RULE}", node=name)
        fields = _mapping(item, self._problems, "", node=name)
        roles = [role for role in ROLES if role in fields]
        if len(roles) != 1:
            near = [nearest(key, ROLES) for key in fields if key not in ROLES and nearest(key, ROLES)[:3] == "did"]
            hint = f"; {near[0]}" if near and not roles else ""
            said = f"has {' and '.join(roles)}" if roles else "has none of source, operator and sink"
            add(item.where, f"{said}; a node is exactly one of them{hint}", node=name)
            return None
        role = roles[0]
        named = fields.pop(role)
        if not isinstance(named.value, str) or not named.value:
            add(named.where, f"names no {role}; write `{role}: NAME`", node=name, key=role)
            return None
        types = self._types.get(role)
        if types is not None and named.value not in types:
            add(named.where, f"there is no {role} {named.value!r}; {nearest(named.value, types)}", node=name, key=role)
        params = {key: value.plain() for key, value in fields.items()}
        if role != "operator":
            params = self._filters(role, name, fields)
        else:
            params = {**self._defaults.get(named.value, {}), **params}
        secrets = tuple(sorted(key for key, value in fields.items() if value.secret))
        return NodeSpec(name=name, type=named.value, params=params, role=role, secrets=secrets, where=item.where)

    def _filters(self, role: Role, name: str, fields: dict[str, Item]) -> dict[str, Any]:
        known = _SOURCE_KEYS if role == "source" else _SINK_KEYS
        _unknown(fields, known, self._problems, "", node=name)
        return {
            key: listed
            for key in known
            if key in fields and (listed := self._listed(key, fields[key], name)) is not None
        }

    def _listed(self, key: str, item: Item, node: str) -> list[str] | None:
        words = text_list(item)
        if words is None:
            self._problems.add(item.where, "is no list of names, or an empty one", node=node, key=key)
            return None
        if key == "symbols":
            return list(dict.fromkeys(word.upper() for word in words))
        if key == "kinds":
            known = {str(kind) for kind in EVENT_KINDS}
            for word in words:
                if word not in known:
                    self._problems.add(
                        item.where, f"there is no kind {word!r}; {nearest(word, known)}", node=node, key=key
                    )
            words = [word for word in words if word in known]
        return sorted(set(words)) if key == "kinds" else list(dict.fromkeys(words))


def text_list(item: Item) -> list[str] | None:
    """Return a list of names, or one with commas between, as it was written: a ticker of digits keeps its zeros.

    None where it is neither, or empty.
    """
    if isinstance(item.value, list):
        parts = [entry.text.strip() for entry in item.value if not isinstance(entry.value, list | dict)]
        return parts if parts and all(parts) and len(parts) == len(item.value) else None
    parts = [part.strip() for part in item.text.split(",")] if not isinstance(item.value, dict) else []
    return parts if parts and all(parts) else None


def _mapping(item: Item, problems: Problems, key: str, *, node: str = "") -> dict[str, Item]:
    if isinstance(item.value, dict):
        return dict(item.value)
    problems.add(item.where, "is no mapping of names to values", node=node, key=key)
    return {}


def _unknown(
    fields: Mapping[str, Item], known: Collection[str], problems: Problems, prefix: str, *, node: str = ""
) -> None:
    for key, item in fields.items():
        if key not in known:
            full = f"{prefix}.{key}" if prefix else key
            problems.add(item.where, f"this key is unknown; {nearest(key, known)}", node=node, key=full)


def _edges(item: Item | None, problems: Problems) -> tuple[EdgeSpec, ...]:
    if item is None or item.value is None:
        return ()
    if not isinstance(item.value, list):
        problems.add(item.where, "is no list of lines such as `a -> b`", key="dag.edges")
        return ()
    found: dict[EdgeSpec, EdgeSpec] = {}
    for entry in item.value:
        for edge in _chain(entry, problems):
            if edge in found:
                problems.add(edge.where, f"the edge {edge} is there twice, first at {found[edge].where}")
            found.setdefault(edge, edge)
    return tuple(found)


def _chain(item: Item, problems: Problems) -> list[EdgeSpec]:
    parts = [part.strip() for part in item.value.split("->")] if isinstance(item.value, str) else []
    named = [re.fullmatch(rf"({NAME.pattern})(?:\.({NAME.pattern}))?", part) for part in parts]
    if len(parts) < 2 or not all(named):
        problems.add(item.where, f"the edge {item.text!r} is not of the form `a -> b` or `a.port -> b -> c`")
        return []
    ends = cast("list[re.Match[str]]", named)
    if ends[-1][2]:
        problems.add(item.where, f"the edge {item.text!r} ends in a port; only what sends has ports")
    return [
        EdgeSpec(sender=a[1], port=a[2] or "", receiver=b[1], where=item.where) for a, b in itertools.pairwise(ends)
    ]
