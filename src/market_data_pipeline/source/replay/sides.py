"""Quote rows that carry one side."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Final

import numpy as np

from market_data_pipeline.source.replay.events import Floats, Rows

_SIDES: Final = (("bid_price", "bid_size"), ("ask_price", "ask_size"))


@dataclass(slots=True)
class TopOfBook:
    """The side that a one-sided quote row does not carry, remembered from the row that did.

    Attributes:
        last: Price and size of the bid, then of the ask; NaN while never seen.
    """

    last: list[float] = field(default_factory=lambda: [np.nan] * 4)

    def fill(self, rows: Rows) -> Rows:
        """Return the rows with both sides in each; call it with the blocks of a part in order."""
        count = len(rows.places)
        if not count:
            return rows
        is_bid = (np.nan_to_num(rows.floats["bid_price"]) != 0) | (np.nan_to_num(rows.floats["bid_size"]) != 0)
        filled: dict[str, Floats] = {}
        for i, (side, names) in enumerate(zip((is_bid, ~is_bid), _SIDES, strict=True)):
            # The row, counted from 1, that last carried this side; 0 is what was before this block.
            carrier = np.maximum.accumulate(np.where(side, np.arange(1, count + 1), 0))
            for j, name in enumerate(names):
                known = np.concatenate(([self.last[2 * i + j]], rows.floats[name]))
                filled[name] = known[carrier]
                self.last[2 * i + j] = float(filled[name][-1])
        return replace(rows, floats=filled)
