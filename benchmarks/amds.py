"""Many tasks of one event loop read and write through `AMDS`, beside the same statements by hand on psycopg's pool."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import numpy as np
from tests.support.postgres_server import Server

from benchmarks.amds_bare import POOL, Bare
from benchmarks.context import Context, rounds
from benchmarks.results import Result, Target
from market_data_store.postgres import PostgresStore
from mds_client import AMDS, Bar

ROW = "amds"
OURS, BARE = "AMDS", "psycopg AsyncConnectionPool by hand"
TENANT = "bench"
_TASKS = 50
_TURNS = 6
_READS = 4  # of each sort, for each write
_WINDOW = 30
_BATCH = 500
_PRICES_OF = 5
# What the target is of what the statements alone do on the reference machine.
_PER_S, _OF_BARE = 1000.0, 0.8
_START = datetime(2024, 2, 1, tzinfo=UTC)
_SORTS = ("latest_prices", "bars_window", "upsert_bars")


@dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    """How the three things are done; each call returns how many rows it saw, and a write how many were new."""

    latest_prices: Callable[[list[str]], Awaitable[int]]
    bars_window: Callable[[str, datetime, datetime], Awaitable[int]]
    upsert_bars: Callable[[list[Bar]], Awaitable[int]]


@dataclass(slots=True)
class Found:
    """What the rounds of one way took: seconds in all of each round, and of each call by its sort."""

    taken_s: list[float] = field(default_factory=list)
    calls_s: dict[str, list[float]] = field(default_factory=lambda: {sort: [] for sort in _SORTS})


def run(ctx: Context) -> list[Result]:
    """Measure both in turn, each on a database of its own, every answer checked for its rows."""
    turns = _TURNS if ctx.live_s >= 10 else 1
    found = {OURS: Found(), BARE: Found()}
    server = Server(durable=True)
    try:
        ways = {OURS: _ours, BARE: _bare}

        def measured(name: str) -> Callable[[], float]:
            return lambda: ways[name](_filled(server), turns, found[name])

        rounds({name: measured(name) for name in ways}, ctx.rounds)
    finally:
        server.close()
    return _results(found, turns)


def _filled(server: Server) -> str:
    dsn = server.database()
    with PostgresStore(dsn, TENANT) as store:
        store.open()
    return dsn


def _ours(dsn: str, turns: int, found: Found) -> float:
    async def measure() -> float:
        async with AMDS({"dsn": dsn, "tenant_id": TENANT, "pool_max": POOL}) as client:

            async def latest_prices(symbols: list[str]) -> int:
                return len(await client.latest_prices(symbols, "bench"))

            async def bars_window(symbol: str, start: datetime, end: datetime) -> int:
                return len(await client.bars_window(symbol, "1m", start, end, "bench"))

            async def upsert_bars(bars: list[Bar]) -> int:
                return (await client.upsert_bars(bars)).inserted

            way = Way(latest_prices=latest_prices, bars_window=bars_window, upsert_bars=upsert_bars)
            return await _tasks(way, turns, found)

    return asyncio.run(measure())


def _bare(dsn: str, turns: int, found: Found) -> float:
    async def measure() -> float:
        async with Bare(dsn, TENANT) as bare:
            way = Way(latest_prices=bare.latest_prices, bars_window=bare.bars_window, upsert_bars=bare.upsert_bars)
            return await _tasks(way, turns, found)

    return asyncio.run(measure())


async def _tasks(way: Way, turns: int, found: Found) -> float:
    # The first turn fills the tables, connects, and makes partitions; it is not measured.
    warm = Found()
    await asyncio.gather(*(_task(way, number, range(1), warm) for number in range(_TASKS)))
    given = {number: [_bars(number, turn) for turn in range(1, turns + 1)] for number in range(_TASKS)}
    started = time.perf_counter()
    async with asyncio.TaskGroup() as tasks:
        for number in range(_TASKS):
            tasks.create_task(_task(way, number, range(1, turns + 1), found, given[number]))
    taken = time.perf_counter() - started
    found.taken_s.append(taken)
    return taken


async def _task(way: Way, number: int, turns: range, found: Found, given: list[list[Bar]] | None = None) -> None:
    async def timed(sort: str, call: Awaitable[int], expected: int) -> None:
        started = time.perf_counter()
        rows = await call
        found.calls_s[sort].append(time.perf_counter() - started)
        if rows != expected:
            raise AssertionError(f"{sort} of task {number} gave {rows} rows; {expected} are there")

    symbol = _symbol(number)
    for at, turn in enumerate(turns):
        await timed("upsert_bars", way.upsert_bars(given[at] if given else _bars(number, turn)), _BATCH)
        if not given:
            continue
        for read in range(_READS):
            symbols = [_symbol((number + read * 7 + n) % _TASKS) for n in range(_PRICES_OF)]
            await timed("latest_prices", way.latest_prices(symbols), _PRICES_OF)
            start = _START + timedelta(minutes=turn * _BATCH + read * _WINDOW)
            await timed("bars_window", way.bars_window(symbol, start, start + timedelta(minutes=_WINDOW)), _WINDOW)


def _symbol(number: int) -> str:
    return f"S{number:04d}"


def _bars(number: int, turn: int) -> list[Bar]:
    price = 100.0 + number
    return [
        Bar(
            tenant_id=TENANT,
            vendor="bench",
            symbol=_symbol(number),
            timeframe="1m",
            ts=_START + timedelta(minutes=turn * _BATCH + n),
            open_price=price,
            high_price=price + 1,
            low_price=price - 1,
            close_price=price,
            volume=1.0 + n,
        )
        for n in range(_BATCH)
    ]


def _results(found: Mapping[str, Found], turns: int) -> list[Result]:
    calls = _TASKS * turns * (1 + 2 * _READS)
    rates = {name: [calls / s for s in f.taken_s] for name, f in found.items()}
    what = f"{_TASKS} tasks, {POOL} connections, {_READS} + {_READS} reads for each write of {_BATCH} bars"
    results = [
        Result(
            row=ROW,
            what=f"{what}: calls",
            value=statistics.median(rates[OURS]),
            spread=(min(rates[OURS]), max(rates[OURS])),
            unit="calls/s",
            yardsticks={BARE: statistics.median(rates[BARE])},
            target=Target(value=_PER_S, yardstick=BARE, ratio=_OF_BARE),
            detail={"calls": calls, "rounds": len(rates[OURS])},
        )
    ]
    for sort in _SORTS:
        p50, p99 = ({n: float(np.percentile(f.calls_s[sort], q)) * 1000 for n, f in found.items()} for q in (50, 99))
        results.append(
            Result(
                row=ROW,
                what=f"{what}: {sort}",
                value=p99[OURS],
                spread=(p99[OURS], p99[OURS]),
                unit="ms p99",
                yardsticks={BARE: p99[BARE]},
                detail={"p50_ms": round(p50[OURS], 2), "p50_by_hand_ms": round(p50[BARE], 2)},
            )
        )
    return results
