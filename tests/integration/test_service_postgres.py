"""The service with PostgreSQL as its store: by one setting, and whole through the death of either."""

from __future__ import annotations

import json
import re
import signal

import httpx
import psycopg
import pytest

from market_data_core.web.auth import KeyStore, Role
from market_data_orchestrator.cli.main import run
from market_data_store.query.limits import QueryLimits
from market_data_store.query.server import run_server_query
from support.postgres_server import Server
from support.service import RunningService, eventually

PASSWORD = "Swordfish-4711"


@pytest.fixture(scope="module")
def server():
    made = Server()
    yield made
    made.close()


@pytest.fixture
def dsn(server):
    """A database with nothing in it, not even the schema, and a password in its address."""
    return server.empty_database().replace("postgres@", f"postgres:{PASSWORD}@")


@pytest.fixture(autouse=True)
def _here(monkeypatch, tmp_path, dsn):
    monkeypatch.chdir(tmp_path)
    for name in ("ORCH_URL", "ORCH_TENANT_ID"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("ORCH_STORE_URL", dsn)
    monkeypatch.setenv("ORCH_DATA_DIR", str(tmp_path / "data"))


def started(tmp_path, dsn, **settings):
    return RunningService(tmp_path / "data", STORE_URL=dsn, PROVIDER_RATE=500, BARS="1s", **settings)


def said(capsys, *args):
    capsys.readouterr()
    code = run([str(a) for a in args])
    out, err = capsys.readouterr()
    assert PASSWORD not in out + err
    return code, out


def stored(dsn, what="count(*)"):
    found = run_server_query(dsn, "default", f"select {what} as n from trades", limits=QueryLimits(timeout_s=120))
    return found.table.column("n")[0].as_py()


def assert_balanced(capsys):
    code, out = said(capsys, "audit", "ledger", "--json")
    found = json.loads(out)
    assert code == 0, found
    assert {c["what"] for c in found["checks"]} >= {"unaccounted for", "rows in its tables", "events in the log"}


def test_one_setting_keeps_everything_in_postgresql(tmp_path, dsn, capsys):
    """Data is stored and served, commands ask the server, and nobody is shown the password."""
    with started(tmp_path, dsn) as service:
        service.wait_healthy(40)
        eventually(lambda: stored(dsn) > 0, 20, "trades are stored")
        symbol = eventually(lambda: bars_of(capsys), 20, "bars are stored")
        headers = {"X-API-Key": KeyStore(tmp_path / "data" / "api-keys.jsonl").add("some-viewer", Role.VIEWER)}
        with httpx.Client(base_url=service.url, headers=headers, timeout=30, trust_env=False) as client:
            assert client.get("/bars", params={"symbol": symbol, "interval": "1s"}).json()["items"]
            answer = client.post("/query", json={"sql": "select count(*) as n from bars_revisions"}).json()
            assert answer["rows"][0][0] > 0
            assert "'pg_sleep' is not allowed" in client.post("/query", json={"sql": "select pg_sleep(1)"}).text
            assert PASSWORD not in client.get("/plan").text
        status = service.get("/status").text
        assert PASSWORD not in status
        assert json.loads(status)["store"]["url"].startswith("postgresql://postgres:***@")
        assert eventually(lambda: service.get("/status").json()["store"]["tables"].get("trades"), 10, "it is described")
        assert re.search(r"PostgreSQL \d+\S* answers", " ".join(said(capsys, "doctor")[1].split()))
        assert said(capsys, "plan")[0] == 0
        assert service.stop() == 0, service.output()
        assert PASSWORD not in service.output()
    assert_balanced(capsys)
    assert not (tmp_path / "data" / "lake").exists()
    kept = [path for path in (tmp_path / "data").rglob("*") if path.is_file()]
    assert [path for path in kept if PASSWORD.encode() in path.read_bytes()] == []


def test_doctor_says_that_the_server_is_away(tmp_path, monkeypatch, capsys):
    """As a failed check of the store, without the password."""
    monkeypatch.setenv("ORCH_STORE_URL", f"postgresql://user:{PASSWORD}@127.0.0.1:1/db")
    code, out = said(capsys, "doctor", "--json")
    assert code == 1
    assert [f["state"] for f in json.loads(out) if f["check"] == "store"] == ["failed"]


def bars_of(capsys):
    _, out = said(capsys, "query", "select symbol from bars", "--limit", "1", "--json")
    rows = json.loads(out)["rows"]
    return rows and rows[0]["symbol"]


def restarts(dsn):
    with psycopg.connect(dsn) as connection:
        found = connection.execute("SELECT count(*) FROM mds.gaps WHERE cause = 'restart' AND to_ns > from_ns")
        return found.fetchone()[0]


def test_a_service_that_is_killed_goes_on_with_nothing_lost_or_doubled(tmp_path, dsn, capsys):
    """Killed while it stores, and started again on the same database."""
    with started(tmp_path, dsn) as service:
        service.wait_healthy(40)
        eventually(lambda: stored(dsn) > 100, 20, "trades are stored")
        service.stop(signal.SIGKILL)
    before = stored(dsn)
    with started(tmp_path, dsn) as service:
        service.wait_healthy(40)
        eventually(lambda: stored(dsn) > before + 100, 20, "it goes on")
        eventually(lambda: restarts(dsn) == 1, 10, "the gap is shown in the database")
        assert service.stop() == 0, service.output()
    assert stored(dsn) == stored(dsn, "count(distinct seq)")
    assert_balanced(capsys)


def test_a_server_that_is_killed_loses_and_doubles_nothing(tmp_path, server, dsn, capsys):
    """While it is away health names the store, and receiving goes on; then what was received is stored, once."""
    with started(tmp_path, dsn) as service:
        service.wait_healthy(40)
        eventually(lambda: stored(dsn) > 100, 20, "trades are stored")
        server.kill()
        eventually(lambda: "store" in trouble(service), 40, "health names the store")
        assert PASSWORD not in json.dumps(trouble(service))
        end = service.get("/status").json()["log"]["end"]
        eventually(lambda: service.get("/status").json()["log"]["end"] > end + 200, 20, "receiving goes on")
        server.start()
        eventually(lambda: not trouble(service), 60, "all is well again")
        assert service.get("/status").json()["ledger"]["unaccounted"] == 0
        assert service.stop() == 0, service.output()
    assert stored(dsn) == stored(dsn, "count(distinct seq)")
    assert_balanced(capsys)


def trouble(service):
    components = service.get("/health").json()["components"]
    return {c["name"]: c["detail"] for c in components if c["state"] != "healthy"}
