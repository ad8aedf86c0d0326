"""One encoded message to one and to a hundred WebSocket clients through the market feed, beside the library alone.

Both idle and while events flow through the service whose feed it is.
"""

from __future__ import annotations

import statistics
from typing import Any

from benchmarks import children, servers
from benchmarks.context import Context
from benchmarks.results import Result, Target

ROW = "ws"
BARE = "bare uvicorn sans-io"
# By clients: messages/s of all together, and what the library alone does on the reference machine.
_TARGETS = {1: (100_000.0, 143_000.0), 100: (150_000.0, 210_000.0)}
_PATHS = {"market": "/ws", "flow": "/ws", "ws": "/"}


def run(ctx: Context) -> list[Result]:
    """Measure them in turn, each in a process of its own, and the clients in another."""
    seconds = ctx.live_s / 3
    full = ctx.live_s >= 10
    found: dict[tuple[str, int], list[dict[str, Any]]] = {}
    for number in range(ctx.rounds if full else 1):
        for clients in _TARGETS:
            for kind, path in _PATHS.items():
                with servers.running(kind, ctx.work / f"sockets-{number}-{clients}-{kind}") as place:
                    order = ("ws", place, path, str(clients), str(seconds))
                    events = servers.events(place) if kind == "flow" else 0
                    figures = children.ours("benchmarks.loads", *order, timeout_s=seconds + 60)
                    if kind == "flow":
                        figures["events"] = servers.events(place) - events
                found.setdefault((kind, clients), []).append(figures)
    return [
        _result(kind, clients, found[kind, clients], found["ws", clients])
        for kind in ("market", "flow")
        for clients in _TARGETS
    ]


def _result(kind: str, clients: int, found: list[dict[str, Any]], bare: list[dict[str, Any]]) -> Result:
    rates = [f["per_s"] for f in found]
    target, alone = _TARGETS[clients]
    what = f"one message encoded once, a frame each, to {clients} client{'s' if clients > 1 else ''}"
    return Result(
        row=ROW,
        what=f"{what}, {servers.RATE} events/s flowing" if kind == "flow" else what,
        value=statistics.median(rates),
        spread=(min(rates), max(rates)),
        unit="messages/s",
        yardsticks={BARE: statistics.median(f["per_s"] for f in bare)},
        target=Target(value=target, yardstick=BARE, ratio=target / alone),
        detail={
            "least_of_one_client_per_s": round(min(f["least_per_s"] for f in found)),
            "frame_bytes": found[0]["frame_bytes"],
            "rounds": len(found),
            **({"events_in_a_round": statistics.median(f["events"] for f in found)} if kind == "flow" else {}),
        },
    )
