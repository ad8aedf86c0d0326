"""A service with routes behind gates, and clients for it."""

from __future__ import annotations

import httpx
import pytest
from fastapi import Depends, Request
from prometheus_client import CollectorRegistry, Counter

from market_data_core.web import create_service_app, precreate
from market_data_core.web.auth import FAILURE_REASONS, Role, require


class Gated:
    """A service whose routes ``/viewer``, ``/operator`` and ``/admin`` need just that."""

    def __init__(self, authenticators):
        self.registry = CollectorRegistry()
        self.counter = Counter("auth_failures", "t", ["reason"], registry=self.registry)
        precreate(self.counter, reason=FAILURE_REASONS)
        self.app = create_service_app(title="t", version="1", registry=self.registry)
        for role in Role:
            gate = require(role, authenticators=authenticators, failures=self.counter)
            self._route(role, gate)

    def _route(self, role, gate):
        async def answer(request: Request):
            return {"name": request.state.principal.name, "role": request.state.principal.role}

        self.app.add_api_route(f"/{role}", answer, dependencies=[Depends(gate)])

    def failures(self):
        counts = {r: self.registry.get_sample_value("auth_failures_total", {"reason": r}) for r in FAILURE_REASONS}
        return {reason: count for reason, count in counts.items() if count}

    async def get(self, path, **headers):
        transport = httpx.ASGITransport(app=self.app)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            return await client.get(path, headers={k.replace("_", "-"): v for k, v in headers.items()})


@pytest.fixture
def gated():
    """Makes such a service of authenticators."""
    return Gated
