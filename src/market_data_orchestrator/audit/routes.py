"""The routes that show the audit trail."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from prometheus_client import Counter

from market_data_core.web.auth import Authenticator, Role, guarded_route
from market_data_core.web.ratelimit import Limiter, guess_limited
from market_data_orchestrator.audit.logger import AuditLogger
from market_data_orchestrator.audit.reading import MAX_PAGE
from market_data_orchestrator.audit.trail import audited, audited_gate

_MAX_SEQ = (1 << 63) - 1


def audit_router(
    logger: AuditLogger, *keys: Authenticator, failures: Counter | None = None, limits: Limiter | None = None
) -> list[APIRouter]:
    """Return the routes that show the audit trail: its events, for viewers, and the verdict on it, for admins.

    Args:
        logger: The trail.
        keys: How callers are told.
        failures: Counts who was not let in.
        limits: Hold off who guesses keys.
    """

    def behind(role: Role) -> APIRouter:
        gate = audited_gate(logger, role, authenticators=keys, failures=failures)
        return APIRouter(
            route_class=guarded_route(gate if limits is None else guess_limited(gate, limits)), tags=["audit"]
        )

    admin, viewer = behind(Role.ADMIN), behind(Role.VIEWER)
    # One at a time: a verdict reads every file there is.
    judging = asyncio.Lock()

    @viewer.get("/audit/events")
    async def events(
        limit: Annotated[int, Query(ge=1, le=MAX_PAGE)] = 100,
        cursor: Annotated[int | None, Query(ge=0, le=_MAX_SEQ, description="next_cursor of the page before")] = None,
        actor: Annotated[str | None, Query(max_length=200)] = None,
        action: Annotated[str | None, Query(max_length=64)] = None,
        since: Annotated[
            float | None, Query(allow_inf_nan=False, description="seconds since the epoch, inclusive")
        ] = None,
    ) -> dict[str, Any]:
        """Audit records, newest first; ``next_cursor`` is null with the oldest."""
        page = await asyncio.to_thread(
            logger.read, limit=limit, before_seq=cursor, actor=actor, action=action, since_s=since
        )
        return {"events": page.events, "next_cursor": page.before_seq}

    @admin.get("/audit/verify")
    async def verify(request: Request) -> dict[str, Any]:
        """The verdict on the whole chain, naming the first record that is not as it was written."""
        async with audited(logger, request, action="audit.verify") as trail, judging:
            verdict = await asyncio.to_thread(logger.verify)
            trail.failed = not verdict.ok
            trail.detail = "the chain is whole" if verdict.bad is None else verdict.bad.why
        return verdict.as_dict()

    return [admin, viewer]
