"""Several sources as one, of which one is read at a time."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import aclosing
from random import Random
from typing import Any

from market_data_core.batch import Instrument, SourceBatch
from market_data_core.clock import Clock, SystemClock
from market_data_core.errors import InvalidInstrument, SourceError
from market_data_core.models import Quote
from market_data_core.protocols import BatchSource, Gap, Mark
from market_data_core.schemas import Origin
from market_data_pipeline.breaker import CircuitBreakerOpen
from market_data_pipeline.events import stream_events, to_source_batches
from market_data_pipeline.orchestration.failover import Failover, Standing
from market_data_pipeline.orchestration.members import Member, SourceHealth, make_members
from market_data_pipeline.orchestration.strategies import make_strategy
from market_data_pipeline.waiting import Closing
from market_data_pipeline.writing.policy import Backoff

_LOG = logging.getLogger(__name__)


class SourceRouter:
    """Reads one of several sources and goes on with another when it fails; itself a source, for engine and users.

    Each source stands behind a circuit breaker of its own. One that fails, or whose events end although it has not
    said so, is left alone for a while, longer each time; while none can be read, all are tried again in this way. The
    run ends when every source has ended by itself. A batch source is read again from behind the last thing of it that
    was given; what it gave is never given twice and never left out. Nothing is de-duplicated across sources.

    What neither of two sources had is a `Gap` with cause ``source_failed`` between the last event of one and the first
    of the other, for each vendor of the one that failed. Times are the events' own where they have them. There is none
    where a source that can wait goes on where it was, nor before the first event.

    Args:
        sources: In order of preference. Each has ``stream()`` and ``close()``, or is a `BatchSource`, or both. They
            belong to the router, which closes them.
        strategy: ``first``: the earliest in the list that works; one that comes back is changed to when it gives
            events, and the other is still read until it has got that far in time, for at most `handover_s`.
            ``round_robin``: each connection takes the next. ``latency``: the one whose events arrive soonest after
            they happened, those not yet measured first.
        name: Names the router in status, metrics and errors.
        clock: Times retries and stamps arrivals; the system's if None.
        random: Spreads retries.
        backoff: How long a source that failed is left alone.
        breaker_threshold: Failures in a row after which its breaker opens,
        breaker_timeout: and for how many seconds.
        handover_s: See ``first``. A source that is still behind then is left, with a gap of cause ``source_changed``.

    Raises:
        ConfigurationError: There are no sources, one of them is none, or the strategy is unknown.
    """

    def __init__(
        self,
        sources: Sequence[Any],
        strategy: str = "first",
        *,
        name: str = "router",
        clock: Clock | None = None,
        random: Random | None = None,
        backoff: Backoff | None = None,
        breaker_threshold: int = 5,
        breaker_timeout: float = 60.0,
        handover_s: float = 1.0,
    ) -> None:
        self._name = name
        self._clock = clock or SystemClock()
        self._random = random or Random()  # noqa: S311  spreads retries, guards nothing
        self._backoff = backoff or Backoff()
        self._handover_s = handover_s
        self._members = make_members(sources, clock=self._clock, threshold=breaker_threshold, timeout_s=breaker_timeout)
        self._strategy = make_strategy(strategy, self._members)
        self._standing = Standing()
        self._is_closed = False
        # Of the runs that are on: done when the router is closed.
        self._closings: set[asyncio.Future[None]] = set()

    @property
    def name(self) -> str:
        """Names the router."""
        return self._name

    @property
    def origin(self) -> Origin:
        """How the events of the source that is read come to us; before that, those of the first."""
        member = self._standing.active or self._members[0]
        return _origin(member)

    @property
    def waits(self) -> bool:
        """True if every source can be slowed down without losing anything."""
        return all(m.waits for m in self._members)

    @property
    def symbols(self) -> Sequence[str]:
        """What the sources give, each symbol once."""
        return tuple(dict.fromkeys(symbol for m in self._members for symbol in m.symbols))

    @property
    def status(self) -> str:
        """``pending`` before the first event, ``live``, ``stale`` from a failure to the next event, or ``closed``."""
        return self._standing.status

    @property
    def active(self) -> str | None:
        """Name of the source that events come from, or None."""
        return None if self._standing.active is None else self._standing.active.name

    def health(self) -> tuple[SourceHealth, ...]:
        """Return how each source is doing, in order of preference."""
        return tuple(m.health(active=m is self._standing.active) for m in self._members)

    async def batches(self, resume: Mapping[str, int]) -> AsyncGenerator[SourceBatch | Mark | Gap, None]:
        """Give batches from one source at a time, gaps between them.

        A source that only gives single events is turned into batches of one event each, which can not be resumed.

        Args:
            resume: By source id, the exclusive end of what is already safe, of all sources.
        """
        async with aclosing(self._batches(resume)) as items:
            async for _, item in items:
                yield item

    async def stream(self) -> AsyncGenerator[Any, None]:
        """Give events one by one in the order they come, and a `Gap` where something may be missing."""
        if not all(isinstance(m.source, BatchSource) for m in self._members):
            async with aclosing(self._run(_open_events(self._clock))) as events:
                async for _, event in events:
                    yield event
            return
        async with aclosing(self._batches({})) as items:
            part = _Part(items, await anext(items, None))
            while part.first is not None:
                if isinstance(part.first[1], Gap):
                    yield part.first[1]
                    part = _Part(items, await anext(items, None))
                    continue
                async with aclosing(stream_events(part, self._clock)) as events:
                    async for event in events:
                        yield event
                part = _Part(items, part.next)

    async def get_quote(self, symbol: str) -> Quote:
        """Return how a symbol stands, from the first source in order of preference that can say.

        Raises:
            InvalidInstrument: No source has the symbol.
            CircuitBreakerOpen: All sources are left alone for now.
            SourceError: None could answer; names each and why.
        """
        problems: list[Exception] = []
        for member in self._members:
            if not hasattr(member.source, "get_quote") or member.breaker.is_open():
                continue
            try:
                quote: Quote = await member.source.get_quote(symbol)
            except InvalidInstrument as exc:
                problems.append(exc)
            except Exception as exc:  # noqa: BLE001  the supervisor of the source: the next one is asked
                await member.breaker.record_failure()
                problems.append(exc)
            else:
                await member.breaker.record_success()
                return quote
        if not problems:
            retry_s = min(m.breaker.retry_in_s for m in self._members)
            raise CircuitBreakerOpen(self._name, retry_after_sec=retry_s)
        if all(isinstance(p, InvalidInstrument) for p in problems):
            raise problems[0]
        text = "; ".join(f"{type(p).__name__}: {p}" for p in problems)
        raise SourceError(f"{self._name}: no source could give a quote of {symbol}: {text}") from problems[-1]

    async def close(self) -> None:
        """End every run and close all sources. May be called twice.

        Raises:
            SourceError: A source could not be closed; the others are.
        """
        self._is_closed = True
        self._standing.status = "closed"
        for closing in self._closings:
            if not closing.done():
                closing.set_result(None)
        problems: list[str] = []
        cause: Exception | None = None
        for member in self._members:
            try:
                await member.source.close()
            except Exception as exc:  # noqa: BLE001  the supervisor of the source: the others are closed all the same
                problems.append(f"{member.name}: {type(exc).__name__}: {exc}")
                cause = exc
        if problems:
            raise SourceError(f"{self._name}: cannot be closed: {'; '.join(problems)}") from cause

    async def _batches(
        self, resume: Mapping[str, int]
    ) -> AsyncGenerator[tuple[Member, SourceBatch | Mark | Gap], None]:
        given = dict(resume)
        tables: dict[str, list[Instrument]] = {}

        def open_batches(member: Member) -> AsyncIterator[Any]:
            if isinstance(member.source, BatchSource):
                return member.source.batches(dict(given))
            return _single(member, tables.setdefault(member.name, []))

        async with aclosing(self._run(open_batches)) as items:
            async for member, item in items:
                if not isinstance(item, Gap) and item.source_id:
                    given[item.source_id] = item.offset
                yield member, item

    async def _run(self, open_items: Any) -> AsyncGenerator[tuple[Member, Any], None]:
        if self._is_closed:
            return
        closing: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._closings.add(closing)
        # What ended in an earlier run begins anew in this one.
        for member in self._members:
            member.ended = False
        run = Failover(
            members=self._members,
            strategy=self._strategy,
            clock=self._clock,
            random=self._random,
            backoff=self._backoff,
            handover_s=self._handover_s,
            closed=closing,
            standing=self._standing,
        )
        try:
            async with aclosing(run.items(open_items)) as items:
                async for item in items:
                    yield item
            self._standing.status = "closed"
        finally:
            self._closings.discard(closing)


class _Part:
    # What one source gives without a gap, as a source for the view by events, which knows neither gaps nor changes.
    def __init__(self, items: AsyncGenerator[tuple[Member, Any], None], first: tuple[Member, Any] | None) -> None:
        self.first = first
        self.next: tuple[Member, Any] | None = None
        self._items = items

    @property
    def name(self) -> str:
        return "" if self.first is None else self.first[0].name

    @property
    def origin(self) -> Origin:
        return Origin.LIVE if self.first is None else _origin(self.first[0])

    @property
    def waits(self) -> bool:
        return False

    async def batches(self, resume: Mapping[str, int]) -> AsyncGenerator[SourceBatch | Mark | Gap, None]:
        del resume
        at = self.first
        while at is not None:
            yield at[1]
            at = await anext(self._items, None)
            if at is not None and (isinstance(at[1], Gap) or self.first is None or at[0] is not self.first[0]):
                self.next = at
                return

    async def close(self) -> None:
        """Do nothing: the sources are the router's."""


def _open_events(clock: Clock) -> Any:
    def open_events(member: Member) -> AsyncIterator[Any]:
        if hasattr(member.source, "stream"):
            events: AsyncIterator[Any] = member.source.stream()
            return events
        return stream_events(member.source, clock)

    return open_events


async def _single(member: Member, table: list[Instrument]) -> AsyncGenerator[Any, None]:
    events = member.source.stream()
    async with aclosing(Closing(events)):
        async for event in events:
            if isinstance(event, Gap):
                yield event
                continue
            vendor = event.meta.vendor if getattr(event, "meta", None) is not None else member.name
            for batch in to_source_batches([event], vendor, table):
                yield batch


def _origin(member: Member) -> Origin:
    return Origin(getattr(member.source, "origin", Origin.LIVE))
