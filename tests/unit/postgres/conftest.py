"""Databases for the tests of the PostgreSQL store."""

from __future__ import annotations

import pyarrow as pa
import pytest

from market_data_core.schemas import KEYS, STORED_SCHEMAS
from market_data_store.postgres import PostgresStore
from support.postgres_server import shared_server

NOON_NS = 1_704_110_400 * 10**9  # 2024-01-01 12:00


@pytest.fixture(scope="session")
def server():
    return shared_server()


@pytest.fixture
def dsn(server):
    """A fresh database with the schema in it."""
    return server.database()


@pytest.fixture
def store(dsn):
    """An opened store of tenant ``acme``."""
    with PostgresStore(dsn, "acme", timeout_s=5) as made:
        made.open()
        yield made


@pytest.fixture(scope="session")
def rows():
    """Build rows of any table from what is not null in them; times are noon and a nanosecond for each seq."""

    def make(name, count, first=0, **columns):
        seqs = list(range(first, first + count))
        given = {
            "vendor": ["v"] * count,
            "symbol": ["A"] * count,
            "ts_event": [NOON_NS + s for s in seqs],
            "ts_recv": [NOON_NS + s for s in seqs],
            "seq": seqs,
            "flags": [0] * count,
            "origin": ["live"] * count,
        }
        schema = STORED_SCHEMAS[name]
        keyed = {"interval": "1m", "what": "TRADES", "session": "ALL", "source": "internal", "right": "C"}
        keyed |= {"expiry": "20240119", "strike": 100.0, "action": "split"}
        given |= {n: [v] * count for n, v in keyed.items() if n in KEYS.get(name, ())}
        if name == "news":
            given["id"] = [str(s) for s in seqs]
        given |= columns
        nulls = {f.name: pa.nulls(count, f.type) for f in schema}
        return pa.table(
            {f.name: pa.array(given[f.name], f.type) if f.name in given else nulls[f.name] for f in schema},
            schema=schema,
        )

    return make
