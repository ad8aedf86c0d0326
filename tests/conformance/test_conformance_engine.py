"""The whole data path over each store: the same events make the same contents, also when the store dies."""

from __future__ import annotations

import asyncio
import logging
import queue
import threading
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, replace

import numpy as np
import pytest

from market_data_core import plugins
from market_data_core.batch import Instrument, SourceBatch, unlogged
from market_data_core.protocols import END_OF_TIME_NS, Mark
from market_data_core.schemas import Kind, Origin
from market_data_core.steps import Step, install
from market_data_pipeline.consumers import ConsumerSettings
from market_data_pipeline.engine import Engine, EngineSettings
from market_data_pipeline.pipelines import BarsConfig
from market_data_pipeline.source.synthetic import SyntheticSource
from market_data_store.lake import Lake
from market_data_store.postgres import PostgresStore
from support.postgres_server import Server

START_NS = 1_704_067_200 * 10**9
LATER_NS = START_NS + 86_400 * 10**9


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings(EngineSettings):
    """Settings with a store of another entry point."""

    store: str = "store"

    def consumers_config(self):
        config = EngineSettings.consumers_config(self)
        return replace(config, store=self.store)


@pytest.fixture(autouse=True)
def _installed(tmp_path, monkeypatch):
    # The entry point, as a distribution of its own brings it.
    info = tmp_path / "site" / "postgres_store-1.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: postgres-store\nVersion: 1\n")
    (info / "entry_points.txt").write_text(f"[{plugins.SINKS}]\npostgres = market_data_store.postgres:PostgresStore\n")
    monkeypatch.syspath_prepend(str(info.parent))


def settings(tmp_path, home_name, root, **more):
    return Settings(
        data_dir=tmp_path / "data",
        store=home_name,
        store_root=root,
        tenant="acme",
        bars=(BarsConfig(interval="1s"),),
        maintenance_s=0,
        **more,
    )


# What depends on when a run was: its clock, and the places that marks of idle time take in the log.
OF_THE_RUN = {"ts_recv", "ts_known", "seq"}


def contents(store):
    rows = {name: store.read(name).sort_by("seq").to_pylist() for name in ("trades", "quotes", "quarantine")}
    rows["bars"] = store.bars("AAA", "1s", start_ns=START_NS, end_ns=LATER_NS).to_pylist()
    return {n: [{c: v for c, v in r.items() if c not in OF_THE_RUN} for r in found] for n, found in rows.items()}


def run(engine, source):
    engine.open()
    try:
        engine.add(source)
        asyncio.run(engine.capture.wait(source.name))
        assert engine.wait_stored(engine.log.end, 30), engine.problem
    finally:
        assert engine.close() == []


def synthetic():
    return SyntheticSource(
        symbols=["AAA", "BBB"], seed=5, rate=1000, count=5_000, time="virtual", start_ns=START_NS, batch_rows=1000
    )


def test_the_same_events_make_the_same_contents_in_every_store(tmp_path, new_home, empty_lake):
    """Ticks, bars and their revisions of a run are those of the run over the lake, row for row."""
    home = new_home()
    run(Engine(settings(tmp_path / "here", home.name, home.root)), synthetic())
    run(Engine(settings(tmp_path / "lake", "store", str(tmp_path / "reference"))), synthetic())
    here = contents(home.store())
    home.close()
    assert here == contents(Lake(tmp_path / "reference", "acme"))
    assert len(here["trades"]) + len(here["quotes"]) == 5_000
    assert here["bars"]


class Paced:
    """Trades in small batches, up to the one that the test allows."""

    origin = Origin.REPLAY
    waits = True
    name = "paced"

    def __init__(self, batches, rows):
        self.count, self.rows, self.allowed = batches, rows, 0

    async def batches(self, resume: Mapping[str, int]) -> AsyncIterator[SourceBatch | Mark]:
        instruments = [Instrument(vendor="test", symbol="AAA", price_decimals=2, size_decimals=3)]
        for first in range(resume.get(self.name, 0), self.count * self.rows, self.rows):
            while first >= self.allowed:  # noqa: ASYNC110  allowed by another thread
                await asyncio.sleep(0.002)
            at = np.arange(first, first + self.rows)
            columns = {"instrument": np.zeros(self.rows), "ts_event": START_NS + at * 10**6}
            columns |= {"price": 100.0 + at % 7, "size": np.ones(self.rows), "trade_id": [str(i) for i in at]}
            data = unlogged(Kind.TRADES, self.rows, columns)
            end = first + self.rows
            yield SourceBatch(kind=Kind.TRADES, data=data, instruments=instruments, source_id=self.name, offset=end)
            await asyncio.sleep(0.002)
        yield Mark(vendor="test", ts_ns=END_OF_TIME_NS, source_id=self.name, offset=self.count * self.rows + 1)

    async def close(self):
        pass


@pytest.fixture
def own_server():
    """A server that a test may kill."""
    made = Server(durable=True)
    yield made
    made.close()


@pytest.fixture
def at_step():
    yield install
    install(None)


def test_a_server_that_is_killed_while_it_stores_loses_and_doubles_nothing(tmp_path, own_server, at_step, caplog):
    """Before a commit, after one, and before one again: consumers go on by themselves, exactly where they were."""
    caplog.set_level(logging.CRITICAL)
    dsn = own_server.database()
    batches, rows = 80, 250
    commit = ConsumerSettings(commit_s=0.01, snapshot_s=0.05)
    engine = Engine(settings(tmp_path, "postgres", dsn, commit=commit))
    armed: queue.Queue[Step] = queue.Queue(1)
    down = threading.Event()
    lock = threading.Lock()

    def kill_there(step):
        with lock:
            if not armed.empty() and armed.queue[0] is step:
                armed.get()
                own_server.kill()
                down.set()

    at_step(kill_there)
    engine.open()
    try:
        source = Paced(batches, rows)
        engine.add(source)
        for step in (Step.DATA_FILE_WRITTEN, Step.TABLE_COMMITTED, Step.DATA_FILE_WRITTEN):
            down.clear()
            armed.put(step)
            source.allowed += batches * rows // 4
            assert down.wait(30), f"nothing reached {step}"
            own_server.start()
        source.allowed = batches * rows
        asyncio.run(engine.capture.wait("paced"))
        assert engine.wait_stored(engine.log.end, 30), engine.problem
    finally:
        assert engine.close() == []
    with PostgresStore(dsn, "acme") as store:
        ids = sorted(int(i) for i in store.read("trades").column("trade_id").to_pylist())
        bars = store.bars("AAA", "1s", start_ns=START_NS, end_ns=LATER_NS)
    assert ids == list(range(batches * rows))
    assert bars.column("trade_count").to_pylist() == [1000] * 20
    assert sum(c["restarts"] for c in engine.consumers().consumers.values()) > 0
