"""The command line by itself: help, exit codes, output for people and for machines, proofs and checks."""

from __future__ import annotations

import csv
import json
import re
import shutil
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from deltalake import DeltaTable

from market_data_core import __version__
from market_data_orchestrator.cli.main import run
from market_data_pipeline.log.segments import list_segments
from support.service import free_port

COMMANDS = (["up"], ["replay"], ["query"], ["status"], ["doctor"], ["audit"], ["audit", "ledger"])
START_NS = 1_700_000_000_000_000_000
ROWS = 40


@pytest.fixture(autouse=True)
def _surroundings(monkeypatch, tmp_path):
    # Neither settings of the machine nor a .env beside the tests may decide what is tested.
    for name in ("ORCH_DATA_DIR", "ORCH_URL", "ORCH_PROVIDER", "ORCH_TENANT_ID"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("ORCH_HEALTH_PORT", str(free_port()))
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    """A data directory with 40 trades of two symbols, replayed."""
    folder = tmp_path_factory.mktemp("cli")
    lines = ["vendor,symbol,ts_event,price,size,trade_id"]
    lines += [f"x,{'AB'[i % 2] * 2},{START_NS + i * 1_000_000_000},{100 + i / 4},{i + 1},t{i}" for i in range(ROWS)]
    (folder / "day_trades.csv").write_text("\n".join(lines) + "\n")
    assert run(["replay", str(folder / "day_trades.csv"), "--data-dir", str(folder / "data")]) == 0
    return folder / "data"


@pytest.fixture
def copied(stored, tmp_path):
    """A copy of the stored data that a test may damage."""
    return Path(shutil.copytree(stored, tmp_path / "data"))


@pytest.fixture
def said(capsys):
    """Runs a command line; gives its exit code, standard output and standard error."""

    def call(*arguments: object) -> tuple[int, str, str]:
        capsys.readouterr()
        code = run([str(a) for a in arguments])
        out, err = capsys.readouterr()
        return code, out, err

    return call


def words(text: str) -> str:
    return " ".join(re.sub(r"[│╭╮╰╯─]", " ", text).split())


@pytest.mark.parametrize("name", COMMANDS, ids=" ".join)
def test_help_of_every_command_teaches(name, said):
    """Help says in a sentence what the command does, and explains each option."""
    code, out, _ = said(*name, "--help")
    assert code == 0
    text = words(out)
    usage = "Usage: mdo " + " ".join(name)
    assert usage in text
    assert re.search(r"[A-Z][^.:]{20,}[.:]", text.partition("]")[2] or text), text
    if name in (["replay"], ["query"]):
        assert f"Example: mdo {name[0]} " in text


def test_help_of_the_whole_says_where_to_begin(said):
    """The first page names every command and the first one to try; no command is an error that shows them."""
    code, out, _ = said("--help")
    assert code == 0
    assert "Start with mdo up" in words(out)
    assert all(f" {name[0]} " in words(out) for name in COMMANDS)
    for nothing, shown in (([], "replay"), (["audit"], "ledger")):
        code, out, err = said(*nothing)
        assert code == 2
        assert shown in out + err


def test_the_version_is_printed(said):
    """--version prints the version and nothing else."""
    assert said("--version") == (0, f"{__version__}\n", "")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["frobnicate"], "frobnicate"),
        (["query", "--wrong", "select 1"], "--wrong"),
        (["query"], "sql"),
        (["replay"], "paths"),
        (["replay", "x.csv", "--speed", "fast"], "--speed"),
        (["replay", "x.csv", "--speed", "-1"], "--speed"),
        (["audit", "everything"], "everything"),
        (["query", "select 1", "--limit", "0"], "ORCH_QUERY_MAX_ROWS"),
        (["query", "select 1", "--tenant", "../other"], "ORCH_TENANT_ID"),
        (["up", "--port", "99999"], "ORCH_HEALTH_PORT"),
        (["up", "--log-format", "xml"], "ORCH_LOG_FORMAT"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_wrong_use_ends_with_2_and_names_what_is_wrong(arguments, says, said):
    """Unknown commands, options and values: code 2, the culprit on standard error, nothing on standard output."""
    code, out, err = said(*arguments)
    assert code == 2
    assert says.lower() in words(err).lower()
    assert out == ""
    assert "Traceback" not in err


@pytest.mark.parametrize("machine", [[], ["--json"]], ids=["people", "json"])
@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["query", "select 1", "--data-dir", "nowhere"], "nowhere"),
        (["query", "select 1", "--tenant", "nobody", "--data-dir", "nowhere"], "nobody"),
        (["status", "--url", "http://127.0.0.1:1"], "http://127.0.0.1:1"),
    ],
    ids=["no store", "no tenant", "no service"],
)
def test_what_is_not_there_ends_with_1_and_what_to_do(arguments, says, machine, said):
    """A store or service that is away: code 1, where it was looked for, and the command that starts it."""
    code, out, err = said(*arguments, *machine)
    assert code == 1
    assert says in err
    assert "mdo up" in err
    assert out == ""


def test_wrong_settings_in_the_environment_are_named(monkeypatch, said):
    """A variable that cannot be read ends any command with 2 and its name, never with its value if secret."""
    monkeypatch.setenv("ORCH_WS_INTERVAL_SEC", "soon")
    code, _, err = said("doctor")
    assert code == 2
    assert "ORCH_WS_INTERVAL_SEC" in err


@pytest.mark.parametrize(
    ("sql", "says"),
    [
        ("selec 1", "line 1"),
        ("select * from nowhere", "there is no table 'nowhere'"),
        ("select wrong from trades", "wrong"),
        ("select 1; select 2", "one statement"),
        ("copy (select * from trades) to 'stolen.csv'", "not"),
        ("create external table t stored as csv location '/etc/passwd'", "not"),
        ("insert into trades select * from trades", "not"),
        ("drop table trades", "not"),
        ("select * from other.trades", "other.trades"),
        ("select * from '/etc/passwd'", "passwd"),
    ],
    ids=lambda value: value.split(" ", maxsplit=1)[0] if " " in value else "",
)
def test_queries_that_may_not_be_asked_end_with_2(sql, says, stored, said, tmp_path):
    """Wrong SQL, writes, files and other tenants' tables are refused with the reason; nothing is written."""
    code, out, err = said("query", sql, "--data-dir", stored)
    assert code == 2
    assert says in err
    assert out == ""
    assert list(tmp_path.iterdir()) == []


def test_a_query_prints_a_table_for_people(stored, said):
    """Column names, rows and, apart from them, how many and how long."""
    code, out, err = said(
        "query", "select symbol, count(*) as n, max(price) as p from trades group by 1 order by 1", "--data-dir", stored
    )
    assert code == 0
    header, _, *rows = (re.split(r"[\s│┃]+", line.strip()) for line in out.splitlines())
    assert header == ["symbol", "n", "p"]
    assert rows == [["AA", "20", "109.5"], ["BB", "20", "109.75"]]
    assert re.fullmatch(r"2 rows in \d+\.\d\d s\n", err)


def test_a_query_prints_csv_that_reads_back(stored, said):
    """CSV has a header and plain values, also of texts with commas, quotes and nothing."""
    code, out, _ = said(
        "query", "select price, 'a,\"b' as t, null as n, ts_event from trades order by seq limit 2", "--csv",
        "--data-dir", stored,
    )  # fmt: skip
    assert code == 0
    assert list(csv.reader(out.splitlines())) == [
        ["price", "t", "n", "ts_event"],
        ["100.0", 'a,"b', "", str(START_NS)],
        ["100.25", 'a,"b', "", str(START_NS + 1_000_000_000)],
    ]


def test_a_query_prints_json_with_exact_values(stored, said):
    """JSON keeps 64-bit times exact, says null for what JSON has no number for, and that nothing was cut."""
    code, out, _ = said(
        "query", "select ts_event, price, cast('NaN' as double precision) as x from trades order by seq limit 1",
        "--json", "--data-dir", stored,
    )  # fmt: skip
    assert code == 0
    assert json.loads(out, parse_constant=pytest.fail) == {
        "columns": ["ts_event", "price", "x"],
        "rows": [{"ts_event": START_NS, "price": 100.0, "x": None}],
        "truncated": False,
    }


@pytest.mark.parametrize("form", [[], ["--csv"], ["--json"]], ids=["table", "csv", "json"])
def test_a_cut_result_says_so(form, stored, said):
    """What was left out is never silent: on standard error for people and CSV, in the object for JSON."""
    code, out, err = said("query", "select seq from trades", "--limit", 7, "--data-dir", stored, *form)
    assert code == 0
    if form == ["--json"]:
        value = json.loads(out)
        assert value["truncated"] is True
        assert len(value["rows"]) == 7
    else:
        assert "7 rows" in err
        assert "cut at 7 (--limit)" in err


def test_a_query_that_takes_too_long_is_ended(stored, said):
    """--timeout ends the query with its limit named."""
    code, _, err = said(
        "query", "select count(*) from generate_series(1, 100000000000)", "--timeout", "0.3", "--data-dir", stored
    )
    assert code == 2
    assert "too long" in err


@pytest.mark.parametrize(
    "arguments",
    [["doctor"], ["audit", "ledger"], ["query", "select * from bars"], ["query", "show tables"]],
    ids=" ".join,
)
def test_json_is_one_value_and_nothing_else(arguments, stored, said):
    """With --json standard output is exactly one JSON value on one line, and standard error is silent."""
    code, out, err = said(*arguments, "--json", "--data-dir", stored)
    assert code == 0
    assert out.count("\n") == 1
    assert json.loads(out, parse_constant=pytest.fail)
    assert err == ""


def test_replay_in_json_tells_the_result_or_the_error(stored, said, tmp_path):
    """Both ways one value; the exit code is that of the same command without --json."""
    code, out, _ = said("replay", stored.parent / "day_trades.csv", "--json", "--data-dir", stored)
    assert code == 0
    assert json.loads(out)["result"]["files"] == 1
    assert json.loads(out)["result"]["files_new"] == 0
    code, out, _ = said("replay", tmp_path / "gone_trades.csv", "--json", "--data-dir", tmp_path / "data")
    assert code == 2
    assert "gone_trades.csv" in json.loads(out)["error"]


def test_a_replay_tells_people_how_to_go_on(stored, said):
    """What came of it, and a query that can be pasted."""
    code, out, _ = said("replay", stored.parent / "day_trades.csv", "--data-dir", stored)
    assert code == 0
    assert "1 files were stored before" in out
    assert f"mdo query --data-dir {stored}" in out


def test_the_audit_agrees_with_what_was_stored(stored, said):
    """A whole store: every count is shown, and all agree."""
    code, out, _ = said("audit", "ledger", "--data-dir", stored)
    assert code == 0
    assert "the ledger balances" in out
    for what in ("rows in its tables", "events in the log"):
        assert re.search(rf"{what}[\s│]+{ROWS}[\s│]+{ROWS}[\s│]+yes", out), out


def test_the_audit_finds_a_row_that_was_taken_away(copied, said):
    """One row removed from the lake behind its back: code 1, and the count that is short."""
    table = DeltaTable(copied / "lake" / "default" / "trades")
    table.alter.set_table_properties({"delta.appendOnly": "false"})
    assert table.delete("trade_id = 't17'")["num_deleted_rows"] == 1
    code, out, _ = said("audit", "ledger", "--json", "--data-dir", copied)
    assert code == 1
    value = json.loads(out)
    assert value["agrees"] is False
    wrong = [c for c in value["checks"] if not c["agrees"]]
    assert [(c["consumer"], c["ledger"], c["counted"]) for c in wrong] == [("raw", ROWS, ROWS - 1)]


def test_an_audit_of_nothing_is_no_success(said, tmp_path):
    """Where there is nothing to audit, nothing is proved."""
    code, _, err = said("audit", "ledger", "--data-dir", tmp_path / "data")
    assert code != 0
    assert "nothing to audit" in err


def test_doctor_finds_an_empty_directory_fit(said, tmp_path):
    """Nothing there yet is not wrong, and looking makes nothing."""
    code, out, _ = said("doctor", "--json", "--data-dir", tmp_path / "data")
    findings = json.loads(out)
    assert code == 0, findings
    assert {f["check"] for f in findings} == {
        "configuration",
        "machine",
        "settings",
        "disk",
        "log",
        "store",
        "state",
        "service",
    }
    assert not (tmp_path / "data").exists()


def test_doctor_finds_good_data_whole(stored, said):
    """Segments, tables and state are counted, and every checksum holds."""
    code, out, _ = said("doctor", "--data-dir", stored)
    assert code == 0
    assert "every record matches its checksum" in words(out)
    assert f"trades: {ROWS} rows" in words(out)
    assert "state.db is whole" in words(out)


def test_doctor_names_the_damaged_log_segment(copied, said):
    """A byte that flipped in the log: code 1, and the file by name."""
    _, segment = list_segments(copied / "log")[0]
    content = bytearray(segment.read_bytes())
    content[len(content) // 2] ^= 0xFF
    segment.write_bytes(content)
    code, out, _ = said("doctor", "--json", "--data-dir", copied)
    assert code == 1
    failed = [f for f in json.loads(out) if f["state"] == "failed"]
    assert [f["check"] for f in failed] == ["log"] * len(failed)
    assert any(segment.name in f["detail"] for f in failed)


def test_doctor_finds_a_damaged_state_file(copied, said):
    """State that is no database any more is a failure that says what will happen to it."""
    (copied / "state.db").write_bytes(b"this is not a database, but it is long enough to be looked at" * 20)
    code, out, _ = said("doctor", "--json", "--data-dir", copied)
    assert code == 1
    assert any(f["check"] == "state" and "state.db is damaged" in f["detail"] for f in json.loads(out))


@pytest.mark.parametrize(
    ("arguments", "code"), [(["--version"], 0), (["query", "select 1", "--data-dir", "nowhere"], 1), (["nothing"], 2)]
)
def test_the_process_ends_with_the_exit_code(arguments, code):
    """Run as a process, the command ends with the same codes and without a traceback."""
    program = "from market_data_orchestrator.cli.main import main; main()"
    done = subprocess.run([sys.executable, "-c", program, *arguments], capture_output=True, text=True, timeout=30)
    assert done.returncode == code
    assert "Traceback" not in done.stderr


def test_doctor_says_when_something_else_has_the_port(said, monkeypatch, tmp_path):
    """Another program's answer on our port is a failure that names the setting, not a crash."""

    class Other(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b'["hello"]')

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Other) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("ORCH_HEALTH_PORT", str(server.server_address[1]))
        code, out, _ = said("doctor", "--json", "--data-dir", tmp_path / "data")
        server.shutdown()
    assert code == 1
    (failed,) = (f for f in json.loads(out) if f["state"] == "failed")
    assert failed["check"] == "service"
    assert "ORCH_HEALTH_PORT" in failed["detail"]
