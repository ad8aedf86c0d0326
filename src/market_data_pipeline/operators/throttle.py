"""Thin events out: at most one per instrument and interval."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from market_data_core.batch import EventBatch
from market_data_core.errors import ConfigurationError
from market_data_core.protocols import Mark, Result
from market_data_core.schemas import Kind
from market_data_pipeline.operators.data_kinds import DATA_KINDS, kind_named
from market_data_pipeline.operators.durations import duration_ns
from market_data_pipeline.operators.held import Held
from market_data_pipeline.operators.streams import Ints, segment_starts
from market_data_pipeline.operators.watermarks import (
    BEFORE_ALL_NS,
    Watermarks,
    by_stream,
    int_column,
    limit,
    trusted,
)


class Throttle:
    """Passes at most one event per kind, stream and interval of event time; the others are suppressed.

    A stream is one instrument as one source gives it. Intervals are whole multiples of their length since the epoch,
    closed on the left. Events of an interval that the stream's watermark (the largest `ts_event` seen) has passed are
    late. Events flagged as far ahead have no time to go by and are filtered.

    Args:
        every: Length of the interval: a count and one of ms, s, m, h, d.
        keep: ``first``: the one that comes first passes at once. ``last``: the one with the largest ``(ts_event,
            seq)`` passes at the barrier after the watermark has passed the interval's end, or the source has ended.
        kind: The one kind to work on; None for all.
        name: Of the node.

    Raises:
        ConfigurationError: The interval, `keep` or the kind is not one of these.
    """

    def __init__(
        self, *, every: str = "1s", keep: str = "first", kind: str | None = None, name: str = "throttle"
    ) -> None:
        if keep not in ("first", "last"):
            raise ConfigurationError(f"{name}: keep {keep!r} is neither first nor last")
        self._name = name
        self._every_ns = duration_ns(every, where=f"{name} every", milliseconds=True)
        self._keeps_last = keep == "last"
        self._kinds = DATA_KINDS if kind is None else frozenset({kind_named(kind, where=name)})
        self._states: dict[Kind, _State] = {}

    @property
    def name(self) -> str:
        """The node's name."""
        return self._name

    @property
    def kinds(self) -> frozenset[Kind]:
        """All kinds of data, or the one chosen."""
        return self._kinds

    def gives(self, incoming: frozenset[Kind]) -> frozenset[Kind]:
        """What comes in."""
        return incoming

    def process(self, batch: EventBatch) -> Result:
        """Return the first event of each interval, or take note of the last."""
        if not len(batch):
            return Result()
        state = self._states.get(batch.kind)
        if state is None:
            state = self._states[batch.kind] = _State(batch.kind)
        places = state.watermarks.places(batch)
        wanted = trusted(batch)
        rows = by_stream(places, wanted)
        filtered = len(batch) - len(rows)
        if not len(rows):
            return Result(filtered=filtered)
        ts = int_column(batch, "ts_event")
        start = ts - ts % self._every_ns
        before = state.watermarks.before(places[rows], ts[rows])
        in_time = start[rows] > limit(before, self._every_ns)
        late = len(rows) - int(in_time.sum())
        rows = rows[in_time]
        if self._keeps_last:
            suppressed = state.put(places[rows], batch, rows, self._every_ns)
            return Result(filtered=filtered, late=late, suppressed=suppressed)
        first = state.firsts(places[rows], start[rows])
        keep = np.zeros(len(batch), np.bool_)
        keep[rows[first]] = True
        kept = batch.filter(keep)
        out = [kept] if len(kept) else []
        return Result(out=out, filtered=filtered, late=late, suppressed=len(rows) - len(kept))

    def advance(self, mark: Mark) -> None:
        """Move the watermarks of the mark's source; the end of a source closes its intervals."""
        for state in self._states.values():
            state.watermarks.advance(mark)

    def barrier(self, end: int, ts_known_ns: int) -> Result:
        """Return the last events of the intervals whose time has come, ascending seq."""
        del end, ts_known_ns
        return Result(out=[b for state in self._states.values() for b in state.due(self._every_ns)])

    def in_flight(self) -> int:
        """Return the number of events that may yet be the last of their interval."""
        return sum(len(state.held) for state in self._states.values())

    def snapshot(self) -> dict[str, Any]:
        """Return watermarks, the intervals given and the events held, by kind."""
        return {str(kind): state.snapshot() for kind, state in self._states.items()}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take up what `snapshot` gave."""
        self._states = {Kind(kind): _State.restored(Kind(kind), each) for kind, each in state.items()}


class _State:
    # Of one kind: the interval of which each stream has given an event, and the events that may be their interval's
    # last, at most one per stream and interval.

    def __init__(self, kind: Kind) -> None:
        self.watermarks = Watermarks()
        self.given: Ints = np.empty(0, np.int64)
        self.held = Held(kind)

    def firsts(self, places: Ints, start: Ints) -> Ints:
        # Rows in time have intervals that never go back within a stream, so the first of each is where it changes.
        self.given = _grown(self.given, len(self.watermarks.streams))
        at: Ints = segment_starts(places, start)
        at = at[start[at] != self.given[places[at]]]
        # Of several intervals of a stream the last one is written last.
        self.given[places[at]] = start[at]
        return at

    def put(self, places: Ints, batch: EventBatch, rows: Ints, every_ns: int) -> int:
        if not len(rows):
            return 0
        # Only each interval's last goes in among what is held: by time, then as they came.
        best = _lasts(places, int_column(batch, "ts_event")[rows], every_ns)
        held = self.held.with_rows(places[best], batch.data.take(rows[best]))
        before = len(self.held) + len(rows)
        self.held = held.take(_lasts(held.places, held.ints("ts_event"), every_ns))
        return before - len(self.held)

    def due(self, every_ns: int) -> list[EventBatch]:
        out: list[EventBatch] = []
        if len(self.held):
            ts = self.held.ints("ts_event")
            closed = ts - ts % every_ns <= limit(self.watermarks.latest[self.held.places], every_ns)
            if self.watermarks.ended:
                closed |= np.isin(self.held.places, list(self.watermarks.ended))
            rows = np.flatnonzero(closed)
            if len(rows):
                order = np.lexsort((self.held.places[rows], self.held.ints("seq")[rows]))
                out = self.held.take(rows[order]).batches(self.watermarks)
                self.held = self.held.take(np.flatnonzero(~closed))
        stay = np.array([p for p in range(len(self.given)) if p not in self.watermarks.ended], np.int64)
        moved = self.watermarks.forget_ended()
        if moved is not None:
            self.given, self.held = self.given[stay], self.held.moved(moved)
        return out

    def snapshot(self) -> dict[str, Any]:
        return {
            "watermarks": self.watermarks.snapshot(),
            "given": self.given.tolist(),
            "held": self.held.snapshot(),
        }

    @classmethod
    def restored(cls, kind: Kind, state: Mapping[str, Any]) -> _State:
        self = cls(kind)
        self.watermarks = Watermarks.restored(state["watermarks"])
        self.given = np.array(state["given"], np.int64)
        self.held = Held.restored(kind, state["held"])
        return self


def _grown(values: Ints, size: int) -> Ints:
    return np.concatenate([values, np.full(size - len(values), BEFORE_ALL_NS, np.int64)])


def _lasts(places: Ints, ts: Ints, every_ns: int) -> Ints:
    # The row of each stream's and interval's largest time, the last of equals; rows of a stream are in log order.
    order = np.lexsort((np.arange(len(ts)), ts, places))
    start = ts[order] - ts[order] % every_ns
    at = segment_starts(places[order], start)
    lasts: Ints = order[np.append(at[1:], len(order)) - 1]
    return lasts
