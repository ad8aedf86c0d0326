"""Addresses of servers: what they name, and that no password is shown."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from market_data_core.addresses import is_postgres, without_password


@pytest.mark.parametrize(
    "address",
    [
        "postgresql://user:hunter2@host:5432/db",
        "postgres://user:hunter2@/db?host=/run/pg&application_name=x",
        "postgresql://user@host/db?password=hunter2&sslmode=require",
        "postgresql://user@host/db?%70assword=hunter2",
        "postgresql://host/db?sslpassword=hunter2",
        "postgresql://:hunter2@host/db",
        "host=h user=u password=hunter2 dbname=d",
        "host=h password = 'hunter2 hunter2\\' hunter2' dbname=d",
    ],
)
def test_a_password_is_not_shown(address):
    """Wherever in an address it stands."""
    shown = without_password(address)
    assert "hunter2" not in shown
    assert "***" in shown


@pytest.mark.parametrize("address", ["data/lake", "file:///data/lake", "postgresql://user@host:5432/db?host=/a"])
def test_what_holds_no_password_is_shown_as_it_is(address):
    """So that people see where their data is."""
    assert without_password(address) == address


@given(st.text(min_size=8, alphabet=st.characters(blacklist_categories=["Cs"])).map(lambda t: f"<{t}>"))
def test_no_password_is_shown_however_it_is_written(password):
    """Characters that should have been percent-encoded show nothing either."""
    assert password not in without_password(f"postgresql://user:{password}@host/db")


def test_both_names_of_the_scheme_are_postgresql():
    """In any case; a folder is not."""
    assert is_postgres("postgres://h/d")
    assert is_postgres("PostgreSQL://h/d")
    assert not is_postgres("data/postgresql")
    assert not is_postgres("file:///postgres")
