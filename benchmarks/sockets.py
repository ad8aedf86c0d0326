"""One encoded message to one and to a hundred WebSocket clients through the market feed, beside the library alone.

Both idle and while events flow through the service whose feed it is. Where they flow, the library alone stands beside a
service through which as many flow, on the same two cores: what is compared is the server, not the machine's load.
"""

from __future__ import annotations

import contextlib
import statistics
from pathlib import Path
from typing import Any

from benchmarks import children, servers
from benchmarks.context import Context
from benchmarks.results import Result, Target

ROW = "ws"
BARE = "bare uvicorn sans-io"
BESIDE = f"{BARE} beside the flow"
# By clients: messages/s of all together, and what the library alone does on the reference machine.
_TARGETS = {1: (100_000.0, 143_000.0), 100: (150_000.0, 210_000.0)}
# By what is measured: the server, the path of its socket, and whether it stands beside a service with events flowing.
_WAYS = {"market": ("market", "/ws", False), "flow": ("flow", "/ws", False)}
_WAYS |= {BARE: ("ws", "/", False), BESIDE: ("ws", "/", True)}
_IN_RESULTS = {"market": [BARE], "flow": [BESIDE, BARE]}


def run(ctx: Context) -> list[Result]:
    """Measure them in turn, each in a process of its own, and the clients in another."""
    found: dict[tuple[str, int], list[dict[str, Any]]] = {}
    for number in range(ctx.rounds if ctx.live_s >= 10 else 1):
        for clients in _TARGETS:
            for at, way in enumerate(_WAYS):
                figures = _told(way, clients, ctx.live_s / 3, ctx.work / f"sockets-{number}-{clients}-{at}")
                found.setdefault((way, clients), []).append(figures)
    return [_result(way, clients, found) for way in _IN_RESULTS for clients in _TARGETS]


def _told(way: str, clients: int, seconds: float, folder: Path) -> dict[str, Any]:
    kind, path, beside = _WAYS[way]
    with contextlib.ExitStack() as stack:
        flow = stack.enter_context(servers.flowing(folder / "service")) if beside else ""
        place = stack.enter_context(servers.running(kind, folder / kind))
        counted = place if kind == "flow" else flow
        events = servers.events(counted) if counted else 0
        order = ("ws", place, path, str(clients), str(seconds))
        figures = children.ours("benchmarks.loads", *order, timeout_s=seconds + 60)
        figures["events"] = servers.events(counted) - events if counted else 0
    return figures


def _result(way: str, clients: int, measured: dict[tuple[str, int], list[dict[str, Any]]]) -> Result:
    found = measured[way, clients]
    rates = [f["per_s"] for f in found]
    target, alone = _TARGETS[clients]
    what = f"one message encoded once, a frame each, to {clients} client{'s' if clients > 1 else ''}"
    yardsticks = {name: statistics.median(f["per_s"] for f in measured[name, clients]) for name in _IN_RESULTS[way]}
    return Result(
        row=ROW,
        what=f"{what}, {servers.RATE} events/s flowing" if way == "flow" else what,
        value=statistics.median(rates),
        spread=(min(rates), max(rates)),
        unit="messages/s",
        yardsticks=yardsticks,
        target=Target(value=target, yardstick=_IN_RESULTS[way][0], ratio=target / alone),
        detail={
            "least_of_one_client_per_s": round(min(f["least_per_s"] for f in found)),
            "frame_bytes": found[0]["frame_bytes"],
            "rounds": len(found),
            "events_in_a_round": {
                name: statistics.median(f["events"] for f in measured[name, clients])
                for name in (way, *_IN_RESULTS[way])
            },
        },
    )
