"""The routes by which browsers log in and out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

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
    from market_data_core.web.auth.oidc_logout import OidcLogout

_END_SESSION: Final[dict[int | str, dict[str, Any]]] = {
    200: {
        "description": "The session has ended; `end_session_url` is where the browser ends that at the issuer.",
        "content": {
            "application/json": {
                "schema": {
                    "type": "object",
                    "required": ["end_session_url"],
                    "properties": {"end_session_url": {"type": "string", "format": "uri"}},
                }
            }
        },
    },
    204: {"description": "The session has ended, if there was one."},
}


def session_router(
    sessions: Sessions,
    *,
    authenticators: Sequence[Authenticator],
    links: OneTime[Principal],
    tickets: OneTime[Principal],
    oidc: OidcLogin | None = None,
    oidc_logout: OidcLogout | None = None,
    home: str = "/ui",
    failures: Counter | None = None,
    gate: Gate | None = None,
) -> APIRouter:
    """Return the routes below ``/auth``.

    ``GET /auth/login`` (``?token=`` of a login link, else the issuer), ``GET /auth/callback``, ``POST /auth/logout``,
    ``GET /auth/logged-out``, ``GET /auth/me``, ``POST /auth/ws-ticket`` and ``GET /auth/ping``.

    Args:
        sessions: Where logins become sessions.
        authenticators: The ways in; looked at with every request.
        links: Login links, each for who is logged in by it.
        tickets: WebSocket tickets; hand the same to `WsTickets`.
        oidc: Login at an issuer; None if there is none.
        oidc_logout: Ends the issuer's session too; None to end our own only.
        home: Where a browser goes once it is logged in, or out.
        failures: Counts who was not let in, as `require` does.
        gate: In place of the viewer's gate made of `authenticators`, for one that also limits.
    """
    caller = gate or require(Role.VIEWER, authenticators=authenticators, failures=failures)
    router = APIRouter(tags=["auth"])
    router.include_router(
        _login_routes(sessions, links, oidc=oidc, oidc_logout=oidc_logout, home=home, failures=failures)
    )
    router.include_router(_return_routes(oidc_logout, home))
    router.include_router(_caller_routes(sessions, tickets, caller, oidc_logout))
    return router


def _login_routes(
    sessions: Sessions,
    links: OneTime[Principal],
    *,
    oidc: OidcLogin | None,
    oidc_logout: OidcLogout | None,
    home: str,
    failures: Counter | None,
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
                answer = await logged_in(_redeemed(links, token))
            if oidc_logout is not None:
                oidc_logout.unmark(answer)
            return answer
        if oidc is None:
            raise HTTPException(404, "No OpenID issuer is configured; use a login link or an API key")
        return await oidc.begin()

    @router.get("/callback", include_in_schema=False)
    async def callback(request: Request) -> Response:
        if oidc is None:
            raise HTTPException(404, "No OpenID issuer is configured")
        with _counted(failures):
            login = await oidc.finish(request)
            answer = await logged_in(login.principal)
        drop_cookie(answer, oidc.cookie, secure=oidc.secure)
        if oidc_logout is not None:
            oidc_logout.mark(answer, login.sid, max_age_s=int(sessions.absolute_s))
        return answer

    return router


# Where the issuer sends a browser back to that has logged out there. It is nobody by then, and nothing is done.
def _return_routes(oidc_logout: OidcLogout | None, home: str) -> APIRouter:
    router = APIRouter(prefix="/auth")

    @router.get("/logged-out", include_in_schema=False)
    async def logged_out(request: Request) -> Response:
        if oidc_logout is None:
            raise HTTPException(404, "No OpenID issuer is configured")
        return oidc_logout.finish(request, home=home)

    return router


def _caller_routes(
    sessions: Sessions, tickets: OneTime[Principal], caller: Gate, oidc_logout: OidcLogout | None
) -> APIRouter:
    router = APIRouter(prefix="/auth", route_class=guarded_route(caller))

    @router.post("/logout", status_code=204, responses=_END_SESSION)
    async def logout(request: Request) -> Response:
        """End the browser's session; callers with a key have none to end.

        One that logged in at an issuer is told where to go to end the issuer's session too.
        """
        session_id = sessions.offered(request)
        if session_id is not None:
            await sessions.close(session_id)
        # Only now: our own session is over whatever the issuer does.
        begun = None if session_id is None or oidc_logout is None else await oidc_logout.begin(request)
        answer = begun or Response(status_code=204)
        drop_cookie(answer, sessions.cookie, secure=sessions.secure)
        if oidc_logout is not None:
            oidc_logout.unmark(answer)
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
