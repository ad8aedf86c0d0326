"""Implied volatility and Greeks, where an option snapshot comes without them."""

from __future__ import annotations

import datetime as dt
import math
import re
from collections.abc import Mapping
from typing import Any, Final
from zoneinfo import ZoneInfo

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from market_data_core.batch import EventBatch
from market_data_core.errors import ConfigurationError
from market_data_core.protocols import Mark, Result
from market_data_core.schemas import Kind
from market_data_pipeline.operators.black_scholes import Options, greeks, implied_vol

Floats = npt.NDArray[np.float64]
MODELS: Final = ("black_scholes", "black_76")
"""What options can be valued by."""
GREEKS: Final = ("delta", "gamma", "vega", "theta", "rho")
_DAY_NS = 86_400 * 10**9
_NEW_YORK = ZoneInfo("America/New_York")
_CLOSE = dt.time(16)


class OptionsChain:
    """Fills in implied volatility and Greeks of option snapshots where they are absent; what is there stays.

    Volatility is implied by the middle of bid and ask, or by the last price where a side is absent; a volatility that
    is there is taken as it is. Vega is per point of volatility (0.01), theta per day, rho per point of the rate (0.01).
    Time to expiry counts from `ts_event` to 16:00 New York of the day of expiry. Every row comes out, in order; without
    a price of the underlying, after expiry, or where no volatility explains the price, what was absent stays null.

    Options are valued as European ones. An American option is worth more by its right to early exercise, which
    matters for puts deep in the money and for calls before a dividend; their volatility comes out too high.

    Args:
        rate: Continuous interest per year, 0.05 for 5 %.
        dividend_yield: Continuous, per year; not used by ``black_76``.
        model: ``black_scholes`` for options on a spot price, ``black_76`` for options on futures.
        day_count: Days in a year, for time to expiry and theta.
        name: Of the node.

    Raises:
        ConfigurationError: The model is unknown, or a number is out of range.
    """

    def __init__(
        self,
        *,
        rate: float = 0.0,
        dividend_yield: float = 0.0,
        model: str = "black_scholes",
        day_count: float = 365,
        name: str = "options",
    ) -> None:
        if model not in MODELS:
            raise ConfigurationError(f"{name}: model {model!r} is not one of {', '.join(MODELS)}")
        if not (math.isfinite(rate) and math.isfinite(dividend_yield) and 0 < day_count < math.inf):
            raise ConfigurationError(
                f"{name}: rate {rate!r} and dividend_yield {dividend_yield!r} must be numbers, "
                f"day_count {day_count!r} a number above 0"
            )
        self._rate = float(rate)
        self._dividend_yield = float(dividend_yield)
        self._forward = model == "black_76"
        self._day_count = float(day_count)
        self._name = name

    @property
    def name(self) -> str:
        """The node's name."""
        return self._name

    @property
    def kinds(self) -> frozenset[Kind]:
        """Options."""
        return frozenset({Kind.OPTIONS})

    def gives(self, incoming: frozenset[Kind]) -> frozenset[Kind]:
        """Options, where they come in."""
        return incoming & self.kinds

    def process(self, batch: EventBatch) -> Result:
        """Return the rows, with what could be filled in."""
        given = {name: batch.floats(name) for name in ("implied_vol", *GREEKS)}
        absent = {name: np.isnan(values) for name, values in given.items()}
        wanted = np.logical_or.reduce([*absent.values()])
        with np.errstate(all="ignore"):  # rows that cannot be valued become NaN, and stay null
            found = self._found(batch, wanted)
        data = batch.data
        for name, values in found.items():
            filled = absent[name] & np.isfinite(values)
            if filled.any():
                column = pa.array(np.where(filled, values, given[name]), mask=absent[name] & ~filled)
                at = data.schema.get_field_index(name)
                data = data.set_column(at, data.schema.field(at), column)
        return Result(out=[batch if data is batch.data else batch.with_data(data)] if len(batch) else [])

    def _found(self, batch: EventBatch, wanted: npt.NDArray[np.bool_]) -> dict[str, Floats]:
        options = Options(
            sign=_signs(batch.data.column("right")),
            spot=batch.floats("underlying_price"),
            strike=batch.floats("strike"),
            years=self._years(batch),
            rate=self._rate,
            dividend_yield=self._dividend_yield,
            forward=self._forward,
        )
        valid = wanted & (options.spot > 0) & (options.strike > 0) & (options.years > 0) & (options.sign != 0)
        options = options.take(valid)
        vol = batch.floats("implied_vol")[valid]
        unknown = np.isnan(vol)
        vol = np.where(vol > 0, vol, np.nan)
        if unknown.any():
            vol[unknown] = implied_vol(options.take(unknown), _prices(batch)[valid][unknown])
        return {
            name: _spread_out(values, valid)
            for name, values in {"implied_vol": vol, **greeks(options, vol, self._day_count)}.items()
        }

    def _years(self, batch: EventBatch) -> Floats:
        days = batch.data.column("expiry").dictionary_encode()
        ends = np.array([*map(_close_ns, days.dictionary.to_pylist()), 0], np.int64)
        index = days.indices.fill_null(len(ends) - 1).to_numpy(zero_copy_only=False)
        left_ns = ends[index] - batch.column("ts_event").astype(np.int64, copy=False)
        years: Floats = left_ns / (self._day_count * _DAY_NS)
        return years

    def advance(self, mark: Mark) -> None:
        """Time does not matter here: every row brings its own."""

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


def _prices(batch: EventBatch) -> Floats:
    bid, ask, last = (batch.floats(n) for n in ("bid_price", "ask_price", "last_price"))
    mid = bid / 2 + ask / 2
    return np.where(np.isnan(mid), last, mid)


def _signs(rights: pa.Array) -> Floats:
    of = {"C": 1.0, "P": -1.0}
    names = rights.dictionary_encode()
    signs = np.array([*(of.get(str(n)[:1].upper(), 0.0) for n in names.dictionary.to_pylist()), 0.0])
    found: Floats = signs[names.indices.fill_null(len(signs) - 1).to_numpy(zero_copy_only=False)]
    return found


# When an option expires; one whose day cannot be read has expired long ago, so nothing is made up for it.
def _close_ns(day: str) -> int:
    if not re.fullmatch("[0-9]{8}", day):
        return 0
    try:
        date = dt.date.fromisoformat(day)
    except ValueError:
        return 0
    # The calendar goes further than int64 nanoseconds do, both ways.
    close_ns = int(dt.datetime.combine(date, _CLOSE, _NEW_YORK).timestamp()) * 10**9
    return min(max(close_ns, 0), 2**63 - 1)


def _spread_out(values: Floats, rows: npt.NDArray[np.bool_]) -> Floats:
    out = np.full(len(rows), np.nan)
    out[rows] = values
    return out
