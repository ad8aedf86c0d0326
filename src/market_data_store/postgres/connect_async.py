"""Connections to PostgreSQL for an event loop, each of one tenant while it is lent."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import psycopg
from psycopg_pool import AsyncConnectionPool, PoolTimeout

from market_data_core.errors import MarketDataError
from market_data_store.postgres.connect import Trouble, check_limits, parameters, preparing
from market_data_store.postgres.errors import translated
from market_data_store.postgres.queries import QUERIES
from market_data_store.postgres.talk import AsyncConnection


async def connect_async(dsn: str) -> AsyncConnection:
    """Return a connection of the login itself, in autocommit mode; see `market_data_store.postgres.connect.connect`.

    Raises:
        ConfigurationError: `dsn` is not of that form.
        psycopg.Error: The server is away or refuses.
    """
    return await psycopg.AsyncConnection.connect(**parameters(dsn), autocommit=True)


class AsyncConnections:
    """What `market_data_store.postgres.connect.Connections` is, for one event loop.

    A task that is cancelled while it has a connection lets the server know, and the connection is given back when the
    server has answered.

    Args:
        dsn: A connection string.
        tenant: Whose rows they see.
        most: How many connections at once.
        timeout_s: How long to wait for one.
        statement_timeout_s: How long a statement may take; None for as long as the server lets it.

    Raises:
        ConfigurationError: `dsn`, `tenant` or `statement_timeout_s` are not of that form.
    """

    def __init__(
        self, dsn: str, tenant: str, *, most: int, timeout_s: float, statement_timeout_s: float | None = None
    ) -> None:
        check_limits(tenant, statement_timeout_s)
        self._tenant = tenant
        self._statement_timeout_s = statement_timeout_s
        self._is_over = False
        self._trouble = Trouble()
        self._pool: AsyncConnectionPool[AsyncConnection] = AsyncConnectionPool(
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

    @asynccontextmanager
    async def lend(self, what: str) -> AsyncIterator[AsyncConnection]:
        """Lend a connection in autocommit mode, on which the tenant is set.

        Raises:
            MarketDataError: As `market_data_store.postgres.connect.Connections.lend` does.
        """
        if self._is_over:
            raise MarketDataError(f"{what}: the store was closed")
        with translated(what):
            if self._pool.closed:
                await self._pool.open()
            try:
                lent = await self._pool.getconn()
            except PoolTimeout as exc:
                self._trouble.explain(exc)
                raise
            try:
                yield lent
            except psycopg.errors.ReadOnlySqlTransaction:
                # The server was the primary when we connected; which one is now is only asked when connecting.
                await lent.close()
                raise
            finally:
                await self._pool.putconn(lent)

    async def close(self) -> None:
        """Close every connection. May be called twice."""
        self._is_over = True
        await self._pool.close()

    async def _make_ready(self, connection: AsyncConnection) -> None:
        with self._trouble.told():
            for statement, values in preparing(self._statement_timeout_s):
                await connection.execute(statement, values)

    async def _make_its_own(self, connection: AsyncConnection) -> None:
        # It also shows whether the connection is still one.
        try:
            with self._trouble.told():
                await connection.execute(QUERIES["tenant_set"], (self._tenant,))
        except psycopg.OperationalError:
            # Those that lie beside it died with it; the pool would try one after the other, and wait longer each time.
            await self._pool.drain()
            raise
        self._trouble.over()


async def _reset(connection: AsyncConnection) -> None:
    await connection.execute(QUERIES["tenant_clear"])
