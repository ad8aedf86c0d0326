"""The newest quote and trade of every symbol, out of what a tap gave."""

from __future__ import annotations

from itertools import count

from hypothesis import given
from hypothesis import strategies as st

from market_data_core.batch import Instrument, SourceBatch, unlogged
from market_data_core.schemas import Kind, Origin
from market_data_orchestrator.symbols import SymbolBoard
from market_data_pipeline.taps import Tapped

TABLES = [
    tuple(Instrument(vendor=vendor, symbol=symbol, price_decimals=2) for symbol in "ABC") for vendor in ("v", "w")
]
EVENTS = st.tuples(st.integers(0, 2), st.floats(1, 9), st.floats(10, 19))
BATCHES = st.tuples(st.sampled_from([Kind.QUOTES, Kind.TRADES]), st.integers(0, 1), st.lists(EVENTS, max_size=5))


def tapped(kind, table, events, ts_recv):
    ids, low, high = zip(*events, strict=True) if events else ((), (), ())
    columns = {"instrument": list(ids), "ts_event": [1] * len(ids), "ts_recv": [ts_recv] * len(ids)}
    values = {"bid_price": low, "ask_price": high} if kind is Kind.QUOTES else {"price": low, "size": high}
    data = unlogged(kind, len(ids), {**columns, **{name: list(v) for name, v in values.items()}})
    return Tapped(SourceBatch(kind=kind, data=data, instruments=TABLES[table]), 0, Origin.LIVE)


@given(st.lists(st.lists(BATCHES, max_size=6), max_size=3))
def test_each_symbol_shows_its_newest_values_and_how_many_there_were(looks):
    """Whatever the batches, kinds and sources in one look, and over several looks."""
    board, expected, times = SymbolBoard(), {}, count(1)
    for look in looks:
        items = []
        for kind, table, events in look:
            now = next(times)
            items.append(tapped(kind, table, events, now))
            for place, low, high in events:
                instrument = TABLES[table][place]
                shown = expected.setdefault((instrument.vendor, instrument.symbol), {"events": 0})
                shown |= {"bid": low, "ask": high} if kind is Kind.QUOTES else {"last": low}
                shown |= {"events": shown["events"] + 1, "age_s": (10**9 - now) / 1e9}
        board.take(items, 0)
    found = {(row["vendor"], row["symbol"]): row for row in board.rows(10**9, 10)}
    assert found.keys() == expected.keys()
    for key, shown in expected.items():
        assert {name: found[key][name] for name in shown} == shown


def test_what_was_missed_and_what_is_not_shown_is_no_row():
    """Missed events are counted, other kinds and empty batches passed over."""
    board = SymbolBoard()
    board.take([tapped(Kind.TRADES, 0, [], 1)], 7)
    assert (board.missed, board.rows(0, 10)) == (7, [])


def test_ages_and_digits_are_the_instruments():
    """Age by when an event came, digits as its prices have them."""
    board = SymbolBoard()
    board.take([tapped(Kind.TRADES, 0, [(1, 5.0, 10.0)], 2_000_000_000)], 0)
    (row,) = board.rows(5_000_000_000, 10)
    assert (row["symbol"], row["last"], row["age_s"], row["decimals"], row["bid"]) == ("B", 5.0, 3.0, 2, None)
