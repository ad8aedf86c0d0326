"""Work that was asked for, in a table of the database."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from psycopg.rows import dict_row
from psycopg.types.json import Jsonb

from market_data_core.errors import SchemaValidationError, ValidationError
from market_data_store.backend import OutboxJob
from market_data_store.postgres.connect import Connections
from market_data_store.postgres.queries import QUERIES

_LAST_NS: Final = 2**63 - 1


class Jobs:
    """The jobs of one tenant. Safe to use from several threads and processes."""

    def __init__(self, connections: Connections) -> None:
        self._connections = connections

    def enqueue(
        self, job_type: str, payload: Mapping[str, Any], *, idempotency_key: str, priority: int, now_ns: int
    ) -> OutboxJob:
        """Ask for work; see `market_data_store.backend.Backend.enqueue`."""
        values = {
            "job_type": job_type,
            "payload": Jsonb(dict(payload)),
            "idempotency_key": idempotency_key,
            "priority": priority,
            "now_ns": now_ns,
        }
        try:
            # Two statements, so that the second sees what somebody else committed while the first waited for it.
            self._run("job_add", values)
            found = self._run("job_by_key", values)[0]
        except (SchemaValidationError, TypeError, ValueError) as exc:
            raise ValidationError(f"job {idempotency_key!r} cannot be stored: {exc}") from exc
        if not found.pop("same"):
            raise ValidationError(
                f"idempotency key {idempotency_key!r} was used for job {found['id']} with another type or payload"
            )
        return OutboxJob(**found)

    def claim(self, owner: str, *, job_types: Sequence[str], lease_s: float, now_ns: int) -> OutboxJob | None:
        """Take the next job, the highest priority first, then the oldest; None if there is none."""
        lease_ns = min(now_ns + round(lease_s * 1e9), _LAST_NS)
        values = {"owner": owner, "job_types": list(job_types) or None, "lease_ns": lease_ns, "now_ns": now_ns}
        found = self._run("job_claim", values)
        return OutboxJob(**found[0]) if found else None

    def finish(self, job_id: int, *, owner: str, error: str | None) -> OutboxJob:
        """Say what came of a job. Its owner may do so after the lease is over as long as nobody else claimed it."""
        state = "done" if error is None else "failed"
        found = self._run("job_finish", {"id": job_id, "owner": owner, "error": error, "state": state})
        if not found:
            raise ValidationError(f"job {job_id} is not {owner!r}'s to finish")
        return OutboxJob(**found[0])

    def jobs(self, *, state: str | None, limit: int) -> list[OutboxJob]:
        """Return jobs, newest first."""
        return [OutboxJob(**row) for row in self._run("job_list", {"state": state, "limit": max(0, limit)})]

    def _run(self, name: str, values: Mapping[str, Any]) -> list[dict[str, Any]]:
        with (
            self._connections.lend(f"working on jobs ({name})") as connection,
            connection.cursor(row_factory=dict_row) as cursor,
        ):
            cursor.execute(QUERIES[name], values)
            return cursor.fetchall() if cursor.description is not None else []
