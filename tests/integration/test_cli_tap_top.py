"""``mdo tap`` and ``mdo top`` as processes, beside a real service and without one."""

from __future__ import annotations

import contextlib
import copy
import io
import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import threading
import time

import pytest

from market_data_core.errors import TemporaryUnavailable
from market_data_core.schemas import Origin
from market_data_orchestrator.cli.main import run
from market_data_orchestrator.cli.top import Overview
from market_data_pipeline.log import LogWriter, RecordType, read_durable
from support.logs import AT_ONCE, read_all, trades
from support.service import RunningService, eventually, free_port

PROGRAM = "from market_data_orchestrator.cli.main import main; main()"
CONFIG = """
providers:
  synthetic: {params: {rate: 500}}
dag:
  nodes:
    everything: {source: all}
    trades: {source: all, kinds: [trades]}
    sizes: {operator: router, routes: {big: "size >= 200"}}
    seconds: {operator: bars, interval: 1s}
    lake: {sink: store}
    rest: {sink: "null"}
    null2: {sink: "null"}
  edges: [everything -> lake, trades -> sizes -> rest, trades -> seconds -> null2]
sinks: {store: {sink: store}, "null": {sink: store}}
"""


@pytest.fixture(scope="module")
def service(tmp_path_factory):
    with RunningService(tmp_path_factory.mktemp("tapped") / "data", PROVIDER_RATE=1000, BARS="1s") as running:
        running.wait_healthy(40)
        yield running


@pytest.fixture
def command(service):
    """Starts a command as a process with the service's settings; all are ended with the test."""
    started: list[subprocess.Popen] = []

    def start(*arguments: object, **options) -> subprocess.Popen:
        given = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, **options}
        environment = {**service.env, **given.pop("env", {})}
        process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, *map(str, arguments)], env=environment, cwd=service.data_dir, **given
        )
        started.append(process)
        return process

    yield start
    for process in started:
        if process.poll() is None:
            process.kill()
        process.wait(10)
        for stream in (process.stdout, process.stderr):
            if stream is not None:
                stream.close()


@pytest.fixture
def said(service, monkeypatch, tmp_path, capsys):
    """Runs a command line here, with the service's settings; gives exit code, standard output and standard error."""
    for name, value in service.env.items():
        if name.startswith("ORCH_"):
            monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)

    def call(*arguments: object) -> tuple[int, str, str]:
        capsys.readouterr()
        code = run([str(a) for a in arguments])
        out, err = capsys.readouterr()
        return code, out, err

    return call


def rest(process: subprocess.Popen) -> tuple[list[str], str]:
    """What a process that is ending still says: the whole lines of its output, and its errors."""
    out, err = process.stdout.read(), process.stderr.read()
    process.wait(20)
    assert "Traceback" not in err, err
    return out[: out.rfind("\n") + 1].splitlines(), err


def test_a_tap_shows_people_live_events(said):
    """One aligned line per event with time, vendor, symbol and kind, and how many there were."""
    code, out, err = said("tap", "checked", "--limit", 20)
    assert code == 0
    lines = out.splitlines()
    assert len(lines) == 20
    for line in lines:
        assert re.match(
            r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{6}Z  synthetic  \w+ +(quotes  bid|trades +[\d.]+)", line
        ), line
    assert "20 events of checked shown" in err


def test_a_tap_in_json_is_one_object_a_line(said):
    """All columns, exact times, and only what was asked for by symbol and kind."""
    code, out, _ = said(
        "tap", "everything", "--symbol", "aapl", "--symbol", "MSFT", "--kind", "trades", "--limit", 5, "--json"
    )  # fmt: skip
    assert code == 0
    rows = [json.loads(line) for line in out.splitlines()]
    assert len(rows) == 5
    assert {row["event"] for row in rows} == {"trades"}
    assert {row["symbol"] for row in rows} <= {"AAPL", "MSFT"}
    assert all(abs(time.time_ns() - row["ts_event"]) < 60 * 10**9 for row in rows)
    seqs = [row["seq"] for row in rows]
    assert seqs == sorted(set(seqs))


def test_a_tap_gives_derived_rows_of_a_node_that_is_not_stored_so(said):
    """Bars come as they close, made here from the log."""
    code, out, _ = said("tap", "bars-1s", "--for", "20s", "--limit", 3, "--json")
    assert code == 0
    rows = [json.loads(line) for line in out.splitlines()]
    assert [row["event"] for row in rows] == ["bars"] * 3
    assert all(row["interval"] == "1s" and row["high"] >= row["low"] for row in rows)


def test_a_tap_since_shows_what_was_logged_before(service, said):
    """--since begins in the past, --for ends it, and nothing of that stretch is missing."""
    eventually(lambda: service.get("/status").json()["uptime_s"] > 4, 20, "some seconds are logged")
    before_ns = time.time_ns()
    code, out, err = said("tap", "raw", "--since", "3s", "--for", "300ms", "--json")
    assert code == 0
    seqs = [json.loads(line)["seq"] for line in out.splitlines()]
    assert f"{len(seqs):,} events of raw shown" in err
    assert json.loads(out.splitlines()[0])["ts_recv"] < before_ns - 2 * 10**9
    assert len(seqs) == events_logged(service.data_dir / "log", min(seqs), max(seqs))


def test_an_interrupt_ends_a_tap_cleanly(command):
    """Ctrl-C is no error: code 0, whole lines, and the count."""
    process = command("tap", "everything", "--json")
    lines = [process.stdout.readline() for _ in range(3)]
    process.send_signal(signal.SIGINT)
    more, err = rest(process)
    assert process.returncode == 0
    shown = [json.loads(line) for line in [*lines, *more]]
    assert f"{len(shown):,} events of everything shown" in err


@pytest.mark.parametrize("node", ["everything", "bars-1s"], ids=["busy", "quiet"])
def test_a_closed_pipe_ends_a_tap_cleanly(command, node):
    """`| head` ends it at once, whether or not another event comes; the interpreter does not complain."""
    process = command("tap", node, "--since", "1h")
    assert process.stdout.readline()
    process.stdout.close()
    process.wait(20)
    err = process.stderr.read()
    assert process.returncode == 0
    assert "events of" in err
    assert "BrokenPipe" not in err
    assert "Traceback" not in err


def events_logged(folder, first_seq: int, last_seq: int) -> int:
    """How many events the log has from one sequence number to another, both included."""
    records = [r for r in read_all(folder, first_seq) if r.type is RecordType.EVENTS and r.first_seq <= last_seq]
    return sum(min(r.end, last_seq + 1) - max(r.first_seq, first_seq) for r in records)


class SlowTerminal(io.StringIO):
    """Takes more than a second, and as long as it takes to log more events, for each of its first two texts."""

    def __init__(self, folder) -> None:
        super().__init__()
        self.folder = folder
        self.slow = 2

    def write(self, text: str) -> int:
        if self.slow:
            self.slow -= 1
            wanted, until = read_durable(self.folder) + 500, time.monotonic() + 1.05
            eventually(lambda: read_durable(self.folder) > wanted and time.monotonic() > until, 30, "the log goes on")
        return super().write(text)


def test_a_tap_that_is_read_too_slowly_skips_whole_spans_and_says_so(service, said, monkeypatch):
    """What was skipped stands in the stream, at its place and to the last event, and in the end."""
    folder = service.data_dir / "log"
    slow, told = SlowTerminal(folder), io.StringIO()
    with monkeypatch.context() as patched:
        patched.setattr(sys, "stdout", slow)
        patched.setattr(sys, "stderr", told)
        assert run(["tap", "everything", "--json", "--limit", "250"]) == 0
    lines = [json.loads(line) for line in slow.getvalue().splitlines()]
    last = max(i for i, line in enumerate(lines) if line["event"] == "skipped")
    shown = [line["seq"] for line in lines[:last] if line["event"] != "skipped"]
    skipped = sum(line["events"] for line in lines if line["event"] == "skipped")
    # Of a span all quotes come before all trades, or the other way round; the first of it comes first.
    assert len(shown) + skipped == events_logged(folder, shown[0], lines[last + 1]["seq"] - 1)
    assert re.search(rf"250 events of everything shown, {skipped:,} in [\d,]+ spans skipped", told.getvalue())


def test_a_tap_needs_no_service_and_disturbs_no_log(tmp_path, said):
    """A log that nobody writes can be tapped; its files stay as they are."""
    folder = tmp_path / "data" / "log"
    writer = LogWriter(folder, AT_ONCE)
    for start in range(0, 500, 50):
        writer.append(trades(start, 50), origin=Origin.REPLAY)
    writer.barrier()
    writer.close()
    files = {p.name: (p.stat().st_size, p.stat().st_mtime_ns) for p in folder.iterdir()}
    given = ("--since", "1h", "--for", "100ms", "--json", "--data-dir", tmp_path / "data")
    code, out, err = said("tap", "raw", *given)
    assert code == 0
    assert [json.loads(line)["price"] for line in out.splitlines()] == list(range(500))
    assert {p.name: (p.stat().st_size, p.stat().st_mtime_ns) for p in folder.iterdir()} == files
    assert "500 events of raw shown" in err


def test_the_graph_may_be_another_than_the_one_that_runs(service, said, tmp_path, monkeypatch):
    """--config names a graph of one's own over the same log; its named outputs can be chosen."""
    path = tmp_path / "mine.yaml"
    path.write_text(CONFIG)
    options = (
        "--config",
        path,
        "--limit",
        5,
        "--since",
        "1m",
        "--for",
        "20s",
        "--json",
        "--data-dir",
        service.data_dir,
    )
    monkeypatch.delenv("ORCH_BARS")
    code, out, err = said("tap", "sizes", "--port", "big", *options)
    assert code == 0, err
    rows = [json.loads(line) for line in out.splitlines()]
    assert len(rows) == 5
    assert all(row["port"] == "big" and row["size"] >= 200 for row in rows)


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["tap"], 2, "node"),
        (["tap", "cheked"], 2, "did you mean checked"),
        (["tap", "checked", "--port", "x"], 2, "no output 'x'"),
        (["tap", "checked", "--kind", "quote"], 2, "quote"),
        (["tap", "checked", "--for", "soon"], 2, "soon"),
        (["tap", "checked", "--since", "-3"], 2, "-3"),
        (["tap", "checked", "--limit", "0"], 2, "--limit"),
        (["tap", "checked", "--config", "gone.yaml"], 2, "gone.yaml"),
        (["tap", "checked", "--data-dir", "nowhere"], 1, "mdo up"),
        (["tap", "cheked", "--data-dir", "nowhere"], 2, "did you mean checked"),
        (["top", "--interval", "fast"], 2, "fast"),
        (["top", "--interval", "1ms"], 2, "--interval"),
        (["top", "--once", "--url", "http://127.0.0.1:1"], 1, "mdo up"),
        (["top", "--json", "--url", "http://127.0.0.1:1"], 1, "mdo up"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_wrong_use_and_what_is_away_are_told_apart(said, arguments, code, says):
    """Code 2 for wrong use, with the culprit, and 1 for what is not there, with what to do; no output either way."""
    ended, out, err = said(*arguments)
    assert (ended, out) == (code, "")
    assert says in " ".join(err.split())


def test_top_prints_text_once_where_output_is_no_terminal(service, said):
    """Sources, consumers and nodes with their figures, no escape codes, and no line cut."""
    code, out, _ = said("top")
    assert code == 0
    assert "\x1b" not in out
    for word in (
        "market-data-orchestrator",
        "synthetic",
        "raw/checked",
        "bars-trades-1s",
        "waiting",
        "lag",
        "set aside",
    ):
        assert word in out
    assert "…" not in out


def test_top_in_json_is_one_value(said):
    """One line, with the rows of sources, consumers and nodes, their level and cause."""
    code, out, err = said("top", "--once", "--json")
    assert (code, err) == (0, "")
    assert out.count("\n") == 1
    found = json.loads(out)
    assert {row["name"] for row in found["consumers"]} == {"raw", "bars-trades-1s"}
    assert all({"level", "why", "received", "in_flight"} <= row.keys() for row in found["nodes"])


def screen(process: subprocess.Popen, terminal: int, claim, deadline_s: float = 20.0) -> str:
    """Read what a process shows on a terminal until a claim about it holds."""
    shown, until = "", time.monotonic() + deadline_s
    while time.monotonic() < until:
        if select.select([terminal], [], [], 0.1)[0]:
            shown += os.read(terminal, 1 << 16).decode(errors="replace")
        if claim(shown):
            return shown
        assert process.poll() is None, shown
    raise AssertionError(f"not within {deadline_s} s, but: {shown[-2000:]}")


def drained(terminal: int) -> None:
    """Read a terminal until its other side is closed."""
    with contextlib.suppress(OSError):
        while os.read(terminal, 1 << 16):
            pass


def test_top_refreshes_on_a_terminal_and_waits_for_a_service(tmp_path, command):
    """Where nobody answers it says so and waits; then it shows figures, keeps them when the service goes, and ends."""
    port = free_port()
    ours, theirs = pty.openpty()
    try:
        process = command(
            "top", "--interval", "200ms", "--url", f"http://127.0.0.1:{port}",
            stdout=theirs, stderr=theirs, env={"TERM": "xterm", "COLUMNS": "100", "LINES": "40"},
        )  # fmt: skip
        os.close(theirs)
        screen(process, ours, lambda shown: "no service answers" in shown)
        with RunningService(tmp_path / "data", HEALTH_PORT=port) as service:
            service.wait_healthy(40)
            screen(process, ours, lambda shown: "raw/store" in shown)
            assert service.stop() == 0
        away = screen(process, ours, lambda shown: "no service answers" in shown)
        screen(process, ours, lambda shown: "raw/store" in shown)
        assert "since" in away
        process.send_signal(signal.SIGINT)
        # A terminal that nobody reads any more would block its end.
        reading = threading.Thread(target=drained, args=(ours,))
        reading.start()
        assert process.wait(20) == 0
        reading.join(20)
    finally:
        os.close(ours)


def changed(status: dict, **consumers: dict) -> dict:
    """The status with some values of its consumers changed."""
    status = copy.deepcopy(status)
    for consumer in status["consumers"]:
        consumer.update(consumers.get(consumer["name"].replace("-", "_"), {}))
    return status


def test_what_needs_attention_comes_first(service):
    """Trouble goes to the top with its cause, whatever the service's own order; well is quiet."""
    status = service.get("/status").json()
    calm = Overview().of(status)
    assert [row["name"] for row in calm["consumers"]] == [c["name"] for c in status["consumers"]]
    assert all(row["level"] < 2 for row in calm["consumers"])
    found = Overview().of(changed(status, bars_trades_1s={"state": "conflict", "problem": "somebody else"}))
    assert [row["name"] for row in found["consumers"]] == ["bars-trades-1s", "raw"]
    assert found["consumers"][0]["level"] == 3
    assert "somebody else" in found["consumers"][0]["why"]
    late = Overview().of(changed(status, raw={"lag_events": 5, "commit_age_s": 99.0}))
    assert late["consumers"][0]["why"] == "no commit for 99 s"
    status["consumers"][1]["nodes"][1]["failed"] = 3
    status["sources"][0]["refused"] = 7
    nodes = Overview().of(status)
    assert (nodes["nodes"][0]["consumer"], nodes["nodes"][0]["why"]) == (status["consumers"][1]["name"], "failed")
    assert nodes["sources"][0]["why"] == "events refused"


def test_rates_of_nodes_come_with_the_second_look(service):
    """One look has none; two have what was received between them; a new life of the service begins anew."""
    status = service.get("/status").json()
    overview = Overview()
    assert {row["rate_events_s"] for row in overview.of(status)["nodes"]} == {None}
    later = copy.deepcopy(status)
    later["ts"] += 2.0
    for consumer in later["consumers"]:
        for node in consumer["nodes"]:
            node["received"] += 500
    assert [row["rate_events_s"] for row in overview.of(later)["nodes"]] == pytest.approx([250.0] * 9)
    status["ts"] = later["ts"] + 1.0
    status["consumers"][0]["nodes"][0]["received"] = 0
    rates = {(r["consumer"], r["node"]): r["rate_events_s"] for r in overview.of(status)["nodes"]}
    assert rates[status["consumers"][0]["name"], status["consumers"][0]["nodes"][0]["name"]] is None


def test_something_else_that_answers_is_no_service():
    """An answer without the parts of a status is told as such."""
    with pytest.raises(TemporaryUnavailable, match="not this version"):
        Overview().of({"hello": "world"})
