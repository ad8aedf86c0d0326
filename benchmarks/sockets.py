"""One encoded message to one and to a hundred WebSocket clients through the market feed, beside the library alone."""

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
_KINDS = {"market": "/ws", "ws": "/"}


def run(ctx: Context) -> list[Result]:
    """Measure both in turn, each in a process of its own, and the clients in another."""
    seconds = ctx.live_s / 3
    full = ctx.live_s >= 10
    found: dict[tuple[str, int], list[dict[str, Any]]] = {}
    for number in range(ctx.rounds if full else 1):
        for clients in _TARGETS:
            for kind, path in _KINDS.items():
                with servers.running(kind, ctx.work / f"sockets-{number}-{clients}-{kind}") as place:
                    order = ("ws", place, path, str(clients), str(seconds))
                    figures = children.ours("benchmarks.loads", *order, timeout_s=seconds + 60)
                found.setdefault((kind, clients), []).append(figures)
    return [_result(clients, found["market", clients], found["ws", clients]) for clients in _TARGETS]


def _result(clients: int, found: list[dict[str, Any]], bare: list[dict[str, Any]]) -> Result:
    rates = [f["per_s"] for f in found]
    target, alone = _TARGETS[clients]
    return Result(
        row=ROW,
        what=f"one message encoded once, a frame each, to {clients} client{'s' if clients > 1 else ''}",
        value=statistics.median(rates),
        spread=(min(rates), max(rates)),
        unit="messages/s",
        yardsticks={BARE: statistics.median(f["per_s"] for f in bare)},
        target=Target(value=target, yardstick=BARE, ratio=target / alone),
        detail={
            "least_of_one_client_per_s": round(min(f["least_per_s"] for f in found)),
            "frame_bytes": found[0]["frame_bytes"],
            "rounds": len(found),
        },
    )
