from __future__ import annotations

from fractions import Fraction

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from market_data_pipeline.operators import exact

MIDDLES = st.builds(
    lambda n, bits, off: (2 * n + 1 << bits) + off, st.integers(2**52, 2**53), st.integers(0, 7), st.integers(-1, 1)
)
"""At the middle between two floats and beside it, where rounding twice would show."""
NUMBERS = st.one_of(
    st.integers(-1000, 1000),
    st.integers(-(2**40), 2**40),
    st.integers(-(2**61), 2**61),
    st.integers(-(2**90), 2**90),
    MIDDLES,
)
COLUMNS = st.lists(st.tuples(NUMBERS, NUMBERS), min_size=1, max_size=40)
SMALL = st.lists(st.tuples(st.integers(-(2**38), 2**38), st.integers(0, 2**36)), min_size=1, max_size=40)


def groups(length, data):
    return np.array(sorted({0, *data.draw(st.sets(st.integers(0, length - 1)))}), np.int64)


def parts(values, starts):
    return [values[a:b] for a, b in zip(starts.tolist(), [*starts[1:].tolist(), len(values)], strict=True)]


@settings(deadline=None)
@given(st.one_of(COLUMNS, SMALL), st.data())
def test_sums_and_sums_of_products_are_those_of_integers(rows, data):
    """Whatever the magnitudes and groups: no wrap, no rounding."""
    a, b = [x for x, _ in rows], [y for _, y in rows]
    starts = groups(len(rows), data)
    columns = exact.restored(a), exact.restored(b)
    assert exact.sum_groups(columns[0], starts).tolist() == [sum(p) for p in parts(a, starts)]
    products = [x * y for x, y in rows]
    assert exact.sum_products(*columns, starts).tolist() == [sum(p) for p in parts(products, starts)]
    assert exact.products(*columns).tolist() == products


@settings(deadline=None)
@given(COLUMNS)
def test_adding_and_joining_widen_where_needed(rows):
    """Sums leave 64 bits without wrapping."""
    a, b = [x for x, _ in rows], [y for _, y in rows]
    assert exact.joined(exact.restored(a), exact.restored(b)).tolist() == a + b
    added = exact.add_at(exact.restored(a), np.arange(len(a)), exact.restored(b))
    assert added.tolist() == [x + y for x, y in rows]


@settings(deadline=None)
@given(COLUMNS)
def test_quotients_are_rounded_correctly(rows):
    """As exact fractions are; nothing where the denominator is 0."""
    found = exact.ratio(exact.restored([x for x, _ in rows]), exact.restored([y for _, y in rows]))
    expected = [float(Fraction(x, y)) if y else None for x, y in rows]
    assert [None if np.isnan(q) else q for q in found.tolist()] == expected


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(-(10**17), 10**17), st.integers(0, 8)), min_size=1), st.booleans())
def test_decimals_become_the_steps_they_name(numbers, one_scale):
    """The float closest to a decimal of up to 15 digits is as many steps as the decimal is; shortest reading wins."""
    values = [float(f"{n}e-{d}") for n, d in numbers]
    scale = 1e8 if one_scale else np.full(len(values), 1e8)
    found = exact.in_steps(np.array(values), scale).tolist()
    assert found == [int(Fraction(repr(v)) * 10**8) for v in values]


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.integers(-(10**17), 10**17), st.integers(0, 8)), min_size=1), st.sampled_from([0, 2, 4, 8])
)
def test_a_whole_number_of_steps_is_told_from_a_part_of_one(numbers, decimals):
    """By the decimal that is read, not by the float's last digits; more than 15 digits are never said to be whole."""
    values = [float(f"{n}e-{d}") for n, d in numbers]
    found = exact.are_whole(np.array(values), 10.0**decimals).tolist()
    steps = [Fraction(repr(v)) * 10**decimals for v in values]
    assert found == [s.denominator == 1 and abs(s) < 10**15 for s in steps]


@settings(deadline=None)
@given(COLUMNS, st.integers(1, 10**18), st.data())
def test_multiplying_some_sums_leaves_the_others(rows, by, data):
    """Beyond 64 bits too."""
    sums = [x for x, _ in rows]
    at = sorted(data.draw(st.sets(st.integers(0, len(sums) - 1))))
    found = exact.scaled_at(exact.restored(sums), np.array(at, np.int64), by)
    assert found.tolist() == [x * by if n in at else x for n, x in enumerate(sums)]
