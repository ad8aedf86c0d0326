"""The same bars made in other ways: one object per tick, and a bare kernel over arrays."""

from __future__ import annotations

import asyncio
import heapq
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq

from benchmarks.direct import BarsFound

_SECOND_NS = 1_000_000_000
_QUEUE = 1024


@dataclass(slots=True)
class Tick:
    """A trade or a quote."""

    symbol: str
    ts_event: int
    price: float | None
    size: float | None
    bid: float | None
    ask: float | None


@dataclass(slots=True)
class OpenBar:
    """A bar that is still being made."""

    start: int
    open: float
    high: float
    low: float
    close: float
    volume: float
    count: int


def _ticks(path: Path) -> Iterator[Tick]:
    trades = "trades" in path.name
    names = ["symbol", "ts_event", *(("price", "size") if trades else ("bid_price", "ask_price"))]
    for batch in pq.ParquetFile(path).iter_batches(8192, columns=names):
        columns = [batch.column(n).to_pylist() for n in names]
        if trades:
            for symbol, ts, price, size in zip(*columns, strict=True):
                yield Tick(symbol, ts, price, size, None, None)
        else:
            for symbol, ts, bid, ask in zip(*columns, strict=True):
                yield Tick(symbol, ts, None, None, bid, ask)


async def _give(files: Sequence[Path], out: asyncio.Queue[Tick | None]) -> None:
    for tick in heapq.merge(*(_ticks(f) for f in files), key=attrgetter("ts_event")):
        await out.put(tick)
    await out.put(None)


def _price(tick: Tick) -> tuple[str, float, float] | None:
    if tick.price is not None:
        if not math.isfinite(tick.price) or tick.size is None or not math.isfinite(tick.size):
            return None
        return "TRADES", tick.price, tick.size
    if tick.bid is None or tick.ask is None or not (math.isfinite(tick.bid) and math.isfinite(tick.ask)):
        return None
    return "MIDPOINT", tick.bid / 2 + tick.ask / 2, 0.0


async def _bars(
    given: asyncio.Queue[Tick | None], out: asyncio.Queue[tuple[str, str, OpenBar] | None], interval_ns: int
) -> None:
    running: dict[tuple[str, str], OpenBar] = {}
    while (tick := await given.get()) is not None:
        usable = _price(tick)
        if usable is None:
            continue
        what, price, size = usable
        start = tick.ts_event - tick.ts_event % interval_ns
        key = (tick.symbol, what)
        bar = running.get(key)
        if bar is not None and bar.start == start:
            bar.high = max(bar.high, price)
            bar.low = min(bar.low, price)
            bar.close = price
            bar.volume += size
            bar.count += 1
            continue
        if bar is not None:
            await out.put((*key, bar))
        running[key] = OpenBar(start, price, price, price, price, size, 1)
    for key, bar in running.items():
        await out.put((*key, bar))
    await out.put(None)


async def _sink(given: asyncio.Queue[tuple[str, str, OpenBar] | None], found: BarsFound) -> None:
    while (item := await given.get()) is not None:
        symbol, what, bar = item
        found[(symbol, what, bar.start)] = (bar.open, bar.high, bar.low, bar.close, bar.volume, bar.count)


async def _object_pipeline(files: Sequence[Path], interval_ns: int) -> BarsFound:
    ticks: asyncio.Queue[Tick | None] = asyncio.Queue(_QUEUE)
    bars: asyncio.Queue[tuple[str, str, OpenBar] | None] = asyncio.Queue(_QUEUE)
    found: BarsFound = {}
    async with asyncio.TaskGroup() as group:
        group.create_task(_give(files, ticks))
        group.create_task(_bars(ticks, bars, interval_ns))
        group.create_task(_sink(bars, found))
    return found


def object_pipeline(files: Sequence[Path], interval_ns: int = _SECOND_NS) -> BarsFound:
    """Make bars with a dataclass per tick and a bounded queue between source, bars and sink; by time in each file."""
    return asyncio.run(_object_pipeline(files, interval_ns))


Columns = tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.float64], npt.NDArray[np.float64]]
"""Symbol as a number, time, price and size of every event that has a price."""


def load(path: Path) -> tuple[list[str], Columns]:
    """Return the symbols of a file and its columns, read whole."""
    table = pq.read_table(path)
    symbols = table.column("symbol").combine_chunks().dictionary_encode()
    if "trades" in path.name:
        price, size = table.column("price").to_numpy(), table.column("size").to_numpy()
    else:
        price = table.column("bid_price").to_numpy() / 2 + table.column("ask_price").to_numpy() / 2
        size = np.zeros(len(price))
    has = ~np.isnan(price)
    ids = symbols.indices.to_numpy().astype(np.int64)
    columns = (ids[has], table.column("ts_event").to_numpy()[has], price[has], size[has])
    return symbols.dictionary.to_pylist(), columns


def kernel(columns: Columns, *, batch_rows: int = 8192, interval_ns: int = _SECOND_NS) -> list[npt.NDArray[Any]]:
    """Make bars of columns in memory, batch by batch: the least that the arithmetic costs.

    Returns:
        Symbol number, start, open, high, low, close, volume and count, a row per bar; the first two as integers.
    """
    parts = []
    for at in range(0, len(columns[0]), batch_rows):
        ids, ts, price, size = (c[at : at + batch_rows] for c in columns)
        parts.append(_reduced(ids, ts - ts % interval_ns, price, price, price, price, size, np.ones(len(ts))))
    # A window that two batches share has a row of each; they are made one as rows of a batch are.
    return _reduced(*(np.concatenate(c) for c in zip(*parts, strict=True)))


def _reduced(*columns: npt.NDArray[Any]) -> list[npt.NDArray[Any]]:
    # Symbol, start, open, high, low, close, volume and count of rows in their order in time.
    ids, starts, opens, highs, lows, closes, volume, count = columns
    order = np.lexsort((starts, ids))
    ids, starts = ids[order], starts[order]
    new = np.ones(len(ids), np.bool_)
    new[1:] = (ids[1:] != ids[:-1]) | (starts[1:] != starts[:-1])
    at = np.flatnonzero(new)
    last = np.append(at[1:], len(ids)) - 1
    return [
        ids[at],
        starts[at],
        opens[order][at],
        np.maximum.reduceat(highs[order], at),
        np.minimum.reduceat(lows[order], at),
        closes[order][last],
        np.add.reduceat(volume[order], at),
        np.add.reduceat(count[order], at),
    ]


def kernel_bars(path: Path) -> BarsFound:
    """Return the kernel's bars of a file by key."""
    symbols, columns = load(path)
    what = "TRADES" if "trades" in path.name else "MIDPOINT"
    rows = zip(*(c.tolist() for c in kernel(columns)), strict=True)
    return {(symbols[int(i)], what, int(start)): (o, h, low, c, v, int(n)) for i, start, o, h, low, c, v, n in rows}
