"""Ticks from a source through validation and bars to nowhere, in one process, without log or store."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa

from market_data_core.batch import EventBatch, Instruments, SourceBatch
from market_data_core.clock import Clock, SystemClock
from market_data_core.protocols import Mark, Result
from market_data_core.schemas import EVENT_SCHEMAS, Kind, Origin
from market_data_pipeline.capture import stamped
from market_data_pipeline.consumers.spans import joined
from market_data_pipeline.log import LogSettings
from market_data_pipeline.log.mapping import InstrumentMap
from market_data_pipeline.operators import Bars, Validate
from market_data_pipeline.source.replay import ReplaySource

BarKey = tuple[str, str, int]
BarValues = tuple[float, float, float, float, float, int]
BarsFound = dict[BarKey, BarValues]
"""By symbol, price type and start: open, high, low, close, volume and number of events."""

_BARRIER_ROWS = LogSettings().barrier_rows


@dataclass(slots=True)
class NullSink:
    """Takes bars and, unless told to keep them, lets them go."""

    keep: bool = False
    bars: list[pa.Table] = field(default_factory=list)
    rows: int = 0
    events: int = 0
    late: int = 0

    def take(self, result: Result) -> None:
        """Take what an operator gave."""
        self.late += result.late
        for batch in result.out:
            self.rows += len(batch)
            if self.keep:
                self.bars.append(batch.to_table())

    def found(self) -> BarsFound:
        """Return the bars that were kept, by key."""
        found: BarsFound = {}
        for table in self.bars:
            for r in table.to_pylist():
                values = (r["open"], r["high"], r["low"], r["close"], r["volume"] or 0.0, r["trade_count"])
                found[(r["symbol"], r["what"], r["ts_event"])] = values
        return found


class _Path:
    # What lies between log and sink, with the same steps as a consumer takes; `at` stands for the log's numbering.
    def __init__(self, interval: str, sink: NullSink) -> None:
        self._validate = Validate()
        self._bars = {Kind.TRADES: Bars(interval, what="TRADES"), Kind.QUOTES: Bars(interval, what="MIDPOINT")}
        self._sink = sink
        self._at = 0
        self._waiting: list[EventBatch] = []
        self._rows = 0
        self._instruments = Instruments()
        self._map = InstrumentMap(self._instruments)

    def take(self, batch: SourceBatch, origin: Origin, now_ns: int) -> None:
        rows = batch.data.num_rows
        batch = stamped(batch, now_ns)
        arrays = self._map.translate(batch).columns
        seq = pa.array(np.arange(self._at, self._at + rows, dtype=np.int64))
        data = pa.RecordBatch.from_arrays([*arrays[:3], seq, *arrays[3:]], schema=EVENT_SCHEMAS[batch.kind])
        self._waiting.append(
            EventBatch(
                kind=batch.kind,
                data=data,
                instruments=self._instruments,
                origin=origin,
                source_id=batch.source_id,
                offset=batch.offset,
            )
        )
        self._at += rows
        self._rows += rows
        if self._rows >= _BARRIER_ROWS:
            self.barrier(now_ns)

    def mark(self, mark: Mark, now_ns: int) -> None:
        self.barrier(now_ns)
        for bars in self._bars.values():
            bars.advance(mark)
        self._validate.advance(mark)

    def barrier(self, now_ns: int) -> None:
        for batch in joined(self._waiting):
            for out in self._validate.process(batch).out:
                if out.kind in self._bars:
                    self._sink.take(self._bars[out.kind].process(out))
        self._waiting, self._rows = [], 0
        for bars in self._bars.values():
            self._sink.take(bars.barrier(self._at, now_ns))


async def _run(files: Sequence[Path], layout: str | None, interval: str, sink: NullSink, clock: Clock) -> None:
    source = ReplaySource(files, layout)
    path = _Path(interval, sink)
    async for item in source.batches({}):
        if isinstance(item, Mark):
            path.mark(item, clock.now_ns())
        else:
            sink.events += item.data.num_rows
            path.take(item, source.origin, clock.now_ns())
    path.barrier(clock.now_ns())


def run(files: Sequence[Path], *, layout: str | None = None, interval: str = "1s", keep: bool = False) -> NullSink:
    """Run files through; every trade goes into a bar of trades, every quote into a bar of midpoints.

    Args:
        files: What to replay.
        layout: Its layout; None to detect it.
        interval: Of the bars.
        keep: Keep the bars, to compare them.
    """
    sink = NullSink(keep=keep)
    asyncio.run(_run(files, layout, interval, sink, SystemClock()))
    return sink
