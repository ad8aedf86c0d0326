"""The routes by which browsers log in and out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from fastapi import APIRouter
from prometheus_client import Counter
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from market_data_core.errors import AuthenticationFailed
from market_data_core.web.auth.authenticators import Authenticator
from market_data_core.web.auth.cookies import drop_cookie, redirect, set_cookie
from market_data_core.web.auth.gate import Gate, guarded_route, require
from market_data_core.web.auth.roles import Principal, Role
from market_data_core.web.auth.sessions import OneTime, Sessions, csrf_token

if TYPE_CHECKING:
    from market_data_core.web.auth.oidc_login import OidcLogin

_STATE_S: Final = 600
_MAX_CODE_CHARS: Final = 4096


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
        answer = redirect(home)
        set_cookie(answer, sessions.cookie, session_id, secure=sessions.secure, max_age_s=int(sessions.absolute_s))
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
        drop_cookie(answer, oidc.cookie, secure=oidc.secure)
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
        drop_cookie(answer, sessions.cookie, secure=sessions.secure)
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
