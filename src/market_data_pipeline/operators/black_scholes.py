"""European options in closed form, over whole columns."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]
_ROUNDS = 100
# A time value below this part of the strike is lost in the rounding of prices: any small volatility explains it.
_LEAST_VALUE = 1e-12
# No price tells total volatilities apart beyond this: the option is worth as much as it can be.
_MOST_TOTAL_VOL = 16.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """Options, one row each.

    Attributes:
        sign: 1 for calls, -1 for puts.
        spot: Price of the underlying, above 0; of the future where `forward` is true.
        strike: Above 0.
        years: To expiry, above 0.
        rate: Continuous, per year.
        dividend_yield: Continuous, per year.
        forward: True where the underlying is a future: it costs nothing to carry, and rates only discount.
    """

    sign: Floats
    spot: Floats
    strike: Floats
    years: Floats
    rate: float
    dividend_yield: float
    forward: bool = False

    @property
    def carried(self) -> Floats:
        """What the underlying at expiry is worth now."""
        return self.spot * np.exp(-(self.rate if self.forward else self.dividend_yield) * self.years)

    @property
    def discounted(self) -> Floats:
        """What the strike is worth now."""
        return self.strike * np.exp(-self.rate * self.years)

    def take(self, rows: npt.NDArray[np.bool_]) -> Options:
        """Return some rows."""
        return Options(
            sign=self.sign[rows],
            spot=self.spot[rows],
            strike=self.strike[rows],
            years=self.years[rows],
            rate=self.rate,
            dividend_yield=self.dividend_yield,
            forward=self.forward,
        )


def normal_cdf(x: Floats) -> Floats:
    """Return the standard normal distribution, to the last digits of a double in both tails.

    Source:
        ``math.erfc``, value by value: NumPy has no such function, and 0.1 us a value is little beside the rest.
    """
    return np.array([math.erfc(v) for v in (x * -math.sqrt(0.5)).tolist()], np.float64) * 0.5


def normal_pdf(x: Floats) -> Floats:
    """Return the standard normal density."""
    density: Floats = np.exp(-0.5 * x * x) / math.sqrt(2 * math.pi)
    return density


def price(options: Options, vol: Floats) -> Floats:
    """Return prices at these volatilities, above 0, per square root of a year."""
    return _price(options.sign, options.carried, options.discounted, vol * np.sqrt(options.years))


def _price(sign: Floats, carried: Floats, discounted: Floats, total_vol: Floats) -> Floats:
    d1 = np.log(carried / discounted) / total_vol + total_vol / 2
    d2 = d1 - total_vol
    return sign * (carried * normal_cdf(sign * d1) - discounted * normal_cdf(sign * d2))


def implied_vol(options: Options, prices: Floats) -> Floats:
    """Return the volatilities at which options have these prices, NaN where there is none.

    There is none below the value of exercising at expiry for certain, nor at or above what the option can be worth at
    most. Newton's method within a bracket: from the point of inflection its steps all go the same way, and a step that
    leaves the bracket is replaced by its middle.
    """
    carried, discounted = options.carried, options.discounted
    intrinsic = np.maximum(options.sign * (carried - discounted), 0)
    most = np.where(options.sign > 0, carried, discounted)
    solvable = (prices - intrinsic > _LEAST_VALUE * discounted) & (prices < most * (1 - _LEAST_VALUE))
    result = np.full(len(prices), np.nan)
    if not solvable.any():
        return result
    carried, discounted = carried[solvable], discounted[solvable]
    # The option of the other sort that is out of the money has the same time value, and loses no digits to the rest.
    sign = np.where(carried > discounted, -1.0, 1.0)
    total = _total_vol(sign, carried, discounted, (prices - intrinsic)[solvable])
    result[solvable] = total / np.sqrt(options.years[solvable])
    return result


def _total_vol(sign: Floats, carried: Floats, discounted: Floats, value: Floats) -> Floats:
    low, high = np.zeros(len(value)), np.full(len(value), _MOST_TOTAL_VOL)
    total = np.clip(np.sqrt(2 * np.abs(np.log(carried / discounted))), 1e-3, _MOST_TOTAL_VOL / 2)
    result = np.full(len(value), np.nan)
    rows = np.arange(len(value))
    for _ in range(_ROUNDS):
        s, c, k, w = sign[rows], carried[rows], discounted[rows], total[rows]
        over = _price(s, c, k, w) - value[rows]
        high[rows] = np.where(over > 0, w, high[rows])
        low[rows] = np.where(over > 0, low[rows], w)
        slope = c * normal_pdf(np.log(c / k) / w + w / 2)
        with np.errstate(all="ignore"):  # a slope of 0 gives no step, and the bracket takes over
            step = w - over / slope
        inside = (step > low[rows]) & (step < high[rows])
        following = np.where(inside, step, (low[rows] + high[rows]) / 2)
        total[rows] = following
        near = np.abs(following - w) <= 1e-12 * w
        # At the top of the bracket nothing was found: the price is that of any large volatility.
        found = rows[near & (following < _MOST_TOTAL_VOL * (1 - 1e-9))]
        result[found] = total[found]
        rows = rows[~near]
        if not len(rows):
            break
    return result


def greeks(options: Options, vol: Floats, day_count: float) -> dict[str, Floats]:
    """Return delta, gamma, vega per point of volatility, theta per day and rho per point of the rate.

    Args:
        options: The rows.
        vol: Volatilities, above 0, per square root of a year.
        day_count: Days in a year.
    """
    sign, years = options.sign, options.years
    carried, discounted = options.carried, options.discounted
    root = np.sqrt(years)
    d1 = np.log(carried / discounted) / (vol * root) + vol * root / 2
    first, second = normal_cdf(sign * d1), normal_cdf(sign * (d1 - vol * root))
    density = carried * normal_pdf(d1)
    carry = options.rate if options.forward else options.dividend_yield
    decay = -density * vol / (2 * root) + sign * (carry * carried * first - options.rate * discounted * second)
    worth = sign * (carried * first - discounted * second)
    return {
        "delta": sign * carried / options.spot * first,
        "gamma": density / (options.spot**2 * vol * root),
        "vega": density * root / 100,
        "theta": decay / day_count,
        "rho": (-years * worth if options.forward else sign * years * discounted * second) / 100,
    }
