"""A row is seen and written by its own tenant alone, through every table and view."""

from __future__ import annotations

import psycopg
import pytest

from market_data_core.errors import ConfigurationError, ValidationError
from market_data_store.postgres import TABLES, PostgresStore, register_tenant
from market_data_store.postgres.connect import Connections
from market_data_store.postgres.connect import _reset as give_back

KEYED = [n for n, s in TABLES.items() if s.key]
ARCHIVABLE = [n for n, s in TABLES.items() if s.archivable]
# What an archive is read through; without one there is nothing in it.
ARCHIVE = [*(f"{n}_archived" for n in ARCHIVABLE), "archived_days"]
RELATIONS = [
    *TABLES,
    *(f"{n}_superseded" for n in KEYED),
    *(f"{n}_versions" for n in KEYED),
    "checkpoints",
    "last_priced",
    "gaps",
    "jobs",
    "tenants",
    "latest_prices",
    "data_freshness",
    "bars_revisions",
    *(f"{n}_all" for n in ARCHIVABLE),
    *ARCHIVE,
]


@pytest.fixture(scope="module")
def dsn(server):
    """One database for all: nothing here changes what is ``acme``'s, and ``other`` never stores anything."""
    return server.database()


@pytest.fixture(scope="module")
def filled(dsn, rows):
    """A store of ``acme`` with something in every table and view."""
    with PostgresStore(dsn, "acme") as store:
        fill(dsn, store, rows)
        yield store


def fill(dsn, store, rows):
    for name in TABLES:
        store.table(name).append(rows(name, 3), writer="w", position=3, covers={})
    store.table("trades").append(rows("trades", 1, first=3, price=[7.0]), writer="w", position=4, covers={})
    for name in KEYED:
        value = TABLES[name].values[-1]
        text = str(TABLES[name].rows_schema.field(value).type) == "string"
        number = 2 if name == "bars" else 2.0
        revised = rows(name, 1, first=0, revision=[1], **{value: ["x" if text else number]})
        store.table(name).append(revised, writer="w", position=4, covers={})
    store.enqueue("t", {}, idempotency_key="k", now_ns=1)
    register_tenant(dsn, "acme")
    with application(dsn, "acme") as connection:
        connection.execute(
            "INSERT INTO mds.gaps (tenant_id, vendor, symbol, kind, from_ns, cause)"
            " VALUES ('acme', 'v', 'A', 'trades', 1, 'x')"
        )


def test_every_relation_is_known_here(dsn):
    """A table or view that is added is tried too."""
    with psycopg.connect(dsn) as connection:
        found = connection.execute(
            "SELECT relname FROM pg_class WHERE relnamespace = 'mds'::regnamespace AND relkind IN ('r', 'p', 'v', 'm')"
            " AND NOT relispartition"
        ).fetchall()
    assert {name for (name,) in found} == set(RELATIONS)


def application(dsn, tenant):
    connection = psycopg.connect(dsn, autocommit=True)
    connection.execute("SET ROLE mds_app")
    if tenant is not None:
        connection.execute("SELECT set_config('app.tenant_id', %s, false)", (tenant,))
    return connection


def counts(dsn, tenant):
    with application(dsn, tenant) as connection:
        return {r: connection.execute(f"SELECT count(*) FROM mds.{r}").fetchone()[0] for r in RELATIONS}


def test_a_tenant_sees_its_own_rows_everywhere(filled, dsn):
    """Nothing of what the other tests look for is missing."""
    assert {name for name, count in counts(dsn, "acme").items() if count == 0} == set(ARCHIVE)


@pytest.mark.parametrize("tenant", ["other", "", None])
def test_others_see_nothing_anywhere(filled, dsn, tenant):
    """Another tenant, an empty one and none see no row of any table or view."""
    assert set(counts(dsn, tenant).values()) == {0}


@pytest.mark.parametrize("name", [*TABLES, *(f"{n}_superseded" for n in KEYED)])
@pytest.mark.parametrize("tenant", ["other", "", None])
def test_others_write_nothing_anywhere(filled, dsn, name, tenant):
    """A row in the name of a tenant that is not set is refused."""
    with (
        application(dsn, tenant) as connection,
        pytest.raises(psycopg.errors.InsufficientPrivilege, match="row-level security"),
    ):
        connection.execute(
            f"INSERT INTO mds.{name} (tenant_id, ts_event, ts_recv, seq)"
            " VALUES ('acme', 1704110400000000000, 1704110400000000000, 1)"
        )


@pytest.mark.parametrize("tenant", ["other", "", None])
def test_others_move_no_checkpoint(filled, dsn, tenant):
    """Neither changing, nor giving away, nor adding one works."""
    with application(dsn, tenant) as connection:
        assert connection.execute("UPDATE mds.checkpoints SET position = 99").rowcount == 0
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            connection.execute("INSERT INTO mds.checkpoints VALUES ('acme', 'x', 'trades', 1, '{}', 0, 0)")
    with (
        application(dsn, "acme") as connection,
        pytest.raises(psycopg.errors.InsufficientPrivilege, match="row-level security"),
    ):
        connection.execute("UPDATE mds.checkpoints SET tenant_id = 'other'")


@pytest.mark.parametrize("tenant", ["other", "", None])
@pytest.mark.parametrize(
    "statement",
    [
        "INSERT INTO mds.gaps (tenant_id, vendor, symbol, kind, from_ns, cause) VALUES ('acme', 'v', 'A', 'q', 1, 'x')",
        (
            "INSERT INTO mds.jobs (tenant_id, job_type, payload, priority, idempotency_key, created_ns)"
            " VALUES ('acme', 't', '{}', 0, 'x', 0)"
        ),
        "INSERT INTO mds.tenants (name) VALUES ('acme2')",
    ],
)
def test_others_add_nothing_in_its_name(filled, dsn, tenant, statement):
    """Neither gaps nor jobs; and tenants are registered by the operator."""
    with application(dsn, tenant) as connection, pytest.raises(psycopg.errors.InsufficientPrivilege):
        connection.execute(statement)


@pytest.mark.parametrize("tenant", ["other", "", None])
@pytest.mark.parametrize(
    "statement",
    [
        *(f"UPDATE mds.{n} SET reason = 'x'" for n in KEYED),
        "UPDATE mds.gaps SET state = 'filled'",
        "UPDATE mds.jobs SET owner = 'x'",
    ],
)
def test_others_change_nothing(filled, dsn, tenant, statement):
    """What may be changed is only found by its own tenant."""
    with application(dsn, tenant) as connection:
        assert connection.execute(statement).rowcount == 0


@pytest.mark.parametrize("name", [*KEYED, "gaps", "jobs"])
def test_nothing_is_given_away(filled, dsn, name):
    """A row's tenant cannot be changed, not even by its own."""
    with application(dsn, "acme") as connection, pytest.raises(psycopg.errors.InsufficientPrivilege):
        connection.execute(f"UPDATE mds.{name} SET tenant_id = 'other'")


def test_the_jobs_of_others_are_not_to_be_had(filled, dsn):
    """They are neither listed, nor claimed, nor finished, and their keys are free."""
    mine = filled.claim("me", now_ns=1)
    with PostgresStore(dsn, "second") as other:
        assert other.jobs() == []
        assert other.claim("me", now_ns=2**62) is None
        with pytest.raises(ValidationError):
            other.finish(mine.id, owner="me", now_ns=1)
        assert other.enqueue("u", {}, idempotency_key="k", now_ns=1).job_type == "u"


@pytest.mark.parametrize(
    "statement",
    [
        "DELETE FROM mds.trades",
        "UPDATE mds.trades SET price = 1",
        "TRUNCATE mds.trades",
        "SELECT * FROM mds.trades_20240101",
        "DROP TABLE mds.trades",
        "ALTER TABLE mds.trades DISABLE ROW LEVEL SECURITY",
        "CREATE TABLE mds.mine (x int)",
        "DELETE FROM mds.news",
        "UPDATE mds.news SET id = 'x'",
        "UPDATE mds.news_superseded SET title = 'x'",
        "UPDATE mds.jobs SET payload = '{}'",
        "UPDATE mds.tenants SET name = 'x'",
        "DELETE FROM mds.jobs",
        "SELECT mds.register_tenant('x')",
        "SELECT mds.drop_partitions('trades', 0)",
        "SET ROLE mds_maintainer; SELECT * FROM mds.trades",
    ],
)
def test_the_application_role_owns_nothing(filled, dsn, statement):
    """Stored ticks cannot be changed, partitions not be read around their table, and the schema not be touched."""
    with application(dsn, "acme") as connection, pytest.raises(psycopg.errors.InsufficientPrivilege):
        connection.execute(statement)


def test_the_owner_is_held_to_the_policies_too(dsn, filled):
    """Row level security is forced: an owner that is no superuser sees nothing without a tenant."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        forced = connection.execute(
            "SELECT bool_and(relrowsecurity AND relforcerowsecurity) FROM pg_class"
            " WHERE relnamespace = 'mds'::regnamespace AND relkind IN ('r', 'p')"
        ).fetchone()
    assert forced == (True,)


def test_two_tenants_keep_the_same_writer_and_bars_apart(dsn, filled, rows):
    """Positions, keys and contents of one tenant do not meet those of another."""
    with PostgresStore(dsn, "third") as other:
        assert other.written() == frozenset()
        table = other.table("bars")
        assert table.position("w") is None
        table.append(rows("bars", 3, close=[5.0] * 3), writer="w", position=1, covers={})
        assert other.read("bars").column("close").to_pylist() == [5.0] * 3
    assert filled.table("bars").position("w") == 4
    assert filled.read("bars").num_rows == 4


def test_a_lent_connection_is_of_the_application_role_and_its_tenant(dsn):
    """Also where the login is a superuser."""
    connections = Connections(dsn, "acme", most=1)
    with connections.lend("looking") as connection:
        found = connection.execute("SELECT current_user::text, mds.current_tenant()").fetchone()
    connections.close()
    assert found == ("mds_app", "acme")


def test_a_connection_that_is_given_back_has_no_tenant(dsn):
    """Whoever took it past the pool would see nothing."""
    with application(dsn, "acme") as connection:
        give_back(connection)
        assert connection.execute("SELECT mds.current_tenant()").fetchone() == (None,)


@pytest.mark.parametrize("tenant", ["", "a'b", "a b", "x" * 65, "é"])
def test_a_tenant_has_a_plain_name(dsn, tenant):
    """The rule is that of the lake."""
    with pytest.raises(ConfigurationError, match="tenant"):
        PostgresStore(dsn, tenant)
