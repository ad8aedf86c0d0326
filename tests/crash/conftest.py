"""A database for the tests that keep what they store in one."""

from __future__ import annotations

import pytest

from support.postgres_server import shared_server


@pytest.fixture
def dsn():
    """A fresh database with the schema in it, on a server that outlives the data paths."""
    return shared_server().database()
