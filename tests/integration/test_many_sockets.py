"""Five hundred WebSocket clients: served, told that it ends, and no reason for it not to end in time."""

from __future__ import annotations

import asyncio
import contextlib
import json
import resource
import socket
import time
from urllib.parse import urlsplit

import pytest
import websockets

from support.service import RunningService, eventually

CLIENTS = 500
# What a stop may take: storing what was received, and closing the doors.
DRAIN_S, DOORS_S = 10, 5
# So many that messages are larger than what lies between two sockets.
SYMBOLS = ",".join(f"S{number}" for number in range(200))


@pytest.fixture
def descriptors():
    """Enough open files for both ends."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 4 * CLIENTS
    if hard != resource.RLIM_INFINITY and hard < wanted:
        pytest.skip(f"{CLIENTS} clients need {wanted} open files; this machine allows {hard} (ulimit -Hn)")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, wanted), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


class Client:
    """One client and what became of it."""

    def __init__(self, connection, *, reads):
        self.connection = connection
        self.reads = reads
        self.messages = 0
        self.code = None

    async def run(self):
        if not self.reads:
            return
        with contextlib.suppress(websockets.ConnectionClosed):
            while True:
                message = await self.connection.recv()
                assert json.loads(message)["type"] == "status" if self.messages == 0 else message
                self.messages += 1
        self.code = self.connection.close_code


async def connected(address, *, reads):
    options = {"max_size": None, "compression": None, "open_timeout": 30}
    if not reads:
        # With the smallest of buffers the server's own writing soon waits for this client.
        raw = socket.socket()
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
        place = urlsplit(address)
        raw.connect((place.hostname, place.port))
        options |= {"sock": raw, "max_queue": 1, "ping_interval": None}
    return Client(await websockets.connect(address, **options), reads=reads)


@pytest.mark.parametrize("deaf", [0, CLIENTS // 2])
async def test_it_ends_in_time_whoever_is_connected(descriptors, tmp_path, deaf):
    """All are served; those who read are told with 1001 that it ends; those who do not hold up nobody."""
    with RunningService(tmp_path / "data", WS_INTERVAL_SEC=1, DRAIN_SEC=DRAIN_S, SYMBOLS=SYMBOLS) as service:
        await asyncio.to_thread(service.wait_healthy)
        address = f"ws://127.0.0.1:{service.port}/ws/status"
        clients = [await connected(address, reads=number >= deaf) for number in range(CLIENTS)]
        running = [asyncio.create_task(client.run()) for client in clients]
        counted = lambda: service.get("/status").json()["ws_clients"] == CLIENTS  # noqa: E731
        await asyncio.to_thread(eventually, counted, 20, "all are counted")
        reading = [client for client in clients if client.reads]
        served = lambda: min(client.messages for client in reading) >= 3  # noqa: E731
        await asyncio.to_thread(eventually, served, 30, "all are served")
        assert service.get("/health").json()["state"] == "healthy"

        began_s = time.monotonic()
        code = await asyncio.to_thread(service.stop, deadline_s=DRAIN_S + DOORS_S)
        took_s = time.monotonic() - began_s
        assert code == 0, service.output()
        assert took_s < DRAIN_S + DOORS_S
        async with asyncio.timeout(20):
            await asyncio.gather(*running)
        assert {client.code for client in reading} == {1001}
        assert "Traceback" not in service.output()
        for client in clients:
            client.connection.transport.abort()
