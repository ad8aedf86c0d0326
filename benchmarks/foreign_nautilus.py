"""Bars and values of ticks by NautilusTrader, in its own venv: ``python foreign_nautilus.py bars|graph FILE ...``.

Ticks are its own tick objects, made with its bulk constructor; bars come from its `TimeBarAggregator` on a test clock,
as in its backtests; named values from a handler of quote ticks. Prints one JSON line; the seconds are from the first
read of a file to the last bar, without the interpreter's start. Imports nothing but what is in that venv.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from nautilus_trader.common.component import TestClock
from nautilus_trader.data.aggregation import TimeBarAggregator
from nautilus_trader.model.currencies import USD
from nautilus_trader.model.data import Bar, BarType, QuoteTick, TradeTick
from nautilus_trader.model.identifiers import InstrumentId, Symbol, Venue
from nautilus_trader.model.instruments import Equity
from nautilus_trader.model.objects import Price, Quantity

BATCH_ROWS = 65_536
PRICE_DECIMALS = 6
SECOND_NS = 1_000_000_000
VENUE = Venue("BENCH")
Found = dict[str, float]
Values = list[tuple[InstrumentId, int, str, float]]


def _equity(symbol: str) -> Equity:
    return Equity(
        instrument_id=InstrumentId(Symbol(symbol), VENUE),
        raw_symbol=Symbol(symbol),
        currency=USD,
        price_precision=PRICE_DECIMALS,
        price_increment=Price(10**-PRICE_DECIMALS, PRICE_DECIMALS),
        lot_size=Quantity.from_int(1),
        ts_event=0,
        ts_init=0,
    )


def _read(path: Path, names: tuple[str, ...], found: Found) -> Iterator[tuple[np.ndarray, ...]]:
    for batch in pq.ParquetFile(path).iter_batches(BATCH_ROWS, columns=["symbol", "ts_event", *names]):
        found["events"] += batch.num_rows
        columns = [batch.column(n).to_numpy(zero_copy_only=False) for n in names]
        if "bid_size" in names:
            # A quote without sizes has a middle all the same; its ticks want a number, and 0 is in no order.
            columns = [c if n.endswith("price") else np.nan_to_num(c) for n, c in zip(names, columns, strict=True)]
        whole = np.all([np.isfinite(c) for c in columns], axis=0)
        symbols = batch.column("symbol").to_numpy(zero_copy_only=False)
        ts = batch.column("ts_event").to_numpy().astype(np.uint64)
        yield tuple(c[whole] for c in (symbols, ts, *columns))


# Its bulk constructors take ticks of one instrument; they are put in the order they came in again.
def _ticks(symbols: np.ndarray, make: Callable[[InstrumentId, np.ndarray], list[Any]]) -> list[Any]:
    made = np.empty(len(symbols), object)
    for symbol in np.unique(symbols):
        at = np.flatnonzero(symbols == symbol)
        made[at] = make(InstrumentId(Symbol(str(symbol)), VENUE), at)
    return made.tolist()


def _trades(path: Path, found: Found) -> Iterator[list[TradeTick]]:
    for symbols, ts, price, size in _read(path, ("price", "size"), found):
        if (size != np.floor(size)).any():
            raise SystemExit("its equities trade in whole sizes only, and these ticks do not")

        def make(
            of: InstrumentId, at: np.ndarray, ts: Any = ts, price: Any = price, size: Any = size
        ) -> list[TradeTick]:
            sides, ids = np.zeros(len(at), np.uint8), [str(i) for i in at]
            return TradeTick.from_raw_arrays_to_list(
                of, PRICE_DECIMALS, 0, price[at], size[at], sides, ids, ts[at], ts[at]
            )

        yield _ticks(symbols, make)


def _quotes(path: Path, found: Found) -> Iterator[list[QuoteTick]]:
    for symbols, ts, bid, ask, bid_size, ask_size in _read(
        path, ("bid_price", "ask_price", "bid_size", "ask_size"), found
    ):
        columns = (bid, ask, bid_size, ask_size)

        def make(of: InstrumentId, at: np.ndarray, ts: Any = ts, columns: Any = columns) -> list[QuoteTick]:
            values = [c[at] for c in columns]
            return QuoteTick.from_raw_arrays_to_list(of, PRICE_DECIMALS, 0, *values, ts[at], ts[at])

        yield _ticks(symbols, make)


class _Bars:
    # One aggregator per instrument on one clock, which is moved to every tick before it is handed over.
    def __init__(self, what: str, found: Found) -> None:
        self._what = what
        self._found = found
        self._clock = TestClock()
        self._take: dict[InstrumentId, Callable[[Any], None]] = {}
        self._last_ns = 0

    def _on_bar(self, bar: Bar) -> None:
        self._found["bars"] += 1
        if self._what == "LAST":
            self._found["volume"] += bar.volume.as_double()

    def _aggregator(self, of: InstrumentId) -> Callable[[Any], None]:
        made = TimeBarAggregator(
            instrument=_equity(of.symbol.value),
            bar_type=BarType.from_str(f"{of}-1-SECOND-{self._what}-INTERNAL"),
            handler=self._on_bar,
            clock=self._clock,
            interval_type="right-open",
            build_with_no_updates=False,
        )
        return made.handle_trade_tick if self._what == "LAST" else made.handle_quote_tick

    def take(self, tick: Any) -> None:
        ts_ns = tick.ts_event
        if not self._last_ns:
            self._clock.set_time(ts_ns)
        if ts_ns > self._last_ns:
            self._last_ns = ts_ns
            for event in self._clock.advance_time(ts_ns):
                event.handle()
        take = self._take.get(tick.instrument_id)
        if take is None:
            take = self._take[tick.instrument_id] = self._aggregator(tick.instrument_id)
        take(tick)

    def end(self) -> None:
        for event in self._clock.advance_time(self._last_ns + 2 * SECOND_NS):
            event.handle()


def _values(tick: QuoteTick, out: Values) -> None:
    bid, ask = tick.bid_price.as_double(), tick.ask_price.as_double()
    if ask > bid and tick.bid_size.as_double() > 0 and tick.ask_size.as_double() > 0:
        mid = bid / 2 + ask / 2
        out.append((tick.instrument_id, tick.ts_event, "mid", mid))
        if mid > 0:
            out.append((tick.instrument_id, tick.ts_event, "spread_bps", (ask - bid) / mid * 10_000))


def main() -> None:
    """Do the work and print what came of it."""
    work, files = sys.argv[1], [Path(f) for f in sys.argv[2:]]
    found: Found = {"events": 0, "bars": 0, "volume": 0.0, "values": 0}
    started = time.perf_counter()
    for path in files:
        trades = "trades" in path.name
        bars = _Bars("LAST" if trades else "MID", found)
        for ticks in _trades(path, found) if trades else _quotes(path, found):
            if trades or work == "bars":
                for tick in ticks:
                    bars.take(tick)
            else:
                out: Values = []
                for tick in ticks:
                    _values(tick, out)
                found["values"] += len(out)
        bars.end()
    print(json.dumps({**found, "seconds": time.perf_counter() - started}))


if __name__ == "__main__":
    main()
