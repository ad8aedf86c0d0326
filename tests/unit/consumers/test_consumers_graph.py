"""Consumers that are graphs: every event goes every way it should, is accounted for, and survives restarts."""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest

from market_data_core.errors import ConfigurationError
from market_data_pipeline.compiler import SinkDef
from market_data_pipeline.consumers import ConsumerSettings, Ledger
from market_data_pipeline.dag import parse_graph
from market_data_pipeline.engine import Engine, EngineSettings
from market_data_pipeline.source.synthetic import SyntheticSource
from market_data_store.lake import Lake
from support.service import eventually

EVENTS = 6000
TAKEN: dict[str, list] = {}


class Keeping:
    """A sink that keeps what it is given, by name."""

    def __init__(self, *, name: str, fail_at: int = 0) -> None:
        self.values = TAKEN.setdefault(name, [])
        self.fail_at = fail_at

    async def write(self, batch):
        if self.fail_at and len(self.values) + len(batch) >= self.fail_at and not TAKEN.get("mended"):
            raise OSError("the other side hung up")
        self.values += batch

    async def flush(self):
        pass

    async def close(self):
        pass


@pytest.fixture(autouse=True)
def _clean():
    TAKEN.clear()


def source(count: int = EVENTS) -> SyntheticSource:
    return SyntheticSource(symbols=["AAA", "BBB", "CCC"], seed=5, rate=1000, count=count, time="virtual")


RAW = {
    "nodes": {"every": {"source": "all"}, "checked": {"operator": "validate"}, "raw": {"sink": "store"}},
    "edges": ["every -> checked -> raw"],
}


def graph_of(graph) -> str:
    whole = {"nodes": RAW["nodes"] | graph["nodes"], "edges": [*RAW["edges"], *graph["edges"]]}
    return parse_graph(whole, sinks=["store", *SINKS]).to_json(reveal=True)


def settings(tmp_path, graph, **changes) -> EngineSettings:
    return EngineSettings(
        data_dir=tmp_path,
        graph=graph_of(graph),
        sinks=SINKS,
        commit=ConsumerSettings(commit_s=0.05, snapshot_s=0.1, retry_s=0.02),
        maintenance_s=0,
        **changes,
    )


def ran(tmp_path, graph, *, count: int = EVENTS, **changes):
    engine = Engine(settings(tmp_path, graph, **changes))
    engine.open()
    try:
        given = source(count)
        engine.add(given)
        asyncio.run(engine.capture.wait(given.name))
        assert engine.wait_stored(engine.log.end, 30)
    finally:
        assert engine.close() == []
    return engine.consumers().consumers


def balanced(consumer) -> Ledger:
    ledger = Ledger.restored(consumer["ledger"], consumer["flow"])
    assert ledger.unaccounted == 0
    return ledger


KEEP = "test_consumers_graph:Keeping"
SINKS = {
    "kept": SinkDef(sink=KEEP, params={"name": "kept"}),
    "frail": SinkDef(sink=KEEP, params={"name": "frail", "fail_at": 500}),
    "nowhere": SinkDef(sink="null"),
}

SPLIT = {
    "nodes": {
        "market": {"source": "all", "kinds": ["trades", "quotes"]},
        "clean": {"operator": "validate"},
        "sizes": {"operator": "router", "routes": {"big": "size >= 300"}, "otherwise": "pass"},
        "minute": {"operator": "bars", "interval": "1s"},
        "big": {"sink": "kept"},
        "lake": {"sink": "store"},
    },
    "edges": ["market -> clean -> sizes", "sizes.big -> big", "clean -> minute -> lake"],
}


def test_a_graph_sends_events_every_way_and_accounts_for_each(tmp_path):
    """Two sinks are two consumers; what a port gives arrives there alone, and bars in the lake hold every trade."""
    consumers = ran(tmp_path, SPLIT)
    assert set(consumers) == {"raw", "big", "lake"}
    lake = Lake(tmp_path / "lake", "default")
    trades = lake.read("trades").to_pylist()
    assert Counter(v.trade_id for v in TAKEN["kept"]) == Counter(t["trade_id"] for t in trades if t["size"] >= 300)
    assert sum(b["trade_count"] for b in lake.read("bars").to_pylist()) == len(trades)
    ledger = balanced(consumers["big"])
    assert ledger["sizes"].suppressed == len(trades) - len(TAKEN["kept"]) + ledger["market"].passed - len(trades)
    assert ledger.sent["sizes", "big"] == len(TAKEN["kept"])
    balanced(consumers["lake"])


def test_a_source_node_lets_through_what_it_was_asked_for(tmp_path):
    """Kinds and symbols that nobody asked for are filtered where they would enter."""
    graph = {
        "nodes": {
            "some": {"source": "all", "kinds": ["quotes"], "symbols": ["bbb"]},
            "kept": {"sink": "kept"},
        },
        "edges": ["some -> kept"],
    }
    consumers = ran(tmp_path, graph)
    quotes = Lake(tmp_path / "lake", "default").read("quotes").to_pylist()
    assert {v.symbol for v in TAKEN["kept"]} == {"BBB"}
    assert len(TAKEN["kept"]) == sum(q["symbol"] == "BBB" for q in quotes)
    ledger = balanced(consumers["kept"])
    assert ledger["some"].filtered == sum(q["symbol"] != "BBB" for q in quotes)


def test_a_source_node_of_a_provider_takes_what_that_gives(tmp_path):
    """With the vendors of a provider known, events of others do not enter by its node."""
    graph = {
        "nodes": {
            "ours": {"source": "synthetic", "kinds": ["trades"]},
            "theirs": {"source": "replay", "kinds": ["trades"]},
            "kept": {"sink": "kept"},
            "none": {"sink": "nowhere"},
        },
        "edges": ["ours -> kept", "theirs -> none"],
    }
    consumers = ran(tmp_path, graph, vendors={"synthetic": ["synthetic"], "replay": ["somebody else"]})
    trades = Lake(tmp_path / "lake", "default").read("trades").num_rows
    assert len(TAKEN["kept"]) == trades
    assert balanced(consumers["none"])["theirs"].filtered == trades


def test_a_sink_that_fails_is_given_the_same_again_and_holds_up_nobody(tmp_path):
    """Its consumer tries again; the store goes on, and once the sink takes values it gets every one."""
    graph = {
        "nodes": {
            "all": {"source": "all", "kinds": ["trades"]},
            "frail": {"sink": "frail"},
        },
        "edges": ["all -> frail"],
    }
    engine = Engine(settings(tmp_path, graph))
    engine.open()
    try:
        given = source()
        engine.add(given)
        asyncio.run(engine.capture.wait(given.name))
        assert engine.wait_stored(engine.log.end, 30)
        eventually(
            lambda: "the other side hung up" in engine.consumers().consumers["frail"]["problem"], 10, "the sink fails"
        )
        TAKEN["mended"] = [True]
    finally:
        assert engine.close() == []
    trades = Lake(tmp_path / "lake", "default").read("trades").num_rows
    assert Counter(v.trade_id for v in TAKEN["frail"]).total() == trades
    balanced(engine.consumers().consumers["frail"])


DOUBLED = {
    "nodes": {
        "market": {"source": "all", "kinds": ["trades"]},
        "a": {"operator": "bars"},
        "b": {"operator": "bars"},
        "first": {"sink": "store"},
        "second": {"sink": "store"},
    },
    "edges": ["market -> a -> first", "market -> b -> second"],
}


@pytest.mark.parametrize("workers", ["thread", "process"])
def test_a_configuration_is_applied_whole_from_one_place_of_the_log(tmp_path, workers):
    """Untouched consumers run on, changed ones keep what operators hold that are the same, added ones begin there."""
    chain = {
        "nodes": {
            "market": {"source": "all", "kinds": ["trades"]},
            "clean": {"operator": "validate"},
            "minute": {"operator": "bars", "interval": "10s"},
            "lake": {"sink": "store"},
        },
        "edges": ["market -> clean -> minute -> lake"],
    }
    changed = {
        "nodes": {**chain["nodes"], "only": {"operator": "filter", "where": "size > 0"}, "more": {"sink": "nowhere"}},
        "edges": ["market -> clean -> only -> minute -> lake", "clean -> more"],
    }
    engine = Engine(settings(tmp_path, chain, consumers=workers))
    engine.open()
    try:
        engine.add(source(EVENTS))
        done = engine.reconfigure(graph=graph_of(changed), sinks=SINKS, version="2")
        assert done == {"added": ["more"], "changed": ["lake"], "removed": [], "untouched": ["raw"]}
        asyncio.run(engine.capture.wait("synthetic"))
        assert engine.wait_stored(engine.log.end, 30)
        with pytest.raises(ConfigurationError, match="another"):
            engine.reconfigure(graph=graph_of(DOUBLED), sinks=SINKS, version="3")
    finally:
        assert engine.close() == []
    consumers = engine.consumers().consumers
    assert consumers["raw"]["restarts"] == 0
    lake = Lake(tmp_path / "lake", "default")
    trades = lake.read("trades").num_rows
    assert sum(b["trade_count"] for b in lake.read("bars").to_pylist()) == trades
    for consumer in consumers.values():
        balanced(consumer)
