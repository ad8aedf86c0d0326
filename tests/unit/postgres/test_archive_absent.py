"""Without an archive: the same relations are there, empty, nothing is read in another way, and asking says why."""

from __future__ import annotations

import re

import psycopg
import pytest

from market_data_core.errors import ConfigurationError
from market_data_store.backend import Wanted
from market_data_store.postgres import TABLES, PostgresStore, archive, migrate
from market_data_store.postgres.reads import select
from market_data_store.postgres.timescale import why_no_archive
from market_data_store.query.parse import parse_statement, reading
from market_data_store.query.server import TABLE_NAMES
from mds_client.cli.main import run

ARCHIVABLE = sorted(name for name, spec in TABLES.items() if spec.archivable)
DAY_NS = 86_400 * 10**9
VIEWS = "SELECT relname FROM pg_class WHERE relnamespace = 'mds'::regnamespace AND relkind = 'v' AND relname LIKE %s"


@pytest.mark.parametrize("ending", ["archived", "all"])
def test_what_can_be_archived_has_its_views(dsn, ending):
    """The declarations and the migrations say the same."""
    with psycopg.connect(dsn) as connection:
        found = [name for (name,) in connection.execute(VIEWS, (rf"%\_{ending}",))]
    assert sorted(found) == [f"{name}_{ending}" for name in ARCHIVABLE]
    assert {"quotes", "trades", "depth", "options", "taq", "analytics"} == set(ARCHIVABLE)


@pytest.mark.parametrize(
    ("version", "licence", "why"),
    [
        (None, None, "which this database does not have"),
        ("2.9.3", "timescale", "2.18 or later; this database has 2.9.3"),
        ("1.7.5", "timescale", "has 1.7.5"),
        ("2.29.2", "apache", "licence apache"),
        ("2.18.0", "timescale", None),
        ("2.29.2", "timescale", None),
        ("3.0.0-dev", None, None),
    ],
)
def test_some_versions_can_have_no_archive(version, licence, why):
    """None, an old one, and one without the columnstore; the reason says what was found."""
    said = why_no_archive(version, licence)
    assert said is None if why is None else why in said


def test_nothing_is_archived_without_the_extension(dsn, store, rows):
    """The error names what is missing, and the rows stay."""
    store.table("trades").append(rows("trades", 3), writer="w", position=3, covers={})
    with pytest.raises(ConfigurationError, match="TimescaleDB"):
        archive(dsn, "trades", before_ns=2**62)
    assert store.fetch("trades", Wanted()).num_rows == 3
    assert store.health()["archive"] is False


@pytest.mark.parametrize("table", sorted(set(TABLES) - set(ARCHIVABLE)))
def test_rows_that_may_be_corrected_are_not_archived(dsn, table):
    """Nor those in partitions of a month or by another time; the error names those that are."""
    with pytest.raises(ConfigurationError, match=f"{table} cannot be archived.*quotes"):
        archive(dsn, table, before_ns=0)


def test_the_command_says_who_archives(dsn, tmp_path, capsys):
    """A lake has nobody, and this server does not either."""
    for store in (str(tmp_path), dsn):
        assert run(["archive", "trades", "--older-than", "7", "--dsn", store]) == 2
        assert "TimescaleDB only" in capsys.readouterr().err


@pytest.mark.parametrize("options", [[], ["--older-than", "1", "--before", "2024-01-01"], ["--before", "soon"]])
def test_the_command_wants_to_know_which_days(dsn, options, capsys):
    """One of two options, and a time that is one."""
    assert run(["archive", "trades", "--dsn", dsn, *options]) == 2
    assert "--before" in capsys.readouterr().err


def test_migrating_again_makes_no_archive(dsn):
    """There is nothing to make it with."""
    migrate(dsn)
    with psycopg.connect(dsn) as connection:
        assert connection.execute("SELECT to_regnamespace('mds_archive')").fetchone() == (None,)


WANTED = {
    "a day of an instrument": Wanted(start_ns=19_723 * DAY_NS, end_ns=19_724 * DAY_NS, symbols=("A",)),
    "everything": Wanted(),
    "a vendor from some time on": Wanted(start_ns=19_724 * DAY_NS, vendor="v"),
}


@pytest.mark.parametrize("wanted", WANTED.values(), ids=WANTED)
def test_what_is_read_is_planned_as_from_the_table_itself(dsn, store, rows, wanted):
    """Days are read one after the other, by the same index, and nothing of an archive is looked at."""
    for day in range(3):
        batch = rows("trades", 2_000, ts_event=[(19_723 + day) * DAY_NS + n for n in range(2_000)])
        store.table("trades").append(batch, writer="w", position=day + 1, covers={})
    statement, values = select(TABLES["trades"], wanted, ["symbol", "price"], order=psycopg.sql.SQL("ts_event, seq"))
    with psycopg.connect(dsn) as connection:
        connection.execute("ANALYZE mds.trades")
        connection.execute("SET ROLE mds_app")
        connection.execute("SELECT set_config('app.tenant_id', 'acme', false)")
        text = statement.as_string(connection)
        assert '"mds"."trades_all" t' in text
        plans = []
        for asked in (text, re.sub(r"^WITH held AS \(.*?\)", "", text).replace('"trades_all" t', '"trades" trades')):
            explained = connection.execute("EXPLAIN (COSTS ON) " + asked, values).fetchall()
            plans.append([line for (line,) in explained])
    assert plans[0] == plans[1]


@pytest.mark.parametrize(
    ("sql", "expected"),
    [
        ("select price from trades", 'SELECT "price" FROM "trades_all" AS "trades"'),
        ("select t.price from trades as t", 'SELECT "t"."price" FROM "trades_all" AS "t"'),
        ("select trades.price from trades", 'SELECT "trades"."price" FROM "trades_all" AS "trades"'),
        ("select close from bars", 'SELECT "close" FROM "bars"'),
        (
            "with x as (select 1 from quotes) select * from x, trades",
            'WITH "x" AS (SELECT 1 FROM "quotes_all" AS "quotes") SELECT * FROM "x", "trades_all" AS "trades"',
        ),
    ],
)
def test_a_query_can_be_made_to_read_archived_rows(sql, expected):
    """What it calls its tables stays."""
    relations = {name: spec.relation for name, spec in TABLES.items() if spec.archivable}
    assert reading(parse_statement(sql, tables=TABLE_NAMES), relations) == expected


def test_a_store_of_a_former_schema_is_migrated_on_opening(server):
    """The views come with it."""
    dsn = server.empty_database()
    with PostgresStore(dsn, "acme") as store:
        store.open()
        assert store.coverage("trades", Wanted()).num_rows == 0
