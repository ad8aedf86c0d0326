"""What a user may ask, and how the rest is refused."""

from __future__ import annotations

import pyarrow as pa
import pytest
from deltalake import QueryBuilder
from hypothesis import given
from hypothesis import strategies as st

from market_data_core.errors import ValidationError
from market_data_store.query.functions import FUNCTIONS, TABLE_FUNCTIONS
from market_data_store.query.parse import parse_statement

TABLES = ("bars", "bars_revisions", "quotes", "trades")


@pytest.mark.parametrize(
    ("sql", "written", "tables"),
    [
        ("select 1;", "SELECT 1", ()),
        ("SELECT Symbol FROM Trades", 'SELECT "symbol" FROM "trades"', ("trades",)),
        ('select "Symbol" from trades', 'SELECT "Symbol" FROM "trades"', ("trades",)),
        ("select interval from bars", 'SELECT "interval" FROM "bars"', ("bars",)),
        ("select 1 /* a; b */ -- c\n", "SELECT 1", ()),
        ("select 1; -- the end", "SELECT 1", ()),
        (
            "with t as (select * from trades) select * from t union all select * from quotes",
            'WITH "t" AS (SELECT * FROM "trades") SELECT * FROM "t" UNION ALL SELECT * FROM "quotes"',
            ("quotes", "trades"),
        ),
        (
            "select last_value(price) ignore nulls over (order by ts_event) from trades",
            'SELECT last_value("price") IGNORE NULLS OVER (ORDER BY "ts_event") FROM "trades"',
            ("trades",),
        ),
        (
            "select * from trades qualify row_number() over (order by seq) = 1",
            'SELECT * FROM "trades" QUALIFY row_number() OVER (ORDER BY "seq") = 1',
            ("trades",),
        ),
        ("select * from generate_series(1, 3)", "SELECT * FROM generate_series(1, 3)", ()),
        ("describe trades", 'DESCRIBE "trades"', ("trades",)),
    ],
)
def test_query_parse_writes_what_it_checked(sql, written, tables):
    """An allowed statement is written anew, identifiers quoted, and names the tables it reads."""
    statement = parse_statement(sql, tables=TABLES)
    assert (statement.sql, statement.tables) == (written, tables)


def test_query_parse_offers_show_tables():
    """SHOW TABLES is answered without the engine."""
    assert parse_statement(" Show  TABLES ; ", tables=TABLES).kind == "tables"


@pytest.mark.parametrize(
    "sql",
    [
        "",
        "-- nothing",
        "select 1; select 2",
        "select 1 /* x */; drop table trades --",
        "select 'a\\'; drop table trades; --'",
        "create external table x stored as parquet location '/lake/b/trades/'",
        "create table x as select 1",
        "create view x as select 1",
        "copy (select 1) to '/tmp/x.csv'",
        "copy trades to '/tmp/x.csv'",
        "insert into trades select * from trades",
        "update trades set price = 0",
        "delete from trades",
        "drop table trades",
        "truncate table trades",
        "explain select 1",
        "explain analyze select 1",
        "set datafusion.execution.batch_size = 1",
        "show all",
        "use b",
        "call x()",
        "prepare x as select 1",
        "select * into x from trades",
        "select * from trades for update",
        "with x as (insert into trades values (1) returning *) select * from x",
        "with trades as (select 1) select * from trades",
        'with "trades" as (select 1) select * from quotes',
        "select * from b.trades",
        "select * from datafusion.public.trades",
        "select * from information_schema.tables",
        "select * from '/lake/b/trades'",
        'select * from "../b/trades"',
        "select * from `trades`",
        'select * from "file:///lake/b/trades"',
        "select * from 's3://bucket/trades'",
        "select * from read_parquet('/etc/passwd')",
        "select * from read_csv('http://127.0.0.1/')",
        "select (select count(*) from read_json('x')) from trades",
        "select * from trades, lateral read_csv('x')",
        "select * from trades where symbol in (select symbol from secret)",
        "select * from trades where exists (select 1 from secret)",
        "select * from trades union select * from secret",
        "select input_file_name() from trades",
        "select \"read_text\"('/etc/passwd')",
        "select load_extension('x')",
        "select $1",
        "select ?",
        "select :a",
        "describe b.trades",
        "describe secret",
        "describe select 1",
        "describe formatted trades",
        "select " + "(" * 5000 + "1" + ")" * 5000,
        "select " + "not " * 20000 + "true",
        "select " + "case when true then " * 2000 + "1" + " end" * 2000,
    ],
)
def test_query_parse_refuses(sql):
    """Whatever is not one SELECT over the tables there are is refused with a clear error."""
    with pytest.raises(ValidationError) as caught:
        parse_statement(sql, tables=TABLES)
    assert caught.value.code == "query_refused"
    assert 0 < len(caught.value.message) < 400


def test_query_parse_names_the_tables_there_are():
    """An unknown table is answered with those there are."""
    with pytest.raises(ValidationError, match="no table 'ticks'; there are: bars, bars_revisions, quotes, trades"):
        parse_statement("select * from ticks", tables=TABLES)


@pytest.mark.parametrize(
    ("sql", "line", "column"),
    [
        ("select *\nfrom ticks", 2, 6),
        ("select read_text('x')", 1, 8),
        ("select 1 from from", 1, 15),
        ("select a,\n  b c d from trades", 2, 7),
    ],
)
def test_query_parse_says_where(sql, line, column):
    """Errors carry line and column of the first character of what is wrong."""
    with pytest.raises(ValidationError) as caught:
        parse_statement(sql, tables=TABLES)
    assert caught.value.details == {"line": line, "column": column}


def test_query_parse_knows_only_functions_of_the_engine():
    """Every function that is allowed exists in the engine."""
    engine = QueryBuilder({"datafusion.catalog.information_schema": "true"})
    found = pa.RecordBatchReader.from_stream(
        engine.execute("SELECT DISTINCT routine_name AS name FROM information_schema.routines")
    ).read_all()
    # These four belong to the grammar of the engine rather than to its registry of functions.
    assert (FUNCTIONS | TABLE_FUNCTIONS) - {*found["name"].to_pylist()} <= {"coalesce", "nullif", "row", "unnest"}


_WORDS = (
    "select from trades quotes secret where ( ) , * ; = 1 'x' \"y\" a b.c as with union all join on read_csv('x') "
    "count(*) insert into copy to -- /* */ order by limit case when then end cast int :: || in exists values lateral"
)


@given(st.lists(st.sampled_from(_WORDS.split()), max_size=14).map(lambda words: "select " + " ".join(words)))
def test_query_parse_never_lets_other_names_through(sql):
    """Any text is refused, or its rewriting reads known tables alone and is its own rewriting."""
    try:
        statement = parse_statement(sql, tables=TABLES)
    except ValidationError:
        return
    assert {*statement.tables} <= {*TABLES}
    assert parse_statement(statement.sql, tables=TABLES) == statement
