"""Whole columns as expressions see them: numbers, text and truth, with what is absent said plainly.

What is absent stays absent: a null, a NaN or an infinite number makes whatever is computed from it null, and a
comparison with null is false. Every result depends on its own row alone, to the last digit.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

Bools = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

# Whole numbers beyond this become null. A float tells whether a result is, although it is inexact there, and int64
# has room for all results that are not.
_LARGEST_WHOLE = 2.0**62
# From here on all floats are whole, so there is nothing to round.
_ALL_WHOLE = 2.0**52


@dataclass(frozen=True, slots=True)
class Number:
    """Numbers, one per row or one for all.

    Attributes:
        values: float64 with NaN where null, or int64.
        valid: Of int64, which are not null; None says all.
    """

    values: npt.NDArray[Any]
    valid: Bools | None = None

    @property
    def is_whole(self) -> bool:
        """True for int64."""
        return self.values.dtype == np.int64

    def floats(self) -> Floats:
        """Return float64 with NaN where null."""
        if not self.is_whole:
            return self.values
        values = self.values.astype(np.float64)
        return values if self.valid is None else np.where(self.valid, values, np.nan)

    def present(self) -> Bools:
        """Return which are not null."""
        if not self.is_whole:
            found: Bools = ~np.isnan(self.values)
            return found
        return np.ones(len(self.values), np.bool_) if self.valid is None else self.valid


@dataclass(frozen=True, slots=True)
class Text:
    """Text, one per row or one for all.

    Attributes:
        values: Strings, null where absent.
        places: Which of `values` each row has; None says that rows and values are the same. A symbol is compared once
            per instrument and not once per row.
    """

    values: pa.Array
    places: npt.NDArray[Any] | None = None

    def array(self, rows: int) -> pa.Array:
        """Return one string per row."""
        if self.places is not None:
            return self.values.take(pa.array(self.places))
        return pa.repeat(self.values[0], rows) if len(self.values) == 1 and rows != 1 else self.values


def whole(column: pa.Array) -> Number:
    """Return an integer column as int64."""
    valid = None
    if column.null_count:
        valid = column.is_valid().to_numpy(zero_copy_only=False)
        column = column.fill_null(0)
    return Number(column.to_numpy(zero_copy_only=False).astype(np.int64, copy=False), valid)


def real(values: Floats) -> Number:
    """Return floats, what is no finite number as null."""
    finite = np.isfinite(values)
    return Number(values if finite.all() else np.where(finite, values, np.nan))


def _both(a: Number, b: Number) -> Bools | None:
    if a.valid is None and b.valid is None:
        return None
    both: Bools = a.present() & b.present()
    return both


def _in_range(values: Ints, estimate: Floats, valid: Bools | None) -> Number:
    fits = np.abs(estimate) < _LARGEST_WHOLE
    if fits.all():
        return Number(values, valid)
    return Number(np.where(fits, values, 0), fits if valid is None else fits & valid)


def arithmetic(ufunc: np.ufunc, a: Number, b: Number) -> Number:
    """Return ``+ - * // %`` of two numbers as Python defines them: whole of whole ones, else float; null by 0."""
    with np.errstate(all="ignore"):
        if not (a.is_whole and b.is_whole):
            return real(ufunc(a.floats(), b.floats()))
        valid, x, y = _both(a, b), a.values, b.values
        if ufunc in (np.floor_divide, np.remainder):
            nonzero = y != 0
            y = np.where(nonzero, y, 1)
            valid = nonzero if valid is None else valid & nonzero
        # Values that are null are 0 and 1 here, so what is out of range is so in a row that counts.
        return _in_range(ufunc(x, y), ufunc(x.astype(np.float64), y.astype(np.float64)), valid)


def divide(a: Number, b: Number) -> Number:
    """Return the quotient, a float; null where it is divided by 0."""
    with np.errstate(all="ignore"):
        return real(np.divide(a.floats(), b.floats()))


def power(a: Number, b: Number) -> Number:
    """Return a float, null where there is no such real number."""
    # Arrow takes one value at a time. NumPy takes several at once where it can, with other last digits.
    x, y = (pa.array(np.ascontiguousarray(v)) for v in np.broadcast_arrays(a.floats(), b.floats()))
    return _of_arrow(pc.power(x, y), a, b)


def log(a: Number) -> Number:
    """Return the natural logarithm, null of what is not above 0."""
    return _of_arrow(pc.ln(pa.array(np.ascontiguousarray(a.floats()))), a, a)


def _of_arrow(result: pa.Array, a: Number, b: Number) -> Number:
    # Nothing to the power of 0 would be 1, as NaN is no null to Arrow.
    values = result.to_numpy(zero_copy_only=False)
    return real(np.where(a.present() & b.present(), values, np.nan))


def sqrt(a: Number) -> Number:
    """Return the square root, null of what is below 0."""
    with np.errstate(invalid="ignore"):
        return real(np.sqrt(a.floats()))


def negative(a: Number) -> Number:
    """Return the number with the other sign."""
    if a.is_whole:
        return _in_range(np.negative(a.values), -a.floats(), a.valid)
    return Number(-a.values)


def absolute(a: Number) -> Number:
    """Return the magnitude."""
    if a.is_whole:
        return _in_range(np.abs(a.values), np.abs(a.values.astype(np.float64)), a.valid)
    return Number(np.abs(a.values))


def extreme(ufunc: np.ufunc, a: Number, b: Number) -> Number:
    """Return the larger or the smaller of two; null if either is."""
    if a.is_whole and b.is_whole:
        return Number(ufunc(a.values, b.values), _both(a, b))
    return Number(ufunc(a.floats(), b.floats()))


def rounded(a: Number, digits: int) -> Number:
    """Return the number with so many digits after the point; halves go to the even neighbour."""
    if a.is_whole:
        return a
    scale = 10.0**digits
    with np.errstate(over="ignore"):
        scaled = a.values * scale
    return Number(np.where(np.abs(scaled) < _ALL_WHOLE, np.rint(scaled) / scale, a.values))


def compare_numbers(ufunc: np.ufunc, a: Number, b: Number) -> Bools:
    """Return where the comparison holds, exactly between whole numbers; false where either is null."""
    both_whole = a.is_whole and b.is_whole
    holds: Bools = ufunc(a.values, b.values) if both_whole else ufunc(a.floats(), b.floats())
    if ufunc is np.not_equal or both_whole:
        # Of all comparisons with NaN only this one holds by itself.
        holds = holds & a.present() & b.present()
    return holds


def compare_text(compare: Callable[[Any, Any], Any], a: Text, b: Text) -> Bools:
    """Return where the comparison holds, by code points; false where either is null."""
    if b.places is None and len(b.values) == 1:
        return _per_row(compare(a.values, b.values[0]), a.places)
    if a.places is None and len(a.values) == 1:
        return _per_row(compare(a.values[0], b.values), b.places)
    rows = max(len(x.values) if x.places is None else len(x.places) for x in (a, b))
    return _per_row(compare(a.array(rows), b.array(rows)), None)


def text_among(a: Text, choices: Sequence[str]) -> Bools:
    """Return where the text is one of the choices; false where it is null."""
    return _per_row(pc.is_in(a.values, value_set=pa.array(choices, pa.string())), a.places)


def text_absent(a: Text) -> Bools:
    """Return where the text is null."""
    return _per_row(a.values.is_null(), a.places)


def _per_row(holds: pa.Array, places: npt.NDArray[Any] | None) -> Bools:
    if holds.null_count:
        holds = holds.fill_null(False)  # noqa: FBT003  the published call
    found: Bools = holds.to_numpy(zero_copy_only=False)
    return found if places is None else found[places]
