"""Requests to ``/health`` of the whole service, metrics on, idle and while events flow, beside the library alone.

Where events flow, the library alone stands beside a service through which as many flow, on the same two cores: what is
compared is the server, not the machine's load.
"""

from __future__ import annotations

import statistics
import time
from typing import Any

from benchmarks import children, servers
from benchmarks.context import Context
from benchmarks.results import Result, Target

ROW = "health"
BARE = "bare FastAPI"
BESIDE = f"{BARE} beside the flow"
_CONNECTIONS = 32
# A service that has just come up still tidies up behind its start.
_WARM_S = 3.0
_PER_S, _P99_MS = 8_000.0, 10.0
# What the target is of what the library alone does on the reference machine: 17,000 requests/s, and 7 ms p99.
_OF_BARE, _OF_BARE_P99 = _PER_S / 17_000, _P99_MS / 7
_EVENTS = {"idle": 1, "flowing": servers.RATE}
_YARDSTICKS = {"idle": [BARE], "flowing": [BESIDE, BARE]}


def run(ctx: Context) -> list[Result]:
    """Measure the library alone and the service in turn, each in a process of its own."""
    seconds = ctx.live_s / 3
    full = ctx.live_s >= 10
    found: dict[str, list[dict[str, Any]]] = {BARE: [], BESIDE: [], **{name: [] for name in _EVENTS}}
    for number in range(ctx.rounds if full else 1):
        folder = ctx.work / f"health-{number}"
        with servers.running("http", folder / "bare") as place:
            found[BARE].append(_asked(place, seconds))
        with servers.flowing(folder / "flow"), servers.running("http", folder / "beside") as place:
            found[BESIDE].append(_asked(place, seconds))
        for name, rate in _EVENTS.items():
            with servers.running("service", folder / name, PROVIDER_RATE=rate, LOG_LEVEL="WARNING") as place:
                if full:
                    time.sleep(_WARM_S)
                events = servers.events(place)
                figures = _asked(place, seconds)
                figures["events"] = servers.events(place) - events
            found[name].append(figures)
    return [result for name in _EVENTS for result in _results(name, found)]


def _asked(place: str, seconds: float) -> dict[str, Any]:
    order = ("http", place, "/health", str(_CONNECTIONS), str(seconds))
    return children.ours("benchmarks.loads", *order, timeout_s=seconds + 60)


def _results(name: str, measured: dict[str, list[dict[str, Any]]]) -> list[Result]:
    found = measured[name]
    what = f"GET /health, {_CONNECTIONS} connections, one worker, " + (
        "idle" if name == "idle" else f"{servers.RATE} events/s flowing"
    )
    detail = {"p50_ms": statistics.median(f["p50_ms"] for f in found), "rounds": len(found)}
    detail["events_in_a_round"] = statistics.median(f["events"] for f in found)

    def result(field: str, unit: str, target: Target) -> Result:
        values = [f[field] for f in found]
        return Result(
            row=ROW,
            what=f"{what}: {unit}",
            value=statistics.median(values),
            spread=(min(values), max(values)),
            unit=unit,
            yardsticks={y: statistics.median(f[field] for f in measured[y]) for y in _YARDSTICKS[name]},
            target=target,
            detail=detail,
        )

    rate = Target(value=_PER_S, yardstick=_YARDSTICKS[name][0], ratio=_OF_BARE)
    p99 = Target(value=_P99_MS, higher_is_better=False, yardstick=_YARDSTICKS[name][0], ratio=_OF_BARE_P99)
    return [result("per_s", "requests/s", rate), result("p99_ms", "ms p99", p99)]
