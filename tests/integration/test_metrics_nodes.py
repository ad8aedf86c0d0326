"""Figures of every consumer and node in /metrics."""

from __future__ import annotations

from collections import defaultdict

import pytest
from prometheus_client.parser import text_string_to_metric_families

from support.service import RunningService, eventually

ENDED = ("passed", "absorbed", "filtered", "duplicate", "late", "suppressed", "quarantined", "failed")


@pytest.fixture(scope="module")
def service(tmp_path_factory):
    with RunningService(tmp_path_factory.mktemp("metrics") / "data", PROVIDER_RATE=500, BARS="1s") as running:
        running.wait_healthy(40)
        yield running


def families(service: RunningService) -> dict:
    return {family.name: family for family in text_string_to_metric_families(service.get("/metrics").text)}


def node_events(found: dict) -> dict[tuple[str, str], dict[str, float]]:
    counts: dict[tuple[str, str], dict[str, float]] = defaultdict(dict)
    for sample in found["pipeline_node_events"].samples:
        if sample.name == "pipeline_node_events_total":
            counts[sample.labels["consumer"], sample.labels["node"]][sample.labels["outcome"]] = sample.value
    return counts


def test_every_event_of_a_node_is_in_one_outcome(service):
    """What a node received is what became of it plus what it holds, in one scrape; emitted comes on top."""
    eventually(
        lambda: node_events(families(service)).get(("raw", "store"), {}).get("passed", 0) > 0, 20, "events are stored"
    )
    found = families(service)
    inside = {(s.labels["consumer"], s.labels["node"]): s.value for s in found["pipeline_node_in_flight"].samples}
    counts = node_events(found)
    assert counts.keys() == inside.keys()
    for node, outcomes in counts.items():
        assert outcomes.keys() == {"received", "emitted", *ENDED}
        assert outcomes["received"] == sum(outcomes[o] for o in ENDED) + inside[node], node


def test_nodes_and_consumers_are_those_of_the_status(service):
    """The same names as /status, and lag and commit age of every consumer that has committed."""
    status = service.get("/status").json()
    found = families(service)
    assert node_events(found).keys() == {(c["name"], n["name"]) for c in status["consumers"] for n in c["nodes"]}
    lag = {s.labels["consumer"]: s.value for s in found["pipeline_consumer_lag_events"].samples}
    age = {s.labels["consumer"]: s.value for s in found["pipeline_consumer_commit_age_seconds"].samples}
    assert lag.keys() == {c["name"] for c in status["consumers"]}
    assert {c["name"] for c in status["consumers"] if c["commits"]} <= age.keys()
    assert all(0 <= value < 60 for value in age.values())
