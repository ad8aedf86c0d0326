"""The last price of each instrument, looked for from the newest date backwards."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from market_data_core.schemas import Kind
from market_data_store.backend import Wanted
from market_data_store.lake.asking import ask
from market_data_store.lake.declarations import TABLES
from market_data_store.lake.reads import TableReader, first_of_key, order_by
from market_data_store.lake.streams import day_rows, days

_SCHEMA: Final = pa.schema(
    [("vendor", pa.string()), ("symbol", pa.string()), ("price", pa.float64()), ("price_timestamp", pa.int64())]
)
_PLACE: Final = ("vendor", "symbol", "ts_event", "seq")
_SCAN_ROWS: Final = 262_144

_PRICES: Final[tuple[tuple[str, tuple[str, ...], Callable[..., Any]], ...]] = (
    (str(Kind.TRADES), ("price",), lambda price: price),
    (str(Kind.QUOTES), ("bid_price", "ask_price"), lambda bid, ask: pc.divide(pc.add(bid, ask), 2.0)),
    (str(Kind.BARS), ("close",), lambda close: close),
)
"""Where a price comes from, the best source first: table, columns, and the price they make; null is none."""

Instrument = tuple[str | None, str | None]


def latest_prices(readers: Mapping[str, TableReader], symbols: Sequence[str], *, vendor: str | None) -> pa.Table:
    """Return ``vendor, symbol, price, price_timestamp``, ascending by the first two.

    Of some symbols each table is read date by date, back to their last prices; what has no price costs a look at every
    file that may have it. Of all, every trade, quote and bar is read once, in bounded memory.

    Args:
        readers: The lake's tables by name.
        symbols: These only; empty for all.
        vendor: One vendor's only.

    Raises:
        TemporaryUnavailable: The storage is away.
    """
    found: dict[Instrument, tuple[float, int]] = {}
    wanted = Wanted(vendor=vendor, symbols=tuple(sorted(set(symbols))))
    for table, columns, price_of in _PRICES:
        question = ask(TABLES[table], wanted, [*_PLACE, *columns])
        here: dict[Instrument, tuple[int, int, float]] = {}
        for day in reversed(days(readers[table], question)):
            files = _unsettled(day.files, wanted.symbols, {*found, *here})
            of_day: dict[Instrument, tuple[int, int, float]] = {}
            if files.num_rows:
                for batch in day_rows(
                    readers[table].folder, question, replace(day, files=files), batch_rows=_SCAN_ROWS
                ):
                    _note(of_day, batch, price_of(*(batch.column(n) for n in columns)))
            here = of_day | here
        found = {i: (price, ts_ns) for i, (ts_ns, _, price) in here.items()} | found
    rows = [
        {"vendor": v, "symbol": s, "price": price, "price_timestamp": ts_ns} for (v, s), (price, ts_ns) in found.items()
    ]
    prices = pa.Table.from_pylist(rows, schema=_SCHEMA)
    return prices.take(pa.array(order_by(prices, ("vendor", "symbol"))))


def _unsettled(files: pa.Table, symbols: Sequence[str], found: set[Instrument]) -> pa.Table:
    # Files of one vendor, all of whose symbols have a later price, cannot say anything new.
    if not symbols or "min.vendor" not in files.schema.names:
        return files
    ranges = zip(files.column("min.vendor").to_pylist(), files.column("max.vendor").to_pylist(), strict=True)
    done = {v: all((v, s) in found for s in symbols) for v in {vendor for vendor, _ in found}}
    keep = [low is None or low != high or not done.get(low, False) for low, high in ranges]
    return files.filter(pa.array(keep, pa.bool_()))


def _note(latest: dict[Instrument, tuple[int, int, float]], batch: pa.RecordBatch, price: Any) -> None:
    rows = pa.Table.from_batches([batch.select(list(_PLACE))]).append_column("price", price)
    rows = rows.filter(price.is_valid())
    if not rows.num_rows:
        return
    rows = rows.take(pa.array(order_by(rows, _PLACE)))
    last = np.ones(rows.num_rows, np.bool_)
    last[:-1] = first_of_key(rows, ("vendor", "symbol"))[1:]
    for row in rows.filter(pa.array(last)).to_pylist():
        instrument, told = (row["vendor"], row["symbol"]), (row["ts_event"], row["seq"], row["price"])
        latest[instrument] = max(latest.get(instrument, told), told)
