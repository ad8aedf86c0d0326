"""The archive of closed days, on a PostgreSQL with TimescaleDB: what is moved is read, counted, dropped as before."""

from __future__ import annotations

import json
import time
from contextlib import closing

import psycopg
import pytest

from market_data_core.errors import ConfigurationError, TemporaryUnavailable
from market_data_store import open_backend
from market_data_store.backend import Wanted
from market_data_store.postgres import (
    Archived,
    PostgresStore,
    archive,
    migrate,
    register_tenant,
    retain,
    timescale_version,
)
from mds_client.cli.main import run
from mds_client.transfer import copy, digest_of, dump, restore
from support.archived_days import (
    ARCHIVABLE,
    BEFORE_NS,
    DAY_NS,
    DAYS,
    FIRST,
    answers,
    append,
    archive_all,
    chunks,
    fill,
    one,
    ticks,
)
from support.timescale_server import timescale_server


@pytest.fixture(scope="module")
def server():
    return timescale_server()


def test_every_reader_finds_archived_rows_as_before(dsn, rows):
    """Of each table, of both tenants: rows, days, counts, prices, queries, and what is asked on an event loop."""
    fill(dsn, rows)
    before = {tenant: answers(dsn, tenant) for tenant in ("acme", "other")}
    done = archive_all(dsn)
    assert {(d.days, d.rows, d.chunks) for d in done.values()} == {(DAYS, 3 * 900, 3)}
    assert {tenant: answers(dsn, tenant) for tenant in ("acme", "other")} == before
    assert one(dsn, "SELECT count(*) FROM pg_inherits WHERE inhparent = 'mds.trades'::regclass") == 1
    assert one(dsn, "SELECT count(*) FROM mds_archive.trades") == 2700
    assert chunks(dsn) == [(table, True) for table in ARCHIVABLE for _ in DAYS]


def test_repeating_it_moves_nothing(dsn, rows):
    """And changes nothing."""
    fill(dsn, rows, tables=["trades"])
    archive(dsn, "trades", before_ns=BEFORE_NS)
    before = answers(dsn, "acme", ["trades"])
    assert archive(dsn, "trades", before_ns=BEFORE_NS) == Archived()
    assert answers(dsn, "acme", ["trades"]) == before


def test_days_are_smaller_in_the_archive(dsn, store, rows):
    """Twenty thousand trades a day take a quarter at most."""
    append(store, "trades", ticks(rows, "trades", [FIRST], 20_000))
    done = archive(dsn, "trades", before_ns=BEFORE_NS)
    assert 0 < done.bytes_after < done.bytes_before / 4
    on_disk = "SELECT hypertable_size('mds_archive.trades')"
    assert one(dsn, on_disk) < done.bytes_before / 4


COUNTED = (
    "SELECT tenant_id, vendor, symbol, day, rows, first_ts, last_ts FROM mds_archive.trades_days ORDER BY 1, 2, 3, 4"
)
REAL = """
    SELECT tenant_id, vendor, symbol, ts_event / 86400000000000 * 86400000000000, count(*), min(ts_event), max(ts_event)
    FROM mds_archive.trades GROUP BY 1, 2, 3, 4 ORDER BY 1, 2, 3, 4"""


def aggregate(dsn):
    with psycopg.connect(dsn) as connection:
        return [connection.execute(sql).fetchall() for sql in (COUNTED, REAL)]


def test_the_aggregate_says_what_the_rows_say(dsn, rows):
    """By tenant, vendor, instrument and day; also after late rows."""
    fill(dsn, rows, tables=["trades"])
    archive(dsn, "trades", before_ns=BEFORE_NS)
    counted, real = aggregate(dsn)
    assert counted == real
    assert len(real) == 2 * 3 * 2 * 3
    with PostgresStore(dsn, "acme") as store:
        append(store, "trades", ticks(rows, "trades", [FIRST], 30, first=5000), position=9999)
    archive(dsn, "trades", before_ns=BEFORE_NS)
    counted_then, real = aggregate(dsn)
    assert counted_then == real != counted


def test_late_rows_are_read_beside_their_day_and_moved_next(dsn, rows):
    """Whoever appends them finds the partition gone once; the compressed day takes them in and is compressed again."""
    fill(dsn, rows, tables=["trades"])
    with PostgresStore(dsn, "acme") as store:
        append(store, "trades", ticks(rows, "trades", [FIRST + 1], 30, first=8000), position=9000)
        late = ticks(rows, "trades", [FIRST + 1], 60, first=9000)
        view = store.table("trades")
        archive(dsn, "trades", before_ns=BEFORE_NS)
        with pytest.raises(TemporaryUnavailable, match="partition"):
            view.append(late, writer="w", position=9999, covers={})
        append(store, "trades", late, position=9999)
        before = answers(dsn, "acme", ["trades"])
        assert before["trades", "digest"][0] == 4 * 300 + 90
        assert archive(dsn, "trades", before_ns=BEFORE_NS).days == DAYS[1:2]
        assert answers(dsn, "acme", ["trades"]) == before
    status = "SELECT _timescaledb_functions.chunk_status_text(c) FROM show_chunks('mds_archive.trades') c ORDER BY c"
    with psycopg.connect(dsn) as connection:
        assert [text for (text,) in connection.execute(status)] == [["COMPRESSED"]] * 3


def test_only_days_that_are_over_move(dsn, store, rows):
    """Not today's, tomorrow's or one that is cut by the time; nor the first that can be said."""
    today = time.time_ns() // DAY_NS
    days = [-5, FIRST, today - 1, today, today + 1]
    append(store, "trades", ticks(rows, "trades", days, 3))
    append(store, "trades", rows("trades", 1, first=99, ts_event=[-(2**63)]), position=100)
    before = answers(dsn, "acme", ["trades"])
    assert archive(dsn, "trades", before_ns=FIRST * DAY_NS + DAY_NS - 1).days == ("19691227",)
    assert len(archive(dsn, "trades", before_ns=2**63 - 1).days) == 2
    assert answers(dsn, "acme", ["trades"]) == before
    with psycopg.connect(dsn) as connection:
        left = connection.execute("SELECT min(ts_event), count(*) FROM mds.trades").fetchone()
    assert left == (-(2**63), 7)


def test_retention_drops_archived_days(dsn, rows):
    """Of all tenants, those before the time as a whole; their counts go too."""
    fill(dsn, rows, tables=["trades"])
    archive(dsn, "trades", before_ns=BEFORE_NS)
    with PostgresStore(dsn, "acme") as store:
        append(store, "trades", ticks(rows, "trades", [FIRST], 3, first=9000), position=9999)
        named = ["trades_20240101", "mds_archive.trades_20240101"]
        assert retain(dsn, "trades", before_ns=(FIRST + 2) * DAY_NS - 1) == named
        assert store.fetch("trades", Wanted()).num_rows == 900
        assert {r["date"] for r in store.coverage("trades", Wanted()).to_pylist()} == {
            "2024-01-02",
            "2024-01-03",
            "2024-01-04",
        }
        counted, real = aggregate(dsn)
        assert counted == real
        assert retain(dsn, "trades", before_ns=2**62) == [
            "trades_20240104",
            "mds_archive.trades_20240102",
            "mds_archive.trades_20240103",
        ]
        assert store.fetch("trades", Wanted()).num_rows == store.coverage("trades", Wanted()).num_rows == 0
        assert aggregate(dsn) == [[], []]
        append(store, "trades", ticks(rows, "trades", [FIRST], 3, first=9100), position=10_000)
        assert archive(dsn, "trades", before_ns=BEFORE_NS).rows == 3
        assert sum(r["rows"] for r in store.coverage("trades", Wanted()).to_pylist()) == 3


def test_retention_drops_a_day_that_was_taken_and_not_moved(dsn, rows):
    """As a crash leaves it."""
    fill(dsn, rows, tables=["trades"])
    one(dsn, "SELECT mds_archive.take('trades', 'trades_20240101')")
    assert retain(dsn, "trades", before_ns=(FIRST + 1) * DAY_NS) == ["mds_archive.trades_20240101"]
    with PostgresStore(dsn, "acme") as store:
        assert store.fetch("trades", Wanted()).num_rows == 900


def test_copies_and_dumps_have_archived_rows(dsn, tmp_path, rows, server):
    """By digest, into a lake, a file, and another server, from where they can be archived again."""
    fill(dsn, rows)
    archive_all(dsn)
    with PostgresStore(dsn, "acme") as store, closing(open_backend(str(tmp_path / "lake"), "acme")) as lake:
        wanted = {table: digest_of(store, table) for table in ARCHIVABLE}
        lake.open()
        assert all(done.same for done in copy(store, lake, ARCHIVABLE))
        assert {table: digest_of(lake, table) for table in ARCHIVABLE} == wanted
        dumped = dump(store, "trades", str(tmp_path / "trades.parquet"))
        assert dumped.digest == wanted["trades"].digest
        target = server.database()
        with PostgresStore(target, "acme") as there:
            restore(there, "trades", str(tmp_path / "trades.parquet"))
            archive(target, "trades", before_ns=BEFORE_NS)
            assert digest_of(there, "trades") == wanted["trades"]
            assert restore(there, "trades", str(tmp_path / "trades.parquet")).inserted == 0
            assert digest_of(there, "trades") == wanted["trades"]


def test_the_command_archives(dsn, rows, capsys):
    """And says what it did; machines are told in JSON."""
    fill(dsn, rows, tables=["trades"])
    assert run(["archive", "trades", "--before", "2024-01-03", "--json", "--dsn", dsn]) == 0
    said = json.loads(capsys.readouterr().out)
    assert (said["table"], said["days"], said["rows"], said["chunks"]) == ("trades", list(DAYS[:2]), 1800, 2)
    assert run(["archive", "trades", "--older-than", "0", "--dsn", dsn]) == 0
    assert "1,800 rows of 2 days of trades" in capsys.readouterr().out


def test_the_extension_may_come_later(server, rows, capsys):
    """The next `mds migrate` makes the archive; until then the database has none."""
    dsn = server.bare_database()
    migrate(dsn)
    fill(dsn, rows, tables=["trades"])
    server.extended(dsn)
    with PostgresStore(dsn, "acme") as store:
        assert (store.health()["timescaledb"], store.health()["archive"]) == (timescale_version(dsn), False)
        with pytest.raises(ConfigurationError, match="mds migrate"):
            archive(dsn, "trades", before_ns=BEFORE_NS)
        before = answers(dsn, "acme", ["trades"])
        assert run(["migrate", "--dsn", dsn]) == 0
        assert "as before" in capsys.readouterr().out
        assert store.health()["archive"] is True
        assert archive(dsn, "trades", before_ns=BEFORE_NS).days == DAYS
        assert answers(dsn, "acme", ["trades"]) == before
        migrate(dsn)
        assert answers(dsn, "acme", ["trades"]) == before


def test_the_owner_archives_and_nobody_else(server, rows):
    """One that is no superuser too, whom the forced policies show no rows; the application is refused."""
    dsn = server.bare_database()
    name = psycopg.conninfo.conninfo_to_dict(dsn)["dbname"]
    with psycopg.connect(server.database(), autocommit=True) as admin:
        admin.execute("CREATE ROLE archive_owner LOGIN CREATEROLE")
        admin.execute("CREATE ROLE archive_login LOGIN")
        admin.execute("GRANT mds_app, mds_maintainer TO archive_owner WITH ADMIN OPTION")
        admin.execute("GRANT mds_app, mds_maintainer TO archive_login")
        admin.execute(f"ALTER DATABASE {name} OWNER TO archive_owner")
    server.extended(dsn)
    owned, login = (dsn.replace("postgres@", f"{role}@") for role in ("archive_owner", "archive_login"))
    migrate(owned)
    fill(login, rows, tables=["trades"])
    before = answers(login, "acme", ["trades"])
    with pytest.raises(ConfigurationError, match="only archive_owner"):
        archive(login, "trades", before_ns=BEFORE_NS)
    assert archive(owned, "trades", before_ns=(FIRST + 2) * DAY_NS).rows == 1800
    assert archive(dsn, "trades", before_ns=BEFORE_NS).rows == 900
    migrate(dsn)
    assert answers(login, "acme", ["trades"]) == before
    register_tenant(login, "acme")
    assert retain(login, "trades", before_ns=(FIRST + 1) * DAY_NS) == ["mds_archive.trades_20240101"]
