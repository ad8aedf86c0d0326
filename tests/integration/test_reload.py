"""Reloading at full load: no event is lost, nobody untouched notices, and what comes out is a function of the log."""

from __future__ import annotations

import random
import time
from collections import Counter
from pathlib import Path

import pytest

from market_data_core.errors import MarketDataError
from market_data_pipeline.compiler import SinkDef, compile_graph
from market_data_pipeline.consumers import (
    ConsumerHost,
    ConsumerSettings,
    Ledger,
    LogAndStoreHistory,
    Snapshot,
    write_snapshot,
)
from market_data_pipeline.consumers.model import CONFIGURATION
from market_data_pipeline.dag import GraphSpec, parse_graph
from market_data_pipeline.engine import Engine, EngineSettings
from market_data_pipeline.log import LogReader, LogSettings, RecordType
from market_data_pipeline.source.synthetic import SyntheticSource
from market_data_store.lake import Lake
from support.service import eventually

COMMIT = ConsumerSettings(commit_s=0.2, snapshot_s=0.5, retry_s=0.02)
HANGING: list[bool] = []


class Hanging:
    """A sink that takes its first values, and then hangs for as long as it is told to."""

    async def write(self, batch):
        while HANGING:
            time.sleep(0.01)  # noqa: ASYNC251  a sink that blocks is what is tried here

    async def flush(self):
        pass

    async def close(self):
        pass


SINKS = {
    "store": SinkDef(sink="store"),
    "nowhere": SinkDef(sink="null"),
    "hanging": SinkDef(sink="test_reload:Hanging"),
    "broken": SinkDef(sink="test_reload:NotThere"),
}
RAW = {
    "nodes": {"every": {"source": "all"}, "checked": {"operator": "validate"}, "raw": {"sink": "store"}},
    "edges": ["every -> checked -> raw"],
}


def graph(*, intervals=(), spread=(), symbols=None, sinks=(), what="MIDPOINT") -> str:
    """A configuration as users change them: other bars, other operators, other symbols, other sinks."""
    nodes = dict(RAW["nodes"])
    edges = list(RAW["edges"])
    wanted = {"symbols": sorted(symbols)} if symbols else {}
    for interval in intervals:
        nodes |= {
            f"t-{interval}": {"source": "all", "kinds": ["trades"], **wanted},
            f"make-{interval}": {"operator": "bars", "interval": interval},
            f"trades-{interval}": {"sink": "store", "kinds": ["bars"]},
        }
        edges.append(f"t-{interval} -> make-{interval} -> trades-{interval}")
    for outputs in spread:
        nodes |= {
            f"q-{outputs}": {"source": "all", "kinds": ["quotes"], **wanted},
            f"calc-{outputs}": {"operator": "spread", "outputs": [outputs]},
            f"named-{outputs}": {"sink": "store", "kinds": ["analytics"]},
        }
        edges.append(f"q-{outputs} -> calc-{outputs} -> named-{outputs}")
    for sink in sinks:
        nodes |= {f"s-{sink}": {"source": "all", "kinds": ["trades"]}, f"to-{sink}": {"sink": sink}}
        edges.append(f"s-{sink} -> to-{sink}")
    return parse_graph({"nodes": nodes, "edges": edges}, sinks=list(SINKS)).to_json(reveal=True)


def drawn(chance: random.Random) -> str:
    return graph(
        intervals=chance.sample(["1s", "2s", "5s"], chance.randrange(3)),
        spread=chance.sample(["mid", "spread"], chance.randrange(3)),
        symbols=chance.choice([None, ["AAA"], ["AAA", "CCC"]]),
        sinks=chance.sample(["nowhere"], chance.randrange(2)),
    )


def digest(lake: Lake) -> dict[str, Counter]:
    """What a lake holds, in whatever order it was written."""
    found = {}
    for name in ("quotes", "trades", "bars", "analytics", "quarantine"):
        table = lake.read(name)
        found[name] = Counter(zip(*(table.column(c).to_pylist() for c in table.column_names), strict=True))
    return found


def replayed(log_folder: Path, folder: Path, first: str) -> Lake:
    """Run the log again under the configurations that it records, each from its own place to the next."""
    lake = Lake(folder / "lake", "default")
    lake.open()
    with LogReader(log_folder, 0) as reader:
        changes = [
            (r.end, str(r.meta["change"]), str(r.meta["graph"]))
            for r in reader.read(1 << 30)
            if r.type is RecordType.CONTROL and r.meta["a"] == CONFIGURATION
        ]
        end = reader.position
    undone = {i for i in range(1, len(changes)) if not changes[i][1]}
    steps = [c for i, c in enumerate(changes) if c[1] and i + 1 not in undone]
    running, at = first, 0
    for until, change, following in [*steps, (end, "", "")]:
        specs = specs_of(running, lake, log_folder, folder)
        host = ConsumerHost(specs, log_folder=log_folder, store=lake, folder=folder, settings=COMMIT)
        for spec in specs:
            path = folder / f"{spec.name}.snapshot"
            if not path.exists() and at:
                write_snapshot(path, Snapshot(position=at, config=spec.config, versions=dict(spec.versions)))
        if change:
            host.prepare([], change)
        host.start()
        if change:
            eventually(lambda host=host: not host.is_running, 60, "all come to the change")
            names = {s.name for s in specs_of(following, lake, log_folder, folder)}
            for spec in specs:
                if spec.name not in names:
                    (folder / f"{spec.name}.snapshot").unlink()
        else:
            assert host.stop(drain_to=end, timeout_s=60) == []
        running, at = following, until
    return lake


def specs_of(text: str, lake: Lake, log_folder: Path, folder: Path):
    return compile_graph(
        GraphSpec.from_json(text),
        sinks=SINKS,
        folder=folder,
        history=lambda writer, dedupe: LogAndStoreHistory(lake, log_folder, writer=writer, dedupe=dedupe),
    )


@pytest.mark.timeout(300)
@pytest.mark.parametrize("reloads", [20, pytest.param(100, marks=pytest.mark.chaos)])
def test_reloads_under_load_lose_nothing_and_repeat_exactly(tmp_path, reloads):
    """Symbols, operators and sinks change, some reloads fail on purpose; the log alone decides what is stored."""
    chance = random.Random(7)
    first = graph(intervals=["1s"])
    engine = Engine(
        EngineSettings(
            data_dir=tmp_path / "live",
            graph=first,
            sinks=SINKS,
            commit=COMMIT,
            log=LogSettings(fsync=False, retention_s=3600.0),
            maintenance_s=0,
        )
    )
    engine.open()
    outcomes: Counter[str] = Counter()
    said: list[str] = []
    kept: list[bool] = []
    try:
        source = SyntheticSource(symbols=["AAA", "BBB", "CCC"], seed=3, rate=4000)
        engine.add(source)
        for number in range(reloads):
            before = engine.settings.graph
            try:
                if number % 20 == 9:
                    engine.reconfigure(graph=graph(sinks=["broken"]), sinks=SINKS, timeout_s=10)
                elif number % 25 == 14:
                    HANGING.append(True)
                    engine.reconfigure(graph=graph(intervals=["1s"], sinks=["hanging"]), sinks=SINKS, timeout_s=10)
                    seen = engine.log.end
                    eventually(lambda seen=seen: engine.log.end > seen + 500, 20, "events flow")
                    engine.reconfigure(graph=graph(intervals=["2s"]), sinks=SINKS, timeout_s=0.3)
                else:
                    engine.reconfigure(graph=drawn(chance), sinks=SINKS, timeout_s=10)
            except MarketDataError as exc:
                outcomes[type(exc).__name__] += 1
                said.append(str(exc))
                kept.append(bool(HANGING) or engine.settings.graph == before)
                HANGING.clear()
            else:
                outcomes["done"] += 1
        engine.capture.remove("synthetic")
        assert engine.wait_stored(engine.log.end, 60)
        consumers = engine.consumers().consumers
        assert consumers["raw"]["restarts"] == 0
        assert consumers["raw"]["reports"] == []
    finally:
        HANGING.clear()
        assert engine.close() == []
    wrong = sum(n % 20 == 9 for n in range(reloads))
    hung = sum(n % 25 == 14 and n % 20 != 9 for n in range(reloads))
    assert outcomes == {"done": reloads - wrong - hung, "ConfigurationError": wrong, "PipelineError": hung}
    # The hanging one is named, and kept all as it was; everybody else ran on meanwhile.
    assert sum("to-hanging" in text for text in said) == hung
    assert all(kept)
    for name, consumer in engine.consumers().consumers.items():
        assert Ledger.restored(consumer["ledger"], consumer["flow"]).unaccounted == 0, name
    live = Lake(tmp_path / "live" / "lake", "default")
    trades = live.read("trades").num_rows + live.read("quotes").num_rows
    assert trades == engine.capture.sources["synthetic"].events
    again = replayed(tmp_path / "live" / "log", tmp_path / "again", first)
    expected, found = digest(live), digest(again)
    for name in expected:
        assert expected[name] - found[name] == Counter(), name
        assert found[name] - expected[name] == Counter(), name
