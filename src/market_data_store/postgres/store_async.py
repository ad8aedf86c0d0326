"""Short calls to one tenant's data for an event loop, without a thread for each."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Final, TypeVar

import pyarrow as pa

from market_data_core.steps import Step, reached
from market_data_store.backend import Upserted, Wanted
from market_data_store.postgres.connect_async import AsyncConnections, connect_async
from market_data_store.postgres.declarations import spec_of
from market_data_store.postgres.errors import translated
from market_data_store.postgres.partitions import SeenPartitions
from market_data_store.postgres.prices import Noted, asking_prices
from market_data_store.postgres.queries import QUERIES
from market_data_store.postgres.reads import fetching, from_tuples
from market_data_store.postgres.schema import version_of
from market_data_store.postgres.store import health_of
from market_data_store.postgres.talk import AsyncConnection, talk_async
from market_data_store.postgres.versions import again_if_in_the_way, arranged_versions

_R = TypeVar("_R")

TURN_ROWS: Final = 500
"""How many rows are worked on before an event loop has its turn: some milliseconds."""


class AsyncPostgresStore:
    """What `PostgresStore` can be asked often and answers quickly, awaited; the same statements. For one event loop.

    A call that is cancelled cancels its statement, but for `health` and `schema_version`, which end by themselves.

    Args:
        dsn: A connection string, such as ``postgresql://host/db``.
        tenant: Whose data.
        connections: How many connections at once; they begin when they are needed.
        timeout_s: How long to wait for one before the server counts as away.
        statement_timeout_s: How long a statement may take before it fails with TemporaryUnavailable; None for as long
            as the server lets it.

    Raises:
        ConfigurationError: `dsn`, `tenant` or a limit are not of that form.
    """

    def __init__(
        self,
        dsn: str,
        tenant: str,
        *,
        connections: int = 8,
        timeout_s: float = 10.0,
        statement_timeout_s: float | None = None,
    ) -> None:
        self._dsn = dsn
        self._connections = AsyncConnections(
            dsn, tenant, most=connections, timeout_s=timeout_s, statement_timeout_s=statement_timeout_s
        )
        self._noted = Noted()
        self._partitions = SeenPartitions()
        self._asking: set[asyncio.Task[Any]] = set()

    async def close(self) -> None:
        """Close the connections. May be called twice."""
        if self._asking:
            await asyncio.wait(self._asking)
        await self._connections.close()

    async def fetch(self, table: str, wanted: Wanted, *, columns: Sequence[str] | None = None) -> pa.Table:
        """Return rows; see `market_data_store.backend.Backend.fetch`.

        The whole answer is in memory as the server sent it before it is a table. Of a long one a part is made a table
        at a time, and the event loop has its turn in between.
        """
        statement, values, schema = fetching(spec_of(table), wanted, columns)
        parts = [schema.empty_table()]
        async with self._connections.lend(f"reading table {table}") as connection:
            cursor = await connection.cursor(binary=True).execute(statement, values)
            while rows := await cursor.fetchmany(TURN_ROWS):
                parts.append(from_tuples(rows, schema))
                if len(rows) == TURN_ROWS:
                    await asyncio.sleep(0)
        return pa.concat_tables(parts)

    async def latest_prices(self, symbols: Sequence[str] = (), *, vendor: str | None = None) -> pa.Table:
        """Return last prices; see `market_data_store.backend.Backend.latest_prices`."""
        asking = asking_prices(symbols, vendor=vendor, noted=self._noted)
        async with self._connections.lend("reading the latest prices") as connection:
            return await talk_async(connection, asking)

    async def upsert(self, table: str, rows: pa.Table, *, now_ns: int) -> Upserted:
        """Add versions of keyed rows in one transaction; see `PostgresStore.upsert`.

        They are arranged in one go, so it is for some hundreds of rows.
        """
        told = arranged_versions(table, rows, now_ns=now_ns)

        async def once() -> Upserted:
            if self._partitions.missing(told.spec, told.partitions):
                async with self._connections.lend(f"making partitions of table {table}") as connection:
                    await talk_async(connection, self._partitions.making(told.spec, told.partitions))
            async with self._connections.lend(f"upserting into table {table}") as connection:
                async with connection.transaction():
                    done = await talk_async(connection, told.upserting())
                    reached(Step.DATA_FILE_WRITTEN)
                reached(Step.TABLE_COMMITTED)
            return done

        if rows.num_rows == 0:
            return Upserted()
        done: Upserted = await again_if_in_the_way(self._partitions)(once)()
        return done

    async def schema_version(self) -> int:
        """Return the version of the schema that the database has; 0 where nothing was made yet.

        Raises:
            TemporaryUnavailable: The server is away.
        """
        with translated("reading the schema's version"):
            return await self._apart(_schema_version)

    async def health(self) -> dict[str, Any]:
        """Return how the server is; see `PostgresStore.health`.

        Raises:
            TemporaryUnavailable: The server is away.
        """
        with translated("asking how the server is"):
            return await self._apart(_health)

    # On a connection made for it. A task that is cancelled while psycopg connects leaves a connection open that nobody
    # has, so another makes it, asks, and closes it, whatever becomes of the one that waits.
    async def _apart(self, ask: Callable[[AsyncConnection], Coroutine[Any, Any, _R]]) -> _R:
        task = asyncio.create_task(self._asked(ask), name="mds-apart")
        self._asking.add(task)
        task.add_done_callback(self._done)
        return await asyncio.shield(task)

    async def _asked(self, ask: Callable[[AsyncConnection], Coroutine[Any, Any, _R]]) -> _R:
        async with await connect_async(self._dsn) as connection:
            return await ask(connection)

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._asking.discard(task)
        # Where nobody waits any more, what went wrong is nobody's.
        if not task.cancelled():
            task.exception()


async def _schema_version(connection: AsyncConnection) -> int:
    known = await (await connection.execute(QUERIES["version_known"])).fetchone()
    if known is None or not known[0]:
        return 0
    rows: list[Any] = await (await connection.execute(QUERIES["versions"])).fetchall()
    return version_of({name: version for version, name in rows})


async def _health(connection: AsyncConnection) -> dict[str, Any]:
    begun = time.perf_counter()
    found = await (await connection.execute(QUERIES["health"])).fetchone()
    latency_ms = (time.perf_counter() - begun) * 1000
    return health_of(found, schema_version=await _schema_version(connection), latency_ms=latency_ms)
