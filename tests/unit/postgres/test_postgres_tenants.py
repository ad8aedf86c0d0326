"""A row is seen and written by its own tenant alone, through every table and view."""

from __future__ import annotations

import psycopg
import pytest

from market_data_core.errors import ConfigurationError
from market_data_store.postgres import TABLES, PostgresStore
from market_data_store.postgres.connect import Connections
from market_data_store.postgres.connect import _reset as give_back

RELATIONS = [*TABLES, "bars_superseded", "checkpoints", "bars_versions", "latest_prices", "data_freshness"]


@pytest.fixture
def filled(store, rows):
    """A store of ``acme`` with something in every table and view."""
    for name in TABLES:
        store.table(name).append(rows(name, 3), writer="w", position=3, covers={})
    store.table("trades").append(rows("trades", 1, first=3, price=[7.0]), writer="w", position=4, covers={})
    revised = rows("bars", 1, first=0, revision=[1], close=[2.0])
    store.table("bars").append(revised, writer="w", position=4, covers={})
    return store


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
    assert all(counts(dsn, "acme").values())


@pytest.mark.parametrize("tenant", ["other", "", None])
def test_others_see_nothing_anywhere(filled, dsn, tenant):
    """Another tenant, an empty one and none see no row of any table or view."""
    assert set(counts(dsn, tenant).values()) == {0}


@pytest.mark.parametrize("name", [*TABLES, "bars_superseded"])
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
    with PostgresStore(dsn, "other") as other:
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
