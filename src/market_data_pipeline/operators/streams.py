"""Streams: one instrument as one source gives it, which is what watermarks belong to."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from market_data_core.batch import EventBatch, Instrument, Instruments

Ints = npt.NDArray[np.int64]


class Streams:
    """Numbers the streams an operator has met, whatever ids the log gives their instruments.

    Instrument ids belong to one log; state outlives logs. So operators keep their state by place in this table, and a
    snapshot names each place by vendor, symbol and source. Places are given in the order in which streams first speak,
    so they do not depend on how events were split into batches.
    """

    def __init__(self) -> None:
        self.entries: list[tuple[Instrument, str]] = []
        self._places: dict[tuple[str, str, str], int] = {}
        self._maps: dict[str, tuple[Instruments, Ints]] = {}

    def __len__(self) -> int:
        return len(self.entries)

    def places(self, batch: EventBatch) -> Ints:
        """Return the place of each row's stream."""
        ids = batch.column("instrument").astype(np.int32, copy=False)
        table, known = self._maps.get(batch.source_id, (batch.instruments, np.empty(0, np.int64)))
        if table is not batch.instruments:
            known = np.empty(0, np.int64)
        if len(known) < len(batch.instruments):
            known = np.concatenate([known, np.full(len(batch.instruments) - len(known), -1, np.int64)])
        # `take` looks up narrow numbers in a third of the time of brackets, which widen them first.
        found: Ints = known.take(ids)
        if len(found) and found.min() < 0:
            fresh, first = np.unique(ids[found < 0], return_index=True)
            for instrument_id in fresh[np.argsort(first)].tolist():
                known[instrument_id] = self._place(batch.instruments[instrument_id], batch.source_id)
            found = known.take(ids)
        self._maps[batch.source_id] = (batch.instruments, known)
        return found

    def _place(self, instrument: Instrument, source_id: str) -> int:
        key = (instrument.vendor, instrument.symbol, source_id)
        place = self._places.get(key)
        if place is None:
            place = self._places[key] = len(self.entries)
            self.entries.append((instrument, source_id))
        return place

    def matching(self, vendor: str, symbols: Sequence[str], source_id: str) -> list[int]:
        """Return the places of a source's streams, of all its symbols or of some; retired ones are not among them."""
        wanted = set(symbols)
        return [
            place
            for (v, symbol, s), place in self._places.items()
            if v == vendor and s == source_id and (not wanted or symbol in wanted)
        ]

    def retire(self, places: Iterable[int]) -> None:
        """Let these streams have ended: they keep their places, but who speaks by their names is a new stream."""
        for place in places:
            instrument, source_id = self.entries[place]
            key = (instrument.vendor, instrument.symbol, source_id)
            if self._places.get(key) == place:
                del self._places[key]
            self._maps.pop(source_id, None)

    def forget(self, places: Iterable[int]) -> tuple[Ints, Ints]:
        """Retire streams and give up their places.

        Returns:
            The old places that stay, ascending; and for each old place the new one, -1 where it is gone.
        """
        gone = set(places)
        self.retire(gone)
        stay = np.array([p for p in range(len(self.entries)) if p not in gone], np.int64)
        moved = np.full(len(self.entries), -1, np.int64)
        moved[stay] = np.arange(len(stay))
        self.entries = [self.entries[p] for p in stay.tolist()]
        self._places = {key: int(moved[place]) for key, place in self._places.items()}
        self._maps.clear()
        return stay, moved

    def snapshot(self) -> list[list[Any]]:
        """Return the table as plain values."""
        return [[i.vendor, i.symbol, i.price_decimals, i.size_decimals, s] for i, s in self.entries]

    def restore(self, state: Sequence[Sequence[Any]]) -> None:
        """Take up what `snapshot` gave; streams that were retired have to be retired again."""
        self.entries.clear()
        self._maps.clear()
        for vendor, symbol, price_decimals, size_decimals, source_id in state:
            instrument = Instrument(
                vendor=vendor, symbol=symbol, price_decimals=price_decimals, size_decimals=size_decimals
            )
            self.entries.append((instrument, source_id))
        self._places = {(i.vendor, i.symbol, s): place for place, (i, s) in enumerate(self.entries)}


def running_max(values: Ints, starts: Ints, floor: Ints) -> Ints:
    """Return, for each value, the largest before it in its segment, or the segment's floor.

    Args:
        values: Segments one after the other, each in its own order.
        starts: Where each segment begins.
        floor: What each segment begins with.
    """
    lengths = np.diff(starts, append=len(values))
    before = np.empty_like(values)
    lift = _lift(values, starts, lengths)
    if lift is None:
        for start, end in zip(starts.tolist(), (starts + lengths).tolist(), strict=True):
            np.maximum.accumulate(values[start : end - 1], out=before[start + 1 : end])
    else:
        np.subtract(np.maximum.accumulate(values + lift)[:-1], lift[1:], out=before[1:])
    before[starts] = floor
    return np.maximum(before, np.repeat(floor, lengths))


def time_order(values: Ints, starts: Ints) -> Ints:
    """Return the stable order that sorts each segment's values; arguments as in `running_max`."""
    lengths = np.diff(starts, append=len(values))
    lift = _lift(values, starts, lengths)
    if lift is None:
        return np.lexsort((values, np.repeat(np.arange(len(starts)), lengths)))
    return np.argsort(values + lift, kind="stable")


def _lift(values: Ints, starts: Ints, lengths: Ints) -> Ints | None:
    # What to add to bring each segment wholly above the one before it, so that one pass over all does for each; None
    # where int64 has no room for that.
    low, high = int(values.min()), int(values.max())
    span = high - low + 1
    if span * len(starts) >= 2**62:
        return None
    return np.repeat(np.arange(len(starts)) * span - low, lengths)


def stream_order(places: Ints) -> Ints:
    """Return the order that brings each stream's rows together and keeps their own order."""
    # NumPy sorts integers of 8 and 16 bits by radix, several times faster than wider ones.
    most = int(places.max()) if len(places) else 0
    narrow = places.astype(np.uint8 if most < 256 else np.uint16) if most < 65536 else places
    return np.argsort(narrow, kind="stable")


def segment_starts(*keys: Ints) -> Ints:
    """Return where a new group begins in rows ordered by the keys."""
    if not len(keys[0]):
        return np.empty(0, np.int64)
    change = keys[0][1:] != keys[0][:-1]
    for key in keys[1:]:
        change |= key[1:] != key[:-1]
    return np.concatenate(([0], np.flatnonzero(change) + 1))
