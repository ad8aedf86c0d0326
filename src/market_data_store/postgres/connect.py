"""Connections to PostgreSQL, each of one tenant while it is lent."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

import psycopg
from psycopg.conninfo import conninfo_to_dict
from psycopg_pool import ConnectionPool

from market_data_core.errors import ConfigurationError
from market_data_store.postgres.errors import translated
from market_data_store.postgres.queries import QUERIES

Connection = psycopg.Connection[tuple[object, ...]]

_TENANT: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")
_CONNECT_TIMEOUT_S: Final = 10


def check_dsn(dsn: str) -> str:
    """Return `dsn`.

    Raises:
        ConfigurationError: It is no connection string of PostgreSQL. The text itself is not told: it may hold a secret.
    """
    try:
        conninfo_to_dict(dsn)
    except psycopg.Error as exc:
        raise ConfigurationError("the dsn is no connection string of PostgreSQL, such as postgresql://host/db") from exc
    return dsn


class Connections:
    """A pool of connections of the application role, on which one tenant is set while they are lent.

    Row level security keeps a tenant's rows from a client that asks for them by mistake. It does not hold against one
    that may run SQL of its own, since that could set another tenant.

    Args:
        dsn: A connection string; its role has to be a member of ``mds_app``.
        tenant: 1 to 64 letters, digits, ``_`` and ``-``.
        most: How many connections at once.
        timeout_s: How long to wait for one.

    Raises:
        ConfigurationError: `dsn` or `tenant` are not of that form.
    """

    def __init__(self, dsn: str, tenant: str, *, most: int = 8, timeout_s: float = 10.0) -> None:
        if _TENANT.fullmatch(tenant) is None:
            raise ConfigurationError(f"tenant {tenant!r} is not 1 to 64 of the letters A-Z a-z 0-9 _ -")
        # Connections begin when the first is asked for, so making a store costs nothing and cannot fail.
        self._pool: ConnectionPool[Connection] = ConnectionPool(
            check_dsn(dsn),
            min_size=0,
            max_size=most,
            kwargs={"autocommit": True, "connect_timeout": _CONNECT_TIMEOUT_S},
            configure=_configure,
            check=_lender(tenant),
            reset=_reset,
            timeout=timeout_s,
            reconnect_timeout=timeout_s,
            open=False,
        )

    @contextmanager
    def lend(self, what: str) -> Iterator[Connection]:
        """Lend a connection in autocommit mode, on which the tenant is set.

        Raises:
            MarketDataError: Of the class that the SQLSTATE calls for; says `what` was being done.
        """
        with translated(what):
            if self._pool.closed:
                self._pool.open()
            with self._pool.connection() as connection:
                yield connection

    def close(self) -> None:
        """Close every connection. May be called twice."""
        self._pool.close()


def _configure(connection: Connection) -> None:
    # The application role owns nothing, so no policy is passed by, even where the login is a superuser.
    connection.execute(QUERIES["role"])
    # An acknowledged commit has to survive a power cut.
    connection.execute(QUERIES["durable"])


def _lender(tenant: str) -> Callable[[Connection], None]:
    def lend(connection: Connection) -> None:
        connection.execute(QUERIES["tenant_set"], (tenant,))

    return lend


def _reset(connection: Connection) -> None:
    connection.execute(QUERIES["tenant_clear"])
