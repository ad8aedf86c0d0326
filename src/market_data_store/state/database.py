"""The SQLite file under the small state: opening, migrating, repairing, and transactions that name their failures."""

from __future__ import annotations

import contextlib
import os
import re
import sqlite3
import sys
import threading
from collections.abc import Iterator, Mapping
from importlib import resources
from pathlib import Path
from typing import Any, Final

from market_data_core import disk
from market_data_core.errors import ConfigurationError, MarketDataError, TemporaryUnavailable, ValidationError
from market_data_store.state.rows import Repair

_BUSY_TIMEOUT_S: Final = 5.0
_UNUSABLE: Final = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})
_MIGRATION: Final = re.compile(r"(\d{3})_\w+\.sql")
_PACKAGE: Final = "market_data_store.state"


def read_queries() -> dict[str, str]:
    """Return the statements of ``queries.sql`` by name."""
    text = resources.files(_PACKAGE).joinpath("queries.sql").read_text(encoding="utf-8")
    parts = re.split(r"^-- name: (\w+)$", text, flags=re.MULTILINE)
    return {name: sql.strip() for name, sql in zip(parts[1::2], parts[2::2], strict=True)}


def read_migrations() -> list[str]:
    """Return the scripts that lead from an empty database to the schema, in order; the n-th makes version n + 1."""
    found = sorted((m[1], f) for f in resources.files(_PACKAGE).iterdir() if (m := _MIGRATION.fullmatch(f.name)))
    return [f.read_text(encoding="utf-8") for _, f in found]


class Database:
    """One connection to one SQLite file, shared by the threads of a process; other processes have their own.

    A file that is not usable is moved aside and a new one made, on opening and whenever it shows itself later.

    Args:
        path: The file; it and its folder are made when they are not there.

    Raises:
        TemporaryUnavailable: The disk is full, read-only or away.
        ConfigurationError: A later version of the platform made the file.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.RLock()
        self._connection: sqlite3.Connection | None = None
        self._opened_as: tuple[int, int, int] | None = None
        self._inherited: list[sqlite3.Connection] = []
        self.repairs: tuple[Repair, ...] = ()
        with self._lock, self._translated():
            self._open()

    @contextlib.contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """Give the connection inside a transaction that holds the write lock; commits durably at the end.

        Raises:
            TemporaryUnavailable: Nothing was changed; the same call may work later.
        """
        with self._lock, self._translated():
            connection = self._current()
            connection.execute("BEGIN IMMEDIATE")
            try:
                yield connection
                connection.execute("COMMIT")
            except BaseException:
                # A failed COMMIT or a full disk may have rolled back already.
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                raise

    def read(self, sql: str, values: Mapping[str, Any]) -> list[sqlite3.Row]:
        """Return the rows of one statement that changes nothing.

        Raises:
            TemporaryUnavailable: The disk is away.
        """
        with self._lock, self._translated():
            return self._current().execute(sql, values).fetchall()

    def close(self) -> None:
        """Close the connection; the next use opens it again."""
        with self._lock:
            if self._connection is not None:
                self._connection.close()
            self._connection = self._opened_as = None

    # The file may have been moved aside by another process that found it unusable, and a connection must not cross
    # a fork; either way a new connection is what helps.
    def _current(self) -> sqlite3.Connection:
        if self._connection is None or self._opened_as != self._identity():
            if self._connection is not None and self._opened_as is not None and self._opened_as[0] != os.getpid():
                # Kept unused: SQLite forbids even closing a connection that came across a fork.
                self._inherited.append(self._connection)
                self._connection = None
            self.close()
            self._open()
        assert self._connection is not None  # noqa: S101  _open sets it or raises
        return self._connection

    def _identity(self) -> tuple[int, int, int] | None:
        try:
            found = self._path.stat()
        except FileNotFoundError:
            return None
        return (os.getpid(), found.st_dev, found.st_ino)

    def _open(self) -> None:
        disk.make_dirs(self._path.parent)
        with _exclusive(self._path.with_name(self._path.name + ".lock")):
            try:
                connection = self._connect()
            except sqlite3.DatabaseError as exc:
                if not _unusable(exc):
                    raise
                self._move_aside(str(exc))
                connection = self._connect()
            disk.sync_dir(self._path.parent)
        self._connection = connection
        self._opened_as = self._identity()

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self._path, timeout=_BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False)
        try:
            connection.row_factory = sqlite3.Row
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = FULL")
            problems = [str(row[0]) for row in connection.execute("PRAGMA quick_check(3)")]
            _require(problems == ["ok"], "; ".join(problems)[:500])
            self._migrate(connection)
        except BaseException:
            connection.close()
            raise
        return connection

    def _migrate(self, connection: sqlite3.Connection) -> None:
        migrations = read_migrations()
        version = connection.execute("PRAGMA user_version").fetchone()[0]
        if version > len(migrations):
            raise ConfigurationError(
                f"{self._path} has version {version}; this platform knows {len(migrations)}: a later one made it"
            )
        for number, script in enumerate(migrations[version:], version + 1):
            connection.executescript(f"BEGIN IMMEDIATE;\n{script}\nPRAGMA user_version = {number};\nCOMMIT;")
        there = {row[0] for row in connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")}
        missing = {"ingests", "jobs", "gaps", "flags", "audit_heads", "sessions"} - there
        _require(not missing, f"tables are missing: {', '.join(sorted(missing))}")

    def _move_aside(self, reason: str) -> None:
        number = 1
        while (target := self._path.with_name(f"{self._path.name}.corrupt-{number}")).exists():
            number += 1
        for suffix in ("-wal", "-shm", ""):
            part = self._path.with_name(self._path.name + suffix)
            if part.exists():
                part.replace(target.with_name(target.name + suffix))
        self.repairs = (*self.repairs, Repair(reason=reason, moved_to=str(target)))

    @contextlib.contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except MarketDataError:
            raise
        except sqlite3.IntegrityError as exc:
            raise ValidationError(f"{self._path}: {exc}") from exc
        except sqlite3.DatabaseError as exc:
            if _unusable(exc):
                self.close()  # the next use checks the file and repairs it
            raise TemporaryUnavailable(f"{self._path}: {exc}", details={"path": str(self._path)}) from exc
        except OSError as exc:
            raise TemporaryUnavailable(f"{self._path}: {exc.strerror}", details={"path": str(self._path)}) from exc


def _unusable(exc: sqlite3.DatabaseError) -> bool:
    # The low byte is the error, the rest says more about it.
    return (getattr(exc, "sqlite_errorcode", 0) & 0xFF) in _UNUSABLE


def _require(holds: bool, reason: str) -> None:  # noqa: FBT001  a claim, as in an assertion
    if not holds:
        error = sqlite3.DatabaseError(reason)
        error.sqlite_errorcode = sqlite3.SQLITE_CORRUPT
        raise error


# Two processes must not both find the file unusable and move aside what the other has just made.
@contextlib.contextmanager
def _exclusive(path: Path) -> Iterator[None]:
    fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        if sys.platform != "win32":
            import fcntl  # noqa: PLC0415  Windows has no such module

            fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)
