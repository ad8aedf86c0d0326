"""``/ws/market``: one client's socket, from its handshake to its end."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from typing import Any, Final
from urllib.parse import urlsplit

from starlette.exceptions import HTTPException
from starlette.types import Receive, Scope, Send
from starlette.websockets import WebSocket, WebSocketDisconnect

from market_data_core.clock import Clock
from market_data_core.errors import AuthenticationFailed, TemporaryUnavailable, ValidationError
from market_data_core.web import host_allowed, origin_allowed
from market_data_core.web.auth import Authenticator, Gate, Principal, WsTickets
from market_data_orchestrator.market.feed import Client, MarketFeed
from market_data_orchestrator.market.messages import answer, channels_shown, error, read_command

RECHECK_S: Final = 10.0
"""How often it is looked whether the caller may still be here, seconds."""

TICKET_S: Final = 3600.0
"""How long a socket lasts that was opened with a ticket, seconds: what got the ticket may have ended meanwhile."""

SIGNED_OUT: Final = 4401
"""Close code of a socket whose caller's session, key or token has ended."""

GOING_AWAY: Final = 1001
_GOODBYE_S: Final = 2.0


class MarketSocket:
    """Serves clients of a feed.

    Who calls is told by key, token or session cookie, or by a ticket for one socket; pages of other origins are
    refused. Once in a while it is looked again: where the key, token or session has ended, the socket is closed.

    Args:
        feed: What they get.
        gate: Lets viewers in.
        callers: The ways in; asked again later, tickets apart.
        count: Told of every client that comes (1) and leaves (-1).
        clock: Times the looking.
        allowed_origins: Other origins whose pages may open sockets.
        public_url: The address that users reach the service by, if it has a name.
        recheck_s: How often callers are looked at again.
        ticket_s: How long a socket of a ticket lasts.
    """

    def __init__(
        self,
        feed: MarketFeed,
        gate: Gate,
        callers: Sequence[Authenticator],
        *,
        count: Callable[[int], None],
        clock: Clock,
        allowed_origins: Sequence[str] = (),
        public_url: str = "",
        recheck_s: float = RECHECK_S,
        ticket_s: float = TICKET_S,
    ) -> None:
        self._feed = feed
        self._gate = gate
        self._lasting = [known for known in callers if not isinstance(known, WsTickets)]
        self._count = count
        self._clock = clock
        own = urlsplit(public_url)
        self._origins = (*allowed_origins, *([f"{own.scheme}://{own.netloc}"] if own.netloc else []))
        self._hosts = (own.hostname,) if own.hostname else ()
        self._recheck_s = recheck_s
        self._ticket_s = ticket_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one client, as an ASGI app, until it leaves, may no longer be here, or the service stops.

        Raises:
            HTTPException: 403, the page is of another origin or the role does not suffice.
            AuthenticationFailed: The caller cannot be told.
            TemporaryUnavailable: There are too many clients, or callers cannot be told at present.
        """
        socket = WebSocket(scope, receive, send)
        if not (origin_allowed(scope, self._origins) and host_allowed(scope, self._hosts)):
            raise HTTPException(403, "Pages of another origin may not open this socket")
        principal = await self._gate(socket)
        lasting = await self._is_still(socket, principal, at_first=True)
        client = Client()
        if self._feed.over.is_set() or not self._feed.join(client):
            raise TemporaryUnavailable("there is no room for another client, or the service stops")
        self._count(1)
        try:
            await socket.accept()
            await self._run(socket, send, client, principal, lasting=lasting)
        finally:
            self._count(-1)
            self._feed.leave(client)

    async def _run(self, socket: WebSocket, send: Send, client: Client, principal: Principal, *, lasting: bool) -> None:
        watch = self._until_ended(socket, principal) if lasting else self._clock.sleep(self._ticket_s)
        tasks: dict[str, asyncio.Task[Any]] = {
            "write": asyncio.create_task(_write(send, client), name="ws-market-write"),
            "read": asyncio.create_task(self._read(socket, client), name="ws-market-read"),
            "watch": asyncio.create_task(_finished(watch), name="ws-market-watch"),
            "over": asyncio.create_task(_finished(self._feed.over.wait()), name="ws-market-over"),
        }
        try:
            await asyncio.wait(tasks.values(), return_when=asyncio.FIRST_COMPLETED)
            code = SIGNED_OUT if tasks["watch"].done() else GOING_AWAY if tasks["over"].done() else None
        finally:
            for task in tasks.values():
                task.cancel()
            # Both ends of the socket see that the client left; it is nobody's error.
            await asyncio.gather(*tasks.values(), return_exceptions=True)
        for task in tasks.values():
            failure = None if task.cancelled() else task.exception()
            if failure is not None and not isinstance(failure, WebSocketDisconnect | RuntimeError | OSError):
                raise failure
        if code is not None:
            # Who does not read does not take the goodbye either.
            with contextlib.suppress(WebSocketDisconnect, RuntimeError, TimeoutError):
                async with asyncio.timeout(_GOODBYE_S):
                    await socket.close(code, "signed out" if code == SIGNED_OUT else "")

    async def _read(self, socket: WebSocket, client: Client) -> None:
        while True:
            message = await socket.receive()
            if message["type"] == "websocket.disconnect":
                return
            await client.outbox.room()
            client.outbox.tell(self._answer(client, message.get("text")))

    def _answer(self, client: Client, text: str | None) -> str:
        try:
            asked = read_command(text)
            if asked.op == "ping":
                return answer("pong", id_=asked.id, ts_ns=self._clock.now_ns())
            # The answer is sent before any row, because answers go first.
            if asked.op == "subscribe":
                self._feed.subscribe(client, asked.channels)
            else:
                self._feed.unsubscribe(client, asked.channels)
        except ValidationError as exc:
            return error(exc)
        return answer(f"{asked.op}d", id_=asked.id, channels=channels_shown(client.channels))

    async def _until_ended(self, socket: WebSocket, principal: Principal) -> None:
        while True:
            await self._clock.sleep(self._recheck_s)
            if not await self._is_still(socket, principal):
                return

    async def _is_still(self, socket: WebSocket, principal: Principal, *, at_first: bool = False) -> bool:
        for known in self._lasting:
            try:
                found = await known.authenticate(socket)
            except AuthenticationFailed:
                continue
            except TemporaryUnavailable:
                # Nobody can tell at present; that is no reason to end what was let in.
                return not at_first
            if found == principal:
                return True
        return False


async def _finished(waiting: Any) -> None:
    await waiting


# By what the server gave: the three calls of the socket made of it look at a state that stays the same.
async def _write(send: Send, client: Client) -> None:
    while True:
        for message in await client.outbox.take():
            await send({"type": "websocket.send", "text": message})
