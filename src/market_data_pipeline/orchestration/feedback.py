"""The feedback bus: who writes tells who reads how full the queues are."""

from __future__ import annotations

import asyncio
from collections import deque
from types import TracebackType
from typing import Final, Literal, Protocol, Self

from market_data_core.telemetry import FeedbackEvent

BusState = Literal["connected", "connecting", "disconnected"]
"""How a bus is: ``disconnected`` while it waits to try again, and once it is closed."""

QUEUE_EVENTS: Final = 1024
"""Events that wait for one reader, or for a server that is away; of more, the oldest are dropped."""


class Subscription:
    """The events of a bus from the moment of `FeedbackBus.subscribe` on, in order; an async iterator.

    First come the last known events, one per coordinator. The iterator ends when it or its bus is closed, after what
    had come before.
    """

    def __init__(self, fanout: Fanout, limit: int) -> None:
        self._fanout = fanout
        self._limit = limit
        self._events: deque[FeedbackEvent] = deque()
        self._came = asyncio.Event()
        self._over = False
        self.dropped = 0
        """Events this reader was too slow for."""

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> FeedbackEvent:
        while not self._events:
            if self._over:
                raise StopAsyncIteration
            self._came.clear()
            await self._came.wait()
        return self._events.popleft()

    async def aclose(self) -> None:
        """Take no more events."""
        self._fanout.leave(self)
        self.end()

    def put(self, event: FeedbackEvent) -> None:
        """Hand over an event; never waits. For the bus."""
        if len(self._events) == self._limit:
            self._events.popleft()
            self.dropped += 1
        self._events.append(event)
        self._came.set()

    def end(self) -> None:
        """Say that no more will come. For the bus."""
        self._over = True
        self._came.set()


class Fanout:
    """Gives events to all subscriptions of a bus, and the last of each coordinator to those who come later.

    Args:
        limit: Events that wait for one subscription.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._readers: list[Subscription] = []
        self.last: dict[str, FeedbackEvent] = {}
        """By coordinator, what it said last."""

    @property
    def dropped(self) -> int:
        """Events that readers who are still there were too slow for."""
        return sum(reader.dropped for reader in self._readers)

    def join(self) -> Subscription:
        """Return a new subscription."""
        reader = Subscription(self, self._limit)
        for event in self.last.values():
            reader.put(event)
        self._readers.append(reader)
        return reader

    def leave(self, reader: Subscription) -> None:
        """Forget a subscription."""
        if reader in self._readers:
            self._readers.remove(reader)

    def give(self, event: FeedbackEvent) -> None:
        """Give an event to all, unless it is the coordinator's last one over again."""
        if self.last.get(event.coordinator_id) == event:
            return
        self.last[event.coordinator_id] = event
        for reader in self._readers:
            reader.put(event)

    def end(self) -> None:
        """End all subscriptions."""
        for reader in self._readers:
            reader.end()
        self._readers = []


class FeedbackBus(Protocol):
    """Carries `FeedbackEvent`; a `FeedbackPublisher`. Belongs to one event loop.

    It carries levels, not a ledger: an event may be dropped where the next one says more, each drop is counted, and
    who joins or comes back is told the last event of every coordinator. An event equal to its coordinator's last one
    is not given again.
    """

    @property
    def url(self) -> str:
        """Where it is, without credentials."""
        ...

    @property
    def state(self) -> BusState:
        """How it is."""
        ...

    @property
    def dropped(self) -> int:
        """Events dropped, unsent or unread; published after `close` included."""
        ...

    async def publish(self, event: FeedbackEvent) -> None:
        """Tell everybody who listens; returns at once and never fails, whatever the bus is doing."""
        ...

    def subscribe(self) -> Subscription:
        """Listen from now on."""
        ...

    async def close(self) -> None:
        """End all subscriptions and let go of the connection. May be called twice."""
        ...

    async def __aenter__(self) -> Self:
        """Begin to connect."""
        ...

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close."""
        ...


class MemoryBus:
    """A feedback bus within one event loop.

    Args:
        queue_events: Events that wait for one reader.
    """

    def __init__(self, *, queue_events: int = QUEUE_EVENTS) -> None:
        self._fanout = Fanout(queue_events)
        self._unsent = 0
        self._is_closed = False

    @property
    def url(self) -> str:
        """``memory://``."""
        return "memory://"

    @property
    def state(self) -> BusState:
        """Connected until it is closed."""
        return "disconnected" if self._is_closed else "connected"

    @property
    def dropped(self) -> int:
        """Events that readers were too slow for, and those published after `close`."""
        return self._unsent + self._fanout.dropped

    async def publish(self, event: FeedbackEvent) -> None:
        """Tell everybody who listens."""
        if self._is_closed:
            self._unsent += 1
        else:
            self._fanout.give(event)

    def subscribe(self) -> Subscription:
        """Listen from now on."""
        reader = self._fanout.join()
        if self._is_closed:
            reader.end()
        return reader

    async def close(self) -> None:
        """End all subscriptions."""
        self._is_closed = True
        self._fanout.end()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()
