"""Late events through the whole path: revisions are a function of the log, however far the raw consumer has got."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping

import numpy as np
import pytest

from market_data_core.batch import Instrument, SourceBatch, unlogged
from market_data_core.protocols import END_OF_TIME_NS, Mark
from market_data_core.schemas import Kind, Origin
from market_data_pipeline.consumers import ConsumerSettings
from market_data_pipeline.engine import Engine, EngineSettings
from market_data_pipeline.pipelines import BarsConfig
from market_data_store.lake import Lake

SECOND = 10**9
START = 1_700_000_000 * SECOND


class Trades:
    """Trades given as (second, price, size, id), in batches of some size."""

    origin = Origin.REPLAY
    waits = True

    def __init__(self, rows, *, name="trades", batch=3):
        self.rows, self.name, self.batch = rows, name, batch

    async def batches(self, resume: Mapping[str, int]) -> AsyncIterator[SourceBatch | Mark]:
        instruments = [Instrument(vendor="test", symbol="A", price_decimals=2, size_decimals=3)]
        for first in range(resume.get(self.name, 0), len(self.rows), self.batch):
            rows = self.rows[first : first + self.batch]
            columns = {
                "instrument": np.zeros(len(rows)),
                "ts_event": [START + int(r[0] * SECOND) for r in rows],
                "price": [float(r[1]) for r in rows],
                "size": [float(r[2]) for r in rows],
                "trade_id": [r[3] for r in rows],
            }
            yield SourceBatch(
                kind=Kind.TRADES,
                data=unlogged(Kind.TRADES, len(rows), columns),
                instruments=instruments,
                source_id=self.name,
                offset=first + len(rows),
            )
            await asyncio.sleep(0.03)
        yield Mark(vendor="test", ts_ns=END_OF_TIME_NS, source_id=self.name, offset=len(self.rows) + 1)

    async def close(self) -> None:
        pass


def stored(tmp_path, sources, *, commit_s: float, dedupe: bool = False):
    settings = EngineSettings(
        data_dir=tmp_path,
        bars=(BarsConfig(interval="10s", dedupe=dedupe),),
        commit=ConsumerSettings(commit_s=commit_s, snapshot_s=0.1),
        maintenance_s=0,
    )
    engine = Engine(settings)
    engine.open()
    try:
        for source in sources:
            engine.add(source)
            asyncio.run(engine.capture.wait(source.name))
        assert engine.wait_stored(engine.log.end, 30)
    finally:
        assert engine.close() == []
    ledger = engine.consumers().consumers["bars-trades-10s"]["ledger"]["bars"]
    bars = Lake(tmp_path / "lake", "default").bars("A", "10s", start_ns=START, end_ns=START + 1000 * SECOND)
    return {
        (row["ts_event"] - START) // SECOND: (row["open"], row["high"], row["low"], row["close"], row["volume"],
                                              row["trade_count"], row["revision"])
        for row in bars.to_pylist()
    }, ledger  # fmt: skip


IN_TIME = [(1, 10, 1, "a"), (2, 11, 0.5, "b"), (12, 12, 1, "c"), (25, 13, 2, "d")]
LATE = [(3, 9, 0.25, "e"), (0.5, 20, 0.125, "f"), (26, 14, 1, "g")]


@pytest.mark.parametrize("commit_s", [0.01, 5.0])
def test_a_late_event_makes_a_revision_from_all_ticks(tmp_path, commit_s):
    """The bar is made again from ticks in the store and ticks still only in the log, with the same result."""
    bars, ledger = stored(tmp_path, [Trades(IN_TIME + LATE, batch=2)], commit_s=commit_s)
    assert bars[0][:6] == (20, 20, 9, 9, 1.875, 4)
    assert bars[0][6] >= 1
    assert bars[10] == (12, 12, 12, 12, 1, 1, 0)
    assert bars[20] == (13, 14, 13, 14, 3, 2, 0)
    assert (ledger["late"], ledger["absorbed"], ledger["in_flight"]) == (2, 5, 0)


@pytest.mark.parametrize("commit_s", [0.01, 5.0])
def test_a_second_source_of_the_same_window_makes_a_revision(tmp_path, commit_s):
    """Two files that share a minute end in one bar of both, and an earlier day after a later one in ordinary bars."""
    later = Trades([(101, 5, 1, "x"), (111, 6, 1, "y")], name="later")
    earlier = Trades([(1, 5, 1, "p"), (11, 6, 1, "q"), (102, 7, 1, "z")], name="earlier")
    bars, ledger = stored(tmp_path, [later, earlier], commit_s=commit_s)
    assert bars[0] == (5, 5, 5, 5, 1, 1, 0)
    assert bars[10] == (6, 6, 6, 6, 1, 1, 0)
    assert bars[100] == (5, 7, 5, 7, 2, 2, 1)
    assert bars[110] == (6, 6, 6, 6, 1, 1, 0)
    assert ledger["in_flight"] == 0


@pytest.mark.parametrize("commit_s", [0.01, 5.0])
def test_what_was_dropped_as_a_duplicate_stays_out_of_revisions(tmp_path, commit_s):
    """Behind de-duplication a bar that is made again does not count a repeated trade."""
    rows = [(1, 10, 1, "a"), (1, 10, 1, "a"), (12, 12, 1, "c"), (2, 11, 1, "late")]
    bars, ledger = stored(tmp_path, [Trades(rows, batch=1)], commit_s=commit_s, dedupe=True)
    assert bars[0] == (10, 11, 10, 11, 2, 2, 1)
    assert ledger["late"] == 1
