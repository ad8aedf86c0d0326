"""How late events are against the time they fell due, seen where they pass."""

from __future__ import annotations

import threading
from array import array
from collections.abc import AsyncIterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from market_data_core.batch import EventBatch, SourceBatch
from market_data_core.clock import SystemClock
from market_data_core.protocols import BatchSource, Gap, Mark, Result
from market_data_core.schemas import Kind, Origin
from market_data_pipeline.operators.entrance import EVENT_KINDS


class Watch:
    """Keeps how late events were while it is told to; any thread may show it events."""

    def __init__(self) -> None:
        self.watching = False
        # Eight bytes an event: what looks on is to weigh little beside what is weighed.
        self._late = array("q")
        self._lock = threading.Lock()
        self._clock = SystemClock()

    def see(self, ts_due: npt.NDArray[np.int64]) -> None:
        """Take note that events are here now that fell due at these times, UTC nanoseconds."""
        if self.watching:
            late = self._clock.now_ns() - ts_due
            with self._lock:
                self._late.frombytes(late.tobytes())

    def figures(self) -> dict[str, float]:
        """Return how many events were seen and percentiles of their lateness, ms.

        Raises:
            RuntimeError: None was seen.
        """
        with self._lock:
            if not self._late:
                raise RuntimeError("no event was seen")
            late = np.array(self._late, np.int64)
        found = dict(zip(("p50", "p99", "p999"), np.percentile(late, (50, 99, 99.9)) / 1e6, strict=True))
        return {"events": len(late), **{name: round(float(value), 2) for name, value in found.items()}}


IN_GRAPHS = Watch()
"""What every `Watching` operator of this process shows its events."""


class WatchedSource:
    """A source whose events are seen as they are handed over.

    Args:
        source: What gives them.
        watch: Who sees them.
    """

    def __init__(self, source: BatchSource, watch: Watch) -> None:
        self._source = source
        self._watch = watch

    @property
    def name(self) -> str:
        return self._source.name

    @property
    def origin(self) -> Origin:
        return self._source.origin

    @property
    def waits(self) -> bool:
        return self._source.waits

    async def batches(self, resume: Mapping[str, int]) -> AsyncIterator[SourceBatch | Mark | Gap]:
        async for item in self._source.batches(resume):
            if isinstance(item, SourceBatch):
                self._watch.see(item.data.column("ts_event").to_numpy())
            yield item

    async def close(self) -> None:
        await self._source.close()


class Watching:
    """An operator that passes everything on and shows it to `IN_GRAPHS`. For measuring alone: it looks at a clock.

    Args:
        name: Of the node.
    """

    def __init__(self, *, name: str = "watching") -> None:
        self._name = name

    @property
    def name(self) -> str:
        return self._name

    @property
    def kinds(self) -> frozenset[Kind]:
        return EVENT_KINDS

    def gives(self, incoming: frozenset[Kind]) -> frozenset[Kind]:
        return incoming

    def process(self, batch: EventBatch) -> Result:
        IN_GRAPHS.see(batch.data.column("ts_event").to_numpy())
        return Result(out=[batch])

    def advance(self, mark: Mark) -> None:
        """Time does not matter here."""

    def barrier(self, end: int, ts_known_ns: int) -> Result:
        del end, ts_known_ns
        return Result()

    def in_flight(self) -> int:
        return 0

    def snapshot(self) -> dict[str, Any]:
        return {}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take up nothing."""
