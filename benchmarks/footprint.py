"""Memory of an idle service, and how soon it answers."""

from __future__ import annotations

import os
import shutil
import socket
import statistics
import subprocess
import sys
import time
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import orjson
import psutil

from benchmarks.context import REPOSITORY, Context, seconds
from benchmarks.results import Result, Target

ROW = "footprint"
BARE, IN_USE = "bare imports", "the bare libraries in use"
_START_S = 60.0
_STOP_S = 30.0
_MIB = 2**20
_IMPORTS = "import pyarrow.compute, pyarrow.dataset, pyarrow.parquet, deltalake, fastapi, uvicorn, numpy"


def run(ctx: Context) -> list[Result]:
    """Measure with the consumers in a process of their own and in threads."""
    results = []
    for workers in ("process", "thread"):
        starts, bare, idle = [], [], {}
        for at in range(ctx.rounds):
            try:
                # Only the last round idles: memory does not scatter as times do.
                taken, found = _service(ctx.work / "footprint", workers, ctx.idle_s if at == ctx.rounds - 1 else 0.0)
            except RuntimeError as exc:
                results.append(Result(row=ROW, what=f"service, consumers by {workers}", skipped=str(exc)))
                break
            starts.append(taken)
            bare.append(_bare_start())
            idle = found
        else:
            results += _results(workers, starts, bare, _bare_memory(ctx.work / "footprint-bare"), idle)
    return results


# Interpreter and libraries alone: no service of these parts can be up before.
def _bare_start() -> float:
    return seconds(lambda: subprocess.run([sys.executable, "-c", _IMPORTS], check=True))


# Nor can any take less memory. Of imported libraries little is in memory before they are used.
def _bare_memory(folder: Path) -> dict[str, float]:
    shutil.rmtree(folder, ignore_errors=True)
    command = [sys.executable, "-m", "benchmarks.footprint_bare", str(folder)]
    found = {}
    with subprocess.Popen(command, cwd=REPOSITORY, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None and process.stdout is not None  # noqa: PT018  asked for above
        for what in (BARE, IN_USE):
            process.stdout.readline()
            found[what] = psutil.Process(process.pid).memory_info().rss / _MIB
            process.stdin.write("\n")
            process.stdin.flush()
    shutil.rmtree(folder, ignore_errors=True)
    return found


def _results(
    workers: str, starts: list[float], bare: list[float], memory: dict[str, float], idle: dict[str, Any]
) -> list[Result]:
    return [
        Result(
            row=ROW,
            what=f"memory of the idle service, consumers by {workers} (all its processes, what they share once)",
            # Not PSS, which is the less the more strangers have the same libraries loaded.
            value=sum(p["uss_mib"] for p in idle.values()) + max(p["rss_mib"] - p["uss_mib"] for p in idle.values()),
            unit="MiB",
            yardsticks=memory,
            target=Target(value=150.0, yardstick=BARE, ratio=1.25, higher_is_better=False),
            detail=idle,
        ),
        Result(
            row=ROW,
            what=f"start of the service to its first healthy answer, consumers by {workers}",
            value=statistics.median(starts),
            spread=(min(starts), max(starts)),
            unit="s",
            yardsticks={BARE: statistics.median(bare)},
            target=Target(value=2.0, higher_is_better=False),
            detail={"starts": len(starts)},
        ),
    ]


def _service(data_dir: Path, workers: str, idle_s: float) -> tuple[float, dict[str, Any]]:
    shutil.rmtree(data_dir, ignore_errors=True)
    data_dir.mkdir()
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    environment = {k: v for k, v in os.environ.items() if not k.startswith("ORCH_")} | {
        "PYTHONPATH": str(REPOSITORY / "src"),
        "ORCH_DATA_DIR": str(data_dir),
        "ORCH_HEALTH_PORT": str(port),
        "ORCH_WORKERS": workers,
        "ORCH_PROVIDER_RATE": "1",
        "ORCH_AUDIT_LOG_PATH": str(data_dir / "audit.jsonl"),
    }
    errors = data_dir / "stderr"
    with errors.open("wb") as stderr:
        started = time.monotonic()
        process = subprocess.Popen(
            [sys.executable, "-m", "market_data_orchestrator.launcher"],
            env=environment,
            cwd=data_dir,
            stdout=subprocess.DEVNULL,
            stderr=stderr,
        )
    try:
        _wait_healthy(process, port, started + _START_S, errors)
        taken = time.monotonic() - started
        if idle_s:
            time.sleep(idle_s)
        return taken, _memory(process.pid) if idle_s else {}
    finally:
        process.terminate()
        try:
            process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        shutil.rmtree(data_dir, ignore_errors=True)


def _wait_healthy(process: subprocess.Popen[bytes], port: int, until: float, errors: Path) -> None:
    state = "no answer"
    while time.monotonic() < until:
        if process.poll() is not None:
            raise RuntimeError(f"the service ended with code {process.returncode}: {errors.read_text()[-300:]}")
        connection = HTTPConnection("127.0.0.1", port, timeout=2.0)
        try:
            connection.request("GET", "/health")
            answer = connection.getresponse()
            state = orjson.loads(answer.read()).get("state", str(answer.status))
        except OSError:
            pass  # nobody listens yet
        finally:
            connection.close()
        if state == "healthy":
            return
        time.sleep(0.01)
    raise RuntimeError(f"the service was not healthy within {_START_S:.0f} s: {state}")


def _memory(pid: int) -> dict[str, Any]:
    service = psutil.Process(pid)
    found = {}
    for process in (service, *service.children(recursive=True)):
        info = process.memory_full_info()
        name = "service" if process.pid == pid else process.cmdline()[-1].rpartition(".")[2]
        sizes = {"rss": info.rss, "pss": getattr(info, "pss", info.rss), "uss": info.uss}
        found[name] = {f"{kind}_mib": round(size / _MIB, 1) for kind, size in sizes.items()}
    return found
