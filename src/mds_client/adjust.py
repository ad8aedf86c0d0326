"""Prices and sizes as if splits, and what was paid out, had always been so.

A corporate action has a time, the first moment that trades without the right, and factors. Prices of its instrument
before that time are multiplied by its `split_factor`, sizes divided by it. With ``all`` prices are multiplied by its
`price_factor` too, which is what a holder got in cash. Several actions multiply.
"""

from __future__ import annotations

from typing import Final, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from market_data_core.errors import ConfigurationError, ValidationError
from market_data_core.schemas import interval_ns

Adjust = Literal["none", "split", "all"]
"""For what prices are adjusted: nothing, splits, or splits and cash."""

ADJUSTMENTS: Final = ("none", "split", "all")
PRICES: Final = ("open", "high", "low", "close", "vwap", "price", "bid_price", "ask_price")
"""The columns that are multiplied."""
SIZES: Final = ("volume", "size", "bid_size", "ask_size")
"""The columns that are divided."""

Floats = npt.NDArray[np.float64]
Int64s = npt.NDArray[np.int64]


def check_adjust(adjust: str) -> None:
    """Refuse an adjustment that there is not.

    Raises:
        ConfigurationError: There is no such adjustment.
    """
    if adjust not in ADJUSTMENTS:
        raise ConfigurationError(f"adjust is {adjust!r}; there are {', '.join(ADJUSTMENTS)}")


def adjusted(rows: pa.Table, actions: pa.Table, *, adjust: Adjust, any_vendor: bool = False) -> pa.Table:
    """Return rows with their prices and sizes adjusted; what is null stays null.

    A bar counts as before an action if its middle is. So a daily bar by UTC dates falls on the side where its
    exchange's trading hours are.

    Args:
        rows: Bars, trades or quotes, with ``vendor, symbol, ts_event``, and ``interval`` if they are bars.
        actions: Rows of the table ``corporate_actions``, each action once.
        adjust: For what.
        any_vendor: Take actions for all rows of their symbol; else for those of the same vendor only.

    Raises:
        ConfigurationError: There is no such adjustment.
        ValidationError: A factor is not a positive number.
    """
    check_adjust(adjust)
    if adjust == "none" or rows.num_rows == 0 or actions.num_rows == 0:
        return rows
    splits, prices = np.ones(rows.num_rows), np.ones(rows.num_rows)
    middles = _middles(rows)
    names = ("symbol",) if any_vendor else ("vendor", "symbol")
    for group in actions.group_by(list(names)).aggregate([]).to_pylist():
        mine = np.flatnonzero(_matches(rows, group))
        if len(mine):
            own = actions.filter(pa.array(_matches(actions, group)))
            split, cash = _multipliers(own, middles[mine])
            splits[mine], prices[mine] = split, split * cash if adjust == "all" else split
    return _scaled(rows, {**dict.fromkeys(PRICES, prices), **dict.fromkeys(SIZES, 1.0 / splits)})


def _matches(rows: pa.Table, group: dict[str, str]) -> npt.NDArray[np.bool_]:
    found = np.ones(rows.num_rows, dtype=np.bool_)
    for name, value in group.items():
        found &= pc.fill_null(pc.equal(rows.column(name), value), fill_value=False).to_numpy()
    return found


# The instants that are compared with actions.
def _middles(rows: pa.Table) -> Int64s:
    times: Int64s = rows.column("ts_event").to_numpy()
    if "interval" not in rows.schema.names:
        return times
    names = rows.column("interval").combine_chunks().dictionary_encode()
    halves = np.array([interval_ns(name) // 2 for name in names.dictionary.to_pylist()], dtype=np.int64)
    middles: Int64s = times + halves[names.indices.to_numpy()]
    return middles


# What rows at these times are multiplied by: for splits, and for cash.
def _multipliers(actions: pa.Table, times: Int64s) -> tuple[Floats, Floats]:
    actions = actions.sort_by("ts_event")
    at = np.searchsorted(actions.column("ts_event").to_numpy(), times, side="right")
    split, cash = (_after(actions, name)[at] for name in ("split_factor", "price_factor"))
    return split, cash


# The product of all factors from each action on; behind the last it is 1.
def _after(actions: pa.Table, name: str) -> Floats:
    factors: Floats = pc.fill_null(actions.column(name), 1.0).to_numpy()
    wrong = ~(np.isfinite(factors) & (factors > 0))
    if wrong.any():
        action = actions.slice(int(np.flatnonzero(wrong)[0]), 1).to_pylist()[0]
        raise ValidationError(
            f"corporate action {action['action']} of {action['symbol']} at {action['ts_event']} ns has the {name} "
            f"{action[name]}; it has to be above 0"
        )
    products: Floats = np.append(np.cumprod(factors[::-1])[::-1], 1.0)
    return products


def _scaled(rows: pa.Table, by: dict[str, Floats]) -> pa.Table:
    for place, name in enumerate(rows.schema.names):
        if name in by:
            rows = rows.set_column(place, rows.schema.field(place), pc.multiply(rows.column(name), pa.array(by[name])))
    return rows
