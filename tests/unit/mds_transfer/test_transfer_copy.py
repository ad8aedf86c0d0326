"""From one store into another: the same digests, however often and after whatever was there before."""

from __future__ import annotations

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transfer_rows import DAY_NS, bars, put, rows_of, trades

from market_data_core.errors import ConfigurationError
from market_data_core.schemas import KEYS, STORED_SCHEMAS
from mds_client.transfer import copy, digest_of


@pytest.fixture(params=["lake", "postgres"])
def other_kind(request):
    """The kind of store that is copied into."""
    return request.param


@pytest.fixture
def other(new_store, other_kind):
    """An empty store."""
    return new_store(other_kind)


def test_a_store_goes_over_and_back(store, other, new_store):
    """Every table with rows arrives, with every version, and a second store at the end has the same digests."""
    put(store, "trades", trades(300, spread_ns=DAY_NS // 100))
    for revision in range(3):
        put(store, "bars", bars(20, revision=revision, close=float(revision)))
    back = new_store("lake")
    there, again = copy(store, other), copy(other, back)
    assert [c.table for c in there] == [c.table for c in again] == ["trades", "bars"]
    assert all(c.same for c in (*there, *again))
    assert [(c.rows, c.added) for c in there] == [(300, 300), (60, 60)]
    assert [c.digest for c in there] == [c.target_digest for c in again]


def test_repeating_a_copy_adds_nothing(store, other):
    """The second time finds all of it there."""
    put(store, "trades", trades(100))
    put(store, "bars", bars(20))
    copy(store, other)
    assert [(c.added, c.same) for c in copy(store, other)] == [(0, True), (0, True)]


def test_a_copy_takes_over_what_is_missing(store, other):
    """Rows that came later, into the middle of what was copied too, follow; none comes twice."""
    put(store, "trades", trades(100, spread_ns=DAY_NS // 50))
    copy(store, other, ["trades"])
    put(store, "trades", trades(50, symbol="MSFT"))
    put(store, "trades", trades(3))
    done = copy(store, other, ["trades"])[0]
    assert (done.added, done.rows, done.same) == (53, 153, True)


def test_equal_events_are_counted(store, other):
    """The same event twice in the source is twice in the target, whatever part of it was there."""
    put(store, "trades", trades(2))
    put(other, "trades", trades(2))
    put(store, "trades", trades(2))
    done = copy(store, other)[0]
    assert (done.added, done.target_rows, done.same) == (2, 4, True)


def test_what_only_the_target_has_is_told(store, other):
    """A target with rows of its own keeps them and is not called the same."""
    put(store, "trades", trades(5))
    put(other, "trades", trades(2, symbol="OWN"))
    done = copy(store, other, ["trades"])[0]
    assert (done.added, done.target_rows, done.same) == (5, 7, False)


def test_dates_too_large_to_compare_at_once_go_by_symbol(store, other, monkeypatch):
    """A date is compared in portions of symbols where it has many rows, with the same outcome."""
    monkeypatch.setattr("mds_client.transfer.copying._COMPARED_ROWS", 10)
    for symbol in "ABCDE":
        put(store, "trades", trades(7, symbol=symbol))
    put(other, "trades", trades(3, symbol="C"))
    done = copy(store, other)[0]
    assert (done.added, done.rows, done.same) == (32, 35, True)


def test_a_table_that_is_not_there_is_wrong_use(store, other):
    """Nothing is copied before all names are known."""
    put(store, "trades", trades(5))
    with pytest.raises(ConfigurationError, match="nothing"):
        copy(store, other, ["trades", "nothing"])
    assert digest_of(other, "trades").rows == 0


def test_the_character_nul_makes_no_difference(new_store):
    """PostgreSQL stores NUL as its picture; that is the same row, so it is neither told nor copied again."""
    first, other = new_store("lake"), new_store("postgres")
    rows = trades(3).to_pylist()
    put(first, "trades", pa.Table.from_pylist([{**r, "trade_id": "a\0b"} for r in rows], STORED_SCHEMAS["trades"]))
    assert [(c.added, c.same) for _ in range(2) for c in copy(first, other)] == [(3, True), (0, True)]


@pytest.mark.parametrize("table", ["quotes", *KEYS])
@settings(max_examples=4, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_rows_are_the_same_on_the_other_side(table, opening, data):
    """Whatever a table can hold is the same in a lake, in PostgreSQL, and in a lake again."""
    rows = data.draw(rows_of(table))
    with opening("lake", "postgres", "lake") as (first, middle, last):
        put(first, table, rows)
        assert copy(first, middle, [table])[0].same
        assert copy(middle, last, [table])[0].same
        assert digest_of(last, table) == digest_of(first, table)
