"""What comes of Binance's messages, and of what is missing among them."""

from __future__ import annotations

import pytest

from market_data_core.schemas import Flag, Kind

SNAPSHOT, LAST, SUSPECT = Flag.SNAPSHOT, Flag.LAST, Flag.MAYBE_BAD_BOOK
SYNTHETIC = Flag.TS_EVENT_SYNTHETIC


@pytest.fixture(params=["spot", "usdm"])
def lines(request):
    """Lines of either market."""
    return request.getfixturevalue(request.param)


def brief(depth):
    """Price, update id and whether the row is suspect, of rows that are no snapshot."""
    return [(r[2], r[4], bool(r[5] & SUSPECT)) for r in depth if not r[5] & SNAPSHOT]


def book_of(depth):
    """The book that depth rows make."""
    book = {"bid": {}, "ask": {}}
    for action, side, price, size, *_ in depth:
        if action == "clear":
            book = {"bid": {}, "ask": {}}
        elif action == "delete":
            book[side].pop(price, None)
        else:
            book[side][price] = size
    return book


async def test_a_trade_has_the_matching_engines_time_and_the_side_that_took(captures, write, spot):
    """Buyer maker means that a seller crossed; times are `T` and the line's stamp."""
    path = write(spot.trade(5, "100.5", "0.25", maker=True).trade(6, maker=False))
    given = await captures(path)
    names = ("ts_event", "ts_recv", "flags", "price", "size", "trade_id", "aggressor_side", "conditions")
    first, second = given.of(Kind.TRADES, *names)
    assert first == (spot.start_ns + 999_000_000, spot.start_ns, 0, 100.5, 0.25, "5", "sell", None)
    assert second[-2] == "buy"
    assert given.rows[0][1:3] == ("binance", "BTCUSDT")


async def test_a_quote_without_a_time_of_the_exchange_says_so(captures, write, spot, usdm):
    """Spot tickers take the receive time, flagged; those of futures have their own."""
    names = ("ts_event", "flags", "bid_price", "bid_size", "ask_price", "ask_size")
    (quote,) = (await captures(write(spot.quote(), "a.txt"))).of(Kind.QUOTES, *names)
    assert quote == (spot.start_ns, SYNTHETIC, 100.0, 1.0, 101.0, 2.0)
    given = await captures(write(usdm.quote(), "b.txt"))
    assert given.of(Kind.QUOTES, *names)[0][:2] == (usdm.start_ns + 999_000_000, 0)
    assert given.rows[0][1] == "binance_usdm"


async def test_a_side_without_orders_is_null(captures, write, usdm):
    """Zeros on a side of a ticker mean that there is no order."""
    given = await captures(write(usdm.quote(ask="0.00", ask_size="0.000")))
    assert given.of(Kind.QUOTES, "bid_price", "ask_price", "ask_size") == [(100.0, None, None)]


async def test_a_snapshot_is_a_clear_and_its_levels(captures, write, usdm):
    """All rows of a message share id and time, the last one says so, and a size of 0 deletes."""
    usdm.quote().snapshot(10, bids={100.0: 1, 99.0: 2}, asks={101.0: 3})
    usdm.diff(8, 12, bids={99.0: 0}, asks={101.5: 4})
    given = await captures(write(usdm))
    assert given.depth == [
        ("clear", None, None, None, 10, SNAPSHOT),
        ("set", "bid", 100.0, 1.0, 10, SNAPSHOT),
        ("set", "bid", 99.0, 2.0, 10, SNAPSHOT),
        ("set", "ask", 101.0, 3.0, 10, SNAPSHOT | LAST),
        ("delete", "bid", 99.0, 0.0, 12, 0),
        ("set", "ask", 101.5, 4.0, 12, LAST),
    ]
    times = given.of(Kind.DEPTH, "ts_event", "ts_recv")
    assert times[:4] == [(usdm.start_ns + 1_000_000_000, usdm.start_ns + 1_000_000)] * 4
    assert times[4:] == [(usdm.start_ns + 1_001_000_000, usdm.start_ns + 2_000_000)] * 2


async def test_diffs_before_the_snapshot_wait_for_it(captures, write, lines):
    """Those the snapshot holds are dropped, the others follow it with their own receive times."""
    lines.diff(1, 5, bids={1.0: 1}).diff(6, 9, bids={2.0: 1}).diff(10, 12, bids={3.0: 1}).trade()
    lines.snapshot(8, bids={100.0: 1}, asks={101.0: 1}).diff(13, 14, bids={4.0: 1})
    given = await captures(write(lines))
    assert brief(given.depth) == [(2.0, 9, False), (3.0, 12, False), (4.0, 14, False)]
    assert [b.kind for b in given.batches] == [Kind.TRADES, Kind.DEPTH]
    assert not given.gaps
    received = given.of(Kind.DEPTH, "ts_recv")
    assert received[0] > received[-3] < received[-2] < received[-1]


@pytest.mark.parametrize(("market", "first_applied"), [("spot", 11), ("usdm", 10)])
async def test_a_diff_that_ends_with_the_snapshots_id(captures, write, request, market, first_applied):
    """Spot counts it as part of the snapshot, futures as the first to apply, as Binance documents."""
    lines = request.getfixturevalue(market).quote().snapshot(10, bids={1.0: 1}, asks={2.0: 1})
    given = await captures(write(lines.diff(9, 10, bids={5.0: 1}).diff(11, 11, bids={6.0: 1})))
    assert brief(given.depth)[0][1] == first_applied
    assert not given.of(Kind.STATUS)


async def test_a_break_is_told_and_rows_are_suspect_until_the_next_snapshot(captures, write, lines):
    """A missing update gives a status row and a gap; the next snapshot makes the book whole, newer diffs again."""
    lines.quote().snapshot(10, bids={1.0: 1}, asks={200.0: 1}).diff(9, 12, bids={2.0: 1})
    lines.diff(15, 16, bids={3.0: 1}).diff(17, 18, bids={4.0: 1})
    lines.snapshot(17, bids={1.0: 1, 3.0: 1}, asks={200.0: 1}).diff(19, 20, bids={5.0: 1})
    given = await captures(write(lines))
    assert brief(given.depth) == [
        (2.0, 12, False),
        (3.0, 16, True),
        (4.0, 18, True),
        (4.0, 18, False),
        (5.0, 20, False),
    ]
    assert given.of(Kind.STATUS, "status", "reason") == [("gap", "update 15-16 does not follow 12")]
    assert [b.kind for b in given.batches] == [Kind.QUOTES, Kind.DEPTH, Kind.STATUS, Kind.DEPTH]
    (gap,) = given.gaps
    assert (gap.symbols, gap.cause, gap.to_ns > gap.from_ns) == (("BTCUSDT",), "sequence", True)
    assert book_of(given.depth)["bid"] == {1.0: 1, 3.0: 1, 4.0: 1, 5.0: 1}


async def test_each_break_is_told_once(captures, write, lines):
    """Diffs that come again behind a snapshot do not tell of their breaks again; a new break counts anew."""
    lines.quote().snapshot(10, bids={1.0: 1}, asks={200.0: 1}).diff(9, 12, bids={2.0: 1})
    lines.diff(15, 16, bids={3.0: 1}).diff(19, 20, bids={4.0: 1}).snapshot(16, bids={1.0: 1}, asks={200.0: 1})
    lines.diff(21, 22, bids={5.0: 1}).snapshot(20, bids={1.0: 1}, asks={200.0: 1}).diff(23, 24, bids={6.0: 1})
    given = await captures(write(lines))
    reasons = [reason for (reason,) in given.of(Kind.STATUS, "reason")]
    assert [r for r in reasons if "follow" in r] == [
        "update 15-16 does not follow 12",
        "update 19-20 does not follow 16",
    ]
    assert brief(given.depth)[-2:] == [(5.0, 22, False), (6.0, 24, False)]


async def test_breaks_before_the_first_snapshot_do_not_matter(captures, write, lines):
    """What the snapshot holds need not be whole; what follows it must be."""
    lines.diff(1, 2, bids={1.0: 1}).diff(5, 6, bids={2.0: 1}).diff(7, 8, bids={3.0: 1}).diff(11, 12, bids={4.0: 1})
    given = await captures(write(lines.snapshot(7, bids={1.0: 1}, asks={9.0: 1})))
    assert brief(given.depth) == [(3.0, 8, False), (4.0, 12, True)]
    assert given.of(Kind.STATUS, "reason") == [("update 11-12 does not follow 8",)]


async def test_a_diff_that_does_not_meet_the_snapshot_is_a_break(captures, write, lines):
    """Between snapshot and first diff nothing may be missing either."""
    lines.quote().snapshot(10, bids={1.0: 1}, asks={2.0: 1}).diff(15, 16, bids={3.0: 1})
    given = await captures(write(lines))
    assert brief(given.depth) == [(3.0, 16, True)]
    assert given.of(Kind.STATUS, "reason") == [("update 15-16 does not meet snapshot 10",)]


async def test_a_snapshot_that_bridges_a_break_keeps_the_book_good(captures, write, lines):
    """Updates lost before a newer snapshot are told, but the rows behind it are not suspect."""
    lines.quote().snapshot(10, bids={1.0: 1}, asks={9.0: 1}).diff(9, 12, bids={2.0: 1})
    lines.snapshot(30, bids={1.0: 2}, asks={9.0: 1}).diff(29, 31, bids={3.0: 1})
    given = await captures(write(lines))
    assert brief(given.depth) == [(2.0, 12, False), (3.0, 31, False)]
    assert given.of(Kind.STATUS, "reason") == [("update 29-31 does not follow 12",)]


async def test_updates_that_a_newer_snapshot_holds_are_no_break(captures, write, lines):
    """Where nothing was lost between two snapshots, nothing is told."""
    lines.quote().snapshot(10, bids={1.0: 1}, asks={9.0: 1}).diff(9, 12, bids={2.0: 1})
    lines.snapshot(30, bids={1.0: 2}, asks={9.0: 1}).diff(13, 20).diff(21, 29).diff(30, 31, bids={3.0: 1})
    given = await captures(write(lines))
    assert brief(given.depth) == [(2.0, 12, False), (3.0, 31, False)]
    assert not given.of(Kind.STATUS)


async def test_a_snapshot_behind_a_whole_book_is_passed_over(captures, write, lines):
    """A book without a break is not put back in time."""
    lines.quote().snapshot(10, bids={1.0: 1}, asks={9.0: 1}).diff(9, 12, bids={2.0: 1})
    given = await captures(write(lines.snapshot(11, bids={1.0: 1}, asks={9.0: 1}).diff(13, 14, bids={3.0: 1})))
    assert [r[0] for r in given.depth].count("clear") == 1
    assert brief(given.depth) == [(2.0, 12, False), (3.0, 14, False)]


async def test_updates_without_a_snapshot_are_given_as_suspect(captures, write, lines):
    """A capture that has no snapshot at all still gives its updates."""
    given = await captures(write(lines.diff(1, 2, bids={1.0: 1}).diff(3, 4, bids={2.0: 1})))
    assert brief(given.depth) == [(1.0, 2, True), (2.0, 4, True)]
    assert given.of(Kind.STATUS, "status", "reason") == [("gap", "no snapshot in the capture")]


async def test_updates_do_not_wait_for_ever(captures, write, spot):
    """After so many updates the wait for a snapshot ends; one that comes later is taken up."""
    for i in range(1, 1003):
        spot.diff(i, i, bids={float(i): 1})
    spot.snapshot(1001, bids={7.0: 1}, asks={8.0: 1})
    given = await captures(write(spot))
    assert brief(given.depth) == [*((float(i), i, True) for i in range(1, 1003)), (1002.0, 1002, False)]
    assert given.of(Kind.STATUS, "reason") == [("no snapshot within the first 1000 updates",)]


async def test_a_repeated_diff_is_passed_over(captures, write, spot):
    """A message recorded twice changes nothing."""
    spot.quote().snapshot(10, bids={1.0: 1}, asks={9.0: 1}).diff(9, 12, bids={2.0: 1})
    spot.raw(spot.lines[-1]).diff(13, 13, bids={3.0: 1})
    given = await captures(write(spot))
    assert brief(given.depth) == [(2.0, 12, False), (3.0, 13, False)]
    assert not given.of(Kind.STATUS)


async def test_ids_that_begin_anew_are_a_break(captures, write, spot):
    """Low ids at a later time are new updates, not old ones."""
    spot.quote().snapshot(1000, bids={1.0: 1}, asks={9.0: 1}).diff(1000, 1001, bids={2.0: 1})
    given = await captures(write(spot.diff(1, 2, bids={3.0: 1})))
    assert brief(given.depth) == [(2.0, 1001, False), (3.0, 2, True)]


async def test_a_snapshot_may_come_first(captures, write, spot):
    """A snapshot names no symbol; before any message it waits for the first one."""
    spot.snapshot(10, bids={1.0: 1}, asks={9.0: 1}).diff(9, 12, bids={2.0: 1})
    given = await captures(write(spot))
    assert [r[0] for r in given.depth] == ["clear", "set", "set", "set"]
    assert given.of(Kind.DEPTH, "ts_recv")[0] == (spot.start_ns,)


async def test_a_snapshot_of_one_of_several_symbols_is_refused(captures, write, spot):
    """Where a capture has several symbols, a snapshot without one is quarantined; one that names its own is taken."""
    spot.quote()
    spot.symbol = "ETHUSDT"
    spot.quote().snapshot(10, bids={1.0: 1}, asks={9.0: 1}).snapshot(10, bids={1.0: 1}, asks={9.0: 1}, symbol="ethusdt")
    given = await captures(write(spot))
    assert given.of(Kind.QUARANTINE, "line", "reason") == [
        (3, "a snapshot without a symbol in a capture of BTCUSDT, ETHUSDT")
    ]
    assert {r[2] for r in given.rows if r[0] is Kind.DEPTH} == {"ETHUSDT"}


async def test_other_streams_are_counted_not_given(captures, write, usdm):
    """Partial books, other streams and answers are no events of ours."""
    usdm.quote().stream("depth5@100ms", {"e": "depthUpdate"}).stream("markPrice", {"e": "markPriceUpdate"})
    usdm.message({"result": None, "id": 1})
    given = await captures(write(usdm))
    assert [b.kind for b in given.batches] == [Kind.QUOTES]
    assert given.batches[-1].offset == 1


async def test_microseconds_are_told_from_milliseconds(captures, write, spot):
    """Binance sends either."""
    spot.stream(
        "trade", {"e": "trade", "E": 1, "T": 1_700_000_000_000_001, "t": 1, "p": "1", "q": "1", "m": True, "M": True}
    )
    given = await captures(write(spot))
    assert given.of(Kind.TRADES, "ts_event") == [(1_700_000_000_000_001_000,)]
