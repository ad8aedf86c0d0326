"""An archived row is seen by its own tenant alone, through every relation of the database."""

from __future__ import annotations

import psycopg
import pytest

from support.archived_days import (
    ARCHIVABLE,
    archive_all,
    fill,
    one,
    sql_of,
)
from support.timescale_server import timescale_server


@pytest.fixture(scope="module")
def server():
    return timescale_server()


def app(dsn, tenant):
    connection = psycopg.connect(dsn, autocommit=True)
    connection.execute("SET ROLE mds_app")
    if tenant is not None:
        connection.execute("SELECT set_config('app.tenant_id', %s, false)", (tenant,))
    return connection


PRIVATE = [
    *(f"mds_archive.{n}" for n in ARCHIVABLE),
    *(f"mds_archive.{n}_incoming" for n in ARCHIVABLE),
    *(f"mds_archive.{n}_days" for n in ARCHIVABLE),
    "mds_archive.stale_days",
]
VIEWS = [*(f"mds.{n}_archived" for n in ARCHIVABLE), *(f"mds.{n}_all" for n in ARCHIVABLE), "mds.archived_days"]


@pytest.fixture(scope="module")
def archived(server, rows):
    """A database in which ``acme`` and ``other`` have archived days, one of them only taken; nobody changes it."""
    dsn = server.database()
    fill(dsn, rows)
    archive_all(dsn)
    one(dsn, "SELECT mds_archive.take('trades', 'trades_20240104')")
    return dsn


@pytest.mark.parametrize("view", VIEWS)
def test_a_tenant_sees_its_own_archived_rows_alone(archived, view):
    """And others, an empty tenant and none see none; a function that talks is not told of others' rows."""
    seen = {}
    for tenant in ("acme", "other", "third", "", None):
        with app(archived, tenant) as connection:
            seen[tenant] = connection.execute(f"SELECT count(*), count(DISTINCT tenant_id) FROM {view}").fetchone()
    assert seen["acme"][0] > 0
    assert seen["other"][0] >= seen["acme"][0]
    assert seen["acme"][1] == seen["other"][1] == 1
    assert [seen[tenant] for tenant in ("third", "", None)] == [(0, 0)] * 3


@pytest.mark.parametrize("view", VIEWS)
def test_a_function_that_talks_is_not_shown_others_rows(archived, view):
    """A view lets no condition of the caller's run before its own."""
    with app(archived, "acme") as connection:
        connection.execute(
            "CREATE FUNCTION pg_temp.tell(text) RETURNS boolean LANGUAGE plpgsql COST 0.0000001"
            " AS $$ BEGIN RAISE NOTICE 'saw %', $1; RETURN true; END $$"
        )
        heard = set()
        connection.add_notice_handler(lambda notice: heard.add(notice.message_primary))
        # By an index too the tenant would come first.
        connection.execute("SET enable_indexscan = off")
        connection.execute("SET enable_bitmapscan = off")
        connection.execute(f"SELECT count(*) FROM {view} WHERE pg_temp.tell(tenant_id)")
    assert heard == {"saw acme"}


@pytest.mark.parametrize("relation", PRIVATE)
@pytest.mark.parametrize("tenant", ["acme", "third", None])
@pytest.mark.parametrize("role", ["mds_app", "mds_maintainer"])
def test_nobody_but_the_owner_uses_the_archive_itself(archived, relation, tenant, role):
    """Neither reading, nor adding, nor changing, nor taking away."""
    with app(archived, tenant) as connection:
        connection.execute("RESET ROLE")
        connection.execute(f"SET ROLE {role}")
        for statement in (
            f"SELECT count(*) FROM {relation}",
            f"INSERT INTO {relation} DEFAULT VALUES",
            f"UPDATE {relation} SET day = 1",
            f"DELETE FROM {relation}",
            f"TRUNCATE {relation}",
            f"DROP TABLE {relation}",
            f"BEGIN; LOCK TABLE {relation} IN ACCESS SHARE MODE",
            f"COPY (SELECT * FROM {relation}) TO STDOUT",
        ):
            with pytest.raises(psycopg.errors.InsufficientPrivilege, match="mds_archive"):
                connection.execute(statement)
            connection.execute("ROLLBACK")


@pytest.mark.parametrize(
    "call",
    ["take('trades', 'trades_20240104')", "settle('trades', 'x')", "drop_days('trades', 0)", "now_ns()", "day_of('x')"],
)
@pytest.mark.parametrize("role", ["mds_app", "mds_maintainer"])
def test_nobody_but_the_owner_moves_days(archived, call, role):
    """The functions of the archive are the owner's."""
    with psycopg.connect(archived, autocommit=True) as connection:
        connection.execute(f"SET ROLE {role}")
        with pytest.raises(psycopg.errors.InsufficientPrivilege, match="mds_archive"):
            connection.execute(f"SELECT mds_archive.{call}")


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("tenant", ["acme", "other", None])
def test_nothing_is_written_through_a_view(archived, view, tenant):
    """The application may read them, no more."""
    with app(archived, tenant) as connection:
        for statement in (
            f"INSERT INTO {view} (tenant_id) VALUES ('acme')",
            f"UPDATE {view} SET tenant_id = 'other'",
            f"DELETE FROM {view}",
            f"DROP VIEW {view}",
        ):
            with pytest.raises((psycopg.errors.InsufficientPrivilege, psycopg.errors.ObjectNotInPrerequisiteState)):
                connection.execute(statement)


def test_no_other_relation_shows_archived_rows(archived):
    """Of all relations of the database, those of the extension too, only known ones can be read, and none has rows."""
    readable = (
        "SELECT n.nspname, c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace"
        " WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f') AND has_schema_privilege('mds_app', n.oid, 'USAGE')"
        " AND has_any_column_privilege('mds_app', c.oid, 'SELECT, INSERT, UPDATE')"
        " AND n.nspname NOT IN ('pg_catalog', 'information_schema', 'mds')"
    )
    with psycopg.connect(archived) as connection:
        found = connection.execute(readable).fetchall()
        columns = connection.execute(
            "SELECT table_schema, table_name FROM information_schema.columns WHERE column_name = 'symbol'"
        ).fetchall()
    assert {schema for schema, _ in found} <= {
        "mds_meta",
        "timescaledb_information",
        "timescaledb_experimental",
        "_timescaledb_catalog",
        "_timescaledb_config",
        "_timescaledb_cache",
        "_timescaledb_internal",
    }
    assert not set(found) & set(columns)
    assert len({c for c in columns if c[0] == "_timescaledb_internal"}) >= 3 * len(ARCHIVABLE)


def test_every_table_that_applications_reach_has_forced_policies(archived):
    """A tenant's row is only ever in such a table, or where nobody but the owner may go."""
    with psycopg.connect(archived) as connection:
        open_tables = connection.execute(
            "SELECT c.relname FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attname = 'symbol'"
            " WHERE c.relkind IN ('r', 'p') AND NOT (c.relrowsecurity AND c.relforcerowsecurity)"
            " AND has_any_column_privilege('mds_app', c.oid, 'SELECT, INSERT, UPDATE')"
        ).fetchall()
        taken = connection.execute(
            "SELECT relrowsecurity AND relforcerowsecurity FROM pg_class WHERE relname = 'trades_20240104'"
        ).fetchone()
    assert open_tables == []
    assert taken == (True,)


def test_queries_of_users_read_archived_rows(archived):
    """By the names they know, with and without aliases, and nothing of the archive by its own."""
    assert sql_of(archived, "acme", "select count(*) as n from trades where trades.symbol = 'A'") == [{"n": 400}]
    assert sql_of(archived, "acme", "with x as (select * from trades as t) select count(*) as n from x") == [
        {"n": 1200}
    ]
    joined = "select count(*) as n from trades join quotes q on q.seq = trades.seq"
    assert sql_of(archived, "acme", joined) == [{"n": 1200}]
    assert sql_of(archived, "third", "select count(*) as n from trades") == [{"n": 0}]
    assert {row["column_name"] for row in sql_of(archived, "acme", "describe trades")} >= {"price", "tenant_id"}
