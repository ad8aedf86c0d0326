"""Last prices: what they are, whatever becomes of the rows, and what finding them costs."""

from __future__ import annotations

import itertools
from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from market_data_store.postgres import PostgresStore, migrate, retain
from market_data_store.postgres.prices import Noted, asking_prices
from market_data_store.postgres.queries import QUERIES, read_migrations
from market_data_store.postgres.talk import Answer

DAY_NS = 86_400 * 10**9
NOW_NS = 2 * 10**18
_tenants = itertools.count()

PRICED = {"trades": ("price",), "quotes": ("bid_price", "ask_price"), "bars": ("close",)}
priced_rows = st.tuples(
    st.sampled_from(["A", "B", "C", None]),
    st.sampled_from([0, 1, 2, DAY_NS, 40 * DAY_NS]),
    st.sampled_from([1.0, 2.0, 3.0, None]),
)
batches = st.lists(
    st.tuples(st.sampled_from(sorted(PRICED)), st.lists(priced_rows, min_size=1, max_size=4)), max_size=6
)


@pytest.fixture(scope="module")
def shared_dsn(server):
    """One database for tests that have a tenant each."""
    return server.database()


def add(store, rows, table, given, *, first=0):
    """Append rows of `(symbol, ts_event, price)`."""
    made = rows(
        table,
        len(given),
        first=first,
        symbol=[s for s, _, _ in given],
        ts_event=[t for _, t, _ in given],
        **{column: [p for _, _, p in given] for column in PRICED[table]},
    )
    view = store.table(table)
    view.append(made, writer="w", position=(view.position("w") or 0) + 1, covers={})


def by_looking_at_everything(dsn, tenant):
    with psycopg.connect(dsn) as connection:
        connection.execute("SELECT set_config('app.tenant_id', %s, false)", (tenant,))
        connection.execute("SET ROLE mds_app")
        return connection.execute(
            "SELECT vendor, symbol, price, price_timestamp FROM mds.latest_prices ORDER BY vendor, symbol"
        ).fetchall()


def told(store):
    return [tuple(row.values()) for row in store.latest_prices().to_pylist()]


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(batches=batches)
def test_they_are_those_of_a_look_at_every_row(shared_dsn, rows, batches):
    """In whatever order rows come, of whatever times, with and without a price, a symbol and corrections."""
    tenant = f"t{next(_tenants)}"
    with PostgresStore(shared_dsn, tenant) as store:
        for number, (table, given_rows) in enumerate(batches):
            add(store, rows, table, given_rows, first=10 * number)
        assert told(store) == by_looking_at_everything(shared_dsn, tenant)


def test_a_bar_that_loses_its_close_gives_way_to_the_one_before(store, rows):
    """And has its say again with the next version."""
    store.upsert("bars", rows("bars", 3, ts_event=[1, 2, 3], close=[1.0, 2.0, 3.0]), now_ns=NOW_NS)
    store.upsert("bars", rows("bars", 2, ts_event=[2, 3]), now_ns=NOW_NS)
    assert told(store) == [("v", "A", 1.0, 1)]
    store.upsert("bars", rows("bars", 1, ts_event=[3], close=[4.0]), now_ns=NOW_NS)
    assert told(store) == [("v", "A", 4.0, 3)]


def test_what_retention_dropped_is_no_price(store, dsn, rows):
    """The instrument has the next best, or none."""
    add(store, rows, "trades", [("A", 0, 1.0), ("B", 0, 1.0)])
    store.upsert("bars", rows("bars", 1, ts_event=[40 * DAY_NS], close=[2.0]), now_ns=NOW_NS)
    retain(dsn, "trades", before_ns=20 * DAY_NS)
    assert told(store) == [("v", "A", 2.0, 40 * DAY_NS)]


def test_writers_at_once_leave_the_latest(dsn, rows):
    """Each advances some instruments that others write too, in other orders."""
    symbols = [f"S{n}" for n in range(20)]

    def write(number):
        with PostgresStore(dsn, "acme") as store:
            for at in range(5):
                times = [100 * at + (number + n) % 7 for n in range(20)]
                ordered = symbols if number % 2 else symbols[::-1]
                made = rows("trades", 20, symbol=ordered, ts_event=times, price=[float(t) for t in times])
                store.table("trades").append(made, writer=f"w{number}", position=at + 1, covers={})

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(write, range(4)))
    with PostgresStore(dsn, "acme") as store:
        assert told(store) == by_looking_at_everything(dsn, "acme")


def buffers(dsn):
    # Of all statements that finding the prices takes, as the application's role sends them.
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("SELECT set_config('app.tenant_id', 'acme', false)")
        connection.execute("SET ROLE mds_app")
        asking, touched = asking_prices((), vendor=None, noted=Noted()), 0
        try:
            step = next(asking)
            while True:
                statement = step.statement.encode() if isinstance(step.statement, str) else step.statement
                explained = b"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) " + statement
                plan = connection.execute(explained, step.values).fetchone()[0][0]["Plan"]
                touched += plan["Shared Hit Blocks"] + plan["Shared Read Blocks"]
                step = asking.send(Answer(connection.execute(step.statement, step.values).fetchall()))
        except StopIteration as end:
            return touched, end.value.num_rows


def test_ten_times_the_rows_cost_no_more(store, dsn, rows):
    """Instruments that are traded, that are not any more, and that have quotes or bars alone."""

    def fill(start, minutes):
        for table, symbols in (("trades", "TU"), ("quotes", "TQ"), ("bars", "TB")):
            given = [
                (f"{s}{n}", 60 * 10**9 * at, 1.0) for at in range(start, minutes) for s in symbols for n in range(5)
            ]
            add(store, rows, table, given, first=start * 10)

    add(store, rows, "trades", [("LONG-AGO", 0, 1.0)])
    fill(0, 100)
    few, found = buffers(dsn)
    fill(100, 1000)
    many, found_then = buffers(dsn)
    assert found == found_then == 21
    assert many <= 1.5 * few


def test_what_code_of_before_stored_is_found(server, rows):
    """Beside it by a look at everything, after its end where the migration noted it; the owner is no superuser."""
    dsn = server.empty_database()
    name = psycopg.conninfo.conninfo_to_dict(dsn)["dbname"]
    with psycopg.connect(server.database(), autocommit=True) as admin:
        admin.execute("DROP ROLE IF EXISTS owner_of_prices")
        admin.execute("CREATE ROLE owner_of_prices LOGIN CREATEROLE")
        admin.execute("GRANT mds_app, mds_maintainer TO owner_of_prices WITH ADMIN OPTION")
        admin.execute(f"ALTER DATABASE {name} OWNER TO owner_of_prices")
    owned = dsn.replace("postgres@", "owner_of_prices@")
    with psycopg.connect(owned, autocommit=True) as owner:
        owner.execute(QUERIES["versions_table"])
        for step in [m for m in read_migrations() if m.version < 4]:
            owner.execute(step.sql)
            owner.execute(QUERIES["version_add"], (step.version, step.name))
        for tenant, price in (("acme", 1.0), ("other", 2.0)):
            owner.execute("SELECT set_config('app.tenant_id', %s, false)", (tenant,))
            for table, columns in PRICED.items():
                owner.execute("SELECT mds.ensure_partition(%s, 0)", (table,))
                owner.execute(
                    f"INSERT INTO mds.{table} (tenant_id, vendor, symbol, ts_event, ts_recv, seq, {', '.join(columns)})"
                    f" VALUES (%s, 'v', %s, 7, 0, 0, {', '.join([str(price)] * len(columns))})",
                    (tenant, table.upper()),
                )
    with psycopg.connect(owned, autocommit=True) as owner:
        for step in [m for m in read_migrations() if m.version >= 4 and m.phase == "pre"]:
            owner.execute(step.sql)
            owner.execute(QUERIES["version_add"], (step.version, step.name))
    with PostgresStore(owned, "acme") as store, PostgresStore(owned, "other") as other:
        add(store, rows, "trades", [("NEW", 3, 9.0)])
        old = [("v", "BARS", 1.0, 7), ("v", "NEW", 9.0, 3), ("v", "QUOTES", 1.0, 7), ("v", "TRADES", 1.0, 7)]
        assert told(store) == old
        migrate(owned, phase="post")
        assert told(store) == old
        assert [p for _, _, p, _ in told(other)] == [2.0] * 3
    with psycopg.connect(owned) as owner:
        forced = "SELECT relforcerowsecurity FROM pg_class WHERE oid = ANY(%s::regclass[])"
        assert owner.execute(forced, ([f"mds.{n}" for n in (*PRICED, "last_priced")],)).fetchall() == [(True,)] * 4
        owner.execute("SELECT set_config('app.tenant_id', 'acme', false)")
        assert owner.execute("SELECT count(*) FROM mds.last_priced").fetchone() == (4,)
