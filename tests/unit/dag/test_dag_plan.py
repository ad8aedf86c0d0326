"""Plans: what a change would do, for people and machines, without secrets."""

from __future__ import annotations

import dataclasses
import json

import pytest

from market_data_core.errors import ConfigurationError
from market_data_pipeline.dag import Blueprint, GraphSpec, NodeSpec, parse_graph, plan

TEXT = """
nodes:
  ticks: {source: all, symbols: [AAPL]}
  clean: {operator: validate}
  minute: {operator: bars, interval: 1m}
  raw: {sink: store}
  lake: {sink: store}
edges:
  - ticks -> clean -> raw
  - clean -> minute -> lake
"""


@pytest.fixture
def before():
    return Blueprint(
        graph=parse_graph(TEXT),
        providers={"feed": {"provider": "synthetic", "enabled": True, "symbols": ["A", "B"], "params": {"rate": 5}}},
        sinks={"store": {"sink": "store", "params": {}}},
        settings={"tenant": "default", "drain_sec": 10.0},
    )


def said(found):
    return {(c.section, c.name): c.action for c in found.changes}


def test_the_same_configuration_changes_nothing(before):
    """No change, every consumer untouched, in words too; a copy through JSON is the same."""
    copy = Blueprint.from_dict(json.loads(json.dumps(before.to_dict())))
    found = plan(copy, before)
    assert found.is_empty
    assert found.untouched == ("raw", "lake")
    assert found.to_text() == "Nothing changes. Consumers as they are: raw, lake."


def test_against_nothing_everything_is_added(before):
    """The first start adds everything and restarts nothing."""
    found = plan(None, before)
    assert {c.action for c in found.changes} == {"added"}
    assert {("provider", "feed"), ("symbol", "feed A"), ("consumer", "lake")} <= said(found).keys()
    assert found.restart == ()


def test_a_changed_param_names_old_and_new_and_its_consumers_alone(before):
    """The consumer behind the node changes; the others go on untouched."""
    after = dataclasses.replace(before, graph=parse_graph(TEXT.replace("1m", "5m")))
    found = plan(before, after)
    assert said(found) == {("operator", "minute"): "changed", ("consumer", "lake"): "changed"}
    assert found.untouched == ("raw",)
    assert "interval: 1m -> 5m" in found.to_text()
    assert found.to_text().endswith("Needs no restart.")


def test_nodes_edges_and_sinks_come_and_go(before):
    """A new branch is added, an old one removed; the one in between stays."""
    graph = parse_graph(
        TEXT.replace("  lake: {sink: store}", "  hours: {sink: store}").replace(
            "-> minute -> lake", "-> minute -> hours"
        )
    )
    found = said(plan(before, dataclasses.replace(before, graph=graph)))
    assert found == {
        ("sink", "lake"): "removed",
        ("sink", "hours"): "added",
        ("edge", "minute -> lake"): "removed",
        ("edge", "minute -> hours"): "added",
        ("consumer", "lake"): "removed",
        ("consumer", "hours"): "added",
    }


def test_symbols_are_told_one_by_one(before):
    """Symbols of a provider are added and removed; the provider itself is as it was."""
    feed = {**before.providers["feed"], "symbols": ["B", "C"]}
    found = plan(before, dataclasses.replace(before, providers={"feed": feed}))
    assert said(found) == {("symbol", "feed C"): "added", ("symbol", "feed A"): "removed"}
    assert found.untouched == ("raw", "lake")


def test_what_needs_a_restart_is_named(before):
    """Settings and configured sinks take effect at the next start."""
    after = dataclasses.replace(
        before,
        settings={"tenant": "other", "drain_sec": 10.0},
        sinks={"store": {"sink": "store", "params": {"root": "/elsewhere"}}},
    )
    found = plan(before, after)
    assert found.restart == ("setting tenant", "sink store (configured)")
    assert "Needs a restart: setting tenant, sink store (configured)." in found.to_text()
    assert found.untouched == ()


def test_a_changed_source_filter_changes_every_consumer_behind_it(before):
    """What a source lets through decides what all its consumers get."""
    after = dataclasses.replace(before, graph=parse_graph(TEXT.replace("[AAPL]", "[AAPL, MSFT]")))
    assert plan(before, after).untouched == ()


def with_key(value, *, source):
    node = NodeSpec(name="x", type="m:X", params={"api_key": value, "url": value}, role="operator", secrets=("url",))
    sink = NodeSpec(name="lake", type="store", role="sink")
    graph = GraphSpec(nodes=(node, sink))
    return graph if source == "memory" else GraphSpec.from_json(graph.to_json())


def test_a_changed_secret_is_told_and_not_shown():
    """In one process a new secret is seen to differ; neither the old nor the new one is in any form of the plan."""
    found = plan(with_key("old-s3cr3t", source="memory"), with_key("new-s3cr3t", source="memory"))
    assert [field.name for field in found.changes[0].fields] == ["api_key", "url"]
    assert "s3cr3t" not in found.to_text() + found.to_json()
    assert "*** -> ***" in found.to_text()


def test_of_a_masked_secret_nothing_is_claimed():
    """A record has no secrets, so a configuration is not said to differ from it for theirs."""
    assert plan(with_key("old", source="json"), with_key("new", source="memory")).is_empty


def test_a_plan_in_json_says_what_the_text_says(before):
    """Machines get the changes, the untouched consumers and what needs a restart."""
    values = json.loads(
        plan(before, dataclasses.replace(before, graph=parse_graph(TEXT.replace("1m", "5m")))).to_json()
    )
    assert values["changes"][0] == {
        "section": "operator",
        "name": "minute",
        "action": "changed",
        "fields": [{"name": "interval", "old": "1m", "new": "5m"}],
        "restart": False,
    }
    assert values["untouched"] == ["raw"]
    assert values["restart"] == []


@pytest.mark.parametrize("values", [{}, {"graph": {}, "providers": {}, "sinks": {}, "settings": {}}, {"graph": 1}])
def test_what_is_no_blueprint_is_refused(values):
    """A damaged record is a ConfigurationError."""
    with pytest.raises(ConfigurationError):
        Blueprint.from_dict(values)
