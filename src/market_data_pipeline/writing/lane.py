"""The rows of one table on their way through a write coordinator, in their order."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import pyarrow as pa

from market_data_core.clock import Clock
from market_data_core.errors import MarketDataError, WriterConflict
from market_data_core.protocols import Store
from market_data_pipeline.writing.dead_letters import DeadLetters
from market_data_pipeline.writing.keyed import KeyedRows, Upserts, set_aside_in
from market_data_pipeline.writing.policy import BatchPolicy
from market_data_pipeline.writing.table_writer import Run, TableWriter


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """What became of rows that were submitted, all of which are safe now.

    Attributes:
        stored: In their table.
        refused: Among the dead letters.
    """

    stored: int = 0
    refused: int = 0


class Submission:
    """Rows that somebody submitted together, and how many of them are still on their way."""

    def __init__(self, rows: int) -> None:
        self.receipt: asyncio.Future[Written] = asyncio.get_running_loop().create_future()
        self._left = rows
        self._refused = 0
        self._rows = rows
        if not rows:
            self.receipt.set_result(Written())

    def done(self, rows: int, refused: int) -> None:
        """Take note that rows are safe."""
        self._left -= rows
        self._refused += refused
        if not self._left and not self.receipt.done():
            self.receipt.set_result(Written(stored=self._rows - self._refused, refused=self._refused))

    def fail(self, error: MarketDataError) -> None:
        """Take note that some rows are not stored, or not known to be."""
        if not self.receipt.done():
            self.receipt.set_exception(error)
            # Who does not ask is not told again by the event loop; the coordinator's figures say it too.
            self.receipt.exception()


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """A part of a submission."""

    submission: Submission
    rows: pa.Table
    since_s: float


@dataclass(slots=True)
class Batch:
    """What goes into one commit.

    Attributes:
        pieces: Where it came from.
        rows: All their rows.
        attempts: How often it was tried.
        refused: By number, rows known to have been set aside.
    """

    pieces: list[Piece]
    rows: pa.Table
    attempts: int = 0
    refused: frozenset[int] = frozenset()

    def done(self) -> None:
        """Tell all who submitted it."""
        first = 0
        for piece in self.pieces:
            count = piece.rows.num_rows
            piece.submission.done(count, sum(first <= n < first + count for n in self.refused))
            first += count

    def fail(self, error: MarketDataError) -> None:
        """Tell all who submitted it."""
        for piece in self.pieces:
            piece.submission.fail(error)


class Waiting:
    """What waits for one table, and what of it makes the next batch."""

    def __init__(self, policy: BatchPolicy, clock: Clock) -> None:
        self.changed = asyncio.Event()
        self.rows = 0
        self._policy = policy
        self._clock = clock
        self._size_bytes = 0
        self._pieces: deque[Piece] = deque()
        # Up to this many rows are wanted at once.
        self._hurried = 0

    def put(self, submission: Submission, rows: pa.Table) -> None:
        """Take rows."""
        self._pieces.append(Piece(submission=submission, rows=rows, since_s=self._clock.monotonic_s()))
        self.rows += rows.num_rows
        self._size_bytes += rows.nbytes
        self.changed.set()

    def hurry(self) -> None:
        """Make what waits now due at once."""
        self._hurried = self.rows
        self.changed.set()

    def due_in_s(self) -> float | None:
        """Return when the next batch is to be written, 0 for now, None if nothing waits."""
        if not self._pieces:
            return None
        policy = self._policy
        if self._hurried or self.rows >= policy.rows or self._size_bytes >= policy.size_bytes:
            return 0.0
        return max(self._pieces[0].since_s + policy.linger_s - self._clock.monotonic_s(), 0.0)

    def take(self) -> Batch:
        """Return the next batch, of at least one piece."""
        taken: list[Piece] = []
        rows = size = 0
        while self._pieces:
            piece = self._pieces[0]
            over = rows + piece.rows.num_rows > self._policy.rows or size + piece.rows.nbytes > self._policy.size_bytes
            if taken and over:
                break
            taken.append(self._pieces.popleft())
            rows, size = rows + piece.rows.num_rows, size + piece.rows.nbytes
        self.rows -= rows
        self._size_bytes -= size
        self._hurried = max(self._hurried - rows, 0)
        return Batch(pieces=taken, rows=pa.concat_tables([p.rows for p in taken]))


class TableWay(Protocol):
    """How a batch gets into a table; called by threads, one at a time."""

    def write(self, batch: Batch) -> None:
        """Write it, or go on with it: after an error the same batch may be given again, or another if that is lost."""
        ...


class PlacedWay:
    """Into a table of events: the position that is committed with the rows says whether a commit was made.

    Positions count the rows that were dealt with.
    """

    def __init__(self, store: Store, table: str, *, writer: str, letters: DeadLetters) -> None:
        self._view: Callable[[], TableWriter] = lambda: TableWriter(
            lambda: store.table(table), writer=writer, letters=letters
        )
        self._writer: TableWriter | None = None
        self._begun: Batch | None = None
        self._base = 0

    def write(self, batch: Batch) -> None:
        """Write a batch.

        Raises:
            WriterConflict: Somebody else writes as this coordinator.
            TemporaryUnavailable: Storage or disk did not take it.
        """
        again = self._begun is batch
        writer = self._writer or self._view()
        # Until this has returned, nobody knows what the table has.
        self._writer = None
        if not again:
            # What was cut short belongs to a batch that nobody has any more.
            writer.begin_anew()
            self._base, self._begun = writer.position, batch
        count = batch.rows.num_rows
        target = self._base + count
        if writer.position not in (self._base, target):
            raise WriterConflict(f"somebody else committed to table {writer.name} as this coordinator")
        dealt = writer.dealt(Run(end=target, first=0, rows=count))
        if writer.position < target:
            run = Run(end=target, first=dealt, rows=count - dealt)
            refused = writer.commit(batch.rows.slice(dealt), position=target, covers={}, runs=[run])
            batch.refused |= {dealt + number for number, _ in refused}
        if dealt:
            batch.refused |= {place.row for place in writer.refused(above=target - 1)}
        self._writer = writer


class KeyedWay:
    """Into a keyed table: writing again changes nothing."""

    def __init__(self, store: Upserts, table: str, *, writer: str, letters: DeadLetters, clock: Clock) -> None:
        self._store = store
        self._table = table
        self._clock = clock
        self._set_aside = set_aside_in(letters, writer=writer, table=table)
        self._begun: Batch | None = None
        self._rows: KeyedRows | None = None

    def write(self, batch: Batch) -> None:
        """Write a batch.

        Raises:
            TemporaryUnavailable: Storage or disk did not take it.
        """
        if self._rows is None or self._begun is not batch:
            self._begun, self._rows = batch, KeyedRows(self._table, batch.rows, now_ns=self._clock.now_ns())
        self._rows.write(self._store, self._set_aside)
        batch.refused = frozenset(self._rows.refused)
