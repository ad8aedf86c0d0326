"""The lake's outbox: work asked for, in a SQLite file beside the tables."""

from __future__ import annotations

import json
import re
import sqlite3
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from importlib import resources
from pathlib import Path
from typing import Any, Final

from market_data_core import disk
from market_data_core.errors import MarketDataError, TemporaryUnavailable, ValidationError
from market_data_store.backend import OutboxJob

_BUSY_TIMEOUT_S: Final = 5.0
_PAUSE_S: Final = 0.005
_NAMED: Final = re.compile(r"^-- name: (\w+)$", re.MULTILINE)
_DAMAGE: Final = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})
_LAST_NS: Final = 2**63 - 1


def _read_statements() -> dict[str, str]:
    text = resources.files("market_data_store.lake").joinpath("outbox.sql").read_text(encoding="utf-8")
    parts = _NAMED.split(text)
    return {name: sql.strip() for name, sql in zip(parts[1::2], parts[2::2], strict=True)}


class Outbox:
    """Jobs of one tenant. Safe to use from several threads and processes, and across a fork.

    The file is made with the first job; until then there are none.

    Args:
        path: Of the SQLite file.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._sql = _read_statements()

    def enqueue(
        self, job_type: str, payload: Mapping[str, Any], *, idempotency_key: str, priority: int, now_ns: int
    ) -> OutboxJob:
        """Ask for work; see `market_data_store.backend.Backend.enqueue`. Durable when it returns.

        Raises:
            ValidationError: The key was used for another type or payload, the payload is not JSON values, or a text or
                number is none that can be stored.
            TemporaryUnavailable: The storage is away.
        """
        try:
            text = json.dumps(dict(payload), sort_keys=True, allow_nan=False)
        except (TypeError, ValueError) as exc:
            raise ValidationError(f"the payload of job {idempotency_key!r} is not JSON values: {exc}") from exc
        asked = {"job_type": job_type, "payload": text, "idempotency_key": idempotency_key}
        try:
            with self._transaction() as connection:
                connection.execute(self._sql["add"], asked | {"priority": priority, "now_ns": now_ns})
                row = connection.execute(self._sql["find_by_key"], asked).fetchone()
        except (UnicodeEncodeError, OverflowError) as exc:
            raise ValidationError(f"job {idempotency_key!r} cannot be stored: {exc}") from exc
        if (row["job_type"], row["payload"]) != (job_type, text):
            raise ValidationError(
                f"idempotency key {idempotency_key!r} was used for job {row['id']} with another type or payload"
            )
        return _job(row)

    def claim(self, owner: str, *, job_types: Sequence[str], lease_s: float, now_ns: int) -> OutboxJob | None:
        """Take the next job, the highest priority first, then the oldest; None if there is none.

        Raises:
            TemporaryUnavailable: The storage is away.
        """
        if not self._path.exists():
            return None
        with self._transaction() as connection:
            lease_ns = min(now_ns + round(lease_s * 1e9), _LAST_NS)
            wanted = {"owner": owner, "lease_ns": lease_ns, "now_ns": now_ns}
            wanted["job_types"] = json.dumps(list(job_types)) if job_types else None
            rows = connection.execute(self._sql["claim"], wanted).fetchall()
        return _job(rows[0]) if rows else None

    def finish(self, job_id: int, *, owner: str, error: str | None, now_ns: int) -> OutboxJob:
        """Say what came of a job. Its owner may do so after the lease is over as long as nobody else claimed it.

        Raises:
            ValidationError: `owner` does not have it (any more).
            TemporaryUnavailable: The storage is away.
        """
        said = {"id": job_id, "owner": owner, "error": error, "state": "failed" if error is not None else "done"}
        rows: list[sqlite3.Row] = []
        if self._path.exists():
            with self._transaction() as connection:
                rows = connection.execute(self._sql["finish"], said | {"now_ns": now_ns}).fetchall()
        if not rows:
            raise ValidationError(f"job {job_id} is not {owner!r}'s to finish")
        return _job(rows[0])

    def jobs(self, *, state: str | None, limit: int) -> list[OutboxJob]:
        """Return jobs, newest first.

        Raises:
            TemporaryUnavailable: The storage is away.
        """
        if not self._path.exists():
            return []
        with self._connection() as connection:
            rows = connection.execute(self._sql["list"], {"state": state, "limit": max(0, limit)}).fetchall()
        return [_job(row) for row in rows]

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._connection() as connection:
            connection.execute("BEGIN IMMEDIATE")
            try:
                yield connection
                connection.execute("COMMIT")
            except BaseException:
                # A failed COMMIT or a full disk may have rolled back already.
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                raise

    # A connection for each call: jobs are few, and one that is kept must not cross a fork and has to be closed.
    @contextmanager
    def _connection(self) -> Iterator[sqlite3.Connection]:
        try:
            is_new = not self._path.exists()
            if is_new:
                disk.make_dirs(self._path.parent)
            connection = sqlite3.connect(self._path, timeout=_BUSY_TIMEOUT_S, isolation_level=None)
            with closing(connection):
                connection.row_factory = sqlite3.Row
                _use_wal(connection)
                connection.execute("PRAGMA synchronous = FULL")
                connection.execute(self._sql["schema"])
                connection.execute(self._sql["schema_open_jobs"])
                if is_new:
                    disk.sync_dir(self._path.parent)
                yield connection
        except sqlite3.DatabaseError as exc:
            # The low byte is the error, the rest says more about it.
            if (getattr(exc, "sqlite_errorcode", 0) & 0xFF) in _DAMAGE:
                raise MarketDataError(
                    f"{self._path} is damaged ({exc}); restore it or move it away", "LakeDamaged"
                ) from exc
            raise TemporaryUnavailable(f"{self._path}: {exc}") from exc
        except OSError as exc:
            raise TemporaryUnavailable(f"{self._path}: {exc.strerror}") from exc


def _use_wal(connection: sqlite3.Connection) -> None:
    # The change to it does not wait its turn as statements do: where two make the file at once, one is told at once
    # that it is locked.
    deadline_s = time.monotonic() + _BUSY_TIMEOUT_S
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
        except sqlite3.OperationalError as exc:
            if (exc.sqlite_errorcode & 0xFF) != sqlite3.SQLITE_BUSY or time.monotonic() > deadline_s:
                raise
            time.sleep(_PAUSE_S)
        else:
            return


def _job(row: sqlite3.Row) -> OutboxJob:
    return OutboxJob(
        id=row["id"],
        job_type=row["job_type"],
        payload=json.loads(row["payload"]),
        priority=row["priority"],
        idempotency_key=row["idempotency_key"],
        state=row["state"],
        attempts=row["attempts"],
        owner=row["owner"],
        created_ns=row["created_ns"],
        lease_ns=row["lease_ns"],
        error=row["error"],
    )
