"""The gate before a route: who is calling, and may they?"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any, Final

from fastapi.routing import APIRoute
from prometheus_client import Counter
from starlette.exceptions import HTTPException
from starlette.requests import HTTPConnection, Request
from starlette.responses import Response

from market_data_core.errors import AuthenticationFailed, TemporaryUnavailable
from market_data_core.web.auth.authenticators import Authenticator
from market_data_core.web.auth.roles import Principal, Role

Gate = Callable[[HTTPConnection], Awaitable[Principal]]
"""Returns who is calling, or raises."""

FAILURE_REASONS: Final = ("missing", "invalid", "forbidden", "unavailable")
"""Values of the label ``reason`` of the counter of failures."""


def require(role: Role, *, authenticators: Sequence[Authenticator], failures: Counter | None = None) -> Gate:
    """Return a gate that lets through who has at least `role`; for FastAPI's ``Depends`` or to be called.

    The caller is also left in ``request.state.principal``. One who cannot be told is answered 401 with a challenge, one
    who may not 403.

    Args:
        role: The least role.
        authenticators: Tried in order; looked at with every request.
        failures: Counts who was not let through; its one label is ``reason``, with `FAILURE_REASONS`.
    """

    def count(reason: str) -> None:
        if failures is not None:
            failures.labels(reason=reason).inc()

    async def gate(connection: HTTPConnection) -> Principal:
        try:
            principal = await _identify(connection, authenticators)
        except TemporaryUnavailable:
            count("unavailable")
            raise
        except AuthenticationFailed:
            count("invalid")
            raise
        if principal is None:
            offered = any(header in connection.headers for header in ("x-api-key", "authorization"))
            count("invalid" if offered else "missing")
            raise AuthenticationFailed(
                "What was sent to sign in is not accepted"
                if offered
                else "Send a key as X-API-Key, or as Authorization: Bearer"
            )
        if not principal.role.covers(role):
            count("forbidden")
            raise HTTPException(403, f"{principal.name} is {principal.role}; this needs {role}")
        connection.state.principal = principal
        return principal

    return gate


def guarded_route(gate: Gate) -> type[APIRoute]:
    """Return a route class for a router whose every route is behind `gate`.

    With ``Depends`` FastAPI reads the body first, and answers for what is wrong with it before anybody has asked who
    sends it; here the gate comes before all else.
    """

    class GuardedRoute(APIRoute):
        def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
            handler = super().get_route_handler()

            async def guarded(request: Request) -> Response:
                await gate(request)
                return await handler(request)

            return guarded

    return GuardedRoute


async def _identify(connection: HTTPConnection, authenticators: Sequence[Authenticator]) -> Principal | None:
    # One that cannot tell at present does not keep another from doing so.
    refused: AuthenticationFailed | TemporaryUnavailable | None = None
    for authenticator in authenticators:
        try:
            principal = await authenticator.authenticate(connection)
        except (AuthenticationFailed, TemporaryUnavailable) as exc:
            refused = refused or exc
        else:
            if principal is not None:
                return principal
    if refused is not None:
        raise refused
    return None
