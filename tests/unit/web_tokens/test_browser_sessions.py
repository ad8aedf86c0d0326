"""Browser sessions, one-time secrets, and the routes below /auth."""

from __future__ import annotations

from urllib.parse import parse_qsl, urlsplit

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from oidc_issuer import AUDIENCE, NOW_S, FakeTime
from prometheus_client import CollectorRegistry, Counter
from starlette.requests import HTTPConnection

from market_data_core.errors import AuthenticationFailed
from market_data_core.web.auth import (
    CSRF_HEADER,
    ConfiguredKey,
    MemorySessions,
    OidcLogin,
    OneTime,
    Principal,
    Role,
    SessionCookies,
    Sessions,
    WsTickets,
    csrf_token,
    dual_auth,
    login_link,
    session_router,
)

ALICE = Principal(name="alice", role=Role.OPERATOR)
KEY = {"x-api-key": "the-key"}


class Front:
    """All of a service's ways in, and clients of it."""

    def __init__(self, clock, service_of, *, secure=False, tokens=None, oidc=None):
        self.store = MemorySessions()
        self.sessions = Sessions(self.store, idle_s=600, absolute_s=3600, secure=secure, clock=clock)
        self.links = OneTime(600, clock=clock)
        self.tickets = OneTime(30, clock=clock)
        self.failures = Counter("auth_failures", "t", ["reason"], registry=CollectorRegistry())
        ways = dual_auth(
            [ConfiguredKey("the-key")], tokens=tokens, sessions=[SessionCookies(self.sessions), WsTickets(self.tickets)]
        )
        router = session_router(
            self.sessions,
            authenticators=ways,
            links=self.links,
            tickets=self.tickets,
            oidc=oidc,
            failures=self.failures,
        )
        scheme = "https" if secure else "http"
        self.client = service_of(ways, router, base_url=f"{scheme}://test")

    async def log_in(self):
        return await self.client.get(login_link(self.links, ALICE, public_url=str(self.client.base_url)))


@pytest.fixture
async def front(clock, service_of):
    made = Front(clock, service_of)
    async with made.client:
        yield made


def websocket(*headers, query=b""):
    return HTTPConnection(
        {"type": "websocket", "scheme": "ws", "path": "/ws", "query_string": query, "headers": list(headers)}
    )


async def test_ping_says_who_calls(front):
    """And nobody without credentials gets an answer."""
    assert (await front.client.get("/auth/ping")).status_code == 401
    answer = await front.client.get("/auth/ping", headers=KEY)
    assert answer.json() == {"status": "ok", "user": "configured-key", "role": "admin"}


async def test_a_login_link_opens_a_session_once(front):
    """The second use is refused, and counted."""
    link = login_link(front.links, ALICE, public_url="http://test/")
    answer = await front.client.get(link)
    assert (answer.status_code, answer.headers["location"]) == (303, "/ui")
    me = (await front.client.get("/auth/me")).json()
    assert (me["user"], me["role"]) == ("alice", "operator")
    again = await front.client.get(link)
    assert (again.status_code, "used before" in again.json()["detail"]) == (401, True)
    assert front.failures.labels(reason="invalid")._value.get() == 1


@pytest.mark.parametrize(("waited_s", "status"), [(599, 303), (600, 401)])
async def test_a_login_link_holds_ten_minutes(front, clock, waited_s, status):
    """Not longer."""
    link = login_link(front.links, ALICE, public_url="http://test")
    clock.advance(waited_s)
    assert (await front.client.get(link)).status_code == status


@pytest.mark.parametrize(
    ("secure", "begins", "has"), [(False, "mdo_session=", False), (True, "__Host-mdo_session=", True)]
)
async def test_the_cookie_is_for_the_browser_only(clock, service_of, secure, begins, has):
    """HttpOnly, Lax, and Secure with the host prefix where there is https."""
    front = Front(clock, service_of, secure=secure)
    async with front.client:
        cookie = (await front.log_in()).headers["set-cookie"]
    assert cookie.startswith(begins)
    assert all(part in cookie for part in ("HttpOnly", "SameSite=lax", "Path=/", "Max-Age=3600"))
    assert ("Secure" in cookie) is has
    session_id = cookie.partition("=")[2].partition(";")[0]
    assert session_id not in repr(front.store._kept)


async def test_what_changes_something_needs_the_csrf_token(front):
    """Of this session; another's does not do."""
    await front.log_in()
    csrf = (await front.client.get("/auth/me")).json()["csrf_token"]
    for headers in ({}, {CSRF_HEADER: ""}, {CSRF_HEADER: "x" * 43}, {CSRF_HEADER: csrf_token("another")}):
        assert (await front.client.post("/who", headers=headers)).status_code == 401
    assert (await front.client.post("/who", headers={CSRF_HEADER: csrf})).json()["name"] == "alice"
    assert (await front.client.post("/who", headers=KEY)).json()["name"] == "configured-key"
    assert (await front.client.get("/who")).json()["name"] == "alice"


async def test_logging_out_ends_the_session_itself(front):
    """Not only the browser's knowledge of it."""
    await front.log_in()
    kept = dict(front.client.cookies)
    csrf = (await front.client.get("/auth/me")).json()["csrf_token"]
    assert (await front.client.post("/auth/logout")).status_code == 401
    assert (await front.client.post("/auth/logout", headers={CSRF_HEADER: csrf})).status_code == 204
    assert not front.client.cookies
    front.client.cookies.update(kept)
    assert (await front.client.get("/auth/me")).status_code == 401


async def test_a_session_nobody_uses_ends(front, clock):
    """One in use goes on, up to its absolute end."""
    await front.log_in()
    for _ in range(5):
        clock.advance(599)
        assert (await front.client.get("/who")).status_code == 200
    clock.advance(600)
    assert (await front.client.get("/who")).status_code == 401


async def test_a_session_ends_however_much_it_is_used(front, clock):
    """Its absolute end."""
    await front.log_in()
    kept = dict(front.client.cookies)
    for _ in range(11):
        clock.advance(300)
        assert (await front.client.get("/who")).status_code == 200
    clock.advance(300)
    front.client.cookies.update(kept)
    assert (await front.client.get("/who")).status_code == 401


async def test_a_websocket_with_a_session_must_come_from_our_page(clock):
    """A browser sends the cookie for any page."""
    sessions = Sessions(MemorySessions(), secure=False, clock=clock)
    cookie = (b"cookie", f"mdo_session={await sessions.open(ALICE)}".encode())
    ways = SessionCookies(sessions, allowed_origins=("https://ops.example",))
    host = (b"host", b"test:8080")
    for origin in (b"http://test:8080", b"https://ops.example"):
        assert await ways.authenticate(websocket(cookie, host, (b"origin", origin))) == ALICE
    with pytest.raises(AuthenticationFailed):
        await ways.authenticate(websocket(cookie, host, (b"origin", b"https://evil.example")))


async def test_a_ticket_opens_one_websocket_for_who_asked(front, clock):
    """Within thirty seconds, and no HTTP route."""
    tickets = [(await front.client.post("/auth/ws-ticket", headers=KEY)).json() for _ in range(2)]
    assert [ticket["expires_in_s"] for ticket in tickets] == [30, 30]
    ways = WsTickets(front.tickets)
    first, second = (b"ticket=" + ticket["ticket"].encode() for ticket in tickets)
    assert (await ways.authenticate(websocket(query=first))).name == "configured-key"
    assert await ways.authenticate(websocket(query=first)) is None
    assert (await front.client.get("/who?" + second.decode())).status_code == 401
    clock.advance(30)
    assert await ways.authenticate(websocket(query=second)) is None


def test_one_time_secrets_are_bounded():
    """The oldest goes first."""
    kept = OneTime(10, max_kept=2)
    secrets = [kept.issue(number) for number in range(3)]
    assert [kept.redeem(secret) for secret in secrets] == [None, 1, 2]


async def test_sessions_in_memory_are_bounded(clock):
    """The one unused for longest ends."""
    sessions = Sessions(MemorySessions(max_sessions=2), clock=clock)
    ids = []
    for _ in range(3):
        ids.append(await sessions.open(ALICE))
        clock.advance(1)
    assert [await sessions.find(session_id) is not None for session_id in ids] == [False, True, True]


@given(st.text(max_size=60))
def test_what_is_no_secret_stands_for_nothing(text):
    """Whatever is offered."""
    kept = OneTime(10, clock=FakeTime())
    kept.issue("value")
    assert kept.redeem(text) is None


@given(cookie=st.binary(max_size=80), csrf=st.binary(max_size=40))
async def test_arbitrary_cookies_are_nobody(cookie, csrf):
    """And no error."""
    ways = SessionCookies(Sessions(MemorySessions(), secure=False))
    headers = [(b"cookie", b"mdo_session=" + cookie), (b"x-csrf-token", csrf)]
    assert await ways.authenticate(HTTPConnection({"type": "http", "method": "POST", "headers": headers})) is None


@pytest.fixture
async def oidc_front(issuer, tokens, clock, service_of):
    login = OidcLogin(tokens, client_id="cockpit", client_secret="s:cret/", public_url="http://test")
    made = Front(clock, service_of, tokens=tokens, oidc=login)
    async with made.client:
        yield made


async def begin(front):
    answer = await front.client.get("/auth/login")
    assert answer.status_code == 303
    return answer, dict(parse_qsl(urlsplit(answer.headers["location"]).query))


async def test_a_browser_logs_in_at_the_issuer(oidc_front, issuer):
    """Authorization code with PKCE, state and nonce; the browser never sees a token."""
    answer, query = await begin(oidc_front)
    assert answer.headers["location"].startswith(f"{issuer.url}/authorize?")
    assert query["redirect_uri"] == "http://test/auth/callback"
    assert query["code_challenge_method"] == "S256"
    code = issuer.grant(query, id_token=issuer.token(aud="cockpit", nonce=query["nonce"], roles=["operator"]))
    answer = await oidc_front.client.get(f"/auth/callback?code={code}&state={query['state']}")
    assert (answer.status_code, answer.headers["location"]) == (303, "/ui")
    assert (await oidc_front.client.get("/auth/me")).json()["role"] == "operator"
    form, authorization = issuer.exchanges[0]
    assert form["grant_type"] == "authorization_code"
    assert httpx.BasicAuth("cockpit", "s%3Acret%2F")._auth_header == authorization
    assert set(oidc_front.client.cookies) == {"mdo_session"}


async def test_roles_may_be_in_the_access_token(oidc_front, issuer):
    """As some issuers have it, for the same subject only."""
    for subject, status in (("alice", 303), ("eve", 401)):
        _, query = await begin(oidc_front)
        code = issuer.grant(
            query,
            id_token=issuer.token(aud="cockpit", nonce=query["nonce"], drop=("roles",)),
            access_token=issuer.token(sub=subject, aud=AUDIENCE),
        )
        answer = await oidc_front.client.get(f"/auth/callback?code={code}&state={query['state']}")
        assert answer.status_code == status


@pytest.mark.parametrize(
    "claims", [{"nonce": "another"}, {"nonce": None}, {"aud": AUDIENCE}, {"exp": NOW_S - 100}, {"roles": []}]
)
async def test_an_id_token_that_does_not_hold_logs_nobody_in(oidc_front, issuer, claims):
    """Of another login, for another client, too old, or without a role."""
    _, query = await begin(oidc_front)
    code = issuer.grant(query, id_token=issuer.token(**({"aud": "cockpit", "nonce": query["nonce"]} | claims)))
    answer = await oidc_front.client.get(f"/auth/callback?code={code}&state={query['state']}")
    assert answer.status_code == 401
    assert "mdo_session" not in oidc_front.client.cookies


async def test_only_the_browser_that_began_a_login_can_finish_it(oidc_front, issuer):
    """Otherwise an attacker could log a victim in as themselves."""
    _, query = await begin(oidc_front)
    code = issuer.grant(query, id_token=issuer.token(aud="cockpit", nonce=query["nonce"]))
    for state in ("", "x" * 43, "%FF"):
        assert (await oidc_front.client.get(f"/auth/callback?code={code}&state={state}")).status_code == 401
    oidc_front.client.cookies.clear()
    assert (await oidc_front.client.get(f"/auth/callback?code={code}&state={query['state']}")).status_code == 401
    assert issuer.exchanges == []


async def test_a_code_the_issuer_does_not_know_logs_nobody_in(oidc_front, issuer):
    """Nor one that is not there, nor a login while the issuer is away."""
    _, query = await begin(oidc_front)
    for code in ("unknown", ""):
        answer = await oidc_front.client.get(f"/auth/callback?code={code}&state={query['state']}")
        assert answer.status_code == 401
    await issuer.stop()
    answer = await oidc_front.client.get(f"/auth/callback?code=any&state={query['state']}")
    assert answer.status_code == 503


async def test_without_an_issuer_there_is_no_such_login(front):
    """It is said what to do instead."""
    answer = await front.client.get("/auth/login")
    assert (answer.status_code, "login link" in answer.json()["detail"]) == (404, True)
    assert (await front.client.get("/auth/callback?code=a&state=b")).status_code == 404
