"""The whole service on the simulated gateway: what is stored, and what a lost connection leaves behind."""

from __future__ import annotations

import pytest

from market_data_core import plugins
from market_data_pipeline.orchestration.registry import SourceRegistry
from market_data_store.lake import Lake
from market_data_store.state import State
from support.gateway import GatewayThread
from support.service import RunningService, eventually


@pytest.fixture
def gateway():
    made = GatewayThread()
    yield made
    made.close()


def test_the_registry_makes_the_provider_by_its_name():
    """The entry point leads to the class, which takes symbols and connects to nothing yet."""
    made = SourceRegistry().load("ibkr")(symbols=["AAPL"])
    assert (made.name, list(made.symbols), made.status) == ("ibkr", ["AAPL"], "pending")


def test_the_service_stores_quotes_and_trades_and_says_what_is_missing(gateway, tmp_path):
    """From settings alone; after a reset of the connection it stores again, and the gap is on record."""
    assert "ibkr" in plugins.available(plugins.PROVIDERS), "the entry point is not installed"
    settings = {
        "PROVIDER": "ibkr",
        "PROVIDER_PORT": gateway.gateway.port,
        "PROVIDER_CLIENT_ID": 7,
        "SYMBOLS": "AAPL,MSFT",
    }

    def read(name):
        return Lake(tmp_path / "data" / "lake", "default").read(name)

    def stored(name):
        return read(name).num_rows

    def gaps():
        state = State(tmp_path / "data" / "state.db")
        try:
            return [g for g in state.list_gaps() if g.vendor == "ibkr" and g.cause == "disconnected"]
        finally:
            state.close()

    with RunningService(tmp_path / "data", **settings) as service:
        service.wait_healthy(30)
        eventually(lambda: stored("quotes") and stored("trades"), 30, "quotes and trades are stored")
        assert {r.fields[2] for r in gateway.gateway.asked(71)} == {"7"}
        assert gaps() == []
        gateway.reset()
        found = eventually(lambda: len(gaps()) == 2 and gaps(), 20, "both symbols have their gap")
        assert {g.symbol for g in found} == {"AAPL", "MSFT"}
        assert all(g.from_ns < g.to_ns for g in found)
        before = stored("quotes")
        eventually(lambda: stored("quotes") > before, 30, "quotes are stored again")
        assert service.get("/status").json()["ledger"]["unaccounted"] == 0
        assert service.stop() == 0
    table = read("trades")
    assert set(table.column("symbol").to_pylist()) == {"AAPL", "MSFT"}
    assert set(table.column("origin").to_pylist()) == {"live"}
    assert set(table.column("vendor").to_pylist()) == {"ibkr"}
    for gap in found:
        rows = sorted((r for r in table.to_pylist() if r["symbol"] == gap.symbol), key=lambda r: r["seq"])
        stored_trades = [(r["ts_event"] // 10**9, r["price"], r["size"]) for r in rows]
        before_gap = sum(r["ts_recv"] <= gap.from_ns for r in rows)
        # Up to the gap all that the gateway said, from behind it all again; what a reset swallows is within it.
        said = gateway.gateway.trades[gap.symbol]
        behind = stored_trades[before_gap:]
        assert stored_trades[:before_gap] == said[:before_gap]
        assert behind
        assert any(said[n : n + len(behind)] == behind for n in range(before_gap, before_gap + 10))
