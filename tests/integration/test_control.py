"""Control of the running service: effects that are real, once, by those who may."""

from __future__ import annotations

import json
import re
import subprocess
import sys

import httpx
import pytest

from market_data_core.web.auth import FIRST_KEY_FILE, KeyStore, Role
from market_data_store.lake import Lake
from support.service import RunningService, eventually


@pytest.fixture
def service(tmp_path):
    with RunningService(tmp_path / "data", PROVIDER_RATE="2000") as running:
        running.wait_healthy()
        yield running


@pytest.fixture
def call(service):
    key = (service.data_dir / FIRST_KEY_FILE).read_text().strip()

    def ask(method, path, **headers):
        return service.client.request(method, f"{service.url}{path}", headers={"X-API-Key": key, **headers}, timeout=20)

    return ask


def rows(service) -> int:
    lake = Lake(service.data_dir / "lake", "default")
    return lake.read("quotes").num_rows + lake.read("trades").num_rows


def test_paused_nothing_that_comes_is_stored_until_it_is_resumed(service, call):
    """The answer comes when what was received is stored; paused is healthy, and a gap of that cause tells the rest."""
    said = call("POST", "/control/pause").json()
    assert said == {"status": "ok", "detail": "Orchestrator paused"}
    stored = rows(service)
    status = service.get("/status").json()
    assert (status["paused"], status["runtime"]["state"], status["health"]["state"]) == (True, "paused", "healthy")
    seen = status["sources"][0]["discarded"]
    eventually(
        lambda: service.get("/status").json()["sources"][0]["discarded"] > seen, 10, "events come and are let go"
    )
    assert rows(service) == stored
    assert call("POST", "/control/pause").json()["detail"] == "Orchestrator paused already"
    assert call("POST", "/control/resume").json()["detail"] == "Orchestrator resumed"
    eventually(lambda: rows(service) > stored, 10, "events are stored again")
    assert not service.get("/status").json()["paused"]


def test_it_stays_paused_over_a_restart(service, call):
    """Whoever said stop has not said anything else."""
    call("POST", "/control/pause")
    assert service.stop() == 0
    stored = rows(service)
    with RunningService(service.data_dir, PROVIDER_RATE="2000") as again:
        status = again.wait_healthy()
        assert status["paused"]
        eventually(lambda: again.get("/status").json()["sources"][0]["discarded"] > 100, 10, "events come")
        assert rows(service) == stored


def test_an_action_is_done_once_per_idempotency_key(service, call):
    """The same key again is told what was done, and does nothing; for another action it is refused."""
    first = call("POST", "/control/pause", **{"Idempotency-Key": "a"})
    call("POST", "/control/resume")
    again = call("POST", "/control/pause", **{"Idempotency-Key": "a"})
    assert again.json() == first.json()
    assert not service.get("/status").json()["paused"]
    assert call("POST", "/control/resume", **{"Idempotency-Key": "a"}).status_code in (400, 422)
    actions = call("GET", "/control/status").json()["actions"]
    assert [a["action"] for a in actions] == ["resume", "pause"]
    assert {a["actor"] for a in actions} == {"first"}


@pytest.mark.parametrize(
    ("role", "allowed"),
    [
        (Role.VIEWER, {"/control/status"}),
        (Role.OPERATOR, {"/control/status", "/control/pause", "/control/resume"}),
        (Role.ADMIN, {"/control/status", "/control/pause", "/control/resume", "/control/reload"}),
        (None, set()),
    ],
)
def test_everybody_may_what_their_role_says(service, role, allowed):
    """Who cannot be told is answered 401, who may not 403."""
    headers = {}
    if role is not None:
        headers["X-API-Key"] = KeyStore(service.data_dir / "api-keys.jsonl").add(f"some-{role}", role)
    for path in ("/control/status", "/control/pause", "/control/resume", "/control/reload"):
        method = "GET" if path == "/control/status" else "POST"
        answer = httpx.request(method, f"{service.url}{path}", headers=headers, timeout=20, trust_env=False)
        assert answer.status_code == (200 if path in allowed else 403 if role else 401), path


def test_the_commands_do_it_too(service):
    """`mdo pause` and `mdo resume` find the key that the first start left."""
    for command, expected in (("pause", "Orchestrator paused"), ("resume", "Orchestrator resumed")):
        program = "from market_data_orchestrator.cli.main import main; main()"
        done = subprocess.run(
            [sys.executable, "-c", program, command, "--url", service.url, "--data-dir", service.data_dir, "--json"],
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == 0, done.stderr
        # On a busy machine a pause may have to say how much is still to be stored.
        assert json.loads(done.stdout)["detail"].startswith(expected)


def test_keys_come_and_go_while_it_runs(service):
    """`mdo keys add` makes one that is good at once, and `mdo keys revoke` ends it."""

    def mdo(*arguments):
        program = "from market_data_orchestrator.cli.main import main; main()"
        command = [sys.executable, "-c", program, "keys", *arguments, "--data-dir", service.data_dir]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        return done.stdout

    key = json.loads(mdo("add", "desk", "--role", "viewer", "--json"))["key"]

    def status():
        headers = {"X-API-Key": key}
        return httpx.get(f"{service.url}/control/status", headers=headers, trust_env=False).status_code

    eventually(lambda: status() == 200, 5, "the key is good")
    assert {k["name"] for k in json.loads(mdo("list", "--json"))} == {"first", "desk"}
    mdo("revoke", "desk")
    eventually(lambda: status() == 401, 5, "the key is refused")


def test_the_first_start_prints_a_link_that_signs_in_once(service):
    """It gives a browser a session, as an admin; a second use is refused."""
    link = eventually(lambda: re.search(r"http://\S+/auth/login\?\S+", service.output()), 10, "the link is printed")[0]
    with httpx.Client(trust_env=False) as browser:
        assert browser.get(link).status_code == 303
        me = browser.get(f"{service.url}/auth/me").json()
        assert (me["user"], me["role"]) == ("first", "admin")
        # What a browser sends by itself is not enough to change anything.
        assert browser.post(f"{service.url}/control/pause").status_code in (401, 403)
        headers = {"X-CSRF-Token": me["csrf_token"]}
        assert browser.post(f"{service.url}/control/pause", headers=headers).status_code == 200
    assert httpx.get(link, trust_env=False).status_code == 401


def test_actions_are_limited_by_actor_and_every_one_is_on_the_record(service, call):
    """The sixth within a minute is refused; what was done, and what was not, stands in a chain that verifies."""
    answers = [call("POST", "/control/resume") for _ in range(6)]
    assert [a.status_code for a in answers] == [200] * 5 + [429]
    assert answers[-1].json()["detail"] == "Rate limit exceeded: max 5/resume/min"
    assert "Retry-After" in answers[-1].headers
    httpx.post(f"{service.url}/control/pause", headers={"X-API-Key": "mdk_nobodys-key-at-all"}, trust_env=False)
    events = call("GET", "/audit/events?limit=50").json()["events"]
    assert [e["decision"] for e in events if e["action"] == "resume"] == ["denied"] + ["allowed"] * 5
    assert any(e["decision"] == "denied" and e["action"] == "pause" for e in events)
    assert "nobodys" not in (service.data_dir / "audit.jsonl").read_text()
    assert call("GET", "/audit/verify").json()["ok"]
    metrics = service.get("/metrics").text
    assert 'orchestrator_rate_limit_hits_total{action="resume",result="denied"} 1.0' in metrics


def test_the_topology_shows_this_node_and_how_it_is(call):
    """Without peers it is alone, and healthy."""
    (node,) = call("GET", "/federation/topology").json()["nodes"]
    assert (node["role"], node["health"]) == ("orchestrator", "healthy")
