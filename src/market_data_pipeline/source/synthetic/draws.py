"""Random choices that are functions of a key and of a number, so they can be entered anywhere and repeated."""

from __future__ import annotations

import hashlib
from fractions import Fraction
from typing import Final

import numpy as np
import numpy.typing as npt

from market_data_pipeline.source.synthetic.schedule import Ints

Words = npt.NDArray[np.uint64]
Bools = npt.NDArray[np.bool_]

GOLDEN: Final = np.uint64(0x9E3779B97F4A7C15)
FINEST_SHARE: Final = 10**-6
"""Shares are kept as fractions of whole numbers up to a million."""


# The finaliser of SplitMix64 (Steele, Lea, Flood 2014): its n-th word is `_scramble(key + n * golden ratio)`, which is
# what lets a stream of random words be entered anywhere.
def _scramble(words: Words) -> Words:
    words ^= words >> np.uint64(30)
    words *= np.uint64(0xBF58476D1CE4E5B9)
    words ^= words >> np.uint64(27)
    words *= np.uint64(0x94D049BB133111EB)
    words ^= words >> np.uint64(31)
    return words


def words_of(key: np.uint64, numbers: Ints) -> Words:
    """Return the random word of each number."""
    return _scramble(numbers.view(np.uint64) * GOLDEN + key)


def below(key: np.uint64, numbers: Ints, limits: Ints | int) -> Ints:
    """Return a whole number from 0 up to the limit, exclusive, for each number."""
    most = np.asarray(limits, np.int64).view(np.uint64)
    return (words_of(key, numbers) % most).view(np.int64)


def key_of(*parts: str) -> np.uint64:
    """Return a key that differs for different texts."""
    digest = hashlib.sha256("\n".join(parts).encode()).digest()
    return np.uint64(int.from_bytes(digest[:8], "little"))


class Share:
    """Chooses a share of the numbers 0, 1, 2, …: one in each cell of equal length, at a random place in it.

    Unlike independent draws this lets one say how many are chosen below any number without counting them.

    Args:
        share: From a millionth to 1.
        key: Another key chooses others.
    """

    def __init__(self, share: float, key: np.uint64) -> None:
        fraction = Fraction(share).limit_denominator(round(1 / FINEST_SHARE))
        # So many numbers have so many cells; no cell is empty, since a share is at most 1.
        self._cells, self._numbers = fraction.numerator, fraction.denominator
        self._key = key

    def chosen(self, numbers: Ints) -> Bools:
        """Return which numbers are chosen."""
        _, place = self._find(numbers)
        chosen: Bools = place == numbers
        return chosen

    def before(self, number: int) -> int:
        """Return how many of the numbers below `number` are chosen."""
        cell, place = self._find(np.array([number], np.int64))
        return int(cell[0]) + bool(place[0] < number)

    # The cell of each number and the one number in it that is chosen. Blocks and rests apart, so nothing leaves int64.
    def _find(self, numbers: Ints) -> tuple[Ints, Ints]:
        block, rest = np.divmod(numbers, self._numbers)
        inner = rest * self._cells // self._numbers
        start = -(-inner * self._numbers // self._cells)
        length = -(-(inner + 1) * self._numbers // self._cells) - start
        cell = block * self._cells + inner
        return cell, block * self._numbers + start + below(self._key, cell, length)


class Windows:
    """One window of time in each period, at a random place in it.

    Args:
        every_ns: Length of a period.
        for_ns: Length of a window; below `every_ns`.
        key: Another key places them elsewhere.
    """

    def __init__(self, *, every_ns: int, for_ns: int, key: np.uint64) -> None:
        self._every_ns = every_ns
        self._for_ns = for_ns
        self._key = key

    def find(self, times_ns: Ints) -> tuple[Bools, Ints]:
        """Return which times lie in a window, and of each time the number of its period."""
        period, time_ns = np.divmod(times_ns, self._every_ns)
        since_ns = time_ns - below(self._key, period, self._every_ns - self._for_ns + 1)
        return (since_ns >= 0) & (since_ns < self._for_ns), period
