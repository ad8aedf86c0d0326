"""What each DBN record becomes, from files made here."""

from __future__ import annotations

import logging

import databento_dbn as dbn
import pytest
from databento_dbn import Action, RType, Side, StatType, StatUpdateAction
from dbn_oracle import (
    BASE,
    MAPPINGS,
    SECOND,
    UNDEF_PRICE,
    UNDEF_TIME,
    by_kind,
    decoded,
    encoded,
    expected,
    pairs,
    top,
    trade,
)

from market_data_core.schemas import Flag, Kind

LAST, SNAPSHOT, SYNTHETIC = int(Flag.LAST), int(Flag.SNAPSHOT), int(Flag.TS_EVENT_SYNTHETIC)
HEAD = {"publisher_id": 1, "instrument_id": 1, "ts_event": BASE}
BOTH = {**HEAD, "ts_recv": BASE + 1000}


def cmbp(**more):
    levels = dbn.ConsolidatedBidAskPair(bid_px=5 * 10**9, ask_px=UNDEF_PRICE, bid_sz=7)
    last = {"price": 5 * 10**9, "size": 2, "action": Action.TRADE, "side": Side.BID, "flags": 200}
    return dbn.CMBP1Msg(**{"rtype": RType.TCBBO, **BOTH, **last, "levels": levels, **more})


def definition(**more):
    return dbn.InstrumentDefMsg(
        **{
            **BOTH,
            "min_price_increment": 250_000_000,
            "display_factor": 10**9,
            "raw_symbol": "abc raw",
            "asset": "ABC",
            "security_type": "FUT",
            "instrument_class": dbn.InstrumentClass.FUTURE,
            "security_update_action": dbn.SecurityUpdateAction.ADD,
            "expiration": 1_726_839_000 * SECOND,
            "activation": 1_700_000_000 * SECOND,
            "unit_of_measure_qty": 50 * 10**9,
            "min_lot_size": 1,
            "currency": "USD",
            **more,
        }
    )


def statistic(kind, *, price=UNDEF_PRICE, quantity=dbn.UNDEF_STAT_QUANTITY, **more):
    fixed = {**BOTH, "ts_ref": UNDEF_TIME, "price": price, "quantity": quantity, "stat_type": kind}
    return dbn.StatMsg(**{**fixed, "update_action": StatUpdateAction.NEW, **more})


def imbalance(**more):
    prices = {"ref_price": 10**9, "cont_book_clr_price": 2 * 10**9, "auct_interest_clr_price": 3 * 10**9}
    fixed = {"auction_time": 0, "paired_qty": 4, "total_imbalance_qty": 5, "auction_type": "O"}
    return dbn.ImbalanceMsg(**{**BOTH, **prices, **fixed, "side": Side.ASK, "significant_imbalance": "~", **more})


def test_records_here_are_what_the_recordings_are_compared_with():
    """The bytes that tests build files of are decoded by databento-dbn to what they were built from."""
    metadata, records = decoded(encoded([trade(), top()]))
    assert metadata.mappings.keys() == MAPPINGS.keys()
    assert [type(r).__name__ for r in records] == ["TradeMsg", "MBP1Msg"]


EVERY_TYPE = [
    trade(side=Side.NONE),
    trade(1, 3.5, 7, number=2, side=Side.ASK, flags=0, ts_event=UNDEF_TIME),
    trade(2, number=77, price=None),
    top(3, None, 101.0),
    top(4, 99.0, None, action=Action.TRADE),
    top(5, -1.5, -0.5, action=Action.CANCEL),
    cmbp(),
    cmbp(rtype=RType.CMBP_1, action=Action.ADD),
    dbn.BBOMsg(rtype=RType.BBO_1S, **BOTH, price=1, size=1, side=Side.BID, flags=128, levels=pairs(9.0, 10.0)[0]),
    dbn.BBOMsg(
        rtype=RType.BBO_1M,
        **{**BOTH, "ts_event": UNDEF_TIME},
        price=1,
        size=1,
        side=Side.BID,
        levels=pairs(9.0, None)[0],
    ),
    dbn.CBBOMsg(rtype=RType.CBBO_1M, **BOTH, price=1, size=1, side=Side.ASK, levels=dbn.ConsolidatedBidAskPair()),
    dbn.MBOMsg(**BOTH, order_id=2**64 - 1, price=10**9, size=4, action=Action.FILL, side=Side.ASK, sequence=9),
    dbn.MBOMsg(**BOTH, order_id=0, price=UNDEF_PRICE, size=0, action=Action.CLEAR, side=Side.NONE, flags=8),
    *(
        dbn.OHLCVMsg(rtype=r, **HEAD, open=1, high=3 * 10**9, low=-5, close=2, volume=2**40)
        for r in (RType.OHLCV_1S, RType.OHLCV_1M, RType.OHLCV_1H, RType.OHLCV_1D, RType.OHLCV_EOD)
    ),
    definition(),
    definition(expiration=UNDEF_TIME, activation=0, unit_of_measure_qty=UNDEF_PRICE, min_lot_size=0, currency=""),
    dbn.StatusMsg(**BOTH, action=dbn.StatusAction.HALT, reason=dbn.StatusReason.NEWS_PENDING),
    dbn.StatusMsg(**BOTH, action=dbn.StatusAction.TRADING, trading_event=dbn.TradingEvent.NO_CANCEL),
    dbn.StatusMsg(
        **BOTH,
        action=dbn.StatusAction.PRE_OPEN,
        reason=dbn.StatusReason.SCHEDULED,
        trading_event=dbn.TradingEvent.IMPLIED_MATCHING_OFF,
    ),
    imbalance(),
    imbalance(upper_collar=7 * 10**9, market_imbalance_qty=1, side=Side.NONE),
    statistic(StatType.SETTLEMENT_PRICE, price=5 * 10**9),
]


async def test_a_mixed_file_gives_what_its_own_decoder_finds(dbn_file, replay):
    """One file of all types of records gives, kind by kind and in order, what each record says."""
    metadata, records = decoded(encoded(EVERY_TYPE))
    wanted = [row for record in records for row in expected(metadata, record)]
    given = await replay(dbn_file(EVERY_TYPE))
    assert by_kind(given.rows()) == by_kind(wanted)
    assert {b.data.num_rows for b in given.batches} != {0}


async def test_a_trade_says_who_was_the_aggressor(dbn_file, replay):
    """The side of a trade is the aggressor's; none is null, and the exchange is the publisher's number."""
    path = dbn_file([trade(side=Side.BID), trade(side=Side.ASK), trade(side=Side.NONE, publisher_id=40)])
    values = (await replay(path)).values(Kind.TRADES, "price", "size", "aggressor_side", "exchange", "trade_id")
    assert values == [(100.0, 1.0, "buy", "1", None), (100.0, 1.0, "sell", "1", None), (100.0, 1.0, None, "40", None)]


async def test_times_fall_back_on_the_receive_time(dbn_file, replay):
    """Without a venue's time, and in sampled quotes, the receive time stands in, flagged; ours is stamped later."""
    sampled = dbn.BBOMsg(
        rtype=RType.BBO_1S,
        **{**BOTH, "ts_event": BASE - SECOND},
        price=1,
        size=1,
        side=Side.BID,
        levels=pairs(1.0, 2.0)[0],
    )
    given = await replay(dbn_file([trade(5), trade(6, ts_event=UNDEF_TIME), sampled]))
    names = ("ts_event", "ts_recv", "flags")
    assert given.values(Kind.TRADES, *names) == [(BASE + 5, 0, 128), (BASE + 1006, 0, 128 | SYNTHETIC)]
    assert given.values(Kind.QUOTES, *names) == [(BASE + 1000, 0, SYNTHETIC)]


@pytest.mark.parametrize(("flags", "ends"), [(LAST, LAST), (0, 0)])
async def test_ten_levels_are_a_whole_book(dbn_file, replay, flags, ends):
    """Ten levels come as a cleared book set anew; the end of the venue's update is marked on the last row alone."""
    levels = [*pairs(99.0, 101.0, 2), *pairs(None, None, 8)]
    record = dbn.MBP10Msg(
        **BOTH, price=1, size=1, action=Action.ADD, side=Side.BID, depth=0, sequence=6, flags=flags, levels=levels
    )
    given = await replay(dbn_file([record]))
    assert given.values(Kind.DEPTH, "action", "side", "level", "price", "size", "sequence", "flags") == [
        ("clear", None, None, None, None, 6, SNAPSHOT),
        ("set", "bid", 0, 99.0, 10.0, 6, SNAPSHOT),
        ("set", "bid", 1, 98.0, 11.0, 6, SNAPSHOT),
        ("set", "ask", 0, 101.0, 20.0, 6, SNAPSHOT),
        ("set", "ask", 1, 102.0, 21.0, 6, SNAPSHOT | ends),
    ]


async def test_an_empty_book_is_cleared(dbn_file, replay):
    """A book without a level is its clearing alone, which then ends the update."""
    record = dbn.MBP10Msg(
        **BOTH, price=1, size=1, action=Action.CANCEL, side=Side.BID, depth=0, flags=LAST, levels=pairs(None, None, 10)
    )
    given = await replay(dbn_file([record, record]))
    assert given.values(Kind.DEPTH, "action", "flags") == [("clear", SNAPSHOT | LAST)] * 2


async def test_statistics_are_values_by_name(dbn_file, replay):
    """A price or a quantity by the statistic's name, a quantity beside a price by a name of its own, null once gone."""
    records = [
        statistic(StatType.OPENING_PRICE, price=10**9, quantity=7),
        statistic(StatType.OPEN_INTEREST, quantity=12),
        statistic(StatType.VWAP, price=2 * 10**9),
        statistic(StatType.OPEN_INTEREST, quantity=12, update_action=StatUpdateAction.DELETE),
    ]
    assert (await replay(dbn_file(records))).values(Kind.ANALYTICS, "name", "value") == [
        ("opening_price", 1.0),
        ("opening_price_quantity", 7.0),
        ("open_interest", 12.0),
        ("vwap", 2.0),
        ("open_interest", None),
    ]


async def test_old_statistics_are_shorter(dbn_file, replay):
    """Statistics of version 1 have quantities of 32 bits, with another absent value."""
    old = {**BOTH, "ts_ref": UNDEF_TIME, "update_action": StatUpdateAction.NEW}
    records = [
        dbn.StatMsgV1(**old, price=UNDEF_PRICE, quantity=5, stat_type=StatType.CLEARED_VOLUME),
        dbn.StatMsgV1(**old, price=3 * 10**9, quantity=2**31 - 1, stat_type=StatType.FIXING_PRICE),
    ]
    values = (await replay(dbn_file(records, "a.dbn.frag"))).values(Kind.ANALYTICS, "name", "value")
    assert values == [("cleared_volume", 5.0), ("fixing_price", 3.0)]


async def test_numbers_that_the_library_does_not_know_stand_for_themselves(dbn_file, replay):
    """A status that a later version of the format may bring is given by its number."""
    raw = bytearray(bytes(dbn.StatusMsg(**BOTH, action=dbn.StatusAction.HALT)))
    raw[24:26] = (999).to_bytes(2, "little")
    assert (await replay(dbn_file([raw]))).values(Kind.STATUS, "status", "reason") == [("999", None)]


async def test_symbols_change_with_the_day(dbn_file, replay):
    """An id that means another instrument on the next UTC day is called so, by receive time; else by its number."""
    mappings = {
        "Old": [("2024-07-01", "2024-07-02", 1)],
        "New": [("2024-07-02", "2024-07-03", 1), ("2024-07-04", "2024-07-05", 1)],
        "same": [("2024-07-02", "2024-07-03", 1)],
    }
    day = 86_400 * SECOND
    given = await replay(
        dbn_file([trade(-1001), trade(-1000), trade(0), trade(day), trade(2 * day)], mappings=mappings)
    )
    assert given.values(Kind.TRADES, "symbol") == [("OLD",), ("NEW",), ("NEW",), ("1",), ("NEW",)]
    assert set(given.marks[0].symbols) == {"OLD", "NEW", "1"}


@pytest.mark.parametrize("names", [["ES.c.0", "ESU4", "ES.v.0"], ["ESU4", "ES.v.0", "ES.c.0"]])
async def test_of_two_symbols_the_first_asked_for_counts(dbn_file, replay, names):
    """Symbols of one request that mean the same instrument name it by the first, every time the file is read."""
    path = dbn_file([trade()], mappings={name: [("2024-07-01", "2024-07-03", 1)] for name in names})
    for _ in range(20):
        assert (await replay(path)).values(Kind.TRADES, "symbol") == [(names[0].upper(),)]


async def test_mappings_from_ids_are_read_too(dbn_file, replay):
    """A file asked for by id names what each id was called."""
    mappings = {"1": [("2024-07-01", "2024-07-03", "esu4")]}
    path = dbn_file([trade()], mappings=mappings, stype_in=dbn.SType.INSTRUMENT_ID, stype_out=dbn.SType.RAW_SYMBOL)
    assert (await replay(path)).values(Kind.TRADES, "symbol") == [("ESU4",)]


def said(number, symbol):
    return dbn.SymbolMappingMsg(
        publisher_id=1,
        instrument_id=number,
        ts_event=BASE,
        stype_in=dbn.SType.PARENT,
        stype_in_symbol="ES.FUT",
        stype_out=dbn.SType.RAW_SYMBOL,
        stype_out_symbol=symbol,
        start_ts=UNDEF_TIME,
        end_ts=UNDEF_TIME,
    )


async def test_a_recorded_live_feed_names_its_symbols_on_the_way(dbn_file, replay):
    """Mappings among the records hold for what stands behind them, and are no events themselves."""
    old = dbn.SymbolMappingMsgV1(
        publisher_id=1,
        instrument_id=9,
        ts_event=BASE,
        stype_in_symbol="x",
        stype_out_symbol="nine",
        start_ts=0,
        end_ts=0,
    )
    path = dbn_file(
        [said(1, "one"), old, trade(), trade(number=9), said(1, "uno"), trade(), trade(number=2)], mappings={}
    )
    given = await replay(path)
    assert given.values(Kind.TRADES, "symbol") == [("ONE",), ("NINE",), ("UNO",), ("2",)]
    assert given.batches[-1].offset == 4


async def test_what_a_feed_says_of_itself_is_no_event(dbn_file, replay, caplog):
    """Heartbeats are left out; an error of the recorded feed is left out and told."""
    records = [
        dbn.SystemMsg(ts_event=BASE, msg="Heartbeat"),
        trade(),
        dbn.ErrorMsg(ts_event=BASE, err="slow reader"),
        trade(1),
    ]
    with caplog.at_level(logging.WARNING):
        given = await replay(dbn_file(records))
    assert len(given.rows()) == 2
    assert [r.getMessage().partition(": ")[2] for r in caplog.records] == ["the recorded feed reported: slow reader"]


async def test_send_times_behind_records_are_passed_over(dbn_file, replay):
    """Records with the time they were sent behind them, as recorded live feeds have, read the same."""
    plain = await replay(dbn_file([trade(i, ts_out=UNDEF_TIME) for i in range(3)], "plain.dbn"))
    raw = []
    for i in range(3):
        record = bytearray(bytes(trade(i)) + (BASE + i).to_bytes(8, "little"))
        record[0] += 2
        raw.append(record)
    sent = await replay(dbn_file(raw, "sent.dbn", ts_out=True))
    assert sent.rows() == plain.rows()
