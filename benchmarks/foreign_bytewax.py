"""Bars and values of ticks by Bytewax, in its own venv: ``python foreign_bytewax.py bars|graph FILE ...``.

Bars are its `fold_window` over tumbling windows of event time, named values its `flat_map`; the clock of its windows is
that of the events alone, as in any run over history. Prints one JSON line; the seconds are from the first read of a
file to the last bar, without the interpreter's start. Imports nothing but what is in that venv.
"""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import bytewax.operators as op
import bytewax.operators.windowing as win
import pyarrow.parquet as pq
from bytewax.dataflow import Dataflow
from bytewax.inputs import DynamicSource, StatelessSourcePartition
from bytewax.outputs import DynamicSink, StatelessSinkPartition
from bytewax.testing import run_main

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
BATCH_ROWS = 8192
Event = tuple[str, tuple[datetime, float, float]]
Found = dict[str, float]


class _Part(StatelessSourcePartition[Any]):
    def __init__(self, batches: Iterator[list[Any]]) -> None:
        self._batches = batches

    def next_batch(self) -> Iterable[Any]:
        return next(self._batches)  # its StopIteration is how Bytewax is told of the end


class _Source(DynamicSource[Any]):
    def __init__(self, read: Callable[[], Iterator[list[Any]]]) -> None:
        self._read = read

    def build(self, step_id: str, worker_index: int, worker_count: int) -> _Part:
        del step_id, worker_index, worker_count
        return _Part(self._read())


class _Counting(StatelessSinkPartition[Any]):
    def __init__(self, take: Callable[[Any], None]) -> None:
        self._take = take

    def write_batch(self, items: list[Any]) -> None:
        for item in items:
            self._take(item)


class _Sink(DynamicSink[Any]):
    def __init__(self, take: Callable[[Any], None]) -> None:
        self._take = take

    def build(self, step_id: str, worker_index: int, worker_count: int) -> _Counting:
        del step_id, worker_index, worker_count
        return _Counting(self._take)


def _rows(path: Path, names: tuple[str, ...], found: Found) -> Iterator[Iterable[tuple[Any, ...]]]:
    for batch in pq.ParquetFile(path).iter_batches(BATCH_ROWS, columns=["symbol", "ts_event", *names]):
        found["events"] += batch.num_rows
        columns = [batch.column(n).to_pylist() for n in ("symbol", "ts_event", *names)]
        yield zip(*columns, strict=True)


def _usable(*values: float | None) -> bool:
    return all(v is not None and math.isfinite(v) for v in values)


def _at(ts_ns: int) -> datetime:
    return EPOCH + timedelta(microseconds=ts_ns // 1000)  # exact: a float of nanoseconds may round into the next bar


def _trades(files: list[Path], found: Found) -> Iterator[list[Event]]:
    for path in files:
        for rows in _rows(path, ("price", "size"), found):
            yield [(f"{s} TRADES", (_at(ts), p, q)) for s, ts, p, q in rows if _usable(p, q)]


def _midpoints(files: list[Path], found: Found) -> Iterator[list[Event]]:
    for path in files:
        for rows in _rows(path, ("bid_price", "ask_price"), found):
            yield [(f"{s} MIDPOINT", (_at(ts), b / 2 + a / 2, 0.0)) for s, ts, b, a in rows if _usable(b, a)]


def _quotes(files: list[Path], found: Found) -> Iterator[list[tuple[Any, ...]]]:
    for path in files:
        for rows in _rows(path, ("bid_price", "ask_price", "bid_size", "ask_size"), found):
            yield list(rows)


def _fold(bar: list[float], event: tuple[datetime, float, float]) -> list[float]:
    _, price, size = event
    if not bar:
        return [price, price, price, price, size, 1]
    bar[1] = max(bar[1], price)
    bar[2] = min(bar[2], price)
    bar[3] = price
    bar[4] += size
    bar[5] += 1
    return bar


def _merge(a: list[float], b: list[float]) -> list[float]:
    return [a[0], max(a[1], b[1]), min(a[2], b[2]), b[3], a[4] + b[4], a[5] + b[5]]


def _bars(flow: Dataflow, name: str, events: Callable[[], Iterator[list[Event]]], found: Found) -> None:
    clock = win.EventClock(
        ts_getter=lambda event: event[0],
        wait_for_system_duration=timedelta(0),
        now_getter=lambda: EPOCH,
        to_system_utc=lambda _: None,
    )
    windower = win.TumblingWindower(length=timedelta(seconds=1), align_to=EPOCH)
    stream = op.input(f"{name}-in", flow, _Source(events))
    folded = win.fold_window(f"{name}-bars", stream, clock, windower, list, _fold, _merge)

    def take(item: Any) -> None:
        found["bars"] += 1
        found["volume"] += item[1][1][4]

    def late(item: Any) -> None:
        del item
        found["late"] += 1

    op.output(f"{name}-out", folded.down, _Sink(take))
    op.output(f"{name}-late", folded.late, _Sink(late))


def _values(quote: tuple[Any, ...]) -> Iterable[tuple[str, int, str, float]]:
    symbol, ts, bid, ask, _, _ = quote
    mid = bid / 2 + ask / 2
    yield symbol, ts, "mid", mid
    if mid > 0:
        yield symbol, ts, "spread_bps", (ask - bid) / mid * 10_000


def _in_order(quote: tuple[Any, ...]) -> bool:
    _, _, bid, ask, bid_size, ask_size = quote
    return _usable(bid, ask, bid_size, ask_size) and ask > bid and bid_size > 0 and ask_size > 0


def main() -> None:
    """Do the work and print what came of it."""
    work, files = sys.argv[1], [Path(f) for f in sys.argv[2:]]
    trades, quotes = [f for f in files if "trades" in f.name], [f for f in files if "trades" not in f.name]
    found: Found = {"events": 0, "bars": 0, "volume": 0.0, "values": 0, "late": 0}

    def take_value(item: Any) -> None:
        del item
        found["values"] += 1

    flow = Dataflow("yardstick")
    _bars(flow, "trades", lambda: _trades(trades, found), found)
    if work == "bars":
        _bars(flow, "midpoints", lambda: _midpoints(quotes, found), found)
    else:
        stream = op.input("quotes-in", flow, _Source(lambda: _quotes(quotes, found)))
        kept = op.filter("in-order", stream, _in_order)
        op.output("values-out", op.flat_map("values", kept, _values), _Sink(take_value))
    started = time.perf_counter()
    run_main(flow)
    print(json.dumps({**found, "seconds": time.perf_counter() - started}))


if __name__ == "__main__":
    main()
