"""What a client was told is what the server sees."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest
from mds_values import bar

from mds_client import MDS, TemporaryUnavailable


@pytest.fixture(scope="module")
def dsn(addresses):
    return addresses("postgresql")


@pytest.fixture
def server(dsn):
    """A connection that sees and may do everything."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        yield connection


def connections(server, app_name):
    found = server.execute("SELECT count(*) FROM pg_stat_activity WHERE application_name = %s", [app_name]).fetchone()
    return found[0]


def test_connections_have_the_name_of_the_application(dsn, server):
    """As long as the client is open."""
    with MDS({"dsn": dsn, "tenant_id": "options", "app_name": "nightly load"}) as client:
        client.latest_prices()
        assert connections(server, "nightly load") == 1


def test_there_are_no_more_connections_than_it_is_told(dsn, server):
    """However many threads call at once."""
    with MDS({"dsn": dsn, "tenant_id": "options", "pool_max": 2, "app_name": "two"}) as client:
        with ThreadPoolExecutor(8) as threads:
            list(threads.map(lambda n: client.upsert_bars([bar("options", minute=n)]), range(40)))
        assert 1 <= connections(server, "two") <= 2
        assert client.bars("AAPL", "1m").num_rows == 40


def test_a_statement_takes_no_longer_than_it_is_told(dsn, server):
    """One that waits for a lock is given up, as an error that may pass."""
    with (
        MDS({"dsn": dsn, "tenant_id": "options", "statement_timeout_s": 0.2}) as client,
        server.transaction(),
    ):
        tables = server.execute(
            "SELECT format('%I.%I', schemaname, tablename) FROM pg_tables WHERE tablename = 'bars'"
        ).fetchall()
        assert tables
        for (name,) in tables:
            server.execute(f"LOCK TABLE {name} IN ACCESS EXCLUSIVE MODE")
        with pytest.raises(TemporaryUnavailable):
            client.upsert_bars([bar("options")])
