"""One session with the gateway: connecting, knowing that it lives, connecting again, and requests with an answer."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

from market_data_core.clock import Clock
from market_data_core.errors import ConnectionFailed, ProviderError, TemporaryUnavailable
from market_data_ibkr.codes import Reaction, error_for, reaction
from market_data_ibkr.pacing import MessagePace
from market_data_ibkr.transport import Connect, Transport, connect_socket

LOG = logging.getLogger(__name__)

VERSION: Final = 176
"""The one version of the protocol that is offered: every later gateway answers with it, so there is one layout."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionSettings:
    """Where the gateway is and how long to wait for it.

    Attributes:
        host: Its address.
        port: Its port.
        client_id: One connection each; kept over reconnects.
        connect_timeout_s: For the connection, and again for the greeting.
        heartbeat_s: How often it is asked for the time.
        heartbeat_timeout_s: How long the answer may take before the connection is given up.
        backoff_s: Wait before the first reconnect; doubles, with jitter,
        backoff_max_s: up to this.
        messages_per_s: What is sent at most; the gateway allows 50.
    """

    host: str = "127.0.0.1"
    port: int = 7497
    client_id: int = 1
    connect_timeout_s: float = 10.0
    heartbeat_s: float = 10.0
    heartbeat_timeout_s: float = 10.0
    backoff_s: float = 0.5
    backoff_max_s: float = 60.0
    messages_per_s: int = 45


class Handler(Protocol):
    """Who is told what happens."""

    async def connected(self) -> None:
        """The session is up; runs beside it and is cancelled with it."""
        ...

    def disconnected(self, reason: str) -> None:
        """The session is over; another one is tried."""
        ...

    def message(self, fields: list[str], ts_recv_ns: int) -> None:
        """A message that is no greeting, error or answer.

        Raises:
            ValueError: It cannot be read; it is counted and left out. IndexError means the same.
        """
        ...

    def coded(self, request_id: int, code: int, text: str) -> None:
        """A code that is not the answer to a request of `Session.ask`."""
        ...


@dataclass(slots=True, eq=False)
class Reply:
    """The answer to one request as it comes in.

    Attributes:
        what: What was asked for.
        messages: The messages of the answer so far.
        is_last: Says of a message whether the answer is complete with it.
        done: Set when it is, or when there will be none.
    """

    what: str
    is_last: Callable[[list[str]], bool]
    messages: list[list[str]] = field(default_factory=list)
    done: asyncio.Future[None] = field(default_factory=lambda: asyncio.get_running_loop().create_future())

    def fail(self, error: ProviderError) -> None:
        """End it with an error; what has ended stays as it is."""
        if not self.done.done():
            self.done.set_exception(error)


# Where the id of the request stands in messages that answer one.
_ID_AT: Final = {
    "1": 2,
    "2": 2,
    "10": 1,
    "17": 1,
    "45": 2,
    "46": 2,
    "52": 2,
    "57": 2,
    "58": 2,
    "75": 1,
    "76": 1,
    "81": 1,
}


class Session:
    """Keeps one connection to the gateway up, for ever.

    Belongs to the event loop that runs it. Request ids are never used twice, because answers may come after a cancel.

    Args:
        settings: Where and how.
        handler: Told what happens.
        clock: Tells the time and waits.
        connect: Makes connections.
    """

    def __init__(
        self, *, settings: SessionSettings, handler: Handler, clock: Clock, connect: Connect = connect_socket
    ) -> None:
        self._settings = settings
        self._handler = handler
        self._clock = clock
        self._connect = connect
        self._pace = MessagePace(per_s=settings.messages_per_s, clock=clock)
        self._transport: Transport | None = None
        self._greeting: list[list[str]] = []
        self._greeted = asyncio.Event()
        self._up = asyncio.Event()
        self._beat = asyncio.Event()
        self._next_id = 1
        self._replies: dict[int, Reply] = {}
        # No secret depends on it: it keeps clients from coming back all at once.
        self._random = random.Random()  # noqa: S311
        self.connections = 0
        self.bad_messages = 0
        self.problem = ""

    @property
    def is_up(self) -> bool:
        """True between the greeting and the end of a connection."""
        return self._up.is_set()

    async def run(self) -> None:
        """Connect, serve, and connect again, until cancelled."""
        attempt = 0
        while True:
            began_s = self._clock.monotonic_s()
            try:
                await self._serve()
            except ConnectionFailed as exc:
                self.problem = str(exc)
                LOG.warning("%s", exc)
            # A connection that is ended at once, again and again, is no reason to begin from the shortest wait.
            if self._clock.monotonic_s() - began_s > self._settings.backoff_max_s:
                attempt = 0
            wait_s = min(self._settings.backoff_max_s, self._settings.backoff_s * 2 ** min(attempt, 30))
            attempt += 1
            await self._clock.sleep(wait_s * self._random.uniform(0.5, 1.0))

    async def send(self, *fields: object) -> None:
        """Send one message when its turn comes.

        Raises:
            ConnectionFailed: The connection is not up.
        """
        await self._pace.turn()
        if self._transport is None or not self.is_up:
            raise ConnectionFailed(f"not connected to the gateway at {self._where}: {self.problem or 'not yet'}")
        self._transport.send(*fields)

    def new_id(self) -> int:
        """Return a request id that was never used before."""
        self._next_id += 1
        return self._next_id - 1

    async def wait_up(self, timeout_s: float) -> None:
        """Wait until the session is up.

        Raises:
            ConnectionFailed: Not in time.
        """
        try:
            async with asyncio.timeout(timeout_s):
                await self._up.wait()
        except TimeoutError as exc:
            raise ConnectionFailed(
                f"not connected to the gateway at {self._where} within {timeout_s} s: {self.problem or 'no answer'}"
            ) from exc

    async def ask(
        self,
        what: str,
        fields: Callable[[int], tuple[object, ...]],
        *,
        is_last: Callable[[list[str]], bool],
        timeout_s: float,
        cancel: tuple[object, ...] = (),
    ) -> list[list[str]]:
        """Send a request and return the messages that answer it.

        Args:
            what: Names it in errors.
            fields: The request for a given id.
            is_last: Says of a message whether the answer is complete with it.
            timeout_s: How long the whole answer may take.
            cancel: What cancels it, its id to follow; sent if the answer is not complete in time.

        Raises:
            ProviderError: What the gateway's code is for; `ConnectionFailed` if the connection ends first.
            TemporaryUnavailable: No answer in time.
        """
        number = self.new_id()
        with self._expecting(number, Reply(what, is_last)) as reply:
            await self.send(*fields(number))
            try:
                async with asyncio.timeout(timeout_s):
                    await reply.done
            except TimeoutError as exc:
                if cancel:
                    with contextlib.suppress(ConnectionFailed):  # what has no connection needs no cancel
                        await self.send(*cancel, number)
                raise TemporaryUnavailable(f"{what}: no complete answer within {timeout_s} s") from exc
            return reply.messages

    @contextmanager
    def _expecting(self, number: int, reply: Reply) -> Iterator[Reply]:
        self._replies[number] = reply
        try:
            yield reply
        finally:
            del self._replies[number]
            if reply.done.done() and not reply.done.cancelled():
                reply.done.exception()  # an answer nobody waits for any more is nobody's error
            reply.done.cancel()

    @property
    def _where(self) -> str:
        return f"{self._settings.host}:{self._settings.port}"

    # One connection, from its first byte to its end.
    async def _serve(self) -> None:
        s = self._settings
        self._greeting = []
        self._greeted.clear()
        transport = await self._connect(s.host, s.port, self._receive, s.connect_timeout_s)
        self._transport = transport
        reason = "stopped"
        try:
            await self._greet(transport)
            self.connections += 1
            self.problem = ""
            self._up.set()
            LOG.info("connected to the gateway at %s", self._where)
            reason = await self._watch(transport)
            raise ConnectionFailed(f"connection to the gateway at {self._where} lost: {reason}")
        finally:
            was_up = self._up.is_set()
            self._up.clear()
            self._transport = None
            transport.abort(reason)
            for reply in list(self._replies.values()):
                reply.fail(ConnectionFailed(f"{reply.what}: connection to the gateway lost: {reason}"))
            if was_up:
                self._handler.disconnected(reason)

    async def _greet(self, transport: Transport) -> None:
        transport.greet(VERSION, VERSION)
        greeted = asyncio.create_task(self._greeted.wait(), name="ibkr: greeting")
        either: list[asyncio.Future[Any]] = [greeted, transport.lost]
        try:
            timeout_s = self._settings.connect_timeout_s
            await asyncio.wait(either, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
        finally:
            greeted.cancel()
        if self._greeted.is_set():
            return
        said = self._said_in_greeting()
        ended = transport.lost.result() if transport.lost.done() else "no greeting in time"
        raise ConnectionFailed(f"the gateway at {self._where} did not take us in: {said or ended}")

    # What the gateway told us instead of greeting us; empty if nothing.
    def _said_in_greeting(self) -> str:
        said = [f"{f[3]}: {f[4]}" for f in self._greeting if f[:1] == ["4"] and len(f) > 4]
        return "; ".join(said)

    # Ends when the connection does; gives the reason.
    async def _watch(self, transport: Transport) -> str:
        beside: set[asyncio.Task[None]] = {
            asyncio.create_task(self._keep_asking(transport), name="ibkr: heartbeat"),
            asyncio.create_task(self._handler.connected(), name="ibkr: connected"),
        }
        pending: set[asyncio.Future[Any]] = set(beside)
        pending.add(transport.lost)
        try:
            while not transport.lost.done():
                done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
                for task in beside & done:
                    task.result()
            return transport.lost.result()
        finally:
            for task in beside:
                task.cancel()
            await asyncio.gather(*beside, return_exceptions=True)

    async def _keep_asking(self, transport: Transport) -> None:
        # A half-open connection looks alive for ever: only an answer proves that it is.
        s = self._settings
        while True:
            await self._clock.sleep(s.heartbeat_s)
            self._beat.clear()
            await self.send(49, 1)
            try:
                async with asyncio.timeout(s.heartbeat_timeout_s):
                    await self._beat.wait()
            except TimeoutError:
                transport.abort(f"no answer to a heartbeat within {s.heartbeat_timeout_s} s")
                return

    def _receive(self, messages: list[list[str]]) -> None:
        ts_recv_ns = self._clock.now_ns()
        for fields in messages:
            try:
                self._take(fields, ts_recv_ns)
            except (ValueError, IndexError) as exc:
                # One message that makes no sense is no reason to lose those that do.
                self.bad_messages += 1
                LOG.warning("message %.200r of the gateway left out: %s", fields, exc)

    def _take(self, fields: list[str], ts_recv_ns: int) -> None:
        if not self._greeted.is_set():
            self._take_greeting(fields)
            return
        kind = fields[0]
        if kind == "4":
            self._take_code(int(fields[2]), int(fields[3]), fields[4])
        elif kind == "49":
            self._beat.set()
        elif (
            self._replies
            and (at := _ID_AT.get(kind)) is not None
            and (reply := self._replies.get(int(fields[at]))) is not None
        ):
            reply.messages.append(fields)
            if reply.is_last(fields) and not reply.done.done():
                reply.done.set_result(None)
        else:
            self._handler.message(fields, ts_recv_ns)

    # Version, then (after we say who we are) accounts and the next order id, in either order; notices between them.
    def _take_greeting(self, fields: list[str]) -> None:
        self._greeting.append(fields)
        if len(self._greeting) == 1:
            if len(fields) != 2 or int(fields[0]) != VERSION:
                raise ValueError(f"not the greeting of a gateway of version {VERSION}")
            if self._transport is not None:
                self._transport.send(71, 2, self._settings.client_id, "")
        elif {"9", "15"} <= {f[0] for f in self._greeting[1:]}:
            order_id = next(int(f[2]) for f in self._greeting[1:] if f[0] == "9")
            self._next_id = max(self._next_id, order_id)
            self._greeted.set()

    def _take_code(self, number: int, code: int, text: str) -> None:
        found = reaction(code)
        reply = self._replies.get(number)
        if reply is None:
            self._handler.coded(number, code, text)
        elif found is not Reaction.ADVISORY:
            reply.fail(error_for(code, text, reply.what))
