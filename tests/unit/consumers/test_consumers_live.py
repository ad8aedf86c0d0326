"""A live source, which numbers nothing and cannot repeat: all that it gives is stored, commit after commit."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping

import pytest

from market_data_core.batch import SourceBatch
from market_data_core.schemas import Origin
from market_data_pipeline.consumers import ConsumerSettings
from market_data_pipeline.engine import Engine, EngineSettings
from market_data_store.lake import Lake
from support.logs import trades

BATCHES = 12
ROWS = 5


class Once:
    """One batch, and nothing after it."""

    origin = Origin.LIVE
    waits = False
    name = "once"

    async def batches(self, resume: Mapping[str, int]) -> AsyncIterator[SourceBatch]:
        del resume
        yield trades(0, ROWS, source_id="")

    async def close(self) -> None:
        pass


class Feed:
    """Trades that belong to no sequence of their source."""

    origin = Origin.LIVE
    waits = False
    name = "feed"

    def __init__(self, stored, begin):
        self.stored, self.begin = stored, begin

    async def batches(self, resume: Mapping[str, int]) -> AsyncIterator[SourceBatch]:
        del resume
        for n in range(BATCHES):
            yield trades(self.begin + n * ROWS, ROWS, source_id="")
            # Each batch is committed before the next one comes.
            await asyncio.wait_for(self.stored(self.begin + (n + 1) * ROWS), 20)

    async def close(self) -> None:
        pass


@pytest.mark.parametrize("lives", [1, 2])
def test_every_commit_has_its_rows(tmp_path, lives):
    """The first, those after it, and those of a process that goes on where another was."""
    settings = EngineSettings(
        data_dir=tmp_path, bars=(), commit=ConsumerSettings(commit_s=0.01, snapshot_s=0.05), maintenance_s=0
    )
    lake = Lake(tmp_path / "lake", "default")
    for life in range(lives):
        engine = Engine(settings)
        engine.open()

        async def stored(rows, engine=engine):
            while not await asyncio.to_thread(engine.wait_stored, engine.log.end, 0.1):
                pass
            while lake.read("trades").num_rows < rows:
                assert engine.consumers().consumers["raw"]["ledger"]["store"]["passed"] < rows
                await asyncio.sleep(0)

        try:
            engine.add(Feed(stored, life * BATCHES * ROWS))
            asyncio.run(engine.capture.wait("feed"))
            assert engine.wait_stored(engine.log.end, 20)
        finally:
            assert engine.close() == []
    prices = lake.read("trades").column("price").to_pylist()
    assert sorted(prices) == [float(n) for n in range(lives * BATCHES * ROWS)]


@pytest.mark.parametrize("consumers", ["thread", "process"])
def test_what_somebody_waits_for_is_committed_at_once(tmp_path, consumers):
    """However long rows would wait for others otherwise."""
    settings = EngineSettings(
        data_dir=tmp_path,
        bars=(),
        consumers=consumers,
        commit=ConsumerSettings(commit_s=3600.0, commit_max_s=3600.0),
        maintenance_s=0,
    )
    engine = Engine(settings)
    engine.open()
    try:
        engine.add(Once())
        asyncio.run(engine.capture.wait("once"))
        assert engine.wait_stored(engine.log.end, 20)
        assert Lake(tmp_path / "lake", "default").read("trades").num_rows == ROWS
    finally:
        assert engine.close() == []
