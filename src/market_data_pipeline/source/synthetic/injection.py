"""Puts defects into the events of a made-up market.

Whatever is done to an event depends on its number, and on the time at which the schedule has it. So the same seed has
the same defects at the same events, however they are cut into batches and from wherever a run begins.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from market_data_core.schemas import Kind
from market_data_pipeline.source.synthetic.bursts import BurstRate
from market_data_pipeline.source.synthetic.defects import Defects, Part, Stretches
from market_data_pipeline.source.synthetic.draws import Bools, Share, Windows, below, key_of
from market_data_pipeline.source.synthetic.market import PRICE_DECIMALS, Market
from market_data_pipeline.source.synthetic.schedule import Ints, Mix, Pace
from market_data_pipeline.source.synthetic.timeline import Stretch

VERSION: Final = 1
"""Changes with every change of what the same seed and defects give."""

_TICKS_PER_UNIT: Final = 10**PRICE_DECIMALS
_SHARED: Final = {
    "late": (Kind.QUOTES, Kind.TRADES),
    "out_of_order": (Kind.QUOTES, Kind.TRADES),
    "duplicates": (Kind.TRADES,),
    "crossed": (Kind.QUOTES,),
    "spikes": (Kind.QUOTES, Kind.TRADES),
    "bad_values": (Kind.QUOTES, Kind.TRADES),
}


@dataclass(frozen=True, slots=True)
class Rows:
    """Rows that a stretch of the schedule gives, in order.

    Attributes:
        numbers: Which event of its kind each shows.
        slots: In whose turn it comes: its own, or for a repeat a later one.
        repeats: Which rows are repeats.
    """

    numbers: Ints
    slots: Ints
    repeats: Bools

    def take(self, wanted: Bools | slice) -> Rows:
        """Return some of the rows."""
        return Rows(self.numbers[wanted], self.slots[wanted], self.repeats[wanted])


class Injector:
    """Makes the rows of a source that has defects, and counts what is wrong with them.

    A kind's sequence counts its own events and the repeats among them. What is withheld keeps its number.

    Args:
        defects: What is to be wrong.
        market: What would be given without.
        mix: Which events are quotes and which trades.
        pace: When the schedule has them.
        symbols: How many there are.
    """

    def __init__(self, defects: Defects, *, market: Market, mix: Mix, pace: Pace, symbols: int) -> None:
        self._defects = defects
        self._market, self._mix, self._pace = market, mix, pace
        self._symbols = symbols
        shared: dict[str, Part] = {n: part for n in _SHARED if (part := getattr(defects, n)) is not None}
        self._shares = {
            (name, kind): Share(part.share, self._key(name, kind))
            for name, part in shared.items()
            for kind in _SHARED[name]
            if name != "bad_values" or _usable(part, kind)
        }
        self._gaps = self._windows("gaps", defects.gaps)
        self._silence = self._windows("silence", defects.silence)
        self.forget()

    def forget(self) -> None:
        """Begin to count anew."""
        self.injected = dict.fromkeys(self._defects.names, 0)
        if self._defects.bad_values is not None:
            self.injected |= {f"bad_values.{what}": 0 for what in self._defects.bad_values.what}

    def offset(self, kind: Kind, number: int) -> int:
        """Return how many rows come before the turn of event `number` of `kind`, the withheld ones included."""
        share = self._shares.get(("duplicates", kind))
        return number if share is None else number + share.before(max(number - self._after(), 0))

    def number(self, kind: Kind, offset: int) -> int:
        """Return in the turn of which event of `kind` the row at `offset` comes."""
        if ("duplicates", kind) not in self._shares:
            return offset
        return bisect_right(range(offset + 1), offset, key=lambda number: self.offset(kind, number)) - 1

    def columns(self, kind: Kind, first: int, end: int, given: int, stretch: Stretch) -> tuple[int, dict[str, Any]]:
        """Return how many rows come in the turns of some events, and their columns.

        Args:
            kind: Of which kind.
            first: The first event's number.
            end: The last one's, exclusive.
            given: Rows below this offset have been given.
            stretch: Says the times.
        """
        rows = self._rows(kind, first, end)
        skipped = given - self.offset(kind, first)
        rows = rows.take(slice(skipped, None)) if skipped > 0 else rows
        places = self._mix.places(kind, rows.numbers)
        symbols, instead = self._speakers(places)
        kept = ~self._withheld(kind, rows, places, symbols)
        rows, places, symbols = rows.take(kept), places[kept], symbols[kept]
        self._count("duplicates", rows.repeats)
        self._count("silence", instead[kept] & ~rows.repeats)
        if isinstance(self._pace, BurstRate):
            self._count("bursts", self._pace.bursting(places) & ~rows.repeats)
        if kind is Kind.QUOTES:
            columns = self._market.quotes(places, symbols)
        else:
            columns = self._market.trades(places, rows.numbers, symbols)
        self._spoil(kind, rows, columns)
        columns["ts_event"] = stretch.ts_event(places) - self._age_ns(kind, rows)
        if stretch.recv_delay_ns is not None:
            turns = self._mix.places(kind, rows.slots)
            columns["ts_recv"] = stretch.ts_event(turns) + np.int64(stretch.recv_delay_ns)
        return len(places), columns

    def _key(self, *parts: str) -> np.uint64:
        return key_of(self._market.identity, str(VERSION), *parts)

    def _windows(self, name: str, stretches: Stretches | None) -> Windows | None:
        if stretches is None:
            return None
        return Windows(every_ns=stretches.every_ns, for_ns=stretches.for_ns, key=self._key(name))

    def _after(self) -> int:
        return 0 if self._defects.duplicates is None else self._defects.duplicates.after

    def _chosen(self, name: str, kind: Kind, numbers: Ints) -> Bools:
        share = self._shares.get((name, kind))
        return np.zeros(len(numbers), np.bool_) if share is None else share.chosen(numbers)

    def _rows(self, kind: Kind, first: int, end: int) -> Rows:
        own = np.arange(first, end, dtype=np.int64)
        if ("duplicates", kind) not in self._shares:
            return Rows(own, own, np.zeros(len(own), np.bool_))
        after = self._after()
        before = np.arange(max(first - after, 0), max(end - after, 0), dtype=np.int64)
        again = before[self._chosen("duplicates", kind, before)]
        slots = np.concatenate([own, again + after])
        order = np.argsort(slots, kind="stable")  # an event before the repeat that comes in its turn
        return Rows(np.concatenate([own, again])[order], slots[order], (np.arange(len(slots)) >= len(own))[order])

    # Whose the events are, and which would be another's. While symbols are silent the others take their turns, so the
    # rate stays as it is.
    def _speakers(self, places: Ints) -> tuple[Ints, Bools]:
        symbols = self._market.symbol_of(self._market.words(places), places)
        if self._silence is None or self._defects.silence is None:
            return symbols, np.zeros(len(places), np.bool_)
        inside, period = self._silence.find(self._pace.times_ns(places))
        key, named = self._key("silence", "instead"), self._defects.silence.symbols
        if named:
            silent = inside & np.isin(symbols, named)
            others = np.setdiff1d(np.arange(self._symbols), named)
            instead = others[below(key, places, len(others))]
        else:
            silent = inside & (symbols == below(self._key("silence", "who"), period, self._symbols))
            instead = (symbols + 1 + below(key, places, self._symbols - 1)) % self._symbols
        return np.where(silent, instead, symbols), silent

    # What falls into a gap, and repeats of what was never given or of what is wrong already: of those, nobody could say
    # how often each is to be found.
    def _withheld(self, kind: Kind, rows: Rows, places: Ints, symbols: Ints) -> Bools:
        withheld = rows.repeats & self._chosen("bad_values", kind, rows.numbers)
        if self._gaps is None or self._defects.gaps is None:
            return withheld
        turns = self._mix.places(kind, rows.slots)
        missing = self._gaps.find(self._pace.times_ns(places))[0] | self._gaps.find(self._pace.times_ns(turns))[0]
        if self._defects.gaps.symbols:
            missing &= np.isin(symbols, self._defects.gaps.symbols)
        self._count("gaps", missing & ~rows.repeats)
        return withheld | missing

    # At most one thing is wrong with a price, so that each can be found for what it is.
    def _spoil(self, kind: Kind, rows: Rows, columns: dict[str, Any]) -> None:
        bad = self._chosen("bad_values", kind, rows.numbers)
        crossed = self._chosen("crossed", kind, rows.numbers) & ~bad
        spiked = self._chosen("spikes", kind, rows.numbers) & ~bad & ~crossed
        if crossed.any():
            bid, ask = columns["bid_price"], columns["ask_price"]
            columns["bid_price"], columns["ask_price"] = np.where(crossed, ask, bid), np.where(crossed, bid, ask)
        if self._defects.spikes is not None and spiked.any():
            _spike(columns, spiked, self._defects.spikes.factor)
        if self._defects.bad_values is not None and bad.any():
            self._damage(kind, rows.numbers, columns, bad, self._defects.bad_values)
        self._count("crossed", crossed)
        self._count("spikes", spiked & ~rows.repeats)

    def _damage(self, kind: Kind, numbers: Ints, columns: dict[str, Any], bad: Bools, part: Part) -> None:
        usable = _usable(part, kind)
        which = below(self._key("bad_values", "what", kind), numbers, len(usable))
        price = "price" if kind is Kind.TRADES else "bid_price"
        for n, what in enumerate(usable):
            rows = bad & (which == n)
            name, value = {
                "nan": (price, np.nan),
                "negative": (price, -columns[price]),
                "zero_size": ("size", 0.0),
            }[what]
            columns[name] = np.where(rows, value, columns[name])
            self._count("bad_values", rows)
            self._count(f"bad_values.{what}", rows)

    def _age_ns(self, kind: Kind, rows: Rows) -> Ints:
        late = self._chosen("late", kind, rows.numbers)
        disordered = self._chosen("out_of_order", kind, rows.numbers) & ~late
        age_ns = np.zeros(len(late), np.int64)
        if self._defects.late is not None:
            age_ns[late] = self._defects.late.by_ns
        if self._defects.out_of_order is not None and disordered.any():
            key = self._key("out_of_order", "by", kind)
            age_ns[disordered] = 1 + below(key, rows.numbers[disordered], self._defects.out_of_order.by_ns)
        self._count("late", late & ~rows.repeats)
        self._count("out_of_order", disordered & ~rows.repeats)
        return age_ns

    def _count(self, name: str, rows: Bools) -> None:
        if name in self.injected:
            self.injected[name] += int(np.count_nonzero(rows))


# A quote of no size is nothing wrong: that side of the book is empty.
def _usable(part: Part, kind: Kind) -> tuple[str, ...]:
    return tuple(what for what in part.what if kind is Kind.TRADES or what != "zero_size")


# Both sides of a quote move together, or a spike would be a crossed book as well.
def _spike(columns: Mapping[str, Any], rows: Bools, factor: float) -> None:
    low = "price" if "price" in columns else "bid_price"
    ticks = np.rint(columns[low][rows] * _TICKS_PER_UNIT)
    spiked = np.maximum(np.rint(ticks * factor), 1)
    if low == "bid_price":
        spread = np.rint(columns["ask_price"][rows] * _TICKS_PER_UNIT) - ticks
        columns["ask_price"][rows] = (spiked + spread) / _TICKS_PER_UNIT
    columns[low][rows] = spiked / _TICKS_PER_UNIT
