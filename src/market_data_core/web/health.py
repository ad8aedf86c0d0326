"""The doors through which others ask how a service is: ``/health``, ``/livez`` and ``/readyz``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

import orjson
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from market_data_core.telemetry import HealthStatus, Probe

_ALIVE: Final = Probe(probe_type="liveness", passed=True)


def probe_routes(
    health: Callable[[], HealthStatus],
    ready: Callable[[], Sequence[Probe]],
    *,
    alive: Callable[[], Probe] | None = None,
) -> list[Route]:
    """Return the three routes, to be put first among a service's routes: they are asked most often.

    A callable that is dear to call keeps its own answer; for as long as `health` gives the same object, it is written
    out once. They run on the event loop and must not block. One that raises makes its route answer with a 500 problem,
    which is a failed probe too.

    Args:
        health: How the service is. ``/health`` gives it as JSON: 200 healthy or degraded, 503 unhealthy.
        ready: What must hold before the service is given work. ``/readyz`` answers 200 if all of them passed, else 503
            with the messages of those that did not under ``failing``; a probe's message names its component.
        alive: Whether the process should go on running; must depend on nothing outside of it. By default an answer is
            proof enough. ``/livez`` gives the probe: 200 passed, 503 not.
    """
    told: tuple[HealthStatus | None, tuple[int, bytes]] = (None, (0, b""))

    def health_answer() -> tuple[int, bytes]:
        nonlocal told
        status = health()
        if status is not told[0]:
            told = (status, (503 if status.state == "unhealthy" else 200, status.model_dump_json().encode()))
        return told[1]

    def live_answer() -> tuple[int, bytes]:
        probe = _ALIVE if alive is None else alive()
        return 200 if probe.passed else 503, probe.model_dump_json().encode()

    def ready_answer() -> tuple[int, bytes]:
        probes = ready()
        failing = [probe.message or f"unnamed {probe.probe_type} probe" for probe in probes if not probe.passed]
        body = {
            "status": "not_ready" if failing else "ready",
            "failing": failing,
            "probes": [probe.model_dump() for probe in probes],
        }
        return 503 if failing else 200, orjson.dumps(body)

    return [
        Route("/health", _Answer(health_answer), methods=["GET"], name="health", include_in_schema=False),
        Route("/livez", _Answer(live_answer), methods=["GET"], name="livez", include_in_schema=False),
        Route("/readyz", _Answer(ready_answer), methods=["GET"], name="readyz", include_in_schema=False),
    ]


class _Answer:
    # Plain ASGI: a Request and a Response object cost more than the answer itself.

    def __init__(self, answer: Callable[[], tuple[int, bytes]]) -> None:
        self._answer = answer

    async def __call__(self, _scope: Scope, _receive: Receive, send: Send) -> None:
        status, body = self._answer()
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", str(len(body)).encode("ascii")),
            (b"cache-control", b"no-store"),
        ]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})
