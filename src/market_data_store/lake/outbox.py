"""The lake's outbox: work asked for, in a SQLite file beside the tables or in a table of an object store."""

from __future__ import annotations

import contextlib
import json
import random
import re
import sqlite3
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from importlib import resources
from pathlib import Path
from typing import Any, Final, TypeVar

import pyarrow as pa
from deltalake import CommitProperties, DeltaTable, write_deltalake
from deltalake.exceptions import CommitFailedError, DeltaError

from market_data_core import disk
from market_data_core.errors import MarketDataError, TemporaryUnavailable, ValidationError
from market_data_store.backend import OutboxJob
from market_data_store.lake.paths import translated
from market_data_store.places import ObjectPath, storage_options

_BUSY_TIMEOUT_S: Final = 5.0
_PAUSE_S: Final = 0.005
_NAMED: Final = re.compile(r"^-- name: (\w+)$", re.MULTILINE)
_DAMAGE: Final = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})
_LAST_NS: Final = 2**63 - 1

_Done = TypeVar("_Done")

_JOBS: Final = pa.schema(
    [
        pa.field("id", pa.int64(), nullable=False),
        ("job_type", pa.string()),
        ("payload", pa.string()),
        ("priority", pa.int64()),
        ("idempotency_key", pa.string()),
        ("state", pa.string()),
        ("attempts", pa.int64()),
        ("owner", pa.string()),
        ("created_ns", pa.int64()),
        ("lease_ns", pa.int64()),
        ("finished_ns", pa.int64()),
        ("error", pa.string()),
    ]
)
_ALL: Final = f"SELECT {', '.join(_JOBS.names)} FROM jobs ORDER BY id"  # noqa: S608  own names
_PUT: Final = f"INSERT INTO jobs ({', '.join(_JOBS.names)}) VALUES ({', '.join('?' * len(_JOBS))})"  # noqa: S608  as above
# Every change leaves a file and a commit behind; a reader may take an hour.
_KEPT: Final = {
    "delta.logRetentionDuration": "interval 1 hours",
    "delta.deletedFileRetentionDuration": "interval 1 hours",
}
_TIDY_COMMITS: Final = 50
_ATTEMPTS: Final = 60
_LONGEST_PAUSE_S: Final = 0.25


def _read_statements() -> dict[str, str]:
    text = resources.files("market_data_store.lake").joinpath("outbox.sql").read_text(encoding="utf-8")
    parts = _NAMED.split(text)
    return {name: sql.strip() for name, sql in zip(parts[1::2], parts[2::2], strict=True)}


class Outbox(ABC):
    """Jobs of one tenant. Safe to use from several threads and processes, and across a fork.

    Where they are kept is made with the first job; until then there are none.
    """

    def __init__(self) -> None:
        self._sql = _read_statements()

    @abstractmethod
    def _exists(self) -> bool: ...

    @abstractmethod
    def _transact(self, work: Callable[[sqlite3.Connection], _Done]) -> _Done:
        """Do work in one transaction that is durable when this returns; it may be done again where others came first.

        Raises:
            TemporaryUnavailable: The storage is away.
        """

    @abstractmethod
    def _look(self, work: Callable[[sqlite3.Connection], _Done]) -> _Done:
        """Do work that changes nothing.

        Raises:
            TemporaryUnavailable: The storage is away.
        """

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

        def work(connection: sqlite3.Connection) -> sqlite3.Row:
            connection.execute(self._sql["add"], asked | {"priority": priority, "now_ns": now_ns})
            found: sqlite3.Row = connection.execute(self._sql["find_by_key"], asked).fetchone()
            return found

        try:
            row = self._transact(work)
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
        if not self._exists():
            return None
        lease_ns = min(now_ns + round(lease_s * 1e9), _LAST_NS)
        types = json.dumps(list(job_types)) if job_types else None
        wanted = {"owner": owner, "lease_ns": lease_ns, "now_ns": now_ns, "job_types": types}
        rows = self._transact(lambda connection: connection.execute(self._sql["claim"], wanted).fetchall())
        return _job(rows[0]) if rows else None

    def finish(self, job_id: int, *, owner: str, error: str | None, now_ns: int) -> OutboxJob:
        """Say what came of a job. Its owner may do so after the lease is over as long as nobody else claimed it.

        Raises:
            ValidationError: `owner` does not have it (any more).
            TemporaryUnavailable: The storage is away.
        """
        said = {"id": job_id, "owner": owner, "error": error, "now_ns": now_ns}
        said["state"] = "failed" if error is not None else "done"
        rows: list[sqlite3.Row] = []
        if self._exists():
            rows = self._transact(lambda connection: connection.execute(self._sql["finish"], said).fetchall())
        if not rows:
            raise ValidationError(f"job {job_id} is not {owner!r}'s to finish")
        return _job(rows[0])

    def jobs(self, *, state: str | None, limit: int) -> list[OutboxJob]:
        """Return jobs, newest first.

        Raises:
            TemporaryUnavailable: The storage is away.
        """
        if not self._exists():
            return []
        wanted = {"state": state, "limit": max(0, limit)}
        rows = self._look(lambda connection: connection.execute(self._sql["list"], wanted).fetchall())
        return [_job(row) for row in rows]


class TableOutbox(Outbox):
    """Jobs in a Delta table of an object store, a row each.

    Jobs are few: every transaction reads them all, does its work in SQLite's memory as `FileOutbox` does it in a file,
    and writes them all, as the version that follows the one it read or not at all.

    Args:
        place: Of the table.
    """

    def __init__(self, place: ObjectPath) -> None:
        super().__init__()
        self._place = place

    def _exists(self) -> bool:
        with translated(f"looking for {self._place}"):
            return DeltaTable.is_deltatable(str(self._place), storage_options(self._place))

    def _look(self, work: Callable[[sqlite3.Connection], _Done]) -> _Done:
        with translated(f"reading {self._place}"), closing(self._loaded(self._opened())) as connection:
            return work(connection)

    def _transact(self, work: Callable[[sqlite3.Connection], _Done]) -> _Done:
        for attempt in range(_ATTEMPTS):
            if attempt:
                time.sleep(random.uniform(0, min(_LONGEST_PAUSE_S, _PAUSE_S * 2**attempt)))  # noqa: S311  spreads turns
            with translated(f"changing {self._place}"):
                table = self._opened()
                with closing(self._loaded(table)) as connection:
                    before = connection.total_changes
                    done = work(connection)
                    if connection.total_changes == before:
                        return done  # who finds nothing to do leaves no version behind
                    rows = [tuple(row) for row in connection.execute(_ALL)]
                if self._replaced(table, rows):
                    return done
        raise TemporaryUnavailable(f"{self._place}: others came first {_ATTEMPTS} times")

    def _opened(self) -> DeltaTable:
        where, options = str(self._place), storage_options(self._place)
        if not DeltaTable.is_deltatable(where, options):
            with contextlib.suppress(DeltaError):  # another may have made it in the same moment
                DeltaTable.create(where, _JOBS, mode="error", configuration=_KEPT, storage_options=options)
        return DeltaTable(where, storage_options=options)

    def _loaded(self, table: DeltaTable) -> sqlite3.Connection:
        connection = sqlite3.connect(":memory:", isolation_level=None)
        connection.row_factory = sqlite3.Row
        connection.execute(self._sql["schema"])
        connection.executemany(_PUT, (tuple(row.values()) for row in table.to_pyarrow_table().to_pylist()))
        return connection

    # False if another version came in between.
    def _replaced(self, table: DeltaTable, rows: Sequence[tuple[Any, ...]]) -> bool:
        columns = list(zip(*rows, strict=True)) or [()] * len(_JOBS)
        jobs = pa.table([pa.array(c, f.type) for c, f in zip(columns, _JOBS, strict=True)], schema=_JOBS)
        if table.version() % _TIDY_COMMITS == 0:
            # Before the commit: what fails here has changed nothing.
            table.vacuum(dry_run=False)
        try:
            write_deltalake(table, jobs, mode="overwrite", commit_properties=CommitProperties(max_commit_retries=0))
        except CommitFailedError:
            return False
        return True


class FileOutbox(Outbox):
    """Jobs in a SQLite file.

    Args:
        path: Of the file.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._path = path

    def _exists(self) -> bool:
        return self._path.exists()

    def _look(self, work: Callable[[sqlite3.Connection], _Done]) -> _Done:
        with self._connection() as connection:
            return work(connection)

    def _transact(self, work: Callable[[sqlite3.Connection], _Done]) -> _Done:
        with self._connection() as connection:
            connection.execute("BEGIN IMMEDIATE")
            try:
                done = work(connection)
                connection.execute("COMMIT")
            except BaseException:
                # A failed COMMIT or a full disk may have rolled back already.
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                raise
        return done

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
