"""Recordings that are wrong, through ``mdo replay``: counted rows with their reasons, or one clear message."""

from __future__ import annotations

import gzip
import json
import zipfile

import pytest

from market_data_core.schemas import Flag
from market_data_orchestrator.cli.main import run
from market_data_store.lake import Lake

T0 = 1_700_000_000
HEADER = "vendor,symbol,ts_event,price,size,trade_id"

ISO_LAYOUT = """
name: my_iso
vendor: me
kind: trades
format: csv
files: ["*.csv"]
time: {column: when, unit: iso8601}
symbol: {column: sym}
columns: {price: px, size: qty}
"""


def ns(seconds: float) -> int:
    return int((T0 + seconds) * 1_000_000_000)


def trade(seconds: float, price: object = "10", size: object = "1", name: str = "t") -> str:
    return f"x,AA,{ns(seconds)},{price},{size},{name}"


def write(path, *lines: str):
    path.write_text("".join(f"{line}\n" for line in lines))
    return path


class Replayed:
    """What a replay into a data directory left behind."""

    def __init__(self, folder, capsys) -> None:
        self.folder = folder
        self._capsys = capsys

    def replay(self, path, *options: object) -> dict:
        self._capsys.readouterr()
        arguments = ["replay", str(path), "--data-dir", str(self.folder), "--json", *map(str, options)]
        code = run(arguments)
        return {"code": code, **json.loads(self._capsys.readouterr().out)}

    def rows(self, table: str) -> list[dict]:
        return Lake(self.folder / "lake", "default").read(table).sort_by("seq").to_pylist()

    def audit(self) -> bool:
        self._capsys.readouterr()
        code = run(["audit", "ledger", "--data-dir", str(self.folder), "--json"])
        checks = json.loads(self._capsys.readouterr().out)
        return code == 0 and checks["agrees"]


@pytest.fixture
def data(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("ORCH_TENANT_ID", raising=False)
    return Replayed(tmp_path / "data", capsys)


def test_malformed_rows_are_quarantined_and_the_others_stored(data, tmp_path):
    """Each bad row is kept with line, reason and text; stored and quarantined add up; the ledger agrees."""
    bad = {
        3: (f"x,AA,{ns(1)},abc,1,t", "price"),
        4: (f"x,AA,{ns(2)},10", "expected 6 columns, found 4"),
        5: (f"x,AA,{ns(3)},nan,1,t", "price is not a finite number"),
        6: (f"x,AA,{ns(4)},inf,1,t", "price is not a finite number"),
        7: (f"x,,{ns(5)},10,1,t", "symbol is missing"),
        8: (f"x,AA,{ns(6)},,1,t", "price is missing"),
        9: ("x,AA,yesterday,10,1,t", "ts_event"),
        10: (f"x,AA,{ns(7)},10,1,t,more", "expected 6 columns, found 7"),
    }
    lines = [HEADER, trade(0, name="first"), *(line for line, _ in bad.values()), trade(8, name="last")]
    result = data.replay(write(tmp_path / "a_trades.csv", *lines))
    assert result["code"] == 0
    assert result["result"]["rejected"] == len(bad)
    assert [t["trade_id"] for t in data.rows("trades")] == ["first", "last"]
    found = {row["line"]: row for row in data.rows("quarantine")}
    assert found.keys() == bad.keys()
    for line, (raw, reason) in bad.items():
        assert reason in found[line]["reason"], found[line]
        assert found[line]["raw"] == raw
        assert found[line]["kind"] == "trades"
        assert found[line]["source_id"].startswith("file:")
    assert data.audit()


def test_times_that_no_table_holds_are_quarantined_with_what_they_were(data, tmp_path):
    """Before 1970 or after 2200 a time is an error of units: the row is kept as read, with the reason."""
    path = write(
        tmp_path / "a_trades.csv",
        HEADER,
        trade(0, name="good"),
        "x,AA,-5,10,1,old",
        "x,AA,9000000000000000000,10,1,new",
    )
    assert data.replay(path)["code"] == 0
    assert [t["trade_id"] for t in data.rows("trades")] == ["good"]
    quarantined = data.rows("quarantine")
    assert sorted(json.loads(row["raw"])["trade_id"] for row in quarantined) == ["new", "old"]
    assert all("outside 1970 to 2200" in row["reason"] for row in quarantined)
    assert data.audit()


def test_odd_values_are_stored_and_flagged(data, tmp_path):
    """Possible but odd: stored, each with its own bit, and nothing quarantined."""
    path = write(
        tmp_path / "a_trades.csv",
        HEADER,
        trade(10, name="plain"),
        trade(11, price=-37.63, name="negative"),
        trade(12, size=0, name="no size"),
        trade(5, name="back"),
        trade(10 * 365 * 86_400, name="future"),
        trade(13, name="after"),
    )
    assert data.replay(path)["code"] == 0
    assert {t["trade_id"]: Flag(t["flags"]) for t in data.rows("trades")} == {
        "plain": Flag(0),
        "negative": Flag.NEGATIVE_PRICE,
        "no size": Flag.ZERO_SIZE,
        "back": Flag.TS_EVENT_BACK,
        "future": Flag.TS_EVENT_FUTURE,
        "after": Flag(0),
    }
    assert data.rows("quarantine") == []
    assert data.audit()


def test_flags_can_be_asked_for_by_bit(data, tmp_path, capsys):
    """The documented way to find flagged rows finds them, in quotes too."""
    path = write(
        tmp_path / "a_quotes.csv",
        "vendor,symbol,ts_event,bid_price,bid_size,ask_price,ask_size",
        f"x,AA,{ns(0)},10,1,11,1",
        f"x,AA,{ns(1)},12,1,11,1",
        f"x,AA,{ns(2)},,,11,1",
        f"x,AA,{ns(3)},-1,1,11,1",
    )
    assert data.replay(path)["code"] == 0
    capsys.readouterr()
    sql = "select ts_event, flags & 2048 <> 0 as crossed, flags & 4096 <> 0 as negative from quotes order by seq"
    assert run(["query", sql, "--json", "--data-dir", str(data.folder)]) == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert [(r["crossed"], r["negative"]) for r in rows] == [
        (False, False),
        (True, False),
        (False, False),
        (False, True),
    ]
    assert Flag.CROSSED == 2048
    assert Flag.NEGATIVE_PRICE == 4096


def test_times_of_mixed_zones_become_utc_or_are_quarantined(data, tmp_path):
    """Each time goes by its own offset; one without, where the layout names no zone, is not guessed."""
    layout = tmp_path / "my.yaml"
    layout.write_text(ISO_LAYOUT)
    path = write(
        tmp_path / "mixed.csv",
        "when,sym,px,qty",
        "2024-01-02T10:00:00Z,A,1,1",
        "2024-01-02 11:00:01+01:00,A,2,1",
        "2024-01-02T05:00:02-05:00,A,3,1",
        "2024-01-02T10:00:03,A,4,1",
        "2024-13-02T10:00:04Z,A,5,1",
        "soon,A,6,1",
    )
    assert data.replay(path, "--layout", layout)["code"] == 0
    ten_ns = 1_704_189_600_000_000_000
    assert [(t["ts_event"] - ten_ns, t["price"]) for t in data.rows("trades")] == [
        (0, 1.0),
        (1_000_000_000, 2.0),
        (2_000_000_000, 3.0),
    ]
    reasons = {row["line"]: row["reason"] for row in data.rows("quarantine")}
    assert "no zone" in reasons[5]
    assert "not ISO 8601" in reasons[6]
    assert "not ISO 8601" in reasons[7]
    assert data.audit()


def test_bad_rows_of_a_packaged_vendor_layout_are_quarantined(data, tmp_path):
    """Lean's zipped ticks: scaled prices and local times of the good rows, line and text of the others."""
    folder = tmp_path / "spy"
    folder.mkdir()
    with zipfile.ZipFile(folder / "20240102_trade.zip", "w") as archive:
        rows = ["34200000,4721600,100,P,,0", "34200001,oops,100,P,,0", "34200002,4721700", "34200003,4721800,7,P,,1"]
        archive.writestr("20240102_spy_Trade_Tick.csv", "\n".join(rows) + "\n")
    assert data.replay(folder)["code"] == 0
    half_past_nine_ns = 1_704_205_800_000_000_000
    assert [(t["symbol"], t["ts_event"] - half_past_nine_ns, t["price"], t["flags"]) for t in data.rows("trades")] == [
        ("SPY", 0, 472.16, 0),
        ("SPY", 3_000_000, 472.18, int(Flag.SUSPICIOUS)),
    ]
    assert [(row["line"], row["raw"]) for row in data.rows("quarantine")] == [
        (2, "34200001,oops,100,P,,0"),
        (3, "34200002,4721700"),
    ]
    assert data.audit()


def test_bad_lines_of_json_are_quarantined(data, tmp_path):
    """NDJSON: what is no object, has wrong types or is cut off is kept as it stands."""
    good = {"vendor": "x", "symbol": "AA", "ts_event": ns(0), "price": 10.5, "size": 1}
    path = write(
        tmp_path / "a_trades.ndjson",
        json.dumps(good),
        json.dumps({**good, "price": "ten"}),
        "null",
        '{"vendor": "x", "symbol"',
        json.dumps({**good, "ts_event": ns(1)}),
    )
    assert data.replay(path)["code"] == 0
    assert len(data.rows("trades")) == 2
    assert [row["line"] for row in data.rows("quarantine")] == [2, 3, 4]
    assert data.audit()


@pytest.mark.parametrize("lines", [[], [HEADER]], ids=["no byte", "a header alone"])
def test_an_empty_file_is_no_error(lines, data, tmp_path):
    """Nothing in it, nothing stored, and it is counted as a file."""
    result = data.replay(write(tmp_path / "a_trades.csv", *lines))
    assert result["code"] == 0
    assert result["result"]["files_empty"] == 1
    assert result["result"]["events"] == 0


@pytest.mark.parametrize("rows", [3, 500])
def test_a_file_of_another_layout_is_refused_with_what_was_found(rows, data, tmp_path):
    """Every row with wrong columns is a wrong file, not bad rows: its name, a line, expected and found; none taken."""
    result = data.replay(write(tmp_path / "a_trades.csv", HEADER, *["a,b,c"] * rows))
    assert result["code"] == 2
    assert str(tmp_path / "a_trades.csv") in result["error"]
    assert "3 columns in line 2: 'a,b,c'" in result["error"]
    assert data.rows("quarantine") == []


def test_a_header_without_a_needed_column_is_refused(data, tmp_path):
    """The message names the file, the column, and those there are."""
    result = data.replay(write(tmp_path / "a_trades.csv", "vendor,symbol,ts_event,px,size", f"x,AA,{ns(0)},1,1"))
    assert result["code"] == 2
    assert "a_trades.csv has no column 'price'" in result["error"]
    assert "px" in result["error"]


def test_a_file_of_no_known_layout_is_refused_with_those_there_are(data, tmp_path):
    """Named alone, a file that nothing fits is an error that lists the layouts."""
    result = data.replay(write(tmp_path / "something.csv", HEADER, trade(0)))
    assert result["code"] == 2
    assert "platform_trades" in result["error"]
    assert "lean_equity_quotes" in result["error"]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("name: my_iso\nvendor: me\nkind: trades\n", "time: Field required"),
        (ISO_LAYOUT.replace("unit: iso8601", "unit: fortnights"), "time.unit"),
        (ISO_LAYOUT.replace("price: px", "prise: px"), "prise"),
        ("[not closed", "is not YAML"),
    ],
    ids=["fields missing", "unknown unit", "unknown column", "no yaml"],
)
def test_a_wrong_layout_file_is_refused_with_its_fields(text, says, data, tmp_path):
    """Every field that is wrong is named, and the file."""
    layout = tmp_path / "my.yaml"
    layout.write_text(text)
    result = data.replay(write(tmp_path / "a.csv", "when,sym,px,qty"), "--layout", layout)
    assert result["code"] == 2
    assert str(layout) in result["error"]
    assert says in result["error"]


def test_an_unknown_layout_is_refused_with_those_there_are(data, tmp_path):
    """A name that is no layout and no file."""
    result = data.replay(write(tmp_path / "a_trades.csv", HEADER), "--layout", "nobodys")
    assert result["code"] == 2
    assert "nobodys" in result["error"]
    assert "platform_trades" in result["error"]


@pytest.mark.parametrize("name", ["gone_trades.csv", "gone/*_trades.csv"])
def test_a_path_with_nothing_there_is_refused(name, data, tmp_path):
    """The path is named, with the folder it was looked for in."""
    result = data.replay(tmp_path / name)
    assert result["code"] == 2
    assert str(tmp_path / name) in result["error"]


def test_a_folder_without_recordings_is_refused(data, tmp_path):
    """A folder in which nothing fits a layout is no success."""
    (tmp_path / "empty").mkdir()
    write(tmp_path / "empty" / "readme.txt", "nothing here")
    result = data.replay(tmp_path / "empty")
    assert result["code"] == 2
    assert str(tmp_path / "empty") in result["error"]


def test_a_damaged_zip_is_an_error_that_names_it(data, tmp_path):
    """Not wrong use but a wrong file: code 1."""
    path = tmp_path / "layouts" / "20240102_trade.zip"
    path.parent.mkdir()
    path.write_bytes(b"PK\x03\x04 and then nothing that makes sense")
    result = data.replay(path)
    assert result["code"] == 1
    assert f"{path} cannot be read" in result["error"]


def test_a_file_that_breaks_off_is_an_error_and_what_was_read_of_it_is_accounted_for(data, tmp_path):
    """A cut .gz fails with its name; rows before the cut are stored in order, each once, and accounts agree."""
    lines = [HEADER, *(trade(i / 10, price=i, name=f"t{i}") for i in range(20_000))]
    whole = gzip.compress("".join(f"{line}\n" for line in lines).encode())
    path = tmp_path / "a_trades.csv.gz"
    path.write_bytes(whole[:-500])
    result = data.replay(path)
    assert result["code"] == 1
    assert "a_trades.csv.gz cannot be read, it may be damaged" in result["error"]
    # The failure is the job's end, not the store's: the next job finds everything in order and stores what is left.
    assert data.replay(write(tmp_path / "b_trades.csv", HEADER, trade(3000, name="b")))["code"] == 0
    names = [t["trade_id"] for t in data.rows("trades")]
    assert names == [*(f"t{i}" for i in range(len(names) - 1)), "b"]
    assert 1 < len(names) < 20_001
    assert data.audit()


def test_one_bad_file_does_not_harm_what_other_replays_stored(data, tmp_path):
    """After a failed job the next one runs, and all accounts still agree."""
    assert data.replay(write(tmp_path / "a_trades.csv", HEADER, trade(0, name="a")))["code"] == 0
    assert data.replay(write(tmp_path / "b_trades.csv", HEADER, *["a,b,c"] * 5))["code"] == 2
    assert data.replay(write(tmp_path / "c_trades.csv", HEADER, trade(1, name="c")))["code"] == 0
    assert [t["trade_id"] for t in data.rows("trades")] == ["a", "c"]
    assert data.audit()
