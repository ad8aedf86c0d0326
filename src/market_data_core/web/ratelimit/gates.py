"""Gates that also look at how often a caller came."""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import IPv6Address, ip_address
from typing import Final

from starlette.requests import HTTPConnection

from market_data_core.errors import AuthenticationFailed
from market_data_core.web.auth import Gate, Principal
from market_data_core.web.ratelimit.rules import Limiter, RateLimited

_CREDENTIALS: Final = ("authorization", "x-api-key")


def by_last_segment(connection: HTTPConnection) -> str:
    """Return the last segment of a request's path: ``pause`` for ``/control/pause``."""
    return str(connection.scope.get("path", "")).rstrip("/").rpartition("/")[2]


def limited(gate: Gate, limits: Limiter, *, action: Callable[[HTTPConnection], str] = by_last_segment) -> Gate:
    """Return a gate that lets each caller through `gate` only as often as the rule of the action allows.

    Counted by the caller's name, so one cannot use up what is another's. What became of it is left in
    ``request.state.rate_limit``, for who wants to send its headers along.

    Args:
        gate: Says who is calling.
        limits: The rules; an action without one is not limited.
        action: Names what a request is about to do.
    """

    async def gated(connection: HTTPConnection) -> Principal:
        principal = await gate(connection)
        connection.state.rate_limit = await limits.require(action(connection), principal.name)
        return principal

    return gated


def guess_limited(gate: Gate, limits: Limiter, *, action: str = "login") -> Gate:
    """Return a gate that no longer listens to an address from which too many wrong keys or tokens came.

    Those who send none are not counted, and a session that has ended is no guess. Beyond the limit a right key is not
    looked at either: otherwise guessing would go on at full speed.

    Args:
        gate: Says who is calling.
        limits: Has the rule of `action`; without one nothing is limited.
        action: The action under which failures are counted.
    """

    async def gated(connection: HTTPConnection) -> Principal:
        if not any(header in connection.headers for header in _CREDENTIALS):
            return await gate(connection)
        address = address_of(connection)
        decision = await limits.test(action, address)
        if decision is not None and not decision.allowed:
            raise RateLimited(decision)
        try:
            return await gate(connection)
        except AuthenticationFailed:
            await limits.hit(action, address)
            raise

    return gated


def address_of(connection: HTTPConnection) -> str:
    """Return whom to count failures under: the peer's address, of IPv6 the /64 that one subscriber has."""
    host = connection.client.host if connection.client is not None else ""
    try:
        address = ip_address(host)
    except ValueError:
        return host
    if isinstance(address, IPv6Address):
        return str(address.ipv4_mapped or IPv6Address(int(address) >> 64 << 64))
    return str(address)
