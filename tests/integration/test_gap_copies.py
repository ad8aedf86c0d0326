"""Gaps in PostgreSQL: as the small state has them, whatever happens to the server."""

from __future__ import annotations

import asyncio

import psycopg
import pytest

from market_data_core.errors import MarketDataError
from market_data_orchestrator.gap_copies import GapCopies
from market_data_store.postgres import PostgresStore
from market_data_store.postgres.queries import QUERIES
from market_data_store.state import GapState, State
from support.postgres_server import Server, shared_server
from support.service import eventually

COLUMNS = "vendor, symbol, kind, from_ns, to_ns, cause, state, detail"


@pytest.fixture
def state(tmp_path):
    made = State(tmp_path / "state.db")
    yield made
    made.close()


def copies(state, dsn, tenant="acme"):
    store = PostgresStore(dsn, tenant, connections=1, timeout_s=2)
    store.open()
    return GapCopies(state, store)


def shown(dsn):
    with psycopg.connect(dsn) as connection:
        return connection.execute(f"SELECT tenant_id, {COLUMNS} FROM mds.gaps ORDER BY from_ns, cause").fetchall()


def test_every_gap_is_shown_as_it_is_now(state, dsn):
    """Those there were, new ones, and changes; nothing is written where nothing changed."""
    first = state.open_gap("v", "*", "*", 10, cause="disconnect")
    made = copies(state, dsn)
    assert made.copy() == 1
    assert made.copy() == 0
    state.close_gap(first.id, to_ns=20, state=GapState.FILLED, detail="3 bars")
    state.open_gap("v", "X", "trades", 15, cause="sequence")
    assert made.copy() == 2
    assert shown(dsn) == [
        ("acme", "v", "*", "*", 10, 20, "disconnect", "filled", "3 bars"),
        ("acme", "v", "X", "trades", 15, None, "sequence", "open", ""),
    ]


def test_a_restart_copies_again_and_doubles_nothing(state, dsn, monkeypatch):
    """What the process before had copied is the same row, also where it changed in between; more than one page."""
    monkeypatch.setattr("market_data_orchestrator.gap_copies._PAGE", 5)
    gaps = [state.open_gap("v", f"S{n}", "*", n, cause="paused") for n in range(12)]
    assert copies(state, dsn).copy() == 12
    state.close_gap(gaps[7].id, to_ns=5000)
    assert copies(state, dsn).copy() == 12
    rows = shown(dsn)
    assert len(rows) == 12
    assert [row[5] for row in rows if row[4] == 7] == [5000]


def test_a_filling_gap_is_shown_as_filling(state, dsn):
    """From the moment its job is made."""
    gap = state.open_gap("v", "*", "*", 10, to_ns=20, cause="paused")
    made = copies(state, dsn)
    made.copy()
    state.enqueue_job("backfill", {"gap_id": gap.id}, 30, fills=gap.id)
    assert made.copy() == 1
    assert shown(dsn)[0][7] == "filling"


def test_tenants_do_not_see_each_others_gaps(state, dsn):
    """The same gap of two tenants is two rows, each tenant's own."""
    state.open_gap("v", "*", "*", 10, cause="paused")
    for tenant in ("acme", "globex"):
        assert copies(state, dsn, tenant).copy() == 1
    assert [row[0] for row in shown(dsn)] == ["acme", "globex"]
    with psycopg.connect(dsn) as connection:
        connection.execute(QUERIES["role"])
        connection.execute(QUERIES["tenant_set"], ("globex",))
        assert connection.execute("SELECT DISTINCT tenant_id FROM mds.gaps").fetchall() == [("globex",)]


async def test_a_server_that_was_away_gets_what_it_missed(state):
    """The state takes gaps meanwhile; afterwards all is shown, with no further change to bring it about."""
    server = Server()
    try:
        dsn = server.empty_database()
        made = copies(state, dsn)
        state.open_gap("v", "*", "*", 10, cause="disconnect")
        made.copy()
        server.kill()
        gap = state.open_gap("v", "*", "*", 20, cause="paused")
        with pytest.raises(MarketDataError):
            await asyncio.to_thread(made.copy)
        state.close_gap(gap.id, to_ns=30)
        running = asyncio.create_task(made.run())
        server.start()
        await asyncio.to_thread(eventually, lambda: [r[5] for r in shown(dsn)] == [None, 30], 30, "both are shown")
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
    finally:
        server.close()


@pytest.fixture
def dsn():
    return shared_server().database()
