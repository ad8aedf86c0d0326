"""What parts that know nothing of the audit trail are given to write into it."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from functools import partial
from typing import Any

from prometheus_client import Counter
from starlette.requests import Request

from market_data_core.web.auth import Authenticator, Gate, Role
from market_data_orchestrator.audit.logger import Status
from market_data_orchestrator.audit.trail import Trail, audited, audited_gate
from market_data_orchestrator.federation import FederationRecord, Recorder
from market_data_orchestrator.protocols import AuditLogger


class AuditRecorder:
    """Puts ingestion control on the audit trail.

    Args:
        audit: The trail.
    """

    def __init__(self, audit: AuditLogger) -> None:
        self._audit = audit

    def gate(self, role: Role, *, authenticators: Sequence[Authenticator], failures: Counter | None) -> Gate:
        """Return a gate that records whom it did not let through."""
        return audited_gate(self._audit, role, authenticators=authenticators, failures=failures)

    def acting(
        self, request: Request, *, action: str, target: str, data: Mapping[str, Any]
    ) -> AbstractAsyncContextManager[Trail]:
        """Return what is entered while an action is done; see `audited`."""
        return audited(self._audit, request, action=action, target=target, data=data)


def forwarding_recorder(audit: AuditLogger) -> Recorder:
    """Return what puts requests to peers on the audit trail."""
    return partial(_record_forwarding, audit)


async def _record_forwarding(audit: AuditLogger, said: FederationRecord) -> None:
    status: Status = "begun" if said.outcome == "started" else "ok" if said.outcome == "ok" else "error"
    await asyncio.to_thread(
        audit.record,
        action=f"federation.{said.action}",
        actor=said.actor,
        role=said.role,
        status=status,
        detail=said.detail or str(said.outcome),
        target=said.target,
        duration_s=said.duration_s,
        data={"method": said.method, "path": said.path, "status_code": said.status_code},
    )
