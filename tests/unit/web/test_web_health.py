"""The probes."""

from __future__ import annotations

import pytest

from market_data_core.telemetry import HealthComponent, HealthStatus, Probe
from market_data_core.web import PROBLEM_JSON, create_service_app, probe_routes


class Service:
    """What the probes ask, changed by the tests."""

    def __init__(self):
        self.state = "healthy"
        self.probes = []
        self.alive = True

    def health(self):
        if self.state == "broken":
            raise RuntimeError("the password is hunter2")
        store = HealthComponent(name="store", state=self.state, detail="fine", details={"queue": "3"})
        return HealthStatus(service="orchestrator", state=self.state, components=[store], version="1", ts=5.5)

    def ready(self):
        return self.probes

    def live(self):
        return Probe(probe_type="liveness", passed=self.alive)


@pytest.fixture
def service():
    return Service()


@pytest.fixture
def client(service, registry, client_of):
    routes = probe_routes(service.health, service.ready, alive=service.live)
    return client_of(create_service_app(title="t", version="1", registry=registry, routes=routes))


@pytest.mark.parametrize(("state", "status"), [("healthy", 200), ("degraded", 200), ("unhealthy", 503)])
async def test_health_gives_the_whole_status(state, status, service, client):
    """The body is the HealthStatus; only unhealthy is a 503."""
    service.state = state
    response = await client.get("/health")
    assert response.status_code == status
    assert response.headers["content-type"] == "application/json"
    assert HealthStatus.model_validate_json(response.content) == service.health()


async def test_nothing_is_kept_between_requests(service, client):
    """A change shows in the very next answer, and nobody on the way may keep one."""
    assert (await client.get("/health")).json()["state"] == "healthy"
    service.state = "unhealthy"
    response = await client.get("/health")
    assert response.json()["state"] == "unhealthy"
    assert response.headers["cache-control"] == "no-store"


async def test_readiness_names_what_is_not_ready(service, client):
    """Status 503 with the message of each failed probe."""
    service.probes = [
        Probe(probe_type="readiness", passed=True, message="log"),
        Probe(probe_type="readiness", passed=False, message="store: not reachable"),
        Probe(probe_type="readiness", passed=False),
    ]
    response = await client.get("/readyz")
    assert response.status_code == 503
    assert response.json()["failing"] == ["store: not reachable", "unnamed readiness probe"]
    assert [Probe(**probe) for probe in response.json()["probes"]] == service.probes


async def test_readiness_is_200_when_all_passed(service, client):
    """Status 200 and nothing failing."""
    service.probes = [Probe(probe_type="readiness", passed=True)]
    response = await client.get("/readyz")
    assert (response.status_code, response.json()["status"], response.json()["failing"]) == (200, "ready", [])


async def test_liveness_depends_on_nothing_else(service, client):
    """An unhealthy, unready service is alive."""
    service.state = "unhealthy"
    service.probes = [Probe(probe_type="readiness", passed=False)]
    response = await client.get("/livez")
    assert (response.status_code, response.json()["passed"]) == (200, True)


async def test_liveness_can_be_denied(service, client):
    """A service that knows it should be restarted says so."""
    service.alive = False
    assert (await client.get("/livez")).status_code == 503


async def test_liveness_needs_no_callable(service, registry, client_of):
    """By default the answer itself is the proof."""
    routes = probe_routes(service.health, service.ready)
    async with client_of(create_service_app(title="t", version="1", registry=registry, routes=routes)) as client:
        assert (await client.get("/livez")).json() == {"probe_type": "liveness", "passed": True, "message": None}


@pytest.mark.parametrize("path", ["/health", "/livez", "/readyz"])
async def test_head_is_the_same_without_a_body(path, client):
    """Monitors may ask for the head alone."""
    got, head = await client.get(path), await client.head(path)
    assert (head.status_code, head.content) == (got.status_code, b"")
    assert head.headers["content-length"] == got.headers["content-length"]


async def test_a_health_check_that_fails_is_a_failed_check(service, client):
    """Its error is a 500 problem without its text."""
    service.state = "broken"
    response = await client.get("/health")
    assert (response.status_code, response.headers["content-type"]) == (500, PROBLEM_JSON)
    assert "hunter2" not in response.text
