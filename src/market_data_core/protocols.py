"""Every port of the platform: what providers, operators, sinks and stores look like to each other.

The first half is the engine's own, in batches. The second half is for users, event by event; it is a view over the
first and never the engine's path.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar, runtime_checkable

import pyarrow as pa

from market_data_core.batch import EventBatch, SourceBatch
from market_data_core.federation import ClusterTopology
from market_data_core.models import Bar, OptionChain, Quote, Trade
from market_data_core.schemas import Kind, Origin
from market_data_core.telemetry import FeedbackEvent, RateAdjustment

T = TypeVar("T")
U = TypeVar("U")
T_co = TypeVar("T_co", covariant=True)
T_contra = TypeVar("T_contra", contravariant=True)

END_OF_TIME_NS = 2**63 - 1
"""The `ts_ns` of a mark that says: nothing more will come."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """Punctuation: this source has no event with `ts_event` below `ts_ns` still to give.

    Closes the windows of instruments that are quiet. It is logged, so operators need no clock.

    Attributes:
        vendor: Whose instruments it speaks of.
        symbols: Which of them; empty means all that the source has given so far.
        ts_ns: UTC nanoseconds since the epoch; `END_OF_TIME_NS` says the source has ended and closes its windows.
        source_id: As in `SourceBatch`; a mark counts as one event of its source's sequence.
        offset: Exclusive end in that sequence.
    """

    vendor: str
    ts_ns: int
    symbols: tuple[str, ...] = ()
    source_id: str = ""
    offset: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Gap:
    """A stretch of time of which a source says that it has not given everything.

    Attributes:
        vendor: Whose instruments it speaks of.
        symbols: Which of them; empty means all.
        from_ns: Where it begins, UTC nanoseconds since the epoch.
        to_ns: Where it ends, exclusive.
        cause: ``source_failed``, ``sequence``, ``disconnected`` and the like.
        detail: A sentence for people.
    """

    vendor: str
    symbols: tuple[str, ...] = ()
    from_ns: int
    to_ns: int
    cause: str
    detail: str = ""


@runtime_checkable
class BatchSource(Protocol):
    """A source of market data as the engine reads it."""

    @property
    def name(self) -> str:
        """Names the source in status, metrics and errors."""
        ...

    @property
    def origin(self) -> Origin:
        """How its events come to us."""
        ...

    @property
    def waits(self) -> bool:
        """True if the source can be slowed down without losing anything; a live feed cannot."""
        ...

    def batches(self, resume: Mapping[str, int]) -> AsyncIterator[SourceBatch | Mark | Gap]:
        """Give the events, each sequence from where `resume` says on.

        Args:
            resume: By source id, the exclusive end of what is already safe. Nothing below it is given again.

        Raises:
            SourceError: The source cannot be read; names the place. What was given before stands.
        """
        ...

    async def close(self) -> None:
        """Stop giving events and release what the source holds. May be called twice."""
        ...


@dataclass(slots=True, kw_only=True)
class Result:
    """What an operator did with what it was handed.

    Every row handed in is accounted for exactly once: it comes out in `out` with `passes` true, or it is counted
    below, or it is still inside (`Operator.in_flight`).

    Attributes:
        out: Batches for whoever comes next, in order.
        ports: The same for an operator's named outputs, by name.
        emitted: Of the rows in `out` and `ports`, how many are new rather than passed on.
        absorbed: Rows that went into a derived row that is out.
        filtered, duplicate, late, suppressed, quarantined, failed: Rows that went no further, by cause.
    """

    out: list[EventBatch] = field(default_factory=list)
    ports: dict[str, list[EventBatch]] = field(default_factory=dict)
    emitted: int = 0
    absorbed: int = 0
    filtered: int = 0
    duplicate: int = 0
    late: int = 0
    suppressed: int = 0
    quarantined: int = 0
    failed: int = 0


class Operator(Protocol):
    """One step of a pipeline over batches.

    What comes out is a function of what went in and of nothing else: no clock, no randomness, no dependence on how
    events were split into batches. The runtime calls it from barrier to barrier of the log.
    """

    @property
    def name(self) -> str:
        """Names the node in ledger, metrics and errors; unique within a pipeline."""
        ...

    @property
    def kinds(self) -> frozenset[Kind]:
        """The kinds it works on; others go past it."""
        ...

    def gives(self, incoming: frozenset[Kind]) -> frozenset[Kind]:
        """Return the kinds that can come out, on any output, where those of `incoming` can come in."""
        ...

    def process(self, batch: EventBatch) -> Result:
        """Take events of one of its kinds, in log order."""
        ...

    def advance(self, mark: Mark) -> None:
        """Take note that time has passed for the mark's source, or that the source has ended."""
        ...

    def barrier(self, end: int, ts_known_ns: int) -> Result:
        """Give what is due at a barrier.

        Args:
            end: Exclusive end position of the span; derived rows carry ``end - 1`` as their ``seq``.
            ts_known_ns: Latest receive time in the span; derived rows carry it as the time they became known.
        """
        ...

    def in_flight(self) -> int:
        """Return how many rows handed in are held inside, measured from the state itself."""
        ...

    def snapshot(self) -> dict[str, Any]:
        """Return the whole state as plain values (dict, list, str, int, float, bool, None, bytes)."""
        ...

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take up a state that `snapshot` gave.

        Instruments are named by vendor and symbol in it, because ids belong to one log.
        """
        ...


class Table(Protocol):
    """One table of a store, as one writer sees it."""

    @property
    def name(self) -> str:
        """Its name, such as ``trades``."""
        ...

    def position(self, writer: str) -> int | None:
        """Return the exclusive end position of `writer`'s last commit, or None if it never made one."""
        ...

    def covers(self, writer: str) -> dict[str, int]:
        """Return, by source id, the exclusive end of what `writer` had seen at its last commit."""
        ...

    def append(self, rows: pa.Table, *, writer: str, position: int, covers: Mapping[str, int]) -> None:
        """Add rows and the writer's position in one atomic, durable commit.

        Args:
            rows: In the table's schema; may be empty, to move the position alone. A table with a true attribute
                `takes_codes` also takes dictionaries with int32 indices in place of text.
            writer: Who commits; one writer has one position.
            position: Exclusive end position in the log; not below the last one.
            covers: By source id, the exclusive end of what the writer has seen; only those that moved.

        Raises:
            WriterConflict: Somebody else committed as this writer.
            TemporaryUnavailable: The storage did not take it; nothing, or the whole commit, is there.
        """
        ...


class Store(Protocol):
    """Where rows are kept."""

    def open(self) -> None:
        """Make what is missing, and put right what a crash left; safe to call again.

        Raises:
            TemporaryUnavailable: The storage is away.
        """
        ...

    def maintain(self) -> Mapping[str, Any]:
        """Compact, checkpoint and clean up; safe beside appends. Returns what was done, as plain values."""
        ...

    def describe(self) -> Mapping[str, Any]:
        """Return what the store holds and what it had to put right, as plain values."""
        ...

    def table(self, name: str) -> Table:
        """Return a fresh view of a table, making the table if it is not there.

        Raises:
            ConfigurationError: No table of that name is declared.
            TemporaryUnavailable: The storage is away.
        """
        ...

    def written(self) -> frozenset[str]:
        """Return the names of the tables that anything was ever committed to; costs little."""
        ...

    def ticks(self, kind: Kind, vendor: str, symbol: str, *, start_ns: int, end_ns: int, below_seq: int) -> pa.Table:
        """Return stored events of one instrument in ``[start_ns, end_ns)`` by ``ts_event`` with ``seq < below_seq``.

        Ascending ``(ts_event, seq)``, in ``TABLE_SCHEMAS[kind]``.
        """
        ...


@runtime_checkable
class TickSource(Protocol):
    """A source of ticks, one by one."""

    @property
    def symbols(self) -> Sequence[str]:
        """What it gives."""
        ...

    @property
    def status(self) -> str:
        """``pending``, ``live``, ``stale`` or ``closed``."""
        ...

    def stream(self) -> AsyncIterator[Any]:
        """Give ticks in the order they arrive."""
        ...

    async def close(self) -> None:
        """Stop and release."""
        ...


@runtime_checkable
class MarketDataProvider(Protocol):
    """Everything a provider of market data may offer."""

    def stream_quotes(self, symbols: Sequence[str]) -> AsyncIterator[Quote]:
        """Give quotes as they arrive."""
        ...

    def stream_bars(self, symbols: Sequence[str], resolution: str) -> AsyncIterator[Bar]:
        """Give bars as they close."""
        ...

    def stream_trades(self, symbols: Sequence[str]) -> AsyncIterator[Trade]:
        """Give trades as they arrive."""
        ...

    async def request_historical_bars(
        self, symbol: str, resolution: str, *, start_ns: int, end_ns: int
    ) -> Sequence[Bar]:
        """Return bars with start in ``[start_ns, end_ns)``, ascending."""
        ...

    def stream_options(self, underlying: str) -> AsyncIterator[OptionChain]:
        """Give option chains as they change."""
        ...


@runtime_checkable
class HistoricalBars(Protocol):
    """A provider that can be asked for what it gave before, or would have given.

    Its class may say how often it can be asked: ``history_budget``, figures by name as a `RateController` is told of
    them (``capacity``, ``refill_rate`` per second, ``cooldown_sec``).
    """

    async def request_historical_bars(
        self, symbol: str, resolution: str, *, start_ns: int, end_ns: int, what: str = "TRADES"
    ) -> Sequence[Bar]:
        """Return bars with start in ``[start_ns, end_ns)``, ascending, of a vendor's own making (``external``).

        Args:
            symbol: In the provider's notation.
            resolution: Their length, such as ``1m``.
            start_ns: Inclusive, UTC nanoseconds.
            end_ns: Exclusive, UTC nanoseconds.
            what: The prices they are made of.

        Raises:
            ConfigurationError: It has no such bars.
            PacingViolation: It was asked too often; says when to ask again.
            ProviderError: It refused; trying again helps if the error says so.
            TemporaryUnavailable: No answer now.
        """
        ...


@runtime_checkable
class Source(Protocol[T_co]):
    """A source of values, one by one."""

    def stream(self) -> AsyncIterator[T_co]:
        """Give values in order."""
        ...

    async def close(self) -> None:
        """Stop and release."""
        ...


@runtime_checkable
class Transform(Protocol[T_contra, T_co]):
    """A user's own step: values in, any number of values out."""

    async def process(self, value: T_contra) -> Iterable[T_co]:
        """Return what comes out for one value that goes in; empty for nothing."""
        ...


@runtime_checkable
class Sink(Protocol[T_contra]):
    """Where values go."""

    async def write(self, batch: Sequence[T_contra]) -> None:
        """Take some values; durable after `flush`."""
        ...

    async def flush(self) -> None:
        """Make everything written durable."""
        ...

    async def close(self) -> None:
        """Flush and release."""
        ...


@runtime_checkable
class PipelineRunner(Protocol):
    """Something that runs a pipeline."""

    @property
    def is_running(self) -> bool:
        """True between start and stop."""
        ...

    async def start(self) -> None:
        """Start; returns when events can flow."""
        ...

    async def stop(self, drain: bool = True) -> None:  # noqa: FBT001, FBT002  the published call
        """Stop intake; with `drain`, finish what was taken in first."""
        ...

    async def run(self, duration_sec: float | None = None) -> None:
        """Start, wait for the end or for so many seconds, stop."""
        ...


@runtime_checkable
class ProviderRegistry(Protocol):
    """Providers by name."""

    def register(self, name: str, cls: type) -> None:
        """Make a class known under a name."""
        ...

    def load(self, name: str) -> type:
        """Return the class of that name, or raise RegistryError naming what there is."""
        ...


@runtime_checkable
class SinkRegistry(Protocol):
    """Sinks by name."""

    def register(self, name: str, cls: type) -> None:
        """Make a class known under a name."""
        ...

    def load(self, name: str) -> type:
        """Return the class of that name, or raise RegistryError naming what there is."""
        ...


@runtime_checkable
class FeedbackPublisher(Protocol):
    """Who tells sources how the sinks are doing."""

    async def publish(self, event: FeedbackEvent) -> None:
        """Tell everybody who listens."""
        ...


@runtime_checkable
class RateController(Protocol):
    """Who slows sources down that can be slowed down."""

    async def apply(self, adjustment: RateAdjustment) -> None:
        """Set a provider's rate."""
        ...


@runtime_checkable
class FederationDirectory(Protocol):
    """Who is in the federation."""

    async def topology(self) -> ClusterTopology:
        """Return the nodes and how they are."""
        ...

    async def endpoints(self) -> Mapping[str, str]:
        """Return base URLs by peer name."""
        ...
