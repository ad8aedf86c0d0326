"""The schema of the database: migrations, partitions, and agreement with what core declares."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest

from market_data_core.errors import ConfigurationError
from market_data_core.schemas import STORED_SCHEMAS
from market_data_store.postgres import TABLES, PostgresStore, migrate, schema_version
from market_data_store.postgres.queries import read_migrations, schema_sql

DAY_NS = 86_400 * 10**9

CATALOGS = {
    "columns": """
        SELECT c.relname, c.relkind, c.relrowsecurity, c.relforcerowsecurity, c.reloptions, c.relacl::text,
            pg_get_partkeydef(c.oid), a.attname, format_type(a.atttypid, a.atttypmod), a.attnotnull, l.collname,
            pg_get_expr(d.adbin, d.adrelid)
        FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
        LEFT JOIN pg_collation l ON l.oid = a.attcollation
        LEFT JOIN pg_attrdef d ON d.adrelid = c.oid AND d.adnum = a.attnum
        WHERE c.relnamespace = 'mds'::regnamespace ORDER BY c.relname, a.attnum""",
    "indexes": "SELECT indexdef FROM pg_indexes WHERE schemaname = 'mds' ORDER BY indexdef",
    "constraints": """
        SELECT conrelid::regclass::text, conname, pg_get_constraintdef(oid) FROM pg_constraint
        WHERE connamespace = 'mds'::regnamespace ORDER BY 1, 2""",
    "policies": "SELECT * FROM pg_policies WHERE schemaname = 'mds' ORDER BY tablename, policyname",
    "views": "SELECT viewname, definition FROM pg_views WHERE schemaname = 'mds' ORDER BY viewname",
    "functions": """
        SELECT pg_get_functiondef(oid), proacl::text FROM pg_proc
        WHERE pronamespace = 'mds'::regnamespace ORDER BY proname""",
    "triggers": """
        SELECT pg_get_triggerdef(t.oid) FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid
        WHERE c.relnamespace = 'mds'::regnamespace AND NOT t.tgisinternal ORDER BY 1""",
    "schemas": "SELECT nspname, nspacl::text FROM pg_namespace WHERE nspname = 'mds'",
}


def catalogs(dsn):
    with psycopg.connect(dsn) as connection:
        return {name: connection.execute(sql).fetchall() for name, sql in CATALOGS.items()}


def test_migrations_of_an_empty_database_make_the_schema(server):
    """Empty and all migrations is what schema.sql makes."""
    migrated, whole = server.empty_database(), server.empty_database()
    migrate(migrated)
    with psycopg.connect(whole) as connection:
        connection.execute(schema_sql())
    assert catalogs(migrated) == catalogs(whole)
    assert all(catalogs(whole).values())


def test_a_database_without_a_schema_has_version_0(server):
    """And the latest after migrating, also when that is done again."""
    dsn = server.empty_database()
    assert schema_version(dsn) == 0
    latest = read_migrations()[-1].version
    assert [migrate(dsn), migrate(dsn), schema_version(dsn)] == [latest] * 3


def test_versions_count_up_from_1():
    """No number is left out, and none is given to more than the steps of one version."""
    versions = [m.version for m in read_migrations()]
    assert sorted(set(versions)) == list(range(1, versions[-1] + 1))
    assert len({(m.version, m.phase) for m in read_migrations()}) == len(versions)


def test_several_processes_may_migrate_at_once(server):
    """All find the schema there afterwards, and each step was done once."""
    dsn = server.empty_database()
    with ThreadPoolExecutor(4) as threads:
        assert len(set(threads.map(migrate, [dsn] * 4))) == 1
    with psycopg.connect(dsn) as connection:
        assert connection.execute("SELECT count(*) FROM mds_meta.migrations").fetchone() == (len(read_migrations()),)


def test_a_later_schema_is_refused(dsn):
    """A database that a later version migrated is neither opened nor migrated."""
    with psycopg.connect(dsn) as connection:
        connection.execute("INSERT INTO mds_meta.migrations (version, name) VALUES (999, 'later')")
    with pytest.raises(ConfigurationError, match="version 999"):
        migrate(dsn)
    with PostgresStore(dsn, "acme") as store, pytest.raises(ConfigurationError, match="version 999"):
        store.open()


@pytest.mark.parametrize("name", TABLES)
def test_a_table_has_the_declared_columns(dsn, name):
    """After the tenant come the columns that core declares, in their order and types."""
    types = {"int64": "bigint", "int32": "integer", "double": "double precision", "string": "text"}
    with psycopg.connect(dsn) as connection:
        found = connection.execute(
            "SELECT column_name, data_type FROM information_schema.columns"
            " WHERE table_schema = 'mds' AND table_name = %s ORDER BY ordinal_position",
            (name,),
        ).fetchall()
    declared = [(f.name, types[str(f.type)]) for f in TABLES[name].rows_schema]
    assert found == [("tenant_id", "text"), *declared]


def test_everything_that_is_stored_has_a_table():
    """Kinds, all but the log's own control, and records."""
    assert set(TABLES) == set(STORED_SCHEMAS)


@pytest.mark.parametrize("name", ["trades", "bars"])
@pytest.mark.parametrize("ts_ns", [-(2**63), -(2**63) + 1, -1, 0, 1, 19_723 * DAY_NS - 1, 2**63 - 1])
def test_a_partition_is_made_for_whatever_date_arrives(store, rows, name, ts_ns):
    """Rows of any time find a place, under the name that we keep for it."""
    store.table(name).append(rows(name, 1, ts_event=[ts_ns]), writer="w", position=1, covers={})
    assert store.read(name).column("ts_event").to_pylist() == [ts_ns]
    with store._connections.lend("looking") as connection:
        found = connection.execute("SELECT tableoid::regclass::text FROM mds." + name).fetchone()
    assert found == (f"mds.{name}_{TABLES[name].partition_of(ts_ns)}",)


def test_writers_may_need_the_same_new_partition_at_once(dsn, rows):
    """One of them makes it; all rows are there."""

    def write(number):
        with PostgresStore(dsn, "acme") as store:
            for day in range(5):
                batch = rows("trades", 3, ts_event=[day * DAY_NS] * 3)
                store.table("trades").append(batch, writer=f"w{number}", position=day, covers={})

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(write, range(4)))
    with PostgresStore(dsn, "acme") as store:
        assert store.read("trades").num_rows == 60
        assert store.describe()["tables"]["trades"]["partitions"] == 5


def test_a_partition_that_was_dropped_is_made_again(dsn, store, rows):
    """The append that finds it gone is an error worth trying again, and then it works."""
    store.table("trades").append(rows("trades", 1), writer="w", position=1, covers={})
    with psycopg.connect(dsn) as owner:
        owner.execute("DROP TABLE mds.trades_20240101")
    with pytest.raises(Exception, match="partition") as refused:
        store.table("trades").append(rows("trades", 1, first=1), writer="w", position=2, covers={})
    assert refused.value.retryable
    store.table("trades").append(rows("trades", 1, first=1), writer="w", position=2, covers={})
    assert store.read("trades").column("seq").to_pylist() == [1]


def test_only_the_declared_tables_get_partitions(store):
    """The function that runs as the owner makes nothing else."""
    with pytest.raises(ConfigurationError, match="no partitioned table"), store._connections.lend("x") as connection:
        connection.execute("SELECT mds.ensure_partition('checkpoints', 0)")
