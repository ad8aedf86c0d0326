"""Quotes of many instruments, kept so that the one that stood at a time is found."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from market_data_core.schemas import KIND_FIELDS, Kind
from market_data_pipeline.operators.streams import Ints

SIDES: Final = tuple(f.name for f in KIND_FIELDS[Kind.QUOTES])
"""The columns of a quote."""


@dataclass(slots=True)
class Quotes:
    """Quotes, one row each.

    Attributes:
        place: Of the instrument.
        ts: `ts_event`, UTC nanoseconds since the epoch.
        seq: In the log.
        sides: One column for each of `SIDES`, NaN where it is absent.
    """

    place: Ints
    ts: Ints
    seq: Ints
    sides: npt.NDArray[np.float64]

    @classmethod
    def none(cls) -> Quotes:
        """Return no quotes."""
        i = np.empty(0, np.int64)
        return cls(i, i, i, np.empty((0, len(SIDES))))

    @classmethod
    def joined(cls, parts: Sequence[Quotes]) -> Quotes:
        """Return the rows of all parts, one after the other."""
        return cls(*(np.concatenate([getattr(p, n) for p in parts]) for n in ("place", "ts", "seq", "sides")))

    def __len__(self) -> int:
        return len(self.place)

    def take(self, rows: npt.NDArray[Any]) -> Quotes:
        """Return some rows, by number or by mask."""
        return Quotes(self.place[rows], self.ts[rows], self.seq[rows], self.sides[rows])

    def at(self, rows: Ints) -> Quotes:
        """Return a row for each number; for -1 one that means nothing."""
        if len(self):
            return self.take(rows)
        i = np.zeros(len(rows), np.int64)
        return Quotes(i, i, i, np.full((len(rows), len(SIDES)), np.nan))

    def in_order(self) -> Quotes:
        """Return the rows ascending (place, ts, seq)."""
        return self.take(np.lexsort((self.seq, self.ts, self.place)))

    def last_before(self, place: Ints, ts: Ints, *, allow_exact: bool) -> Ints:
        """Return, for each instrument and time asked for, the number of the last row not after it, -1 for none.

        Args:
            place: Of the instruments; the rows must be `in_order`.
            ts: As many times.
            allow_exact: False for the last row before the time.
        """
        count = len(self)
        # Sorted together, the answer is the last row before the question; of equal times, rows go first if they count.
        later = np.repeat([not allow_exact, allow_exact], [count, len(place)])
        order = np.lexsort((later, np.concatenate([self.ts, ts]), np.concatenate([self.place, place])))
        is_row = order < count
        found = np.empty(len(place), np.int64)
        found[order[~is_row] - count] = np.maximum.accumulate(np.where(is_row, order, -1))[~is_row]
        if count:
            found[self.place[found] != place] = -1
        return found
