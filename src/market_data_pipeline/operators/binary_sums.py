"""Sums of any floats that no order and no split can change: exact, rounded once when they are read."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from market_data_pipeline.operators.streams import Ints, segment_starts

Totals = npt.NDArray[Any]
"""Python integers in units of 2**-1074, the smallest float: every finite float is a whole number of them."""

_UNIT_BITS = 1074
_MANTISSA_BITS = 53
# Mantissas are added up in two halves, whose sums of 2**36 values fit int64.
_LOW_BITS = 26


def totals(values: npt.NDArray[np.float64], group: Ints, groups: int) -> Totals:
    """Return the exact sum of each group of finite floats.

    Args:
        values: In any order.
        group: The number of each value's group.
        groups: How many there are.
    """
    result: Totals = np.zeros(groups, dtype=object)
    if not len(values):
        return result
    fraction, exponent = np.frexp(values)
    mantissa = np.ldexp(fraction, _MANTISSA_BITS).astype(np.int64)
    shift = exponent.astype(np.int64) - _MANTISSA_BITS + _UNIT_BITS
    # Floats too small for a whole mantissa end in as many zeros as their unit is too fine.
    mantissa >>= np.maximum(-shift, 0)
    shift = np.maximum(shift, 0)
    order = np.lexsort((shift, group))
    group, shift, mantissa = group[order], shift[order], mantissa[order]
    at = segment_starts(group, shift)
    high = np.add.reduceat(mantissa >> _LOW_BITS, at).tolist()
    low = np.add.reduceat(mantissa & ((1 << _LOW_BITS) - 1), at).tolist()
    for g, s, h, n in zip(group[at].tolist(), shift[at].tolist(), high, low, strict=True):
        result[g] += ((h << _LOW_BITS) + n) << s
    return result


def quotients(sums: Totals, counts: Ints | None = None) -> npt.NDArray[np.float64]:
    """Return sums, or sums by counts, correctly rounded; NaN where no float is as large or the count is 0."""
    result = np.full(len(sums), np.nan)
    divisors = np.ones(len(sums), np.int64) if counts is None else counts
    for row, (total, divisor) in enumerate(zip(sums.tolist(), divisors.tolist(), strict=True)):
        if divisor:
            try:
                result[row] = total / (divisor << _UNIT_BITS)
            except OverflowError:
                # The sum is beyond all floats, so there is none to give.
                continue
    return result
