"""The last price of each instrument: where it is, noted with the rows, and what is asked to read it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc
from psycopg.sql import SQL

from market_data_core.schemas import Kind
from market_data_store.postgres.declarations import TABLES, TableSpec
from market_data_store.postgres.encode import shown
from market_data_store.postgres.queries import QUERIES, query
from market_data_store.postgres.talk import Execute, Talk

Instrument = tuple[str | None, str | None]
PRICES_SCHEMA: Final = pa.schema(
    [("vendor", pa.string()), ("symbol", pa.string()), ("price", pa.float64()), ("price_timestamp", pa.int64())]
)

# Where a price comes from, the best source first: the columns that have to be there, and the price they make.
_PRICES: Final[dict[str, tuple[tuple[str, ...], SQL]]] = {
    str(Kind.TRADES): (("price",), SQL("price")),
    str(Kind.QUOTES): (("bid_price", "ask_price"), SQL("(bid_price + ask_price) / 2")),
    str(Kind.BARS): (("close",), SQL("close")),
}
# Nulls are found without the index's help, which is why they are asked for apart.
_SAME: Final = SQL("vendor = wanted.vendor AND symbol = wanted.symbol")
_SAME_OR_NULL: Final = SQL("vendor IS NOT DISTINCT FROM wanted.vendor AND symbol IS NOT DISTINCT FROM wanted.symbol")


def noting_last(spec: TableSpec, rows: pa.Table) -> Talk[None]:
    """Note, within the transaction that adds `rows`, when each of their instruments last had a price.

    Who notes the same instruments at once waits for the other's commit; all do so in one order.
    """
    if spec.name not in _PRICES:
        return
    columns, _ = _PRICES[spec.name]
    rows = rows.select(["vendor", "symbol", "ts_event", *columns])
    if any(rows.column(n).null_count for n in columns):
        rows = rows.filter(pc.and_(rows.column(columns[0]).is_valid(), rows.column(columns[-1]).is_valid()))
    if rows.num_rows == 0:
        return
    last = rows.group_by(["vendor", "symbol"], use_threads=False).aggregate([("ts_event", "max")])
    # Two texts that the server cannot tell apart are one instrument.
    latest: dict[Instrument, int] = {}
    for vendor, symbol, ts_ns in zip(*(c.to_pylist() for c in last.columns), strict=True):
        instrument = shown(vendor), shown(symbol)
        latest[instrument] = max(ts_ns, latest.get(instrument, ts_ns))
    yield Execute(QUERIES["last_priced_note"], {"table": spec.name, **_arrays(latest)})


@dataclass(slots=True)
class Noted:
    """Whether it is noted of all rows where the last prices are; once it is so it stays so."""

    complete: bool = False


def asking_prices(symbols: Sequence[str], *, vendor: str | None, noted: Noted) -> Talk[pa.Table]:
    """Ask for last prices; see `market_data_store.backend.Backend.latest_prices`.

    Looks where the last prices are noted to be, so it takes as long as there are instruments. One whose row is not
    there any more, or has no price any more, is looked for in earlier rows. Looks at every row that has a price as long
    as not all is noted: from the first step of migration 4 to its last.
    """
    asked = {"vendor": shown(vendor), "symbols": list(dict.fromkeys(shown(s) for s in symbols)) or None}
    if not noted.complete:
        known = yield Execute(QUERIES["last_priced_known"])
        noted.complete = bool(known.rows[0][0])
    if not noted.complete:
        everything = yield Execute(QUERIES["latest_prices"], asked)
        return _prices(everything.rows)
    places: dict[str, dict[Instrument, int]] = {name: {} for name in _PRICES}
    for table, its_vendor, symbol, ts_ns in (yield Execute(QUERIES["last_priced"], asked)).rows:
        places[table][its_vendor, symbol] = ts_ns
    found: dict[Instrument, tuple[float, int]] = {}
    for table in _PRICES:
        missing = {i: ts_ns for i, ts_ns in places[table].items() if i not in found}
        for name in ("price_at", "price_before"):
            for by_index, wanted in _by_null(missing):
                # The bounds say nothing new, but let the server leave out partitions before it makes its plan.
                bounds = {"first_ns": min(wanted.values()), "last_ns": max(wanted.values())}
                there = yield Execute(_looking(name, table, by_index=by_index), {**_arrays(wanted), **bounds})
                for its_vendor, symbol, value, ts_ns in there.rows:
                    found[its_vendor, symbol] = (value, ts_ns)
                    del missing[its_vendor, symbol]
    return _prices((*i, *told) for i, told in found.items())


# As text, because putting one together takes longer than the statement itself.
@cache
def _looking(name: str, table: str, *, by_index: bool) -> bytes:
    _, price = _PRICES[table]
    return query(
        name, relation=TABLES[table].relation, price=price, same=_SAME if by_index else _SAME_OR_NULL
    ).as_bytes(None)


# Those that the index knows by name, and the others.
def _by_null(wanted: Mapping[Instrument, int]) -> list[tuple[bool, dict[Instrument, int]]]:
    named = {i: ts_ns for i, ts_ns in wanted.items() if None not in i}
    unnamed = {i: ts_ns for i, ts_ns in wanted.items() if None in i} if len(named) < len(wanted) else {}
    return [(by_index, part) for by_index, part in ((True, named), (False, unnamed)) if part]


def _arrays(latest: Mapping[Instrument, int]) -> dict[str, Any]:
    return {
        "vendors": [vendor for vendor, _ in latest],
        "symbols": [symbol for _, symbol in latest],
        "times": list(latest.values()),
    }


def _prices(rows: Iterable[Sequence[Any]]) -> pa.Table:
    ordered = sorted(rows, key=lambda r: (r[0] is None, r[0] or "", r[1] is None, r[1] or ""))
    columns = zip(*ordered, strict=True) if ordered else ([] for _ in PRICES_SCHEMA)
    return pa.table([pa.array(c, f.type) for c, f in zip(columns, PRICES_SCHEMA, strict=True)], schema=PRICES_SCHEMA)
