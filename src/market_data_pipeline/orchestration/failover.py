"""From one source to the next without losing what was given."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any, Final

from market_data_core.clock import Clock
from market_data_core.protocols import Gap
from market_data_pipeline.orchestration.feeds import OVER, Feed
from market_data_pipeline.orchestration.members import Member, Stamp, ended_by_itself, stamp_of
from market_data_pipeline.orchestration.strategies import Strategy
from market_data_pipeline.waiting import first_of, left_s
from market_data_pipeline.writing.policy import Backoff

_LOG = logging.getLogger(__name__)

SOURCE_FAILED: Final = "source_failed"
SOURCE_CHANGED: Final = "source_changed"

Opener = Callable[[Member], AsyncIterator[Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Missing:
    # From where on something may be missing, and why.
    member: Member
    vendors: tuple[str, ...]
    from_ns: int
    cause: str
    detail: str


@dataclass(slots=True)
class Standing:
    """Which source is read, as the router tells it.

    Attributes:
        active: The one read now, or None.
        status: ``pending``, ``live``, ``stale`` or ``closed``.
    """

    active: Member | None = None
    status: str = "pending"


class Failover:
    """One run over a router's sources.

    Args:
        members: The sources.
        strategy: Chooses among them.
        clock: Times retries.
        random: Spreads them.
        backoff: How long a source that failed is left alone.
        handover_s: How long a source is still read after a better one has come back.
        closed: Done when the router was closed.
        standing: Where the run tells how it stands.
    """

    def __init__(
        self,
        *,
        members: Sequence[Member],
        strategy: Strategy,
        clock: Clock,
        random: Random,
        backoff: Backoff,
        handover_s: float,
        closed: asyncio.Future[None],
        standing: Standing,
    ) -> None:
        self._members = members
        self._strategy = strategy
        self._clock = clock
        self._random = random
        self._backoff = backoff
        self._handover_s = handover_s
        self._closed = closed
        self._standing = standing
        self._missing: _Missing | None = None
        self._last: tuple[Member, int] | None = None
        # What is read, and the one that would go before it and has to show first that it gives events.
        self._current: Feed | None = None
        self._better: Feed | None = None

    async def items(self, open_items: Opener) -> AsyncGenerator[tuple[Member, Any], None]:
        """Give what the sources give, each item with whose it is, gaps in between.

        Ends when every source has ended by itself, or the router was closed.
        """
        try:
            while not self._closed.done():
                current = self._current = self._current or self._connect(open_items)
                if current is None:
                    if all(m.ended for m in self._members):
                        return
                    await self._wait((), self._next_due_s(self._members))
                    continue
                self._better = self._better or self._probe(current, open_items)
                await self._wait_for(current, self._better)
                if self._closed.done():
                    return
                await self._look_at_better(current)
                for item in await self._taken_from(current):
                    yield current.member, item
                await self._hand_over()
        finally:
            self._standing.active = None
            for feed in (self._current, self._better):
                if feed is not None:
                    await feed.close()

    def _connect(self, open_items: Opener) -> Feed | None:
        if self._better is not None:
            better, self._better = self._better, None
            return better
        member = self._strategy.choose([m for m in self._members if _may_be_tried(m)])
        if member is None:
            return None
        member.breaker.is_open()  # says go, as was just seen; where it is half open, this reading is the probe
        return Feed(member, open_items)

    # Opens a better one beside the current one: it is changed to when it gives events, not before.
    def _probe(self, current: Feed, open_items: Opener) -> Feed | None:
        if self._dwells_s(current) > 0:
            return None
        for member in self._strategy.better(current.member, self._members):
            if _may_be_tried(member):
                member.breaker.is_open()
                return Feed(member, open_items)
        return None

    def _dwells_s(self, current: Feed) -> float:
        return left_s(self._clock, current.opened_s + self._strategy.dwell_s)

    async def _wait_for(self, current: Feed, better: Feed | None) -> None:
        if current.coming.done():
            return
        if better is None:
            waiting = [m for m in self._strategy.better(current.member, self._members) if not m.ended]
            due_s = self._next_due_s(waiting)
            await self._wait([current.coming], None if due_s is None else max(due_s, self._dwells_s(current)))
        elif better.held is None:
            await self._wait([current.coming, better.coming], None)
        else:
            await self._wait([current.coming], left_s(self._clock, better.held_until_s))

    async def _wait(self, tasks: Sequence[asyncio.Task[Any]], delay_s: float | None) -> None:
        await first_of(self._clock, delay_s, [*tasks, self._closed], name="router")

    def _next_due_s(self, members: Sequence[Member]) -> float | None:
        return min((m.due_in_s for m in members if not m.ended), default=None)

    # What the better one gives first decides: events, and it is held until the current one has got that far.
    async def _look_at_better(self, current: Feed) -> None:
        better = self._better
        if better is None or better.held is not None or not better.coming.done():
            return
        item, failure = better.peek()
        if item is OVER:
            self._better = None
            await self._leave(better, failure)
            return
        now_ns = self._clock.now_ns()
        better.held = stamp_of(item, now_ns) or Stamp(first_ns=now_ns, last_ns=now_ns, venue=False, repeatable=False)
        better.held_until_s = self._clock.monotonic_s() + self._handover_s
        current.gave_while_held = False

    # Nothing that the current one has given is left behind: it has no item waiting when this is called.
    async def _hand_over(self) -> None:
        current, better = self._current, self._better
        if current is not None and better is not None and self._may_hand_over(current, better):
            self._current, self._better = better, None
            await current.close()

    def _may_hand_over(self, current: Feed, better: Feed) -> bool:
        if better.held is None:
            return False
        if current.member.waits or current.last_ns is None or current.last_ns >= better.held.first_ns:
            return True
        if left_s(self._clock, better.held_until_s) > 0:
            return False
        if current.gave_while_held:
            # It is still behind; what it had on the way is not waited for any longer.
            self._set_missing(SOURCE_CHANGED, f"{current.member.name} was left for {better.member.name}")
        return True

    async def _taken_from(self, current: Feed) -> Sequence[Any]:
        if not current.coming.done():
            return ()
        item, failure = current.take()
        if item is not OVER:
            return await self._note(current, item)
        self._current = None
        await self._lose(current, failure)
        return ()

    async def _note(self, feed: Feed, item: Any) -> Sequence[Any]:
        if not feed.gave:
            feed.gave = True
            await feed.member.breaker.record_success()
        self._standing.active, self._standing.status = feed.member, "live"
        stamp = feed.member.note(item, feed.came_ns)
        if stamp is None:
            return (item,)
        gaps = self._gaps(feed.member, stamp)
        feed.last_ns = stamp.last_ns
        feed.gave_while_held = True
        self._last = (feed.member, stamp.last_ns)
        return (*gaps, item)

    def _gaps(self, successor: Member, stamp: Stamp) -> list[Gap]:
        missing, self._missing = self._missing, None
        if missing is None:
            return []
        if missing.member is successor and successor.waits and stamp.repeatable:
            return []  # it went on where it was
        return [
            Gap(
                vendor=vendor,
                symbols=missing.member.symbols,
                from_ns=missing.from_ns,
                # Never empty: where the two overlap, nothing shows that all is there.
                to_ns=max(stamp.first_ns, missing.from_ns + 1),
                cause=missing.cause,
                detail=f"{missing.detail}; {successor.name} followed",
            )
            for vendor in missing.vendors
        ]

    async def _lose(self, current: Feed, failure: Exception | None) -> None:
        self._standing.active = None
        if await self._leave(current, failure):
            return
        self._standing.status = "stale"
        self._set_missing(SOURCE_FAILED, f"{current.member.name}: {current.member.problem}")

    def _set_missing(self, cause: str, detail: str) -> None:
        if self._missing is None and self._last is not None:
            member, last_ns = self._last
            self._missing = _Missing(
                member=member, vendors=tuple(member.vendors), from_ns=last_ns, cause=cause, detail=detail
            )

    # Takes note of how a reading ended; True if that was the source's proper end.
    async def _leave(self, feed: Feed, failure: Exception | None) -> bool:
        await feed.close()
        member = feed.member
        if failure is None and ended_by_itself(member, marked=feed.marked):
            member.ended = True
            return True
        lasted_s = self._clock.monotonic_s() - feed.opened_s
        member.failures = 1 if feed.gave and lasted_s > member.delay_s else member.failures + 1
        member.delay_s = self._backoff.delay_s(member.failures, self._random)
        member.retry_at_s = self._clock.monotonic_s() + member.delay_s
        member.problem = "ended without saying so" if failure is None else f"{type(failure).__name__}: {failure}"
        await member.breaker.record_failure()
        _LOG.warning("source %s failed, tried again in %.3g s: %s", member.name, member.due_in_s, member.problem)
        return False


def _may_be_tried(member: Member) -> bool:
    return not member.ended and member.due_in_s == 0
