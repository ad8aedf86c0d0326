"""The audit trail as those see it who write into it."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, Protocol, runtime_checkable

from market_data_orchestrator.audit.chain import Record
from market_data_orchestrator.audit.logger import Decision, Status
from market_data_orchestrator.audit.verify import Verdict


@runtime_checkable
class AuditLogger(Protocol):
    """Keeps who did what. Calls wait for the disk: from an event loop, in a thread."""

    required: bool
    enabled: bool

    def record(
        self,
        *,
        action: str,
        actor: str,
        role: str,
        status: Status = "ok",
        detail: str | None = None,
        decision: Decision = "allowed",
        target: str = "",
        address: str = "",
        duration_s: float | None = None,
        data: Mapping[str, Any] | None = None,
        secrets: Collection[str] = (),
    ) -> Record | None:
        """Write down one action or attempt without `secrets`; durable on return, None if it could not be written.

        Raises:
            TemporaryUnavailable: It could not be written, and records are required.
        """
        ...

    def get_recent_events(self, limit: int = 100) -> list[Record]:
        """Return the newest records, newest first."""
        ...

    def verify(self) -> Verdict:
        """Say whether everything is as it was written."""
        ...

    def close(self) -> None:
        """Let go of the log; the next record opens it again."""
        ...
