"""The routes by which browsers log in and out."""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final
from urllib.parse import quote, urlencode

from fastapi import APIRouter
from prometheus_client import Counter
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from market_data_core.errors import AuthenticationFailed, ConfigurationError, TemporaryUnavailable
from market_data_core.web.auth.authenticators import Authenticator
from market_data_core.web.auth.gate import Gate, guarded_route, require
from market_data_core.web.auth.oidc import fetch_json
from market_data_core.web.auth.roles import Principal, Role
from market_data_core.web.auth.sessions import OneTime, Sessions, csrf_token
from market_data_core.web.auth.tokens import OidcTokens, role_in

_STATE_S: Final = 600
_MAX_CODE_CHARS: Final = 4096


class OidcLogin:
    """Login at an OpenID issuer: authorization code with PKCE, exchanged by the server.

    What has to be remembered until the browser comes back (state, nonce, PKCE verifier) is in a cookie of that
    browser, so that nobody can fill the server with logins that are never finished, nor finish another's.

    Args:
        tokens: Checks what the issuer signs.
        client_id: What the issuer knows us as.
        client_secret: Its secret; empty for a public client.
        public_url: The URL browsers reach the service by; the callback is ``/auth/callback`` below it.
        scope: What is asked for.

    Raises:
        ConfigurationError: The client id or the public URL is missing.
    """

    def __init__(
        self,
        tokens: OidcTokens,
        *,
        client_id: str,
        client_secret: str,
        public_url: str,
        scope: str = "openid profile",
    ) -> None:
        if not client_id or not public_url:
            raise ConfigurationError("login at an OIDC issuer needs the client id and the public URL")
        self._tokens = tokens
        self._client_id = client_id
        self._client_secret = client_secret
        self._scope = scope
        self._callback = f"{public_url.rstrip('/')}/auth/callback"
        self.secure = public_url.lower().startswith("https://")
        self.cookie = "__Host-mdo_login" if self.secure else "mdo_login"

    async def begin(self) -> Response:
        """Return the redirect to the issuer.

        Raises:
            TemporaryUnavailable: The issuer does not answer, or cannot do this.
        """
        endpoint = (await self._tokens.issuer.endpoints()).authorization
        if not endpoint:
            raise TemporaryUnavailable("the issuer names no place to log in at")
        state, nonce, verifier = (secrets.token_urlsafe(32) for _ in range(3))
        challenge = base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).rstrip(b"=").decode()
        query = {
            "response_type": "code",
            "client_id": self._client_id,
            "redirect_uri": self._callback,
            "scope": self._scope,
            "state": state,
            "nonce": nonce,
            "code_challenge": challenge,
            "code_challenge_method": "S256",
        }
        answer = _redirect(f"{endpoint}{'&' if '?' in endpoint else '?'}{urlencode(query)}")
        _set_cookie(answer, self.cookie, f"{state}.{nonce}.{verifier}", secure=self.secure, max_age_s=_STATE_S)
        return answer

    async def finish(self, request: Request) -> Principal:
        """Return who has logged in, for the request with which the issuer sent the browser back.

        Raises:
            AuthenticationFailed: The login was not begun by this browser, was refused, or does not hold.
            TemporaryUnavailable: The issuer does not answer.
        """
        remembered = request.cookies.get(self.cookie, "").split(".")
        if len(remembered) != 3:
            raise AuthenticationFailed("this browser has begun no login; start again at /auth/login")
        state, nonce, verifier = remembered
        offered = request.query_params.get("state", "").encode("utf-8", "replace")
        if not state or not hmac.compare_digest(offered, state.encode("utf-8", "replace")):
            raise AuthenticationFailed("the login is not the one this browser began; start again at /auth/login")
        code = request.query_params.get("code", "")
        if not 0 < len(code) <= _MAX_CODE_CHARS:
            raise AuthenticationFailed("the issuer did not log you in")
        answer = await self._exchange(code, verifier)
        id_token = answer.get("id_token")
        if not isinstance(id_token, str):
            raise AuthenticationFailed("the issuer gave no id token")
        claims = await self._tokens.claims_of(id_token, audience=self._client_id)
        named = claims.get("nonce")
        if not isinstance(named, str) or not hmac.compare_digest(named.encode("utf-8", "replace"), nonce.encode()):
            raise AuthenticationFailed("the id token is of another login")
        return await self._principal(claims, answer.get("access_token"))

    async def _exchange(self, code: str, verifier: str) -> dict[str, Any]:
        endpoint = (await self._tokens.issuer.endpoints()).token
        if not endpoint:
            raise TemporaryUnavailable("the issuer names no place to exchange a code at")
        form = {
            "grant_type": "authorization_code",
            "code": code,
            "redirect_uri": self._callback,
            "code_verifier": verifier,
            "client_id": self._client_id,
        }
        # Quoted as RFC 6749, section 2.3.1 says.
        secret = (quote(self._client_id, safe=""), quote(self._client_secret, safe=""))
        timeout_s = self._tokens.issuer.timeout_s
        auth = secret if self._client_secret else None
        return await fetch_json("POST", endpoint, timeout_s=timeout_s, form=form, auth=auth)

    async def _principal(self, claims: dict[str, Any], access_token: object) -> Principal:
        role = role_in(claims, self._tokens.role_claim)
        if role is not None:
            return Principal(name=claims["sub"], role=role)
        # Some issuers put roles into the access token only (Keycloak does unless told otherwise).
        if isinstance(access_token, str):
            access = await self._tokens.claims_of(access_token)
            if access["sub"] == claims["sub"]:
                return self._tokens.principal_of(access)
        raise AuthenticationFailed("neither the id token nor the access token names a role of this service")


def session_router(
    sessions: Sessions,
    *,
    authenticators: Sequence[Authenticator],
    links: OneTime[Principal],
    tickets: OneTime[Principal],
    oidc: OidcLogin | None = None,
    home: str = "/ui",
    failures: Counter | None = None,
    gate: Gate | None = None,
) -> APIRouter:
    """Return the routes below ``/auth``.

    ``GET /auth/login`` (``?token=`` of a login link, else the issuer), ``GET /auth/callback``, ``POST /auth/logout``,
    ``GET /auth/me``, ``POST /auth/ws-ticket`` and ``GET /auth/ping``.

    Args:
        sessions: Where logins become sessions.
        authenticators: The ways in; looked at with every request.
        links: Login links, each for who is logged in by it.
        tickets: WebSocket tickets; hand the same to `WsTickets`.
        oidc: Login at an issuer; None if there is none.
        home: Where a browser goes once it is logged in.
        failures: Counts who was not let in, as `require` does.
        gate: In place of the viewer's gate made of `authenticators`, for one that also limits.
    """
    caller = gate or require(Role.VIEWER, authenticators=authenticators, failures=failures)
    router = APIRouter(tags=["auth"])
    router.include_router(_login_routes(sessions, links, oidc, home, failures))
    router.include_router(_caller_routes(sessions, tickets, caller))
    return router


def _login_routes(
    sessions: Sessions, links: OneTime[Principal], oidc: OidcLogin | None, home: str, failures: Counter | None
) -> APIRouter:
    router = APIRouter(prefix="/auth")

    async def logged_in(principal: Principal) -> Response:
        session_id = await sessions.open(principal)
        answer = _redirect(home)
        _set_cookie(answer, sessions.cookie, session_id, secure=sessions.secure, max_age_s=int(sessions.absolute_s))
        return answer

    @router.get("/login", include_in_schema=False)
    async def login(token: str | None = None) -> Response:
        if token is not None:
            with _counted(failures):
                return await logged_in(_redeemed(links, token))
        if oidc is None:
            raise HTTPException(404, "No OpenID issuer is configured; use a login link or an API key")
        return await oidc.begin()

    @router.get("/callback", include_in_schema=False)
    async def callback(request: Request) -> Response:
        if oidc is None:
            raise HTTPException(404, "No OpenID issuer is configured")
        with _counted(failures):
            answer = await logged_in(await oidc.finish(request))
        _drop_cookie(answer, oidc.cookie, secure=oidc.secure)
        return answer

    return router


def _caller_routes(sessions: Sessions, tickets: OneTime[Principal], caller: Gate) -> APIRouter:
    router = APIRouter(prefix="/auth", route_class=guarded_route(caller))

    @router.post("/logout", status_code=204)
    async def logout(request: Request) -> Response:
        """End the browser's session; callers with a key have none to end."""
        session_id = sessions.offered(request)
        if session_id is not None:
            await sessions.close(session_id)
        answer = Response(status_code=204)
        _drop_cookie(answer, sessions.cookie, secure=sessions.secure)
        return answer

    @router.get("/me")
    async def me(request: Request, response: Response) -> dict[str, str | None]:
        """Who is calling, and the CSRF token of the browser's session if there is one."""
        response.headers["cache-control"] = "no-store"
        session_id = sessions.offered(request)
        csrf = None
        if session_id is not None and await sessions.find(session_id) is not None:
            csrf = csrf_token(session_id)
        principal: Principal = request.state.principal
        return {"user": principal.name, "role": str(principal.role), "csrf_token": csrf}

    @router.post("/ws-ticket")
    async def ws_ticket(request: Request, response: Response) -> dict[str, str | float]:
        """A ticket for one WebSocket, to be sent as ``?ticket=`` within `expires_in_s`."""
        response.headers["cache-control"] = "no-store"
        return {"ticket": tickets.issue(request.state.principal), "expires_in_s": tickets.ttl_s}

    @router.get("/ping")
    async def ping(request: Request) -> dict[str, str]:
        """Whether what was sent to sign in holds."""
        principal: Principal = request.state.principal
        return {"status": "ok", "user": principal.name, "role": str(principal.role)}

    return router


def login_link(links: OneTime[Principal], principal: Principal, *, public_url: str) -> str:
    """Return the address that logs a browser in, once, as `principal`."""
    return f"{public_url.rstrip('/')}/auth/login?token={links.issue(principal)}"


def _redeemed(links: OneTime[Principal], token: str) -> Principal:
    principal = links.redeem(token)
    if principal is None:
        raise AuthenticationFailed("the login link is not known, was used before, or is too old")
    return principal


@contextmanager
def _counted(failures: Counter | None) -> Iterator[None]:
    try:
        yield
    except AuthenticationFailed:
        if failures is not None:
            failures.labels(reason="invalid").inc()
        raise


def _redirect(url: str) -> RedirectResponse:
    return RedirectResponse(url, status_code=303, headers={"cache-control": "no-store"})


def _set_cookie(answer: Response, name: str, value: str, *, secure: bool, max_age_s: int) -> None:
    # Lax and not strict: the issuer sends the browser back from another site, and a link in a mail is to work.
    answer.set_cookie(name, value, max_age=max_age_s, path="/", secure=secure, httponly=True, samesite="lax")


def _drop_cookie(answer: Response, name: str, *, secure: bool) -> None:
    answer.delete_cookie(name, path="/", secure=secure, httponly=True, samesite="lax")
