"""Many small pipelines in this process: ``python -m benchmarks.many_service ORDER`` runs them and prints figures.

The order is JSON: ``shape`` (``pipelines``, each with a source of its own, or ``graphs``, all over one log), ``count``,
``rate`` (events/s of each), ``warmup_s``, ``seconds`` and ``folder``.
"""

from __future__ import annotations

import asyncio
import gc
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

from benchmarks.dag import FORGET, compiled
from benchmarks.forgetful import ForgetfulStore
from benchmarks.lateness import IN_GRAPHS, Watch, WatchedSource
from market_data_pipeline.capture import Capture
from market_data_pipeline.consumers import ConsumerHost, ConsumerSpec
from market_data_pipeline.log import LogWriter
from market_data_pipeline.loops import loop_factory
from market_data_pipeline.pipeline import StreamingPipeline, create_pipeline
from market_data_pipeline.source.synthetic import SyntheticSource

_MIB = 2**20
_STOP_S = 30.0
_SYMBOLS = 4


class _Usage:
    # Of this process: memory when made, processor time while measuring.
    def __init__(self) -> None:
        gc.collect()
        self._process = psutil.Process()
        self._bytes = self._process.memory_full_info().uss
        self._cpu_s = self._started_s = 0.0

    def begin(self) -> None:
        self._cpu_s, self._started_s = time.process_time(), time.monotonic()

    def figures(self, count: int) -> dict[str, float]:
        taken_s = time.monotonic() - self._started_s
        cores = (time.process_time() - self._cpu_s) / taken_s
        gc.collect()
        used = self._process.memory_full_info().uss - self._bytes
        return {"taken_s": taken_s, "cores_used": round(cores, 2), "mib_each": round(used / count / _MIB, 3)}


def _pipeline(number: int, rate: float, watch: Watch) -> StreamingPipeline:
    source = SyntheticSource(symbols=_SYMBOLS, seed=number, rate=rate)
    made = create_pipeline(
        tenant_id="bench",
        pipeline_id=f"p{number:03d}",
        source=WatchedSource(source, watch),
        operator="bars",
        operator_interval="1s",
        sink="null",
    )
    assert isinstance(made, StreamingPipeline)
    return made


async def pipelines(order: dict[str, Any]) -> dict[str, Any]:
    """Run pipelines with a source each, in one event loop."""
    await _pipeline(0, order["rate"], Watch()).run(0.1)  # what is loaded once is no pipeline's own
    usage, watch = _Usage(), Watch()
    made = [_pipeline(n, order["rate"], watch) for n in range(1, order["count"] + 1)]
    for pipeline in made:
        await pipeline.start()
    await asyncio.sleep(order["warmup_s"])
    found = await _measured(order, usage, watch)
    await asyncio.gather(*(p.stop() for p in made))
    results = [p.result for p in made]
    if lost := sum(r.unaccounted for r in results):
        raise RuntimeError(f"{lost} events are unaccounted for")
    return found | {"bars": sum(r.written for r in results), "least_received": min(r.received for r in results)}


async def _measured(order: dict[str, Any], usage: _Usage, watch: Watch) -> dict[str, Any]:
    usage.begin()
    watch.watching = True
    await asyncio.sleep(order["seconds"])
    watch.watching = False
    return {**usage.figures(order["count"]), **watch.figures()}


async def graphs(order: dict[str, Any]) -> dict[str, Any]:
    """Run a graph per symbol as consumers of one log, which one source is captured into."""
    folder, count = Path(order["folder"]), order["count"]
    log = LogWriter(folder / "log")
    capture = Capture(log)
    usage = _Usage()
    source = SyntheticSource(symbols=count, rate=order["rate"] * count)
    specs = [_graph(s, folder) for s in source.symbols]
    host = ConsumerHost(
        specs, log_folder=folder / "log", store=ForgetfulStore(), folder=folder / "consumers", durable=_durable(log)
    )
    try:
        capture.start()
        host.start()
        capture.add(source, {})
        await asyncio.sleep(order["warmup_s"])
        found = await _measured(order, usage, IN_GRAPHS)
        status = host.status().consumers
        if problems := sorted({c["problem"] for c in status.values() if c["problem"]}):
            raise RuntimeError("; ".join(problems))
        behind = log.durable_end - min(c["position"] for c in status.values())
        return found | {"positions_behind": behind, "restarts": sum(c["restarts"] for c in status.values())}
    finally:
        capture.stop()
        host.stop(drain_to=None, timeout_s=_STOP_S)
        log.close()


def _durable(log: LogWriter) -> Callable[[], int]:
    return lambda: log.durable_end


def _graph(symbol: str, folder: Path) -> ConsumerSpec:
    text = {
        "nodes": {
            "ticks": {"source": "all", "kinds": ["trades", "quotes"], "symbols": [symbol]},
            "seen": {"operator": "benchmarks.lateness:Watching"},
            "checked": {"operator": "validate"},
            "bars": {"operator": "bars", "interval": "1s"},
            f"bars-of-{symbol}": {"sink": FORGET, "kinds": ["bars"]},
        },
        "edges": [f"ticks -> seen -> checked -> bars -> bars-of-{symbol}"],
    }
    (spec,) = compiled(text, folder)
    return spec


SHAPES = {"pipelines": pipelines, "graphs": graphs}


def measure(order: dict[str, Any]) -> dict[str, Any]:
    """Do what an order asks for."""
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        return runner.run(SHAPES[order["shape"]](order))


def main() -> None:
    """Do what the argument asks for and print the figures."""
    sys.setswitchinterval(0.001)  # as the launcher does
    print(json.dumps(measure(json.loads(sys.argv[1]))), flush=True)


if __name__ == "__main__":
    main()
