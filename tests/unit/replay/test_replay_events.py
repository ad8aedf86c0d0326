"""A replay as its users see it: event by event, and a quote when asked."""

from __future__ import annotations

from contextlib import aclosing

import pytest

from market_data_core.errors import InvalidInstrument
from market_data_core.models import Quote
from market_data_pipeline.source.replay import ReplaySource
from market_data_pipeline.source.replay.layout import Layout

LAYOUT = Layout.model_validate(
    {
        "name": "small",
        "vendor": "v",
        "kind": "quotes",
        "format": "csv",
        "header": True,
        "time": {"column": "time", "unit": "ns"},
        "symbol": {"column": "symbol"},
        "columns": {"bid_price": "bid", "bid_size": "bid_size", "ask_price": "ask", "ask_size": "ask_size"},
    }
)


@pytest.fixture
def source(tmp_path):
    rows = [f"{n + 1},{'AB'[n % 2]},{n}.0,1,{n}.5,1" for n in range(6)]
    path = tmp_path / "quotes.csv"
    path.write_text("\n".join(["time,symbol,bid,bid_size,ask,ask_size", *rows]) + "\n")
    return ReplaySource(path, LAYOUT)


async def test_events_come_one_by_one(source):
    """Quotes in recorded order."""
    async with aclosing(source.stream()) as events:
        bids = [e.bid async for e in events if isinstance(e, Quote)]
    await source.close()
    assert bids == [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]


async def test_a_quote_is_the_first_before_anything_was_given_and_the_last_behind_it(source):
    """It follows where the replay has come to."""
    assert (await source.get_quote("b")).bid == 1.0
    async with aclosing(source.stream()) as events:
        async for _ in events:
            pass
    assert (await source.get_quote("B")).bid == 5.0
    await source.close()


async def test_a_symbol_without_a_quote_is_named(source):
    """Nothing is made up."""
    with pytest.raises(InvalidInstrument, match="'C'"):
        await source.get_quote("C")
