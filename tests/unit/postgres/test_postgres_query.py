"""SQL for users on a PostgreSQL server: what it gives, and what it does not."""

from __future__ import annotations

from datetime import datetime

import pyarrow as pa
import pytest

from market_data_core.errors import TemporaryUnavailable, ValidationError
from market_data_store.postgres import PostgresStore
from market_data_store.query import QueryLimits
from market_data_store.query.functions import FUNCTIONS, TABLE_FUNCTIONS
from market_data_store.query.parse import parse_statement
from market_data_store.query.server import TABLE_NAMES, run_server_query

NOON_NS = 1_704_110_400 * 10**9


@pytest.fixture(scope="module")
def asked(server, rows):
    """A database in which ``acme`` has 10 trades and a bar of two versions, ``other`` one trade."""
    dsn = server.database()
    with PostgresStore(dsn, "acme") as store:
        store.table("trades").append(rows("trades", 10, price=[1.5] * 10), writer="w", position=10, covers={})
        store.table("bars").append(rows("bars", 1, close=[1.0], revision=[0]), writer="w", position=1, covers={})
        store.table("bars").append(
            rows("bars", 1, close=[2.0], revision=[1], trade_count=[7]), writer="w", position=2, covers={}
        )
    with PostgresStore(dsn, "other") as store:
        store.table("trades").append(rows("trades", 1, symbol=["SECRET"]), writer="w", position=1, covers={})
    return dsn


def ask(dsn, sql, tenant="acme", **limits):
    return run_server_query(dsn, tenant, sql, QueryLimits(**limits))


def test_rows_are_those_of_the_tenant_in_types_of_the_lake(asked):
    """Counts and sums of whole numbers are int64, prices doubles, texts strings."""
    found = ask(asked, "select symbol, count(*) as n, sum(seq) as s, max(price) as p from trades group by symbol").table
    assert found.to_pylist() == [{"symbol": "A", "n": 10, "s": 45, "p": 1.5}]
    assert found.schema.types == [pa.string(), pa.int64(), pa.int64(), pa.float64()]


def test_bars_are_the_newest_versions_and_revisions_all(asked):
    """By the names that the embedded lake has for them."""
    assert ask(asked, "select close from bars").table.to_pydict() == {"close": [2.0]}
    assert ask(asked, "select close from bars_revisions order by revision").table.to_pydict() == {"close": [1.0, 2.0]}


def test_times_are_shown_by_the_function_of_the_lake(asked):
    """To the microsecond, also before 1970."""
    found = ask(asked, "select to_timestamp_nanos(min(ts_event)) as t, to_timestamp_nanos(-1) as u from trades").table
    assert found.to_pylist() == [{"t": datetime(2024, 1, 1, 12), "u": datetime(1969, 12, 31, 23, 59, 59, 999999)}]  # noqa: DTZ001


def test_tables_and_columns_can_be_listed(asked):
    """SHOW TABLES and DESCRIBE."""
    assert {"trades", "bars_revisions"} <= set(ask(asked, "show tables").table.column("table").to_pylist())
    assert "price" in ask(asked, "describe trades").table.column("column_name").to_pylist()


@pytest.mark.parametrize(
    "sql",
    [
        "select set_config('app.tenant_id', 'other', false)",
        "select pg_catalog.set_config('app.tenant_id', 'other', true), symbol from trades",
        "select \"set_config\"('app.tenant_id', 'other', true)",
        "select mds.current_tenant()",
        "select mds.tenant_key('other')",
        "select mds.ensure_partition('trades', 1)",
        "select pg_sleep(1)",
        "select pg_read_file('/etc/passwd')",
        "select pg_advisory_lock(1)",
        "select query_to_xml('select 1', true, true, '')",
        "select lo_import('/etc/passwd')",
        "select dblink('', 'select 1')",
        "select current_setting('app.tenant_id')",
        "select * from pg_catalog.pg_authid",
        "select * from pg_stat_activity",
        "select * from information_schema.tables",
        "select * from mds.trades",
        "select * from jobs",
        "select * from mds.bars_superseded",
        "set app.tenant_id = 'other'",
        "reset role",
        "set role postgres",
        "begin; select 1",
        "insert into trades select * from trades",
        "with x as (delete from trades returning *) select * from x",
        "copy trades to '/tmp/x'",
        "do $$ begin perform 1; end $$",
        "select * from trades for update",
        "select * into t from trades",
        "select 1; select 2",
    ],
)
def test_what_could_leave_the_tenant_or_change_anything_is_refused(sql):
    """Before it gets to the server."""
    with pytest.raises(ValidationError) as refused:
        parse_statement(sql, tables=TABLE_NAMES)
    assert refused.value.code == "query_refused"


def test_no_function_that_a_query_may_call_sets_or_reads_anything_of_the_server():
    """Of those that the server and its schema have, none that is listed here by mistake."""
    assert not {f for f in FUNCTIONS | TABLE_FUNCTIONS if f.startswith(("pg_", "lo_", "query_to", "dblink", "set_"))}
    assert not (FUNCTIONS | TABLE_FUNCTIONS) & {"current_setting", "nextval", "setval", "tenant_key", "txid_current"}


def test_a_refusal_reaches_who_asked(asked):
    """With its place in the text."""
    with pytest.raises(ValidationError, match="set_config") as refused:
        ask(asked, "select set_config('app.tenant_id', 'other', false)")
    assert refused.value.code == "query_refused"


@pytest.mark.parametrize(
    "sql",
    [
        "select symbol from trades where symbol = 'SECRET' or tenant_id <> 'acme'",
        "select symbol from latest_prices where symbol = 'SECRET'",
        "select symbol from data_freshness where symbol <> 'A' union all select symbol from bars where symbol <> 'A'",
    ],
)
def test_rows_of_others_are_not_seen(asked, sql):
    """Whatever is asked for."""
    assert ask(asked, sql).table.num_rows == 0


def test_a_quote_or_a_percent_sign_in_a_text_is_only_that(asked):
    """Texts come through as they are."""
    sql = r"select 'a%s ''b'' \ $$ é' as t"
    assert ask(asked, sql).table.to_pydict() == {"t": [r"a%s 'b' \ $$ é"]}


def test_rows_beyond_the_limit_are_cut_and_said_to_be(asked):
    """As many as allowed come; exactly as many is not cut."""
    cut = ask(asked, "select seq from trades order by seq", max_rows=3)
    assert (cut.table.column("seq").to_pylist(), cut.truncated) == ([0, 1, 2], True)
    assert not ask(asked, "select seq from trades", max_rows=10).truncated


def test_bytes_beyond_the_limit_are_cut(asked):
    """A result is never larger than it may be."""
    found = ask(asked, "select repeat('x', 1000) as t from generate_series(1, 100000)", max_result_bytes=100_000)
    assert found.truncated
    assert 0 < found.table.nbytes <= 100_000


def test_a_query_that_takes_too_long_is_ended(asked):
    """With the limit named."""
    with pytest.raises(ValidationError) as ended:
        ask(asked, "select count(*) from generate_series(1, 100000000000)", timeout_s=1.5)
    assert ended.value.details["limit"] == "timeout_s"


def test_what_the_server_cannot_do_is_said(asked):
    """Its own words, as a query that failed."""
    with pytest.raises(ValidationError, match="nosuch") as failed:
        ask(asked, "select nosuch from trades")
    assert failed.value.code == "query_failed"


def test_a_server_that_is_away_is_temporarily_unavailable():
    """And the password is not in the message."""
    with pytest.raises(TemporaryUnavailable) as away:
        ask("postgresql://user:hunter2@127.0.0.1:1/db?connect_timeout=2", "select 1")
    assert "hunter2" not in str(away.value)
