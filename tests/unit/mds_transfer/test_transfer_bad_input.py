"""A file that cannot be taken changes nothing, and the error says which line and which field."""

from __future__ import annotations

import gzip
import io
import json
import os

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from transfer_rows import START_NS, put, trades

from market_data_core.errors import ConfigurationError, SchemaValidationError, TemporaryUnavailable
from market_data_store import open_backend
from mds_client.transfer import Digest, dump, restore

HEADER = "vendor,symbol,ts_event,ts_recv,seq,flags,price,conditions\n"
GOOD = f"x,AAPL,{START_NS},{START_NS},1,0,1.5,\n"


@pytest.fixture
def lake(tmp_path):
    return open_backend(str(tmp_path / "lake"), "acme")


@pytest.fixture
def refused(lake, tmp_path):
    """Restore what cannot be; gives the error, after a look that nothing was stored."""

    def call(name, content, table="trades"):
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        with pytest.raises(SchemaValidationError) as caught:
            restore(lake, table, path)
        assert lake.written() == frozenset()
        assert str(path) in str(caught.value)
        return caught.value

    return call


CSV = {
    "no number": (f"x,AAPL,{START_NS},{START_NS},2,0,abc,\n", 4, "price"),
    "no whole number": (f"x,AAPL,{START_NS},{START_NS},2.5,0,1,\n", 4, "seq"),
    "more than 32 bits": (f"x,AAPL,{START_NS},{START_NS},2,9999999999,1,\n", 4, "flags"),
    "more than 64 bits": (f"x,AAPL,{'9' * 25},{START_NS},2,0,1,\n", 4, "ts_event"),
    "time without an offset": (f"x,AAPL,2024-01-02T03:04:05,{START_NS},2,0,1,\n", 4, "ts_event"),
    "nothing where something has to be": (f"x,AAPL,,{START_NS},2,0,1,\n", 4, "ts_event"),
    "NaN": (f"x,AAPL,{START_NS},{START_NS},2,0,nan,\n", 4, "price"),
    "too few fields": ("x,AAPL\n", 4, None),
    "too many fields": (GOOD.strip() + ",,,,\n", 4, None),
    "a quote without an end": ('x,"AAPL,1,2\n', 4, None),
    "no UTF-8": (b"x,\xff\xfe,%d,%d,2,0,1,\n" % (START_NS, START_NS), 4, "symbol"),
}


@pytest.mark.parametrize("bad", CSV, ids=list(CSV))
def test_a_bad_line_of_csv_is_named(bad, refused):
    """Line and field are those an editor shows, line ends within values and empty lines included."""
    line, number, field = CSV[bad]
    line = line if isinstance(line, bytes) else line.encode()
    exc = refused("bad.csv", HEADER.encode() + GOOD.encode() + GOOD.encode() + line + GOOD.encode())
    assert exc.details.get("line") == number
    assert exc.details.get("field") == field
    assert f"line {number}" in str(exc)
    before = b"\n" + GOOD.replace("1.5,", '1.5,"two\nlines"').encode()
    exc = refused("bad.csv", HEADER.encode() + before + line)
    assert exc.details["line"] == 5


def test_lines_are_counted_across_blocks(refused):
    """A bad line far behind, after megabytes with line ends in values, still has its number."""
    value = "v\n" * 3 + "w" * 60
    rows = f'x,AAPL,{START_NS},{START_NS},1,0,1,"{value}"\n' * 120_000
    bad = f"x,AAPL,{START_NS},{START_NS},1,0,what,\n"
    assert refused("long.csv", HEADER + rows + bad).details == {"line": 2 + 4 * 120_000, "field": "price"}
    short = "x,AAPL\n"
    assert refused("long.csv", HEADER + rows + short + rows).details == {"line": 2 + 4 * 120_000}


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("", "no header"),
        ("vendor,symbol,pice\nx,y,1\n", "no column 'pice'"),
        ("vendor,vendor\nx,y\n", "twice"),
        (b"\xff\xfev\x00e\x00\n", "UTF-8"),
        (b"PAR1 and more\n", "no column"),
    ],
)
def test_a_bad_header_is_named(content, says, refused):
    """A file of another kind, or with columns that the table does not have, is told from its first line."""
    assert says in str(refused("bad.csv", content))


NDJSON = {
    "no JSON": (b'{"vendor": "x"', None),
    "no object": (b"[1, 2]", None),
    "unknown field": (b'{"vendor": "x", "pice": 1}', "pice"),
    "text for a number": (b'{"price": "abc"}', "price"),
    "fraction for a whole number": (b'{"seq": 1.5}', "seq"),
    "number for a text": (b'{"symbol": 5}', "symbol"),
    "truth for a number": (b'{"price": true}', "price"),
    "more than 32 bits": (b'{"flags": 2147483648}', "flags"),
    "more than 64 bits": (b'{"seq": 9223372036854775808}', "seq"),
    "time without an offset": (b'{"ts_event": "2024-01-02T03:04:05"}', "ts_event"),
    "nothing where something has to be": (b"{}", "ts_event"),
    "half a surrogate pair": (b'{"symbol": "\\ud800"}', None),
    "no UTF-8": (b'{"symbol": "\xff"}', None),
}


@pytest.mark.parametrize("bad", NDJSON, ids=list(NDJSON))
def test_a_bad_line_of_ndjson_is_named(bad, refused):
    """Line and field are named, empty lines counted."""
    line, field = NDJSON[bad]
    good = json.dumps({"symbol": "A", "ts_event": 1, "ts_recv": 1, "seq": 1}).encode()
    exc = refused("bad.ndjson", b"\n".join([good, b"", good, line, good, b""]))
    assert exc.details.get("line") == 4
    assert exc.details.get("field") == field


def test_infinities_and_times_are_understood_in_ndjson(lake, tmp_path):
    """What JSON has no numbers for is said in words, times in ISO 8601 to the nanosecond."""
    line = {"symbol": "A", "ts_event": "2024-01-02T14:30:00.123456789Z", "ts_recv": 1, "seq": 1, "price": "-Infinity"}
    (tmp_path / "a.ndjson").write_text(json.dumps(line) + "\n")
    plain = {**line, "ts_event": 1_704_205_800_123_456_789}
    (tmp_path / "b.ndjson").write_text(json.dumps(plain))
    assert (
        restore(lake, "trades", tmp_path / "a.ndjson").digest == restore(lake, "trades", tmp_path / "b.ndjson").digest
    )


def _parquet(**columns):
    out = io.BytesIO()
    pq.write_table(pa.table(columns), out)
    return out.getvalue()


@pytest.mark.parametrize(
    ("content", "details"),
    [
        (b"not parquet at all", {}),
        (b"", {}),
        (_parquet(ts_event=[1], pice=[2]), {"field": "pice"}),
        (_parquet(ts_event=[1, None], ts_recv=[1, 1], seq=[1, 1]), {"row": 2, "field": "ts_event"}),
        (
            _parquet(ts_event=[1, 1], ts_recv=[1, 1], seq=[1, 1], price=[1.0, float("nan")]),
            {"row": 2, "field": "price"},
        ),
        (_parquet(ts_event=[1, 2], flags=[1, 2**40]), {"row": 2, "field": "flags"}),
        (_parquet(ts_event=[1], symbol=[7]), {"row": 1, "field": "symbol"}),
        (_parquet(ts_event=[1], seq=[1.5]), {"row": 1, "field": "seq"}),
        (_parquet(ts_event=pa.array([1], pa.timestamp("us"))), {"row": 1, "field": "ts_event"}),
    ],
)
def test_bad_parquet_is_named(content, details, refused):
    """Parquet has rows instead of lines; they are named as exactly."""
    assert refused("bad.parquet", content).details == details


@pytest.mark.parametrize("name", ["a.csv.gz", "a.ndjson.gz"])
def test_damaged_compression_is_an_error(name, refused, tmp_path):
    """A file cut off or changed in the middle is no shorter file."""
    content = (HEADER + GOOD * 5000).encode() if "csv" in name else b'{"ts_event":1,"ts_recv":1,"seq":1}\n' * 5000
    packed = gzip.compress(content)
    assert "damaged or cut off" in str(refused(name, packed[:-20]))
    assert "damaged or cut off" in str(refused(name, packed[:-8] + b"\0" * 8))


def test_wrong_use_is_told(lake, tmp_path):
    """Tables, formats, files and folders that are not there are wrong use, not bad data."""
    for call in (
        lambda: dump(lake, "nothing; DROP TABLE x", tmp_path / "a.csv"),
        lambda: dump(lake, "trades", tmp_path / "a.xls"),
        lambda: dump(lake, "trades", tmp_path / "a.csv", format="xml"),
        lambda: dump(lake, "trades", tmp_path / "none" / "a.csv"),
        lambda: dump(lake, "trades", tmp_path, format="csv"),
        lambda: dump(lake, "trades", tmp_path / "a.parquet.gz"),
        lambda: restore(lake, "trades", tmp_path / "none.csv"),
        lambda: restore(lake, "trades", tmp_path, format="csv"),
    ):
        with pytest.raises(ConfigurationError):
            call()
    assert sorted(p.name for p in tmp_path.iterdir()) in ([], ["lake"])


def test_a_dump_that_fails_leaves_the_old_file(store, tmp_path):
    """The name belongs to whole files: a full disk leaves what was there and nothing beside it."""
    put(store, "trades", trades(10))
    folder = tmp_path / "out"
    folder.mkdir()
    (folder / "a.csv").write_text("old")

    class Full(Exception):
        pass

    def stop(done, of):
        raise Full

    with pytest.raises(Full):
        dump(store, "trades", folder / "a.csv", progress=stop)
    assert [p.name for p in folder.iterdir()] == ["a.csv"]
    assert (folder / "a.csv").read_text() == "old"


def test_a_device_is_written_to_and_not_replaced(lake):
    """What is no plain file keeps its nature; one that is full says so."""
    dump(lake, "trades", "/dev/null", format="csv")
    assert not os.path.isfile("/dev/null")  # noqa: PTH113
    with pytest.raises(TemporaryUnavailable, match="/dev/full"):
        dump(lake, "trades", "/dev/full", format="csv")


def test_the_digest_of_nothing_is_nothing():
    """No rows, no digits but 0."""
    assert Digest().hexdigest() == "0" * 32
