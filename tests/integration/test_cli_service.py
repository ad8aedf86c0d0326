"""The command line beside a running service, and replays that are killed."""

from __future__ import annotations

import json
import re
import subprocess
import sys

import pytest

from market_data_core.errors import MarketDataError
from market_data_orchestrator.cli.main import run
from market_data_store.lake import Lake
from market_data_store.state import State
from support.service import RunningService, eventually

T0_NS = 1_700_000_000_000_000_000
HEADER = "vendor,symbol,ts_event,price,size,trade_id\n"


@pytest.fixture(autouse=True)
def _elsewhere(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    for name in ("ORCH_URL", "ORCH_DATA_DIR", "ORCH_TENANT_ID"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="module")
def service(tmp_path_factory):
    with RunningService(tmp_path_factory.mktemp("service") / "data", PROVIDER_RATE=200) as running:
        running.wait_healthy(40)
        yield running


def recording(path, rows: int, *, step_ns: int):
    lines = (f"x,AA,{T0_NS + i * step_ns},{100 + i % 7},1,t{i}\n" for i in range(rows))
    path.write_text(HEADER + "".join(lines))
    return path


def replayed(folder) -> list[str]:
    rows = Lake(folder / "lake", "default").read("trades", vendor="x", symbol="AA").sort_by("seq")
    return rows.column("trade_id").to_pylist()


def test_status_shows_people_how_a_service_is(service, capsys):
    """Health, sources, consumers and the ledger of the service asked for; code 0 while it is healthy."""
    assert run(["status", "--url", service.url]) == 0
    out = capsys.readouterr().out
    assert re.search(r"health\s+healthy", out)
    for word in ("synthetic", "raw", "unaccounted", "ledger", "feedback_bus"):
        assert word in out


def test_status_in_json_is_what_the_route_answers(service, monkeypatch, capsys):
    """One JSON value with the parts of /status; ORCH_URL names the service as --url does."""
    monkeypatch.setenv("ORCH_URL", service.url)
    assert run(["status", "--json"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert json.loads(out).keys() == service.get("/status").json().keys()


def test_a_query_is_answered_while_the_service_writes(service, capsys):
    """The store can be asked beside its writer."""
    lake = Lake(service.data_dir / "lake", "default")
    eventually(lambda: lake.counts()["trades"].rows > 0, 20, "trades are stored")
    assert run(["query", "select count(*) as n from trades", "--json", "--data-dir", str(service.data_dir)]) == 0
    assert json.loads(capsys.readouterr().out)["rows"][0]["n"] > 0


def test_a_replay_beside_a_running_service_is_done_by_it(service, tmp_path, capsys):
    """The command hands the job over and waits; /status shows it, rows are stored once, and the service stays well."""
    path = recording(tmp_path / "day_trades.csv", 500, step_ns=10_000_000)
    assert run(["replay", str(path), "--data-dir", str(service.data_dir), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["state"] == "done"
    assert said["result"]["events"] == 500

    def shown() -> list[dict]:
        return [j for j in service.get("/status").json()["jobs"] if j["id"] == said["id"] and j["state"] == "done"]

    (job,) = eventually(shown, 10, "the job is shown as done")
    assert job["kind"] == "replay"
    assert str(path) in job["detail"]
    assert job["fraction"] == 1.0
    assert replayed(service.data_dir) == [f"t{i}" for i in range(500)]
    assert service.get("/health").json()["state"] == "healthy"


def test_a_replay_the_service_cannot_do_fails_with_its_message(service, tmp_path, capsys):
    """What went wrong there is told here, with the code it would have here."""
    assert run(["replay", str(tmp_path / "gone_trades.csv"), "--data-dir", str(service.data_dir)]) == 2
    assert "gone_trades.csv" in capsys.readouterr().err
    assert service.get("/health").json()["state"] == "healthy"


def test_doctor_beside_a_running_service_finds_it(service, monkeypatch, capsys):
    """Everything is looked at without disturbing the writer."""
    monkeypatch.setenv("ORCH_HEALTH_PORT", str(service.port))
    assert run(["doctor", "--json", "--data-dir", str(service.data_dir)]) == 0
    found = {f["check"]: f for f in json.loads(capsys.readouterr().out)}
    assert service.url in found["service"]["detail"]
    assert found["service"]["state"] == "ok"


def test_a_killed_replay_goes_on_with_the_same_command_and_ends_exact(tmp_path, capsys):
    """After kill -9 the same command stores what is missing: every row once, in order, and accounts agree."""
    rows, data = 4000, tmp_path / "data"
    # Two recorded seconds at half speed take four: the kill falls into the middle on any machine.
    path = recording(tmp_path / "day_trades.csv", rows, step_ns=500_000)
    command = ["replay", str(path), "--data-dir", str(data), "--json"]
    program = "from market_data_orchestrator.cli.main import main; main()"
    process = subprocess.Popen(
        [sys.executable, "-c", program, *command, "--speed", "0.5"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )

    def stored() -> int:
        assert process.poll() is None, "the replay ended before it could be killed"
        try:
            return Lake(data / "lake", "default").counts()["trades"].rows if (data / "lake").is_dir() else 0
        except MarketDataError:
            return 0  # the table is being made

    try:
        eventually(lambda: stored() > 0, 30, "some rows are stored")
    finally:
        process.kill()
        process.wait(10)
    before = len(replayed(data))
    assert 0 < before < rows
    assert run(command) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["state"] == "done"
    assert replayed(data) == [f"t{i}" for i in range(rows)]
    state = State(data / "state.db")
    try:
        assert [str(job.state) for job in state.list_jobs()] == ["done", "done"]
    finally:
        state.close()
    assert run(["audit", "ledger", "--data-dir", str(data), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["agrees"]
