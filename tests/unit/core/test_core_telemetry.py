from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

from market_data_core import (
    AuditEnvelope,
    BackpressureLevel,
    ClusterId,
    ClusterTopology,
    ControlAction,
    ControlResult,
    FeedbackEvent,
    HealthComponent,
    HealthStatus,
    Labels,
    MetricPoint,
    MetricSeries,
    NodeId,
    NodeRole,
    NodeStatus,
    Probe,
    RateAdjustment,
    Region,
)

TS = 1729197600.5
POINT = MetricPoint(name="rows_total", value=2.0, labels=Labels(values={"kind": "bars"}), ts=TS)
NODE = NodeStatus(node_id=NodeId(value="n"), role=NodeRole.STORE, health="healthy", version="1", last_seen_ts=TS)

MESSAGES: list[tuple[BaseModel, list[str]]] = [
    (
        FeedbackEvent(coordinator_id="c", queue_size=0, capacity=1, level=BackpressureLevel.OK, ts=TS),
        ["coordinator_id", "queue_size", "capacity", "level", "source", "ts", "reason"],
    ),
    (
        RateAdjustment(provider="ibkr", scale=0.5, reason=BackpressureLevel.SOFT, ts=TS),
        ["provider", "scale", "reason", "ts"],
    ),
    (HealthComponent(name="store", state="degraded", detail="slow"), ["name", "state", "detail", "details"]),
    (
        HealthStatus(service="s", state="healthy", version="1", ts=TS),
        ["service", "state", "components", "version", "ts"],
    ),
    (Probe(probe_type="readiness", passed=False, message="store"), ["probe_type", "passed", "message"]),
    (POINT.labels, ["values"]),
    (POINT, ["name", "value", "labels", "ts"]),
    (MetricSeries(name="rows_total", points=[POINT]), ["name", "points"]),
    (ControlResult(status="ok", detail=None), ["status", "detail"]),
    (
        AuditEnvelope(
            actor="a", role="admin", action=ControlAction.PAUSE, result=ControlResult(status="error", detail="x"), ts=TS
        ),
        ["actor", "role", "action", "result", "ts"],
    ),
    (ClusterId(value="c"), ["value"]),
    (NodeId(value="n"), ["value"]),
    (Region(name="local"), ["name", "zone"]),
    (NODE, ["node_id", "role", "health", "version", "last_seen_ts"]),
    (
        ClusterTopology(cluster_id=ClusterId(value="c"), region=Region(name="local"), nodes=[NODE]),
        ["cluster_id", "region", "nodes"],
    ),
]
NAMES = [type(m).__name__ for m, _ in MESSAGES]


@pytest.mark.parametrize(("message", "fields"), MESSAGES, ids=NAMES)
def test_json_has_exactly_the_published_names(message, fields):
    """The JSON of a message has the published names and no others."""
    assert list(message.model_dump(mode="json")) == fields


@pytest.mark.parametrize(("message", "fields"), MESSAGES, ids=NAMES)
def test_json_round_trip(message, fields):
    """A message read back from its JSON is the same message."""
    assert type(message).model_validate_json(message.model_dump_json()) == message


@pytest.mark.parametrize(("message", "fields"), MESSAGES, ids=NAMES)
def test_message_is_frozen(message, fields):
    """No field of a message can be set."""
    with pytest.raises(ValidationError, match="frozen"):
        setattr(message, fields[0], getattr(message, fields[0]))


@pytest.mark.parametrize(("message", "fields"), MESSAGES, ids=NAMES)
def test_unknown_fields_are_passed_over(message, fields):
    """A message of a newer version is read without what this version does not know."""
    assert type(message).model_validate({**message.model_dump(), "new_in_2": 1}) == message


def test_published_defaults():
    """What the contract gives a default has that default."""
    event = FeedbackEvent(coordinator_id="c", queue_size=1, capacity=1, level="soft", ts=TS)
    assert (event.source, event.reason) == ("store", None)
    assert HealthStatus(service="s", state="healthy", version="1", ts=TS).components == []
    component = HealthComponent(name="store", state="healthy")
    assert (component.detail, component.details) == (None, {})


@pytest.mark.parametrize(
    "change", [{"queue_size": -1}, {"capacity": 0}, {"level": "full"}, {"ts": float("nan")}, {"queue_size": None}]
)
def test_feedback_event_refuses_what_cannot_be(change):
    """Negative queues, no capacity, unknown levels and NaN are refused."""
    good = {"coordinator_id": "c", "queue_size": 1, "capacity": 2, "level": "ok", "ts": TS}
    FeedbackEvent.model_validate(good)
    with pytest.raises(ValidationError):
        FeedbackEvent.model_validate(good | change)


@given(scale=st.floats(allow_nan=True, allow_infinity=True))
def test_rate_scale_is_a_part_of_the_whole(scale):
    """A scale is taken exactly if it lies in 0 to 1."""
    fields = {"provider": "p", "scale": scale, "reason": "ok", "ts": TS}
    if 0 <= scale <= 1:
        assert RateAdjustment.model_validate(fields).scale == scale
    else:
        with pytest.raises(ValidationError):
            RateAdjustment.model_validate(fields)


@pytest.mark.parametrize(
    ("model", "fields"),
    [
        (Probe, {"probe_type": "startup", "passed": True}),
        (ControlResult, {"status": "done"}),
        (HealthComponent, {"name": "store", "state": "down"}),
    ],
)
def test_values_outside_a_vocabulary_are_refused(model, fields):
    """A word that the contract does not list is refused."""
    with pytest.raises(ValidationError):
        model.model_validate(fields)


@pytest.mark.parametrize(
    ("enum", "values"),
    [
        (BackpressureLevel, ["ok", "soft", "hard"]),
        (ControlAction, ["pause", "resume", "reload"]),
        (NodeRole, ["orchestrator", "pipeline", "store"]),
    ],
)
def test_enums_are_their_strings(enum, values):
    """Members of an enumeration are strings and equal to what stands in JSON."""
    assert list(enum) == values
    assert all(isinstance(member, str) for member in enum)


def test_frozen_scalars_can_be_keys():
    """Feedback events and ids can stand in sets."""
    event = FeedbackEvent(coordinator_id="c", queue_size=1, capacity=1, level="ok", ts=TS)
    assert len({event, event.model_copy()}) == 1
    assert len({NodeId(value="n"), NodeId(value="n"), NodeId(value="N")}) == 2


@pytest.mark.parametrize("model", [ClusterId, NodeId])
def test_ids_have_at_least_one_character(model):
    """An empty id is refused."""
    with pytest.raises(ValidationError):
        model(value="")


def test_topology_of_the_published_example():
    """The published example is read, and written again, as it stands."""
    example = {
        "cluster_id": {"value": "default"},
        "region": {"name": "local"},
        "nodes": [
            {
                "node_id": {"value": "orchestrator-local"},
                "role": "orchestrator",
                "health": "healthy",
                "version": "0.1.0",
                "last_seen_ts": 1729197600.0,
            }
        ],
    }
    topology = ClusterTopology.model_validate(example)
    assert topology.nodes[0].role is NodeRole.ORCHESTRATOR
    assert topology.model_dump(mode="json", exclude_none=True) == example
    assert topology.region.zone is None
