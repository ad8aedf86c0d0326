"""Who may come in: the service's keys, and the routes that need one."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Header
from prometheus_client import CollectorRegistry, Counter
from starlette.requests import HTTPConnection, Request

from market_data_core.errors import TemporaryUnavailable
from market_data_core.telemetry import ControlAction, ControlResult
from market_data_core.web.auth import (
    FAILURE_REASONS,
    Authenticator,
    Principal,
    Role,
    guarded_route,
    key_authenticators,
)
from market_data_core.web.ratelimit import guess_limited, limited
from market_data_orchestrator.audit.trail import audited, audited_gate
from market_data_orchestrator.control import ControlPlaneService
from market_data_orchestrator.protocols import AuditLogger, RateLimiter
from market_data_orchestrator.settings import OrchestratorSettings

LOG = logging.getLogger(__name__)
_KEY_HEADERS = ("x-api-key", "authorization")
IdempotencyKey = Annotated[str | None, Header(min_length=1, max_length=200)]


class Keys:
    """The service's keys. Until `open`, which needs the data directory, nobody can be told from anybody.

    Args:
        settings: Name the configured key and the file of the others.
    """

    def __init__(self, settings: OrchestratorSettings) -> None:
        self._settings = settings
        self._known: list[Authenticator] | None = None
        self.first: Path | None = None
        """File of the key that was made because there was none; its owner alone can read it."""

    def open(self) -> None:
        """Read the keys, making the first one if there is none at all.

        Raises:
            ConfigurationError: The file is damaged, or others can read it.
            TemporaryUnavailable: It cannot be written.
        """
        configured = self._settings.api_key.get_secret_value()
        self._known, self.first = key_authenticators(configured=configured, keys_file=self._settings.keys_path)
        if self.first is not None:
            LOG.warning("no key is configured: one was made for you, it is in %s", self.first)

    async def authenticate(self, connection: HTTPConnection) -> Principal | None:
        """Return whose key a request carries, or None.

        Raises:
            TemporaryUnavailable: It carries something, and the keys have not been read yet.
        """
        if self._known is None:
            if any(connection.headers.get(name) for name in _KEY_HEADERS):
                # No wrong key: its holder would be counted as a guesser, and shut out of a service that starts slowly.
                raise TemporaryUnavailable("keys cannot be checked yet: the service is starting")
            return None
        for known in self._known:
            principal = await known.authenticate(connection)
            if principal is not None:
                return principal
        return None


def failures_counter(registry: CollectorRegistry) -> Counter:
    """Return the counter of those who were not let in."""
    counter = Counter(
        "orchestrator_auth_failures", "Requests that were not let in, by reason.", ["reason"], registry=registry
    )
    for reason in FAILURE_REASONS:
        counter.labels(reason=reason)
    return counter


def control_router(
    control: ControlPlaneService,
    callers: Sequence[Authenticator],
    *,
    audit: AuditLogger,
    limits: RateLimiter,
    failures: Counter,
) -> list[APIRouter]:
    """Return the routes of control, and those that show what is configured."""

    def behind(role: Role) -> APIRouter:
        gate = guess_limited(audited_gate(audit, role, authenticators=callers, failures=failures), limits)
        return APIRouter(route_class=guarded_route(limited(gate, limits)), tags=["control"])

    async def act(action: ControlAction, request: Request, key: str | None) -> ControlResult:
        async with audited(audit, request, action=str(action)) as trail:
            result = await control.run(action, request.state.principal.name, key=key)
            trail.detail = result.detail
            return result

    admin, operator, viewer = behind(Role.ADMIN), behind(Role.OPERATOR), behind(Role.VIEWER)

    @operator.post("/control/pause")
    async def pause(request: Request, idempotency_key: IdempotencyKey = None) -> ControlResult:
        """Stop intake and store what was received; nothing that comes after the answer is stored."""
        return await act(ControlAction.PAUSE, request, idempotency_key)

    @operator.post("/control/resume")
    async def resume(request: Request, idempotency_key: IdempotencyKey = None) -> ControlResult:
        """Take in again."""
        return await act(ControlAction.RESUME, request, idempotency_key)

    @admin.post("/control/reload")
    async def reload(request: Request, idempotency_key: IdempotencyKey = None) -> ControlResult:
        """Read the configuration again and run what it says, whole or not at all."""
        return await act(ControlAction.RELOAD, request, idempotency_key)

    @viewer.get("/control/status")
    async def status() -> dict[str, Any]:
        """The state and the last actions, newest first."""
        return await control.status()

    return [admin, operator, viewer]
