"""Rows past those that a table will not have."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from market_data_core.errors import ValidationError

Append = Callable[[pa.Table, int], None]
"""Stores rows, or raises ValidationError and stores nothing.

The number says how many rows of the whole are dealt with once these are in.
"""

Refuse = Callable[[int, ValidationError], None]
"""Takes the number of a row, from 0, that the table will not have, and why."""

_Rows = npt.NDArray[np.int64]


def append_around(rows: pa.Table, append: Append, refuse: Refuse) -> None:
    """Append rows in their order, all but those that the table refuses.

    An error whose ``details`` name a ``row`` costs one more try without that row. Where none is named, the rows are
    halved until the one is found; then what is good goes in with several appends instead of one. The last append, of
    no rows if need be, says that all are dealt with.

    Args:
        rows: What to append.
        append: How.
        refuse: Told of each refused row, before anything behind it is appended.

    Raises:
        ValidationError: The table refuses even no rows, so it is not about a row.
    """
    _Division(rows, append, refuse).run()


class _Division:
    def __init__(self, rows: pa.Table, append: Append, refuse: Refuse) -> None:
        self._rows = rows
        self._append = append
        self._refuse = refuse

    def run(self) -> None:
        every = self._rows.num_rows
        try:
            self._append(self._rows, every)
        except ValidationError as exc:
            self._without(np.arange(every, dtype=np.int64), every, exc)

    # The rows at these places were refused together.
    def _without(self, places: _Rows, upto: int, exc: ValidationError) -> None:
        while True:
            if len(places) == 0:
                raise exc
            at = 0 if len(places) == 1 else _named(exc, len(places))
            if at is None:
                half = len(places) // 2
                self._part(places[:half], int(places[half]))
                self._part(places[half:], upto)
                return
            self._refuse(int(places[at]), exc)
            places = np.delete(places, at)
            try:
                self._some(places, upto)
            except ValidationError as again:
                exc = again
            else:
                return

    def _part(self, places: _Rows, upto: int) -> None:
        try:
            self._some(places, upto)
        except ValidationError as exc:
            self._without(places, upto, exc)

    def _some(self, places: _Rows, upto: int) -> None:
        # No commit for nothing, but the end has to be said.
        if len(places) or upto == self._rows.num_rows:
            self._append(self._rows.take(pa.array(places)), upto)


def _named(exc: ValidationError, count: int) -> int | None:
    row = exc.details.get("row")
    return row if isinstance(row, int) and not isinstance(row, bool) and 0 <= row < count else None
