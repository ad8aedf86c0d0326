"""Rows one at a time into a store that likes them by the thousand."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Protocol, Self

from market_data_core.errors import ConfigurationError
from market_data_store.backend import Upserted
from mds_client.errors import ClientClosed
from mds_client.models import Bar, Fundamentals, News, OptionSnap, StoredRow


@dataclass(frozen=True, slots=True)
class BatchConfig:
    """When a batch is stored: at whichever comes first.

    Attributes:
        max_rows: When it has so many rows.
        max_ms: When its first row has waited so long.
        max_bytes: When its rows take about so much memory.
    """

    max_rows: int = 1000
    max_ms: int = 5000
    max_bytes: int = 1 << 20

    def __post_init__(self) -> None:
        for name in ("max_rows", "max_ms", "max_bytes"):
            if getattr(self, name) < 1:
                raise ConfigurationError(f"{name} of a batch is {getattr(self, name)}; it has to be 1 or more")


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchStats:
    """What a batch processor has done.

    Attributes:
        rows: Stored, those that changed nothing among them.
        batches: In so many calls of the store.
        errors: Calls that failed; their rows are still held, or were stored later.
        held_rows: Taken and not yet stored.
        held_bytes: About what these take in memory.
        stored: What became of the stored ones.
    """

    rows: int = 0
    batches: int = 0
    errors: int = 0
    held_rows: int = 0
    held_bytes: int = 0
    stored: Upserted = field(default_factory=Upserted)


class Held:
    """Rows that wait, by type, in the order they came. Not safe for several threads at once.

    Args:
        config: When they have waited enough.
    """

    def __init__(self, config: BatchConfig) -> None:
        self._config = config
        self._rows: dict[type[StoredRow], list[tuple[StoredRow, int, float]]] = {}
        self._tried_s = float("-inf")
        self._stats = BatchStats()
        self.count = 0
        self.size_bytes = 0

    def is_full(self) -> bool:
        """Return whether there are as many as there may be."""
        return self.count >= self._config.max_rows or self.size_bytes >= self._config.max_bytes

    @property
    def stats(self) -> BatchStats:
        """What was done so far."""
        done = self._stats
        return BatchStats(
            rows=done.rows,
            batches=done.batches,
            errors=done.errors,
            held_rows=self.count,
            held_bytes=self.size_bytes,
            stored=done.stored,
        )

    def add(self, model: StoredRow) -> None:
        """Take a row."""
        size_bytes = _size_bytes(model)
        self._rows.setdefault(type(model), []).append((model, size_bytes, time.monotonic()))
        self.count += 1
        self.size_bytes += size_bytes

    def due_in_s(self) -> float | None:
        """Return in how many seconds the first row has waited long enough; None if there is none.

        What could not be stored is tried again after as long a time.
        """
        if not self.count:
            return None
        first_s = min(rows[0][2] for rows in self._rows.values() if rows)
        return max(0.0, max(first_s, self._tried_s) + self._config.max_ms / 1000 - time.monotonic())

    def kinds(self) -> list[type[StoredRow]]:
        """Return the types of the rows."""
        return [kind for kind, rows in self._rows.items() if rows]

    def of(self, kind: type[StoredRow]) -> list[StoredRow]:
        """Return the rows of a type."""
        return [model for model, _, _ in self._rows[kind]]

    def done(self, kind: type[StoredRow], count: int, stored: Upserted) -> None:
        """Let go of the first rows of a type, which are stored."""
        self._forget(kind, count)
        done = self._stats
        self._stats = BatchStats(
            rows=done.rows + count, batches=done.batches + 1, errors=done.errors, stored=done.stored + stored
        )

    def failed(self) -> None:
        """Count a call of the store that failed."""
        done = self._stats
        self._tried_s = time.monotonic()
        self._stats = BatchStats(rows=done.rows, batches=done.batches, errors=done.errors + 1, stored=done.stored)

    def take_back(self) -> list[StoredRow]:
        """Return all rows and hold none of them any more."""
        found = [model for kind in self._rows for model in self.of(kind)]
        for kind, rows in self._rows.items():
            self._forget(kind, len(rows))
        return found

    def _forget(self, kind: type[StoredRow], count: int) -> None:
        gone = self._rows[kind][:count]
        del self._rows[kind][:count]
        self.count -= len(gone)
        self.size_bytes -= sum(size_bytes for _, size_bytes, _ in gone)


# Numbers and times count eight bytes, as they will in columns.
def _size_bytes(model: StoredRow) -> int:
    return sum(len(value) if isinstance(value, str) else 8 for value in model.__dict__.values())


class Upserting(Protocol):
    """What a batch processor asks of its client; `MDS` is one."""

    def check(self, model: StoredRow) -> None:
        """Refuse a model that cannot be stored."""
        ...

    def upsert(self, models: Sequence[StoredRow]) -> Upserted:
        """Store models of one type."""
        ...


class BatchProcessor:
    """Takes rows one at a time and stores them in batches. Safe to use from several threads.

    A batch is stored when it is full, when its first row has waited long enough, by `flush`, and by `close`. Rows that
    could not be stored are held and tried again, in their order. What went wrong in the background is raised by the
    next call, unless all was stored meanwhile.

    An `add_...` that raises has not taken its row; one that does not has, and the row is stored or held until it is.

    Args:
        client: Where the rows go. It stays open.
        config: When a batch is stored.
    """

    def __init__(self, client: Upserting, config: BatchConfig | None = None) -> None:
        self._client = client
        self._held = Held(config or BatchConfig())
        # Of what is held, and for the timer to wait on.
        self._state = threading.Condition()
        # Held while a batch is on its way, so that no later one overtakes it. Taken before `_state`, never within.
        self._storing = threading.Lock()
        self._timer: threading.Thread | None = None
        self._error: Exception | None = None
        self._closed = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def stats(self) -> BatchStats:
        """What was done so far."""
        with self._state:
            return self._held.stats

    def add_bar(self, bar: Bar) -> None:
        """Take a bar; see `add`."""
        self.add(bar)

    def add_fundamental(self, fundamentals: Fundamentals) -> None:
        """Take fundamentals; see `add`."""
        self.add(fundamentals)

    def add_news(self, news: News) -> None:
        """Take news; see `add`."""
        self.add(news)

    def add_option(self, option: OptionSnap) -> None:
        """Take an option snapshot; see `add`."""
        self.add(option)

    def add(self, model: StoredRow) -> None:
        """Take a row of any type.

        Raises:
            ClientClosed: The batch or its client is closed.
            ValidationError: The row is another tenant's.
            MarketDataError: Rows of before could not be stored; they are held. Of the class that the store raised.
        """
        self._client.check(model)
        with self._state:
            self._refuse_closed()
            error, self._error = self._error, None
            full = self._held.is_full()
        if error is not None:
            raise error
        if full:
            self.flush()
        with self._state:
            self._refuse_closed()
            self._held.add(model)
            if self._timer is None:
                self._timer = threading.Thread(target=self._watch, name="mds-batch", daemon=True)
                self._timer.start()
            if self._held.count == 1:
                self._state.notify_all()  # the timer knows of no row; later ones do not change when it is due
            full = self._held.is_full()
        if full:
            self._flush_quietly()

    def flush(self) -> Upserted:
        """Store all that is held.

        Returns:
            What became of it.

        Raises:
            MarketDataError: The store did not take it; what it did not take is held. Of the class that it raised.
        """
        try:
            return self._flush()
        except Exception as exc:
            with self._state:
                if self._error is exc:
                    self._error = None  # told now
            raise

    def _flush(self) -> Upserted:
        total = Upserted()
        with self._storing:
            with self._state:
                kinds = self._held.kinds()
            for kind in kinds:
                with self._state:
                    models = self._held.of(kind)
                try:
                    stored = self._client.upsert(models)
                except Exception as exc:
                    with self._state:
                        self._held.failed()
                        self._error = exc
                    raise
                with self._state:
                    self._held.done(kind, len(models), stored)
                total += stored
            with self._state:
                self._error = None
        return total

    def take_back(self) -> list[StoredRow]:
        """Return the rows that are held and hold them no longer: those that the store will never take, for instance."""
        with self._storing, self._state:
            self._error = None
            return self._held.take_back()

    def close(self) -> None:
        """Take no further rows and store those that are held.

        Raises:
            MarketDataError: The store did not take them; they are held, and calling it again tries again.
        """
        with self._state:
            self._closed = True
            self._state.notify_all()
        if self._timer is not None:
            self._timer.join()
        self.flush()

    def _refuse_closed(self) -> None:
        if self._closed:
            raise ClientClosed("the batch is closed")

    def _watch(self) -> None:
        while self._wait_until_due():
            self._flush_quietly()

    # False when there will be nothing more to do.
    def _wait_until_due(self) -> bool:
        with self._state:
            while not self._closed:
                due_s = self._held.due_in_s()
                if due_s == 0:
                    return True
                self._state.wait(due_s)
            return False

    # The row at hand is taken; what went wrong has been noted for the next call.
    def _flush_quietly(self) -> None:
        with contextlib.suppress(Exception):
            self._flush()
