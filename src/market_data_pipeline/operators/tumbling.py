"""Aggregates over windows of event time, one after the other or overlapping."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from market_data_core.batch import EventBatch
from market_data_core.errors import ConfigurationError
from market_data_core.protocols import END_OF_TIME_NS, Mark, Result
from market_data_core.schemas import Kind
from market_data_pipeline.operators.aggregates import Aggregate, Columns, plain
from market_data_pipeline.operators.data_kinds import kind_named, kinds_with
from market_data_pipeline.operators.durations import duration_ns
from market_data_pipeline.operators.named_values import named_values
from market_data_pipeline.operators.panes import Grid
from market_data_pipeline.operators.streams import Ints, segment_starts, time_order
from market_data_pipeline.operators.watermarks import (
    BEFORE_ALL_NS,
    Watermarks,
    by_stream,
    int_column,
    limit,
    trusted,
)


class Window:
    """Aggregates over windows of event time, as rows of kind ``analytics`` stamped with the window's start.

    Windows are per stream (one instrument as one source gives it), closed on the left, open on the right, and begin at
    whole multiples of `slide` since the epoch. ``first`` and ``last`` go by ``(ts_event, seq)``. ``sum`` and ``mean``
    are exact and rounded once, so no order and no split changes a digit. A value that is null in an event is left out
    of its aggregate; an aggregate of nothing gives no row, nor does a window without an event.

    The rows of a window come out, in the order of `aggregate`, at the barrier after the watermark (the largest
    `ts_event` seen, or a mark) has reached its end plus the allowed lateness, or the source has ended. An event is
    late when a window that it belongs to has been closed so; no window takes it then, so windows that overlap hold the
    same events. Events flagged as far ahead are filtered. An event is in flight until no further window has it, and
    absorbed then.

    Args:
        length: A count and one of s, m, h, d.
        aggregate: By name of the value, ``sum min max first last mean count`` of an expression in the language of
            `expressions`: ``sum(price * size)``, ``count()``.
        slide: From one window's start to the next; `length` is a whole multiple of it, at most 10,000. None: `length`.
        kind: The kind to work on. None: trades if they have all the columns named, else the only kind that has.
        allowed_lateness: How long a window waits for stragglers, in event time; ``0s`` not at all.
        name: Of the node.

    Raises:
        ConfigurationError: A value is not one of these.
    """

    def __init__(
        self,
        *,
        aggregate: Mapping[str, str],
        length: str = "1m",
        slide: str | None = None,
        kind: str | None = None,
        allowed_lateness: str = "0s",
        name: str = "window",
    ) -> None:
        if not isinstance(aggregate, Mapping) or not aggregate:
            raise ConfigurationError(f"{name}: give at least one aggregate, such as total: 'sum(size)'")
        self._name = name
        self._aggregates = {n: Aggregate(text, where=f"{name} {n}") for n, text in aggregate.items()}
        self._kind = _kind(self._aggregates, kind, name)
        for each in self._aggregates.values():
            each.bind(self._kind)
        length_ns = duration_ns(length, where=f"{name} length")
        step_ns = length_ns if slide is None else duration_ns(slide, where=f"{name} slide")
        self._grid = Grid.checked(step_ns, length_ns, where=name)
        self._lateness_ns = duration_ns(allowed_lateness, where=f"{name} allowed_lateness", zero=True)
        self._reset()

    def _reset(self) -> None:
        self._watermarks = Watermarks()
        self._given: Ints = np.empty(0, np.int64)
        # Panes that have events, ascending (stream, start); the columns of each aggregate have a row for each.
        self._stream: Ints = np.empty(0, np.int64)
        self._start: Ints = np.empty(0, np.int64)
        self._count: Ints = np.empty(0, np.int64)
        self._columns: dict[str, Columns] = {n: a.empty() for n, a in self._aggregates.items()}

    @property
    def name(self) -> str:
        """The node's name."""
        return self._name

    @property
    def kinds(self) -> frozenset[Kind]:
        """The one kind it works on."""
        return frozenset({self._kind})

    def gives(self, incoming: frozenset[Kind]) -> frozenset[Kind]:
        """Analytics, where something comes in that it works on."""
        return frozenset({Kind.ANALYTICS}) if incoming & self.kinds else frozenset()

    def process(self, batch: EventBatch) -> Result:
        """Take events; nothing comes out before the barrier."""
        if not len(batch):
            return Result()
        places = self._watermarks.places(batch)
        self._given = _grown(self._given, len(self._watermarks.streams))
        rows = by_stream(places, trusted(batch))
        filtered = len(batch) - len(rows)
        if not len(rows):
            return Result(filtered=filtered)
        ts = int_column(batch, "ts_event")
        before = self._watermarks.before(places[rows], ts[rows])
        in_time = self._grid.starts(ts[rows]) > limit(before, self._lateness_ns + self._grid.step_ns)
        late = len(rows) - int(in_time.sum())
        rows = rows[in_time]
        if len(rows):
            rows = rows[time_order(ts[rows], segment_starts(places[rows]))]
            self._add(batch, rows, places[rows], ts[rows])
        return Result(filtered=filtered, late=late)

    def _add(self, batch: EventBatch, rows: Ints, stream: Ints, ts: Ints) -> None:
        start = self._grid.starts(ts)
        at = segment_starts(stream, start)
        counts = np.diff(at, append=len(rows))
        group = np.repeat(np.arange(len(at)), counts)
        self._place(stream[at], start[at])
        # Every pane is there now; with equal keys joined they are found by one search.
        found = np.searchsorted(_keys(self._stream, self._start), _keys(stream[at], start[at]))
        self._count[found] += counts
        seq = int_column(batch, "seq")[rows]
        for name, aggregate in self._aggregates.items():
            more = aggregate.of(aggregate.values(batch)[rows], ts, seq, group, len(at))
            aggregate.added(self._columns[name], more, found)

    def _place(self, stream: Ints, start: Ints) -> None:
        # Makes room for panes that are not there.
        mine, theirs = _keys(self._stream, self._start), _keys(stream, start)
        missing = ~np.isin(theirs, mine)
        if not missing.any():
            return
        order = np.argsort(np.concatenate([mine, theirs[missing]]), kind="stable")
        fresh = np.zeros(int(missing.sum()), np.int64)
        self._stream = np.concatenate([self._stream, stream[missing]])[order]
        self._start = np.concatenate([self._start, start[missing]])[order]
        self._count = np.concatenate([self._count, fresh])[order]
        for name, aggregate in self._aggregates.items():
            none = np.empty(0)
            blank = aggregate.of(none, fresh[:0], fresh[:0], fresh[:0], len(fresh))
            self._columns[name] = {
                n: np.concatenate([column, blank[n]])[order] for n, column in self._columns[name].items()
            }

    def advance(self, mark: Mark) -> None:
        """Move the watermarks of the mark's source; the end of a source closes all its windows."""
        self._watermarks.advance(mark)

    def barrier(self, end: int, ts_known_ns: int) -> Result:
        """Give the rows of the windows whose time has come."""
        watermarks = self._watermarks
        closed = self._grid.closed_until(limit(watermarks.latest, self._lateness_ns))
        if watermarks.ended:
            closed[list(watermarks.ended)] = END_OF_TIME_NS
        due = self._grid.due(self._stream, self._start, self._given, closed)
        out: list[EventBatch] = []
        if len(due):
            table = np.column_stack([a.result(self._columns[n], due) for n, a in self._aggregates.items()])
            starts = due.end - self._grid.length_ns
            names = list(self._aggregates)
            out = named_values(watermarks, due.stream, starts, names, table, end=end, ts_known_ns=ts_known_ns)
        self._given = np.maximum(self._given, closed)
        spent = self._grid.spent(self._stream, self._start, closed)
        absorbed = int(self._count[spent].sum())
        if spent.any():
            self._keep(~spent)
        self._forget_ended()
        return Result(out=out, emitted=sum(len(b) for b in out), absorbed=absorbed)

    def _keep(self, rows: np.ndarray[tuple[int, ...], np.dtype[np.bool_]]) -> None:
        self._stream, self._start, self._count = self._stream[rows], self._start[rows], self._count[rows]
        self._columns = {n: {c: v[rows] for c, v in columns.items()} for n, columns in self._columns.items()}

    def _forget_ended(self) -> None:
        moved = self._watermarks.forget_ended()
        if moved is not None:
            self._given = self._given[moved >= 0]
            self._stream = moved[self._stream]

    def in_flight(self) -> int:
        """Return the number of events that a further window may have."""
        return int(self._count.sum())

    def snapshot(self) -> dict[str, Any]:
        """Return panes and watermarks; sums may be integers of any size."""
        return {
            "watermarks": self._watermarks.snapshot(),
            "given": self._given.tolist(),
            "stream": self._stream.tolist(),
            "start": self._start.tolist(),
            "count": self._count.tolist(),
            "columns": {name: plain(columns) for name, columns in self._columns.items()},
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take up what `snapshot` gave."""
        self._watermarks = Watermarks.restored(state["watermarks"])
        self._given, self._stream, self._start, self._count = (
            np.array(state[n], np.int64) for n in ("given", "stream", "start", "count")
        )
        self._columns = {n: a.restored(state["columns"][n]) for n, a in self._aggregates.items()}


def _kind(aggregates: Mapping[str, Aggregate], kind: str | None, where: str) -> Kind:
    names = frozenset[str]().union(*(a.names for a in aggregates.values()))
    if kind is not None:
        return kind_named(kind, where=where)
    fitting = kinds_with(names, where=where)
    if Kind.TRADES in fitting:
        return Kind.TRADES
    if len(fitting) > 1:
        raise ConfigurationError(f"{where}: {', '.join(sorted(fitting))} have the columns named; say which kind")
    return next(iter(fitting))


def _grown(values: Ints, size: int) -> Ints:
    return np.concatenate([values, np.full(size - len(values), BEFORE_ALL_NS, np.int64)])


def _keys(stream: Ints, start: Ints) -> Ints:
    # As in panes: one integer that orders as (stream, start) do.
    return (stream << 36) + start // 1_000_000_000
