"""Signing in at a real OpenID provider: browsers, tokens, a rotation of keys, logging out."""

from __future__ import annotations

import base64
import hashlib
import re
import secrets
import shutil
import time
from urllib.parse import parse_qs, quote_plus, urlsplit

import httpx
import pytest
from joserfc import jwt
from joserfc.jwk import RSAKey
from playwright.sync_api import expect, sync_playwright

from support.oidc_provider import OidcProvider, install_oidc_provider
from support.service import RunningService, eventually, free_port

AUDIENCE = "market-data-orchestrator"
CHROMIUM = "/usr/bin/chromium"


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("oidc-provider")
    problem = install_oidc_provider(folder)
    if problem:
        pytest.skip(problem)
    return folder


@pytest.fixture(scope="module")
def world(installed, tmp_path_factory):
    """A provider and a service that trusts it."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    back = {"redirect_uri": f"{url}/auth/callback", "logged_out_uri": f"{url}/auth/logged-out"}
    made = OidcProvider(installed, free_port(), audience=AUDIENCE, **back)
    settings = {"JWT_ENABLED": "true", "OIDC_ISSUER": made.issuer, "OIDC_AUDIENCE": AUDIENCE, "PUBLIC_URL": url}
    settings |= {"OIDC_CLIENT_ID": made.client_id, "OIDC_CLIENT_SECRET": made.client_secret}
    # The attacks here are more than the ten wrong tokens a minute that an address may send.
    settings |= {"RATE_LIMIT_ENABLED": "false", "PROVIDER_RATE": "100", "JWT_REFETCH_SEC": "0.5"}
    data = tmp_path_factory.mktemp("oidc-service") / "data"
    with made as provider, RunningService(data, HEALTH_PORT=port, **settings) as service:
        service.wait_healthy()
        yield provider, service


@pytest.fixture
def browser(world):
    with httpx.Client(trust_env=False, timeout=10) as client:
        yield client


def logged_in(world, browser, account):
    provider, service = world
    return provider.log_in(browser, f"{service.url}/auth/login", account)


def bearer(service, token, path="/control/status", method="GET"):
    headers = {"Authorization": f"Bearer {token}"}
    return httpx.request(method, f"{service.url}{path}", headers=headers, trust_env=False, timeout=10)


def access_token(provider, service):
    """Log in as a program does that has the client's secret, and keep the access token."""
    verifier = secrets.token_urlsafe(32)
    challenge = base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).rstrip(b"=").decode()
    query = {
        "response_type": "code",
        "client_id": provider.client_id,
        "redirect_uri": f"{service.url}/auth/callback",
        "scope": "openid profile",
        "code_challenge": challenge,
        "code_challenge_method": "S256",
    }
    with httpx.Client(trust_env=False) as client:
        answer = client.get(f"{provider.issuer}/auth", params=query)
        while "code" not in parse_qs(urlsplit(answer.headers["location"]).query):
            answer = client.get(answer.url.join(answer.headers["location"]))
        code = parse_qs(urlsplit(answer.headers["location"]).query)["code"][0]
        form = {"grant_type": "authorization_code", "code": code, "redirect_uri": query["redirect_uri"]}
        secret = httpx.BasicAuth(provider.client_id, quote_plus(provider.client_secret))
        found = client.post(f"{provider.issuer}/token", data=form | {"code_verifier": verifier}, auth=secret)
        assert found.status_code == 200, found.text
        return found.json()["access_token"]


@pytest.mark.parametrize(("account", "role"), [("alice", "operator"), ("kate", "admin")])
def test_a_browser_logs_in_acts_and_logs_out(world, browser, account, role):
    """With the roles of the id token, or of the access token where that alone has them; then nothing is left."""
    provider, service = world
    answer = logged_in(world, browser, account)
    assert (answer.status_code, answer.headers["location"]) == (303, "/ui")
    me = browser.get(f"{service.url}/auth/me").json()
    assert (me["user"], me["role"]) == (account, role)
    kept = httpx.Cookies(browser.cookies)
    headers = {"X-CSRF-Token": me["csrf_token"]}
    assert browser.post(f"{service.url}/control/resume").status_code == 401
    assert browser.post(f"{service.url}/control/resume", headers=headers).status_code == 200
    ended = browser.post(f"{service.url}/auth/logout", headers=headers)
    assert ended.status_code == 200
    assert ended.json()["end_session_url"].startswith(f"{provider.issuer}/")
    # The session has ended where it was kept: the cookie of before opens nothing.
    for cookies in (browser.cookies, kept):
        assert httpx.get(f"{service.url}/auth/me", cookies=cookies, trust_env=False).status_code == 401
    assert logged_in(world, browser, account).status_code == 303


def test_logging_out_ends_the_providers_session_too(world, browser):
    """Without it whoever comes next to this browser is let in unasked; with it the provider asks who they are."""
    provider, service = world
    assert logged_in(world, browser, "alice").status_code == 303
    asked = provider.asked
    # The provider remembers alice, so nobody is asked, whoever they would say they are.
    logged_in(world, browser, "kate")
    me = browser.get(f"{service.url}/auth/me").json()
    assert (me["user"], provider.asked) == ("alice", asked)

    ended = browser.post(f"{service.url}/auth/logout", headers={"X-CSRF-Token": me["csrf_token"]})
    home = provider.log_out(browser, ended.json()["end_session_url"])
    assert (home.status_code, home.headers["location"]) == (303, "/ui")
    assert not [name for name in browser.cookies if name.startswith("mdo_")]
    assert browser.get(f"{service.url}/auth/me").status_code == 401
    logged_in(world, browser, "kate")
    assert (browser.get(f"{service.url}/auth/me").json()["user"], provider.asked) == ("kate", asked + 1)


@pytest.mark.browser
@pytest.mark.skipif(shutil.which(CHROMIUM) is None, reason=f"Chromium is not at {CHROMIUM}")
def test_the_cockpit_logs_out_at_the_provider(world):
    """Sign out leads to the provider's question, and from there back to a cockpit that knows nobody."""
    provider, service = world
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        page = chromium.new_page()
        page.goto(f"{service.url}/auth/login")
        expect(page).to_have_url(f"{service.url}/ui")
        expect(page.locator("#account")).to_have_text("alice · operator")
        page.locator("#account").click()
        page.locator("#confirm-do").click()
        expect(page).to_have_url(re.compile(f"{provider.issuer}/session/end"))
        page.get_by_role("button", name="Yes, sign me out").click()
        expect(page).to_have_url(f"{service.url}/ui")
        expect(page.locator("#account")).to_have_text("Sign in")
        chromium.close()


def test_nothing_of_the_issuers_is_kept_where_others_read(world, browser):
    """No token is in the small state, the audit trail, the log or a cookie."""
    _, service = world
    logged_in(world, browser, "alice")
    headers = {"X-CSRF-Token": browser.get(f"{service.url}/auth/me").json()["csrf_token"]}
    browser.post(f"{service.url}/auth/logout", headers=headers)
    kept = b"".join(path.read_bytes() for path in service.data_dir.glob("state.db*"))
    kept += (service.data_dir / "audit.jsonl").read_bytes() + service.output().encode()
    assert b"sessions" in kept
    assert b"eyJ" not in kept
    assert not any("eyJ" in value for value in browser.cookies.values())


def test_who_has_no_role_of_ours_is_not_let_in(world, browser):
    """The provider knows them; the service opens no session."""
    answer = logged_in(world, browser, "nobody")
    assert answer.status_code == 401
    assert "no role" in answer.json()["detail"]
    assert "mdo_session" not in browser.cookies


def test_a_callback_counts_once_and_for_its_own_browser(world, browser):
    """The address the provider sent the browser to is worth nothing afterwards, here or elsewhere."""
    _, service = world
    callback = logged_in(world, browser, "alice").url
    assert browser.get(callback).status_code == 401
    assert httpx.get(callback, trust_env=False).status_code == 401
    assert browser.get(f"{service.url}/auth/me").status_code == 200


def test_a_tokens_keys_can_rotate_while_the_service_runs(world):
    """A provider that comes back with another key: its new tokens open within seconds, the old ones no longer."""
    provider, service = world
    old = access_token(provider, service)
    answer = bearer(service, old)
    assert answer.status_code == 200, answer.text
    assert bearer(service, old, "/control/resume", "POST").status_code == 200
    assert bearer(service, old, "/control/reload", "POST").status_code == 403
    provider.stop()
    assert bearer(service, old).status_code == 200
    provider.start("second")
    new = access_token(provider, service)
    # Keys are fetched only so often, so that nobody who invents key ids can storm the issuer.
    eventually(lambda: bearer(service, new).status_code == 200, 15, "tokens of the new key are accepted")
    assert bearer(service, old).status_code == 401


def forged(provider, key, *, header=None, **claims):
    now = int(time.time())
    body = {"iss": provider.issuer, "aud": AUDIENCE, "sub": "eve", "iat": now, "exp": now + 60, "roles": ["admin"]}
    return jwt.encode({"alg": "RS256", "kid": key.kid} | (header or {}), body | claims, key)


def test_what_the_provider_did_not_sign_opens_nothing(world):
    """Claims that would do under its own key do not under another; and of its own, none that are meant for others."""
    provider, service = world
    other = RSAKey.generate_key(2048, {"kid": provider.key.kid})
    now = int(time.time())
    assert bearer(service, forged(provider, provider.key)).status_code == 200
    tokens = [
        forged(provider, other),
        *(forged(provider, provider.key, **wrong) for wrong in (
            {"aud": provider.client_id}, {"iss": f"{provider.issuer}/"}, {"exp": now - 3600}, {"iat": now + 3600},
            {"nbf": now + 3600}, {"roles": []}, {"sub": "x" * 20_000},
        )),
    ]  # fmt: skip
    assert [bearer(service, token).status_code for token in tokens] == [401] * len(tokens)
