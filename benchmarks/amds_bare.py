"""The statements of the PostgreSQL store as an application sends them by hand, on psycopg's asynchronous pool."""

from __future__ import annotations

import time
from datetime import datetime
from types import TracebackType
from typing import Any, Self

import psycopg
from psycopg.sql import SQL
from psycopg_pool import AsyncConnectionPool

from market_data_core.schemas import TABLE_SCHEMAS, Kind
from market_data_store.postgres import TABLES
from market_data_store.postgres.queries import QUERIES, query
from mds_client import Bar

POOL = 10
_SPEC = TABLES[str(Kind.BARS)]
_COLUMNS = TABLE_SCHEMAS[Kind.BARS].names
_CHANGED = [n for n in _COLUMNS if n not in _SPEC.key and n != "revision"]
_NAMES = {"table": "bars", "staging": "staging_bars", "columns": _COLUMNS}
_COPY = query("copy_in", staging="staging_bars", columns=[*_COLUMNS, "turn"])
_TYPES = ["text", "text", "int8", "int8", "int8", "int4", "text", "text", "text", "text", "text"]
_TYPES += ["float8"] * 6 + ["int8", "int4", "int8", "text", "int4"]
_UPSERT = query(
    "upsert_versions",
    **_NAMES,
    key=_SPEC.key,
    changes=SQL(", ").join(SQL("{0} = excluded.{0}").format(psycopg.sql.Identifier(n)) for n in _CHANGED),
    new_values=SQL(", ").join(psycopg.sql.Identifier("excluded", n) for n in _SPEC.values),
    old_values=SQL(", ").join(psycopg.sql.Identifier("b", n) for n in _SPEC.values),
)
_WINDOW = query(
    "select",
    held=SQL(""),
    columns=_COLUMNS,
    source=SQL("mds.bars"),
    where=SQL("ts_event >= %s AND ts_event < %s AND vendor = 'bench' AND symbol = %s AND \"interval\" = '1m'"),
    order=SQL("ts_event"),
)
_SAME = SQL("vendor = wanted.vendor AND symbol = wanted.symbol")
_PRICE = query("price_at", relation="bars", price=SQL("close"), same=_SAME)


class Bare:
    """The three things that the row measures, with nothing around them: rows stay tuples, errors psycopg's."""

    def __init__(self, dsn: str, tenant: str) -> None:
        self._tenant = tenant
        self._pool = AsyncConnectionPool(
            dsn, min_size=POOL, max_size=POOL, open=False, kwargs={"autocommit": True}, configure=self._configure,
            check=self._check, reset=self._reset, timeout=60,
        )  # fmt: skip
        self._partitions: set[tuple[int, int]] = set()

    async def __aenter__(self) -> Self:
        await self._pool.open(wait=True)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._pool.close()

    async def _configure(self, connection: psycopg.AsyncConnection[Any]) -> None:
        await connection.execute(QUERIES["role"])

    async def _check(self, connection: psycopg.AsyncConnection[Any]) -> None:
        await connection.execute(QUERIES["tenant_set"], (self._tenant,))

    async def _reset(self, connection: psycopg.AsyncConnection[Any]) -> None:
        await connection.execute(QUERIES["tenant_clear"])

    async def latest_prices(self, symbols: list[str]) -> int:
        """Return how many of `symbols` have a price."""
        async with self._pool.connection() as connection:
            asked = {"symbols": symbols, "vendor": "bench"}
            noted = await (await connection.cursor(binary=True).execute(query("last_priced"), asked)).fetchall()
            _, vendors, names, times = (list(c) for c in zip(*noted, strict=True))
            given = {"vendors": vendors, "symbols": names, "times": times}
            given |= {"first_ns": min(times), "last_ns": max(times)}
            return len(await (await connection.cursor(binary=True).execute(_PRICE, given)).fetchall())

    async def bars_window(self, symbol: str, start: datetime, end: datetime) -> int:
        """Return how many bars there are."""
        span = (round(start.timestamp()) * 10**9, round(end.timestamp()) * 10**9, symbol)
        async with self._pool.connection() as connection:
            return len(await (await connection.cursor(binary=True).execute(_WINDOW, span)).fetchall())

    async def upsert_bars(self, bars: list[Bar]) -> int:
        """Store bars in one transaction; return how many were new."""
        now_ns = time.time_ns()
        async with self._pool.connection() as connection:
            for month in {(b.ts.year, b.ts.month): b.ts_ns for b in bars}.items():
                if month[0] not in self._partitions:
                    await connection.execute(QUERIES["partition"], ("bars", month[1]))
                    self._partitions.add(month[0])
            async with connection.transaction():
                await connection.execute(query("staging", **_NAMES))
                async with connection.cursor() as cursor:
                    async with cursor.copy(_COPY) as copy:
                        copy.set_types(_TYPES)
                        for b in bars:
                            await copy.write_row(
                                (b.vendor, b.symbol, b.ts_ns, now_ns, 0, 0, "backfill", b.timeframe, b.what, b.session,
                                 b.source, b.open_price, b.high_price, b.low_price, b.close_price, b.volume, b.vwap,
                                 b.trade_count, 0, now_ns, None, 0)
                            )  # fmt: skip
                    await cursor.execute(_UPSERT)
                    inserted, _ = await cursor.fetchone() or (0, 0)
                last = max(bars, key=lambda b: b.ts_ns)
                noted = {"table": "bars", "vendors": [last.vendor], "symbols": [last.symbol], "times": [last.ts_ns]}
                await connection.execute(QUERIES["last_priced_note"], noted)
                await connection.execute(QUERIES["upserts_count"], ("bars", inserted))
            return int(inserted)
