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
        ts_event: Gives the venue's time of places, UTC nanoseconds since the epoch. It stays the same one for as long
            as the times of places stay what they were.
        recv_delay_ns: From `ts_event` to `ts_recv`; None where that is when they are given.
    """

    begin: int
    end: int
    ts_event: Callable[[Ints], Ints]
    recv_delay_ns: int | None


class Closing:
    """Whether a source was closed, and who waits meanwhile. For one event loop."""

    def __init__(self) -> None:
        self._closed = False
        self._sleeping: set[asyncio.Task[None]] = set()

    def is_set(self) -> bool:
        """Return True once the source was closed."""
        return self._closed

    def set(self) -> None:
        """Close, and wake who sleeps; may be called twice."""
        self._closed = True
        for task in self._sleeping:
            task.cancel()

    async def sleep(self, clock: Clock, delay_s: float) -> bool:
        """Sleep so long by a clock, seconds; returns False, at once, when the source is closed."""
        if self.is_set():
            return False
        # A task of its own can be ended without ending who waits for it.
        task = asyncio.create_task(clock.sleep(delay_s), name="synthetic source: pace")
        self._sleeping.add(task)
        try:
            await task
        except asyncio.CancelledError:
            waiting = asyncio.current_task()
            if not self.is_set() or (waiting is not None and waiting.cancelling()):
                raise
        finally:
            self._sleeping.discard(task)
            task.cancel()
        return not self.is_set()


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
        closing: Ends the waiting.
        rate: Events per second, or None for as many as are read.
        most: Events in one stretch.
        linger_ns: Least time between two stretches that are not full.
    """

    def __init__(self, *, clock: Clock, closing: Closing, rate: Pace | None, most: int, linger_ns: int) -> None:
        self._clock = clock
        self._closing = closing
        self._rate = rate
        self._most = most
        self._linger_ns = linger_ns
        self._begin: tuple[int, int] | None = None
        self._times: Callable[[Ints], Ints] | None = None
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
                self._begin, self._times = (first, epoch_ns), None
            due = first + rate.count(now_ns - epoch_ns)
            next_ns = max(epoch_ns + rate.span_ns(place + 1 - first), self._given_ns + self._linger_ns)
            if due > place and (now_ns >= next_ns or due - place >= self._most):
                break
            # Nobody hangs on a source that is paced slowly and was closed meanwhile.
            if not await self._closing.sleep(self._clock, (next_ns - now_ns) / NS_PER_SECOND):
                return None
        end = min(due, place + self._most)
        if end == due:  # the rest of a full stretch follows at once
            self._given_ns = now_ns
        if self._times is None:
            self._times = self._times_since(rate, first, epoch_ns)
        return Stretch(begin=place, end=min(end, limit), ts_event=self._times, recv_delay_ns=None)

    def _times_since(self, rate: Pace, first: int, epoch_ns: int) -> Callable[[Ints], Ints]:
        def times(places: Ints) -> Ints:
            return epoch_ns + rate.times_ns(places + (1 - first))

        return times
