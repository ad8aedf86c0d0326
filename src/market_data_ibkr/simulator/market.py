"""The simulated gateway's market: a seeded walk per symbol."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

_TICK = 0.01


@dataclass(slots=True)
class Walk:
    """One instrument's prices; the same seed and symbol give the same.

    Attributes:
        symbol: Whose.
        seed: Of the whole market.
        bid, ask: Prices.
        bid_size, ask_size: Units.
        volume: Units traded so far.
    """

    symbol: str
    seed: int = 1
    bid: float = 0.0
    ask: float = 0.0
    bid_size: int = 0
    ask_size: int = 0
    volume: int = 0
    _random: random.Random = field(init=False)

    def __post_init__(self) -> None:
        self._random = random.Random(f"{self.seed}:{self.symbol}")  # noqa: S311  a market to play with
        middle = self._random.randrange(2_000, 40_000)
        self.bid, self.ask = round(middle * _TICK, 2), round((middle + 2) * _TICK, 2)
        self.bid_size, self.ask_size = self._size(), self._size()

    def step(self) -> None:
        """Move both sides by at most a tick; sizes are new."""
        move = self._random.choice((-1, 0, 1))
        self.bid = round(max(self.bid + move * _TICK, _TICK), 2)
        self.ask = round(self.bid + self._random.choice((1, 2, 3)) * _TICK, 2)
        self.bid_size, self.ask_size = self._size(), self._size()

    def trade(self) -> tuple[float, int]:
        """Return price and size of a trade at one of the two sides."""
        size = self._size()
        self.volume += size
        return self._random.choice((self.bid, self.ask)), size

    def _size(self) -> int:
        return self._random.randrange(1, 20) * 100
