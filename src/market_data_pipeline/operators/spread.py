"""What a quote says in one number: middle, spread, imbalance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from market_data_core.batch import EventBatch
from market_data_core.errors import ConfigurationError
from market_data_core.protocols import Mark, Result
from market_data_core.schemas import EVENT_SCHEMAS, Kind
from market_data_pipeline.operators.placing import believed

Floats = npt.NDArray[np.float64]

OUTPUTS: Final = ("mid", "spread", "spread_bps", "imbalance", "microprice")
"""What can be asked for."""


class Spread:
    """Gives named values of every quote, one analytics row each, by quote and then as asked for.

    - ``mid``: the middle of bid and ask.
    - ``spread``: ask less bid, below 0 where the book is crossed.
    - ``spread_bps``: the spread in hundredths of a percent of the middle, where that is above 0.
    - ``imbalance``: (bid size - ask size) / (bid size + ask size), from -1 to 1.
    - ``microprice``: bid and ask weighted by the size on the other side.

    A row has the quote's times and seq. Where a value cannot be had, because a side or all size is absent, there is no
    row of that name; a quote that gives none at all, and one flagged as far ahead, is filtered out.

    Args:
        outputs: Names of values.
        name: Of the node.

    Raises:
        ConfigurationError: A name is unknown or asked for twice, or there is none.
    """

    def __init__(self, *, outputs: Sequence[str] = OUTPUTS, name: str = "spread") -> None:
        unknown = [o for o in outputs if o not in OUTPUTS]
        if isinstance(outputs, str) or unknown or not outputs or len(set(outputs)) != len(outputs):
            raise ConfigurationError(f"{name}: outputs {outputs!r} must be some of {', '.join(OUTPUTS)}, each once")
        self._outputs = tuple(outputs)
        self._name = name

    @property
    def name(self) -> str:
        """The node's name."""
        return self._name

    @property
    def kinds(self) -> frozenset[Kind]:
        """Quotes."""
        return frozenset({Kind.QUOTES})

    def gives(self, incoming: frozenset[Kind]) -> frozenset[Kind]:
        """Analytics, where quotes come in."""
        return frozenset({Kind.ANALYTICS}) if Kind.QUOTES in incoming else frozenset()

    def process(self, batch: EventBatch) -> Result:
        """Return the values of the quotes."""
        quotes = believed(batch)
        values = np.column_stack(_values(quotes, self._outputs)) if len(quotes) else np.empty((0, len(self._outputs)))
        # No float is what overflowed, had nothing to divide by, or lacked a side.
        given = np.isfinite(values)
        absorbed = int(given.any(axis=1).sum())
        quote, output = np.nonzero(given)
        if not len(quote):
            return Result(filtered=len(batch))
        rows = quotes.data.take(pa.array(quote))
        columns = {
            "flags": pa.array(np.zeros(len(quote), np.int32)),
            "name": pa.array(self._outputs, pa.string()).take(pa.array(output)),
            "value": pa.array(values[given]),
        }
        schema = EVENT_SCHEMAS[Kind.ANALYTICS]
        out = EventBatch(
            kind=Kind.ANALYTICS,
            data=pa.RecordBatch.from_arrays(
                [columns[n] if n in columns else rows.column(n) for n in schema.names], schema=schema
            ),
            instruments=batch.instruments,
            origin=batch.origin,
            source_id=batch.source_id,
            offset=batch.offset,
        )
        return Result(out=[out], emitted=len(out), absorbed=absorbed, filtered=len(batch) - absorbed)

    def advance(self, mark: Mark) -> None:
        """Time does not matter here."""

    def barrier(self, end: int, ts_known_ns: int) -> Result:
        """Return nothing: what goes in comes out at once."""
        del end, ts_known_ns
        return Result()

    def in_flight(self) -> int:
        """Return 0."""
        return 0

    def snapshot(self) -> dict[str, Any]:
        """Return nothing: there is no state."""
        return {}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take up nothing."""


def _values(quotes: EventBatch, outputs: Sequence[str]) -> list[Floats]:
    bid, ask = quotes.floats("bid_price"), quotes.floats("ask_price")
    bid_size, ask_size = quotes.floats("bid_size"), quotes.floats("ask_size")
    with np.errstate(all="ignore"):  # what comes out as no number is no row
        mid = bid / 2 + ask / 2  # halves first: the sum of two large prices may be no float
        depth = bid_size + ask_size
        depth = np.where(depth > 0, depth, np.nan)
        values = {
            "mid": mid,
            "spread": ask - bid,
            "spread_bps": np.where(mid > 0, (ask - bid) / mid * 10_000, np.nan),
            "imbalance": (bid_size - ask_size) / depth,
            "microprice": bid * (ask_size / depth) + ask * (bid_size / depth),
        }
    return [values[o] for o in outputs]
