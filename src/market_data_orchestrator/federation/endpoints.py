"""The routes of the federation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Annotated, Any, Final, Literal

from fastapi import APIRouter, Request, Response
from prometheus_client import Counter
from pydantic import BaseModel, ConfigDict, Field

from market_data_core.federation import ClusterTopology
from market_data_core.protocols import FederationDirectory
from market_data_core.web.auth import Authenticator, Principal, Role, guarded_route, require
from market_data_core.web.ratelimit import guess_limited
from market_data_orchestrator.federation.identity import received_from
from market_data_orchestrator.federation.service import Federation
from market_data_orchestrator.protocols import RateLimiter

# RFC 9745: since when, here 2025-10-17, in seconds since the epoch.
_DEPRECATED: Final = {"Deprecation": "@1760659200", "Link": '</federation/topology>; rel="successor-version"'}


class ForwardRequest(BaseModel):
    """What a peer is asked.

    Attributes:
        path: Path and query at the peer.
        method: HTTP method.
        payload: Sent as JSON; None for no body.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    path: str = Field(max_length=2048)
    method: Literal["GET", "POST", "PUT", "PATCH", "DELETE"] = "GET"
    payload: dict[str, Any] | list[Any] | None = None


class FanOutRequest(ForwardRequest):
    """What many peers are asked.

    Attributes:
        peers: Names; all peers if None.
    """

    peers: list[Annotated[str, Field(max_length=64)]] | None = Field(default=None, max_length=256)


def federation_routers(
    federation: Federation,
    directory: FederationDirectory,
    authenticators: Sequence[Authenticator],
    *,
    failures: Counter,
    limits: RateLimiter | None = None,
) -> list[APIRouter]:
    """Return the routes ``/federation/*``: who is there, for viewers; requests to peers, for admins.

    Args:
        federation: Sends the requests.
        directory: Says who is there.
        authenticators: Tell who calls.
        failures: Counts who was not let in.
        limits: How often wrong keys may be tried; None for as often as anybody likes.
    """

    def behind(role: Role) -> APIRouter:
        gate = require(role, authenticators=authenticators, failures=failures)
        gate = gate if limits is None else guess_limited(gate, limits)
        return APIRouter(prefix="/federation", route_class=guarded_route(gate), tags=["federation"])

    admin, viewer = behind(Role.ADMIN), behind(Role.VIEWER)

    @viewer.get("/topology")
    async def topology() -> ClusterTopology:
        """This node and its peers, and how they are."""
        return await directory.topology()

    @viewer.get("/list", deprecated=True)
    async def peers(response: Response) -> dict[str, list[str]]:
        """Names of the peers; `/federation/topology` says more."""
        response.headers.update(_DEPRECATED)
        return {"peers": list(await directory.endpoints())}

    @admin.post("/forward/{peer}")
    async def forward(peer: str, asked: ForwardRequest, request: Request) -> dict[str, Any]:
        """Ask one peer, in the caller's name; the status of its answer is in `status_code`."""
        done = await federation.forward(
            peer,
            path=asked.path,
            method=asked.method,
            payload=asked.payload,
            caller=_caller(request),
            received_from=received_from(request),
        )
        return {"target": done.target, "status_code": done.status_code, "data": done.data}

    @admin.post("/fanout")
    async def fanout(asked: FanOutRequest, request: Request) -> dict[str, list[dict[str, Any]]]:
        """Ask many peers, in the caller's name; one result for each, with an error where there is no answer."""
        done = await federation.fan_out(
            path=asked.path,
            method=asked.method,
            payload=asked.payload,
            caller=_caller(request),
            peers=asked.peers,
            received_from=received_from(request),
        )
        return {"results": [asdict(result) for result in done]}

    return [admin, viewer]


def _caller(request: Request) -> Principal:
    caller: Principal = request.state.principal  # left by the gate
    return caller
