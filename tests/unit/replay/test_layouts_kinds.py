"""Layouts of bars, option chains and zips of many contracts, on files made here."""

from __future__ import annotations

import gzip
import zipfile
from datetime import date

import pyarrow as pa
import pytest
from hypothesis import given as examples
from hypothesis import strategies as st

from market_data_core.errors import ConfigurationError, SourceError
from market_data_core.protocols import END_OF_TIME_NS
from market_data_core.schemas import Kind
from market_data_pipeline.source.replay import ReplaySource, detect_layout, parse_layout
from market_data_pipeline.source.replay.contracts import contract_symbols

OPEN_NS = 1_402_061_400_000_000_000  # 2014-06-06 09:30 in New York
BARS = """
name: mine
vendor: me
kind: bars
format: csv
time: {column: t, unit: ms}
symbol: {constant: abc}
columns: {open: o, high: h, low: l, close: c}
constants: {interval: 1m, what: TRADES, session: ALL, source: external}
"""
CHAIN = """
name: mine
vendor: me
kind: options
format: csv
time: {column: t, unit: ms}
symbol: {constant: abc}
contract: {columns: {expiry: e, strike: k, right: r}}
columns: {last_price: p}
"""
HEADER = "#expiry,strike,right,open,high,low,close,volume,open_interest,implied_volatility,delta,gamma,vega,theta,rho"


def zipped(path, members):
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as z:
        for name, lines in members.items():
            z.writestr(name, "".join(f"{line}\n" for line in lines))
    return path


@pytest.fixture
def quote_bars(tmp_path):
    """Write a Lean file of an equity's quote bars."""
    return lambda lines: zipped(
        tmp_path / "equity/usa/minute/abc/20140606_quote.zip", {"20140606_abc_minute_quote.csv": lines}
    )


@pytest.fixture
def option_bars(tmp_path):
    """Write a Lean zip of trade bars; called with lines by contract, such as `call_950000_20140621`."""
    return lambda contracts, underlying="abc": zipped(
        tmp_path / f"option/usa/minute/{underlying}/20140606_trade_american.zip",
        {f"20140606_{underlying}_minute_trade_american_{n}.csv": lines for n, lines in contracts.items()},
    )


@pytest.fixture
def chain(tmp_path):
    """Write a Lean option chain."""

    def write(lines, underlying="abc"):
        path = tmp_path / f"option/usa/universes/{underlying}/20140606.csv.gz"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(gzip.compress("".join(f"{line}\n" for line in [HEADER, *lines]).encode()))
        return path

    return write


QUOTE_BARS = [
    "34200000,100000,110000,90000,105000,7,120000,130000,110000,125000,8",
    "34260000,,,,,0,120000,130000,110000,125000,8",
    "34320000,100000,110000,90000,105000,7,,,,,0",
    "34380000,,,,,0,,,,,0",
    "34440000,100000,,90000,105000,7,120000,130000,110000,125000,8",
    "34500000,100000,110000,90000,105000,7,120000,130000,110000,125000,8",
]


async def test_a_quote_bar_row_gives_bid_then_ask(quote_bars, replay):
    """A row of two bars gives both, the bids first; a side without prices is not there, and no size becomes volume."""
    given = await replay(quote_bars(QUOTE_BARS[:3]))
    names = ("what", "open", "high", "low", "close", "volume")
    bid, ask = ("BID", 10.0, 11.0, 9.0, 10.5, None), ("ASK", 12.0, 13.0, 11.0, 12.5, None)
    assert given.values(Kind.BARS, *names) == [bid, ask, ask, bid]
    starts = [OPEN_NS + minute * 60 * 10**9 for minute in (0, 0, 1, 2)]
    assert [t for (t,) in given.values(Kind.BARS, "ts_event")] == starts
    said = set(given.values(Kind.BARS, "interval", "session", "source", "revision", "ts_known"))
    assert said == {("1m", "ALL", "external", 0, None)}


async def test_half_a_bar_is_quarantined(quote_bars, replay):
    """A row of which a side lacks a price, or both sides all, goes to quarantine whole; the rest goes on."""
    given = await replay(quote_bars(QUOTE_BARS))
    assert given.quarantine == [
        (4, "no prices at all"),
        (5, "bid_open, bid_high, bid_low, bid_close are not all there"),
    ]
    assert [w for (w,) in given.values(Kind.BARS, "what")] == ["BID", "ASK", "ASK", "BID", "BID", "ASK"]


@pytest.mark.parametrize("batch_rows", [1, 3, 100])
async def test_rows_of_two_bars_resume_anywhere(quote_bars, replay, batch_rows):
    """From every number on, a resumed replay gives just the events behind it, of the same numbers."""
    path = quote_bars(QUOTE_BARS)
    ((_, _, source_id, _),) = ReplaySource([path]).plan()
    whole = await replay(path, batch_rows=1)
    numbered = [(b.offset, b.data.to_pylist()) for b in whole.batches]
    assert [offset for offset, _ in numbered] == [1, 2, 4, 5, 7, 9, 11, 12]
    for start in range(13):
        rest = await replay(path, resume={source_id: start}, batch_rows=batch_rows)
        want = [row for offset, rows in numbered if offset > start for row in rows]
        assert [row for b in rest.batches for row in b.data.to_pylist()] == want
        assert [m.offset for m in rest.marks] == [13]


@pytest.mark.parametrize("order", ["file", "time"])
async def test_a_price_of_one_side_that_is_no_number_names_its_column(quote_bars, replay, order):
    """What is wrong with a side is told by the file's own column."""
    path = quote_bars(["34200000,inf,110000,90000,105000,7,120000,130000,110000,125000,8"])
    layout = detect_layout(path).model_copy(update={"order": order})
    assert (await replay(path, layout=layout)).quarantine == [(1, "bid_open is not a finite number")]


async def test_a_bar_without_a_price_is_quarantined(tmp_path, replay):
    """A bar needs its four prices; volume and count may be absent."""
    path = tmp_path / "mine.csv"
    path.write_text("t,o,h,l,c,v,n\n0,1,2,1,2,,\n60000,1,,1,2,5,3\n120000,1,2,1,2,5,3\n")
    layout = tmp_path / "mine.yaml"
    layout.write_text(BARS.replace("close: c", "close: c, volume: v, trade_count: n"))
    given = await replay(path, layout=layout)
    assert given.values(Kind.BARS, "ts_event", "volume", "trade_count") == [(0, None, None), (120 * 10**9, 5.0, 3)]
    assert given.quarantine == [(3, "high is missing")]


async def test_daily_bars_begin_at_local_midnight(tmp_path, replay):
    """A day begins at midnight in New York, in summer time too; what is no such day is quarantined."""
    days = ["20140102 00:00", "20140605 00:00", "20141301 00:00", "2014-06-05 00:00", ""]
    path = zipped(tmp_path / "bars_1d/abc.zip", {"abc.csv": [f"{day},10000,20000,10000,15000,7" for day in days]})
    given = await replay(path)
    utc = [1_388_638_800, 1_401_940_800]
    assert given.values(Kind.BARS, "ts_event", "interval", "close") == [(s * 10**9, "1d", 1.5) for s in utc]
    told = "time is not like 20140605 00:00, or outside the years 1678 to 2261"
    assert given.quarantine == [(3, told), (4, told), (5, "time is missing")]
    assert given.symbols == ["ABC", "ABC"]


async def test_a_chain_names_its_contracts(chain, replay):
    """A row of a chain is a contract with its symbol, at the midnight that its file's day begins with."""
    given = await replay(
        chain([",,,1,1,1,93.77,9,,,,,,,", "20140621,95,C,1,1,1,2.5,3,4,0.25,0.5,0.01,0.1,-0.2,0.03"], "aapl")
    )
    ((_, vendor, symbol, kind, row),) = given.rows()
    assert (vendor, symbol, kind) == ("lean", "AAPL  140621C00095000", Kind.OPTIONS)
    assert row == {
        "ts_event": 1_402_027_200_000_000_000, "ts_recv": 0, "flags": 0,
        "underlying": "AAPL", "expiry": "20140621", "strike": 95.0, "right": "C",
        "bid_price": None, "ask_price": None, "last_price": 2.5, "volume": 3.0, "open_interest": 4.0,
        "underlying_price": 93.77, "implied_vol": 0.25,
        "delta": 0.5, "gamma": 0.01, "vega": 0.1, "theta": -0.2, "rho": 0.03,
    }  # fmt: skip
    assert given.batches[-1].offset == 2


async def test_zero_is_absent_where_the_vendor_has_no_value(chain, replay):
    """No volatility found and no price to compute with are null; Greeks of a price, and volume and interest, stay."""
    lines = ["20140621,95,C,0,0,0,0,0,0,0,0,0,0,0,0", "20140621,96,P,1,1,1,2.5,0,0,0,1,0,0,-0.2,0.03"]
    given = await replay(chain(lines))
    names = ("last_price", "volume", "open_interest", "implied_vol", "delta", "gamma", "underlying_price")
    assert given.values(Kind.OPTIONS, *names) == [
        (None, 0.0, 0.0, None, None, None, None),
        (2.5, 0.0, 0.0, None, 1.0, 0.0, None),
    ]


async def test_the_underlyings_price_reaches_every_row_below_it(chain, replay):
    """The underlying's price holds for all contracts below its row, however long the file and wherever it is cut."""
    rows = [f"20140621,{strike},P,,,,,,,,,,,," for strike in range(1, 6001)]
    given = await replay(chain([*rows[:10], ",,,1,1,1,93.77,9,,,,,,,", *rows[10:]]))
    assert len(given.table(Kind.OPTIONS)) == 6000
    assert given.values(Kind.OPTIONS, "underlying_price") == [(None,)] * 10 + [(93.77,)] * 5990


@pytest.mark.parametrize(
    "told", ["20141301,95,C", "2014062,95,C", "20140621,95,X", "20140621,95.0005,C", "20140621,100000,C",
             "20140621,-1,C", "20140621,,C", "20140621,95,"],
)  # fmt: skip
async def test_a_row_that_names_no_contract_is_quarantined(chain, replay, told):
    """An expiry that is no day, a strike that no symbol holds or an unknown right is no contract."""
    good = "20140621,95,C,,,,2.5,,,,,,,,"
    given = await replay(chain([good, f"{told},,,,2.5,,,,,,,,", good]))
    assert given.quarantine == [(3, "expiry, strike and right name no contract")]
    assert len(given.symbols) == 2


@examples(
    st.dates(min_value=date(2000, 1, 1), max_value=date(2099, 12, 31)),
    st.integers(0, 99_999_999),
    st.sampled_from("CP"),
    st.from_regex(r"[A-Z][A-Z0-9]{0,5}", fullmatch=True),
)
def test_a_contracts_symbol_says_what_it_is(day, thousandths, right, root):
    """Root, expiry, right and strike can be read back from every symbol."""
    expiry = day.strftime("%Y%m%d")
    (symbol,) = contract_symbols(
        root, pa.array([expiry]), pa.array([thousandths / 1000]), pa.array([right])
    ).to_pylist()
    assert len(symbol) == 21
    assert (symbol[:6].rstrip(), f"20{symbol[6:12]}", symbol[12]) == (root, expiry, right)
    assert int(symbol[13:]) == thousandths


CONTRACTS = {
    "put_475000_20140621": ["34260000,100,100,100,100,4"],
    "call_475000_20140621": ["34200000,200,200,200,200,1", "34320000,300,300,300,300,2"],
}


async def test_a_zip_of_contracts_is_one_sequence_in_time(option_bars, replay):
    """Members are read as one, laced by time, each under its contract's symbol; one mark closes them all."""
    path = option_bars(CONTRACTS)
    given = await replay(path)
    call, put = "ABC   140621C00047500", "ABC   140621P00047500"
    assert given.symbols == [call, put, call]
    assert given.values(Kind.BARS, "close", "volume") == [(0.02, 1.0), (0.01, 4.0), (0.03, 2.0)]
    (mark,) = given.marks
    assert (set(mark.symbols), mark.ts_ns, mark.offset) == ({call, put}, END_OF_TIME_NS, 4)
    ((_, _, source_id, size_bytes),) = ReplaySource([path]).plan()
    assert {r[0] for r in given.rows()} == {source_id} == {mark.source_id}
    assert source_id.endswith(":lean_option_trade_bars")
    assert "#" not in source_id
    with zipfile.ZipFile(path) as z:
        assert size_bytes == sum(m.compress_size for m in z.infolist())


async def test_contracts_are_wanted_by_their_symbol(option_bars, replay):
    """Rows of contracts that are not asked for count, and are not given."""
    given = await replay(option_bars(CONTRACTS), symbols=["abc   140621p00047500"])
    assert given.symbols == ["ABC   140621P00047500"]
    assert [(b.offset, b.data.num_rows) for b in given.batches] == [(2, 1)]
    assert [m.offset for m in given.marks] == [4]


async def test_a_bad_row_of_a_contract_names_its_member(option_bars, replay):
    """A line counts within its member, so quarantine says which one, and the contract it is of."""
    path = option_bars({**CONTRACTS, "put_10000_20140621": ["oops", "34200000,1,1,1,1,1"]})
    given = await replay(path)
    ((_, _, symbol, _, row),) = given.rows(Kind.QUARANTINE)
    assert (symbol, row["line"], row["raw"]) == ("ABC   140621P00001000", 1, "oops")
    assert row["reason"].startswith("expected 6 columns")
    member = "20140606_abc_minute_trade_american_put_10000_20140621.csv"
    ((_, _, source_id, _),) = ReplaySource([path]).plan()
    whole, name = source_id.rsplit(":", 1)
    assert row["source_id"] == f"{whole}#{member}:{name}"
    assert len(given.symbols) == 4


async def test_a_zip_of_contracts_resumes_anywhere(option_bars, replay):
    """From every number on, a resumed replay of joined members gives just the rest."""
    path = option_bars(CONTRACTS)
    ((_, _, source_id, _),) = ReplaySource([path]).plan()
    closes = (await replay(path)).values(Kind.BARS, "close")
    for start in range(4):
        assert (await replay(path, resume={source_id: start})).values(Kind.BARS, "close") == closes[start:]


async def test_open_interest_is_of_its_contract(tmp_path, replay):
    """A file of open interest gives options with the contract that its name says."""
    name = "20140606_abc_minute_openinterest_american_put_475000_20140621.csv"
    path = zipped(tmp_path / "20140606_openinterest_american.zip", {name: ["23520000,21"]})
    given = await replay(path)
    columns = ("underlying", "expiry", "strike", "right", "open_interest", "last_price")
    assert given.values(Kind.OPTIONS, *columns) == [("ABC", "20140621", 47.5, "P", 21.0, None)]
    assert given.symbols == ["ABC   140621P00047500"]


async def test_a_damaged_member_is_named(option_bars):
    """Damage inside a joined zip is an error that names the member, and what was read before is not at risk."""
    path = option_bars({f"call_{k}0000_20140621": [f"34200000,{k},{k},{k},{k},1"] * 50 for k in range(10, 14)})
    data = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as z:
        info = z.infolist()[2]
    at = info.header_offset + 30 + len(info.filename)
    data[at : at + 8] = b"\xff" * 8
    path.write_bytes(bytes(data))
    source = ReplaySource([path])
    with pytest.raises(SourceError, match="call_120000_20140621"):
        async for _ in source.batches({}):
            pass


@pytest.mark.parametrize(
    ("contract", "told"),
    [("call_1_20141399", "name no contract"), ("fall_1_20140621", "does not show the option contract")],
)
def test_a_member_that_names_no_contract_is_refused(option_bars, contract, told):
    """A member's name says the contract; one that cannot be is an error that names it."""
    with pytest.raises(ConfigurationError, match=told) as caught:
        ReplaySource([option_bars({contract: []})]).plan()
    assert contract in str(caught.value)


def test_an_underlying_of_many_letters_has_no_contracts(option_bars):
    """An option's symbol has room for six characters of the underlying's."""
    with pytest.raises(ConfigurationError, match="more than the 6 characters"):
        ReplaySource([option_bars(CONTRACTS, "toolong")]).plan()


def test_one_chain_cannot_be_of_two_underlyings(chain, tmp_path):
    """The same bytes under another underlying have no identity of their own."""
    chain(["20140621,95,C,,,,2.5,,,,,,,,"], "abc")
    chain(["20140621,95,C,,,,2.5,,,,,,,,"], "xyz")
    with pytest.raises(ConfigurationError, match="same bytes"):
        ReplaySource([tmp_path]).plan()


@pytest.mark.parametrize(
    ("text", "change", "told"),
    [
        (BARS, ("close: c", "close: c, revision: r"), "bars have no revision"),
        (BARS, ("interval: 1m, ", ""), "interval must be named"),
        (BARS, ("interval: 1m", "interval: 1 minute"), "'1 minute'"),
        (BARS, ("what: TRADES", "what: LAST"), "'LAST'"),
        (BARS, ("what: TRADES", "what: TRADES, open: x"), "open said twice"),
        (BARS, ("what: TRADES", "what: TRADES, volume: x"), "volume is no text"),
        (BARS, ("kind: bars", "kind: bars\nevents: [{columns: {open: o2}}]"), "open said twice"),
        (BARS, ("kind: bars", "kind: bars\nevents: [{columns: {vwap: w}, constants: {what: BID}}]"), "what said twice"),
        (BARS, ("kind: bars", "kind: bars\nevents: [{columns: {trade_count: n}}]"), "trade_count is no number"),
        (BARS, ("kind: bars", "kind: bars\nevents: [{columns: {vwap: o}}]"), "used twice"),
        (BARS, ("kind: bars", "kind: bars\nzero_is_absent: {volume: []}"), "volume is no number here"),
        (BARS, ("kind: bars", "kind: bars\njoined: true"), None),
        (BARS, ("format: csv", "format: [csv, parquet]\njoined: true"), "joined"),
        (BARS, ("{constant: abc}", "{column: s}\njoined: true"), "joined"),
        (BARS, ("columns: {", "contract: {columns: {expiry: e, strike: k, right: r}}\ncolumns: {"), "options"),
        (BARS, ("unit: ms", "unit: day"), "unit day"),
        (BARS, ("{column: t, unit: ms}", "{unit: day}"), "date"),
        (BARS, ("{column: t, unit: ms}", "{unit: ms}"), "column is needed"),
        (CHAIN, ("contract:", "vendor_column: v\ncontract:"), "vendor"),
        (CHAIN, ("{columns: {expiry: e, strike: k, right: r}}", "{}"), "exactly one of columns and path"),
        (CHAIN, (", right: r", ""), "expiry, strike, right are needed"),
        (CHAIN, ("{columns: {expiry: e, strike: k, right: r}}", "{path: '(?P<expiry>.)'}"), "groups named"),
        (CHAIN, ("{columns: {expiry: e, strike: k, right: r}}", "{path: '('}"), "regular expression"),
        (CHAIN, ("right: r}}", "right: r}, underlying_row: true}"), None),
        (CHAIN, ("right: r}}\ncolumns: {last_price: p}", "right: r}, underlying_row: true}\ncolumns: {volume: p}"),
         "last_price"),
        (CHAIN, ("contract: {columns: {expiry: e, strike: k, right: r}}", ""), "options need one"),
        (CHAIN, ("{last_price: p}", "{last_price: p, strike: s}"), "options have no strike"),
    ],
)  # fmt: skip
def test_a_wrong_declaration_says_what_is_wrong(text, change, told):
    """Every mistake in a layout of bars or options is told before a file is read."""
    if told is None:
        parse_layout(text.replace(*change), where="here.yaml")
        return
    with pytest.raises(ConfigurationError, match=r"here\.yaml") as caught:
        parse_layout(text.replace(*change), where="here.yaml")
    assert told in str(caught.value)


@pytest.mark.parametrize(
    ("path", "member", "layout"),
    [
        ("equity/usa/minute/abc/20140606_trade.zip", "20140606_abc_minute_trade.csv", "lean_equity_trade_bars"),
        ("crypto/coinbase/minute/abc/20140606_trade.zip", "20140606_abc_minute_trade.csv", "lean_coinbase_trade_bars"),
        ("equity/usa/tick/abc/20140606_trade.zip", "20140606_abc_Trade_Tick.csv", "lean_equity_trades"),
        ("equity/usa/daily/abc.zip", "abc.csv", "lean_equity_daily_bars"),
        ("forex/fxcm/tick/eurusd/20140606_quote.zip", "20140606_eurusd_tick_quote.csv", "lean_fxcm_quotes"),
        ("forex/oanda/tick/eurusd/20140606_quote.zip", "20140606_eurusd_tick_quote.csv", None),
        ("crypto/bitfinex/minute/abc/20140606_trade.zip", "20140606_abc_minute_trade.csv", None),
    ],
)
def test_folders_tell_files_of_the_same_name_apart(tmp_path, path, member, layout):
    """Files that only their folder tells apart are of one layout each; those of unknown clocks or scales of none."""
    file = zipped(tmp_path / path, {member: []})
    if layout:
        assert detect_layout(file).name == layout
        return
    with pytest.raises(ConfigurationError, match="fits no known layout"):
        detect_layout(file)


@pytest.mark.parametrize(
    ("name", "data", "told"),
    [
        ("test.dbn", b"DBN", "source databento"),
        ("trades.csv.dbn.zst", b"", "source databento"),
        ("test.mbo.v1.dbn.frag", b"", "source databento"),
        ("old.dbz", b"", "source databento"),
        ("book.gz", gzip.compress(b'1723161253937085768 {"stream":"x"}\n', mtime=0), "source captures"),
        ("book.txt", b'1652459225.2987883: {"event":"subscribe"}\n', "source captures"),
        ("book.txt", b"wss://ws.okx.com:8443/ws/v5/public <-> 1652459224.5\n", "source captures"),
        ("book.gz", b"no gzip at all", "fits no known layout"),
    ],
)
def test_files_of_other_sources_are_refused_by_name(tmp_path, name, data, told):
    """A file that another source reads says so, named or in a folder; what is nobody's only fits no layout."""
    path = tmp_path / name
    path.write_bytes(data)
    with pytest.raises(ConfigurationError, match=told):
        ReplaySource([path]).plan()
    with pytest.raises(ConfigurationError, match=told if "source" in told else "any known layout"):
        ReplaySource([tmp_path]).plan()
