"""A graph to look at: as text, for Mermaid, and for Graphviz."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, Literal

from market_data_pipeline.dag.model import EdgeSpec, GraphSpec, NodeSpec

Format = Literal["text", "mermaid", "dot"]
WIDTH: Final = 100
_LABEL: Final = 28


def picture(graph: GraphSpec, format: Format = "text", *, width: int = WIDTH) -> str:  # noqa: A002  as users call it
    """Return a picture of a graph without cycles.

    Args:
        graph: Which; secrets do not show.
        format: ``text`` is boxes and arrows in ASCII; a node that several lead to is drawn once and named in brackets
            elsewhere. ``mermaid`` and ``dot`` are those languages.
        width: Of the text, in columns; a node with long names that leads somewhere may take up to 100.
    """
    if format == "mermaid":
        return _mermaid(graph)
    return _dot(graph) if format == "dot" else _Text(graph, width).draw()


def _said(node: NodeSpec) -> str:
    # What a node is, in a few words: its type, and the values of its params.
    values = [_short(value) for value in node.shown().values()]
    return " ".join([node.type.rpartition(":")[2], *(value for value in values if value)])


def _short(value: Any) -> str:
    if isinstance(value, list):
        return ",".join(_short(v) for v in value)
    if isinstance(value, Mapping):
        return ",".join(str(key) for key in value)
    return "" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def _cut(text: str, width: int = _LABEL) -> str:
    text = re.sub(r"[^\x20-\x7e]", "?", text)
    return text if len(text) <= width else text[: width - 2] + ".."


class _Text:
    # Every block is a rectangle of lines of one width whose second line is where arrows enter.
    def __init__(self, graph: GraphSpec, width: int) -> None:
        self._graph = graph
        self._width = width
        self._drawn: set[str] = set()
        self._later: deque[NodeSpec] = deque()

    def draw(self) -> str:
        roots = deque(node for node in self._graph.topological() if not self._graph.into(node.name))
        parts: list[str] = []
        while roots or self._later:
            node = self._later.popleft() if self._later else roots.popleft()
            parts.append("\n".join(line.rstrip() for line in self._block(node, self._width)))
        return "\n\n".join(parts)

    def _block(self, node: NodeSpec, width: int) -> list[str]:
        self._drawn.add(node.name)
        box = _box(node)
        edges = self._graph.out_of(node.name)
        if not edges:
            return box
        left = len(box[0])
        arrows = [_arrow(edge) for edge in edges]
        forks = len(edges) > 1
        gap = _gap(edges)
        lines: list[str] = []
        for place, edge in enumerate(edges):
            last = place == len(edges) - 1
            arrow = arrows[place].rjust(gap - (2 if forks else 1), "-")
            child = self._child(edge, width - left - gap)
            for row, text in enumerate(child):
                if row == 1:
                    joint = (("-+" if place == 0 else " +") if forks else "-") + arrow
                elif (row == 0 and place > 0) or (row > 1 and not last):
                    joint = " |" + " " * (gap - 2)
                else:
                    joint = " " * gap
                lines.append(joint + text)
        blank = " " * left
        padded = box + [blank] * (len(lines) - len(box))
        lines += [""] * (len(padded) - len(lines))
        return [a + b for a, b in zip(padded, lines, strict=True)]

    def _child(self, edge: EdgeSpec, room: int) -> list[str]:
        node = self._graph.node(edge.receiver)
        named = ["", f"[{_cut(node.name)}]", ""]
        if node.name in self._drawn or node in self._later:
            return named
        if room < self._least(node):
            # No room to the right: it begins a line of its own below.
            self._later.append(node)
            return named
        return self._block(node, room)

    def _least(self, node: NodeSpec) -> int:
        # The columns it takes at least: its box, and the names of what comes behind it.
        edges = self._graph.out_of(node.name)
        behind = max((len(_cut(edge.receiver)) + 2 for edge in edges), default=0)
        return len(_box(node)[0]) + (_gap(edges) + behind if edges else 0)


def _arrow(edge: EdgeSpec) -> str:
    return f"-{_cut(edge.port)}->" if edge.port else "-->"


def _gap(edges: Sequence[EdgeSpec]) -> int:
    return max(len(_arrow(edge)) for edge in edges) + (3 if len(edges) > 1 else 2)


def _box(node: NodeSpec) -> list[str]:
    name, said = _cut(node.name), _cut(_said(node))
    inner = max(len(name), len(said))
    edge = "+" + ("=" if node.role == "sink" else "-") * (inner + 2) + "+"
    return [edge, f"| {name:<{inner}} |", f"| {said:<{inner}} |", edge]


_SHAPES: Final[Mapping[str, tuple[str, str]]] = {"source": ("([", "])"), "operator": ("[", "]"), "sink": ("[(", ")]")}


def _mermaid(graph: GraphSpec) -> str:
    ids = {node.name: f"n{i}" for i, node in enumerate(graph.nodes)}

    def quoted(text: str) -> str:
        # Entities, as Mermaid has them; everything else could end the label or be taken for markup.
        return '"' + re.sub(r'[#"<>&`\\\n]', lambda m: f"#{ord(m[0])};", text) + '"'

    lines = ["flowchart LR"]
    for node in graph.nodes:
        opens, closes = _SHAPES[node.role]
        lines.append(f"    {ids[node.name]}{opens}{quoted(node.name)[:-1]}<br/>{quoted(_said(node))[1:]}{closes}")
    for edge in graph.edges:
        arrow = f"-->|{quoted(edge.port)}|" if edge.port else "-->"
        lines.append(f"    {ids[edge.sender]} {arrow} {ids[edge.receiver]}")
    return "\n".join(lines)


_DOT_SHAPES: Final = {"source": "oval", "operator": "box", "sink": "cylinder"}


def _dot(graph: GraphSpec) -> str:
    quoted: Callable[[str], str] = lambda text: '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'  # noqa: E731
    lines = ["digraph platform {", "    rankdir=LR;"]
    for node in graph.nodes:
        label = quoted(f"{node.name}\n{_said(node)}").replace("\n", "\\n")
        lines.append(f"    {quoted(node.name)} [shape={_DOT_SHAPES[node.role]}, label={label}];")
    for edge in graph.edges:
        label = f" [label={quoted(edge.port)}]" if edge.port else ""
        lines.append(f"    {quoted(edge.sender)} -> {quoted(edge.receiver)}{label};")
    return "\n".join([*lines, "}"])
