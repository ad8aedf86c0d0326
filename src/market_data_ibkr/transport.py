"""The seam between the protocol and what carries it: messages out, messages in, and the end."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Awaitable, Callable
from typing import Protocol, cast

from market_data_core.errors import ConnectionFailed
from market_data_ibkr.wire import FrameReader, encode, encode_raw

Received = Callable[[list[list[str]]], None]
"""Takes the messages that came together, each as its fields, in order."""


class Transport(Protocol):
    """One connection; another protocol, or somebody else's client, fits in here."""

    @property
    def lost(self) -> asyncio.Future[str]:
        """Done when the connection is over; says why."""
        ...

    def send(self, *fields: object) -> None:
        """Send one message."""
        ...

    def greet(self, low: int, high: int) -> None:
        """Open the conversation: offer the versions of the protocol from `low` to `high`."""
        ...

    def abort(self, reason: str) -> None:
        """End it now, without waiting for the other side. May be called twice."""
        ...


Connect = Callable[[str, int, Received, float], Awaitable[Transport]]
"""Makes a connection: host, port, who takes the messages, timeout in seconds."""


class SocketTransport(asyncio.Protocol):
    """A TCP connection that carries frames.

    Args:
        received: Takes messages; an error it raises ends the connection.
    """

    def __init__(self, received: Received) -> None:
        self._received = received
        self._reader = FrameReader()
        self._transport: asyncio.Transport | None = None
        self._lost: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    @property
    def lost(self) -> asyncio.Future[str]:
        """Done when the connection is over; says why."""
        return self._lost

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take note of the connection."""
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is one without saying so
        sock: socket.socket | None = self._transport.get_extra_info("socket")
        if sock is not None:
            with contextlib.suppress(OSError):  # keeping alive is a help that not every system has
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def data_received(self, data: bytes) -> None:
        """Cut bytes into messages and hand them on; none after the connection was given up."""
        if self._lost.done():
            return
        try:
            self._received(self._reader.feed(data))
        except ConnectionFailed as exc:
            self.abort(str(exc))

    def connection_lost(self, exc: Exception | None) -> None:
        """Say that it is over."""
        self._end(str(exc) if exc else "the gateway closed the connection")

    def send(self, *fields: object) -> None:
        """Send one message; to a connection that is over, nothing."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(encode(*fields))

    def greet(self, low: int, high: int) -> None:
        """Send the prefix that opens the conversation and the versions offered."""
        if self._transport is not None:
            self._transport.write(b"API\0" + encode_raw(f"v{low}..{high}".encode()))

    def abort(self, reason: str) -> None:
        """End it now; closing would wait for a peer that may be gone."""
        self._end(reason)
        if self._transport is not None:
            self._transport.abort()

    def _end(self, reason: str) -> None:
        if not self._lost.done():
            self._lost.set_result(reason)


async def connect_socket(host: str, port: int, received: Received, timeout_s: float) -> Transport:
    """Connect over TCP.

    Raises:
        ConnectionFailed: Nobody listens there, or not in time.
    """
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(timeout_s):
            _, transport = await loop.create_connection(lambda: SocketTransport(received), host, port)
    except (OSError, TimeoutError) as exc:
        raise ConnectionFailed(f"no connection to the gateway at {host}:{port}: {exc or 'timed out'}") from exc
    return transport
