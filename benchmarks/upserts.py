"""Idempotent upserts of bars into PostgreSQL, with row level security, partitions and revisions, and into the lake."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import count
from typing import Any

import numpy as np
import psycopg
import pyarrow as pa
import pyarrow.compute as pc
from tests.support.postgres_server import Server

from benchmarks.context import Context, median_rate, rate_spread, rounds
from benchmarks.results import Result, Target
from benchmarks.upserts_bare import ASYNCPG, EXECUTEMANY, asyncpg, asyncpg_python, executemany
from market_data_core.schemas import TABLE_SCHEMAS, Kind
from market_data_store.backend import Backend, Wanted
from market_data_store.lake import Lake
from market_data_store.postgres import PostgresStore

ROW = "upserts"
APPEND, UPSERT, LAKE = "PostgreSQL, append", "PostgreSQL, upsert", "lake, upsert"
PHASES = {"new": "new bars", "again": "the same bars again", "revised": "all revised"}
TENANT = "bench"
_BARS = str(Kind.BARS)
_PER_S = 100_000.0
_CALL_ROWS = 20_000
_SYMBOLS = 500
_MINUTE_NS = 60 * 1_000_000_000
_MIDNIGHT_NS = 19_754 * 1440 * _MINUTE_NS  # 2024-02-01, where a partition ends and the next begins
_NOW_NS = _MIDNIGHT_NS + 1440 * _MINUTE_NS
_numbers = count()

Calls = Mapping[str, list[pa.Table]]
Seconds = dict[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    """A fresh place for bars, and how they come there.

    Attributes:
        write: Stores so many rows, durably.
        check: Raises AssertionError unless it holds so many bars in so many versions, of so much volume.
    """

    write: Callable[[pa.Table], object]
    check: Callable[[int, int, float], None]


def run(ctx: Context) -> list[Result]:
    """Measure every way in turn, each into a place of its own, and check after each phase what is stored there."""
    rows = max(_SYMBOLS, ctx.sample_rows // 4)
    new, revised = bars(rows, revision=0), bars(rows, revision=1)
    phases = {"new": new, "again": new, "revised": revised}
    python, reason = asyncpg_python(ctx)
    # A commit waits for the disk, as it does in the lake.
    server = Server(durable=True)
    try:
        found = _measured(ctx, server, phases, None if reason else python)
        with psycopg.connect(server.dsn("postgres")) as connection:
            version = connection.info.parameter_status("server_version")
    finally:
        server.close()
    detail = {"rows": rows, "rows_a_call": min(rows, _CALL_ROWS), "server": version, "fsync": True}
    results = [_result(way, phase, rows, found, detail) for way in (APPEND, UPSERT, LAKE) for phase in PHASES]
    return [*results, *([Result(row=ROW, what=f"yardstick {ASYNCPG}", skipped=reason)] if reason else [])]


def _measured(
    ctx: Context, server: Server, phases: Mapping[str, pa.Table], python: str | None
) -> dict[str, list[Seconds]]:
    given = {phase: _calls(rows) for phase, rows in phases.items()}
    # A row without a revision says what is true now, and the store finds out which version that makes it.
    told = {phase: _calls(_without_revision(rows)) for phase, rows in phases.items()}
    found: dict[str, list[Seconds]] = {}

    def kept(name: str, measure: Callable[[], Seconds]) -> Callable[[], float]:
        def once() -> float:
            taken = measure()
            found.setdefault(name, []).append(taken)
            return sum(taken.values())

        return once

    def bare(measure: Callable[[str, Calls], Seconds]) -> Seconds:
        with _database(server) as dsn:
            return measure(dsn, given)

    contenders = {
        APPEND: lambda: store(_appending(server), given),
        UPSERT: lambda: store(_upserting(server), told),
        LAKE: lambda: store(_lake(ctx), told),
        EXECUTEMANY: lambda: bare(executemany),
    }
    if python is not None:
        contenders[ASYNCPG] = lambda: bare(partial(asyncpg, python, ctx.work))
    rounds({name: kept(name, measure) for name, measure in contenders.items()}, max(1, ctx.rounds // 2 + 1))
    return found


def store(place: AbstractContextManager[Way], calls: Calls) -> Seconds:
    """Store the bars of each phase in turn; return how long each phase took.

    Raises:
        AssertionError: What is stored then is not what was handed in.
    """
    taken = {}
    versions = 0
    with place as way:
        for phase, tables in calls.items():
            started = time.perf_counter()
            for rows in tables:
                way.write(rows)
            taken[phase] = time.perf_counter() - started
            rows = sum(t.num_rows for t in tables)
            versions += 0 if phase == "again" else rows
            way.check(rows, versions, sum(pc.sum(t.column("volume")).as_py() for t in tables))
    return taken


@contextmanager
def _appending(server: Server) -> Iterator[Way]:
    with _postgres(server) as made:
        table = made.table(_BARS)
        positions = count(1)
        yield Way(
            write=lambda rows: table.append(rows, writer=_BARS, position=next(positions), covers={}),
            check=partial(_check, made),
        )


@contextmanager
def _upserting(server: Server) -> Iterator[Way]:
    with _postgres(server) as made:
        yield Way(write=partial(made.upsert, _BARS, now_ns=_NOW_NS), check=partial(_check, made))


@contextmanager
def _lake(ctx: Context) -> Iterator[Way]:
    made = Lake(ctx.work / f"upserts-{next(_numbers)}", TENANT)
    made.open()
    yield Way(write=partial(made.upsert, _BARS, now_ns=_NOW_NS), check=partial(_check, made))


@contextmanager
def _postgres(server: Server) -> Iterator[PostgresStore]:
    with _database(server) as dsn, PostgresStore(dsn, TENANT) as made, PostgresStore(dsn, "other") as other:
        made.open()
        # Connecting is none of what is measured.
        made.written()
        yield made
        if seen := other.fetch(_BARS, Wanted(versions=True)).num_rows:
            raise AssertionError(f"another tenant sees {seen} of the bars")


@contextmanager
def _database(server: Server) -> Iterator[str]:
    dsn = server.database()
    yield dsn
    name = psycopg.conninfo.conninfo_to_dict(dsn)["dbname"]
    with psycopg.connect(server.dsn("postgres"), autocommit=True) as admin:
        admin.execute(psycopg.sql.SQL("DROP DATABASE {} WITH (FORCE)").format(psycopg.sql.Identifier(str(name))))


def _check(made: Backend, rows: int, versions: int, volume: float) -> None:
    current = made.fetch(_BARS, Wanted(), columns=["volume"])
    held = pc.sum(made.coverage(_BARS, Wanted()).column("rows")).as_py()
    found = (current.num_rows, held, pc.sum(current.column("volume")).as_py())
    if found != (rows, versions, volume):
        raise AssertionError(f"stored are bars, versions and volume {found}; handed in {(rows, versions, volume)}")


def _result(way: str, phase: str, rows: int, found: Mapping[str, list[Seconds]], detail: dict[str, Any]) -> Result:
    times = {name: [taken[phase] for taken in rounds_] for name, rounds_ in found.items()}
    asked = way != LAKE
    return Result(
        row=ROW,
        what=f"{way}: {PHASES[phase]}",
        value=median_rate(rows, times[way]),
        spread=rate_spread(rows, times[way]),
        unit="rows/s",
        yardsticks={name: median_rate(rows, times[name]) for name in (EXECUTEMANY, ASYNCPG) if name in times},
        target=Target(value=_PER_S) if asked else None,
        detail={**detail, "rounds": len(times[way]), "median_s": statistics.median(times[way])},
    )


def bars(rows: int, *, revision: int) -> pa.Table:
    """Return one-minute bars around a month's end: all symbols of one minute, then of the next.

    Args:
        rows: How many.
        revision: Of all of them; another one has other prices and volumes of the same keys.
    """
    at = np.arange(rows)
    minute, symbol = at // _SYMBOLS, at % _SYMBOLS
    start = _MIDNIGHT_NS + (minute - (rows // _SYMBOLS) // 2) * _MINUTE_NS
    price = 100 + (at * 7 + symbol) % 997 / 100 + revision
    names = pa.array([f"S{i:04d}" for i in range(_SYMBOLS)])
    columns = {
        "vendor": pa.repeat("bench", rows),
        "symbol": names.take(pa.array(symbol)),
        "ts_event": start,
        "ts_recv": start + _MINUTE_NS,
        "seq": at + revision * rows,
        "flags": np.zeros(rows, np.int32),
        "origin": pa.repeat("synthetic", rows),
        "interval": pa.repeat("1m", rows),
        "what": pa.repeat("TRADES", rows),
        "session": pa.repeat("ALL", rows),
        "source": pa.repeat("internal", rows),
        **dict.fromkeys(("open", "high", "low", "close", "vwap"), price),
        "volume": (at % 997 + 1 + revision).astype(np.float64),
        "trade_count": np.full(rows, 10),
        "revision": np.full(rows, revision, np.int32),
        "ts_known": start + (1 + revision) * _MINUTE_NS,
        "reason": pa.repeat("correction", rows) if revision else pa.nulls(rows, pa.string()),
    }
    schema = TABLE_SCHEMAS[Kind.BARS]
    return pa.Table.from_arrays([pa.array(columns[f.name]).cast(f.type) for f in schema], schema=schema)


def _without_revision(rows: pa.Table) -> pa.Table:
    at = rows.schema.get_field_index("revision")
    return rows.set_column(at, rows.schema.field(at), pa.nulls(rows.num_rows, pa.int32()))


def _calls(rows: pa.Table) -> list[pa.Table]:
    return [rows.slice(at, _CALL_ROWS) for at in range(0, rows.num_rows, _CALL_ROWS)]
