"""Taps: who looks at events as they are appended. A tap has no position; one that is slow skips, and is told so."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

from market_data_core.batch import SourceBatch
from market_data_core.schemas import Origin


@dataclass(frozen=True, slots=True)
class Tapped:
    """Events as they were appended.

    Attributes:
        batch: The events, as their source gave them and with receive times.
        first_seq: The sequence number of the first.
        origin: How they came to us.
    """

    batch: SourceBatch
    first_seq: int
    origin: Origin


class Tap:
    """One looker-on: a bounded queue that drops its oldest batches when nobody takes them.

    Args:
        limit: Batches kept.
    """

    def __init__(self, limit: int) -> None:
        self._queue: deque[Tapped] = deque(maxlen=limit)
        self._lock = threading.Lock()
        self._missed = 0

    def put(self, item: Tapped) -> None:
        """Add a batch; called by the capture thread, never waits."""
        with self._lock:
            if len(self._queue) == self._queue.maxlen:
                self._missed += self._queue[0].batch.data.num_rows
            self._queue.append(item)

    def take(self) -> tuple[list[Tapped], int]:
        """Return what came since the last call, in order, and how many events were missed before it."""
        with self._lock:
            items, missed = list(self._queue), self._missed
            self._queue.clear()
            self._missed = 0
        return items, missed


class Taps:
    """The lookers-on of one capture."""

    def __init__(self) -> None:
        self._taps: tuple[Tap, ...] = ()

    def open(self, limit: int = 256) -> Tap:
        """Return a new tap; it sees what is appended from now on."""
        tap = Tap(limit)
        self._taps = (*self._taps, tap)
        return tap

    def close(self, tap: Tap) -> None:
        """Take a tap away."""
        self._taps = tuple(t for t in self._taps if t is not tap)

    def publish(self, batch: SourceBatch, first_seq: int, origin: Origin) -> None:
        """Give a batch to all taps."""
        if self._taps:
            item = Tapped(batch, first_seq, origin)
            for tap in self._taps:
                tap.put(item)

    def __iter__(self) -> Iterator[Tap]:
        return iter(self._taps)
