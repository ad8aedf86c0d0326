"""Orchestrators of three regions as processes, beside peers that are dead, deaf, lying or lead elsewhere."""

from __future__ import annotations

import contextlib
import socket
import time
from dataclasses import dataclass
from urllib.parse import quote

import httpx
import pytest

from market_data_core.web.auth import FIRST_KEY_FILE, KeyStore, Role
from support.bad_peers import Listening, deaf, leading_to, listening, nonsense
from support.service import RunningService, eventually, free_port

TOKEN = "a-service-token-of-all-regions"
REGIONS = ("eu", "us", "ap")
# How long `ap` gives its peers. The others give theirs the usual time: a pause on a busy machine may take longer.
TIMEOUT_S = 1.0


@dataclass
class World:
    """Three regions; those of the bad peers that listen; and the trap, on both loopback addresses."""

    client: httpx.Client
    services: dict[str, RunningService]
    bad: dict[str, Listening]
    traps: list[Listening]

    def call(self, region, method, path, *, key=None, **kwargs):
        service = self.services[region]
        headers = {"X-API-Key": key or (service.data_dir / FIRST_KEY_FILE).read_text().strip()}
        headers |= kwargs.pop("headers", {})
        return self.client.request(method, f"{service.url}{path}", headers=headers, **kwargs)

    def forward(self, region, peer, path, method="GET", **kwargs):
        body = {"path": path, "method": method}
        return self.call(region, "POST", f"/federation/forward/{peer}", json=body, **kwargs)

    @property
    def trapped(self):
        return [head for trap in self.traps for head in trap.heard]


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("regions")
    ports = {name: free_port() for name in REGIONS}
    with contextlib.ExitStack() as stack:
        client = stack.enter_context(httpx.Client(trust_env=False, timeout=20))
        trap = stack.enter_context(listening(nonsense))
        traps = [trap]
        with contextlib.suppress(OSError):
            traps.append(stack.enter_context(listening(nonsense, host="::1", port=trap.port)))
        bad = {"slow": stack.enter_context(listening(deaf)), "liar": stack.enter_context(listening(nonsense))}
        bad["elsewhere"] = stack.enter_context(listening(leading_to(f"http://127.0.0.1:{trap.port}/status")))
        urls = {name: f"http://127.0.0.1:{port}" for name, port in ports.items()}
        urls |= {name: f"http://127.0.0.1:{peer.port}" for name, peer in bad.items()}
        urls["dead"] = f"http://127.0.0.1:{free_port()}"
        services = {}
        for name in REGIONS:
            # One of them has no bad peers, so that what is slow is the others' own.
            known = {region: urls[region] for region in REGIONS} if name == "us" else urls
            settings = {
                "NODE_ID": name,
                "REGION": name,
                "CLUSTER_ID": "world",
                "FEDERATION_TOKEN": TOKEN,
                "FEDERATION_PEERS": ",".join(f"{peer}={url}" for peer, url in known.items() if peer != name),
                "PROVIDER_RATE": "100",
            }
            if name == "ap":
                settings["FEDERATION_TIMEOUT_SEC"] = str(TIMEOUT_S)
            service = RunningService(folder / name, HEALTH_PORT=ports[name], **settings)
            services[name] = stack.enter_context(service)
        for service in services.values():
            service.wait_healthy(60)
        yield World(client=client, services=services, bad=bad, traps=traps)


def test_each_region_sees_the_others_and_how_they_are(world):
    """Itself first; the bad ones are listed as unhealthy, and cost no more than one deadline."""
    began_s = time.monotonic()
    found = world.call("eu", "GET", "/federation/topology").json()
    assert time.monotonic() - began_s < 5
    health = {node["node_id"]["value"]: node["health"] for node in found["nodes"]}
    assert next(iter(health)) == "eu"
    assert {name for name, state in health.items() if state == "healthy"} == set(REGIONS)
    assert {name for name, state in health.items() if state == "unhealthy"} == {"slow", "liar", "elsewhere", "dead"}
    assert (found["cluster_id"]["value"], found["region"]["name"]) == ("world", "eu")
    nodes = world.call("us", "GET", "/federation/topology").json()["nodes"]
    assert {(n["node_id"]["value"], n["health"]) for n in nodes} == {(name, "healthy") for name in REGIONS}


def test_an_action_is_done_in_the_other_region_in_the_callers_name(world):
    """It is paused there and not here, and the audit of both says who did it."""
    answer = world.forward("eu", "us", "/control/pause", "POST").json()
    assert (answer["target"], answer["status_code"]) == ("us", 200)
    assert answer["data"]["detail"] == "Orchestrator paused"
    paused = {name: service.get("/status").json()["paused"] for name, service in world.services.items()}
    assert paused == {"eu": False, "us": True, "ap": False}
    assert world.forward("eu", "us", "/control/resume", "POST").json()["status_code"] == 200
    there = world.call("us", "GET", "/audit/events?action=pause").json()["events"]
    assert [event["actor"] for event in there] == ["federation:eu/first"]
    here = world.call("eu", "GET", "/audit/events?action=federation.forward").json()["events"]
    assert {event["target"] for event in here} == {"us"}
    assert all(world.call(region, "GET", "/audit/verify").json()["ok"] for region in ("eu", "us"))


def test_nobody_gains_rights_over_there(world):
    """An admin here does not become one there, and who is none here asks nobody."""
    answer = world.forward("eu", "us", "/control/reload", "POST").json()
    assert answer["status_code"] == 403
    for role in (Role.VIEWER, Role.OPERATOR):
        key = KeyStore(world.services["eu"].data_dir / "api-keys.jsonl").add(f"some-{role}", role)
        assert world.forward("eu", "us", "/control/pause", "POST", key=key).status_code == 403
    # What only a peer may say, from somebody who is none.
    said = {"X-Forwarded-Actor": "root", "X-Forwarded-Role": "admin", "X-Federation-Hop": "ap"}
    assert world.call("us", "POST", "/control/reload", key="wrong", headers=said).status_code == 401


def test_a_request_makes_one_hop(world):
    """A request of a region that is handed on is refused there, however it came."""
    said = {"X-Forwarded-Actor": "first", "X-Forwarded-Role": "admin", "X-Federation-Hop": "ap"}
    headers = {**said, "Authorization": f"Bearer {TOKEN}"}
    service = world.services["us"]
    body = {"path": "/status", "method": "GET"}
    for path in ("/federation/forward/eu", "/federation/fanout"):
        answer = world.client.post(f"{service.url}{path}", json=body, headers=headers)
        assert answer.status_code == 403
    answer = world.call("us", "POST", "/federation/forward/eu", json=body, headers={"X-Federation-Hop": "x"})
    assert answer.status_code == 403


def test_all_regions_answer_beside_those_that_do_not(world):
    """One dead, one deaf, one lying, one leading elsewhere: each has its own error, the others their answer."""
    began_s = time.monotonic()
    answer = world.call("ap", "POST", "/federation/fanout", json={"path": "/control/status"})
    took_s = time.monotonic() - began_s
    results = {result["target"]: result for result in answer.json()["results"]}
    assert {name for name, result in results.items() if result["error"] is None} == {"eu", "us"}
    assert {results[name]["data"]["state"] for name in ("eu", "us")} == {"running"}
    assert "did not answer" in results["dead"]["error"]
    assert "within" in results["slow"]["error"]
    assert "no JSON" in results["liar"]["error"]
    assert "redirect" in results["elsewhere"]["error"]
    # The deaf one costs all of them its deadline, once.
    assert TIMEOUT_S <= took_s < TIMEOUT_S + 3
    # Meanwhile, and after it, the service itself is well.
    assert world.services["ap"].get("/health").json()["state"] == "healthy"


def elsewhere(port):
    """Addresses of the trap as people write them who want a request to go there."""
    return [
        f"127.0.0.1:{port}", f"localhost:{port}", f"[::1]:{port}", f"[::ffff:127.0.0.1]:{port}", f"0:{port}",
        f"[::ffff:7f00:1]:{port}", f"2130706433:{port}", f"0x7f000001:{port}", f"0177.0.0.1:{port}", f"127.1:{port}",
        f"user:password@127.0.0.1:{port}", f"127.0.0.1:{port}#", f"127.0.0.1:{port}?", f"[0:0:0:0:0:0:0:1]:{port}",
        f"%31%32%37.0.0.1:{port}", f"1\uff127.0.0.1:{port}", f"127\u30020\u30020\u30021:{port}",
    ]  # fmt: skip


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_no_path_leads_anywhere_else(world, method):
    """Hosts in the path, users, parents, escapes, line breaks: refused, and nothing ever connects to the trap."""
    port = world.traps[0].port
    paths = []
    for host in elsewhere(port):
        paths += [f"//{host}/status", f"@{host}/status", f"/@{host}/status", f"http://{host}/status", f"\\\\{host}/"]
        paths += [f"/\\{host}/status", f"/..//{host}/status", f"/status@{host}", f":@{host}/status", f".{host}/status"]
        paths += [f"https:{host}/status", f"/%2f%2f{host}/status", f"/status/../..//{host}", f"///{host}/status"]
    paths += [
        "/../status",
        "/./status",
        "/status/..",
        "/%2e%2e/status",
        "/..%2fstatus",
        "/status/%2e%2e/federation/list",
    ]
    paths += [
        "/federation/list",
        "/federation/forward/ap",
        "/status\r\nHost: evil",
        "/status HTTP/1.1\r\nX: y",
        "",
        "*",
    ]
    paths += [
        "/auth/login?token=x",
        "/ui",
        "/metrics",
        "/openapi.json",
        "/status\x00",
        "/status ",
        "/st%61tus",
        "/\uff53tatus",
    ]
    paths += [f"/status?{'x' * 4000}"]
    statuses = {path: world.forward("eu", "us", path, method).status_code for path in paths}
    assert set(statuses.values()) <= {403, 422}, {p: s for p, s in statuses.items() if s not in (403, 422)}
    assert world.trapped == []


def test_no_name_of_a_peer_is_an_address(world):
    """Only configured names are peers, in the path or in a list."""
    port = world.traps[0].port
    for host in elsewhere(port):
        answer = world.forward("eu", quote(host, safe=""), "/status")
        assert answer.status_code in (404, 422), host
        body = {"path": "/status", "peers": [host]}
        assert world.call("eu", "POST", "/federation/fanout", json=body).status_code in (404, 422), host
    for name in ("us/../ap", "../ap", "us%2f..%2fap", "US", "us ", "us\x00", "us@ap", "us,ap"):
        assert world.forward("eu", quote(name, safe=""), "/status").status_code in (404, 422), name
    assert world.trapped == []


def test_what_a_caller_calls_us_changes_nothing(world):
    """Headers that proxies believe in name no peer."""
    place = f"127.0.0.1:{world.traps[0].port}"
    names = ("Host", "X-Forwarded-Host", "X-Forwarded-For", "Forwarded", "X-Original-URL", "X-Rewrite-URL", "Proxy")
    for name in names:
        value = f"host={place}" if name == "Forwarded" else place
        answer = world.forward("eu", "us", "/status", headers={name: value})
        assert (answer.status_code, answer.json()["data"]["node"]) == (200, "us"), name
    assert world.trapped == []


def test_a_peer_leads_nobody_elsewhere(world):
    """Redirects of any kind are errors, for what is asked of it and for its health; where they lead nobody goes."""
    before = len(world.bad["elsewhere"].heard)
    for _ in range(4):
        answer = world.forward("eu", "elsewhere", "/status")
        assert answer.status_code == 503
    assert len(world.bad["elsewhere"].heard) > before
    world.call("eu", "GET", "/federation/topology")
    assert world.trapped == []


def test_the_token_goes_to_peers_alone(world):
    """The health of a peer is asked for without it, and the trap works: it notes who comes."""
    heard = [head for head in world.bad["slow"].heard if b"GET /health" in head]
    assert heard
    assert not any(TOKEN.encode() in head for head in heard)
    with socket.create_connection(("127.0.0.1", world.traps[0].port), timeout=5) as visitor:
        visitor.sendall(b"GET / HTTP/1.1\r\n\r\n")
        eventually(lambda: world.trapped, 5, "the trap notes a visitor")
