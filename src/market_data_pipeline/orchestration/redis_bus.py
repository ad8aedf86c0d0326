"""The feedback bus over Redis publish and subscribe.

Events go as JSON over one channel, each with the id of the bus that sent it and a number that rises with each event.
What a coordinator said last also stands in a hash of the same name, so that who comes later, or back, learns how things
are; entries older than an hour are not believed.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections import deque
from collections.abc import Awaitable
from random import Random
from types import TracebackType
from typing import Any, Final, NamedTuple, Self, cast
from urllib.parse import urlsplit
from uuid import uuid4

from market_data_core.clock import NS_PER_SECOND, Clock
from market_data_core.errors import ConfigurationError
from market_data_core.telemetry import FeedbackEvent
from market_data_pipeline.orchestration.feedback import BusState, Fanout, Subscription
from market_data_pipeline.writing.policy import Backoff

try:
    from redis import asyncio as redis
    from redis.asyncio.retry import Retry
    from redis.backoff import NoBackoff
    from redis.exceptions import RedisError
except ImportError as exc:
    raise ConfigurationError(f"feedback bus: redis:// needs the package redis (pip install redis): {exc}") from exc

_LOG = logging.getLogger(__name__)

CHANNEL: Final = "market_data:feedback"
"""The channel; the hash of last events is ``market_data:feedback:last``."""

_LAST: Final = f"{CHANNEL}:last"
_LAST_MAX_AGE_S: Final = 3600.0
_BACKOFF: Final = Backoff(initial_s=0.1, max_s=10.0)
# A server that does not answer for this long is as good as away.
_TIMEOUT_S: Final = 2.0
# How often a quiet connection is asked whether it is still there.
_PING_S: Final = 5.0


class _Said(NamedTuple):
    # An event, the bus that published it, and which one of that bus's it was; 0 where who wrote it does not number.
    event: FeedbackEvent
    bus: str
    number: int


class RedisBus:
    """A feedback bus that several processes share.

    Connects with the first use and again whenever the connection is lost. What is published meanwhile waits; on
    connecting again, the last event of each coordinator that published here is sent again as well.

    Args:
        url: ``redis://[user:password@]host:port/db`` or ``rediss://``.
        clock: Times reconnects and says how old a last event is.
        queue_events: Events that wait for one reader, or for the server.
        random: Spreads reconnects.
        timeout_s: How long the server may take to answer, seconds.
        ping_s: How often a quiet connection is asked whether it is still there, seconds.
    """

    def __init__(
        self,
        url: str,
        *,
        clock: Clock,
        queue_events: int,
        random: Random | None = None,
        timeout_s: float = _TIMEOUT_S,
        ping_s: float = _PING_S,
    ) -> None:
        parts = urlsplit(url)
        self._url = f"{parts.scheme}://{parts.hostname}:{parts.port or 6379}{parts.path}"
        self._clock = clock
        self._random = random or Random()  # noqa: S311  spreads reconnects, guards nothing
        self._timeout_s = timeout_s
        self._ping_s = ping_s
        self._id = uuid4().hex
        self._fanout = Fanout(queue_events)
        self._limit = queue_events
        self._published = 0
        self._unsent: deque[_Said] = deque()
        # By coordinator, what went out last from here, and what came last from elsewhere.
        self._sent: dict[str, _Said] = {}
        self._heard: dict[str, _Said] = {}
        self._failures = self._lost = 0
        self._malformed = 0
        self._news = asyncio.Event()
        self._state: BusState = "disconnected"
        self._is_closed = False
        self._task: asyncio.Task[None] | None = None
        try:
            self._client = redis.Redis.from_url(
                url,
                decode_responses=True,
                socket_timeout=timeout_s,
                socket_connect_timeout=timeout_s,
                # Reconnecting is done here, where it is seen and told.
                retry=Retry(NoBackoff(), 0),
            )
        except ValueError as exc:
            raise ConfigurationError(f"feedback bus {self._url}: {exc}") from exc

    @property
    def url(self) -> str:
        """Where it is, without credentials."""
        return self._url

    @property
    def state(self) -> BusState:
        """``connected`` from the moment the server has confirmed the subscription."""
        return self._state

    @property
    def dropped(self) -> int:
        """Events dropped because the server was away or a reader too slow, and those published after `close`."""
        return self._lost + self._fanout.dropped

    @property
    def malformed(self) -> int:
        """Messages on the channel that were no `FeedbackEvent`."""
        return self._malformed

    async def publish(self, event: FeedbackEvent) -> None:
        """Tell readers here, and queue it for the server; of a full queue, the oldest is dropped and counted."""
        if self._is_closed:
            self._lost += 1
            return
        # Readers here need no server, and are told when it is away, too.
        self._fanout.give(event)
        if len(self._unsent) == self._limit:
            self._unsent.popleft()
            self._lost += 1
        self._published += 1
        self._unsent.append(_Said(event, self._id, self._published))
        self._news.set()
        self._begin()

    def subscribe(self) -> Subscription:
        """Listen from now on; events of other processes come once the bus is connected."""
        reader = self._fanout.join()
        if self._is_closed:
            reader.end()
        else:
            self._begin()
        return reader

    async def close(self) -> None:
        """End all subscriptions and the connection; events still waiting for the server are given up, and counted."""
        self._is_closed = True
        self._fanout.end()
        while self._task is not None and not self._task.done():
            # The client may swallow a cancellation that meets it in the middle of a command.
            self._task.cancel()
            await asyncio.wait({self._task}, timeout=self._timeout_s)
        self._lost += len(self._unsent)
        self._unsent.clear()
        self._state = "disconnected"
        await self._client.aclose()

    async def __aenter__(self) -> Self:
        self._begin()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    def _begin(self) -> None:
        if self._task is None:
            self._state = "connecting"
            self._task = asyncio.create_task(self._stay_connected(), name=f"feedback bus {self._url}")

    async def _stay_connected(self) -> None:
        while not self._is_closed:
            self._state = "connecting"
            try:
                await self._connected_once()
            except Exception as exc:  # noqa: BLE001  the supervisor of the connection
                problem = exc.exceptions[0] if isinstance(exc, ExceptionGroup) else exc
                expected = isinstance(problem, RedisError | OSError)
                self._failures += 1
                delay_s = _BACKOFF.delay_s(self._failures, self._random)
                text = "feedback bus %s is away, next try in %.3g s: %s"
                _LOG.warning(text, self._url, delay_s, problem, exc_info=None if expected else problem)
                self._state = "disconnected"
                # Connections that wait in the pool are to the server that is gone.
                await self._client.connection_pool.disconnect()
                await self._clock.sleep(delay_s)

    # Ends only with an error: of connecting, reading or sending, whichever meets it first.
    async def _connected_once(self) -> None:
        async with asyncio.TaskGroup() as group, self._client.pubsub() as channel:
            async with asyncio.timeout(self._timeout_s):
                await channel.subscribe(CHANNEL)
                confirmed = await channel.get_message(timeout=self._timeout_s)
                if confirmed is None:
                    raise TimeoutError("the server did not confirm the subscription")
                await self._catch_up()
            self._state, self._failures = "connected", 0
            over = asyncio.Event()
            sending = group.create_task(self._send(over), name=f"feedback bus {self._url}: send")
            try:
                await self._receive(channel, sending)
            finally:
                # Both, because a command in the middle may swallow the cancellation.
                over.set()
                sending.cancel()

    # After subscribing, so that nothing falls between: what is told twice is given once.
    async def _catch_up(self) -> None:
        for sent in self._sent.values():
            await self._put(sent)
        oldest_s = self._clock.now_ns() / NS_PER_SECOND - _LAST_MAX_AGE_S
        texts = await cast("Awaitable[dict[str, str]]", self._client.hgetall(_LAST))
        last = [said for said in map(self._parsed, texts.values()) if said is not None and said.event.ts >= oldest_s]
        for said in sorted(last, key=lambda s: s.event.ts):  # a hash has no order of its own
            self._hear(said)

    async def _send(self, over: asyncio.Event) -> None:
        while not over.is_set():
            while self._unsent and not over.is_set():
                said = self._unsent[0]
                await self._put(said)
                self._sent[said.event.coordinator_id] = said
                # A full queue may have dropped it meanwhile.
                if self._unsent and self._unsent[0] is said:
                    self._unsent.popleft()
            if not over.is_set():
                self._news.clear()
                await self._news.wait()

    async def _put(self, said: _Said) -> None:
        text = json.dumps({**said.event.model_dump(mode="json"), "bus": said.bus, "number": said.number})
        async with self._client.pipeline(transaction=True) as pipe:
            pipe.hset(_LAST, said.event.coordinator_id, text)
            pipe.publish(CHANNEL, text)
            await pipe.execute()

    async def _receive(self, channel: Any, sending: asyncio.Task[None]) -> None:
        while not self._is_closed and not sending.done():
            message = await channel.get_message(ignore_subscribe_messages=True, timeout=self._ping_s)
            if message is None:
                await self._client.ping()
                continue
            said = self._parsed(message["data"])
            if said is not None:
                self._hear(said)

    # What came over the channel while the hash was read is older than what stood in the hash.
    def _hear(self, said: _Said) -> None:
        last = self._heard.get(said.event.coordinator_id)
        if last is not None and last.bus == said.bus and 0 < said.number <= last.number:
            return
        self._heard[said.event.coordinator_id] = said
        self._fanout.give(said.event)

    # One bad message, of whoever else writes there, never stops the feed. Our own were given when they were published.
    def _parsed(self, text: Any) -> _Said | None:
        try:
            content = json.loads(text)
            event = FeedbackEvent.model_validate(content)
            bus, number = str(content.get("bus", "")), content.get("number")
            return None if bus == self._id else _Said(event, bus, number if isinstance(number, int) else 0)
        except ValueError as exc:  # pydantic's own is one
            self._malformed += 1
            _LOG.warning("feedback bus %s: a message is no feedback event: %s", self._url, exc)
            return None
