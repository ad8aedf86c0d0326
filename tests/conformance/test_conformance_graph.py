"""A graph that stores in two stores at once: each sink is a consumer of its own."""

from __future__ import annotations

import asyncio

from market_data_pipeline.compiler import SinkDef
from market_data_pipeline.consumers import ConsumerSettings, Ledger
from market_data_pipeline.dag import parse_graph
from market_data_pipeline.engine import Engine, EngineSettings
from market_data_pipeline.source.synthetic import SyntheticSource
from market_data_store.lake import Lake
from market_data_store.postgres import PostgresStore
from support.postgres_server import shared_server

GRAPH = {
    "nodes": {
        "every": {"source": "all"},
        "checked": {"operator": "validate"},
        "raw": {"sink": "store"},
        "seconds": {"operator": "bars", "interval": "1s"},
        "here": {"sink": "store", "kinds": ["bars"]},
        "there": {"sink": "database", "kinds": ["bars", "trades"]},
    },
    "edges": ["every -> checked -> raw", "checked -> seconds -> here", "seconds -> there", "checked -> there"],
}


def test_a_sink_of_a_graph_may_be_a_database(tmp_path):
    """Trades and bars stand in PostgreSQL as they stand in the lake, and every event is accounted for in both."""
    dsn = shared_server().database()
    engine = Engine(
        EngineSettings(
            data_dir=tmp_path,
            tenant="acme",
            graph=parse_graph(GRAPH, sinks=["store", "database"]).to_json(reveal=True),
            sinks={"database": SinkDef(sink="postgres", params={"dsn": dsn})},
            commit=ConsumerSettings(commit_s=0.2, snapshot_s=0.5),
            maintenance_s=0,
        )
    )
    engine.open()
    try:
        engine.add(SyntheticSource(symbols=["AAA", "BBB"], seed=5, rate=1000, count=4000, time="virtual"))
        asyncio.run(engine.capture.wait("synthetic"))
        assert engine.wait_stored(engine.log.end, 30)
    finally:
        assert engine.close(20) == []
    for name, consumer in engine.consumers().consumers.items():
        assert Ledger.restored(consumer["ledger"], consumer["flow"]).unaccounted == 0, name
    lake = Lake(tmp_path / "lake", "acme")
    with PostgresStore(dsn, "acme") as database:
        for table, order in (("trades", "seq"), ("bars", "seq")):
            ours, theirs = (
                sorted((r for r in s.read(table).to_pylist()), key=lambda r: (r[order], r["symbol"], r["ts_event"]))
                for s in (lake, database)
            )
            assert [{c: r[c] for c in theirs[0]} for r in ours] == theirs
