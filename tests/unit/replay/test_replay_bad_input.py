"""Bad rows and bad files."""

from __future__ import annotations

import gzip
import json
import os
import zipfile

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from market_data_core.errors import SourceError
from market_data_core.schemas import Flag, Kind
from market_data_pipeline.source.replay import ReplaySource, load_layout

GOOD = "T,A,{},1.5,10"


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ("T,A,2000,1.5", "expected 5 columns, found 4"),
        ("T,A,2000,1.5,10,11", "expected 5 columns, found 6"),
        ("T,A,2000,abc,10", "column price: double: invalid value 'abc'"),
        ("T,A,2000,1.5,1_0", "column size"),
        ("T,A,2000,nan,10", "price is not a finite number"),
        ("T,A,2000,1.5,NaN", "size is not a finite number"),
        ("T,A,2000,inf,10", "price is not a finite number"),
        ("T,A,2000,1e999,10", "price is not a finite number"),
        ("T,A,2000,,10", "price is missing"),
        ("T,A,2000,1.5,", "size is missing"),
        ("T,A,,1.5,10", "time is missing"),
        ("T,A,99999999999999999999,1.5,10", "column ts_event"),
        ("T,A,9223372036854775807,1.5,10", "time is outside"),
        ("T,A,20.5,1.5,10", "column ts_event"),
        ("T,,2000,1.5,10", "symbol is missing"),
        ("T,  ,2000,1.5,10", "symbol is missing"),
        ('T,"A,2000,1.5,10', "a quote that does not end"),
        ("   ", "expected 5 columns, found 1"),
        ("T,A,2000\r,1.5,10", "carriage return"),
        ("\x00,A,2000,\x00,10", "column price"),
    ],
)
async def test_a_bad_row_is_quarantined_in_place(trades_csv, replay, row, reason):
    """A row that cannot be read goes to quarantine between its neighbours, with its line, text and reason."""
    given = await replay(trades_csv([GOOD.format(1000), row, GOOD.format(3000)]))
    assert [b.kind for b in given.batches] == [Kind.TRADES, Kind.QUARANTINE, Kind.TRADES]
    assert [b.offset for b in given.batches] == [1, 2, 3]
    ((_, vendor, symbol, _, bad),) = given.rows(Kind.QUARANTINE)
    assert (vendor, symbol, bad["line"], bad["kind"]) == ("platform", "?", 3, "trades")
    assert (bad["raw"], bad["source_id"]) == (row, given.batches[0].source_id)
    assert reason in bad["reason"]
    assert (bad["ts_event"], bad["flags"]) == (1000, Flag.TS_EVENT_SYNTHETIC)
    assert given.marks[0].offset == 4


async def test_bytes_that_are_no_text_are_quarantined(tmp_path, replay):
    """A row whose texts are not UTF-8 is quarantined; what can be shown of it is."""
    path = tmp_path / "trades.csv"
    path.write_bytes(b"vendor,symbol,ts_event,price,size\nT,A,1,1,1\nT,\xff\xfe,2,1,1\n")
    given = await replay(path)
    assert [line for line, _ in given.quarantine] == [3]


async def test_what_is_kept_of_a_row_is_bounded(trades_csv, replay):
    """At most 500 characters of a bad row are kept."""
    given = await replay(trades_csv([GOOD.format(1), "x" * 100_000]))
    assert [len(raw) for (raw,) in given.values(Kind.QUARANTINE, "raw")] == [500]


async def test_odd_values_are_not_this_steps_business(trades_csv, replay):
    """Negative prices, sizes of 0, times that go back and times far ahead are passed on as they stand."""
    rows = ["T,A,5000,-1.5,0", "T,A,1000,0,-3", f"T,A,{9 * 10**18},1,1", "T,A,-5,1,1"]
    given = await replay(trades_csv(rows))
    assert given.quarantine == []
    assert given.values(Kind.TRADES, "ts_event", "price", "size") == [
        (5000, -1.5, 0.0),
        (1000, 0.0, -3.0),
        (9 * 10**18, 1.0, 1.0),
        (-5, 1.0, 1.0),
    ]


async def test_empty_lines_are_no_rows(trades_csv, replay):
    """Lines without anything are not counted as rows, but as lines they are."""
    given = await replay(trades_csv([GOOD.format(1), "", "bad", "\r", GOOD.format(2), ""]))
    assert [b.offset for b in given.batches] == [1, 2, 3]
    assert given.quarantine == [(4, "expected 5 columns, found 1")]


@pytest.mark.parametrize("text", ["", "vendor,symbol,ts_event,price,size\n", "vendor,symbol,ts_event,price,size"])
async def test_an_empty_file_gives_nothing(tmp_path, text):
    """A file without rows is no error; it is counted."""
    path = tmp_path / "trades.csv"
    path.write_text(text)
    source = ReplaySource([path])
    assert [item async for item in source.batches({})] == []
    assert (source.progress.files_empty, source.progress.files_done) == (1, 1)


async def test_empty_files_of_two_symbols_are_no_conflict(lean_file, tmp_path, replay):
    """Empty files have the same content, and that is fine."""
    for symbol in ("abc", "xyz"):
        path = tmp_path / symbol / "20131007_trade.zip"
        lean_file("trade", [], symbol=symbol, name="20131007_Trade_Tick.csv")
        os.utime(path)
    given = await replay(tmp_path)
    assert (given.batches, given.marks) == ([], [])


async def test_a_file_of_wrong_columns_is_refused(lean_file, replay):
    """If no row has the right number of columns, the layout is wrong: the error shows expected and found."""
    path = lean_file("trade", ["34200000,100000,5"] * 3)
    with pytest.raises(SourceError, match=r"abc.*expected columns time_ms, price, size.*found 3 columns in line 1"):
        await replay(path)


async def test_a_file_of_nothing_but_bad_rows_is_refused(trades_csv, replay):
    """A hundred bad rows and none good before them are a wrong layout, and none of them has been given."""
    source = ReplaySource([trades_csv(["T,A,noon,1,1"] * 200 + [GOOD.format(1)])])
    given = []
    with pytest.raises(SourceError, match="each of its first"):
        given.extend([item async for item in source.batches({})])
    assert given == []
    few = await replay(trades_csv(["T,A,noon,1,1"] * 99 + [GOOD.format(1)]))
    assert (len(few.quarantine), few.values(Kind.QUARANTINE, "ts_event")[0]) == (99, (0,))
    assert few.batches[0].offset == 99


@pytest.mark.parametrize("header", ["vendor,symbol,ts_event,price", "vendor,symbol,ts_event,price,size,size"])
async def test_a_header_without_a_needed_column_is_refused(trades_csv, replay, header):
    """Missing or doubled columns are named, with those that were found."""
    with pytest.raises(SourceError, match=r"'size'.*found vendor, symbol"):
        await replay(trades_csv([GOOD.format(1)], header=header))


async def test_text_without_lines_is_refused(tmp_path, replay):
    """A file without line ends is not read into memory whole."""
    path = tmp_path / "trades.csv"
    path.write_bytes(b"\xde\xad\xbe\xef" * (5 << 20))
    with pytest.raises(SourceError, match="line of more than"):
        await replay(path)


ROWS = "".join(f"T,A,{i},1.5,{i * 7919 % 1000}\n" for i in range(60_000))
WHOLE = f"vendor,symbol,ts_event,price,size\n{ROWS}".encode()


async def test_what_comes_before_damage_stands(packed):
    """A truncated file gives its first rows, then an error that names it."""
    cut = packed("gz", "trades.csv", WHOLE)
    cut.write_bytes(cut.read_bytes()[:-5000])
    rows = []
    with pytest.raises(SourceError, match=r"trades\.csv\.gz"):
        await count_into(ReplaySource([cut]), rows)
    assert sum(rows) > 1000


async def count_into(source, rows):
    async for item in source.batches({}):
        rows.append(item.data.num_rows)


async def test_a_garbled_zip_member_is_named(packed, replay):
    """Damage inside a zip is told with the member's name."""
    garbled = packed("zip", "trades.csv", WHOLE)
    content = bytearray(garbled.read_bytes())
    content[-5000:-4950] = b"\xff" * 50
    garbled.write_bytes(content)
    with pytest.raises(SourceError, match=r"trades\.zip/trades\.csv"):
        await replay(garbled)


@pytest.mark.parametrize("name", ["20131007_trade.zip", "trades.parquet", "quotes.csv.gz"])
async def test_a_file_that_is_not_what_its_name_says(tmp_path, replay, name):
    """A file of another content than its name says is an error that names it."""
    path = tmp_path / name
    path.write_bytes(b"PAR1 PK but no more")
    with pytest.raises(SourceError, match=name):
        await replay(path)


async def test_an_encrypted_zip_is_named(lean_file, replay):
    """A member that needs a password is an error that says so."""
    path = lean_file("trade", ["1000,10000,1,Q,0,0"])
    raw = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as z:
        raw[z.infolist()[0].header_offset + 6] |= 1
    raw[raw.index(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(raw)
    with pytest.raises(SourceError, match="encrypted"):
        await replay(path)


async def test_a_file_that_changes_is_refused(trades_csv):
    """Bytes that are not those that were hashed are not given under their name."""
    path = trades_csv([GOOD.format(1)])
    source = ReplaySource([path])
    source.plan()
    os.utime(path, ns=(1, 1))
    with pytest.raises(SourceError, match="changed"):
        assert [item async for item in source.batches({})]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("null", "not a JSON object"),
        ("[1]", "not a JSON object"),
        ('{"symbol": "A"', "not JSON"),
        ('{"symbol":"A","ts_event":1,"price":1,"size":1}{"symbol":"A"}', "not JSON"),
        ('{"symbol":"A","ts_event":1.5,"price":1,"size":1}', "ts_event"),
        ('{"symbol":"A","ts_event":true,"price":1,"size":1}', "ts_event"),
        ('{"symbol":"A","ts_event":1,"price":"1","size":1}', "price"),
        ('{"symbol":"A","ts_event":1,"price":true,"size":1}', "price"),
        ('{"symbol":"A","ts_event":1,"price":NaN,"size":1}', "not JSON"),
        ('{"symbol":"A","ts_event":1,"price":{},"size":1}', "price"),
        ('{"symbol":5,"ts_event":1,"price":1,"size":1}', "symbol"),
        ('{"symbol":"A","ts_event":18446744073709551615,"price":1,"size":1}', "ts_event"),
        ('{"ts_event":1,"price":1,"size":1}', "symbol is missing"),
        ('{"symbol":"A","ts_event":1,"price":1}', "size is missing"),
        ("[" * 5000, "not JSON"),
    ],
)
async def test_a_bad_json_line_is_quarantined(tmp_path, replay, line, reason):
    """Each line stands for itself; none brings the others or the process down."""
    good = '{"symbol":"a","ts_event":%d,"price":1,"size":2.5,"extra":[1]}'
    path = tmp_path / "trades.ndjson"
    path.write_text("\n".join([good % 1, line, good % 3]))
    given = await replay(path)
    assert given.values(Kind.TRADES, "ts_event", "price", "size") == [(1, 1.0, 2.5), (3, 1.0, 2.5)]
    assert given.symbols == ["A", "A"]
    ((at, why),) = given.quarantine
    assert at == 2
    assert reason in why


async def test_bad_parquet_rows_and_columns(tmp_path, replay):
    """Values that are none are quarantined row by row; a column of another type is the file's fault."""
    path = tmp_path / "trades.parquet"
    columns = {"vendor": ["T"] * 3, "symbol": ["a"] * 3, "ts_event": [1, None, 3], "size": [1, 2, 3]}
    pq.write_table(pa.table({**columns, "price": [1.0, 2.0, float("nan")]}), path)
    given = await replay(path)
    assert given.quarantine == [(2, "time is missing"), (3, "price is not a finite number")]
    pq.write_table(pa.table({**columns, "price": ["1", "2", "3"]}), path)
    with pytest.raises(SourceError, match=r"column price is string"):
        await replay(path)
    pq.write_table(pa.table({**columns, "price": [1, 2, 3], "symbol": [1, 2, 3]}), path)
    with pytest.raises(SourceError, match=r"column symbol is int64"):
        await replay(path)
    pq.write_table(pa.table({**columns, "price": [1, 2, 3], "symbol": ["a", None, ""]}), path)
    assert (await replay(path)).quarantine == [(2, "time is missing"), (3, "symbol is missing")]
    pq.write_table(pa.table(columns), path)
    with pytest.raises(SourceError, match=r"no column 'price'.*found vendor, symbol"):
        await replay(path)


async def test_iso_times_without_a_zone(tmp_path, replay):
    """A layout without a zone quarantines naive times; one with a zone places them; offsets stand for themselves."""
    text = "ts,price,size\n2014-05-02T12:00:00+02:00,1,1\n2014-05-02T12:00:00,2,1\n2014-05-02 noon,3,1\n"
    path = tmp_path / "mine.csv"
    path.write_text(text)
    layout = load_layout("platform_trades").model_dump(mode="json", exclude={"vendor_column"})
    layout |= {"symbol": {"constant": "abc"}, "columns": {"price": "price", "size": "size"}, "optional": []}
    times = {}
    for zone in (None, "America/New_York"):
        layout["time"] = {"column": "ts", "unit": "iso8601", "zone": zone}
        yaml = tmp_path / "layout.yaml"
        yaml.write_text(json.dumps(layout))
        given = await replay(path, layout=yaml)
        times[zone] = [t for (t,) in given.values(Kind.TRADES, "ts_event")]
        assert [line for line, _ in given.quarantine] == ([3, 4] if zone is None else [4])
    ten_utc = 1_399_024_800 * 10**9
    assert times == {None: [ten_utc], "America/New_York": [ten_utc, ten_utc + 6 * 3_600 * 10**9]}


async def test_many_bad_rows_among_good_ones(packed, replay):
    """However many rows are bad, each is told and no good one is lost."""
    lines = [GOOD.format(i) if i % 10 else f"T,A,{i},bad,1" for i in range(1, 3001)]
    text = "vendor,symbol,ts_event,price,size\n" + "\n".join(lines)
    given = await replay(packed("gz", "trades.csv", text.encode()))
    assert [t for (t,) in given.values(Kind.TRADES, "ts_event")] == [i for i in range(1, 3001) if i % 10]
    assert [line for line, _ in given.quarantine] == [i + 1 for i in range(10, 3001, 10)]
    assert gzip.decompress(packed("gz", "x.csv", text.encode()).read_bytes()) == text.encode()
