"""Pictures of graphs."""

from __future__ import annotations

import re

from hypothesis import given, settings
from hypothesis import strategies as st

from market_data_pipeline.dag import EdgeSpec, GraphSpec, NodeSpec, parse_graph, picture

TEXT = """
nodes:
  ticks: {source: all}
  clean: {operator: validate}
  minute: {operator: bars, interval: 1m}
  raw: {sink: store}
  lake: {sink: store}
edges:
  - ticks -> clean -> raw
  - clean -> minute -> lake
"""
DRAWN = r"""
+-------+     +----------+      +=======+
| ticks |---->| clean    |-+--->| raw   |
| all   |     | validate | |    | store |
+-------+     +----------+ |    +=======+
                           |    +---------+     +=======+
                           +--->| minute  |---->| lake  |
                                | bars 1m |     | store |
                                +---------+     +=======+
"""


def test_text_is_boxes_and_arrows():
    """Sources on the left, branches below each other, sinks with double lines."""
    assert picture(parse_graph(TEXT)) == DRAWN.strip("\n")


def test_mermaid_has_every_node_and_edge():
    """Nodes have plain ids and quoted labels."""
    drawn = picture(parse_graph(TEXT), "mermaid")
    assert drawn.startswith("flowchart LR\n")
    assert '    n2["minute<br/>bars 1m"]' in drawn
    assert drawn.count("-->") == 4


def test_dot_has_every_node_and_edge():
    """Names are quoted."""
    drawn = picture(parse_graph(TEXT), "dot")
    assert '    "clean" -> "minute";' in drawn
    assert drawn.startswith("digraph ")
    assert drawn.endswith("}")


def test_ports_are_on_their_edges():
    """A named output is written on the arrow."""
    graph = _graph(3, [(0, 1), (1, 2)], port="big")
    assert "-big->" in picture(graph)
    assert '-->|"big"|' in picture(graph, "mermaid")
    assert '[label="big"]' in picture(graph, "dot")


def test_secrets_are_in_no_picture():
    """Params show as values, but masked."""
    node = NodeSpec(name="x", type="m:X", params={"token": "s3cr3t", "q": 'a"<b>'}, role="operator")
    for form in ("text", "mermaid", "dot"):
        assert "s3cr3t" not in picture(GraphSpec(nodes=(node,)), form)
    assert "<b>" not in picture(GraphSpec(nodes=(node,)), "mermaid")
    assert r"a\"<b>" in picture(GraphSpec(nodes=(node,)), "dot")


def _graph(count, pairs, port=""):
    def role(i):
        into, out = any(b == i for _, b in pairs), any(a == i for a, _ in pairs)
        return "operator" if into and out else "sink" if into else "source"

    nodes = tuple(NodeSpec(name=f"node-{i}", type="t" * (i % 30 + 1), role=role(i)) for i in range(count))
    edges = tuple(EdgeSpec(sender=f"node-{a}", receiver=f"node-{b}", port=port) for a, b in pairs)
    return GraphSpec(nodes=nodes, edges=edges)


@settings(deadline=None)  # the machine may be busy
@given(st.integers(2, 14), st.data())
def test_every_graph_fits_and_shows_each_node_once(count, data):
    """In 100 columns, whatever the depth: one box for each node, plain ASCII, and as many arrows as edges."""
    every = [(a, b) for b in range(count) for a in range(b)]
    pairs = data.draw(st.lists(st.sampled_from(every), unique=True, max_size=20))
    drawn = picture(_graph(count, pairs))
    lines = drawn.splitlines()
    assert drawn.isascii()
    assert max(map(len, lines)) <= 100
    for i in range(count):
        assert len(re.findall(rf"\| node-{i} +\|", drawn)) == 1
    assert len(re.findall(r"->", drawn)) == len(pairs)
