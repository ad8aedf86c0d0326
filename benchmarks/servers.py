"""Servers that are measured, each a process: ``python -m benchmarks.servers {http|ws|market|flow} PORT [FOLDER]``.

``http`` and ``ws`` are the library alone, in the service's configuration of it: a FastAPI app whose one route gives a
constant health, and a socket that sends one message for ever. ``market`` sends the same message through what the
service has between an event and a client of ``/ws/market``; ``flow`` does so beside the running service, into which
`RATE` events/s flow, and counts them at ``/status``.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import orjson
import uvicorn
from fastapi import FastAPI
from starlette.responses import Response
from starlette.routing import Route, WebSocketRoute

from benchmarks.context import REPOSITORY
from market_data_core.web.auth import Principal, Role
from market_data_core.web.gathering import GatheringProtocol
from market_data_orchestrator.market.feed import Client, MarketFeed
from market_data_orchestrator.market.socket import MarketSocket
from market_data_orchestrator.service import Service
from market_data_orchestrator.settings import load_settings
from market_data_orchestrator.status import StatusAggregator
from market_data_pipeline.loops import loop_factory

MESSAGE = (
    '{"type":"quotes","data":[{"vendor":"synthetic","symbol":"AAPL","ts_event":1790000000000000000,'
    '"bid_price":187.25,"bid_size":300.0,"ask_price":187.26,"ask_size":200.0,"seq":123456789}]}'
)
_HEALTH = b'{"service":"orchestrator","state":"healthy","components":[' + b'{"name":"provider","state":"healthy"},' * 15
_START_S = 30.0
RATE = 10_000
# Told before its writer is let run, and fewer than the outbox takes before it says that there is no room.
_AT_ONCE = 32


def bare_http() -> FastAPI:
    """Return an app that answers with a health of usual size and does nothing else."""
    body = _HEALTH.rstrip(b",") + b"]}"

    async def health(_request: Any) -> Response:
        return Response(body, media_type="application/json")

    return FastAPI(routes=[Route("/health", health)], docs_url=None, redoc_url=None, openapi_url=None)


async def bare_ws(scope: Any, receive: Any, send: Any) -> None:
    """Send one message to whoever comes, for as long as they stay."""
    if scope["type"] != "websocket":
        return
    await receive()
    await send({"type": "websocket.accept"})
    message = {"type": "websocket.send", "text": MESSAGE}
    while True:
        for _ in range(_AT_ONCE):
            await send(message)
        # Writing to a socket with room does not wait, and others want their turn.
        await asyncio.sleep(0)


class _Joined(MarketFeed):
    # Knows who is there, to tell them.
    def __init__(self, service: Service) -> None:
        super().__init__(service)
        self.joined: dict[Client, None] = {}

    def join(self, client: Client) -> bool:
        self.joined[client] = None
        return super().join(client)

    def leave(self, client: Client) -> None:
        self.joined.pop(client, None)
        super().leave(client)

    async def broadcast(self) -> None:
        while True:
            for client in list(self.joined):
                await client.outbox.room()
                for _ in range(_AT_ONCE):
                    client.outbox.tell(MESSAGE)
            await asyncio.sleep(0)


def market(folder: Path, *, flowing: bool = False) -> FastAPI:
    """Return an app whose ``/ws`` is the service's market socket, told the same message again and again."""
    service = Service(load_settings(data_dir=folder, provider_rate=RATE))
    feed = _Joined(service)
    status = StatusAggregator(service)

    async def anybody(_connection: Any) -> Principal:
        return Principal(name="bench", role=Role.VIEWER)

    served = MarketSocket(feed, anybody, [], count=lambda _: None, clock=service.clock)

    @contextlib.asynccontextmanager
    async def lifespan(_app: FastAPI) -> Any:
        async with service.running() if flowing else contextlib.nullcontext():
            if flowing:
                await service.running_now.wait()
            telling = asyncio.create_task(feed.broadcast(), name="broadcast")
            yield
            telling.cancel()

    async def told(_request: Any) -> Response:
        return Response(orjson.dumps(status.status()), media_type="application/json")

    return FastAPI(routes=[WebSocketRoute("/ws", served), Route("/status", told)], lifespan=lifespan)


@contextlib.contextmanager
def running(kind: str, folder: Path, **settings: Any) -> Iterator[str]:
    """Run a server in a process of its own; gives its address without a scheme.

    Args:
        kind: One of this module's, or ``service`` for the whole service.
        folder: For its data and what it logs.
        settings: Of the service, by their names without ``ORCH_``.

    Raises:
        RuntimeError: It did not start; with what it said last.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    env = {k: v for k, v in os.environ.items() if not k.startswith("ORCH_")}
    env["PYTHONPATH"] = os.pathsep.join([str(REPOSITORY / "src"), str(REPOSITORY)])
    given = {"DATA_DIR": folder, "HEALTH_PORT": port, "AUDIT_LOG_PATH": folder / "audit.jsonl", **settings}
    command = [sys.executable, "-m", "benchmarks.servers", kind, str(port), str(folder)]
    if kind == "service":
        env |= {f"ORCH_{name}": str(value) for name, value in given.items()}
        command = [sys.executable, "-m", "market_data_orchestrator.launcher"]
    log = folder / f"{kind}.log"
    with log.open("wb") as out:
        process = subprocess.Popen(command, env=env, cwd=folder, stdout=out, stderr=out)
    try:
        _until_well(process, f"http://127.0.0.1:{port}/health", log, exact=kind == "service")
        yield f"127.0.0.1:{port}"
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@contextlib.contextmanager
def flowing(folder: Path) -> Iterator[str]:
    """Run the whole service with `RATE` events/s flowing through it, for others to stand beside; gives its address."""
    with running("service", folder, PROVIDER_RATE=RATE, LOG_LEVEL="WARNING") as place:
        yield place


def events(place: str) -> int:
    """Return how many events a service has received, by its ``/status``."""
    status = httpx.get(f"http://{place}/status", trust_env=False, timeout=10).json()
    return int(sum(source["events"] for source in status["sources"]))


def _until_well(process: subprocess.Popen[bytes], url: str, log: Path, *, exact: bool) -> None:
    until = time.monotonic() + _START_S
    with httpx.Client(trust_env=False, timeout=2) as client:
        while time.monotonic() < until and process.poll() is None:
            with contextlib.suppress(httpx.HTTPError, ValueError):
                answer = client.get(url)
                if not exact or answer.json()["state"] == "healthy":
                    return
            time.sleep(0.05)
    raise RuntimeError(f"a server did not start: {log.read_text()[-300:]}")


def main() -> None:
    """Serve what the arguments ask for."""
    kind, port = sys.argv[1], int(sys.argv[2])
    app = {
        "http": bare_http,
        "ws": lambda: bare_ws,
        "market": lambda: market(Path(sys.argv[3])),
        "flow": lambda: market(Path(sys.argv[3]), flowing=True),
    }[kind]()
    config = uvicorn.Config(
        app,
        port=port,
        log_config=None,
        access_log=False,
        ws="websockets-sansio",
        ws_ping_interval=None,  # a ping is no message
        http=GatheringProtocol if kind in ("market", "flow") else "auto",
        lifespan="on" if kind in ("market", "flow") else "off",
        timeout_graceful_shutdown=1,
        server_header=False,
        date_header=False,
    )
    sys.setswitchinterval(0.001)  # as the launcher does
    gc.collect()
    gc.freeze()
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        runner.run(uvicorn.Server(config).serve())


if __name__ == "__main__":
    main()
