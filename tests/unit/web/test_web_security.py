"""Security headers, and who may open a WebSocket."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.responses import HTMLResponse

from market_data_core.web import API_CSP, create_service_app, host_allowed, origin_allowed

UI_CSP = "default-src 'self'"


@pytest.fixture
def paged_app(registry):
    app = create_service_app(title="t", version="1", registry=registry, csp={"/ui": UI_CSP, "/ui/embed": "sandbox"})

    @app.get("/own")
    async def own():
        return HTMLResponse("x", headers={"Content-Security-Policy": "default-src data:"})

    @app.get("/fail")
    async def fail():
        raise RuntimeError

    return app


@pytest.mark.parametrize("path", ["/metrics", "/no/such", "/fail"])
async def test_every_answer_has_the_headers(path, paged_app, client_of):
    """Successes and errors alike."""
    async with client_of(paged_app) as client:
        response = await client.get(path)
    assert response.headers["x-content-type-options"] == "nosniff"
    assert response.headers["referrer-policy"] == "no-referrer"
    assert response.headers["x-frame-options"] == "DENY"
    assert response.headers["content-security-policy"] == API_CSP
    assert response.headers["x-request-id"]


@pytest.mark.parametrize(
    ("path", "policy"),
    [
        ("/ui", UI_CSP),
        ("/ui/cockpit.js", UI_CSP),
        ("/uix", API_CSP),
        ("/ui/embed/x", "sandbox"),
        ("/ui/embedded", UI_CSP),
        ("/own", "default-src data:"),
    ],
)
async def test_pages_have_their_own_policy(path, policy, paged_app, client_of):
    """The longest matching prefix decides, unless the answer brought its own."""
    async with client_of(paged_app) as client:
        response = await client.get(path)
    assert response.headers.get_list("content-security-policy") == [policy]


@pytest.mark.parametrize(
    ("origin", "host"),
    [
        ("http://127.0.0.1:8080", "127.0.0.1:8080"),
        ("http://LOCALHOST:8080", "localhost:8080"),
        ("http://ops.example", "ops.example:80"),
        ("https://ops.example", "ops.example"),
        ("https://ops.example:443", "ops.example"),
        ("http://[::1]:8080", "[::1]:8080"),
    ],
)
def test_a_page_we_served_may_connect(origin, host, scope_of):
    """Same host and port, however the default port is written."""
    scope = scope_of((b"origin", origin.encode()), (b"host", host.encode()), kind="websocket")
    assert origin_allowed(scope)


@pytest.mark.parametrize(
    ("origin", "host"),
    [
        ("http://evil.example", "127.0.0.1:8080"),
        ("http://127.0.0.1:8081", "127.0.0.1:8080"),
        ("http://127.0.0.1:8080.evil.example", "127.0.0.1:8080"),
        ("http://127.0.0.1:8080@evil.example", "127.0.0.1:8080"),
        ("http://evil.example@127.0.0.1:8080", "127.0.0.1:8080"),
        ("http://127.0.0.1:8080/", "127.0.0.1:8080"),
        ("http://127.0.0.1:8080?", "127.0.0.1:8080"),
        ("http://127.0.0.1:\t8080", "127.0.0.1:8080"),
        ("http://127.0.0.1:99999", "127.0.0.1:99999"),
        ("http://[::1", "[::1"),
        ("file://127.0.0.1:8080", "127.0.0.1:8080"),
        ("null", "127.0.0.1:8080"),
        ("", ""),
        ("http://", ""),
        ("127.0.0.1:8080", "127.0.0.1:8080"),
    ],
)
def test_any_other_page_may_not_connect(origin, host, scope_of):
    """Other hosts and ports, look-alikes, and what is no origin at all."""
    scope = scope_of((b"origin", origin.encode()), (b"host", host.encode()), kind="websocket")
    assert not origin_allowed(scope)


def test_programs_without_an_origin_may_connect(scope_of):
    """Only browsers send Origin."""
    assert origin_allowed(scope_of((b"host", b"anything"), kind="websocket"))


def test_a_configured_origin_may_connect(scope_of):
    """Case and a trailing slash in the setting do not matter; another scheme does."""
    allowed = ["https://Ops.Example/"]
    host = (b"host", b"10.0.0.1")
    assert origin_allowed(scope_of((b"origin", b"https://ops.example"), host, kind="websocket"), allowed)
    assert not origin_allowed(scope_of((b"origin", b"http://ops.example"), host, kind="websocket"), allowed)


def test_two_origins_or_hosts_are_refused(scope_of):
    """A request that contradicts itself was not made by a browser."""
    origin, host = (b"origin", b"http://a"), (b"host", b"a")
    assert not origin_allowed(scope_of(origin, origin, host, kind="websocket"))
    assert not origin_allowed(scope_of(origin, host, host, kind="websocket"))
    assert not origin_allowed(scope_of(origin, kind="websocket"))


def test_a_plain_page_may_not_connect_over_tls(scope_of):
    """Whoever can forge http://ops.example on the network gets no session of https://ops.example."""
    headers = [(b"origin", b"http://ops.example"), (b"host", b"ops.example")]
    assert not origin_allowed(scope_of(*headers, kind="websocket", scheme="wss"))


@given(st.binary(max_size=60))
def test_no_origin_bytes_are_allowed_but_our_own(value):
    """For any bytes, only the two spellings of the page's own address pass, and none makes the check fail."""
    scope = {"type": "websocket", "scheme": "ws", "headers": [(b"origin", value), (b"host", b"a.example:81")]}
    assert origin_allowed(scope) == (value.lower() in (b"http://a.example:81", b"https://a.example:81"))


@pytest.mark.parametrize(
    "host", ["127.0.0.1:8080", "[::1]:8080", "localhost", "LocalHost:1", "10.1.2.3", "ops.example"]
)
def test_hosts_that_are_ours(host, scope_of):
    """Addresses, localhost, and names from the settings."""
    assert host_allowed(scope_of((b"host", host.encode())), ["Ops.example"])


@pytest.mark.parametrize(
    "host", ["evil.example:8080", "ops.example.evil", "", ":8080", "127.0.0.1.evil", "a@127.0.0.1"]
)
def test_names_that_only_resolve_to_us_are_not_ours(host, scope_of):
    """A page whose name was made to resolve to our address does not get in by it."""
    assert not host_allowed(scope_of((b"host", host.encode())), ["ops.example"])


def test_a_request_without_one_host_is_not_ours(scope_of):
    """No Host header, or two, cannot be judged."""
    assert not host_allowed(scope_of())
    assert not host_allowed(scope_of((b"host", b"localhost"), (b"host", b"localhost")))
