"""The provider against the simulated gateway over loopback: what it gives, and what it asks."""

from __future__ import annotations

import asyncio
from contextlib import aclosing

import pytest
from ibkr_desk import FAST, until

from market_data_core.errors import (
    ConfigurationError,
    ConnectionFailed,
    InvalidInstrument,
    PacingViolation,
    PermissionsMissing,
    SourceError,
)
from market_data_core.protocols import BatchSource, MarketDataProvider, TickSource
from market_data_core.schemas import Flag, Kind, Origin
from market_data_ibkr import IBKRProvider
from market_data_pipeline.orchestration.registry import SourceRegistry

NS = 10**9
NOON_NS = 1_704_196_800 * NS


def test_it_is_found_and_made_as_any_provider():
    """By import path it loads and takes symbols; it has every face a provider may have."""
    made = SourceRegistry().load("market_data_ibkr:IBKRProvider")(symbols=["AAPL"])
    assert isinstance(made, BatchSource)
    assert isinstance(made, TickSource)
    assert isinstance(made, MarketDataProvider)
    assert (made.name, made.waits, made.origin, made.status) == ("ibkr", False, Origin.LIVE, "pending")


@pytest.mark.parametrize(
    "wrong",
    [{"kinds": ["bars"]}, {"market_data_type": 5}, {"messages_per_s": 51}, {"heartbeat_s": 0}, {"max_lines": 1}],
)
def test_arguments_that_cannot_be_right_are_refused(wrong):
    """A line too many is one of them."""
    with pytest.raises(ConfigurationError, match="ibkr provider"):
        IBKRProvider(symbols=["A", "B"], **wrong)


async def test_ticks_are_those_the_gateway_sent(desk):
    """Quotes and trades of two symbols, one by one: none lost, none doubled, none changed."""
    async with desk() as d:
        reading = await d.reading("AAPL", "MSFT")
        await until(lambda: d.gateway.count(97) == 2)
        for _ in range(50):
            d.gateway.step()
        for symbol in ("AAPL", "MSFT"):
            await d.same(reading, symbol)
        assert len(reading.trades("AAPL")) == 50
        assert reading.gaps == []
        assert reading.provider.status == "live"


async def test_quotes_carry_our_time_and_trades_the_venues(desk):
    """A quote says that its time is ours; a trade has a whole second and when it came."""
    async with desk() as d:
        reading = await d.reading("AAPL")
        await until(lambda: d.gateway.count(97))
        d.gateway.step()
        await until(lambda: reading.trades("AAPL"))
        quote, trade = reading.rows(Kind.QUOTES)[-1], reading.rows(Kind.TRADES)[-1]
        assert quote["ts_event"] == quote["ts_recv"] > 0
        assert quote["flags"] == Flag.TS_EVENT_SYNTHETIC
        assert trade["ts_event"] % NS == 0
        assert 0 <= trade["ts_recv"] - trade["ts_event"] < 5 * NS
        assert (trade["flags"], trade["exchange"]) == (0, "NASDAQ")


async def test_trades_beyond_the_limit_are_sampled(desk):
    """Where the gateway refuses single trades, they come with the quotes, to the millisecond, and say so."""
    async with desk(tick_by_tick_limit=1) as d:
        reading = await d.reading("AAPL", "MSFT")
        await until(lambda: reading.provider.lines["MSFT"].sampled)
        await until(lambda: d.gateway.count(1) == 3)
        for _ in range(5):
            d.gateway.step()
        await until(lambda: len(reading.trades("MSFT")) == 5)
        await d.same(reading, "AAPL")
        assert reading.trades("MSFT") == d.gateway.trades["MSFT"]
        assert {r["flags"] for r in reading.rows(Kind.TRADES, "MSFT")} == {Flag.PUBLISHER_SPECIFIC}


async def test_delayed_data_is_taken_and_flagged(desk):
    """The notice is no refusal, and ticks with the numbers of delayed ones are ticks."""
    async with desk(deny={"AAPL": 10167}) as d:
        reading = await d.reading("AAPL", market_data_type=3, tick_by_tick=0)
        d.gateway.step()
        d.gateway.step()
        await until(lambda: reading.quotes("AAPL") == d.gateway.quotes["AAPL"])
        assert all(r["flags"] & Flag.PUBLISHER_SPECIFIC for r in reading.rows(Kind.QUOTES))
        # What was the last trade when we asked is none that we saw.
        assert len(reading.trades("AAPL")) <= 1
        assert (await reading.provider.get_quote("AAPL")).delayed
        assert d.gateway.asked(59)[0].fields[2] == "3"


async def test_a_symbol_that_is_refused_leaves_the_others(desk):
    """It is dead and says why; the other one lives."""
    async with desk(deny={"MSFT": 354}) as d:
        reading = await d.reading("AAPL", "MSFT")
        d.gateway.step()
        await until(lambda: reading.quotes("AAPL"))
        status = reading.provider.lines["MSFT"]
        assert (status.state, status.code) == ("dead", 354)
        assert "not subscribed" in status.cause


async def test_a_provider_with_no_symbol_left_fails(desk):
    """It does not look alive; the error says what the gateway said."""
    async with desk(deny={"MSFT": 354}) as d:
        reading = await d.reading("MSFT")
        with pytest.raises(SourceError, match="354"):
            await asyncio.wait_for(reading.task, 10)


async def test_messages_that_make_no_sense_are_counted(desk):
    """They are left out; what stands between and behind them comes."""
    async with desk() as d:
        reading = await d.reading("AAPL")
        await until(lambda: d.gateway.count(97))
        d.gateway.garbage()
        d.gateway.step()
        await d.same(reading, "AAPL")
        assert reading.provider.counters["bad_messages"] >= 4
        assert d.gateway.accepted == 1


async def test_bytes_may_come_one_by_one(desk):
    """A slow line changes nothing."""
    async with desk() as d:
        reading = await d.reading("AAPL")
        d.gateway.drip()
        for _ in range(5):
            d.gateway.step()
        await d.same(reading, "AAPL")


async def test_streams_give_values(desk):
    """Quotes and trades one by one, of the symbols asked for alone, also of new ones."""
    async with desk(interval_s=0.01) as d:
        provider = d.provider("AAPL")
        async with aclosing(provider.stream_quotes(["msft"])) as quotes:
            quote = await anext(quotes)
        assert (quote.symbol, quote.meta.vendor, quote.bid is not None) == ("MSFT", "ibkr", True)
        async with aclosing(provider.stream_trades(["AAPL"])) as trades:
            trade = await anext(trades)
        assert (trade.symbol, trade.price > 0, trade.exchange) == ("AAPL", True, "NASDAQ")
        async with aclosing(provider.stream()) as events:
            found = {type(await anext(events)).__name__ for _ in range(20)}
        assert found == {"Quote", "Trade"}


async def test_a_quote_can_be_asked_for(desk):
    """Of a symbol with a line and of one without; an unknown one and one not entitled are told apart."""
    async with desk(deny={"NONE": 200, "PAID": 354}) as d:
        reading = await d.reading("AAPL")
        await until(lambda: len(reading.quotes("AAPL")) == 2)
        bid, bid_size, ask, ask_size = d.gateway.quotes["AAPL"][-1]
        quote = await reading.provider.get_quote("aapl")
        assert (quote.bid, quote.bid_size, quote.ask, quote.ask_size) == (bid, bid_size, ask, ask_size)
        other = await reading.provider.get_quote("IBM")
        assert other.bid < other.ask
        with pytest.raises(InvalidInstrument, match="quote of NONE"):
            await reading.provider.get_quote("NONE")
        with pytest.raises(PermissionsMissing, match="354"):
            await reading.provider.get_quote("PAID")


async def test_history_comes_in_order_and_once(desk):
    """A span of more than one request has each bar once, and no bar from outside it."""
    async with desk() as d:
        provider = d.provider("AAPL")
        bars = await provider.request_historical_bars(
            "AAPL", "1s", start_ns=NOON_NS + 1, end_ns=NOON_NS + 4000 * NS + 1
        )
        assert [b.ts_event_ns for b in bars] == [NOON_NS + n * NS for n in range(1, 4001)]
        assert d.gateway.count(20) == 3
        assert {b.meta.origin for b in bars} == {Origin.BACKFILL}
        (day,) = await provider.request_historical_bars(
            "AAPL", "1d", start_ns=NOON_NS, end_ns=NOON_NS + 86_400 * NS, what="MIDPOINT"
        )
        assert (day.ts_event_ns, day.volume, day.vwap) == (NOON_NS + 43_200 * NS, None, None)
        with pytest.raises(ConfigurationError, match="7m"):
            await provider.request_historical_bars("AAPL", "7m", start_ns=0, end_ns=1)


async def test_history_that_is_too_fast_for_the_gateway_says_when_to_come_back(desk):
    """Its 162 is a pacing violation, and the next request waits although our own budget has room."""
    async with desk(deny={"AAPL": 162}) as d:
        provider = d.provider("AAPL", history_wait_s=1.0)
        span = {"start_ns": NOON_NS, "end_ns": NOON_NS + 60 * NS}
        with pytest.raises(PacingViolation) as refused:
            await provider.request_historical_bars("AAPL", "1m", **span)
        assert refused.value.retry_after_sec == 15
        with pytest.raises(PacingViolation, match="budget"):
            await provider.request_historical_bars("MSFT", "1m", **span)
        assert d.gateway.count(20) == 1


async def test_live_bars_are_gathered(desk):
    """Five-second bars become one of fifteen, given once a later one begins."""
    async with desk() as d:
        provider = d.provider("AAPL")
        async with aclosing(provider.stream_bars(["AAPL"], "15s")) as bars:
            coming = asyncio.create_task(anext(bars))
            await until(lambda: d.gateway.count(50))
            start = NOON_NS // NS
            for n, prices in enumerate([(10, 12, 9, 11), (11, 15, 11, 14), (14, 14, 8, 13), (13, 13, 13, 13)]):
                d.gateway.bar("AAPL", start + 5 * n, prices, 100)
            bar = await asyncio.wait_for(coming, 5)
        assert (bar.open, bar.high, bar.low, bar.close, bar.volume) == (10, 15, 8, 13, 300)
        assert (bar.ts_event_ns, bar.resolution, bar.trade_count) == (NOON_NS, "15s", 3)


async def test_an_option_chain_lists_what_there_is(desk):
    """Every expiry, strike and right, in that order; each by a symbol that can be subscribed to."""
    async with desk() as d:
        provider = d.provider("AAPL")
        async with aclosing(provider.stream_options("AAPL")) as chains:
            chain = await anext(chains)
        assert len(chain.options) == 12
        assert chain.options[0].symbol == "AAPL-20241220-140-C:OPT"


async def test_a_hundred_lines_stay_within_the_message_budget(desk):
    """All lines together are asked for no faster than the gateway allows."""
    async with desk() as d:
        await d.reading(*(f"S{n}" for n in range(60)), messages_per_s=45)
        at = [r.at_s for r in d.gateway.requests]
        # A busy gateway sees them late and closer together, so it is how long all of them took that is judged.
        assert at[-1] - at[0] >= (len(at) - 46) / 45 - 0.2
        assert len(at) > 60


async def test_without_a_gateway_the_error_says_where(desk):
    """Asking fails after its time; the provider itself goes on trying."""
    async with desk() as d:
        d.gateway.stop_listening()
        provider = d.provider("AAPL", connect_timeout_s=0.2)
        with pytest.raises(ConnectionFailed, match=f"127.0.0.1:{d.gateway.port}"):
            await provider.get_quote("AAPL")
        await d.gateway.start()
        provider2 = d.provider("AAPL", client_id=2, **{k: v for k, v in FAST.items() if k == "heartbeat_s"})
        assert (await provider2.get_quote("AAPL")).bid > 0
