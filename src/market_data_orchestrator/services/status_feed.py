"""The status over WebSockets: ``/ws/status``."""

from __future__ import annotations

import asyncio
import contextlib

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
        self._changed = asyncio.Condition()
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
                async with self._changed:
                    self._message = self.encode()
                    self._changed.notify_all()

    async def end(self) -> None:
        """Let all clients go."""
        async with self._changed:
            self._over = True
            self._changed.notify_all()

    async def serve(self, socket: WebSocket) -> None:
        """Serve one client until it leaves or the service stops."""
        if not (origin_allowed(socket.scope) and host_allowed(socket.scope)):
            await socket.close(4403)
            return
        await socket.accept()
        self._status.ws_clients += 1
        leaving = asyncio.create_task(_gone(socket), name="ws-status-receive")
        try:
            await socket.send_text(self.encode())
            while not leaving.done() and not self._over:
                await self._next(leaving)
                if not leaving.done() and not self._over:
                    await socket.send_text(self._message)
            if self._over:
                await socket.close(1001)
        except (WebSocketDisconnect, RuntimeError):
            # The client left while we were sending: nothing to tell it.
            pass
        finally:
            self._status.ws_clients -= 1
            leaving.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await leaving

    async def _next(self, leaving: asyncio.Task[None]) -> None:
        async def changed() -> None:
            async with self._changed:
                await self._changed.wait()

        waiting = asyncio.create_task(changed(), name="ws-status-wait")
        await asyncio.wait({waiting, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if not waiting.done():
            waiting.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await waiting


async def _gone(socket: WebSocket) -> None:
    # Nothing is expected from the client; reading is how its leaving is noticed.
    with contextlib.suppress(WebSocketDisconnect, RuntimeError):
        while True:
            await socket.receive_text()
