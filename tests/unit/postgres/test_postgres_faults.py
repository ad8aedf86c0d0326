"""What happens to appends, upserts and reads when the server dies, moves, fills up or is slow."""

from __future__ import annotations

import subprocess
import threading
import time

import psycopg
import pyarrow as pa
import pytest

from market_data_core.errors import ConfigurationError, MarketDataError, SchemaValidationError, TemporaryUnavailable
from market_data_core.steps import Step, install
from market_data_store.backend import Upserted, Wanted
from market_data_store.postgres import AsyncPostgresStore, PostgresStore
from support.postgres_server import Server

NOW_NS = 1_704_110_400 * 10**9


@pytest.fixture
def at_step():
    yield install
    install(None)


@pytest.fixture
def mortal():
    """A server of its own, which a test may kill."""
    made = Server()
    yield made
    made.close()


def agree(store, name="trades"):
    """Rows and position are of the same commit: every row below the position, none above."""
    position = store.table(name).position("w") or 0
    assert sorted(store.read(name, columns=["seq"]).column("seq").to_pylist()) == list(range(position))
    return position


def append(store, rows, first, count=10):
    store.table("trades").append(rows("trades", count, first=first), writer="w", position=first + count, covers={})


def eventually(claim):
    deadline = time.monotonic() + 20
    while not claim():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.parametrize("step", [Step.DATA_FILE_WRITTEN, Step.TABLE_COMMITTED])
def test_a_server_killed_in_an_append_has_all_of_it_or_nothing(mortal, rows, at_step, step):
    """Killed before the commit nothing is there, killed after it everything; the store goes on once it is back."""
    store = PostgresStore(mortal.database(), "acme", timeout_s=2)
    with store:
        append(store, rows, 0)

        def kill(at):
            if at is step:
                install(None)
                mortal.kill()

        at_step(kill)
        if step is Step.DATA_FILE_WRITTEN:
            with pytest.raises(TemporaryUnavailable):
                append(store, rows, 10)
        else:
            append(store, rows, 10)
        with pytest.raises(TemporaryUnavailable):
            store.read("trades")
        mortal.start()
        position = agree(store)
        assert position == (10 if step is Step.DATA_FILE_WRITTEN else 20)
        append(store, rows, position)
        assert agree(store) == position + 10


def test_an_upsert_that_the_server_dies_in_may_be_repeated(mortal, rows, at_step):
    """It left nothing; the same rows again say the same once."""
    with PostgresStore(mortal.database(), "acme", timeout_s=2) as store:
        batch = rows("news", 5)

        def kill(at):
            if at is Step.DATA_FILE_WRITTEN:
                install(None)
                mortal.kill()

        at_step(kill)
        with pytest.raises(TemporaryUnavailable):
            store.upsert("news", batch, now_ns=NOW_NS)
        mortal.start()
        assert store.upsert("news", batch, now_ns=NOW_NS).inserted == 5
        assert store.upsert("news", batch, now_ns=NOW_NS).unchanged == 5


def test_cut_connections_are_an_error_at_most_once(server, dsn, store, rows):
    """While appends run; what was acknowledged is there, and the store goes on by itself."""
    for start in range(0, 200, 10):
        if start % 50 == 0:
            server.terminate(dsn)
        append(store, rows, start)
    assert agree(store) == 200


def test_a_connection_cut_within_an_append_leaves_nothing(server, dsn, store, rows, at_step):
    """The transaction went with it; the next append works."""
    append(store, rows, 0)

    def cut(at):
        if at is Step.DATA_FILE_WRITTEN:
            install(None)
            assert server.terminate(dsn) >= 1

    at_step(cut)
    with pytest.raises(TemporaryUnavailable):
        append(store, rows, 10)
    assert agree(store) == 10
    append(store, rows, 10)
    assert agree(store) == 20


def test_a_slow_statement_is_given_up(dsn, rows):
    """After `statement_timeout_s`, as an error worth another try; then the connection is as good as before."""
    with PostgresStore(dsn, "acme") as store:
        append(store, rows, 0)  # makes partitions, which takes its time
    with PostgresStore(dsn, "acme", statement_timeout_s=0.5) as store:
        with psycopg.connect(dsn) as other:
            other.execute("LOCK TABLE mds.trades IN ACCESS EXCLUSIVE MODE")
            with pytest.raises(TemporaryUnavailable, match="statement timeout"):
                store.read("trades")
            with pytest.raises(TemporaryUnavailable, match="statement timeout"):
                append(store, rows, 10)
        append(store, rows, 10)
        assert agree(store) == 20


@pytest.mark.parametrize("limit", [0, -1, float("nan"), 10**9])
def test_a_limit_that_the_server_cannot_keep_is_refused(dsn, limit):
    """Nought would be none."""
    with pytest.raises(MarketDataError, match="statement_timeout_s"):
        PostgresStore(dsn, "acme", statement_timeout_s=limit)


def test_a_store_follows_a_failover(mortal, rows):
    """The primary dies, its standby takes over at another address, and nothing that was acknowledged is lost."""
    dsn = mortal.database()
    standby = mortal.standby()
    hosts = f"?host={mortal.host},{standby.host}&target_session_attrs=read-write"
    with psycopg.connect(dsn, autocommit=True) as admin:
        admin.execute("ALTER SYSTEM SET synchronous_standby_names = '*'")
        admin.execute("SELECT pg_reload_conf()")
        synced = "SELECT count(*) FROM pg_stat_replication WHERE sync_state = 'sync'"
        eventually(lambda: admin.execute(synced).fetchone()[0])
    try:
        with PostgresStore(dsn.partition("?")[0] + hosts, "acme", timeout_s=3) as store:
            append(store, rows, 0)
            mortal.kill()
            with pytest.raises(TemporaryUnavailable):
                append(store, rows, 10)
            standby.promote()
            append(store, rows, 10)
            assert agree(store) == 20
    finally:
        standby.close()


def test_a_server_that_became_read_only_is_asked_for_again(dsn):
    """As a primary that was demoted: a connection that refused to write is not used again."""
    with PostgresStore(dsn, "acme", connections=1) as store:
        with store._connections.lend("demoting") as connection:
            connection.execute("SET default_transaction_read_only = on")
        with pytest.raises(TemporaryUnavailable, match="read-only"):
            store.enqueue("t", {}, idempotency_key="k", now_ns=NOW_NS)
        assert store.enqueue("t", {}, idempotency_key="k", now_ns=NOW_NS).state == "queued"


async def test_so_it_is_by_an_event_loop(dsn, rows):
    """A write that was refused is made by another connection."""
    store = AsyncPostgresStore(dsn, "acme", connections=1)
    async with store._connections.lend("demoting") as connection:
        await connection.execute("SET default_transaction_read_only = on")
    with pytest.raises(TemporaryUnavailable, match="read-only"):
        await store.upsert("bars", rows("bars", 1), now_ns=NOW_NS)
    assert await store.upsert("bars", rows("bars", 1), now_ns=NOW_NS) == Upserted(inserted=1)
    await store.close()


def test_a_full_disk_is_waited_out(mortal, rows, tmp_path_factory):
    """An append that finds no room leaves nothing, reads go on, and there being room is enough to go on writing."""
    place = tmp_path_factory.mktemp("small")
    for parent in (place, *place.parents[:3]):
        parent.chmod(0o755)
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", place], capture_output=True).returncode:
        pytest.skip("a small file system cannot be mounted here")
    try:
        mortal.folder_for(place)
        dsn = mortal.database()
        name = psycopg.conninfo.conninfo_to_dict(dsn)["dbname"]
        with psycopg.connect(mortal.dsn("postgres"), autocommit=True) as admin:
            admin.execute(f"CREATE TABLESPACE small LOCATION '{place}'")
            admin.execute(f"ALTER DATABASE {name} SET TABLESPACE small")
        with PostgresStore(dsn, "acme") as store:
            position = 0
            with pytest.raises(TemporaryUnavailable, match=r"could not extend|space"):  # noqa: PT012  until it is full
                while position < 2_000_000:
                    append(store, rows, position, 20_000)
                    position += 20_000
            assert 0 < agree(store) == position
            subprocess.run(["mount", "-o", "remount,size=64m", place], check=True)
            mortal.folder_for(place)
            append(store, rows, position, 20_000)
            assert agree(store) == position + 20_000
    finally:
        mortal.close()
        subprocess.run(["umount", "-l", place], check=True)


@pytest.mark.parametrize("name", ["trades", "bars"])
def test_a_row_that_the_server_cannot_read_is_named(store, rows, name):
    """Text that is not UTF-8 passes Arrow unseen; the error says which row, from 0, and nothing of it is there."""
    symbols = pa.array([b"c", b"b", b"a\xff", b"a"], pa.binary()).view(pa.string())
    batch = rows(name, 4, ts_event=[NOW_NS] * 4)
    bad = batch.set_column(1, batch.schema.field(1), symbols)
    with pytest.raises(SchemaValidationError) as refused:
        store.table(name).append(bad, writer="w", position=4, covers={})
    assert refused.value.details["row"] == 2
    assert refused.value.details["sqlstate"] == "22021"
    assert store.read(name).num_rows == 0


@pytest.mark.parametrize(("column", "value"), [("id", None), ("vendor", None), ("ts_event", None)])
def test_a_row_without_its_key_is_named(store, rows, column, value):
    """Row and column; nothing of the batch is there."""
    good = rows("news", 3)
    at = good.schema.get_field_index(column)
    values = [*good.column(column).to_pylist()[:2], value]
    bad = good.set_column(at, good.schema.field(at), pa.array(values, good.schema.field(at).type))
    with pytest.raises(SchemaValidationError) as refused:
        store.upsert("news", bad, now_ns=NOW_NS)
    assert refused.value.details == {"row": 2, "column": column}
    assert store.fetch("news", Wanted()).num_rows == 0


def test_a_constraint_that_is_broken_is_named(dsn):
    """The database's own rules are told by name."""
    with PostgresStore(dsn, "acme") as store, store._connections.lend("asking") as connection:
        connection.execute("SELECT 1")
        with pytest.raises(SchemaValidationError) as refused, store._connections.lend("adding a gap") as other:
            other.execute(
                "INSERT INTO mds.gaps (tenant_id, vendor, symbol, kind, from_ns, to_ns, cause)"
                " VALUES ('acme', 'v', 'A', 'trades', 5, 4, 'x')"
            )
    assert refused.value.details["constraint"] == "gaps_check"
    assert refused.value.details["table"] == "gaps"


def test_a_store_that_is_closed_leaves_no_connection(server, dsn, rows):
    """However many threads it served, and also while a stream is half read."""
    with PostgresStore(dsn, "acme", connections=4) as store:
        append(store, rows, 0)
        threads = [threading.Thread(target=store.read, args=("trades",)) for _ in range(12)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        half = store.stream("trades", Wanted(), batch_rows=3)
        next(half)
        assert server.connections(dsn)
        half.close()
    eventually(lambda: not server.connections(dsn))


def test_a_store_that_was_closed_says_so(dsn):
    """Trying again does not help."""
    store = PostgresStore(dsn, "acme")
    store.close()
    store.close()
    with pytest.raises(MarketDataError, match="closed") as refused:
        store.fetch("news", Wanted())
    assert not refused.value.retryable


def test_a_database_without_our_schema_is_told_from_one_that_is_away(server):
    """Who reads without having opened the store is told what is missing."""
    with PostgresStore(server.empty_database(), "acme", timeout_s=1) as store:
        missing = pytest.raises(ConfigurationError, match="connecting")
        with missing:
            store.fetch("news", Wanted())
