"""Rows that hold several events side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pyarrow as pa

from market_data_pipeline.source.replay.events import Floats, Rows
from market_data_pipeline.source.replay.specs import EventSpec


class FanOut:
    """Makes of every row the events that it holds.

    A row takes as many places as the layout says it can hold events, whether it holds them all or not: so an event's
    place says which row it is from, and that a row has no bids changes nothing behind it.

    Args:
        events: What a row can hold.
    """

    def __init__(self, events: Sequence[EventSpec]) -> None:
        self._events = events

    def apply(self, rows: Rows) -> Rows:
        """Return the events of the rows, those of a row behind one another."""
        count = len(self._events)
        # By row and event: an event of which any number is there is there whole, else its row is a bad one.
        there = np.column_stack([~np.isnan(rows.floats[f"{i}.{_any(e)}"]) for i, e in enumerate(self._events)])
        row, event = np.nonzero(there)
        return Rows(
            rows=rows.rows * count,
            places=rows.places[row] * count + event,
            ts_event=rows.ts_event[row],
            instrument=rows.instrument[row],
            flags=rows.flags[row],
            floats=self._floats(rows, there),
            texts=self._texts(rows, row, event),
            bad=[replace(r, row=r.row * count) for r in rows.bad],
            order=np.repeat(rows.order, count),
        )

    def _floats(self, rows: Rows, there: np.ndarray[tuple[int, ...], np.dtype[np.bool_]]) -> dict[str, Floats]:
        nothing = np.full(len(rows.places), np.nan)
        own = {name for e in self._events for name in e.columns}
        common = {n: [v] * len(self._events) for n, v in rows.floats.items() if "." not in n}
        split = {n: [rows.floats.get(f"{i}.{n}", nothing) for i in range(len(self._events))] for n in sorted(own)}
        return {name: np.column_stack(values)[there] for name, values in {**common, **split}.items()}

    def _texts(
        self, rows: Rows, row: np.ndarray[tuple[int, ...], np.dtype[np.intp]], event: object
    ) -> dict[str, pa.Array]:
        texts = {n: a.take(pa.array(row)) for n, a in rows.texts.items()}
        for name in dict.fromkeys(n for e in self._events for n in e.constants):
            said = pa.array([e.constants.get(name) for e in self._events], pa.string())
            texts[name] = said.take(pa.array(event))
        return texts


def _any(event: EventSpec) -> str:
    return next(iter(event.columns))
