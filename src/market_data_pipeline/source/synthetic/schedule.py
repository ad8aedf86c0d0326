"""Which event is a quote and which a trade, and when each is due.

Events have places 0, 1, 2, … in one schedule. Quotes and trades take fixed turns in it, and each kind counts its own
as well, so place and number turn into each other by arithmetic alone and a resume costs nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import Final, Protocol

import numpy as np
import numpy.typing as npt

from market_data_core.clock import NS_PER_SECOND
from market_data_core.errors import ConfigurationError
from market_data_core.schemas import Kind

Ints = npt.NDArray[np.int64]

_FINEST_RATE: Final = 1000


@dataclass(frozen=True, slots=True)
class Mix:
    """Turns of quotes and trades: first so many quotes, then so many trades, and again.

    Attributes:
        quotes: Quotes in one turn.
        trades: Trades in one turn.
    """

    quotes: int
    trades: int

    def __post_init__(self) -> None:
        if min(self.quotes, self.trades) < 0 or self.quotes + self.trades == 0:
            raise ConfigurationError(f"kinds of the synthetic source are ({self.quotes}, {self.trades}): not a mix")

    def before(self, kind: Kind, place: int) -> int:
        """Return how many events of `kind` stand below `place`."""
        turns, rest = divmod(place, self.quotes + self.trades)
        if kind is Kind.QUOTES:
            return turns * self.quotes + min(rest, self.quotes)
        return turns * self.trades + max(rest - self.quotes, 0)

    def place(self, kind: Kind, number: int) -> int | None:
        """Return the place of event `number` of `kind`, or None if the mix has no such events."""
        share, first = self._turn(kind)
        if share == 0:
            return None
        return number // share * (self.quotes + self.trades) + first + number % share

    def places(self, kind: Kind, numbers: Ints) -> Ints:
        """Return the places of these events of `kind`; none if the mix has no such events."""
        share, offset = self._turn(kind)
        if share == 0:
            return numbers[:0]
        turns = numbers // share
        return turns * (self.quotes + self.trades - share) + numbers + offset

    def _turn(self, kind: Kind) -> tuple[int, int]:
        return (self.quotes, 0) if kind is Kind.QUOTES else (self.trades, self.quotes)


class Pace(Protocol):
    """When events are due: the n-th at a time that depends on n alone. Counts and times begin at 0."""

    def count(self, elapsed_ns: int) -> int:
        """Return how many events fit into that time from the beginning on."""
        ...

    def span_ns(self, count: int) -> int:
        """Return the shortest time from the beginning into which that many events fit."""
        ...

    def behind_ns(self, elapsed_ns: int, given: int, most_ns: int) -> int:
        """Return by how much a reader is too late.

        Args:
            elapsed_ns: Since the beginning.
            given: How many events they have had.
            most_ns: How late they may be.
        """
        ...

    def times_ns(self, counts: Ints) -> Ints:
        """Return when so many events have come, in nanoseconds from the beginning."""
        ...

    def since(self, first: int) -> Pace:
        """Return the pace of the events from `first` on, with that one's time as the beginning."""
        ...


class Rate:
    """Events per second, kept as a fraction, so times are exact however long a source runs.

    Args:
        events_per_s: Positive; from 0.001 up, in steps of a thousandth where it is not whole.
    """

    def __init__(self, events_per_s: float) -> None:
        fraction = Fraction(events_per_s).limit_denominator(_FINEST_RATE) if 0 < events_per_s < 1e12 else Fraction(0)
        self.events = fraction.numerator
        self.period_ns = fraction.denominator * NS_PER_SECOND
        if not self.events or self.events * self.period_ns >= 2**63:
            raise ConfigurationError(
                f"rate of the synthetic source is {events_per_s} events/s; it takes 0 (as fast as it is read), "
                f"whole numbers up to 9e9, or fractions in thousandths up to 9,000"
            )

    def count(self, elapsed_ns: int) -> int:
        """Return how many events fit into that time."""
        return elapsed_ns * self.events // self.period_ns

    def most_within(self, elapsed_ns: int) -> int:
        """Return how many events can fall into a window of that length, wherever it lies."""
        return -(-elapsed_ns * self.events // self.period_ns)

    def span_ns(self, count: int) -> int:
        """Return the shortest time into which that many events fit."""
        return -(-count * self.period_ns // self.events)

    def behind_ns(self, elapsed_ns: int, given: int, most_ns: int) -> int:
        """Return by how much a reader is too late, in whole events."""
        excess = self.count(elapsed_ns) - given - self.most_within(most_ns)
        return self.span_ns(excess) if excess > 0 else 0

    def since(self, first: int) -> Rate:  # noqa: ARG002  evenly paced, every event is as good a beginning
        """Return the rate itself."""
        return self

    def times_ns(self, counts: Ints) -> Ints:
        """Return ``counts / rate`` in nanoseconds, rounded down, for counts from 0 up."""
        # Whole parts and remainders apart: counts times nanoseconds leaves int64 after ten seconds at 1e9/s.
        whole, rest = np.divmod(counts, self.events)
        times: Ints = whole * self.period_ns + rest * self.period_ns // self.events
        return times
