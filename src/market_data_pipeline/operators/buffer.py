"""Hold events and pass them on in batches."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

from market_data_core.batch import EventBatch
from market_data_core.errors import ConfigurationError
from market_data_core.protocols import END_OF_TIME_NS, Mark, Result
from market_data_core.schemas import Kind
from market_data_pipeline.operators.data_kinds import DATA_KINDS, kind_named
from market_data_pipeline.operators.held import Held
from market_data_pipeline.operators.streams import Ints, segment_starts
from market_data_pipeline.operators.watermarks import BEFORE_ALL_NS, Watermarks, by_stream, int_column, trusted

# A part of a few rows takes more memory than the rows do.
_MOST_PARTS = 32


class Buffer:
    """Holds the events of each kind and stream and passes them on in groups, each a batch of its own, in log order.

    A stream is one instrument as one source gives it. A group is complete, and comes out:

    - with the event that makes it `rows` long;
    - before the first event at which the stream's watermark (the largest `ts_event` seen) lies `seconds` or more past
      what it was when the group began, or at the barrier after a mark that says so;
    - at the barrier after the source has ended.

    Groups come out in the order in which they become complete. Events flagged as far ahead are held like others and do
    not move the watermark. At most ``rows - 1`` events are held per kind and stream.

    Args:
        rows: Largest number of events in a group.
        seconds: Longest stretch of event time that a group waits; None for no limit.
        kind: The one kind to work on; None for all.
        name: Of the node.

    Raises:
        ConfigurationError: `rows` is below 1, `seconds` is not above 0, or there is no such kind.
    """

    def __init__(
        self, *, rows: int = 1000, seconds: float | None = None, kind: str | None = None, name: str = "buffer"
    ) -> None:
        if isinstance(rows, bool) or not isinstance(rows, int) or rows < 1:
            raise ConfigurationError(f"{name}: rows {rows!r} is no whole number of 1 or more")
        if seconds is not None and (not isinstance(seconds, int | float) or not 1e-9 <= seconds <= 1e9):
            raise ConfigurationError(f"{name}: seconds {seconds!r} is no number above 0 and up to 1e9")
        self._name = name
        self._rows = rows
        self._wait_ns = None if seconds is None else round(seconds * 1_000_000_000)
        self._kinds = DATA_KINDS if kind is None else frozenset({kind_named(kind, where=name)})
        self._reset()

    def _reset(self) -> None:
        self._watermarks: dict[Kind, Watermarks] = {}
        self._groups: dict[Kind, dict[int, _Group]] = {}
        # What a mark has completed, until there is a call that can return it.
        self._due: list[tuple[Kind, Held]] = []

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
        """Return the groups that these events complete; the rest is held."""
        out = self._given_due()
        if not len(batch):
            return Result(out=out)
        watermarks = self._watermarks.setdefault(batch.kind, Watermarks())
        groups = self._groups.setdefault(batch.kind, {})
        places = watermarks.places(batch)
        order = by_stream(places)
        ts = np.where(trusted(batch), int_column(batch, "ts_event"), BEFORE_ALL_NS)[order]
        places = places[order]
        reached = np.maximum(watermarks.before(places, ts), ts)
        data = batch.data.take(pa.array(order))
        complete: list[tuple[int, Held]] = []
        starts = segment_starts(places)
        for start, stop in zip(starts.tolist(), [*starts[1:].tolist(), len(places)], strict=True):
            group = groups.setdefault(int(places[start]), _Group())
            for at, rows in self._cuts(group, reached, start, stop, data):
                complete.append((int(order[at]), _held(batch.kind, int(places[start]), rows)))
        complete.sort(key=lambda c: c[0])
        for _, held in complete:
            out += held.batches(watermarks)
        return Result(out=out)

    def _cuts(
        self, group: _Group, reached: Ints, start: int, stop: int, data: pa.RecordBatch
    ) -> Iterator[tuple[int, pa.RecordBatch]]:
        # Gives each group that rows of one stream complete, with the row that does; the rest stays in `group`.
        at = start
        while at < stop:
            if not group.count:
                group.began_ns = int(reached[at])
            full = at + self._rows - group.count
            expired = stop
            if self._wait_ns is not None:
                expired = at + _first_not_below(reached[at:stop], group.began_ns + self._wait_ns)
            cut = min(full, expired, stop)
            if cut > at:
                # A slice would keep the whole batch alive for as long as its stream is quiet.
                group.put(data.take(pa.array(np.arange(at, cut))))
            if cut == full:
                yield cut - 1, group.taken()
            elif cut < stop:
                yield cut, group.taken()
            at = cut

    def _given_due(self) -> list[EventBatch]:
        due, self._due = self._due, []
        return [b for kind, held in due for b in held.batches(self._watermarks[kind])]

    def advance(self, mark: Mark) -> None:
        """Complete the groups that have waited long enough, or whose source has ended."""
        found: list[tuple[int, int, Kind, Held]] = []
        for kind, watermarks in self._watermarks.items():
            for place in watermarks.advance(mark):
                group = self._groups[kind].get(place)
                if group is None or not group.count:
                    continue
                waited = self._wait_ns is not None and watermarks.latest[place] >= group.began_ns + self._wait_ns
                if waited or mark.ts_ns == END_OF_TIME_NS:
                    held = _held(kind, place, group.taken())
                    found.append((int(held.ints("seq")[0]), place, kind, held))
        # In log order: the streams of a source complete at once.
        self._due += [(kind, held) for _, _, kind, held in sorted(found, key=lambda f: (f[0], f[2], f[1]))]

    def barrier(self, end: int, ts_known_ns: int) -> Result:
        """Return the groups that marks have completed."""
        del end, ts_known_ns
        out = self._given_due()
        for kind, watermarks in self._watermarks.items():
            moved = watermarks.forget_ended()
            if moved is not None:
                groups = {int(moved[place]): group for place, group in self._groups[kind].items()}
                groups.pop(-1, None)
                self._groups[kind] = groups
        return Result(out=out)

    def in_flight(self) -> int:
        """Return the number of events held."""
        held = sum(group.count for groups in self._groups.values() for group in groups.values())
        return held + sum(len(due) for _, due in self._due)

    def snapshot(self) -> dict[str, Any]:
        """Return watermarks and the events held, by kind."""
        return {
            "kinds": {
                str(kind): {"watermarks": watermarks.snapshot(), **_of_groups(kind, self._groups[kind])}
                for kind, watermarks in self._watermarks.items()
            },
            "due": [[str(kind), held.snapshot()] for kind, held in self._due],
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take up what `snapshot` gave."""
        self._reset()
        for name, each in state["kinds"].items():
            kind = Kind(name)
            self._watermarks[kind] = Watermarks.restored(each["watermarks"])
            self._groups[kind] = _groups(kind, each)
        self._due = [(Kind(kind), Held.restored(Kind(kind), held)) for kind, held in state["due"]]


@dataclass(slots=True)
class _Group:
    # The events of one stream that wait, and the watermark when the first of them came.
    began_ns: int = 0
    count: int = 0
    parts: list[pa.RecordBatch] = field(default_factory=list)

    def put(self, rows: pa.RecordBatch) -> None:
        self.parts.append(rows)
        self.count += len(rows)
        if len(self.parts) > _MOST_PARTS:
            self.parts = [pa.concat_batches(self.parts)]

    def taken(self) -> pa.RecordBatch:
        rows = pa.concat_batches(self.parts)
        self.parts, self.count = [], 0
        return rows


def _held(kind: Kind, place: int, rows: pa.RecordBatch) -> Held:
    return Held(kind, np.full(len(rows), place, np.int64), rows)


def _first_not_below(ascending: Ints, bound: int) -> int:
    # The bound may lie beyond int64.
    return int(np.searchsorted(ascending, min(bound, END_OF_TIME_NS)))


def _of_groups(kind: Kind, groups: Mapping[int, _Group]) -> dict[str, Any]:
    waiting = {place: group for place, group in groups.items() if group.count}
    held = Held(kind)
    if waiting:
        places = np.repeat(list(waiting), [group.count for group in waiting.values()])
        held = Held(kind, places, pa.concat_batches([p for group in waiting.values() for p in group.parts]))
    return {"held": held.snapshot(), "began": [[place, group.began_ns] for place, group in waiting.items()]}


def _groups(kind: Kind, state: Mapping[str, Any]) -> dict[int, _Group]:
    held = Held.restored(kind, state["held"])
    groups = {}
    for place, began_ns in state["began"]:
        rows = held.take(np.flatnonzero(held.places == place)).data
        groups[place] = _Group(began_ns=began_ns, count=len(rows), parts=[rows])
    return groups
