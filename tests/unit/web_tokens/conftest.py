"""A real OpenID issuer on a loopback socket, and services that trust it."""

from __future__ import annotations

import socket

import httpx
import pytest
from fastapi import Request
from oidc_issuer import AUDIENCE, FakeTime, OpenIdIssuer, Serving
from prometheus_client import CollectorRegistry

from market_data_core.web import create_service_app
from market_data_core.web.auth import OidcTokens, Role, guarded_route, require


@pytest.fixture
def clock():
    """The time of both sides."""
    return FakeTime()


@pytest.fixture
async def issuer(monkeypatch):
    """A running issuer; `issuer.stop()` takes it away."""
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    made = OpenIdIssuer(listener.getsockname()[1])
    serving = Serving(made.app, listener)
    await serving.started()
    made.stop = serving.stop
    yield made
    await serving.stop()


@pytest.fixture
def tokens(issuer, clock):
    """Our side, which learns the issuer's keys by discovery."""
    return OidcTokens(issuer=issuer.url, audience=AUDIENCE, cache_ttl_s=3600, clock=clock)


@pytest.fixture
def service_of():
    """Makes a service whose ``/who`` tells who calls, and a client of it."""

    def make(authenticators, *routers, base_url="http://test"):
        app = create_service_app(title="t", version="1", registry=CollectorRegistry())
        gate = require(Role.VIEWER, authenticators=authenticators)
        app.router.route_class = guarded_route(gate)

        @app.api_route("/who", methods=["GET", "POST"])
        async def who(request: Request):
            return {"name": request.state.principal.name, "role": request.state.principal.role}

        for router in routers:
            app.include_router(router)
        return httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url=base_url)

    return make
