"""Which source of several is to be read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Protocol

from market_data_core.errors import ConfigurationError
from market_data_pipeline.orchestration.members import Member

# A source must be this much faster than the one that is read for a change to be worth it, so that two that are equally
# fast do not take turns.
_FASTER: Final = 0.8


class Strategy(Protocol):
    """Chooses among sources."""

    @property
    def dwell_s(self) -> float:
        """How long a source is read at least before a better one is looked for, seconds."""
        ...

    def choose(self, ready: Sequence[Member]) -> Member | None:
        """Return which of those that may be tried is next, or None if there are none."""
        ...

    def better(self, current: Member, members: Sequence[Member]) -> Sequence[Member]:
        """Return those that would go before the current one if they gave events, best first."""
        ...


class First:
    """The earliest in the list, and back to it as soon as it gives events again."""

    dwell_s = 0.0

    def choose(self, ready: Sequence[Member]) -> Member | None:
        """Return the earliest."""
        return ready[0] if ready else None

    def better(self, current: Member, members: Sequence[Member]) -> Sequence[Member]:
        """Return those before it in the list."""
        return members[: members.index(current)]


class RoundRobin:
    """Each connection takes the next one."""

    dwell_s = 0.0

    def __init__(self, members: Sequence[Member]) -> None:
        self._members = members
        self._next = 0

    def choose(self, ready: Sequence[Member]) -> Member | None:
        """Return the first from the next place on."""
        for step in range(len(self._members)):
            place = (self._next + step) % len(self._members)
            if self._members[place] in ready:
                self._next = place + 1
                return self._members[place]
        return None

    def better(self, current: Member, members: Sequence[Member]) -> Sequence[Member]:  # noqa: ARG002  none is
        """Return none: one that works is kept."""
        return ()


class Latency:
    """The one whose events arrive soonest after they happened; those not yet measured come first."""

    dwell_s = 5.0

    def choose(self, ready: Sequence[Member]) -> Member | None:
        """Return the first that was not measured, or else the fastest."""
        return min(ready, key=lambda m: -1e18 if m.latency_s is None else m.latency_s, default=None)

    def better(self, current: Member, members: Sequence[Member]) -> Sequence[Member]:
        """Return those that were not measured, then those clearly faster."""
        if current.latency_s is None:
            return ()
        limit_s = current.latency_s * _FASTER if current.latency_s > 0 else current.latency_s
        faster = [m for m in members if m.latency_s is not None and m.latency_s < limit_s]
        return [
            *(m for m in members if m.latency_s is None),
            *sorted(faster, key=lambda m: m.latency_s or 0.0),
        ]


def make_strategy(name: str, members: Sequence[Member]) -> Strategy:
    """Return the strategy of that name.

    Raises:
        ConfigurationError: There is none.
    """
    if name == "first":
        return First()
    if name == "round_robin":
        return RoundRobin(members)
    if name == "latency":
        return Latency()
    raise ConfigurationError(f"router: strategy {name!r} is none of first, round_robin, latency")
