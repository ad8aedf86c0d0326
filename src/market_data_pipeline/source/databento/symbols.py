"""What instrument ids of DBN files are called, and when."""

from __future__ import annotations

from datetime import date
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from databento_dbn import Metadata, SType

Int64s = npt.NDArray[np.int64]

DAY_NS: Final = 86_400 * 1_000_000_000
"""Nanoseconds in a day, which in UTC all have."""

_EPOCH: Final = date(1970, 1, 1)
_DAY_BITS: Final = 20  # int64 nanoseconds end on day 106,751


def text(raw: bytes) -> str:
    """Return a C string of a record as text."""
    return raw.split(b"\0", 1)[0].decode("utf-8", "replace").strip()


class Symbols:
    """Symbols by instrument id and day, from a file's metadata and from the mappings among its records.

    Venues give the same id to other instruments on other days, so the metadata's mappings are intervals of whole UTC
    days, their ends exclusive. A mapping among the records holds for all records behind it. Where two symbols of one
    request mean the same instrument, the first in the request is taken, or by name where it lists none. An id without a
    mapping for the day is called by its number.

    Args:
        metadata: Of the file; None for a fragment, which has none.
    """

    def __init__(self, metadata: Metadata | None) -> None:
        self._spans: dict[int, list[tuple[int, int, str]]] = {}
        self._said: dict[int, str] = {}
        if metadata is None:
            return
        by_id = str(metadata.stype_in) == str(SType.INSTRUMENT_ID)
        # The library gives mappings in another order each time; what a file says must not depend on that.
        place = {symbol: i for i, symbol in reversed(list(enumerate(metadata.symbols)))}
        for asked in sorted(metadata.mappings, key=lambda symbol: (place.get(symbol, len(place)), symbol)):
            for span in metadata.mappings[asked]:
                number, symbol = (asked, span["symbol"]) if by_id else (span["symbol"], asked)
                if number.isdigit() and symbol:
                    days = (span["start_date"] - _EPOCH).days, (span["end_date"] - _EPOCH).days
                    self._spans.setdefault(int(number), []).append((*days, symbol))

    def learn(self, records: npt.NDArray[Any]) -> None:
        """Take up mappings from among the records."""
        for number, symbol in zip(records["instrument_id"].tolist(), records["stype_out_symbol"].tolist(), strict=True):
            if name := text(symbol):
                self._said[number] = name

    def find(self, number: int, day: int) -> str | None:
        """Return the symbol of an id on a day since the epoch, or None if the file does not say."""
        if number in self._said:
            return self._said[number]
        return next((s for start, end, s in self._spans.get(number, ()) if start <= day < end), None)

    def codes(self, numbers: npt.NDArray[Any], ts_ns: Int64s) -> tuple[list[tuple[int, int]], Int64s]:
        """Return the distinct (id, day) of records, and for each record the place of its own among them.

        Args:
            numbers: Instrument ids.
            ts_ns: The times that mappings go by, UTC nanoseconds, not negative.
        """
        keys = (numbers.astype(np.int64) << _DAY_BITS) | (ts_ns // DAY_NS)
        if (keys == keys[0]).all():
            distinct, places = keys[:1], np.zeros(len(keys), np.int64)
        else:
            distinct, places = np.unique(keys, return_inverse=True)
        return [(k >> _DAY_BITS, k & ((1 << _DAY_BITS) - 1)) for k in distinct.tolist()], places
