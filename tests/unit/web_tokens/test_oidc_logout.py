"""Logging out at the issuer a browser logged in at, and coming back from there."""

from __future__ import annotations

import base64
from urllib.parse import parse_qsl, urlsplit

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Counter
from starlette.requests import Request

from market_data_core.web.auth import (
    CSRF_HEADER,
    Issuer,
    MemorySessions,
    OidcLogin,
    OidcLogout,
    OidcTokens,
    OneTime,
    Principal,
    Role,
    SessionCookies,
    Sessions,
    dual_auth,
    login_link,
    session_router,
)
from market_data_core.web.auth.oidc import Endpoints

ALICE = Principal(name="alice", role=Role.OPERATOR)


class Front:
    """A service whose browsers log in at the issuer or by a link, over http or https."""

    def __init__(self, issuer, tokens, clock, service_of, *, public_url="http://test"):
        self.issuer = issuer
        self.public_url = public_url
        self.sessions = Sessions(MemorySessions(), secure=public_url.startswith("https"), clock=clock)
        self.links = OneTime(600, clock=clock)
        failures = Counter("failures", "t", ["reason"], registry=CollectorRegistry())
        ways = dual_auth([], tokens=tokens, sessions=[SessionCookies(self.sessions)])
        router = session_router(
            self.sessions,
            authenticators=ways,
            links=self.links,
            tickets=OneTime(30, clock=clock),
            oidc=OidcLogin(tokens, client_id="cockpit", client_secret="", public_url=public_url),
            oidc_logout=OidcLogout(tokens.issuer, client_id="cockpit", public_url=public_url),
            failures=failures,
        )
        self.client = service_of(ways, router, base_url=public_url)

    async def log_in(self, **claims):
        query = dict(parse_qsl(urlsplit((await self.client.get("/auth/login")).headers["location"]).query))
        token = self.issuer.token(aud="cockpit", nonce=query["nonce"], roles=["operator"], **claims)
        code = self.issuer.grant(query, id_token=token)
        answer = await self.client.get(f"/auth/callback?code={code}&state={query['state']}")
        assert answer.status_code == 303
        return token

    async def log_out(self):
        csrf = (await self.client.get("/auth/me")).json()["csrf_token"]
        return await self.client.post("/auth/logout", headers={CSRF_HEADER: csrf})


@pytest.fixture
async def front(issuer, tokens, clock, service_of):
    issuer.end_session = f"{issuer.url}/session/end?tenant=a"
    made = Front(issuer, tokens, clock, service_of)
    async with made.client:
        yield made


def asked_of_issuer(answer):
    """The address the browser is sent to, and what it takes along."""
    url, _, query = answer.json()["end_session_url"].partition("?")
    return url, dict(parse_qsl(query))


async def test_logout_leads_to_the_issuer_and_back(front, issuer):
    """With client id, return address and state; our own session and all cookies are gone."""
    await front.log_in()
    kept = dict(front.client.cookies)
    answer = await front.log_out()
    assert (answer.status_code, answer.headers["cache-control"]) == (200, "no-store")
    url, query = asked_of_issuer(answer)
    assert url == f"{issuer.url}/session/end"
    assert {name: query[name] for name in query if name != "state"} == {
        "tenant": "a",
        "client_id": "cockpit",
        "post_logout_redirect_uri": "http://test/auth/logged-out",
    }
    assert set(front.client.cookies) == {"mdo_logout"}
    back = await front.client.get(f"/auth/logged-out?state={query['state']}")
    assert (back.status_code, back.headers["location"]) == (303, "/ui")
    assert not front.client.cookies
    assert (await front.client.get("/auth/me", headers=cookies(kept))).status_code == 401


def cookies(kept):
    return {"cookie": "; ".join(f"{name}={value}" for name, value in kept.items())}


@pytest.mark.parametrize("sid", ["c9f1e5b0-ü/+= ;", "x" * 256])
async def test_the_issuers_own_name_for_its_session_is_a_hint(front, sid):
    """So that it need not ask which one is meant; the id token is sent nowhere and kept nowhere."""
    token = await front.log_in(sid=sid)
    assert token not in str(front.client.cookies)
    _, query = asked_of_issuer(await front.log_out())
    assert query["logout_hint"] == sid
    assert "id_token_hint" not in query


@pytest.mark.parametrize("sid", ["", "x" * 257, "a\nb", 7, None, ["a"]])
async def test_what_is_no_usable_name_is_no_hint(front, sid):
    """The issuer then asks its user."""
    await front.log_in(sid=sid)
    assert "logout_hint" not in asked_of_issuer(await front.log_out())[1]


async def test_our_session_ends_whatever_the_issuer_does(issuer, tokens, clock, service_of):
    """One that ends no sessions, and one that does not answer: there is nowhere to go, and no error."""
    plain = Front(issuer, tokens, clock, service_of)
    async with plain.client:
        await plain.log_in()
        assert (await plain.log_out()).status_code == 204
        assert not plain.client.cookies
    issuer.end_session = f"{issuer.url}/session/end"
    fresh = OidcTokens(issuer=issuer.url, audience="a", clock=clock, timeout_s=0.5)
    away = Front(issuer, fresh, clock, service_of)
    async with away.client:
        await away.log_in()
        fresh.issuer._endpoints = None
        await issuer.stop()
        kept = dict(away.client.cookies)
        assert (await away.log_out()).status_code == 204
        assert (await away.client.get("/auth/me", headers=cookies(kept))).status_code == 401


async def test_an_address_that_could_be_anybodys_is_not_gone_to(issuer, tokens, clock, service_of):
    """Plain http to another machine."""
    issuer.end_session = "http://issuer.example/end"
    front = Front(issuer, tokens, clock, service_of)
    async with front.client:
        await front.log_in()
        assert (await front.log_out()).status_code == 204


async def test_who_came_by_a_link_is_not_sent_to_the_issuer(front):
    """Not even where the same browser had logged in there before."""
    await front.log_in()
    await front.client.get(login_link(front.links, ALICE, public_url="http://test"))
    answer = await front.log_out()
    assert (answer.status_code, answer.content) == (204, b"")


async def test_only_the_browser_that_began_a_logout_comes_back_from_it(front):
    """By its state; each counts once."""
    await front.log_in()
    _, query = asked_of_issuer(await front.log_out())
    for state in ("", "x" * 43, "%FF"):
        assert (await front.client.get(f"/auth/logged-out?state={state}")).status_code == 401
    assert (await front.client.get(f"/auth/logged-out?state={query['state']}")).status_code == 303
    assert (await front.client.get(f"/auth/logged-out?state={query['state']}")).status_code == 401


async def test_over_https_its_cookies_are_this_hosts_alone(issuer, tokens, clock, service_of):
    """As that of the session is, and no page can read them."""
    issuer.end_session = f"{issuer.url}/session/end"
    front = Front(issuer, tokens, clock, service_of, public_url="https://test")
    async with front.client:
        await front.log_in()
        assert "__Host-mdo_issuer" in front.client.cookies
        answer = await front.log_out()
    begun = next(c for c in answer.headers.get_list("set-cookie") if c.startswith("__Host-mdo_logout="))
    assert all(part in begun for part in ("Secure", "HttpOnly", "SameSite=lax", "Path=/", "Max-Age=600"))


async def test_a_page_elsewhere_logs_nobody_out(front):
    """Neither here nor at the issuer: the session's token is asked for as before."""
    await front.log_in()
    assert (await front.client.post("/auth/logout")).status_code == 401
    assert (await front.client.get("/auth/me")).status_code == 200


@given(mark=st.binary(max_size=60) | st.binary(max_size=60).map(base64.urlsafe_b64encode))
async def test_a_mark_that_a_browser_made_up_does_no_harm(mark):
    """At worst its hint is none of the issuer's; where the browser goes is not for it to say."""
    issuer = Issuer("https://issuer.example")
    issuer._endpoints = Endpoints(jwks="https://issuer.example/keys", end_session="https://issuer.example/end")
    logout = OidcLogout(issuer, client_id="cockpit", public_url="https://test")
    request = Request({"type": "http", "headers": [(b"cookie", b"__Host-mdo_issuer=" + mark)]})
    answer = await logout.begin(request)
    assert (
        answer is None or asked_of_issuer(httpx.Response(200, content=answer.body))[0] == "https://issuer.example/end"
    )
