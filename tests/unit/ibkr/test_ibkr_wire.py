"""Frames, symbols and budgets: the parts that need no gateway."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from market_data_core.clock import ManualClock
from market_data_core.errors import (
    ConfigurationError,
    ConnectionFailed,
    InvalidInstrument,
    PacingViolation,
    PermissionsMissing,
)
from market_data_ibkr.codes import Reaction, error_for, reaction
from market_data_ibkr.contracts import parse_symbol
from market_data_ibkr.lines import Book
from market_data_ibkr.pacing import HistoryPace, MessagePace, Window
from market_data_ibkr.wire import FrameReader, encode, number

TEXT = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=20)


@given(st.lists(st.lists(TEXT, min_size=1, max_size=6), max_size=6), st.lists(st.integers(1, 9), min_size=1))
def test_messages_survive_any_cutting(messages, cuts):
    """Whatever pieces the bytes come in, the same messages come out in order."""
    stream = b"".join(encode(*m) for m in messages)
    reader, found, at, n = FrameReader(), [], 0, 0
    while at < len(stream):
        size = cuts[n % len(cuts)]
        found += reader.feed(stream[at : at + size])
        at, n = at + size, n + 1
    assert found == messages


def test_a_length_beyond_the_limit_ends_the_stream():
    """No bytes are gathered for a message that cannot be one."""
    with pytest.raises(ConnectionFailed, match="2147483647"):
        FrameReader().feed(b"\x7f\xff\xff\xff")


def test_what_is_unset_is_absent_and_what_is_no_number_is_refused():
    """Empty and the largest double are nothing; nan and infinity are no numbers."""
    assert (number(""), number("1.7976931348623157e+308"), number("0.5")) == (None, None, 0.5)
    for text in ("nan", "inf", "none"):
        with pytest.raises(ValueError):
            number(text)


@pytest.mark.parametrize(
    ("symbol", "fields"),
    [
        ("aapl", "0|AAPL|STK||0|||SMART||USD||"),
        ("VOD:STK:LSE:GBP", "0|VOD|STK||0|||LSE||GBP||"),
        ("EUR.USD:CASH", "0|EUR|CASH||0|||IDEALPRO||USD||"),
        ("ES-202412:FUT:CME", "0|ES|FUT|202412|0|||CME||USD||"),
        ("AAPL-20241220-152.5-C:OPT", "0|AAPL|OPT|20241220|152.5|C||SMART||USD||"),
        ("SPX:IND:CBOE", "0|SPX|IND||0|||CBOE||USD||"),
    ],
)
def test_a_symbol_says_which_contract(symbol, fields):
    """The notation covers stocks, pairs, futures, options and indices."""
    assert "|".join(parse_symbol(symbol).fields) == fields


@pytest.mark.parametrize("symbol", ["", "EUR:CASH", "ES:FUT:CME", "SPX:IND", "A:WAR", "A:STK:B:C:D", "AAPL-1-1-C:OPT"])
def test_a_symbol_that_cannot_be_right_is_refused(symbol):
    """The error repeats the symbol."""
    with pytest.raises(ConfigurationError, match=f"symbol '{symbol}'"):
        parse_symbol(symbol)


def test_no_price_is_no_price():
    """-1 and 0 without a size are the gateway's way to say that a side is empty; a size of 0 is no size."""
    book = Book()
    assert book.price(1, "10.5", "100")
    assert not book.size(0, "100")
    assert book.price(1, "-1", "0")
    assert (book.bid, book.bid_size) == (None, None)
    assert book.price(2, "0.5", "0")
    assert (book.ask, book.ask_size) == (0.5, None)
    assert book.price(1, "-37.63", "5")
    assert book.bid == -37.63


def test_codes_have_their_errors():
    """What is not entitled, unknown or too fast is told apart."""
    assert isinstance(error_for(354, "x", "y"), PermissionsMissing)
    assert isinstance(error_for(200, "x", "y"), InvalidInstrument)
    pacing = error_for(162, "Historical data request pacing violation", "y")
    assert isinstance(pacing, PacingViolation)
    assert pacing.retry_after_sec == 15
    assert (reaction(2119), reaction(10167), reaction(9999)) == (
        Reaction.ADVISORY,
        Reaction.ADVISORY,
        Reaction.REFUSED,
    )


@given(st.lists(st.tuples(st.floats(0, 3), st.integers(1, 2)), max_size=60))
def test_a_window_never_holds_more_than_it_may(steps):
    """Whoever waits as told never has more than five in any two seconds."""
    window, now_s, taken = Window(5, 2.0), 0.0, []
    for pause_s, cost in steps:
        now_s += pause_s
        while wait_s := window.wait_s(now_s, cost):
            now_s += wait_s
        window.take(now_s, cost)
        taken += [now_s] * cost
        assert sum(t > now_s - 2.0 for t in taken) <= 5


async def _over(clock, work):
    task = asyncio.create_task(work)
    while not task.done():
        await asyncio.sleep(0)
        clock.advance(0.5)
    return await task


async def test_messages_wait_for_their_second():
    """Of a hundred messages at forty a second the last goes in the third second."""
    clock = ManualClock()
    pace, at = MessagePace(per_s=40, clock=clock), []

    async def send():
        for _ in range(100):
            await pace.turn()
            at.append(clock.monotonic_s())

    await _over(clock, send())
    assert all(sum(t <= other < t + 1 for other in at) <= 40 for t in at)
    assert 2 <= at[-1] <= 3.5


async def test_history_is_asked_for_within_the_budget():
    """Sixty in ten minutes, fifteen seconds between identical ones, twice for bid and ask; else it says how long."""
    clock = ManualClock()
    pace = HistoryPace(clock=clock, max_wait_s=20)
    await pace.turn(contract="a", request=1)
    await _over(clock, pace.turn(contract="a", request=1))
    assert clock.monotonic_s() >= 15
    for n in range(29):
        await _over(clock, pace.turn(contract=n, request=("b", n), cost=2))
    with pytest.raises(PacingViolation) as refused:
        await pace.turn(contract="z", request="z")
    assert 500 < refused.value.retry_after_sec <= 600
