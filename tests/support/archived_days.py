"""Days to archive, and what every reader says of them."""

from __future__ import annotations

import asyncio

import psycopg
import pytest

from market_data_core.errors import TemporaryUnavailable
from market_data_core.schemas import Kind
from market_data_store.backend import Wanted
from market_data_store.postgres import (
    TABLES,
    AsyncPostgresStore,
    PostgresStore,
    archive,
)
from market_data_store.query.server import run_server_query
from mds_client.transfer import digest_of

ARCHIVABLE = sorted(name for name, spec in TABLES.items() if spec.archivable)
DAY_NS = 86_400 * 10**9
FIRST = 19_723
"""The first of four days, 2024-01-01; the last is not archived where nothing else is said."""
BEFORE_NS = (FIRST + 3) * DAY_NS
DAYS = ("20240101", "20240102", "20240103")


def one(dsn, sql, *values):
    """Return the first value that a statement gives, as the superuser."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        return connection.execute(sql, values).fetchone()[0]


def append(store, table, batch, *, position=1, writer="w"):
    """Append as a consumer does: with a fresh view where the store says that it is worth another try."""
    for _ in range(20):
        try:
            return store.table(table).append(batch, writer=writer, position=position, covers={})
        except TemporaryUnavailable:
            continue
    pytest.fail("the store takes nothing")


def ticks(rows, table, days, per_day, *, first=0, **columns):
    """Build rows of some days, of three instruments and two vendors, spread over each."""
    count = len(days) * per_day
    times = [d * DAY_NS + n * (DAY_NS // per_day) for d in days for n in range(per_day)]
    priced = {"price": [100 + n % 7 / 10 for n in range(count)], "bid_price": [99.5 + n % 5 for n in range(count)]}
    priced["ask_price"] = [p + 0.25 for p in priced["bid_price"]]
    names = TABLES[table].rows_schema.names
    given = {
        "ts_event": times,
        "symbol": [("A", "B", None)[n % 3] for n in range(count)],
        "vendor": [("v", "x")[n % 2] for n in range(count)],
        **{n: v for n, v in priced.items() if n in names},
        **columns,
    }
    return rows(table, count, first=first, **given)


def fill(dsn, rows, *, tables=ARCHIVABLE, per_day=300):
    for number, tenant in enumerate(("acme", "other")):
        with PostgresStore(dsn, tenant) as store:
            for table in tables:
                count = per_day * (1 + number)
                append(store, table, ticks(rows, table, range(FIRST, FIRST + 4), count), position=count)


def sql_of(dsn, tenant, sql):
    return run_server_query(dsn, tenant, sql).table.to_pylist()


QUERY = """
    select 'rows' as what, symbol, count(*) as n, min(ts_event) as first, max(seq) as last from trades t group by 2
    union all select 'price', symbol, 1, price_timestamp, round(100 * price) from latest_prices
    union all select 'fresh ' || table_name, symbol, 1, ts_event, ts_recv from data_freshness
    order by 1, 2, 4, 5"""


async def awaited(dsn, tenant, table):
    store = AsyncPostgresStore(dsn, tenant)
    try:
        return (await store.fetch(table, Wanted(symbols=("A",)))), (await store.latest_prices())
    finally:
        await store.close()


def answers(dsn, tenant, tables=ARCHIVABLE):
    """What every reader says of a tenant's rows."""
    said = {}
    inside = Wanted(start_ns=FIRST * DAY_NS + 5, end_ns=(FIRST + 2) * DAY_NS - 5, vendor="v", symbols=("A", "B"))
    with PostgresStore(dsn, tenant) as store:
        for table in tables:
            digest = digest_of(store, table)
            said[table, "digest"] = (digest.rows, digest.digest)
            said[table, "all"] = store.fetch(table, Wanted()).to_pylist()
            said[table, "inside"] = store.fetch(table, inside, columns=["ts_event", "seq"]).to_pylist()
            said[table, "origin"] = store.fetch(table, Wanted(equal={"origin": "live"})).num_rows
            said[table, "days"] = [b.column("ts_event")[0].as_py() // DAY_NS for b in store.stream(table, Wanted())]
            said[table, "part"] = sum(b.num_rows for b in store.stream(table, inside, batch_rows=50))
            for name, wanted in {
                "coverage": Wanted(),
                "coverage of days": Wanted(start_ns=(FIRST + 1) * DAY_NS, end_ns=(FIRST + 2) * DAY_NS, vendor="x"),
                "coverage inside": inside,
                "coverage of an origin": Wanted(equal={"origin": "live"}),
            }.items():
                said[table, name] = store.coverage(table, wanted).to_pylist()
            said[table, "below"] = store.read(table, below_seq=200, symbol="B").to_pylist()
        said["ticks"] = store.ticks(Kind.TRADES, "v", "A", start_ns=0, end_ns=2**62, below_seq=250).to_pylist()
        said["prices"] = store.latest_prices().to_pylist()
    said["awaited"] = [t.to_pylist() for t in asyncio.run(awaited(dsn, tenant, "trades"))]
    said["sql"] = sql_of(dsn, tenant, QUERY)
    return said


def archive_all(dsn, before_ns=BEFORE_NS):
    return {table: archive(dsn, table, before_ns=before_ns) for table in ARCHIVABLE}


def chunks(dsn):
    with psycopg.connect(dsn) as connection:
        return connection.execute(
            "SELECT hypertable_name, is_compressed FROM timescaledb_information.chunks"
            " WHERE hypertable_schema = 'mds_archive' ORDER BY 1, range_start_integer"
        ).fetchall()
