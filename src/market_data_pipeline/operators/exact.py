"""Sums that no split into batches can change: integers of each instrument's steps, as wide as they need to be."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]
Exact = npt.NDArray[Any]
"""int64 where the sums fit, Python integers where they do not."""

_SAFE = float(2**62)
_FLOAT_EXACT = 2**53


def in_steps(values: npt.NDArray[np.float64], scale: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return values as whole numbers of their steps, kept in floats (exact up to 2**53)."""
    return np.rint(values * scale)


def sum_groups(whole: npt.NDArray[np.float64], starts: Ints) -> Exact:
    """Return the exact sum of each group of whole numbers."""
    if not len(whole):
        return np.empty(0, np.int64)
    if float(np.abs(whole).max()) * len(whole) < _SAFE:
        sums: Exact = np.add.reduceat(whole.astype(np.int64), starts)
        return sums
    return np.add.reduceat(_objects(whole), starts)


def sum_products(a: npt.NDArray[np.float64], b: npt.NDArray[np.float64], starts: Ints) -> Exact:
    """Return the exact sum of products of each group."""
    if not len(a):
        return np.empty(0, np.int64)
    if float(np.abs(a).max()) * float(np.abs(b).max()) * len(a) < _SAFE:
        sums: Exact = np.add.reduceat(a.astype(np.int64) * b.astype(np.int64), starts)
        return sums
    return np.add.reduceat(_objects(a) * _objects(b), starts)


def add_groups(sums: Exact, starts: Ints) -> Exact:
    """Return the exact sums of groups of sums."""
    if sums.dtype != object and len(sums):
        largest = int(np.abs(sums).max())
        if largest * len(sums) >= _SAFE:
            sums = sums.astype(object)
    result: Exact = np.add.reduceat(sums, starts)
    return result


def products(a: Exact, b: Exact) -> Exact:
    """Return exact products, one by one."""
    if a.dtype != object and len(a) and float(np.abs(a).max()) * float(np.abs(b).max()) >= _SAFE:
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
    if numerators.dtype != object and denominators.dtype != object and len(numerators):
        exact = (np.abs(numerators) <= _FLOAT_EXACT) & (np.abs(denominators) <= _FLOAT_EXACT)
        if exact.all():
            np.divide(numerators, denominators, out=result, where=denominators != 0)
            return result
    for i, (n, d) in enumerate(zip(numerators.tolist(), denominators.tolist(), strict=True)):
        if d:
            result[i] = n / d
    return result


def _objects(whole: npt.NDArray[np.float64]) -> Exact:
    return np.array([int(v) for v in whole.tolist()], dtype=object)
