"""Real ticks in the platform's own Parquet layout, made once from the recordings."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.context import Context
from market_data_core.batch import SourceBatch
from market_data_core.protocols import BatchSource
from market_data_core.schemas import Kind
from market_data_pipeline.source.replay import ReplaySource
from market_data_pipeline.source.synthetic import SyntheticSource

KINDS = (Kind.TRADES, Kind.QUOTES)
_WEEK_NS = 7 * 86_400 * 1_000_000_000
_MADE_UP_EVENTS = 2_000_000
_DROPPED = ("instrument", "ts_recv")


@dataclass(frozen=True, slots=True, kw_only=True)
class Ticks:
    """Files of ticks.

    Attributes:
        files: All of them, trades and quotes apart, a week each.
        sample: The first events of them, one file per kind.
        events: How many `files` hold together,
        sample_events: and `sample`.
        described: What they are, in words.
    """

    files: tuple[Path, ...]
    sample: tuple[Path, ...]
    events: int
    sample_events: int
    described: str


def prepare(ctx: Context) -> Ticks:
    """Return ticks as Parquet files, by time within each file."""
    week = asyncio.run(_week(_source(ctx)))
    files, events = [], 0
    for kind, table in week.items():
        at = table.schema.get_field_index("ts_event")
        for repeat in range(ctx.repeats):
            moved = pa.array(table.column(at).to_numpy() + repeat * _WEEK_NS)
            files.append(ctx.work / f"{kind}-week{repeat}.parquet")
            pq.write_table(table.set_column(at, table.schema.field(at), moved), files[-1])
            events += table.num_rows
    sample, sample_events = [], 0
    cut = _cut(week, ctx.sample_rows)
    for kind, table in week.items():
        head = table.slice(0, int(np.searchsorted(table.column("ts_event").to_numpy(), cut, "right")))
        sample.append(ctx.work / f"{kind}-sample.parquet")
        pq.write_table(head, sample[-1])
        sample_events += head.num_rows
    what = "recorded US equity ticks" if ctx.recordings else "made-up ticks (no recordings here)"
    return Ticks(files=tuple(files), sample=tuple(sample), events=events, sample_events=sample_events, described=what)


def zipped_csv(ctx: Context) -> list[Path]:
    """Return the recordings as they are: zipped CSV files of ticks, one per symbol, day and kind."""
    return sorted((ctx.recordings / "equity_ticks").rglob("*.zip")) if ctx.recordings else []


def _source(ctx: Context) -> BatchSource:
    if ctx.recordings is not None:
        return ReplaySource([ctx.recordings / "equity_ticks"])
    return SyntheticSource(time="virtual", rate=10_000, count=min(_MADE_UP_EVENTS, 4 * ctx.sample_rows))


async def _week(source: BatchSource) -> dict[Kind, pa.Table]:
    found: dict[Kind, list[pa.Table]] = {kind: [] for kind in KINDS}
    batches: AsyncIterator[object] = source.batches({})
    async for item in batches:
        if isinstance(item, SourceBatch) and item.kind in found:
            found[item.kind].append(_named(item))
    await source.close()
    week = {}
    for kind, parts in found.items():
        table = pa.concat_tables(parts)
        # Files of several symbols come one after another in places; one file is to be by time.
        week[kind] = table.take(pa.array(np.argsort(table.column("ts_event").to_numpy(), kind="stable")))
    return week


def _named(batch: SourceBatch) -> pa.Table:
    ids = batch.data.column("instrument")
    columns = {
        "vendor": pa.array([i.vendor for i in batch.instruments], pa.string()).take(ids),
        "symbol": pa.array([i.symbol for i in batch.instruments], pa.string()).take(ids),
    }
    columns |= {n: batch.data.column(n) for n in batch.data.schema.names if n not in _DROPPED}
    return pa.table(columns)


def _cut(week: dict[Kind, pa.Table], rows: int) -> int:
    times = np.sort(np.concatenate([t.column("ts_event").to_numpy() for t in week.values()]))
    return int(times[min(rows, len(times)) - 1])
