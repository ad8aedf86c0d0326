"""A made-up market in which event n is a function of the seed and of n.

Nothing here has state: any stretch of events can be computed at once, from anywhere, and is the same whatever was
computed before. Only integers and the exact operations of IEEE 754 are used, so it is also the same on any machine.

What makes it look like a market: prices walk in three time scales with quiet and busy stretches, spreads are wider
where the walk is wilder, a few symbols have most of the events, and now and then one symbol has a burst.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from market_data_pipeline.source.synthetic.draws import GOLDEN, Words, words_of
from market_data_pipeline.source.synthetic.schedule import Ints

Floats = npt.NDArray[np.float64]

PRICE_DECIMALS: Final = 2
SIZE_DECIMALS: Final = 0
VERSION: Final = 1
"""Changes with every change of what the same seed gives."""

_TICKS_PER_UNIT: Final = 10**PRICE_DECIMALS

# The walk: one table of a closed random path, read at three speeds. A scale moves one step of the table every
# 2**shift events, and its weight is how far (in log price) the whole table reaches. With 65,536 steps a table's
# step is about 1/200 of its reach, so the weights make steps of 0.25, 2 and 16 basis points: at 1,000 events/s that is
# a day's movement of a few per cent, and however long it runs a price stays within 0.45 and 2.2 times its base.
_PATH_STEPS: Final = 1 << 16
_SCALES: Final = ((6, 0.005), (12, 0.04), (18, 0.33))
_SPREAD_SHIFT: Final = _SCALES[0][0]

# Bursts: stretches of 1,024 events of which one in 32 gives two thirds of its events to one symbol.
_BURST_SHIFT: Final = 10
_BURST_STRETCHES: Final = 1 << 12
_BURST_SHARE: Final = 171  # of 256

# Symbols are drawn with the top bits of a word from a table of equal slots, 16 and more for each symbol: enough that
# the quietest has one, because the sum of 1/rank stays below 16 up to millions of ranks.
_SLOTS_AT_LEAST: Final = 1 << 16
MAX_SYMBOLS: Final = 1 << 20

# Sizes as tables from uniform draws: heavy tails without a logarithm.
_LOTS: Final = np.array([100 * (1 + 3 * i // (256 - i)) for i in range(256)], np.float64)
_TRADE_SIZES: Final = np.array(
    [1 + i * 37 % 99 if i < 350 else 100 if i < 750 else 100 * (1 + 2 * (i - 750) // (1024 - i)) for i in range(1024)],
    np.float64,
)
_EXCHANGES: Final = pa.array(list("QQQQNNNPPZZKDDVY"), pa.string())
_CONDITIONS: Final = pa.array(["@", "@ I"], pa.string())
_SIDES: Final = pa.array(["SELLER", "BUYER"], pa.string())
_ODD_LOT_BELOW: Final = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Book:
    """Top of book of some events.

    Attributes:
        bid, ask: Integer ticks of 0.01; `ask` is at least one above `bid`, `bid` above 0.
    """

    bid: Ints
    ask: Ints


class Market:
    """Quotes and trades of made-up prices, by their place in the schedule.

    Args:
        symbols: 1 to `MAX_SYMBOLS`, the busiest first; activity falls as one over the rank (Zipf).
        seed: Any integer.

    Attributes:
        identity: The same for two markets that give the same events.
    """

    def __init__(self, symbols: Sequence[str], *, seed: int) -> None:
        identity = hashlib.sha256("\n".join([str(VERSION), str(seed), *symbols]).encode())
        self.identity = identity.hexdigest()
        keys = np.frombuffer(identity.digest(), "<u8").astype(np.uint64)
        self._event_key: np.uint64 = keys[0]
        # Nineteen digits whose upper ones belong to this market: ids of two markets do not meet.
        self._first_trade_id = 10**18 + int(keys[3]) % (8 * 10**18)
        self._set_walk(keys[1])
        self._set_symbols(len(symbols), keys[2])
        self._set_activity(len(symbols), keys[2])

    def symbol_of(self, words: Words, places: Ints) -> Ints:
        """Return which symbol each event belongs to, as a place in the symbols."""
        stretch = (places >> _BURST_SHIFT) & (_BURST_STRETCHES - 1)
        draw = (words >> np.uint64(32)).astype(np.uint8)
        usual = self._picks[(words >> self._pick_shift).view(np.int64)]
        return np.where(draw < self._burst_share[stretch], self._burst_symbol[stretch], usual)

    def words(self, places: Ints) -> Words:
        """Return the random word of each event, from which all that is random about it is cut."""
        return words_of(self._event_key, places)

    def book(self, symbols: Ints, places: Ints) -> Book:
        """Return the top of book of `symbols` at `places`; quotes and trades of one place see the same one."""
        movement = np.zeros(len(places))
        for offsets, (shift, weight) in zip(self._offsets, _SCALES, strict=True):
            step = ((places >> shift) + offsets[symbols]) & (_PATH_STEPS - 1)
            part = (places & ((1 << shift) - 1)) * (weight / (1 << shift))
            movement += self._path[step] * weight + part * self._steps[step]
        movement *= self._volatility[symbols]
        # (2 + x) / (2 - x) is e**x to the third order, positive for |x| < 2, and exact arithmetic.
        middle = self._base_ticks[symbols] * ((2.0 + movement) / (2.0 - movement))
        cell = ((places >> _SPREAD_SHIFT) + self._offsets[0][symbols]) & (_PATH_STEPS - 1)
        spread = self._spread[symbols] + self._spread_extra[cell]
        bid = middle.astype(np.int64) - (spread - 1 >> 1)
        return Book(bid=bid, ask=bid + spread)

    def quotes(self, places: Ints, symbols: Ints | None = None) -> dict[str, Any]:
        """Return the columns of the quotes at `places`, without times; prices in whole ticks, sizes in round lots.

        Args:
            places: Where they stand in the schedule.
            symbols: Whose they are, as places in the symbols; None for those that `symbol_of` says.
        """
        words = self.words(places)
        if symbols is None:
            symbols = self.symbol_of(words, places)
        book = self.book(symbols, places)
        return {
            "instrument": symbols.astype(np.int32),
            "bid_price": book.bid / _TICKS_PER_UNIT,
            "bid_size": _LOTS[words.astype(np.uint8)],
            "ask_price": book.ask / _TICKS_PER_UNIT,
            "ask_size": _LOTS[(words >> np.uint64(8)).astype(np.uint8)],
        }

    def quote(self, symbol: int, place: int) -> dict[str, float]:
        """Return how one symbol stands at `place`, whether it has an event there or not."""
        at = np.array([place], np.int64)
        book = self.book(np.array([symbol]), at)
        lots = _LOTS[self.words(at).view(np.uint8)[:2]]
        return {
            "bid": float(book.bid[0] / _TICKS_PER_UNIT),
            "ask": float(book.ask[0] / _TICKS_PER_UNIT),
            "bid_size": float(lots[0]),
            "ask_size": float(lots[1]),
        }

    def trades(self, places: Ints, numbers: Ints, symbols: Ints | None = None) -> dict[str, Any]:
        """Return the columns of the trades at `places`, without times.

        Args:
            places: Where they stand in the schedule.
            numbers: Which among all trades they are; ids go by it.
            symbols: As in `quotes`.
        """
        words = self.words(places)
        if symbols is None:
            symbols = self.symbol_of(words, places)
        book = self.book(symbols, places)
        buyer = (words & np.uint64(1)).astype(np.bool_)
        sizes = _TRADE_SIZES[((words >> np.uint64(8)) & np.uint64(1023)).view(np.int64)]
        ids = numbers + self._first_trade_id
        return {
            "instrument": symbols.astype(np.int32),
            "price": np.where(buyer, book.ask, book.bid) / _TICKS_PER_UNIT,
            "size": sizes,
            "exchange": _EXCHANGES.take(((words >> np.uint64(20)) & np.uint64(15)).view(np.int64)),
            "conditions": _CONDITIONS.take((sizes < _ODD_LOT_BELOW).view(np.int8)),
            "trade_id": pa.array(ids).cast(pa.string()),
            "aggressor_side": _SIDES.take(buyer.view(np.int8)),
        }

    def _set_walk(self, key: np.uint64) -> None:
        draws = words_of(key, np.arange(_PATH_STEPS, dtype=np.int64))
        # Four 16-bit parts of a word add up to nearly a bell curve.
        steps = draws.view(np.uint16).reshape(-1, 4).astype(np.int64).sum(axis=1) - 2 * 0xFFFF
        regimes = np.array([1, 1, 1, 1, 2, 2, 3, 5])
        steps *= np.repeat(regimes[(draws[::256] >> np.uint64(61)).view(np.int64)], 256)
        path = np.cumsum(steps).astype(np.float64)
        # Tied back to its beginning, so the table may be read round and round without a jump.
        path -= path[-1] * (np.arange(1, _PATH_STEPS + 1) / _PATH_STEPS)
        path /= np.abs(path).max()
        self._path: Floats = path
        self._steps: Floats = np.roll(path, -1) - path
        wildness = np.repeat(np.abs(steps).reshape(-1, 16).sum(axis=1), 16)
        wild, wilder = np.partition(wildness, [_PATH_STEPS * 3 // 5, _PATH_STEPS * 9 // 10])[
            [_PATH_STEPS * 3 // 5, _PATH_STEPS * 9 // 10]
        ]
        self._spread_extra: Ints = (wildness > wild).astype(np.int64) + (wildness > wilder)

    def _set_symbols(self, count: int, key: np.uint64) -> None:
        numbers = np.arange(count * 8, dtype=np.int64).reshape(8, count)
        draws = words_of(key, numbers)
        parts = (draws >> np.uint64(32)).view(np.int64)
        mask = _PATH_STEPS - 1
        self._offsets: tuple[Ints, ...] = tuple(parts[i] & mask for i in range(len(_SCALES)))
        # Prices around 20 to 500, low ones more often; volatility from half to twice the usual.
        share = (parts[3] & 0xFFFF) / 0x10000
        self._base_ticks: Floats = np.floor((20 + 480 * share * share) * _TICKS_PER_UNIT)
        level = (parts[4] & 0xFFFF) / 0x10000
        self._volatility: Floats = 0.5 + 1.5 * level
        self._spread: Ints = 1 + (level * 3).astype(np.int64)

    def _set_activity(self, count: int, key: np.uint64) -> None:
        slots = max(_SLOTS_AT_LEAST, 1 << (16 * count - 1).bit_length())
        edges = np.cumsum(1.0 / np.arange(1, count + 1))
        points = (np.arange(slots) + 0.5) * (edges[-1] / slots)
        self._picks: Ints = np.minimum(np.searchsorted(edges, points), count - 1).astype(np.int64)
        self._pick_shift = np.uint64(64 - (slots.bit_length() - 1))
        draws = words_of(key ^ GOLDEN, np.arange(_BURST_STRETCHES, dtype=np.int64))
        self._burst_symbol: Ints = ((draws >> np.uint64(16)) & np.uint64(0xFFFFFFFF)).view(np.int64) % count
        self._burst_share = np.where((draws & np.uint64(31)) == 0, _BURST_SHARE, 0).astype(np.uint8)
