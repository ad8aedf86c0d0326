"""The status over WebSockets: ``/ws/status``."""

from __future__ import annotations

import asyncio
from asyncio import CancelledError

import orjson
from starlette.websockets import WebSocket, WebSocketDisconnect

from market_data_core.web import host_allowed, origin_allowed
from market_data_orchestrator.status import StatusAggregator


class StatusFeed:
    """Sends the status to all clients; each message is encoded once.

    A client that does not read skips messages and gets the newest when it does: a status is worth nothing once there
    is a newer one.
    """

    def __init__(self, status: StatusAggregator, interval_s: float) -> None:
        self._status = status
        self._interval_s = interval_s
        # Of the next message: set, and another in its place, when there is one.
        self._news = asyncio.Event()
        self._message = ""
        self._over = False

    def encode(self) -> str:
        """Return the message as of now."""
        return orjson.dumps(
            {"type": "status", "data": self._status.status()}, option=orjson.OPT_SERIALIZE_NUMPY
        ).decode()

    async def run(self) -> None:
        """Make a message every interval while somebody listens."""
        while True:
            await asyncio.sleep(self._interval_s)
            if self._status.ws_clients:
                self._message = self.encode()
                self._tell()

    def end(self) -> None:
        """Let all clients go: whoever reads is told so (1001)."""
        self._over = True
        self._tell()

    async def serve(self, socket: WebSocket) -> None:
        """Serve one client until it leaves or the service stops."""
        if not (origin_allowed(socket.scope) and host_allowed(socket.scope)):
            await socket.close(4403)
            return
        await socket.accept()
        self._status.count_ws(1)
        both = (
            asyncio.create_task(self._send(socket), name="ws-status-send"),
            asyncio.create_task(_gone(socket), name="ws-status-receive"),
        )
        try:
            await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._status.count_ws(-1)
            for task in both:
                task.cancel()
            ended = await asyncio.gather(*both, return_exceptions=True)
        for failure in ended:
            # The client left while we were sending: nothing to tell it.
            if failure is not None and not isinstance(failure, WebSocketDisconnect | RuntimeError | CancelledError):
                raise failure

    async def _send(self, socket: WebSocket) -> None:
        news, message = self._news, self.encode()
        while not self._over:
            await socket.send_text(message)
            # Set already where there was another while this one was sent.
            await news.wait()
            news, message = self._news, self._message
        await socket.close(1001)

    def _tell(self) -> None:
        news, self._news = self._news, asyncio.Event()
        news.set()


async def _gone(socket: WebSocket) -> None:
    # Nothing is expected from the client; reading is how its leaving is noticed.
    while True:
        await socket.receive_text()
