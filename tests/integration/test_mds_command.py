"""The command `mds`: every command on both stores, for people and for machines; kills, pipes and memory."""

from __future__ import annotations

import gzip
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import textwrap

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from market_data_core import __version__
from market_data_core.schemas import STORED_SCHEMAS
from market_data_store import open_backend
from mds_client.cli.main import run
from mds_client.transfer import digest_of
from support.postgres_server import shared_server
from support.service import eventually

COMMANDS = shlex.split(
    "ping health schema-version migrate tables coverage latest-prices write-bar write-fundamental write-news "
    "write-option ingest-ndjson ingest-ndjson-async dump dump-ndjson dump-ndjson-async restore restore-async copy "
    "archive enqueue-job"
)
START_NS = 1_704_205_800_000_000_000
NASTY = "O'Brien'); DROP TABLE mds.bars; --"
BAR = shlex.split(
    "--vendor me --symbol aapl --timeframe 1m --ts 2024-01-02T14:30:00Z --open-price 185 --high-price 186 "
    "--low-price 184.5 --close-price 185.5 --volume 1200"
)
NEWS = ["--vendor", "me", "--published-at", "2024-01-02T14:30:00Z", "--title", NASTY]
OPTION = shlex.split(
    "--vendor me --symbol AAPL --expiry 2024-01-19 --option-type C --strike 190 --ts 2024-01-02T14:30:00Z --iv 0.21"
)
FIGURES = shlex.split("--vendor me --symbol AAPL --asof 2023-12-31T00:00:00Z --eps 2.18")


@pytest.fixture(params=["lake", "postgres"])
def dsn(request, tmp_path, monkeypatch):
    """An empty store, which MDS_DSN names."""
    made = str(tmp_path / "lake") if request.param == "lake" else shared_server().database()
    monkeypatch.setenv("MDS_DSN", made)
    monkeypatch.setenv("MDS_TENANT_ID", "acme")
    monkeypatch.setenv("COLUMNS", "200")
    return made


@pytest.fixture
def said(capsys):
    """Runs a command line; gives its exit code, standard output and standard error."""

    def call(*arguments: object) -> tuple[int, str, str]:
        capsys.readouterr()
        code = run([str(a) for a in arguments])
        out, err = capsys.readouterr()
        return code, out, err

    return call


@pytest.fixture
def told(said):
    """Runs a command line that has to work with --json; gives the value it printed."""

    def call(*arguments: object, code: int = 0):
        found, out, err = said(*arguments, "--json")
        assert found == code, err
        return json.loads(out)

    return call


def words(text: str) -> str:
    return " ".join(re.sub(r"[│╭╮╰╯─]", " ", text).split())


@pytest.mark.parametrize("name", COMMANDS)
def test_help_of_every_command_teaches(name, said):
    """Help says in a sentence what the command does, and shows one that can be typed."""
    code, out, _ = said(name, "--help")
    assert code == 0
    assert f"Usage: mds {name}" in words(out)
    assert f"Example: mds {name}" in words(out)
    assert "--json" in out


def test_help_of_the_whole_names_every_command(said):
    """The first page names each command and where to begin; the version is the platform's."""
    code, out, _ = said("--help")
    assert code == 0
    assert all(re.search(rf"\b{name}\b", out) for name in COMMANDS)
    assert "Start with mds ping" in words(out)
    assert said("--version")[1].strip() == __version__


def test_without_a_store_it_is_wrong_use(said, monkeypatch):
    """The error says what to name and how."""
    monkeypatch.delenv("MDS_DSN", raising=False)
    for command in (["ping"], ["dump", "trades", "-"], ["write-bar", *BAR]):
        code, _, err = said(*command)
        assert code == 2
        assert "MDS_DSN" in err


def test_a_store_says_how_it_is(dsn, told, said):
    """ping, health, schema-version and migrate agree, and repeating a migration changes nothing."""
    after = told("migrate")["schema_version"]
    assert told("migrate") == {"before": after, "schema_version": after}
    assert told("schema-version") == {"schema_version": after}
    assert told("health")["schema_version"] == after
    assert told("ping")["ok"] is True
    for command in ("ping", "health", "schema-version", "migrate", "tables", "coverage trades", "latest-prices"):
        code, out, _ = said(*command.split())
        assert code == 0
        assert out.strip()


def test_every_model_can_be_written(dsn, told, said):
    """A row goes in once; other values become a version; every string is a value and nothing else."""
    for command, values, changed in (
        ("write-bar", BAR, ["--volume", "1300"]),
        ("write-fundamental", FIGURES, ["--eps", "2.19"]),
        ("write-option", OPTION, ["--iv", "0.22"]),
        ("write-news", [*NEWS, "--id", NASTY], ["--title", "another"]),
    ):
        assert told(command, *values)["inserted"] == 1
        assert told(command, *values)["unchanged"] == 1
        assert told(command, *values, *changed, "--reason", NASTY)["revised"] == 1
        assert "already" in said(command, *values, *changed, "--reason", NASTY)[1]
    assert told("latest-prices", "aapl", "--vendor", "me")[0]["price"] == 185.5
    rows = told("coverage", "bars", "--symbol", "AAPL", "--timeframe", "1m", "--start", "2024-01-02")
    assert [(r["vendor"], r["symbol"], r["rows"]) for r in rows] == [("me", "AAPL", 2)]
    assert told("coverage", "news", "--vendor", NASTY) == []


def test_wrong_values_are_wrong_use(dsn, said):
    """The option that is wrong is named; nothing is stored."""
    for command, option in (
        (["write-bar", *BAR, "--ts", "2024-01-02T14:30:00"], "--ts"),
        (["write-bar", *BAR, "--volume", "nan"], "--volume"),
        (["write-option", *OPTION, "--option-type", "X"], "--option-type"),
        (["write-news", *NEWS, "--sentiment-score", "2"], "--sentiment-score"),
        (["dump", "trades", "-", "--start", "yesterday"], "--start"),
        (["dump", "trades", "-", "--timeframe", "1m"], "--timeframe"),
        (["enqueue-job", "--idempotency-key", "a", "--job-type", "b", "--payload", "{"], "--payload"),
        (["dump", NASTY, "-"], "no table"),
        (["dump", "trades"], "Missing argument"),
        (["dump", "trades", "-", "--start", "20240102"], "--start"),
    ):
        code, out, err = said(*command)
        assert code == 2, command
        assert option in err
        assert out == ""


def test_rows_go_out_and_come_in(dsn, told, said, tmp_path):
    """dump, dump-ndjson, restore and their twins: one digest, filters hold, and the first lines are a header's."""
    told("write-bar", *BAR)
    told("write-bar", *BAR, "--volume", "1300")
    digests = set()
    for command, name in (
        ("dump", "a.csv"),
        ("dump", "a.parquet"),
        ("dump-ndjson", "a.ndjson.gz"),
        ("dump-ndjson-async", "b.ndjson"),
    ):
        done = told(command, "bars", tmp_path / name)
        assert done["rows"] == 2
        digests.add(done["digest"])
        for restore in ("restore", "restore-async"):
            again = told(restore, "bars", tmp_path / name)
            assert (again["unchanged"], again["inserted"]) == (2, 0)
            digests.add(again["digest"])
            assert told(restore, "bars", tmp_path / name, "--tenant-id", f"other-{restore}")["digest"] in digests
    assert len(digests) == 1
    assert told("dump", "bars", tmp_path / "new.csv", "--newest", "--symbol", "aapl,msft")["rows"] == 1
    assert told("dump", "bars", tmp_path / "no.csv", "--timeframe", "1h")["rows"] == 0
    assert told("dump", "bars", tmp_path / "no.csv", "--end", "2024-01-02T14:30:00Z")["rows"] == 0
    assert (tmp_path / "a.csv").read_text().startswith('"vendor","symbol","ts_event"')
    assert "digest" in said("dump", "bars", tmp_path / "a.csv")[1]
    assert "were there" in said("restore", "bars", tmp_path / "a.csv")[1]


def test_rows_go_through_pipes(dsn, told):
    """Standard output carries rows and nothing else; standard input takes them, compressed or not."""
    told("write-bar", *BAR)
    env = {**os.environ, "MDS_TENANT_ID": "acme"}
    out = subprocess.run([*MDS, "dump", "bars", "-"], env=env, capture_output=True, check=True)
    assert out.stdout.count(b"\n") == 2
    env["MDS_TENANT_ID"] = "piped"
    for content in (out.stdout, gzip.compress(out.stdout)):
        done = subprocess.run(
            [*MDS, "restore", "bars", "-", "--json"], env=env, input=content, capture_output=True, check=True
        )
        assert json.loads(done.stdout)["rows"] == 1
    assert told("dump", "bars", "/dev/null", "--format", "csv")["digest"] == json.loads(done.stdout)["digest"]


def test_a_bad_file_fails_and_says_where(dsn, said, tmp_path):
    """Bad data is a failure, not wrong use, and names line and field."""
    (tmp_path / "bad.csv").write_text("vendor,symbol,interval,ts_event,close\nx,A,1m,1,1\nx,A,1m,2,what\n")
    code, _, err = said("restore", "bars", tmp_path / "bad.csv")
    assert code == 1
    assert "line 3, field close" in err


LINES = [
    {"vendor": "x", "symbol": "a", "timeframe": "1m", "ts": "2024-01-02T14:30:00Z", "open_price": 1, "high_price": 2,
     "low_price": 1, "close_price": 2, "volume": 3},
]  # fmt: skip


@pytest.mark.parametrize("command", ["ingest-ndjson", "ingest-ndjson-async"])
def test_good_lines_go_in_and_bad_ones_are_named(command, dsn, told, said, tmp_path):
    """Of a file with bad lines the good ones are stored, once; each of the others is told with line and field."""
    good = [json.dumps({**LINES[0], "ts": f"2024-01-02T14:{m}:00Z"}) for m in range(10, 40)]
    bad = {
        5: ('{"vendor": ', ""),
        9: (json.dumps({**LINES[0], "volume": "much"}), "volume"),
        14: (json.dumps({**LINES[0], "ts": "2024-01-02T14:30:00"}), "ts"),
        20: (json.dumps({**LINES[0], "tenant_id": "somebody"}), "tenant_id"),
    }
    lines = list(good)
    for number in sorted(bad):
        lines.insert(number - 1, bad[number][0])
    path = tmp_path / "lines.ndjson.gz"
    path.write_bytes(gzip.compress("\n".join(lines).encode()))
    done = told(command, "bars", path, "--max-rows", "7", code=1)
    assert (done["lines"], done["inserted"], done["rejected"]) == (34, 30, 4)
    assert {r["line"]: r["field"] for r in done["rejects"]} == {n: f for n, (_, f) in bad.items()}
    done = told(command, "bars", path, "--rejects", tmp_path / "bad.ndjson", code=1)
    assert (done["unchanged"], done["inserted"], done["rejects"]) == (30, 0, [])
    written = [json.loads(line) for line in (tmp_path / "bad.ndjson").read_text().splitlines()]
    assert [(r["line"], r["raw"]) for r in written] == [(n, bad[n][0]) for n in sorted(bad)]
    code, _, err = said(command, "bars", path)
    assert code == 1
    assert "line 9, field volume" in words(err)


def test_what_a_slow_pipe_gave_is_stored_while_it_is_open(dsn, told):
    """A batch waits for its milliseconds and no longer, whether or not another line comes."""
    with subprocess.Popen([*MDS, "ingest-ndjson", "bars", "-", "--max-ms", "50"], stdin=subprocess.PIPE) as process:
        try:
            process.stdin.write(json.dumps(LINES[0]).encode() + b"\n")
            process.stdin.flush()
            eventually(lambda: told("coverage", "bars") != [], 30, "the line is stored")
            assert process.poll() is None
            process.stdin.close()
            assert process.wait(20) == 0
        finally:
            process.kill()


def test_a_job_is_asked_for_once(dsn, told, said):
    """The same key is the same job; another payload under it is refused."""
    ask = ["enqueue-job", "--idempotency-key", NASTY, "--job-type", NASTY, "--priority", "3"]
    first, second = (told(*ask, "--payload", '{"a": 1}') for _ in range(2))
    assert first == second
    assert (first["state"], first["priority"], first["payload"]) == ("queued", 3, {"a": 1})
    assert said(*ask, "--payload", '{"a": 2}')[0] == 1


def test_a_store_moves_into_the_other_and_back(dsn, told, said, tmp_path):
    """`mds copy` takes a lake into PostgreSQL, or back, and says that both are the same."""
    told("write-bar", *BAR)
    told("write-news", *NEWS)
    other = str(tmp_path / "other") if dsn.startswith("postgres") else shared_server().database()
    done = told("copy", dsn, other)
    assert done["same"]
    assert {t["table"]: (t["rows"], t["added"]) for t in done["tables"]} == {"bars": (1, 1), "news": (1, 1)}
    assert told("copy", dsn, other, "--tables", "bars,news")["tables"][0]["added"] == 0
    assert told("copy", other, dsn, "--to-tenant-id", "back")["same"]
    told("write-bar", *BAR, "--volume", "1", "--dsn", other)
    assert "bars differs" in said("copy", dsn, other)[2]
    assert told("copy", dsn, other, code=1)["same"] is False


def test_tables_are_listed(told):
    """Every stored table with its columns and its key."""
    listed = {t["table"]: t for t in told("tables")["tables"]}
    assert set(listed) == set(STORED_SCHEMAS)
    assert listed["news"]["key"] == ["vendor", "id"]


MDS = [sys.executable, "-m", "mds_client.cli"]
KILLED = textwrap.dedent(
    """
    import os, signal, sys
    from market_data_core.steps import Step, install
    from mds_client.cli.main import run
    left = [int(sys.argv[1])]
    def hook(step):
        left[0] -= step is Step.TABLE_COMMITTED
        if left[0] == 0:
            os.kill(os.getpid(), signal.SIGKILL)
    install(hook)
    run(sys.argv[2:])
    """
)


def many_trades(path, count):
    """Write so many trades, all different, of two dates."""
    columns = {
        "vendor": pa.array(["x"]).take(pa.array([0] * count)),
        "symbol": pa.array(["AAPL", "MSFT"]).take(pa.array([i % 2 for i in range(count)])),
        "ts_event": pa.array(range(START_NS, START_NS + count * 300_000_000, 300_000_000)),
        "ts_recv": pa.array(range(START_NS, START_NS + count)),
        "seq": pa.array(range(count)),
        "price": pa.array([i / 7 for i in range(count)]),
    }
    pq.write_table(pa.table(columns), path)


def test_a_server_is_migrated_in_two_phases(told, said):
    """The first with what may run beside the old version, then the rest; a lake has no phases, which is wrong use."""
    dsn = shared_server().empty_database()
    pre = told("migrate", "--phase", "pre", "--dsn", dsn)
    post = told("migrate", "--phase", "post", "--dsn", dsn)
    assert (pre["before"], post["schema_version"]) == (0, told("migrate", "--dsn", dsn)["schema_version"])
    code, _, err = said("migrate", "--phase", "pre", "--dsn", "lake")
    assert (code, "--phase pre" in err) == (2, True)


def test_a_restore_killed_half_way_goes_on(dsn, told, tmp_path):
    """A kill after one commit, then the same command again: every row once, the same digest."""
    many_trades(tmp_path / "trades.parquet", 300_000)
    command = ["restore", "trades", str(tmp_path / "trades.parquet"), "--json"]
    told("migrate")
    killed = subprocess.run([sys.executable, "-c", KILLED, "1", *command])
    assert killed.returncode == -signal.SIGKILL
    done = told(*command[:-1])
    assert 0 < done["unchanged"] < 300_000
    assert done["inserted"] + done["unchanged"] == done["rows"] == 300_000
    backend = open_backend(dsn, "acme")
    assert digest_of(backend, "trades").digest == done["digest"]
    backend.close()


def test_a_copy_killed_half_way_goes_on(dsn, told, tmp_path):
    """A kill after one commit of the copy, then again: both sides the same, nothing twice."""
    many_trades(tmp_path / "trades.parquet", 300_000)
    source = str(tmp_path / "from")
    told("restore", "trades", tmp_path / "trades.parquet", "--dsn", source)
    told("migrate")
    killed = subprocess.run([sys.executable, "-c", KILLED, "1", "copy", source, dsn])
    assert killed.returncode == -signal.SIGKILL
    done = told("copy", source, dsn)
    assert done["same"]
    assert 0 < done["tables"][0]["added"] < 300_000


def _peaks_mib(folder, rows, names):
    # What a process needs at its peak to dump so many rows into each file, and to restore it.
    lake = folder / str(rows)
    table = open_backend(str(lake), "acme").table("trades")
    schema = STORED_SCHEMAS["trades"]
    step = 250_000
    for start in range(0, rows, step):
        seq = pa.array(range(start, start + step))
        text = pa.array(["x"]).take(pa.array([0] * step))
        values = {"vendor": text, "symbol": text, "seq": seq, "ts_event": seq, "ts_recv": seq}
        values |= {"trade_id": seq.cast(pa.string()), "price": seq.cast(pa.float64())}
        columns = [values.get(f.name, pa.nulls(step, f.type)) for f in schema]
        table.append(pa.Table.from_arrays(columns, schema=schema), writer="w", position=start + step, covers={})
    peaks = {}
    for name in names:
        for command, tenant in (("dump", "acme"), ("restore", name.replace(".", "-"))):
            process = subprocess.Popen(
                [*MDS, command, "trades", str(folder / name)],
                env={**os.environ, "MDS_DSN": str(lake), "MDS_TENANT_ID": tenant},
                stdout=subprocess.DEVNULL,
            )
            _, status, used = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
            assert process.returncode == 0
            peaks[command, name] = used.ru_maxrss / 1024
        (folder / name).unlink()
    return peaks


@pytest.mark.parametrize(
    ("rows", "names"),
    [
        pytest.param(2_000_000, ["a.csv"], id="2M"),
        pytest.param(10_000_000, ["a.csv", "a.ndjson.gz", "a.parquet"], id="10M", marks=[pytest.mark.chaos]),
    ],
)
@pytest.mark.timeout(600)
def test_memory_does_not_grow_with_rows(rows, names, tmp_path):
    """Millions of rows need the memory of half a million, give or take what the allocator keeps."""
    few, many = _peaks_mib(tmp_path, 500_000, names), _peaks_mib(tmp_path, rows, names)
    grown = {step: many[step] - few[step] for step in few}
    assert max(grown.values()) < 150, (few, many)


def test_whoever_reads_may_stop(dsn, tmp_path):
    """`mds dump ... - | head` ends without a word about it."""
    many_trades(tmp_path / "trades.parquet", 50_000)
    run(["restore", "trades", str(tmp_path / "trades.parquet")])
    piped = subprocess.run(
        f"{sys.executable} -m mds_client.cli dump trades - | head -1", shell=True, capture_output=True, text=True
    )
    assert piped.stdout.startswith('"vendor"')
    assert piped.stderr == ""


@pytest.mark.parametrize("command", ["ingest-ndjson", "ingest-ndjson-async"])
def test_ctrl_c_ends_it_while_a_pipe_is_silent(command, dsn, told):
    """An interrupt is heeded while no line comes, on an event loop too; what came before is stored."""
    with subprocess.Popen(
        [*MDS, command, "bars", "-", "--max-rows", "1"], stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            process.stdin.write(json.dumps(LINES[0]) + "\n")
            process.stdin.flush()
            eventually(lambda: told("coverage", "bars") != [], 30, "the line is stored")
            process.send_signal(signal.SIGINT)
            assert process.wait(20) > 0
        finally:
            process.kill()
        assert "Traceback" not in process.stderr.read()
