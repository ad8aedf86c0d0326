"""What PostgreSQL has of its own to say to a store's users: concurrency, histories, streams, jobs, retention."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from uuid import UUID

import psycopg
import pyarrow as pa
import pytest

from market_data_core.errors import ConfigurationError, SchemaValidationError, TemporaryUnavailable
from market_data_core.schemas import KEYS, STORED_SCHEMAS
from market_data_store.backend import Upserted, Wanted
from market_data_store.postgres import PostgresStore, migrate, register_tenant, retain, timescale_version
from market_data_store.postgres.queries import QUERIES, Migration, read_migrations
from market_data_store.postgres.schema import due

DAY_NS = 86_400 * 10**9
NOW_NS = 1_704_110_400 * 10**9
RECORDS = ["bars", "fundamentals", "news", "option_snapshots", "corporate_actions"]


def changed(table, batch, value):
    """The same keys with another value."""
    column = {"bars": "close", "news": "sentiment_score", "fundamentals": "eps"}.get(table)
    column = column or {"option_snapshots": "implied_vol", "corporate_actions": "split_factor"}[table]
    at = batch.schema.get_field_index(column)
    return batch.set_column(at, batch.schema.field(at), pa.array([value] * batch.num_rows, pa.float64()))


def revisions(store, table):
    return store.fetch(table, Wanted(versions=True)).column("revision").to_pylist()


@pytest.mark.parametrize("table", RECORDS)
def test_versions_of_every_keyed_table(store, rows, table):
    """New, the same again, and changed; each version is there and the newest is read."""
    batch = rows(table, 3)
    assert store.upsert(table, batch, now_ns=NOW_NS) == Upserted(inserted=3)
    assert store.upsert(table, batch, now_ns=NOW_NS + 1) == Upserted(unchanged=3)
    assert store.upsert(table, changed(table, batch, 0.5), now_ns=NOW_NS + 2) == Upserted(revised=3)
    assert revisions(store, table) == [0, 1] * 3
    assert store.fetch(table, Wanted()).column("revision").to_pylist() == [1] * 3
    assert store.fetch(table, Wanted(as_of_ns=NOW_NS)).column("revision").to_pylist() == [0] * 3


@pytest.mark.parametrize("table", RECORDS)
def test_a_history_is_restored_as_it_was(dsn, store, rows, table):
    """Into another store, newest first or oldest first, once however often."""
    for value in (1.0, 2.0, 3.0):
        store.upsert(table, changed(table, rows(table, 4), value), now_ns=NOW_NS + int(value))
    history = store.fetch(table, Wanted(versions=True))
    for tenant, order in (("forwards", range(12)), ("backwards", range(11, -1, -1))):
        with PostgresStore(dsn, tenant) as copy:
            again = history.take(pa.array(order))
            half = copy.upsert(table, again.slice(0, 6), now_ns=0)
            assert half + copy.upsert(table, again.slice(6), now_ns=0) == Upserted(inserted=4, revised=8)
            assert copy.upsert(table, again, now_ns=0) == Upserted(unchanged=12)
            assert copy.fetch(table, Wanted(versions=True)).equals(history)
            assert copy.fetch(table, Wanted()).equals(store.fetch(table, Wanted()))


def test_told_and_restored_rows_may_come_together(store, rows):
    """Each is taken in its turn: what is told after a restored version is the one after it."""
    one = changed("news", rows("news", 1), 1.0)
    at = one.schema.get_field_index("revision")
    seventh = one.set_column(at, one.schema.field(at), pa.array([7], pa.int32()))
    batch = pa.concat_tables([one, seventh, changed("news", one, 2.0), one, one])
    assert store.upsert("news", batch, now_ns=NOW_NS) == Upserted(inserted=1, revised=3, unchanged=1)
    assert revisions(store, "news") == [0, 7, 8, 9]


@pytest.mark.parametrize("table", ["bars", "news"])
def test_upserts_at_once_lose_no_version(dsn, rows, table):
    """Of the same keys in any order by many: every value that was news is a version, without a gap in their numbers."""
    batch = rows(table, 40)

    def write(number):
        with PostgresStore(dsn, "acme", connections=1) as store:
            order = pa.array([(i * 7 + number * 13) % 40 for i in range(40)])
            done = Upserted()
            for step in range(5):
                rows_of_mine = changed(table, batch, float(number * 10 + step)).take(order)
                done += store.upsert(table, rows_of_mine, now_ns=NOW_NS)
            return done

    with ThreadPoolExecutor(6) as threads:
        done = sum(threads.map(write, range(6)), Upserted())
    assert (done.inserted, done.revised) == (40, 40 * 29)
    with PostgresStore(dsn, "acme") as store:
        assert sorted(revisions(store, table)) == sorted(list(range(30)) * 40)


def test_restores_at_once_store_a_version_once(dsn, rows):
    """Also where told and restored rows of the same keys cross each other."""
    with PostgresStore(dsn, "source") as source:
        for value in range(4):
            source.upsert("bars", changed("bars", rows("bars", 30), float(value)), now_ns=NOW_NS)
        history = source.fetch("bars", Wanted(versions=True))

    def write(number):
        with PostgresStore(dsn, "acme", connections=1) as store:
            order = pa.array([(i * 7 + number * 11) % 120 for i in range(120)])
            return store.upsert("bars", history.take(order), now_ns=NOW_NS)

    with ThreadPoolExecutor(6) as threads:
        done = sum(threads.map(write, range(6)), Upserted())
    assert done == Upserted(inserted=30, revised=90, unchanged=600)
    with PostgresStore(dsn, "acme") as store:
        assert store.fetch("bars", Wanted(versions=True)).equals(history)


def test_a_stream_is_of_one_moment(dsn, store, rows):
    """What is stored while it is read is not in it."""
    store.table("trades").append(
        rows("trades", 9, ts_event=[d * DAY_NS for d in range(9)]), writer="w", position=9, covers={}
    )
    stream = store.stream("trades", Wanted(), columns=["seq"], batch_rows=2)
    found = next(stream).column("seq").to_pylist()
    store.table("trades").append(rows("trades", 1, first=9, ts_event=[8 * DAY_NS]), writer="w", position=10, covers={})
    found += [s for batch in stream for s in batch.column("seq").to_pylist()]
    assert found == list(range(9))


@pytest.mark.parametrize("table", ["bars", "option_snapshots", "fundamentals", "status", "quarantine", "trades"])
@pytest.mark.parametrize("batch_rows", [1, 3, 65_536])
def test_a_stream_goes_by_date_and_key(store, rows, table, batch_rows):
    """Over partitions of any length and none, to both ends of time, in batches no larger than asked for."""
    days = [-106_751, -40, -1, 0, 1, 20, 45, 106_751]
    times = [d * DAY_NS + s for s in (5, 3) for d in days]
    symbols = [f"S{i % 3}" for i in range(16)]
    store.table(table).append(
        rows(table, 16, ts_event=times, symbol=symbols, ts_recv=[0] * 16), writer="w", position=1, covers={}
    )
    wanted = Wanted(start_ns=-40 * DAY_NS)
    batches = list(store.stream(table, wanted, batch_rows=batch_rows))
    assert all(0 < b.num_rows <= batch_rows for b in batches)
    found = pa.Table.from_batches(batches).to_pylist()
    order = [tuple(r[k] for k in ("vendor", "symbol", "ts_event")) for r in found]
    if table in KEYS:
        assert order == sorted(order, key=lambda r: (r[2] // DAY_NS, *r))
    else:
        assert [r[2] // DAY_NS for r in order] == sorted(r[2] // DAY_NS for r in order)
    assert sorted(r[2] for r in order) == sorted(t for t in times if t >= -40 * DAY_NS)


def test_a_row_at_the_end_of_time_is_found(store, rows):
    """Where there is no upper bound there is none."""
    store.table("trades").append(rows("trades", 1, ts_event=[2**63 - 1]), writer="w", position=1, covers={})
    assert store.fetch("trades", Wanted()).num_rows == 1
    assert sum(b.num_rows for b in store.stream("trades", Wanted())) == 1
    assert store.coverage("trades", Wanted()).to_pylist()[0]["date"] == "2262-04-11"


def test_prices_of_some_are_those_of_all(store, rows):
    """Looked up symbol by symbol or read off whole, they are the same."""
    store.table("trades").append(
        rows("trades", 4, price=[1.0, 2.0, None, 4.0], symbol=["A", "A", "A", "é"]), writer="w", position=1, covers={}
    )
    quotes = rows("quotes", 3, symbol=["A", "B", "B"], bid_price=[8.0, 3.0, None], ask_price=[9.0, 4.0, 5.0])
    store.table("quotes").append(quotes, writer="w", position=1, covers={})
    store.upsert("bars", rows("bars", 2, symbol=["B", "C"], close=[6.0, 6.5]), now_ns=NOW_NS)
    whole = store.latest_prices()
    assert [(r["symbol"], r["price"]) for r in whole.to_pylist()] == [("A", 2.0), ("B", 3.5), ("C", 6.5), ("é", 4.0)]
    assert store.latest_prices(["é", "C", "A", "B", "A", "none"], vendor="v").equals(whole)
    assert store.latest_prices(["é", "C", "A", "B", "A", "none"]).equals(whole)
    assert store.latest_prices(["A"], vendor="u").num_rows == 0


def test_a_job_is_claimed_by_one(dsn):
    """Many who claim at once get each job once, the highest priority first for one who claims alone."""
    with PostgresStore(dsn, "acme") as store:
        ids = [
            store.enqueue("t", {"n": n}, idempotency_key=str(n), priority=n % 3, now_ns=NOW_NS).id for n in range(30)
        ]

        def claim(number):
            taken = []
            while (job := store.claim(f"worker {number}", now_ns=NOW_NS)) is not None:
                taken.append(job.id)
                store.finish(job.id, owner=f"worker {number}", now_ns=NOW_NS)
            return taken

        with ThreadPoolExecutor(6) as threads:
            taken = [i for mine in threads.map(claim, range(6)) for i in mine]
        assert sorted(taken) == sorted(ids)
        assert {j.state for j in store.jobs()} == {"done"}


def test_a_key_that_many_use_at_once_makes_one_job(dsn):
    """All get the same."""
    with PostgresStore(dsn, "acme") as store, ThreadPoolExecutor(6) as threads:
        made = list(threads.map(lambda _: store.enqueue("t", {}, idempotency_key="k", now_ns=NOW_NS), range(12)))
        assert len({j.id for j in made}) == len(store.jobs()) == 1


def test_a_tenant_may_be_named_by_its_id(dsn, store, rows):
    """Once it is registered, in any case of letters; what was stored under its name before is there."""
    store.upsert("news", rows("news", 2), now_ns=NOW_NS)
    made = register_tenant(dsn, "acme")
    assert isinstance(made, UUID)
    assert register_tenant(dsn, "acme") == made
    for name in (str(made), str(made).upper()):
        with PostgresStore(dsn, name) as same:
            assert same.tenant == name
            assert same.fetch("news", Wanted()).num_rows == 2
    with PostgresStore(dsn, "00000000-0000-0000-0000-000000000000") as unknown:
        assert unknown.fetch("news", Wanted()).num_rows == 0
        assert unknown.upsert("news", rows("news", 1), now_ns=NOW_NS).inserted == 1


@pytest.mark.parametrize("name", ["", "a b", "x" * 65, "00000000-0000-0000-0000-000000000000"])
def test_a_tenant_gets_no_name_that_is_none(dsn, name):
    """Nor one that could be the id of another."""
    with pytest.raises(SchemaValidationError, match="tenants"):
        register_tenant(dsn, name)


def test_retention_drops_whole_partitions(dsn, store, rows):
    """Of all tenants, those that lie before the time as a whole; writers find their way after it."""
    times = [d * DAY_NS for d in (0, 1, 2, 3)]
    for tenant in ("acme", "other"):
        with PostgresStore(dsn, tenant) as one:
            one.table("trades").append(rows("trades", 4, ts_event=times), writer="w", position=4, covers={})
    assert retain(dsn, "trades", before_ns=2 * DAY_NS - 1) == ["trades_19700101"]
    assert retain(dsn, "trades", before_ns=3 * DAY_NS) == ["trades_19700102", "trades_19700103"]
    assert retain(dsn, "trades", before_ns=3 * DAY_NS) == []
    assert store.read("trades").num_rows == 1


def test_retention_of_keyed_rows_takes_their_versions_too(dsn, store, rows):
    """Nothing of a dropped month is left to answer for what was known when."""
    batch = rows("bars", 2, ts_event=[0, 40 * DAY_NS])
    store.upsert("bars", batch, now_ns=1)
    store.upsert("bars", changed("bars", batch, 1.0), now_ns=2)
    assert retain(dsn, "bars", before_ns=31 * DAY_NS) == ["bars_197001", "bars_superseded_197001"]
    assert store.fetch("bars", Wanted(versions=True)).column("ts_event").to_pylist() == [40 * DAY_NS] * 2
    assert store.upsert("bars", batch, now_ns=3) == Upserted(inserted=1, revised=1)


def test_retention_is_not_for_applications(server, store, rows):
    """A login of the application role is refused, and so is the role itself."""
    dsn = server.database()
    with psycopg.connect(dsn, autocommit=True) as admin:
        admin.execute("DROP ROLE IF EXISTS retain_login")
        admin.execute("CREATE ROLE retain_login LOGIN")
        admin.execute("GRANT mds_app TO retain_login")
    for refused in (lambda d: retain(d, "trades", before_ns=0), lambda d: register_tenant(d, "acme")):
        with pytest.raises(ConfigurationError, match="permission denied"):
            refused(dsn.replace("postgres@", "retain_login@"))
    with pytest.raises(ConfigurationError, match="permission denied"), store._connections.lend("x") as connection:
        connection.execute("SELECT mds.drop_partitions('trades', 0)")


@pytest.mark.parametrize("table", ["news", "nothing", "checkpoints", "bars_superseded"])
def test_only_tables_with_partitions_are_retained(dsn, table):
    """The error says which it is about."""
    with pytest.raises(ConfigurationError, match=table):
        retain(dsn, table, before_ns=0)


def test_retention_does_not_wait_for_ever(dsn, store, rows):
    """Where somebody reads on, nothing is dropped."""
    store.table("trades").append(rows("trades", 1, ts_event=[0]), writer="w", position=1, covers={})
    with psycopg.connect(dsn) as reader:
        reader.execute("SELECT count(*) FROM mds.trades")
        with psycopg.connect(dsn, autocommit=True) as owner:
            owner.execute("ALTER FUNCTION mds.drop_partitions SET lock_timeout = '50ms'")
        with pytest.raises(TemporaryUnavailable, match="lock timeout"):
            retain(dsn, "trades", before_ns=DAY_NS)
    assert store.read("trades").num_rows == 1


def test_health_is_told_before_there_is_a_schema(server):
    """And TimescaleDB only where it is."""
    dsn = server.empty_database()
    with PostgresStore(dsn, "acme") as store:
        health = store.health()
        assert (health["backend"], health["schema_version"], health["timescaledb"]) == ("postgresql", 0, None)
        assert health["latency_ms"] > 0
        assert health["version"].startswith("1")
    assert timescale_version(dsn) is None


def test_an_owner_that_is_no_superuser_migrates_what_is_there(server):
    """Former versions of all tenants are there after it, forced policies or not."""
    dsn = server.empty_database()
    name = psycopg.conninfo.conninfo_to_dict(dsn)["dbname"]
    first = server.database()
    with psycopg.connect(first, autocommit=True) as admin:
        admin.execute("DROP ROLE IF EXISTS plain_owner")
        admin.execute("CREATE ROLE plain_owner LOGIN CREATEROLE")
        admin.execute("GRANT mds_app, mds_maintainer TO plain_owner WITH ADMIN OPTION")
        admin.execute(f"ALTER DATABASE {name} OWNER TO plain_owner")
    owned = dsn.replace("postgres@", "plain_owner@")
    with psycopg.connect(owned, autocommit=True) as owner:
        owner.execute(QUERIES["versions_table"])
        for step in read_migrations()[:2]:
            owner.execute(step.sql)
            owner.execute(QUERIES["version_add"], (step.version, step.name))
        for tenant in ("acme", "other"):
            owner.execute("SELECT set_config('app.tenant_id', %s, false)", (tenant,))
            for ts_ns in (-(2**63), 0, 400 * DAY_NS):
                owner.execute("SELECT mds.ensure_partition('bars', %s)", (ts_ns,))
                for relation in ("bars", "bars_superseded"):
                    owner.execute(
                        f"INSERT INTO mds.{relation} (tenant_id, vendor, symbol, ts_event, ts_recv, seq, revision)"
                        " VALUES (%s, 'v', 'A', %s, 0, 0, %s)",
                        (tenant, ts_ns, int(relation == "bars")),
                    )
    assert migrate(owned) == read_migrations()[-1].version
    made = register_tenant(owned, "acme")
    for tenant in (str(made), "other"):
        with PostgresStore(owned, tenant) as store:
            assert store.fetch("bars", Wanted(versions=True)).column("revision").to_pylist() == [0, 1] * 3
    assert len(retain(owned, "bars", before_ns=365 * DAY_NS)) == 4


STEPS = [
    Migration(version=1, name="0001_a.sql", phase="both", sql=""),
    Migration(version=2, name="0002_b.pre.sql", phase="pre", sql=""),
    Migration(version=2, name="0002_b.post.sql", phase="post", sql=""),
    Migration(version=3, name="0003_c.pre.sql", phase="pre", sql=""),
    Migration(version=3, name="0003_c.post.sql", phase="post", sql=""),
]


@pytest.mark.parametrize(
    ("applied", "phase", "expected"),
    [
        ([], "all", ["a", "b.pre", "b.post", "c.pre", "c.post"]),
        ([], "pre", ["a", "b.pre", "b.post", "c.pre", "c.post"]),
        ([], "post", []),
        (["a"], "post", []),
        (["a", "b.pre"], "post", ["b.post"]),
        (["a", "b.pre", "b.post"], "pre", ["c.pre"]),
        (["a", "b.pre", "b.post", "c.pre"], "pre", []),
        (["a", "b.pre", "b.post", "c.pre"], "all", ["c.post"]),
        (["a", "b.pre"], "pre", "0002_b.post.sql"),
        (["a"], "pre", "0002_b.post.sql"),
    ],
)
def test_a_phase_takes_the_steps_that_it_is_for(applied, phase, expected):
    """What old code can live with before it ends, the rest after; versions one after the other."""
    known = {s.name: s.version for s in STEPS if s.name[5:-4] in applied}
    if isinstance(expected, str):
        with pytest.raises(ConfigurationError, match=expected):
            due(STEPS, known, phase)
        return
    assert [s.name[5:-4] for s in due(STEPS, known, phase)] == expected


def test_code_goes_on_beside_the_first_half_of_a_later_schema(dsn):
    """What only adds is no reason to refuse a database; the second half is."""
    with psycopg.connect(dsn, autocommit=True) as owner:
        owner.execute("INSERT INTO mds_meta.migrations (version, name) VALUES (999, '0999_x.pre.sql')")
        with PostgresStore(dsn, "acme") as store:
            store.open()
        owner.execute("INSERT INTO mds_meta.migrations (version, name) VALUES (999, '0999_x.post.sql')")
        with PostgresStore(dsn, "acme") as store, pytest.raises(ConfigurationError, match="version 999"):
            store.open()


def test_what_has_no_key_has_no_versions(store):
    """Events are appended, not upserted."""
    with pytest.raises(ConfigurationError, match="trades has no key"):
        store.upsert("trades", STORED_SCHEMAS["trades"].empty_table(), now_ns=NOW_NS)
