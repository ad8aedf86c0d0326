"""A rate that is many times higher for a while, again and again."""

from __future__ import annotations

from bisect import bisect_right
from functools import partial

import numpy as np

from market_data_core.errors import ConfigurationError
from market_data_pipeline.source.synthetic.draws import Bools, below
from market_data_pipeline.source.synthetic.schedule import Ints, Rate


class BurstRate:
    """Events at an even rate, with one burst in each period, at a random place in it.

    Every period has the same number of events, so times are exact however long a source runs. A `Pace`.

    Args:
        usual: Outside bursts.
        burst: In bursts.
        every_ns: Length of a period.
        for_ns: Length of a burst; below `every_ns`.
        key: Another key places them elsewhere.

    Raises:
        ConfigurationError: There is no event in a burst.
    """

    def __init__(self, *, usual: Rate, burst: Rate, every_ns: int, for_ns: int, key: np.uint64) -> None:
        self._usual, self._burst = usual, burst
        self._every_ns, self._for_ns = every_ns, for_ns
        self._key = key
        self._quiet = usual.count(every_ns - for_ns)
        self._loud = burst.count(for_ns)
        self._whole = self._quiet + self._loud
        if not self._loud:
            raise ConfigurationError(
                f"synthetic source: defect bursts: for_s {for_ns / 1e9} is too short for an event at the burst's rate"
            )

    def bursting(self, counts: Ints) -> Bools:
        """Return which events come in a burst."""
        period, place = np.divmod(counts, self._whole)
        since = place - self._before_burst(period)
        return (since >= 0) & (since < self._loud)

    def times_ns(self, counts: Ints) -> Ints:
        """Return when so many events have come, in nanoseconds from the beginning, rounded down."""
        period, place = np.divmod(counts, self._whole)
        loud = np.clip(place - self._before_burst(period), 0, self._loud)
        burst_ns = np.where(loud == self._loud, self._for_ns, self._burst.times_ns(loud))
        times: Ints = period * self._every_ns + self._usual.times_ns(place - loud) + burst_ns
        return times

    def time_ns(self, count: int) -> int:
        """Return when so many events have come, exactly as `times_ns` does."""
        return int(self.times_ns(np.array([count], np.int64))[0])

    def count(self, elapsed_ns: int) -> int:
        """Return how many events fit into that time from the beginning on."""
        period, rest_ns = divmod(elapsed_ns, self._every_ns)
        before_burst = int(self._before_burst(np.array([period], np.int64))[0])
        in_period = partial(self._in_period_ns, before_burst=before_burst)
        return period * self._whole + bisect_right(range(self._whole), rest_ns, key=in_period) - 1

    def span_ns(self, count: int) -> int:
        """Return the shortest time from the beginning into which that many events fit."""
        return self.time_ns(count)

    def behind_ns(self, elapsed_ns: int, given: int, most_ns: int) -> int:
        """Return by how much a reader is too late."""
        return max(elapsed_ns - most_ns - self.time_ns(given), 0)

    def since(self, first: int) -> Shifted:
        """Return the pace of the events from `first` on, with that one's time as the beginning."""
        return Shifted(self, first)

    def _before_burst(self, periods: Ints) -> Ints:
        return below(self._key, periods, self._quiet + 1)

    # One period in plain integers: a search asks for forty of them at every wakening of a source of real time.
    def _in_period_ns(self, place: int, *, before_burst: int) -> int:
        loud = min(max(place - before_burst, 0), self._loud)
        usual, burst = self._usual, self._burst
        burst_ns = self._for_ns if loud == self._loud else loud * burst.period_ns // burst.events
        return (place - loud) * usual.period_ns // usual.events + burst_ns


class Shifted:
    """The pace of the events of a `BurstRate` from one of them on. A `Pace`.

    Args:
        pace: Of all events.
        first: The one from which counts and times begin.
    """

    def __init__(self, pace: BurstRate, first: int) -> None:
        self._pace = pace
        self._first = first
        self._first_ns = pace.time_ns(first)

    def count(self, elapsed_ns: int) -> int:
        """Return how many events fit into that time from the beginning on."""
        return self._pace.count(self._first_ns + elapsed_ns) - self._first

    def span_ns(self, count: int) -> int:
        """Return the shortest time from the beginning into which that many events fit."""
        return self._pace.time_ns(self._first + count) - self._first_ns

    def behind_ns(self, elapsed_ns: int, given: int, most_ns: int) -> int:
        """Return by how much a reader is too late."""
        return max(elapsed_ns - most_ns - self.span_ns(given), 0)

    def times_ns(self, counts: Ints) -> Ints:
        """Return when so many events have come, in nanoseconds from the beginning."""
        return self._pace.times_ns(counts + self._first) - self._first_ns

    def since(self, first: int) -> Shifted:
        """Return the pace of the events from `first` on, counted as this pace counts."""
        return Shifted(self._pace, self._first + first)
