"""Graphs as values: versions, sub-graphs, order, JSON."""

from __future__ import annotations

import dataclasses
import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from market_data_core.errors import ConfigurationError
from market_data_core.schemas import Kind
from market_data_pipeline.dag import EdgeSpec, GraphSpec, NodeSpec, build, duration_ns, kinds_on_edges, parse_graph

NODES = {
    "ticks": {"source": "all"},
    "clean": {"operator": "validate"},
    "minute": {"operator": "bars", "interval": "1m"},
    "hour": {"operator": "bars", "interval": "1h"},
    "lake": {"sink": "store"},
    "hours": {"sink": "store"},
}
EDGES = ["ticks -> clean -> minute -> lake", "clean -> hour -> hours"]


@pytest.fixture
def graph():
    return parse_graph({"nodes": NODES, "edges": EDGES})


def changed(graph, name, **params):
    """The graph with other params of one node."""
    nodes = tuple(dataclasses.replace(n, params=params) if n.name == name else n for n in graph.nodes)
    return dataclasses.replace(graph, nodes=nodes)


def test_the_version_does_not_depend_on_places_or_order(graph):
    """The same graph written in another order and file is the same version."""
    turned = parse_graph({"nodes": dict(reversed(NODES.items())), "edges": EDGES[::-1]}, file="elsewhere")
    assert turned.version == graph.version
    assert turned.topological() == graph.topological()


def test_a_change_shows_in_the_versions_of_what_it_feeds_alone(graph):
    """The sub-graph of a sink keeps its version while what feeds it stays as it is."""
    other = changed(graph, "hour", interval="4h")
    assert other.version != graph.version
    assert other.upstream("lake").version == graph.upstream("lake").version
    assert other.upstream("hours").version != graph.upstream("hours").version


def test_a_nodes_version_is_its_type_and_params_alone(graph):
    """Name and place are no part of it."""
    same = NodeSpec(name="other", type="bars", params={"interval": "1m"}, role="operator", where="x:1")
    assert GraphSpec(nodes=(same,)).node_version("other") == graph.node_version("minute")
    assert graph.node_version("minute") != graph.node_version("hour")


def test_upstream_is_what_feeds_a_sink(graph):
    """Nothing of other branches is in it."""
    part = graph.upstream("hours")
    assert {node.name for node in part.nodes} == {"ticks", "clean", "hour", "hours"}
    assert [str(edge) for edge in part.edges] == ["ticks -> clean", "clean -> hour", "hour -> hours"]


def test_senders_come_before_receivers(graph):
    """The topological order follows every edge."""
    order = [node.name for node in graph.topological()]
    assert all(order.index(e.sender) < order.index(e.receiver) for e in graph.edges)


def test_a_cycle_is_named():
    """A graph made by hand with a cycle has no order."""
    nodes = tuple(NodeSpec(name=n, type="validate", role="operator") for n in "ab")
    edges = (EdgeSpec(sender="a", receiver="b"), EdgeSpec(sender="b", receiver="a"))
    with pytest.raises(ConfigurationError, match="a -> b -> a"):
        GraphSpec(nodes=nodes, edges=edges).topological()


def test_json_gives_the_same_graph_again(graph):
    """Round trip, places included."""
    again = GraphSpec.from_json(graph.to_json())
    assert again == graph
    assert [node.where for node in again.nodes] == [node.where for node in graph.nodes]


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"nodes": [{}], "edges": []}', '{"nodes": 1, "edges": 2}'])
def test_what_is_no_graph_is_refused(text):
    """Other JSON is a ConfigurationError."""
    with pytest.raises(ConfigurationError, match="graph"):
        GraphSpec.from_json(text)


def test_secrets_are_in_json_only_when_revealed():
    """By default JSON masks them, by name at any depth and by origin; revealed, the graph comes back whole."""
    params = {"api_key": "s3cr3t", "url": "amqp://me:s3cr3t@host/", "deep": [{"token": "s3cr3t"}], "from_env": "s3cr3t"}
    node = NodeSpec(name="x", type="some.module:X", params=params, role="operator", secrets=("from_env",))
    graph = GraphSpec(nodes=(node,))
    assert "s3cr3t" not in graph.to_json()
    assert "amqp://me:***@host/" in graph.to_json()
    assert GraphSpec.from_json(graph.to_json(reveal=True)) == graph


def test_params_that_are_not_shown_count_in_the_version():
    """A name with key in it may be that of a column, and a variable may be an interval: both decide what comes out."""
    base = NodeSpec(name="x", type="m:X", params={"key": "a", "every": "1m"}, role="operator", secrets=("every",))
    keyed = dataclasses.replace(base, params={"key": "b", "every": "1m"})
    other = dataclasses.replace(base, params={"key": "a", "every": "5m"})
    assert len({GraphSpec(nodes=(node,)).version for node in (base, keyed, other)}) == 3


def test_the_kinds_on_every_edge_are_known(graph):
    """What can come along an edge follows from sources and operators."""
    operators = {node.name: build(node) for node in graph.of("operator")}
    flows = {str(edge): kinds for edge, kinds in kinds_on_edges(graph, operators).items()}
    assert flows["minute -> lake"] == {Kind.BARS}
    assert Kind.QUARANTINE in flows["clean -> minute"]


def test_the_version_is_fixed():
    """Versions are kept beside data: the same graph must have the same one in every release."""
    graph = parse_graph({"nodes": {"a": {"source": "all"}, "b": {"sink": "store"}}, "edges": ["a -> b"]})
    canonical = (
        '{"edges":[["a","","b"]],"nodes":[{"name":"a","params":{},"role":"source","type":"all"},'
        '{"name":"b","params":{},"role":"sink","type":"store"}]}'
    )
    assert graph.version == hashlib.sha256(canonical.encode()).hexdigest()


@given(st.integers(0, 10**9), st.sampled_from(["ns", "us", "ms", "s", "m", "h"]))
def test_a_duration_is_its_count_times_its_unit(count, unit):
    """Whole counts are exact."""
    scale = {"ns": 1, "us": 10**3, "ms": 10**6, "s": 10**9, "m": 60 * 10**9, "h": 3600 * 10**9}[unit]
    if count * scale < 2**62:
        assert duration_ns(f"{count}{unit}") == count * scale


@pytest.mark.parametrize("text", ["", "5", "s", "-1s", "1.5ns", "1e3s", "5 sec", "999999999999d", "\u0665s"])
def test_what_is_no_duration_is_refused(text):
    """A missing unit, a sign, parts of a nanosecond and more than an int64 holds are errors."""
    with pytest.raises(ConfigurationError, match="such as 5s"):
        duration_ns(text)
    assert duration_ns("1.5s") == 1_500_000_000
