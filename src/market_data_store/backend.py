"""What a tenant's stored data can be asked for and given, whichever store keeps it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Protocol, Self

import pyarrow as pa

from market_data_core.protocols import Store

START_OF_TIME_NS: Final = -(2**63)
END_OF_TIME_NS: Final = 2**63 - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """Which rows of a table are asked for.

    Attributes:
        start_ns: Inclusive, by ``ts_event``, UTC nanoseconds.
        end_ns: Exclusive; `END_OF_TIME_NS` is no bound.
        vendor: One vendor's only; None for all, which are never merged.
        symbols: These only; empty for all.
        equal: Further text columns and what they have to be, such as ``{"interval": "1m"}``.
        as_of_ns: Of a keyed table, only what was known at that time by ``ts_known``, UTC nanoseconds; None for now.
        versions: Of a keyed table, every version instead of the newest.
    """

    start_ns: int = START_OF_TIME_NS
    end_ns: int = END_OF_TIME_NS
    vendor: str | None = None
    symbols: tuple[str, ...] = ()
    equal: Mapping[str, str] = field(default_factory=dict)
    as_of_ns: int | None = None
    versions: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Upserted:
    """What became of rows that were handed in.

    Attributes:
        inserted: Of a key that was not there.
        revised: A new version of a key that was there, with other values.
        unchanged: Said nothing that was not stored already.
    """

    inserted: int = 0
    revised: int = 0
    unchanged: int = 0

    def __add__(self, other: Self) -> Self:
        """Return both together."""
        return type(self)(
            inserted=self.inserted + other.inserted,
            revised=self.revised + other.revised,
            unchanged=self.unchanged + other.unchanged,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class OutboxJob:
    """A piece of work that somebody asked for and somebody else will do.

    Attributes:
        id: Ascending in the order of asking.
        job_type: What is to be done.
        payload: With what; JSON values.
        priority: Higher first.
        idempotency_key: What the asker named it by; unique per tenant.
        state: ``queued``, ``running``, ``done`` or ``failed``.
        attempts: How often it was claimed.
        owner: Who works on it, or did last.
        created_ns: UTC nanoseconds.
        lease_ns: Until when its owner has it, UTC nanoseconds; then another may claim it. None when nobody has it.
        error: Why it failed.
    """

    id: int
    job_type: str
    payload: Mapping[str, Any]
    priority: int = 0
    idempotency_key: str
    state: str = "queued"
    attempts: int = 0
    owner: str | None = None
    created_ns: int
    lease_ns: int | None = None
    error: str | None = None


class Backend(Store, Protocol):
    """One tenant's stored data. Safe to use from several threads.

    Every method raises TemporaryUnavailable where the storage is away and ConfigurationError where a table or column
    that is asked for is not declared; what else, its own text says.
    """

    @property
    def tenant(self) -> str:
        """Whose data."""
        ...

    def close(self) -> None:
        """Release what it holds. May be called twice."""
        ...

    def schema_version(self) -> int:
        """Return the version of the schema that the storage has; 0 where nothing was made yet."""
        ...

    def health(self) -> Mapping[str, Any]:
        """Return ``backend``, ``version`` of its software, ``schema_version`` and ``latency_ms`` of one round trip."""
        ...

    def upsert(self, table: str, rows: pa.Table, *, now_ns: int) -> Upserted:
        """Add versions of keyed rows in one atomic, durable step.

        A row without ``revision`` says what is true now: equal to the newest version it changes nothing, else it
        becomes the next one, known at its ``ts_known`` or, without one, at `now_ns`. A row with ``revision`` is one
        version of a history that is being restored: it is taken as it is, once. Of several rows of one key in `rows`
        the later ones come after the earlier ones.

        Args:
            table: A keyed table's name, one of `market_data_core.schemas.KEYS`.
            rows: In ``STORED_SCHEMAS[table]``; ``ts_recv`` may be null, meaning `now_ns`, and so may ``seq``,
                meaning 0.
            now_ns: The time of this call, UTC nanoseconds.

        Raises:
            SchemaValidationError: A row cannot be stored: a column of its key is null, a number is NaN, or the columns
                are not the table's. Its ``details`` say ``row`` (from 0) and ``column``. Nothing is stored.
        """
        ...

    def stream(
        self, table: str, wanted: Wanted, *, columns: Sequence[str] | None = None, batch_rows: int = 65_536
    ) -> Iterator[pa.RecordBatch]:
        """Give rows, a few at a time, in memory that does not grow with their number.

        By UTC date of ``ts_event``, ascending; within a date, of a keyed table by its whole key, in no promised order
        of another.

        Args:
            table: Which.
            wanted: Which rows.
            columns: Which columns, all if None.
            batch_rows: At most so many at a time.
        """
        ...

    def fetch(self, table: str, wanted: Wanted, *, columns: Sequence[str] | None = None) -> pa.Table:
        """Return rows, ascending ``(ts_event, seq)``, of a keyed table ascending ``ts_event`` and then its key."""
        ...

    def latest_prices(self, symbols: Sequence[str] = (), *, vendor: str | None = None) -> pa.Table:
        """Return the last price of each instrument: ``vendor, symbol, price, price_timestamp`` (UTC nanoseconds).

        The last trade; where there is none the middle of the last two-sided quote, where there is neither the last
        close.

        Args:
            symbols: These only; empty for all.
            vendor: One vendor's only.
        """
        ...

    def coverage(self, table: str, wanted: Wanted) -> pa.Table:
        """Return how much there is: ``vendor, symbol, date, rows, first_ts, last_ts``, ascending by the first three.

        ``rows`` counts every version of a keyed table; times are UTC nanoseconds by ``ts_event``.
        """
        ...

    def enqueue(
        self, job_type: str, payload: Mapping[str, Any], *, idempotency_key: str, priority: int = 0, now_ns: int
    ) -> OutboxJob:
        """Ask for work to be done; with a key that was used before, return the job of then.

        Raises:
            ValidationError: The key was used for another type or payload.
        """
        ...

    def claim(
        self, owner: str, *, job_types: Sequence[str] = (), lease_s: float = 60.0, now_ns: int
    ) -> OutboxJob | None:
        """Take the next job that is queued, or whose lease is over; None if there is none. No two callers get one."""
        ...

    def finish(self, job_id: int, *, owner: str, error: str | None = None, now_ns: int) -> OutboxJob:
        """Say what came of a job.

        Raises:
            ValidationError: `owner` does not have it (any more).
        """
        ...

    def jobs(self, *, state: str | None = None, limit: int = 100) -> list[OutboxJob]:
        """Return jobs, newest first."""
        ...
