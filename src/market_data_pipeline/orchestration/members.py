"""The sources behind a router, and how each is doing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from market_data_core.batch import Instrument, SourceBatch
from market_data_core.clock import NS_PER_SECOND, Clock
from market_data_core.errors import ConfigurationError
from market_data_core.protocols import END_OF_TIME_NS, BatchSource, Gap, Mark
from market_data_pipeline.breaker import CircuitBreaker
from market_data_pipeline.waiting import left_s

# Weight of the newest measurement in a latency.
_ALPHA: Final = 0.2


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceHealth:
    """How a source behind a router is doing.

    Attributes:
        name: Of the source.
        state: ``active`` (events are taken from it), ``ready``, ``failed`` (waits to be tried again) or ``ended``.
        breaker: How its circuit breaker stands.
        failures: In a row.
        retry_in_s: Seconds until it may be tried; 0 is now.
        latency_s: From `ts_event` to arrival, smoothed, seconds; None before it was measured.
        problem: Why it failed last; empty if it did not.
    """

    name: str
    state: str
    breaker: str
    failures: int
    retry_in_s: float
    latency_s: float | None
    problem: str


@dataclass(slots=True, kw_only=True, eq=False)
class Member:
    """A source and what is known of it.

    Attributes:
        source: The source.
        name: Its own, made different from the others'.
        breaker: Keeps away from it after repeated failures.
        clock: Times retries.
        failures: In a row; a reading that lasted longer than the last wait begins the row anew.
        delay_s: The last wait, seconds.
        retry_at_s: When it may be tried again, on the clock's monotonic scale.
        ended: It has said that there is no more.
        latency_s: As in `SourceHealth`.
        problem: As in `SourceHealth`.
        vendors: Whose events it has given, in the order they came.
    """

    source: Any
    name: str
    breaker: CircuitBreaker
    clock: Clock
    failures: int = 0
    delay_s: float = 0.0
    retry_at_s: float = 0.0
    ended: bool = False
    latency_s: float | None = None
    problem: str = ""
    vendors: dict[str, None] = field(default_factory=dict)
    _table: tuple[int, int] = field(default=(0, 0), init=False)

    @property
    def waits(self) -> bool:
        """True if nothing is lost while nobody reads it."""
        return bool(getattr(self.source, "waits", False))

    @property
    def symbols(self) -> tuple[str, ...]:
        """What it gives; empty where it does not say."""
        return tuple(getattr(self.source, "symbols", ()) or ())

    @property
    def due_in_s(self) -> float:
        """Seconds until it may be tried; 0 is now."""
        return max(left_s(self.clock, self.retry_at_s), self.breaker.retry_in_s)

    def note(self, item: Any, came_ns: int) -> Stamp | None:
        """Take note of what the source gave, and when; returns the event times in it, or None where it has none."""
        stamp = stamp_of(item, came_ns)
        if stamp is None:
            return None
        if stamp.venue:
            latency_s = (came_ns - stamp.last_ns) / NS_PER_SECOND
            known = latency_s if self.latency_s is None else self.latency_s
            self.latency_s = known + _ALPHA * (latency_s - known)
        if isinstance(item, SourceBatch):
            self._note_vendors(item.instruments)
        else:
            meta = getattr(item, "meta", None)
            self.vendors[meta.vendor if meta is not None else self.name] = None
        return stamp

    # Tables only grow, and most batches come with the one that came before.
    def _note_vendors(self, instruments: Sequence[Instrument]) -> None:
        table = (id(instruments), len(instruments))
        if table != self._table:
            self._table = table
            self.vendors.update(dict.fromkeys(i.vendor for i in instruments))

    def health(self, *, active: bool) -> SourceHealth:
        """Return how it is doing."""
        state = "active" if active else "ended" if self.ended else "failed" if self.due_in_s else "ready"
        return SourceHealth(
            name=self.name,
            state=state,
            breaker=str(self.breaker.state),
            failures=self.breaker.failures,
            retry_in_s=self.due_in_s,
            latency_s=self.latency_s,
            problem=self.problem,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Stamp:
    """The time of the first and the last event of an item, UTC nanoseconds since the epoch.

    Attributes:
        first_ns: Of the first.
        last_ns: Of the last.
        venue: These are the venue's times; else it is when the item came.
        repeatable: The source can give it again, by its offset.
    """

    first_ns: int
    last_ns: int
    venue: bool
    repeatable: bool


def stamp_of(item: Any, now_ns: int) -> Stamp | None:
    """Return the times of an event or a batch; None for marks, gaps and batches without rows."""
    repeatable = False
    if isinstance(item, Mark | Gap):
        return None
    if isinstance(item, SourceBatch):
        if not item.data.num_rows:
            return None
        times = item.data.column("ts_event")
        first_ns, last_ns = times[0].as_py(), times[-1].as_py()
        repeatable = bool(item.source_id)
    else:
        first_ns = last_ns = int(getattr(item, "ts_event_ns", 0))
    return Stamp(first_ns=first_ns or now_ns, last_ns=last_ns or now_ns, venue=last_ns != 0, repeatable=repeatable)


def says_end(item: Any) -> bool:
    """Is this the mark with which a source says that there is no more?"""
    return isinstance(item, Mark) and item.ts_ns == END_OF_TIME_NS


def ended_by_itself(member: Member, *, marked: bool) -> bool:
    """Has a source whose events are over come to its proper end?

    A recording or a history has one. A live source says so, with a mark or by the status ``closed``; one that has no
    way to say so is believed.
    """
    if marked or member.waits:
        return True
    status = getattr(member.source, "status", None)
    if status is not None:
        return str(status) == "closed"
    return not isinstance(member.source, BatchSource)


def make_members(sources: Sequence[Any], *, clock: Clock, threshold: int, timeout_s: float) -> tuple[Member, ...]:
    """Put each source behind a circuit breaker of its own.

    Raises:
        ConfigurationError: There is no source, or one of them is none.
    """
    if not sources:
        raise ConfigurationError("router: no sources; it takes at least one")
    members: dict[str, Member] = {}
    for source in sources:
        streams = hasattr(source, "stream") and hasattr(source, "close")
        if isinstance(source, type) or not (streams or isinstance(source, BatchSource)):
            raise ConfigurationError(f"router: {source!r} has no stream() and close(), and gives no batches")
        name = base = str(getattr(source, "name", "") or type(source).__name__.lower())
        count = 1
        while name in members:
            count += 1
            name = f"{base}-{count}"
        breaker = CircuitBreaker(threshold, timeout_s, clock=clock)
        members[name] = Member(source=source, name=name, breaker=breaker, clock=clock)
    return tuple(members.values())
