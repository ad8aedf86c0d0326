"""One measured service: ``python -m benchmarks.live_service '{...}'`` prints its latencies as one line of JSON."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import os
import socket
import sys
import threading
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import uvicorn
import uvloop

from benchmarks.context import REPOSITORY
from market_data_core.clock import NS_PER_SECOND
from market_data_core.web.gathering import GatheringProtocol
from market_data_orchestrator.app import create_app
from market_data_orchestrator.service import Service
from market_data_orchestrator.settings import load_settings
from market_data_pipeline.engine import Engine
from market_data_pipeline.taps import Tapped
from market_data_store.lake import Lake
from market_data_store.query import QueryRunner

_POLL_S = 0.001  # polling more often takes so much of the interpreter that it shows in what is measured
_CLIENTS = 100
_QUERY = (
    "SELECT symbol, date_bin(INTERVAL '1 minute', to_timestamp_nanos(ts_event)) AS minute, avg(bid_price) AS bid,"
    " max(ask_price) AS ask, count(*) AS quotes FROM quotes GROUP BY 1, 2 ORDER BY quotes DESC LIMIT 1000"
)
_READY_S = 30.0


class _Watch:
    # Two lookers-on, each a thread: one polls a tap, one waits for the log. Both note the service's own clock.
    def __init__(self, service: Service, engine: Engine) -> None:
        self._clock = service.clock
        self._engine = engine
        self._over = threading.Event()
        self.tapped: list[tuple[int, Tapped]] = []
        self.durable: list[tuple[int, int]] = []
        self.missed = 0
        self._threads = [
            threading.Thread(target=self._look, name="bench-tap", daemon=True),
            threading.Thread(target=self._wait, name="bench-durable", daemon=True),
        ]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()

    def _look(self) -> None:
        tap = self._engine.taps.open(limit=100_000)
        while not self._over.wait(_POLL_S):
            items, missed = tap.take()
            now = self._clock.now_ns()
            self.missed += missed
            self.tapped += [(now, item) for item in items]
        self._engine.taps.close(tap)

    def _wait(self) -> None:
        log = self._engine.log
        while not self._over.is_set():
            if log.wait_durable(log.durable_end + 1, 0.1):
                end = log.durable_end
                self.durable.append((self._clock.now_ns(), end))


async def _run(order: dict[str, Any]) -> dict[str, Any]:
    data_dir = Path(order["data_dir"])
    settings = load_settings(
        _env_file=None,
        data_dir=data_dir,
        provider="synthetic",
        provider_rate=float(order["rate"]),
        workers=order["workers"],
        maintenance_sec=0.25 if order["load"] == "maintenance" else 60.0,
        audit_log_path=data_dir / "audit.jsonl",
        health_port=0,
    )
    service = Service(settings)
    listener = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(
        create_app(service), http=GatheringProtocol, ws="websockets-sansio", log_config=None, access_log=False
    )
    server = uvicorn.Server(config)
    gc.collect()
    gc.freeze()
    serving = asyncio.create_task(server.serve(sockets=[listener]), name="server")
    try:
        engine = await _ready(service)
        async with _load(order, data_dir, listener.getsockname()[1]) as loaded:
            return await _measure(service, engine, order, loaded)
    finally:
        server.should_exit = True
        await serving


async def _ready(service: Service) -> Engine:
    until = time.monotonic() + _READY_S
    while service.engine is None or service.source is None or not service.source.events:
        if service.phase == "failed" or time.monotonic() > until:
            raise RuntimeError(f"the service is {service.phase}: {service.problem}")
        await asyncio.sleep(0.02)
    return service.engine


async def _measure(service: Service, engine: Engine, order: dict[str, Any], loaded: dict[str, Any]) -> dict[str, Any]:
    watch = _Watch(service, engine)
    await asyncio.sleep(order["warmup_s"])
    files = await asyncio.to_thread(_files, order)
    loaded["at_start"] = dict(loaded)
    cpu_s, started = _cpu_s(), time.monotonic()
    watch.start()
    await asyncio.sleep(order["seconds"])
    await asyncio.to_thread(watch.stop)
    taken_s = time.monotonic() - started
    cores = (_cpu_s() - cpu_s) / taken_s
    at_start = loaded.pop("at_start")
    did = {k: v - at_start.get(k, 0) for k, v in loaded.items()}
    if order["load"] == "maintenance":
        did["files_fewer"] = files - await asyncio.to_thread(_files, order)
    found = latencies(watch.tapped, watch.durable)
    source = service.source
    return {
        **found,
        "missed_by_tap": watch.missed,
        "refused": source.refused if source else 0,
        "cores_used": round(cores, 2),
        "did": did,
        "problem_of_engine": engine.problem,
    }


def latencies(tapped: list[tuple[int, Tapped]], durable: list[tuple[int, int]]) -> dict[str, Any]:
    """Return percentiles in ms over events, from due and from receipt, to the tap and to the durable log.

    Args:
        tapped: When a batch was seen at the tap, ns on the clock that stamps events, and the batch.
        durable: When the log was seen durable up to an end, same clock, ascending.
    """
    ends = np.array([end for _, end in durable], np.int64)
    seen = np.array([at for at, _ in durable], np.int64)
    seconds: list[np.ndarray] = []
    spans: dict[str, list[np.ndarray]] = {n: [] for n in ("due_to_tap", "due_to_log", "recv_to_tap", "recv_to_log")}
    events = 0
    for at, item in tapped:
        data = item.batch.data
        due, recv = (data.column(n).to_numpy() for n in ("ts_event", "ts_recv"))
        place = int(np.searchsorted(ends, item.first_seq + data.num_rows))
        if place == len(ends):
            break  # durable after the watching ended, as is all that follows
        if place == 0:
            continue  # perhaps durable before the watching began
        events += data.num_rows
        seconds.append(np.full(data.num_rows, at // NS_PER_SECOND))
        for name, since in (("due", due), ("recv", recv)):
            spans[f"{name}_to_tap"].append(at - since)
            spans[f"{name}_to_log"].append(seen[place] - since)
    if not events:
        raise RuntimeError("no event was seen both at the tap and in the durable log")
    second = np.concatenate(seconds)
    figures = {f"{name}_ms": _percentiles(np.concatenate(parts), second) for name, parts in spans.items()}
    return {"events": events, **figures}


def _percentiles(spans_ns: np.ndarray, second: np.ndarray) -> dict[str, float]:
    p50, p99, p999 = np.percentile(spans_ns, (50, 99, 99.9))
    # What a burst of somebody else's work does to some seconds is not in the median of all seconds.
    typical = np.median([np.percentile(spans_ns[second == s], 99) for s in np.unique(second)])
    found = {"p50": p50, "p99": p99, "p999": p999, "p99_of_typical_second": typical}
    return {name: round(float(value) / 1e6, 2) for name, value in found.items()}


def _cpu_s() -> float:
    own = psutil.Process()
    total = 0.0
    for process in (own, *own.children(recursive=True)):
        with contextlib.suppress(psutil.Error):
            times = process.cpu_times()
            total += times.user + times.system
    return total


def _files(order: dict[str, Any]) -> int:
    return Lake(Path(order["data_dir"]) / "lake", "default").counts()["quotes"].files


@contextlib.asynccontextmanager
async def _load(order: dict[str, Any], data_dir: Path, port: int) -> AsyncIterator[dict[str, Any]]:
    loaded: dict[str, Any] = {}
    if order["load"] == "query":
        task = asyncio.create_task(_queries(data_dir / "lake", loaded), name="queries")
        try:
            yield loaded
        finally:
            failed = task.done()
            task.cancel()
            (ended,) = await asyncio.gather(task, return_exceptions=True)
            if failed:
                raise RuntimeError(f"the query failed, so nothing was loaded: {ended}")
    elif order["load"] == "clients":
        clients = await _clients(port, order)
        reading = asyncio.create_task(_count(clients, loaded), name="clients")
        try:
            yield loaded
        finally:
            clients.kill()
            await asyncio.gather(reading, clients.wait())
    else:
        yield loaded


async def _queries(root: Path, loaded: dict[str, Any]) -> None:
    runner = QueryRunner(root)
    loaded |= {"queries": 0, "query_s": 0.0}
    while True:
        result = await runner.run("default", _QUERY)
        loaded["queries"] += 1
        loaded["query_s"] += result.elapsed_s


async def _clients(port: int, order: dict[str, Any]) -> asyncio.subprocess.Process:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "benchmarks.live_clients", f"ws://127.0.0.1:{port}/ws/status", str(_CLIENTS)),
        stdout=asyncio.subprocess.PIPE,
        cwd=order["data_dir"],
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(REPOSITORY / "src"), str(REPOSITORY)])},
    )
    assert process.stdout is not None
    if not await asyncio.wait_for(process.stdout.readline(), _READY_S):
        raise RuntimeError("the clients could not connect")
    return process


async def _count(process: asyncio.subprocess.Process, loaded: dict[str, Any]) -> None:
    assert process.stdout is not None
    loaded["messages"] = 0
    while line := await process.stdout.readline():
        loaded["messages"] = int(line)


def main() -> None:
    """Run what the argument asks for."""
    sys.setswitchinterval(0.001)  # as the launcher does
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        print(json.dumps(runner.run(_run(json.loads(sys.argv[1])))), flush=True)


if __name__ == "__main__":
    main()
