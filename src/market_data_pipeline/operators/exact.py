"""Sums that no split into batches can change: integers of each instrument's steps, as wide as they need to be."""

from __future__ import annotations

from decimal import Decimal
from operator import truediv
from typing import Any

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]
Exact = npt.NDArray[Any]
"""int64 where the numbers fit, Python integers where they do not."""

_SAFE_BITS = 62
_SAFE = 2**_SAFE_BITS
_FLOAT_EXACT = 2**53
# A decimal read into a float is off by up to half a unit in the last place, and so is its product with the scale. Up
# to here both together are less than half a step, and rounding undoes them.
_STEPS_EXACT = 2.0**51
# Every decimal of up to 15 digits has a float of its own.
_DIGITS_EXACT = 1e15
# Some processors have floats as wide as int64; elsewhere a long double is an ordinary one.
_WIDE = np.finfo(np.longdouble).nmant >= 63


def in_steps(values: npt.NDArray[np.float64], scale: npt.NDArray[np.float64] | float) -> Exact:
    """Return finite values as whole numbers of their steps, exactly as their shortest decimal writes them.

    Args:
        values: Prices or sizes.
        scale: Steps per unit, powers of ten up to 10**18; one per value, or one for all.
    """
    whole = np.rint(values * scale)
    if _peak(whole) < _STEPS_EXACT:
        return whole.astype(np.int64)
    far = np.flatnonzero(np.abs(whole) >= _STEPS_EXACT)
    steps = np.where(np.abs(whole) < _STEPS_EXACT, whole, 0).astype(np.int64).astype(object)
    scales = np.broadcast_to(scale, values.shape)
    for row, value, each in zip(far.tolist(), values[far].tolist(), scales[far].tolist(), strict=True):
        steps[row] = int((Decimal(repr(value)) * int(each)).to_integral_value())
    return steps.astype(np.int64) if largest(steps) < _SAFE else steps


def are_whole(values: npt.NDArray[np.float64], scale: npt.NDArray[np.float64] | float) -> npt.NDArray[np.bool_]:
    """Return which finite values are, as their shortest decimal writes them, a whole number of steps of 15 digits.

    Args:
        values: Prices or sizes.
        scale: As in `in_steps`.
    """
    steps = values * scale
    np.rint(steps, out=steps)
    small = _peak(steps) < _DIGITS_EXACT
    within = True if small else np.abs(steps) < _DIGITS_EXACT
    np.divide(steps, scale, out=steps)
    whole: npt.NDArray[np.bool_] = steps == values
    if not small:
        whole &= within
    return whole


def largest(numbers: Exact) -> int:
    """Return the largest magnitude, 0 of none."""
    return int(_peak(numbers)) if len(numbers) else 0


def _peak(numbers: npt.NDArray[Any]) -> Any:
    return max(abs(numbers.max()), abs(numbers.min())) if len(numbers) else 0


def sum_groups(whole: Exact, starts: Ints) -> Exact:
    """Return the sum of each group of whole numbers.

    Args:
        whole: Groups one after the other.
        starts: Where each group begins.
    """
    if whole.dtype != object and largest(whole) * len(whole) >= _SAFE:
        whole = whole.astype(object)
    sums: Exact = np.add.reduceat(whole, starts)
    return sums


def sum_products(a: Exact, b: Exact, starts: Ints) -> Exact:
    """Return the sum of products of each group; `starts` as in `sum_groups`."""
    if object in (a.dtype, b.dtype):
        sums: Exact = np.add.reduceat(a.astype(object) * b.astype(object), starts)
        return sums
    narrow, wide = (a, b) if largest(a) <= largest(b) else (b, a)
    longest = int(np.diff(starts, append=len(a)).max())
    room = _SAFE_BITS - (largest(narrow) * longest).bit_length()
    if largest(wide).bit_length() <= room:
        return np.add.reduceat(a * b, starts)
    if room < 8:
        return np.add.reduceat(a.astype(object) * b.astype(object), starts)
    # Long multiplication: `wide` in digits of `room` bits each, whose sums fit int64; only the few sums per group are
    # put together as Python integers, not every row. The top digit carries the sign.
    total: Exact = np.zeros(len(starts), dtype=object)
    shift = 0
    while largest(wide).bit_length() > room:
        total += np.add.reduceat(narrow * (wide & ((1 << room) - 1)), starts).astype(object) << shift
        wide, shift = wide >> room, shift + room
    total += np.add.reduceat(narrow * wide, starts).astype(object) << shift
    return total


def add_at(sums: Exact, rows: Ints, more: Exact) -> Exact:
    """Return `sums` with `more` added at `rows`, which are all different; may change `sums` in place."""
    if sums.dtype != object and (more.dtype == object or largest(sums) + largest(more) >= _SAFE):
        sums = sums.astype(object)
    sums[rows] += more
    return sums


def scaled_at(sums: Exact, rows: Ints, by: int) -> Exact:
    """Return `sums` with those at `rows` multiplied by `by`; may change `sums` in place."""
    if sums.dtype != object and largest(sums[rows]) * by >= _SAFE:
        sums = sums.astype(object)
    sums[rows] *= by
    return sums


def products(a: Exact, b: Exact) -> Exact:
    """Return products, one by one."""
    if a.dtype != object and largest(a) * largest(b) >= _SAFE:
        a = a.astype(object)
    result: Exact = a * b
    return result


def joined(a: Exact, b: Exact) -> Exact:
    """Return two lists of sums as one."""
    if a.dtype == b.dtype:
        return np.concatenate([a, b])
    return np.concatenate([a.astype(object), b.astype(object)])


def ratio(numerators: Exact, denominators: Exact) -> npt.NDArray[np.float64]:
    """Return correctly rounded quotients; NaN where the denominator is 0."""
    result = np.full(len(numerators), np.nan)
    if largest(numerators) <= _FLOAT_EXACT and largest(denominators) <= _FLOAT_EXACT:
        np.divide(numerators.astype(np.float64), denominators.astype(np.float64), out=result, where=denominators != 0)
        return result
    rows = np.flatnonzero(denominators != 0)
    if _WIDE and object not in (numerators.dtype, denominators.dtype):
        # The quotient is right to 64 bits, and rounding that to a float's 53 is right too, unless it lies in the very
        # middle between two floats, which are half as far apart below a power of two.
        wide = numerators[rows].astype(np.longdouble) / denominators[rows].astype(np.longdouble)
        result[rows] = wide.astype(np.float64)
        off, apart = np.abs(wide - result[rows]), np.spacing(np.abs(result[rows]))
        rows = rows[(off == apart / 2) | (off == apart / 4)]
    result[rows] = [*map(truediv, numerators[rows].tolist(), denominators[rows].tolist())]
    return result


def restored(values: list[int]) -> Exact:
    """Return sums that went through plain values, such as JSON."""
    return np.array(values, dtype=object if any(abs(v) >= _SAFE for v in values) else np.int64)
