"""When the events of the synthetic source come: as fast as they are read, or as a clock says."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol

import numpy as np

from market_data_core.clock import NS_PER_SECOND, Clock
from market_data_core.errors import SourceError
from market_data_pipeline.source.synthetic.schedule import Ints, Pace

VIRTUAL_DELAY_NS: Final = 50_000
"""How long after `ts_event` an event of virtual time reaches us."""
MAX_BACKLOG_NS: Final = NS_PER_SECOND
"""How much of the past a reader of real time who was away is still given."""

_LAST_NS: Final = 2**63 - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Stretch:
    """Places ``[begin, end)`` of the schedule that are to be given now.

    Attributes:
        ts_event: Gives the venue's time of places, UTC nanoseconds since the epoch.
        recv_delay_ns: From `ts_event` to `ts_recv`; None where arrival is stamped by whoever takes the events.
    """

    begin: int
    end: int
    ts_event: Callable[[Ints], Ints]
    recv_delay_ns: int | None


class Timeline(Protocol):
    """Says which events come next."""

    def now_ns(self, place: int) -> int:
        """Return the time at which the event at `place` would stand if it came now."""
        ...

    async def take(self, place: int, limit: int) -> Stretch | None:
        """Wait until events from `place` on are due.

        Returns:
            A stretch of at least one event, below `limit`; None if the source was closed while waiting.
        """
        ...


class VirtualTimeline:
    """The event at place n stands at ``start_ns + n / rate``, whenever it is read.

    Args:
        start_ns: UTC nanoseconds since the epoch.
        rate: Events per second of virtual time.
        most: Events in one stretch.
        aligned: End stretches at multiples of `most`, wherever reading begins.
    """

    def __init__(self, *, start_ns: int, rate: Pace, most: int, aligned: bool = False) -> None:
        self._start_ns = start_ns
        self._rate = rate
        self._places = rate.count(_LAST_NS - VIRTUAL_DELAY_NS - start_ns)
        self._most = most
        self._aligned = aligned

    def now_ns(self, place: int) -> int:
        """Return the time of the event at `place`."""
        return int(self._times(np.array([min(place, self._places)], np.int64))[0])

    async def take(self, place: int, limit: int) -> Stretch:
        """Return the next stretch; never waits.

        Raises:
            SourceError: Time has come to its end.
        """
        if place >= self._places:
            raise SourceError(f"synthetic source: event {place} would stand after the last time of int64 nanoseconds")
        await asyncio.sleep(0)  # others run between two stretches, however fast this one is read
        from_place = place - place % self._most if self._aligned else place
        return Stretch(
            begin=place,
            end=min(from_place + self._most, limit, self._places),
            ts_event=self._times,
            recv_delay_ns=VIRTUAL_DELAY_NS,
        )

    def _times(self, places: Ints) -> Ints:
        return self._start_ns + self._rate.times_ns(places)


class RealTimeline:
    """Events fall due at `rate`, the first at the first call, and are given once they are, gathered by `linger_ns`.

    Due times are whole multiples of the period from one beginning, so waking late never adds up. Whoever reads too
    slowly, or stops for a while, misses what fell due more than a second ago: the beginning then moves.

    Args:
        clock: Wall time and waiting.
        closed: Ends the waiting.
        rate: Events per second, or None for as many as are read.
        most: Events in one stretch.
        linger_ns: Least time between two stretches that are not full.
    """

    def __init__(self, *, clock: Clock, closed: asyncio.Event, rate: Pace | None, most: int, linger_ns: int) -> None:
        self._clock = clock
        self._closed = closed
        self._rate = rate
        self._most = most
        self._linger_ns = linger_ns
        self._begin: tuple[int, int] | None = None
        self._given_ns = 0

    def now_ns(self, place: int) -> int:  # noqa: ARG002  real time passes whether events come or not
        """Return the clock's time."""
        return self._clock.now_ns()

    async def take(self, place: int, limit: int) -> Stretch | None:
        """Wait until events from `place` on are due; None if the source was closed meanwhile."""
        await asyncio.sleep(0)
        if self._begin is None:
            now_ns = self._clock.now_ns()
            self._begin, self._given_ns = (place, now_ns), now_ns
            if self._rate is not None:
                # The first event is due at once, as it is in virtual time.
                self._rate = self._rate.since(place)
                self._begin, self._given_ns = (place, now_ns - self._rate.span_ns(1)), now_ns - self._linger_ns
        if self._rate is None:
            return self._unpaced(place, min(place + self._most, limit))
        return await self._paced(self._rate, *self._begin, place, limit)

    def _unpaced(self, begin: int, end: int) -> Stretch:
        now_ns = self._clock.now_ns()
        since_ns = max(self._given_ns, now_ns - MAX_BACKLOG_NS)
        self._given_ns = now_ns

        def times(places: Ints) -> Ints:
            return since_ns + (places - (begin - 1)) * (now_ns - since_ns) // (end - begin)

        return Stretch(begin=begin, end=end, ts_event=times, recv_delay_ns=None)

    async def _paced(self, rate: Pace, first: int, epoch_ns: int, place: int, limit: int) -> Stretch | None:
        while True:
            now_ns = self._clock.now_ns()
            behind_ns = rate.behind_ns(now_ns - epoch_ns, place - first, MAX_BACKLOG_NS)
            if behind_ns:
                epoch_ns += behind_ns
                self._begin = (first, epoch_ns)
            due = first + rate.count(now_ns - epoch_ns)
            next_ns = max(epoch_ns + rate.span_ns(place + 1 - first), self._given_ns + self._linger_ns)
            if due > place and (now_ns >= next_ns or due - place >= self._most):
                break
            if not await self._slept((next_ns - now_ns) / NS_PER_SECOND):
                return None
        end = min(due, place + self._most)
        if end == due:  # the rest of a full stretch follows at once
            self._given_ns = now_ns

        def times(places: Ints) -> Ints:
            return epoch_ns + rate.times_ns(places + (1 - first))

        return Stretch(begin=place, end=min(end, limit), ts_event=times, recv_delay_ns=None)

    # False if the source was closed meanwhile: nobody hangs on one that is paced slowly.
    async def _slept(self, delay_s: float) -> bool:
        sleep = asyncio.create_task(self._clock.sleep(delay_s), name="synthetic source: pace")
        closing = asyncio.create_task(self._closed.wait(), name="synthetic source: close")
        try:
            finished, _ = await asyncio.wait((sleep, closing), return_when=asyncio.FIRST_COMPLETED)
            for task in finished:
                task.result()  # a clock that fails is an error, not a reason to ask it again
            return not self._closed.is_set()
        finally:
            for task in (sleep, closing):
                task.cancel()
            await asyncio.gather(sleep, closing, return_exceptions=True)
