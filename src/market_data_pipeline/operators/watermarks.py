"""Watermarks: how far each stream of one kind has come in event time, and the way back from streams to rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from market_data_core.batch import EventBatch, Instruments
from market_data_core.protocols import END_OF_TIME_NS, Mark
from market_data_core.schemas import EVENT_SCHEMAS, Flag, Kind, Origin
from market_data_pipeline.operators.streams import Ints, Streams, running_max, segment_starts, stream_order

Bools = npt.NDArray[np.bool_]
BEFORE_ALL_NS = -(2**63)
"""The watermark of a stream that has not spoken."""


class Watermarks:
    """The streams of one kind and the largest `ts_event` that each has given or been marked with.

    Kinds have watermarks of their own, because within a span they come one after the other, not in the venue's order.

    Attributes:
        streams: Whose places index everything else.
        latest: The watermark of each place.
        ended: Places whose source has ended; they are forgotten once their state is given out.
    """

    def __init__(self) -> None:
        self.streams = Streams()
        self.latest: Ints = np.empty(0, np.int64)
        self.ended: set[int] = set()
        self._origins: dict[str, Origin] = {}
        # The newest table of the log. State that came back from a snapshot may be due before there is one.
        self._instruments: Instruments | None = None

    def places(self, batch: EventBatch) -> Ints:
        """Return the place of each row's stream."""
        found = self.streams.places(batch)
        self._origins[batch.source_id] = batch.origin
        self._instruments = batch.instruments
        self._grow()
        return found

    def _grow(self) -> None:
        added = len(self.streams) - len(self.latest)
        if added:
            self.latest = np.concatenate([self.latest, np.full(added, BEFORE_ALL_NS, np.int64)])

    def before(self, places: Ints, ts: Ints) -> Ints:
        """Move the watermarks; return what each event's was when it came.

        Args:
            places: Ordered, with each stream's rows in log order; at least one.
            ts: Their `ts_event`.
        """
        starts = segment_starts(places)
        heads = places[starts]
        floor = self.latest[heads]
        found = running_max(ts, starts, floor)
        self.latest[heads] = np.maximum(floor, np.maximum.reduceat(ts, starts))
        return found

    def advance(self, mark: Mark) -> list[int]:
        """Take note of a mark; return the places it speaks of."""
        places = self.streams.matching(mark.vendor, mark.symbols, mark.source_id)
        if mark.ts_ns == END_OF_TIME_NS:
            # What they hold is given out at the barrier; a source that begins anew before it is another stream.
            self.ended.update(places)
            self.streams.retire(places)
        elif places:
            self.latest[places] = np.maximum(self.latest[places], mark.ts_ns)
        return places

    def forget_ended(self) -> Ints | None:
        """Give up the places of ended streams; return the new place of each old one, -1 where gone, None for no change.

        A source that has ended never speaks again; keeping its streams would let state grow with every file.
        """
        if not self.ended:
            return None
        stay, moved = self.streams.forget(self.ended)
        self.latest = self.latest[stay]
        speaking = {source_id for _, source_id in self.streams.entries}
        self._origins = {s: o for s, o in self._origins.items() if s in speaking}
        self.ended.clear()
        return moved

    def batches(self, kind: Kind, places: Ints, columns: Callable[[Ints], Mapping[str, Any]]) -> list[EventBatch]:
        """Return rows as batches, one per source, in the order in which sources first occur; rows keep their order.

        Args:
            kind: What the rows are.
            places: Of each row.
            columns: Gives the columns other than ``instrument`` of the rows at some places in the order.
        """
        sources: dict[str, list[int]] = {}
        used, row_of = np.unique(places, return_inverse=True)
        # By first occurrence, so that the order of sources is that of rows.
        first = np.full(len(used), len(places), np.int64)
        np.minimum.at(first, row_of, np.arange(len(places)))
        for n in np.argsort(first, kind="stable").tolist():
            sources.setdefault(self.streams.entries[int(used[n])][1], []).append(n)
        ids, instruments = self._ids(used)
        result = []
        for source_id, members in sources.items():
            rows = np.flatnonzero(np.isin(row_of, members)) if len(sources) > 1 else np.arange(len(places))
            given = {"instrument": pa.array(ids[row_of[rows]]), **columns(rows)}
            schema = EVENT_SCHEMAS[kind]
            data = pa.RecordBatch.from_arrays([given[name] for name in schema.names], schema=schema)
            result.append(
                EventBatch(
                    kind=kind, data=data, instruments=instruments, origin=self._origins[source_id], source_id=source_id
                )
            )
        return result

    def _ids(self, places: Ints) -> tuple[npt.NDArray[np.int32], Instruments]:
        entries = [self.streams.entries[p][0] for p in places.tolist()]
        if self._instruments is not None:
            found = [self._instruments.find(i.vendor, i.symbol) for i in entries]
            if None not in found:
                return np.array(found, np.int32), self._instruments
        # Nothing of these streams was read since the state came back; the log's table may not have them.
        table = Instruments()
        ids = [table.add(i) for i in entries]
        return np.array(ids, np.int32), table

    def snapshot(self) -> dict[str, Any]:
        """Return streams and watermarks as plain values."""
        return {
            "streams": self.streams.snapshot(),
            "latest": self.latest.tolist(),
            "ended": sorted(self.ended),
            "origins": {source_id: str(origin) for source_id, origin in self._origins.items()},
        }

    @classmethod
    def restored(cls, state: Mapping[str, Any]) -> Watermarks:
        """Return the watermarks of which `snapshot` gave the state."""
        self = cls()
        self.streams.restore(state["streams"])
        self.ended = set(state["ended"])
        self.streams.retire(self.ended)
        self.latest = np.array(state["latest"], np.int64)
        self._origins = {source_id: Origin(origin) for source_id, origin in state["origins"].items()}
        return self


def limit(before_ns: Ints, lateness_ns: int) -> Ints:
    """Return watermarks less the lateness; that of a stream which has not spoken stays below all, and does not wrap."""
    lowest = BEFORE_ALL_NS + lateness_ns
    return np.where(before_ns > lowest, before_ns, lowest) - lateness_ns


def int_column(batch: EventBatch, name: str) -> Ints:
    """Return a column of whole numbers without nulls as int64."""
    return batch.column(name).astype(np.int64, copy=False)


def trusted(batch: EventBatch) -> Bools:
    """Return which rows are not flagged as far ahead of their stream."""
    found: Bools = (batch.column("flags").astype(np.int64) & int(Flag.TS_EVENT_FUTURE)) == 0
    return found


def by_stream(places: Ints, wanted: Bools | None = None) -> Ints:
    """Return the rows wanted, ordered by stream and in their own order within."""
    rows = np.arange(len(places)) if wanted is None or wanted.all() else np.flatnonzero(wanted)
    return rows[stream_order(places[rows])] if len(rows) else rows
