"""What is PostgreSQL's own in storing: encoding, bars in place, views, errors."""

from __future__ import annotations

import psycopg
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from market_data_core.errors import (
    AuthenticationFailed,
    ConfigurationError,
    MarketDataError,
    SchemaValidationError,
    TemporaryUnavailable,
)
from market_data_store.postgres import PostgresStore
from market_data_store.postgres.encode import copy_binary
from market_data_store.postgres.errors import translate

TYPES = {pa.float64(): "double precision", pa.int64(): "bigint", pa.int32(): "integer", pa.string(): "text"}
VALUES = st.tuples(
    st.none() | st.floats(allow_nan=False),
    st.none() | st.integers(-(2**63), 2**63 - 1),
    st.none() | st.integers(-(2**31), 2**31 - 1),
    st.none() | st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])),
    st.none() | st.text("ab"),
)


@pytest.fixture(scope="module")
def scratch(server):
    """A connection with a temporary table for what is encoded."""
    columns = ", ".join(f"c{i} {t}" for i, t in enumerate([*TYPES.values(), "text"]))
    with psycopg.connect(server.empty_database(), autocommit=True) as connection:
        connection.execute(f"CREATE TEMP TABLE scratch (at serial, {columns})")
        yield connection


@given(values=st.lists(VALUES, max_size=30), skip=st.integers(0, 3))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_what_is_encoded_is_what_the_server_reads(scratch, values, skip):
    """All values of all types come out as they went in, in order, from slices too."""
    types = [*TYPES, pa.string()]
    columns = [pa.chunked_array([pa.array([v[i] for v in values], t)]).slice(skip) for i, t in enumerate(types)]
    scratch.execute("TRUNCATE scratch")
    with scratch.cursor().copy("COPY scratch (c0, c1, c2, c3, c4) FROM STDIN (FORMAT BINARY)") as copy:
        for piece in copy_binary(columns):
            copy.write(piece)
    assert scratch.execute("SELECT c0, c1, c2, c3, c4 FROM scratch ORDER BY at").fetchall() == values[skip:]


def test_the_character_that_text_cannot_hold_is_shown(store, rows):
    """A raw line with NULs in it is stored, with their picture in their place."""
    batch = rows("quarantine", 2, raw=["a\0b\0", None], reason=["r\0", "ok"])
    store.table("quarantine").append(batch, writer="w", position=2, covers={})
    found = store.read("quarantine", columns=["raw", "reason"]).to_pylist()
    assert found == [{"raw": "a\u2400b\u2400", "reason": "r\u2400"}, {"raw": None, "reason": "ok"}]


def test_nan_is_refused(store, rows):
    """Absent is null; a NaN names its column, and nothing of the batch is stored."""
    table = store.table("trades")
    with pytest.raises(SchemaValidationError, match="NaN in price"):
        table.append(rows("trades", 2, price=[1.0, float("nan")]), writer="w", position=2, covers={})
    assert store.written() == frozenset()


def test_equal_values_make_no_revision(store, rows):
    """A newer version with the same numbers changes nothing and leaves no former version."""
    store.table("bars").append(rows("bars", 1, close=[1.0], revision=[0]), writer="w", position=1, covers={})
    store.table("bars").append(rows("bars", 1, close=[1.0], revision=[1]), writer="w", position=2, covers={})
    assert store.read("bars", columns=["revision", "close"]).to_pylist() == [{"revision": 0, "close": 1.0}]


def test_an_older_version_of_a_bar_does_not_come_back(store, rows):
    """What arrives late, by revision, does not take the place of what is newer."""
    store.table("bars").append(rows("bars", 1, close=[2.0], revision=[2]), writer="w", position=1, covers={})
    store.table("bars").append(rows("bars", 1, close=[1.0], revision=[1]), writer="w", position=2, covers={})
    assert store.read("bars", columns=["revision"]).to_pylist() == [{"revision": 2}]


def test_the_latest_price_is_of_the_last_trade_else_the_middle_else_a_close(dsn, store, rows):
    """A quote counts for an instrument without trades, and a bar for one with neither."""
    store.table("trades").append(rows("trades", 2, price=[1.0, 2.0]), writer="w", position=1, covers={})
    quotes = rows("quotes", 3, symbol=["A", "B", "B"], bid_price=[8.0, 3.0, None], ask_price=[9.0, 4.0, 5.0])
    store.table("quotes").append(quotes, writer="w", position=1, covers={})
    bars = rows("bars", 3, symbol=["A", "B", "C"], close=[6.0, 6.0, 6.5])
    store.table("bars").append(bars, writer="w", position=1, covers={})
    with store._connections.lend("looking") as connection:
        found = connection.execute("SELECT symbol, price FROM mds.latest_prices ORDER BY symbol").fetchall()
    assert found == [("A", 2.0), ("B", 3.5), ("C", 6.5)]


def test_freshness_says_how_far_a_table_reaches(store, rows):
    """By vendor and symbol, by event time and time of receipt."""
    store.table("trades").append(rows("trades", 3, ts_event=[5, 9, 7]), writer="w", position=1, covers={})
    with store._connections.lend("looking") as connection:
        found = connection.execute("SELECT table_name, symbol, ts_event FROM mds.data_freshness").fetchall()
    assert found == [("trades", "A", 9)]


@pytest.mark.parametrize(
    ("state", "expected"),
    [
        ("08006", TemporaryUnavailable),
        ("40P01", TemporaryUnavailable),
        ("53100", TemporaryUnavailable),
        ("57P01", TemporaryUnavailable),
        ("22021", SchemaValidationError),
        ("23505", SchemaValidationError),
        ("23514", TemporaryUnavailable),
        ("28P01", AuthenticationFailed),
        ("42501", ConfigurationError),
        ("42P01", ConfigurationError),
        ("XX001", MarketDataError),
    ],
)
def test_an_error_of_the_server_is_one_of_ours(state, expected):
    """Its class follows from the SQLSTATE, which the error carries."""
    error = translate("appending", psycopg.errors.lookup(state)("it broke"))
    assert type(error) is expected
    assert error.details["sqlstate"] == state


def test_a_server_that_is_away_is_worth_another_try(tmp_path):
    """Opening and appending say that it is away."""
    with PostgresStore(f"postgresql://postgres@/x?host={tmp_path}", "acme", timeout_s=0.2) as store:
        with pytest.raises(TemporaryUnavailable, match="schema's version"):
            store.open()
        with pytest.raises(TemporaryUnavailable, match="opening table trades"):
            store.table("trades")


def test_a_malformed_dsn_is_refused_without_telling_it():
    """It may hold a password."""
    with pytest.raises(ConfigurationError) as refused:
        PostgresStore("postgresql://u:secret@[", "acme")
    assert "secret" not in str(refused.value)


def test_a_login_that_may_not_make_the_schema_is_told_so(server):
    """The error names what it was about, and is not worth another try."""
    dsn = server.empty_database()
    with psycopg.connect(dsn, autocommit=True) as admin:
        admin.execute("DROP ROLE IF EXISTS plain")
        admin.execute("CREATE ROLE plain LOGIN")
    denied = pytest.raises(ConfigurationError, match="migrating the database: permission denied")
    with PostgresStore(dsn.replace("postgres@", "plain@"), "acme") as store, denied:
        store.open()


def test_a_login_with_the_application_role_is_enough_to_store(server, rows):
    """It opens a migrated database, makes partitions and stores, and owns nothing."""
    dsn = server.database()
    with psycopg.connect(dsn, autocommit=True) as admin:
        admin.execute("DROP ROLE IF EXISTS app_login")
        admin.execute("CREATE ROLE app_login LOGIN")
        admin.execute("GRANT mds_app TO app_login")
    with PostgresStore(dsn.replace("postgres@", "app_login@"), "acme") as store:
        store.open()
        store.table("bars").append(rows("bars", 2), writer="w", position=2, covers={})
        assert store.read("bars").num_rows == 2


def test_maintenance_makes_partitions_ahead_of_time(store, rows):
    """Today's and tomorrow's, of tables that are written to; a second time there is nothing to do."""
    store.table("trades").append(rows("trades", 1), writer="w", position=1, covers={})
    assert store.maintain() == {"partitions_made": 2}
    assert store.maintain() == {"partitions_made": 0}
