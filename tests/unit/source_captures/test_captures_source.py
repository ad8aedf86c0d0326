"""Captures as a source: what is read, in which order, from where on, and what becomes of damage."""

from __future__ import annotations

import gzip
import os
from contextlib import aclosing

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from market_data_core.errors import ConfigurationError, InvalidInstrument, SourceError
from market_data_core.models import Quote, Trade
from market_data_core.protocols import END_OF_TIME_NS, BatchSource, TickSource
from market_data_core.schemas import Flag, Kind, Origin
from market_data_pipeline.source.captures import EXCHANGES, CaptureSource

relaxed = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture
def mixed(spot):
    """A session with everything in it: two symbols, a break, a second snapshot, lines that are none."""
    spot.diff(1, 5, bids={1.0: 1}).quote().trade(1).snapshot(4, bids={1.0: 1, 0.5: 2}, asks={9.0: 1}, symbol="BTCUSDT")
    spot.raw("garbage").diff(6, 7, bids={1.5: 1, 1.0: 0}).quote().quote()
    spot.symbol = "ETHUSDT"
    spot.trade(2).quote().diff(1, 2, asks={3.0: 1})
    spot.symbol = "BTCUSDT"
    spot.diff(10, 11, asks={9.0: 0}).trade(3).raw("1700000000000000000 {").diff(12, 13, bids={1.25: 1})
    return spot.snapshot(12, bids={1.0: 1}, asks={9.0: 1}, symbol="BTCUSDT").quote()


def contents(given):
    """All rows as values, NaN nowhere, with where they stand."""
    return [(kind, vendor, symbol, tuple(row.items())) for kind, vendor, symbol, row in given.rows]


async def test_it_is_a_source_like_the_others(write, spot):
    """It offers what the engine and what users ask of a source, and can wait."""
    source = CaptureSource(write(spot.quote()))
    assert isinstance(source, BatchSource)
    assert isinstance(source, TickSource)
    assert (source.name, source.origin, source.waits, source.status) == ("captures", Origin.REPLAY, True, "pending")
    assert set(EXCHANGES) == {"binance", "binance_usdm", "okx"}


async def test_rows_come_in_the_order_of_the_file_and_end_with_a_mark(captures, write, mixed):
    """Offsets ascend with the batches; the mark closes what was given."""
    given = await captures(write(mixed))
    offsets = [b.offset for b in given.batches]
    assert offsets == sorted(set(offsets))
    assert offsets[-1] == len(given.rows)
    (mark,) = given.marks
    assert (mark.offset, mark.ts_ns, mark.vendor) == (offsets[-1] + 1, END_OF_TIME_NS, "binance")
    assert set(mark.symbols) == {"BTCUSDT", "ETHUSDT"}
    kinds = [b.kind for b in given.batches[:5]]
    assert kinds == [Kind.QUOTES, Kind.TRADES, Kind.DEPTH, Kind.QUARANTINE, Kind.DEPTH]


@relaxed
@given(data=st.data())
async def test_a_resume_gives_exactly_the_rest(captures, write, mixed, data):
    """From any place on, in batches of any size: the same rows, gaps and mark as without a break."""
    path = write(mixed)
    whole = await captures(path)
    total = len(whole.rows)
    at = data.draw(st.integers(0, total + 1))
    batch_rows = data.draw(st.integers(1, 20))
    rest = await captures(path, resume={whole.marks[0].source_id: at}, batch_rows=batch_rows)
    assert contents(rest) == contents(whole)[at:]
    assert max((b.data.num_rows for b in rest.batches), default=0) <= batch_rows
    assert [m.offset for m in rest.marks] == [total + 1] * (at <= total)
    told = [i for i, row in enumerate(whole.rows) if row[-1].get("status") == "gap" and "follow" in row[-1]["reason"]]
    assert len(rest.gaps) == sum(place >= at for place in told)


@relaxed
@given(at=st.integers(0, 26), symbol=st.sampled_from(["btcusdt", "ETHUSDT"]))
async def test_unwanted_symbols_keep_their_places(captures, write, mixed, at, symbol):
    """What is wanted may change from run to run: offsets stay."""
    path = write(mixed)
    whole = await captures(path)
    source_id = whole.marks[0].source_id
    some = await captures(path, symbols=[symbol], resume={source_id: at})
    expected = [r for r in contents(whole)[at:] if r[2] in (symbol.upper(), "?")]
    assert contents(some) == expected
    assert [m.symbols for m in some.marks] == [(symbol.upper(),)]
    assert some.marks[0].offset == whole.marks[0].offset


async def test_a_position_beyond_the_end_is_refused(captures, write, mixed):
    """More is said to be safe than there is: another file, or a damaged state."""
    path = write(mixed)
    whole = await captures(path)
    with pytest.raises(SourceError, match=r"are said to have been read"):
        await captures(path, resume={whole.marks[0].source_id: whole.marks[0].offset + 1})


def trade(fields):
    return f'1700000000000000000 {{"stream":"x@trade","data":{{"e":"trade",{fields}}}}}'


def diff(fields):
    return f'1700000000000000000 {{"stream":"x@depth","data":{{"e":"depthUpdate","s":"A","E":1,{fields}}}}}'


MALFORMED = {
    "garbage": "does not begin with a receive time",
    "9999999999999999999 {}": "does not begin with a receive time",
    "1700000000000000000 {": "",
    "1700000000000000000 [1]": "no JSON object",
    '1700000000000000000 {"stream":5,"data":{}}': "",
    '1700000000000000000 {"data":7}': "",
    '1700000000000000000 {"hello":1}': "no message of Binance",
    trade('"s":"A","p":"1"'): "field 'q' is missing",
    trade('"s":"A","p":"one","q":"1","t":1,"T":1,"m":true'): "one",
    trade('"s":"A","p":"nan","q":"1","t":1,"T":1,"m":true'): "number 'nan'",
    trade('"s":5,"p":"1","q":"1","t":1,"T":1,"m":true'): "symbol 5",
    trade('"s":"A","p":"1","q":"1","t":1,"T":1e99,"m":true'): "time",
    diff('"U":1,"u":"2","b":[],"a":[]'): "id '2'",
    diff('"U":1,"u":2,"b":[["1"]],"a":[]'): "",
    diff('"U":1,"u":2,"b":["12"],"a":[]'): "level '12'",
    diff('"U":1,"u":2,"b":[["1","-1"]],"a":[]'): "level",
}


@pytest.mark.parametrize("line", MALFORMED)
async def test_a_malformed_line_is_quarantined_and_reading_goes_on(captures, write, spot, line):
    """It is a row of its own, with line, reason and text; those around it stay as they are."""
    source_lines = spot.quote().raw(line).trade()
    given = await captures(write(source_lines))
    found = given.of(Kind.QUARANTINE, "line", "reason", "raw", "flags")
    assert [b.kind for b in given.batches if b.kind is not Kind.QUARANTINE] == [Kind.QUOTES, Kind.TRADES]
    ((number, reason, raw, flags),) = found
    assert (number, raw, flags) == (2, line, Flag.TS_EVENT_SYNTHETIC)
    assert reason
    assert MALFORMED[line] in reason


async def test_an_okx_book_is_untouched_by_a_malformed_message(captures, write, okx):
    """A message that is wrong at its end has not changed the book before: the next checksum agrees."""
    okx.book("snapshot", bids={"1": "1"}, asks={"2": "1"})
    wrong = okx.lines[-1].replace('"snapshot"', '"update"').replace('["1", "1"', '["9", "9"')
    okx.raw(wrong.replace('["2", "1"', '["2", "oops"'))
    okx.book("update", bids={"0.7": "1"})
    given = await captures(write(okx))
    assert len(given.of(Kind.QUARANTINE)) == 1
    assert not given.of(Kind.STATUS)


async def test_control_lines_are_counted(write, okx):
    """Sent frames, answers, heartbeats and other channels are no events."""
    okx.raw("wss://ws.okx.com:8443/ws/v5/public <-> 1652459224.5").message({"event": "subscribe", "arg": {}})
    okx.raw("1700000000.1: pong").channel("funding-rate", {}).quote()
    source = CaptureSource(write(okx))
    assert len([b async for b in source.batches({})]) == 2
    assert source.skipped == {"sent": 1, "answer": 1, "heartbeat": 1, "funding-rate": 1}
    assert (source.lines, source.malformed) == (5, 0)


async def test_a_truncated_gzip_gives_what_stands_before_the_cut(captures, write, spot):
    """The rows come first, then the error that names the file; no mark."""
    for i in range(3000):
        spot.trade(i * 7919 % 100_003, price=str(i * 104_729 % 99_991))
    path = write(spot, "capture.gz")
    packed = path.read_bytes()
    path.write_bytes(packed[: len(packed) // 2])
    items = []
    with pytest.raises(SourceError, match=r"capture\.gz"):
        await captures(path, items=items)
    assert 500 < sum(batch.data.num_rows for batch in items) < 3000


async def test_a_file_that_changed_is_refused(write, spot):
    """What is read must be what was hashed."""
    path = write(spot.quote())
    source = CaptureSource(path)
    source.plan()
    path.write_text(path.read_text() * 2)
    stat = path.stat()
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns + 10**9))
    with pytest.raises(SourceError, match="has changed"):
        await anext(source.batches({}))


async def test_files_that_overlap_are_laced_by_receive_time(captures, write, spot, usdm):
    """Two venues of the same minutes come side by side, whichever is named first."""
    for i in range(200):
        spot.trade(i)
        usdm.trade(i)
    spot.quote()
    paths = [write(spot, "a.gz"), write(usdm, "b.gz")]
    given = await captures(*paths)
    times = [r[-1]["ts_recv"] for r in given.rows]
    assert max(max(times[:i]) - t for i, t in enumerate(times) if i) <= 100_000_000
    assert len({r[1] for r in given.rows[:150]}) == 2
    assert len(given.marks) == 2
    again = await captures(*paths, resume={m.source_id: m.offset for m in given.marks})
    assert (again.rows, again.marks) == ([], [])


async def test_folders_give_the_captures_in_them(captures, write, tmp_path, spot, okx):
    """Other files are passed over; the same bytes twice are read once."""
    write(spot.quote(), "a.gz")
    write(spot, "copy.gz")
    write(okx.quote(), "b.txt")
    write(["nothing of ours"], "readme.txt")
    (tmp_path / "broken.gz").write_bytes(gzip.compress(b"x" * 1000)[:-20])
    assert {r[1] for r in (await captures(tmp_path)).rows} == {"binance", "okx"}
    assert len(CaptureSource(tmp_path).plan()) == 2
    assert [f.exchange for f in CaptureSource(str(tmp_path / "*"), exchange="okx").plan()] == ["okx"]


@pytest.mark.parametrize(
    ("settings_", "said"),
    [
        ({"exchange": "kraken"}, "kraken.*binance, binance_usdm, okx"),
        ({"batch_rows": 0}, "batch_rows"),
        ({"symbols": "BTCUSDT"}, "give a list"),
    ],
)
def test_wrong_settings_are_named(settings_, said):
    """The error says which setting and what is allowed."""
    with pytest.raises(ConfigurationError, match=said):
        CaptureSource([], **settings_)


async def test_what_is_no_capture_is_refused(captures, write, tmp_path, spot, okx):
    """A file of no known or of another exchange, an empty folder and no path at all."""
    with pytest.raises(ConfigurationError, match="paths is empty"):
        await captures()
    with pytest.raises(ConfigurationError, match="no known exchange"):
        await captures(write(["nothing"], "x.txt"))
    with pytest.raises(ConfigurationError, match="a capture of binance, not of okx"):
        await captures(write(spot.quote(), "y.txt"), exchange="okx")
    (tmp_path / "sub").mkdir()
    with pytest.raises(ConfigurationError, match="is a capture of"):
        await captures(tmp_path / "sub")
    named = await captures(write([spot.lines[0].replace('"u"', '"uu"')], "z.txt"), exchange="binance")
    assert len(named.of(Kind.QUOTES)) == 1


async def test_values_come_one_by_one(write, mixed):
    """`stream` gives trades and quotes as models, and its newest quote can be asked for."""
    source = CaptureSource(write(mixed))
    async with aclosing(source.stream()) as values:
        seen = [value async for value in values]
    assert {type(v) for v in seen} == {Quote, Trade}
    assert [v.trade_id for v in seen if isinstance(v, Trade)] == ["1", "2", "3"]
    assert seen[0].meta.vendor == "binance"
    assert source.status == "closed"
    newest = [v for v in seen if isinstance(v, Quote) and v.symbol == "BTCUSDT"][-1]
    assert (await source.get_quote("btcusdt")).ts_event_ns == newest.ts_event_ns
    assert source.symbols == ["BTCUSDT", "ETHUSDT"]


async def test_a_quote_can_be_had_before_anything_was_given(write, mixed):
    """It is the symbol's first one; a symbol without quotes has none."""
    source = CaptureSource(write(mixed), symbols=["ETHUSDT"])
    quote = await source.get_quote("ethusdt")
    assert (quote.symbol, quote.bid, quote.ask) == ("ETHUSDT", 100.0, 101.0)
    assert source.status == "pending"
    with pytest.raises(InvalidInstrument, match="BTCUSDT"):
        await source.get_quote("BTCUSDT")


async def test_nothing_comes_after_close(write, mixed):
    """Closing ends a run at once and may be repeated."""
    source = CaptureSource(write(mixed), batch_rows=1)
    batches = source.batches({})
    await anext(batches)
    await source.close()
    await source.close()
    assert [b async for b in batches] == []
    assert source.status == "closed"
