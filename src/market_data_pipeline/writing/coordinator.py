"""The write coordinator: a queue in front of a store, for those who write without a pipeline."""

from __future__ import annotations

import asyncio
import logging
import random
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from types import TracebackType
from typing import Self

import pyarrow as pa

from market_data_core.clock import Clock, SystemClock
from market_data_core.errors import (
    ConfigurationError,
    MarketDataError,
    SchemaValidationError,
    SinkError,
    TemporaryUnavailable,
    WriterConflict,
)
from market_data_core.protocols import FeedbackPublisher, Store
from market_data_core.schemas import KEYS, STORED_SCHEMAS
from market_data_core.telemetry import BackpressureLevel
from market_data_pipeline.breaker import CircuitBreaker, CircuitState
from market_data_pipeline.waiting import first_of
from market_data_pipeline.writing.dead_letters import DeadLetters
from market_data_pipeline.writing.keyed import Upserts
from market_data_pipeline.writing.lane import Batch, KeyedWay, PlacedWay, Submission, TableWay, Waiting, Written
from market_data_pipeline.writing.policy import Backoff, BatchPolicy
from market_data_pipeline.writing.replay import REPLAYER
from market_data_pipeline.writing.teller import Teller
from market_data_pipeline.writing.watermarks import Watermarks

LOG = logging.getLogger(__name__)

__all__ = ["CoordinatorStats", "WriteCoordinator", "Written"]


@dataclass(frozen=True, slots=True, kw_only=True)
class CoordinatorStats:
    """How a coordinator is doing; ``submitted = stored + refused + failed + queued``, in rows.

    Attributes:
        submitted: Taken in.
        stored: In their tables.
        refused: Among the dead letters.
        failed: Given up after `max_attempts`, or left when it closed; who submitted them was told.
        queued: Waiting or being written.
        capacity: So many may be.
        level: What the watermarks make of that.
        commits: Batches done.
        retries: Attempts that failed.
        breaker: How the circuit breaker stands.
        problem: What the last attempt failed with; empty if it did not.
    """

    submitted: int = 0
    stored: int = 0
    refused: int = 0
    failed: int = 0
    queued: int = 0
    capacity: int
    level: BackpressureLevel
    commits: int = 0
    retries: int = 0
    breaker: CircuitState
    problem: str = ""


@dataclass(slots=True)
class _Counts:
    submitted: int = 0
    stored: int = 0
    refused: int = 0
    failed: int = 0
    queued: int = 0
    commits: int = 0
    retries: int = 0
    problem: str = ""


class _Lane:
    def __init__(self, name: str, way: TableWay, policy: BatchPolicy, clock: Clock) -> None:
        self.name = name
        self.way = way
        self.waiting = Waiting(policy, clock)
        # One submission after the other: the parts of a large one stay together.
        self.turn = asyncio.Lock()
        self.submitted = self.settled = 0
        self.error: MarketDataError | None = None
        self.task: asyncio.Task[None] | None = None


class WriteCoordinator:
    """Takes rows from many, and writes them to a store in the order in which each table got them.

    What the store cannot take now is tried again, behind a circuit breaker that all tables share; what a table refuses
    goes to the dead letters row by row. Rows are safe when their receipt says so: the queue itself is in memory.

    Rows of keyed tables go through `Upserts.upsert` where the store has it. All others are appended with a position of
    the coordinator's own, so a commit whose outcome was not known is never made twice.

    Belongs to one event loop; the store is called by threads. An async context manager, or `open` and `close`.

    Args:
        store: Where to; opened.
        coordinator_id: Names the writer, its dead letters and its feedback. Nobody else may write to the same store
            under this name.
        dead_letters: Where refused rows go.
        capacity: Rows that may wait or be on their way.
        workers: Tables written at once, at most.
        batch: How much goes into one commit.
        backoff: How long to wait after a failure.
        breaker: Leaves a failing store alone; one that opens after 5 failures for 10 s if None.
        max_attempts: So often a batch is tried before it is given up; None for ever.
        bus: Told when the queue's level changes, and of one that is not ok every `repeat_s` seconds.
        repeat_s: See `bus`.
        clock: Times everything.

    Raises:
        ConfigurationError: An argument is out of range.
    """

    def __init__(
        self,
        store: Store,
        *,
        coordinator_id: str,
        dead_letters: DeadLetters,
        capacity: int = 1_000_000,
        workers: int = 2,
        batch: BatchPolicy | None = None,
        backoff: Backoff | None = None,
        breaker: CircuitBreaker | None = None,
        max_attempts: int | None = None,
        bus: FeedbackPublisher | None = None,
        repeat_s: float = 15.0,
        clock: Clock | None = None,
    ) -> None:
        if not coordinator_id or coordinator_id == REPLAYER or "|" in coordinator_id:
            raise ConfigurationError(f"write coordinator: {coordinator_id!r} is no name for one")
        if workers < 1 or (max_attempts is not None and max_attempts < 1) or not repeat_s > 0:
            raise ConfigurationError(
                f"write coordinator {coordinator_id}: workers {workers} and max_attempts {max_attempts} are to be at "
                f"least 1, repeat_s {repeat_s} above 0"
            )
        self.coordinator_id = coordinator_id
        self._store = store
        self._letters = dead_letters
        self._marks = Watermarks(capacity, hard=0.9)
        self._batch = batch or BatchPolicy()
        self._backoff = backoff or Backoff(initial_s=0.1, max_s=10.0)
        self._clock = clock or SystemClock()
        self._breaker = breaker or CircuitBreaker(timeout=10.0, clock=self._clock)
        self._max_attempts = max_attempts
        self._threads = ThreadPoolExecutor(workers, thread_name_prefix=coordinator_id)
        self._teller = Teller(bus, coordinator_id=coordinator_id, repeat_s=repeat_s, clock=self._clock)
        self._random = random.Random()  # noqa: S311  spreads waits, keeps no secrets
        self._lanes: dict[str, _Lane] = {}
        self._counts = _Counts()
        self._room = asyncio.Condition()
        self._healed = asyncio.Event()
        self._closing = asyncio.Event()
        self._stopping = asyncio.Event()

    async def __aenter__(self) -> Self:
        self.open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        # Who was interrupted does not wait for a store that may be away for hours.
        await self.close(drain=kind is None)

    def open(self) -> None:
        """Begin; within the event loop that it belongs to."""
        self._teller.start()

    @property
    def stats(self) -> CoordinatorStats:
        """How it is doing now."""
        c = self._counts
        return CoordinatorStats(
            submitted=c.submitted,
            stored=c.stored,
            refused=c.refused,
            failed=c.failed,
            queued=c.queued,
            capacity=self._marks.capacity,
            level=self._marks.level,
            commits=c.commits,
            retries=c.retries,
            breaker=self._breaker.state,
            problem=c.problem,
        )

    async def submit(self, table: str, rows: pa.Table, *, wait: bool = True) -> asyncio.Future[Written]:
        """Take rows into the queue, waiting for room.

        Cancelled while it waits, some of the rows may be in the queue and be stored, but not all of them.

        Args:
            table: Which table they are for.
            rows: In ``STORED_SCHEMAS[table]``.
            wait: False to raise instead of waiting.

        Returns:
            The receipt, to be awaited by who has to know that every row is stored or among the dead letters. It raises
            TemporaryUnavailable if they were given up or left when the coordinator closed: some may be stored.

        Raises:
            ConfigurationError: No such table is declared.
            SchemaValidationError: The columns are not the table's.
            TemporaryUnavailable: The queue is full, if not to `wait`.
            SinkError: It is closed.
            WriterConflict: Somebody else writes as this coordinator; this table is left alone since.
        """
        lane = self._lane(table, rows)
        async with lane.turn:
            submission = Submission(rows.num_rows)
            at = 0
            while at < rows.num_rows:
                at += await self._admit(lane, submission, rows.slice(at), wait=wait)
        return submission.receipt

    async def flush(self) -> None:
        """Wait until everything that was submitted before is stored, refused or given up."""
        wanted = {lane: lane.submitted for lane in self._lanes.values()}
        for lane in wanted:
            lane.waiting.hurry()
        async with self._room:
            await self._room.wait_for(lambda: all(lane.settled >= rows for lane, rows in wanted.items()))

    async def close(self, *, drain: bool = True, timeout_s: float | None = None) -> int:
        """Take nothing more, write what waits, and end. May be called twice.

        Args:
            drain: False to write only what is on its way.
            timeout_s: How long writing may take; None for no limit.

        Returns:
            How many rows were not written; who submitted them is told.
        """
        failed = self._counts.failed
        self._closing.set()
        async with self._room:
            self._room.notify_all()
        for lane in self._lanes.values():
            lane.waiting.hurry()
        tasks = [lane.task for lane in self._lanes.values() if lane.task is not None]
        try:
            if drain and tasks:
                await first_of(self._clock, timeout_s, [asyncio.gather(*tasks)], name=self.coordinator_id)
        finally:
            self._stopping.set()
            # A commit that is being made cannot be taken back; whether it was made has to be told.
            await asyncio.gather(*tasks)
            await self._teller.close()
            self._threads.shutdown()
        return self._counts.failed - failed

    def _lane(self, table: str, rows: pa.Table) -> _Lane:
        if self._closing.is_set():
            raise SinkError(f"write coordinator {self.coordinator_id} is closed")
        schema = STORED_SCHEMAS.get(table)
        if schema is None:
            raise ConfigurationError(f"no table {table!r} is declared; there are: {', '.join(STORED_SCHEMAS)}")
        if not rows.schema.equals(schema):
            raise SchemaValidationError(f"rows for table {table} have other columns than declared: {rows.schema.names}")
        lane = self._lanes.get(table)
        if lane is None:
            lane = self._lanes[table] = _Lane(table, self._way(table), self._batch, self._clock)
            lane.task = asyncio.create_task(self._run(lane), name=f"{self.coordinator_id}: {table}")
        if lane.error is not None:
            raise lane.error
        return lane

    def _way(self, table: str) -> TableWay:
        writer, letters = self.coordinator_id, self._letters
        if table in KEYS and isinstance(self._store, Upserts):
            return KeyedWay(self._store, table, writer=writer, letters=letters, clock=self._clock)
        return PlacedWay(self._store, table, writer=writer, letters=letters)

    async def _admit(self, lane: _Lane, submission: Submission, rows: pa.Table, *, wait: bool) -> int:
        # As many as there is room for, at least one; all or none of those that do not wait.
        c, capacity = self._counts, self._marks.capacity
        async with self._room:
            if not wait and rows.num_rows > capacity - c.queued:
                raise TemporaryUnavailable(
                    f"the queue of {self.coordinator_id} has room for {capacity - c.queued} rows, "
                    f"not for {rows.num_rows}",
                    code="QueueFull",
                )
            await self._room.wait_for(lambda: c.queued < capacity or self._closing.is_set())
            if lane.error is not None or self._closing.is_set():
                raise lane.error or SinkError(f"write coordinator {self.coordinator_id} is closed")
            taken: int = min(rows.num_rows, capacity - c.queued)
            for at in range(0, taken, self._batch.rows):
                lane.waiting.put(submission, rows.slice(at, min(taken - at, self._batch.rows)))
            c.submitted += taken
            lane.submitted += taken
            self._queued(taken)
        return taken

    def _queued(self, rows: int) -> None:
        self._counts.queued += rows
        if self._marks.update(self._counts.queued):
            self._teller.tell(self._marks, self._counts.queued)

    # One table after another is nobody's business here: each has its task, and `workers` threads serve all.

    async def _run(self, lane: _Lane) -> None:
        while True:
            due_in_s = lane.waiting.due_in_s()
            if due_in_s is None and self._closing.is_set():
                return
            if due_in_s == 0 or (due_in_s is not None and self._closing.is_set()):
                await self._settle(lane, lane.waiting.take())
            else:
                lane.waiting.changed.clear()
                await self._wait(due_in_s, lane.waiting.changed)

    async def _settle(self, lane: _Lane, batch: Batch) -> None:
        error = lane.error or await self._written(lane, batch)
        rows, c = batch.rows.num_rows, self._counts
        if error is None:
            c.commits += 1
            c.stored += rows - len(batch.refused)
            c.refused += len(batch.refused)
            if batch.refused:
                LOG.warning("%s: %d rows of table %s are refused", self.coordinator_id, len(batch.refused), lane.name)
            batch.done()
        else:
            c.failed += rows
            LOG.error("%s: %d rows of table %s are given up: %s", self.coordinator_id, rows, lane.name, error)
            batch.fail(error)
        async with self._room:
            lane.settled += rows
            self._queued(-rows)
            self._room.notify_all()

    async def _written(self, lane: _Lane, batch: Batch) -> MarketDataError | None:
        loop = asyncio.get_running_loop()
        while True:
            while not self._stopping.is_set() and self._breaker.is_open():
                self._healed.clear()
                await self._wait(self._breaker.retry_in_s, self._healed, self._stopping)
            if self._stopping.is_set():
                return TemporaryUnavailable(f"write coordinator {self.coordinator_id} closed before this was stored")
            try:
                await loop.run_in_executor(self._threads, lane.way.write, batch)
            except WriterConflict as exc:
                # Going on would double rows: somebody else has our name.
                lane.error = exc
                await self._breaker.record_success()
                return exc
            except Exception as exc:  # noqa: BLE001  the supervisor: whatever it is, it is tried again
                if (error := await self._failed(lane, batch, exc)) is not None:
                    return error
            else:
                await self._breaker.record_success()
                self._healed.set()
                self._counts.problem = ""
                return None

    async def _failed(self, lane: _Lane, batch: Batch, exc: Exception) -> MarketDataError | None:
        await self._breaker.record_failure()
        batch.attempts += 1
        self._counts.retries += 1
        self._counts.problem = str(exc) if isinstance(exc, MarketDataError) else f"{type(exc).__name__}: {exc}"
        LOG.warning(
            "%s: writing to table %s failed, attempt %d: %s",
            self.coordinator_id,
            lane.name,
            batch.attempts,
            self._counts.problem,
            exc_info=not isinstance(exc, MarketDataError | OSError),
        )
        if batch.attempts == self._max_attempts:
            return TemporaryUnavailable(
                f"table {lane.name} did not take rows in {batch.attempts} attempts: {self._counts.problem}"
            )
        asked_s = exc.retry_after_sec if isinstance(exc, MarketDataError) else None
        await self._wait(asked_s or self._backoff.delay_s(batch.attempts, self._random), self._stopping)
        return None

    async def _wait(self, delay_s: float | None, *events: asyncio.Event) -> None:
        waits = [asyncio.create_task(e.wait(), name=f"{self.coordinator_id}: wait") for e in events]
        try:
            await first_of(self._clock, delay_s, waits, name=self.coordinator_id)
        finally:
            for wait in waits:
                wait.cancel()
