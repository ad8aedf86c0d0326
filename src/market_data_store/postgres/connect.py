"""Connections to PostgreSQL, each of one tenant while it is lent."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final, LiteralString

import psycopg
from psycopg.conninfo import conninfo_to_dict
from psycopg_pool import ConnectionPool, PoolTimeout

from market_data_core.errors import ConfigurationError, MarketDataError
from market_data_store.postgres.errors import translate, translated
from market_data_store.postgres.queries import QUERIES

Connection = psycopg.Connection[tuple[object, ...]]

_TENANT: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")
# A host that vanished says nothing; the system alone would wait for it for hours.
_PATIENCE: Final = {
    "connect_timeout": 10,
    "keepalives_idle": 30,
    "keepalives_interval": 10,
    "keepalives_count": 3,
    "tcp_user_timeout": 60_000,
    "application_name": "market-data",
}
_LONGEST_S: Final = 2**31 // 1000  # what the server can count


def parameters(dsn: str) -> dict[str, Any]:
    """Return what `dsn` says, and ours for what it leaves open of how long a server may be silent.

    Raises:
        ConfigurationError: It is no connection string of PostgreSQL. The text itself is not told: it may hold a secret.
    """
    try:
        return {**_PATIENCE, **conninfo_to_dict(dsn)}
    except psycopg.Error:
        raise ConfigurationError(
            "the dsn is no connection string of PostgreSQL, such as postgresql://host/db"
        ) from None


def connect(dsn: str, *, autocommit: bool = True) -> Connection:
    """Return a connection of the login itself, not of the application role and of no tenant.

    Raises:
        ConfigurationError: `dsn` is not of that form.
        psycopg.Error: The server is away or refuses.
    """
    return psycopg.connect(**parameters(dsn), autocommit=autocommit)


class Connections:
    """A pool of connections of the application role, on which one tenant is set while they are lent.

    Row level security keeps a tenant's rows from a client that asks for them by mistake. It does not hold against one
    that may run SQL of its own, since that could set another tenant.

    Args:
        dsn: A connection string; its role has to be a member of ``mds_app``. It may name several hosts, with
            ``target_session_attrs=read-write``; then the one that takes writes is found again after a failover.
        tenant: 1 to 64 letters, digits, ``_`` and ``-``; the name or the id of a registered tenant, or any other, which
            then stands for itself.
        most: How many connections at once.
        timeout_s: How long to wait for one.
        statement_timeout_s: How long a statement may take, then it fails with TemporaryUnavailable; None for as long
            as the server lets it.

    Raises:
        ConfigurationError: `dsn`, `tenant` or `statement_timeout_s` are not of that form.
    """

    def __init__(
        self, dsn: str, tenant: str, *, most: int = 8, timeout_s: float = 10.0, statement_timeout_s: float | None = None
    ) -> None:
        check_limits(tenant, statement_timeout_s)
        self._tenant = tenant
        self._statement_timeout_s = statement_timeout_s
        self._is_over = False
        self._trouble = Trouble()
        # Connections begin when the first is asked for, so making a store costs nothing and cannot fail.
        self._pool: ConnectionPool[Connection] = ConnectionPool(
            min_size=0,
            max_size=most,
            kwargs={**parameters(dsn), "autocommit": True},
            configure=self._make_ready,
            check=self._make_its_own,
            reset=_reset,
            timeout=timeout_s,
            reconnect_timeout=timeout_s,
            open=False,
        )

    @contextmanager
    def lend(self, what: str) -> Iterator[Connection]:
        """Lend a connection in autocommit mode, on which the tenant is set.

        Raises:
            MarketDataError: Of the class that the SQLSTATE calls for; says `what` was being done. Itself where the
                connections were closed.
        """
        if self._is_over:
            raise MarketDataError(f"{what}: the store was closed")
        with translated(what):
            if self._pool.closed:
                self._pool.open()
            try:
                lent = self._pool.getconn()
            except PoolTimeout as exc:
                self._trouble.explain(exc)
                raise
            try:
                with lent as connection:
                    yield connection
            except psycopg.errors.ReadOnlySqlTransaction:
                # The server was the primary when we connected; which one is now is only asked when connecting.
                lent.close()
                raise
            finally:
                self._pool.putconn(lent)

    def close(self) -> None:
        """Close every connection. May be called twice."""
        self._is_over = True
        self._pool.close()

    def _make_ready(self, connection: Connection) -> None:
        with self._trouble.told():
            for statement, values in preparing(self._statement_timeout_s):
                connection.execute(statement, values)

    def _make_its_own(self, connection: Connection) -> None:
        # It also shows whether the connection is still one.
        try:
            with self._trouble.told():
                connection.execute(QUERIES["tenant_set"], (self._tenant,))
        except psycopg.OperationalError:
            # Those that lie beside it died with it; the pool would try one after the other, and wait longer each time.
            self._pool.drain()
            raise
        self._trouble.over()


def _reset(connection: Connection) -> None:
    connection.execute(QUERIES["tenant_clear"])


def check_limits(tenant: str, statement_timeout_s: float | None) -> None:
    """Refuse a tenant that is none, and a limit that cannot be kept.

    Raises:
        ConfigurationError: Says which.
    """
    if _TENANT.fullmatch(tenant) is None:
        raise ConfigurationError(f"tenant {tenant!r} is not 1 to 64 of the letters A-Z a-z 0-9 _ -")
    if statement_timeout_s is not None and not 0 < statement_timeout_s < _LONGEST_S:
        raise ConfigurationError(f"statement_timeout_s is {statement_timeout_s}; it has to be above 0, or None")


def preparing(statement_timeout_s: float | None) -> list[tuple[LiteralString, tuple[str, ...]]]:
    """Return the statements, with their values, that make a connection ready before it is any tenant's."""
    steps: list[tuple[LiteralString, tuple[str, ...]]] = [
        # The application role owns nothing, so no policy is passed by, even where the login is a superuser.
        (QUERIES["role"], ()),
        # An acknowledged commit has to survive a power cut.
        (QUERIES["durable"], ()),
    ]
    if statement_timeout_s is not None:
        # The server counts in whole milliseconds, and nought would be no limit.
        steps.append((QUERIES["statement_timeout"], (str(max(1, round(statement_timeout_s * 1000))),)))
    return steps


class Trouble:
    """Why the last connection was of no use; a pool itself only says that there is none."""

    def __init__(self) -> None:
        self._last: MarketDataError | None = None

    @contextmanager
    def told(self) -> Iterator[None]:
        """Remember what goes wrong inside."""
        try:
            yield
        except psycopg.errors.InvalidParameterValue as exc:
            self._last = ConfigurationError(f"connecting: {exc.diag.message_primary}; was the database migrated?")
            raise
        except psycopg.Error as exc:
            self._last = translate("connecting", exc)
            raise

    def over(self) -> None:
        """Forget it: a connection works."""
        self._last = None

    def explain(self, exc: PoolTimeout) -> None:
        """Raise what is remembered, in place of `exc`; nothing happens where nothing is."""
        if self._last is not None:
            raise self._last from exc
