"""The container makes the parts the service runs on, and takes others in their place."""

from __future__ import annotations

import re

import pytest
from kit_world import ADMIN, container_in, running, settings_in
from prometheus_client import CollectorRegistry

from market_data_core.clock import ManualClock
from market_data_core.errors import ConfigurationError, TemporaryUnavailable
from market_data_orchestrator import protocols
from market_data_orchestrator.app import create_app
from market_data_orchestrator.composition import make_source
from market_data_orchestrator.container import ServiceContainer
from market_data_orchestrator.service import Service
from market_data_pipeline.orchestration import MemoryBus

FAMILIES = {
    "orchestrator_status": set(),
    "pipeline_events_total": set(),
    "feedback_events_total": {"event_type"},
    "provider_connection_status": set(),
    "orchestrator_control_actions_total": {"action", "status"},
    "orchestrator_ws_clients": set(),
    "orchestrator_auth_failures_total": {"reason"},
    "orchestrator_rate_limit_hits_total": {"action", "result"},
    "orchestrator_audit_events_total": {"action", "status"},
    "orchestrator_federation_requests_total": {"target", "action", "status"},
    "ingest_active": {"provider"},
    "ingest_starts_total": {"provider"},
    "ingest_stops_total": {"provider", "reason"},
    "ingest_errors_total": {"provider", "stage"},
    "ingest_writes_suppressed_total": {"reason"},
}
"""Every family that dashboards and alerts of users rely on, with its labels."""


def test_a_part_is_made_once(tmp_path):
    """Whoever asks for it gets the same; what was made around a service is around that service."""
    container = container_in(tmp_path)
    assert container.audit is container.audit
    assert container.service.feedback is container.feedback
    assert container.service.events is container.events
    assert container.engine_settings.data_dir == tmp_path / "data"
    service = Service(settings_in(tmp_path))
    around = ServiceContainer.around(service)
    assert around.service is service
    assert around.feedback is service.feedback
    assert around.settings is service.settings


async def test_parts_can_be_replaced(tmp_path):
    """A test's own stands in wherever the part is used; a name that is none is refused, naming those there are."""
    bus, clock, registry = MemoryBus(), ManualClock(10**18), CollectorRegistry()
    container = container_in(tmp_path, parts={"feedback": bus, "clock": clock, "registry": registry})
    assert container.service.feedback is bus
    assert container.service.clock is clock
    create_app(container)
    assert registry.get_sample_value("orchestrator_ws_clients") == 0.0
    with pytest.raises(ConfigurationError, match=r"no part feedbak; there are: .*feedback"):
        container_in(tmp_path, parts={"feedbak": bus})


def test_what_is_open_only_while_it_runs_says_so(tmp_path):
    """The small state is there once the service has started."""
    with pytest.raises(TemporaryUnavailable, match="starting"):
        _ = container_in(tmp_path).state


def test_the_parts_are_what_the_protocols_say(tmp_path):
    """Each protocol is satisfied by the part that stands behind it."""
    container = container_in(tmp_path)
    source = make_source(container.config.enabled[0])
    for part, protocol in (
        (source, protocols.Provider),
        (container.service, protocols.Runtime),
        (container.feedback, protocols.FeedbackBus),
        (container.limits, protocols.RateLimiter),
        (container.audit, protocols.AuditLogger),
        (container.directory, protocols.FederationDirectory),
    ):
        assert isinstance(part, protocol), protocol


async def test_every_family_is_there_from_the_start(tmp_path):
    """With its labels, and at least one series, before anything has happened."""
    container = container_in(tmp_path, federation_peers=["eu=http://127.0.0.1:9"])
    async with running(container) as client:
        text = (await client.get("/metrics")).text
    found = {}
    for name, labels in re.findall(r"^(\w+)(?:\{(.*)\})? \S+$", text, re.MULTILINE):
        found.setdefault(name, set()).update(re.findall(r'(\w+)="', labels))
    assert {name: found.get(name) for name in FAMILIES} == FAMILIES


async def test_what_was_done_is_counted(tmp_path):
    """Control actions by what came of them."""
    container = container_in(tmp_path)
    async with running(container) as client:
        assert (await client.post("/control/pause", headers={"X-API-Key": ADMIN})).status_code == 200
        text = (await client.get("/metrics")).text
    assert 'orchestrator_control_actions_total{action="pause",status="ok"} 1.0' in text
    assert 'orchestrator_control_actions_total{action="reload",status="error"} 0.0' in text
    assert 'orchestrator_audit_events_total{action="pause",status="ok"} 1.0' in text


async def test_a_part_that_cannot_start_fails_the_service(tmp_path):
    """A damaged file of keys is named as the cause, and everything that was started is stopped again."""
    (tmp_path / "keys.jsonl").write_text("no key\n")
    (tmp_path / "keys.jsonl").chmod(0o600)
    container = container_in(tmp_path, api_keys_file=tmp_path / "keys.jsonl")
    create_app(container)
    service = container.service
    async with service.running():
        await service.failed.wait()
        await service.ended.wait()
        assert service.phase == "failed"
        assert "keys.jsonl" in service.problem
        assert container.lifecycle.states["keys"] == "failed"
        assert container.lifecycle.states["engine"] == "stopped"
        assert container.status.health().state == "unhealthy"
