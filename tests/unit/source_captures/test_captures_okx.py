"""What comes of OKX's messages, and of books that do not agree with it."""

from __future__ import annotations

from market_data_core.schemas import Flag, Kind
from market_data_pipeline.source.captures import CaptureSource

SNAPSHOT, LAST, SUSPECT = Flag.SNAPSHOT, Flag.LAST, Flag.MAYBE_BAD_BOOK
BIDS, ASKS = {"100.1": "1", "100.0": "2"}, {"100.2": "3.50"}


async def test_messages_become_rows_in_their_order(captures, write, okx):
    """Quotes, trades and books keep the order and the times of the file."""
    okx.quote().trade(side="sell").book("snapshot", bids=BIDS, asks=ASKS).book("update", bids={"100.0": "0"}).quote()
    given = await captures(write(okx))
    assert [b.kind for b in given.batches] == [Kind.QUOTES, Kind.TRADES, Kind.DEPTH, Kind.QUOTES]
    assert {r[1:3] for r in given.rows} == {("okx", "BTC-USDT")}
    assert given.of(Kind.TRADES, "price", "size", "trade_id", "aggressor_side") == [(100.1, 3.0, "7", "sell")]
    assert given.depth == [
        ("clear", None, None, None, None, SNAPSHOT),
        ("set", "bid", 100.1, 1.0, None, SNAPSHOT),
        ("set", "bid", 100.0, 2.0, None, SNAPSHOT),
        ("set", "ask", 100.2, 3.5, None, SNAPSHOT | LAST),
        ("delete", "bid", 100.0, 0.0, None, LAST),
    ]
    first = given.of(Kind.QUOTES, "ts_event", "ts_recv", "bid_price", "ask_size")[0]
    assert first == (1_700_000_000_000_000_000, 1_700_000_000_000_000_000, 100.1, 2.0)
    assert given.of(Kind.DEPTH, "ts_recv")[-1] == (1_700_000_000_003_000_000,)


async def test_receive_times_are_exact(captures, write, okx):
    """Seconds with a fraction become nanoseconds without a detour over floats."""
    line = okx.quote().lines[0].partition(" ")[2]
    given = await captures(write([f"1652459225.5065071: {line}", f"1652459225: {line}"]))
    assert given.of(Kind.QUOTES, "ts_recv") == [(1652459225506507100,), (1652459225000000000,)]


async def test_every_checksum_is_verified(write, okx):
    """More than 25 levels, uneven sides and prices whose texts differ from their numbers."""
    bids = {f"{100 - i / 10:.2f}": f"{i + 1}.0" for i in range(30)}
    okx.book("snapshot", bids=bids, asks={"100.5": "1", "101.50": "2"})
    okx.book("update", bids={"100.00": "0", "50.0": "5"}, asks={"100.5": "0", "100.40": "7"})
    okx.book("update", bids={"99.90": "8.100"}, asks={"100.40": "0", "101.50": "0"})
    source = CaptureSource(write(okx))
    flags = [f async for b in source.batches({}) if hasattr(b, "kind") for f in b.data.column("flags").to_pylist()]
    assert (source.checksums_ok, source.checksums_bad) == (3, 0)
    assert not any(f & SUSPECT for f in flags)


async def test_a_wrong_checksum_is_told_and_flags_its_rows(write, captures, okx):
    """The message's rows are suspect; the next one whose checksum agrees is not."""
    okx.book("snapshot", bids=BIDS, asks=ASKS).book("update", bids={"99": "1", "98": "1"}, checksum=12345)
    path = write(okx.book("update", bids={"97": "1"}))
    given = await captures(path)
    assert [(r[2], bool(r[5] & SUSPECT)) for r in given.depth[4:]] == [(99.0, True), (98.0, True), (97.0, False)]
    ((status, reason),) = given.of(Kind.STATUS, "status", "reason")
    assert (status, reason.endswith("says 12345")) == ("bad_checksum", True)
    source = CaptureSource(path)
    assert [b async for b in source.batches({})]
    assert (source.checksums_ok, source.checksums_bad) == (2, 1)


async def test_a_lost_update_shows_in_the_checksums(write, captures, okx):
    """A message missing from the capture makes the books behind it disagree."""
    okx.book("snapshot", bids=BIDS, asks=ASKS).book("update", bids={"99": "1"}).book("update", bids={"98": "1"})
    del okx.lines[1]
    given = await captures(write(okx))
    assert [bool(r[5] & SUSPECT) for r in given.depth] == [False] * 4 + [True]


async def test_an_update_before_any_snapshot_is_suspect(write, captures, okx):
    """There is nothing to verify yet; the snapshot ends the doubt."""
    okx.book("update", bids={"99": "1"}, checksum=1).book("update", bids={"98": "1"}, checksum=1)
    given = await captures(write(okx.book("snapshot", bids=BIDS, asks=ASKS)))
    assert [bool(r[5] & SUSPECT) for r in given.depth] == [True, True, False, False, False, False]
    assert given.of(Kind.STATUS, "status", "reason") == [("gap", "an update before any snapshot")]


async def test_sequence_ids_are_followed_where_there_are_any(write, captures, okx):
    """A break in them is a gap, and suspect until the next snapshot, whatever the checksum says."""
    okx.book("snapshot", bids=BIDS, asks=ASKS, seqId=10, prevSeqId=-1)
    okx.book("update", bids={"99": "1"}, seqId=12, prevSeqId=10).book(
        "update", bids={"98": "1"}, seqId=15, prevSeqId=14
    )
    okx.book("update", bids={"97": "1"}, seqId=16, prevSeqId=15).book("snapshot", bids=BIDS, seqId=20, prevSeqId=-1)
    given = await captures(write(okx))
    assert [(r[4], bool(r[5] & SUSPECT)) for r in given.depth if r[5] & LAST] == [
        *((10, False), (12, False), (15, True), (16, True), (20, False)),
    ]
    assert given.of(Kind.STATUS, "reason") == [("update after 14 does not follow 12",)]
    assert [g.cause for g in given.gaps] == ["sequence"]


async def test_a_side_without_orders_is_null(write, captures, okx):
    """OKX writes empty texts there."""
    given = await captures(write(okx.quote(bid="", bid_size="")))
    assert given.of(Kind.QUOTES, "bid_price", "bid_size", "ask_price") == [(None, None, 100.2)]


async def test_digits_are_as_many_as_the_instrument_shows(write, okx):
    """Small prices keep more digits than the usual eight."""
    okx.quote(bid="0.000007012", bid_size="1", ask="0.0000070125", ask_size="2")
    (batch,) = [b async for b in CaptureSource(write(okx)).batches({}) if hasattr(b, "kind")]
    assert (batch.instruments[0].price_decimals, batch.instruments[0].size_decimals) == (10, 8)
