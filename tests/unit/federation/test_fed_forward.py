from __future__ import annotations

import asyncio
import time
from contextlib import AsyncExitStack

import pytest
from fed_world import ALICE, TLS, TOKEN, Node, free_port, raw_server, served, streaming, until
from prometheus_client import CollectorRegistry
from starlette.applications import Starlette
from starlette.responses import JSONResponse, RedirectResponse
from starlette.routing import Route

from market_data_core.clock import ManualClock
from market_data_core.errors import (
    ConfigurationError,
    ConnectionFailed,
    PermissionsMissing,
    RegistryError,
    TemporaryUnavailable,
    ValidationError,
)
from market_data_core.web.auth import Principal, Role
from market_data_orchestrator.federation import Federation, GarbledAnswer, Peer, PeerClient, requests_counter

GARBAGE = b"\x00\xff not HTTP at all\r\n\r\n"


def response(body, *headers, status=b"200 OK"):
    lines = [b"HTTP/1.1 " + status, b"content-length: %d" % len(body), b"connection: close", *headers]
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


class Asking:
    """A federation of one's own whose trail can be read."""

    def __init__(self, peers, *, token=TOKEN, recorder=None, **options):
        self.peers = tuple(peers)
        self.records = []
        self.client = PeerClient(max_answer_bytes=1000, verify=TLS)
        self.registry = CollectorRegistry()
        self.federation = Federation(
            self.peers,
            node_id="here",
            token=token,
            client=self.client,
            requests=requests_counter(self.registry, self.peers),
            recorder=recorder or self.record,
            **options,
        )

    async def record(self, record):
        self.records.append(record)

    async def __aenter__(self):
        return self

    async def __aexit__(self, *_):
        await self.client.aclose()

    async def get(self, peer="b", path="/status"):
        return await self.federation.forward(peer, path=path, method="GET", caller=ALICE)

    async def post(self, peer="b", path="/control/pause", **more):
        return await self.federation.forward(peer, path=path, method="POST", caller=ALICE, **more)

    def outcomes(self):
        return [r.outcome for r in self.records]


def at(port, name="b"):
    return Peer(name=name, url=f"http://127.0.0.1:{port}")


async def test_a_request_reaches_the_peer_in_the_name_of_its_caller():
    """The peer sees who asked, through whom, with the lesser role; the answer says which peer it is of."""
    async with Node("b").running() as b, Node("a", peers=[b.peer]).running() as a, a.ask() as client:
        answer = await client.post(
            "/federation/forward/b",
            json={"path": "/control/pause", "method": "POST", "payload": {"why": "test"}},
            headers={"X-Request-ID": "request-7"},
        )
        assert answer.json() == {
            "target": "b",
            "status_code": 200,
            "data": {"node": "b", "actor": "federation:a/configured-key", "role": "operator"},
        }
        assert b.heard == [("POST", "/control/pause", "", b'{"why":"test"}', "request-7")]
        assert a.outcomes() == [("b", "started"), ("b", "ok")]
        assert a.records[1].duration_s > 0
        assert a.count(target="b", action="forward", status="ok") == 1


async def test_what_the_peer_refuses_is_refused():
    """An admin here who is an operator there may not do there what only an admin may."""
    async with Node("b").running() as b, Node("a", peers=[b.peer]).running() as a, a.ask() as client:
        answer = await client.post("/federation/forward/b", json={"path": "/control/reload", "method": "POST"})
        assert (answer.status_code, answer.json()["status_code"]) == (200, 403)
        assert b.heard == []
        assert a.count(target="b", action="forward", status="error") == 1


async def test_only_admins_forward():
    """A viewer may see who is there, and ask nobody."""
    async with Node("b").running() as b, Node("a", peers=[b.peer]).running() as a, a.ask("a viewer's key") as client:
        body = {"path": "/control/status"}
        assert (await client.post("/federation/forward/b", json=body)).status_code == 403
        assert (await client.post("/federation/fanout", json=body)).status_code == 403
        assert b.heard == []


@pytest.mark.parametrize(
    ("peer", "body", "status"),
    [
        ("nobody", {"path": "/status"}, 404),
        ("b", {"path": "/auth/login"}, 403),
        ("b", {"path": "/federation/fanout", "method": "POST"}, 403),
        ("b", {"path": "http://127.0.0.1/status"}, 422),
        ("b", {"path": "//127.0.0.1/status"}, 422),
        ("b", {"path": "/control/../status"}, 422),
        ("b", {"path": "/status\r\nX-Forwarded-Role: admin"}, 422),
        ("b", {"path": "/status", "method": "TRACE"}, 422),
        ("b", {"path": "/status", "url": "http://x"}, 422),
    ],
)
async def test_what_is_not_forwarded_says_so(peer, body, status):
    """Unknown peers, routes not listed and malformed paths are refused, and the peer hears nothing."""
    async with Node("b").running() as b, Node("a", peers=[b.peer]).running() as a, a.ask() as client:
        answer = await client.post(f"/federation/forward/{peer}", json=body)
        assert answer.status_code == status
        assert b.heard == []
        assert {r.outcome for r in a.records} <= {"denied"}


async def test_a_forwarded_request_goes_no_further():
    """A request that says it was forwarded is refused, whoever sends it, and that is on record."""
    async with Node("b").running() as b, Node("a", peers=[b.peer]).running() as a:
        async with a.ask(**{"X-Federation-Hop": "c"}) as client:
            for route in ("forward/b", "fanout"):
                answer = await client.post(f"/federation/{route}", json={"path": "/control/status"})
                assert answer.status_code == 403
                assert "forwarded again" in answer.json()["detail"]
        assert b.heard == []
        assert a.outcomes() == [("b", "denied")] * 2


async def test_a_caller_of_a_peer_is_not_forwarded_even_without_the_header():
    """Who came over a peer cannot be sent on by dropping a header."""
    async with Asking([at(1)]) as asking:
        caller = Principal(name="federation:c/alice", role=Role.ADMIN)
        with pytest.raises(PermissionsMissing):
            await asking.federation.forward("b", path="/status", method="GET", caller=caller)


async def test_fan_out_has_a_result_for_each_peer():
    """One peer answers, one is slow, one answers garbage, one is away: each has its own result."""
    async with AsyncExitStack() as stack:
        good = await stack.enter_async_context(Node("good").running())
        slow, _ = await stack.enter_async_context(raw_server(None))
        bad, _ = await stack.enter_async_context(raw_server(GARBAGE))
        peers = [at(good.port, "good"), at(slow, "slow"), at(bad, "bad"), at(free_port(), "away")]
        asking = await stack.enter_async_context(Asking(peers, timeout_s=1.0))
        began_s = time.monotonic()
        results = await asking.federation.fan_out(path="/control/status", method="GET", caller=ALICE)
        assert time.monotonic() - began_s < 3
        assert [r.target for r in results] == ["good", "slow", "bad", "away"]
        assert [r.status_code for r in results] == [200, None, None, None]
        assert results[0].data["node"] == "good"
        assert results[0].error is None
        assert "within" in results[1].error
        assert all(r.target in r.error for r in results[1:])
        assert {(r.target, r.outcome) for r in asking.records} >= {("good", "ok"), ("slow", "unreachable")}


async def test_fan_out_over_http_survives_a_peer_that_dies():
    """A peer killed between two requests is an error in its own result only."""
    async with AsyncExitStack() as stack:
        b = await stack.enter_async_context(Node("b").running())
        dying = AsyncExitStack()
        c = await dying.enter_async_context(Node("c").running())
        a = await stack.enter_async_context(Node("a", peers=[b.peer, c.peer]).running())
        client = await stack.enter_async_context(a.ask())
        body = {"path": "/control/status", "peers": ["c", "b", "c"]}
        before = (await client.post("/federation/fanout", json=body)).json()["results"]
        await dying.aclose()
        after = (await client.post("/federation/fanout", json=body)).json()["results"]
        assert [(r["target"], r["status_code"]) for r in before] == [("c", 200), ("b", 200)]
        assert [(r["target"], r["status_code"]) for r in after] == [("c", None), ("b", 200)]
        assert "c did not answer" in after[0]["error"]


async def test_fan_out_to_an_unknown_peer_asks_none():
    """One name that is no peer's refuses all of it, before anybody is asked."""
    async with Node("b").running() as b, Asking([at(b.port)]) as asking:
        with pytest.raises(RegistryError, match="nobody"):
            await asking.federation.fan_out(path="/control/status", method="GET", caller=ALICE, peers=["b", "nobody"])
        assert b.heard == []
        assert asking.outcomes() == ["denied", "denied"]
        assert asking.registry.get_sample_value(
            "orchestrator_federation_requests_total", {"target": "unknown", "action": "fanout", "status": "denied"}
        )


async def test_only_what_may_be_asked_twice_is_tried_again():
    """Where the connection breaks, a GET is tried three times and a POST once."""
    async with raw_server(b"") as (port, heard), Asking([at(port)]) as asking:
        with pytest.raises(TemporaryUnavailable):
            await asking.post()
        assert len(heard) == 1
        with pytest.raises(TemporaryUnavailable):
            await asking.get()
        assert len(heard) == 4
        assert asking.outcomes() == ["started", "unreachable"] * 2


async def test_the_deadline_holds_for_all_tries_together():
    """A peer that accepts and says nothing costs the deadline once."""
    async with raw_server(None) as (port, _), Asking([at(port)], timeout_s=0.6) as asking:
        began_s = time.monotonic()
        with pytest.raises(TemporaryUnavailable, match="b did not answer"):
            await asking.get()
        assert 0.5 < time.monotonic() - began_s < 1.7


async def test_a_failing_peer_is_left_alone_and_then_tried_once():
    """After so many failures the peer is not called; after a while one request finds out whether it is back."""
    clock = ManualClock()
    port = free_port()
    async with Asking([at(port)], clock=clock, breaker_threshold=2, breaker_timeout_s=30.0) as asking:
        for _ in range(2):
            with pytest.raises(TemporaryUnavailable, match="did not answer"):
                await asking.post()
        with pytest.raises(TemporaryUnavailable, match="left alone") as refused:
            await asking.post()
        assert refused.value.retry_after_sec == pytest.approx(30.0)
        clock.advance(31)
        async with Node("b").running(port):
            assert (await asking.post()).status_code == 200
        assert asking.outcomes() == ["started", "unreachable"] * 2 + ["open", "started", "ok"]


async def test_an_answer_of_any_status_keeps_the_breaker_closed():
    """Errors a peer answers are answers."""
    async with Node("b").running() as b, Asking([at(b.port)], breaker_threshold=1) as asking:
        assert [(await asking.post(path="/control/reload")).status_code for _ in range(3)] == [403] * 3


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (response(b"<html>"), "no JSON"),
        (response(b"NaN"), "no JSON"),
        (response(b"[" * 400 + b"]" * 400), "nested"),
        (response(b'"' + b"x" * 2000 + b'"'), "more than 1000 bytes"),
        (response(b"{}", b"content-encoding: gzip"), "compressed"),
        (response(b"", b"location: http://127.0.0.1:1/", status=b"307 Temporary Redirect"), "redirect"),
    ],
)
async def test_what_is_no_answer_is_not_passed_on(answer, said):
    """No JSON, too much of it, compression and redirects are errors, and asking again is not tried."""
    async with raw_server(answer) as (port, heard), Asking([at(port)]) as asking:
        with pytest.raises(GarbledAnswer, match=said):
            await asking.client.call(at(port), "GET", "/status", timeout_s=5)
        with pytest.raises(TemporaryUnavailable, match=said):
            await asking.get()
        assert len(heard) == 2


async def test_a_body_that_drips_ends_at_the_deadline():
    """Bytes that keep coming do not put off the deadline."""

    async def drip(_reader, writer):
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n")
        while True:
            writer.write(b" ")
            await writer.drain()
            await asyncio.sleep(0.02)

    async with streaming(drip) as port, PeerClient() as client:
        with pytest.raises(ConnectionFailed, match=r"within 0\.3 s"):
            await client.call(at(port), "GET", "/status", timeout_s=0.3)


async def test_redirects_are_not_followed_and_cookies_not_kept():
    """A peer can neither send a request elsewhere nor mark the next caller's."""
    asked = []

    async def status(request):
        asked.append(request.headers.get("cookie"))
        answer = JSONResponse({})
        answer.set_cookie("who", "alice")
        return answer

    async def plan(_request):
        return RedirectResponse("/status")

    app = Starlette(routes=[Route("/status", status), Route("/plan", plan)])
    async with served(app) as port, Asking([at(port)]) as asking:
        await asking.get()
        await asking.get()
        with pytest.raises(TemporaryUnavailable, match="redirect"):
            await asking.get(path="/plan")
    assert asked == [None, None]


async def test_the_environment_names_no_proxy(monkeypatch):
    """A proxy in the environment sees nothing of it."""
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{free_port()}")
    async with Node("b").running() as b, Asking([at(b.port)]) as asking:
        assert (await asking.get(path="/control/status")).status_code == 200


async def test_what_cannot_be_recorded_is_not_sent():
    """A recorder that refuses the start keeps the request here."""

    async def full(record):
        raise TemporaryUnavailable(f"no room for {record.outcome}")

    async with Node("b").running() as b, Asking([at(b.port)], recorder=full) as asking:
        with pytest.raises(TemporaryUnavailable, match="no room for started"):
            await asking.post()
        assert b.heard == []


async def test_an_end_that_cannot_be_recorded_does_not_hide_the_answer(caplog):
    """What was done at the peer is told to the caller, and the missing record is logged."""

    async def full(record):
        if record.outcome != "started":
            raise TemporaryUnavailable("no room")

    async with Node("b").running() as b, Asking([at(b.port)], recorder=full) as asking:
        assert (await asking.post()).status_code == 200
    assert "not on record" in caplog.text


async def test_a_request_given_up_is_on_record():
    """A caller who leaves in the middle is recorded as such."""
    async with raw_server(None) as (port, heard), Asking([at(port)]) as asking:
        task = asyncio.create_task(asking.post())
        await until(lambda: heard, "the peer heard nothing")
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert asking.outcomes() == ["started", "cancelled"]


async def test_records_hold_no_query():
    """The query of a path may hold secrets; it is sent and not recorded."""
    async with Node("b").running() as b, Asking([at(b.port)]) as asking:
        await asking.get(path="/control/status?a=%41&b=1")
        assert b.heard[0][2] == "a=%41&b=1"
        assert {r.path for r in asking.records} == {"/control/status"}


async def test_without_a_token_nothing_is_forwarded():
    """No service token, no request."""
    async with Asking([at(1)], token="") as asking:
        with pytest.raises(ConfigurationError, match="ORCH_FEDERATION_TOKEN"):
            await asking.get()


async def test_a_payload_that_is_no_json_is_refused():
    """What JSON cannot carry is the caller's error, not the peer's."""
    async with Asking([at(1)], breaker_threshold=1) as asking:
        with pytest.raises(ValidationError, match="payload"):
            await asking.post(payload={"x": object()})
        assert asking.outcomes() == ["started", "denied"]


async def test_a_token_over_http_is_warned_of(caplog):
    """A peer elsewhere that is called without TLS is named in the log."""
    async with Asking(
        [Peer(name="far", url="http://far.example"), Peer(name="safe", url="https://safe.example"), at(1)]
    ):
        assert "far" in caplog.text
        assert "safe" not in caplog.text
        assert len(caplog.records) == 1
