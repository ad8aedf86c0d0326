"""Load on a server: ``python -m benchmarks.loads {http|ws} HOST:PORT PATH CONNECTIONS SECONDS`` prints figures as JSON.

Both speak their protocol on the socket itself, so that this process is not what is measured: a client library takes
longer for a message than a server does. A request goes out when the one before it was answered.
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import sys
import time
from typing import Any

import numpy as np
import uvloop

_WARM_S = 0.5
_CONNECT_S = 20.0


class _Asking(asyncio.Protocol):
    # One connection: a request, its answer, the next request.
    def __init__(self, request: bytes, took_s: list[float]) -> None:
        self._request = request
        self._took_s = took_s
        self._got = b""
        self.wrong = 0

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        self._ask()

    def data_received(self, data: bytes) -> None:
        got = self._got + data
        head = got.find(b"\r\n\r\n")
        if head < 0 or len(got) < head + 4 + _length(got[:head]):
            self._got = got
            return
        self._got = b""
        self._took_s.append(time.perf_counter() - self._asked_s)
        self.wrong += not got.startswith(b"HTTP/1.1 200 ")
        self._ask()

    def connection_lost(self, _exc: Exception | None) -> None:
        self.wrong += 1

    def _ask(self) -> None:
        self._asked_s = time.perf_counter()
        self._transport.write(self._request)


def _length(head: bytes) -> int:
    _, _, rest = head.lower().partition(b"content-length: ")
    return int(rest.partition(b"\r\n")[0])


async def http(host: str, port: int, path: str, connections: int, seconds: float) -> dict[str, Any]:
    """Ask for a path over so many connections, and time the answers."""
    request = f"GET {path} HTTP/1.1\r\nHost: {host}:{port}\r\nAccept: */*\r\n\r\n".encode()
    took_s: list[float] = []
    loop = asyncio.get_running_loop()
    made = [await loop.create_connection(lambda: _Asking(request, took_s), host, port) for _ in range(connections)]
    await asyncio.sleep(_WARM_S)
    took_s.clear()
    began = time.perf_counter()
    await asyncio.sleep(seconds)
    lasted_s = time.perf_counter() - began
    measured = np.array(took_s) * 1000
    wrong = sum(asking.wrong for _, asking in made)
    for transport, _ in made:
        transport.abort()
    if wrong or not len(measured):
        raise RuntimeError(f"{wrong} of {len(measured)} answers were none of 200")
    p50, p99 = np.percentile(measured, [50, 99])
    return {"per_s": len(measured) / lasted_s, "p50_ms": round(float(p50), 3), "p99_ms": round(float(p99), 3)}


class _Listening(asyncio.Protocol):
    # One client: its handshake, then frames that are all alike, of which the bytes are counted.
    def __init__(self, request: bytes) -> None:
        self._request = request
        self._head: bytes | None = b""
        self.opened = asyncio.get_running_loop().create_future()
        self.frame = b""
        self.received = 0

    def connection_made(self, transport: Any) -> None:
        transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        if self._head is not None:
            head, ended, data = (self._head + data).partition(b"\r\n\r\n")
            if not ended:
                self._head = head
                return
            self._head = None
            self.opened.set_result(head.startswith(b"HTTP/1.1 101 "))
        if len(self.frame) < 4:
            self.frame += data
        self.received += len(data)

    @property
    def frame_bytes(self) -> int:
        # A text of 126 to 65,535 bytes: four bytes before it, the last two its length.
        if self.frame[:2] != b"\x81\x7e":
            raise RuntimeError(f"a frame that is not counted: {self.frame[:2]!r}")
        return 4 + int.from_bytes(self.frame[2:4], "big")


async def ws(host: str, port: int, path: str, connections: int, seconds: float) -> dict[str, Any]:
    """Listen with so many clients and count the messages of all together."""
    loop = asyncio.get_running_loop()
    lines = [f"GET {path} HTTP/1.1", f"Host: {host}:{port}", "Upgrade: websocket", "Connection: Upgrade"]
    lines += ["Sec-WebSocket-Version: 13", f"Sec-WebSocket-Key: {base64.b64encode(os.urandom(16)).decode()}", "", ""]
    request = "\r\n".join(lines).encode()
    made = [await loop.create_connection(lambda: _Listening(request), host, port) for _ in range(connections)]
    async with asyncio.timeout(_CONNECT_S):
        if not all(await asyncio.gather(*(listening.opened for _, listening in made))):
            raise RuntimeError("a client was refused")
    await asyncio.sleep(_WARM_S)
    before = [listening.received for _, listening in made]
    began = time.perf_counter()
    await asyncio.sleep(seconds)
    lasted_s = time.perf_counter() - began
    counts = [
        (listening.received - had) / listening.frame_bytes for (_, listening), had in zip(made, before, strict=True)
    ]
    for transport, _ in made:
        transport.abort()
    return {
        "per_s": sum(counts) / lasted_s,
        "least_per_s": min(counts) / lasted_s,
        "frame_bytes": made[0][1].frame_bytes,
    }


def main() -> None:
    """Do what the arguments ask for and print the figures."""
    kind, place, path, connections, seconds = sys.argv[1:]
    host, _, port = place.partition(":")
    load = {"http": http, "ws": ws}[kind]
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        print(json.dumps(runner.run(load(host, int(port), path, int(connections), float(seconds)))), flush=True)


if __name__ == "__main__":
    main()
