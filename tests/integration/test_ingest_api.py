"""Ingestion control as its users run it: uvicorn, in a process of its own."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pyarrow.compute as pc
import pytest
from deltalake import DeltaTable

from support.service import eventually, free_port

ROOT = Path(__file__).resolve().parents[2]
KEY = "the-configured-key"
DRY = {"provider": "synthetic", "dry_run": True}


class Running:
    """``uvicorn market_data_pipeline.runners.api:app`` over a data directory."""

    def __init__(self, folder, **settings):
        self.folder = folder
        self.data = folder / "data"
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        (folder / "configs").mkdir(exist_ok=True)
        settings = {"DATA_DIR": self.data, "CONFIG": folder / "configs" / "platform.yaml", **settings}
        self.env = {k: v for k, v in os.environ.items() if not k.startswith("ORCH_")}
        self.env |= {f"ORCH_{name}": str(value) for name, value in settings.items()}
        self.stderr = folder / "stderr"
        with self.stderr.open("ab") as errors:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "uvicorn", "market_data_pipeline.runners.api:app", "--port", str(self.port)],
                env=self.env,
                cwd=folder,
                stdout=errors,
                stderr=errors,
            )
        self.client = httpx.Client(trust_env=False, verify=False, timeout=30)
        eventually(self.ready, 20, "the service is ready")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(10)
        self.client.close()

    def ready(self):
        assert self.process.poll() is None, self.stderr.read_text()
        try:
            return self.client.get(f"{self.url}/readyz").status_code == 200
        except httpx.HTTPError:
            return False

    def call(self, method, path, body=None, *, key=KEY):
        headers = {} if key is None else {"X-API-Key": key}
        url = f"{self.url}/runtime/ingest/{path}"
        return self.client.request(method, url, json=body, headers=headers)

    def status(self):
        return self.call("GET", "status").json()

    def metrics(self):
        text = self.client.get(f"{self.url}/metrics").text
        pairs = (line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
        return {name: float(value) for name, value in pairs}

    def stop(self, number=signal.SIGTERM):
        self.process.send_signal(number)
        return self.process.wait(30)

    def rows(self, table):
        folder = self.data / "lake" / "default" / table
        return DeltaTable(str(folder)).to_pyarrow_table()


@pytest.fixture(scope="module")
def service(tmp_path_factory):
    """One for all that neither write nor change its configuration."""
    with Running(tmp_path_factory.mktemp("ingest"), API_KEY=KEY) as running:
        yield running


def test_a_dry_run_over_http(service):
    """Every answer of the published interface, in the order a user meets them."""
    stops = 'ingest_stops_total{provider="synthetic",reason="operator_request"}'
    before = service.metrics()[stops]
    status = service.status()
    assert (status["running"], status["active_provider"], status["dry_run"]) == (False, None, False)
    assert status["providers"]["synthetic"]["enabled"] is True
    assert status["policy"]["guards"]["require_symbols_nonempty"] is True
    started = service.call("POST", "start", DRY)
    assert started.json() == {"status": "started", "provider": "synthetic", "dry_run": True, "store_mode": "none"}
    assert service.call("POST", "start", DRY).status_code == 409
    suppressed = 'ingest_writes_suppressed_total{reason="dry_run"}'
    eventually(lambda: service.metrics()[suppressed] > 0, 10, "events are counted")
    assert service.metrics()['ingest_active{provider="synthetic"}'] == 1
    stopped = service.call("POST", "stop").json()
    assert (stopped["status"], stopped["reason"]) == ("stopped", "operator_request")
    assert service.call("POST", "stop", {"provider": "synthetic"}).json() == {"status": "idle"}
    assert service.metrics()[stops] == before + 1
    assert not (service.data / "log").exists()
    assert not (service.data / "lake").exists()


def test_wrong_requests_are_told_so(service):
    """404 for a provider nobody configured, 400 for one that may not be started, 422 for what is no such request."""
    for body, code in (
        ({"provider": "nobody", "dry_run": True}, 404),
        ({"provider": "replay", "dry_run": True}, 400),
        (DRY | {"symbols": []}, 400),
        (DRY | {"override_params": {"clock": 1}}, 400),
        (DRY | {"dryrun": True}, 422),
        ({}, 422),
    ):
        response = service.call("POST", "start", body)
        assert (response.status_code, response.headers["content-type"]) == (code, "application/problem+json"), body
    assert service.call("POST", "stop", {"provider": "nobody"}).status_code == 404
    assert service.status()["running"] is False


def test_only_operators_and_above_are_let_in(service):
    """Reading the status, too; the failures are counted."""
    before = service.metrics()
    for method, path in (("GET", "status"), ("POST", "start"), ("POST", "stop"), ("POST", "reload")):
        assert service.call(method, path, key=None).status_code == 401
        assert service.call(method, path, key="wrong").status_code == 401
    after = service.metrics()
    for reason in ("missing", "invalid"):
        name = f'ingest_auth_failures_total{{reason="{reason}"}}'
        assert after[name] - before[name] == 4


def test_a_reload_takes_what_is_right_and_refuses_what_is_wrong(tmp_path):
    """The old configuration stands, and every mistake is named with file, line and key."""
    with Running(tmp_path, API_KEY=KEY) as service:
        providers, policy = (service.folder / "configs" / f"{n}.yaml" for n in ("data_providers", "ingestion_policy"))
        providers.write_text("providers:\n  fast: {provider: synthetic, enabled: true, symbols: [A]}\n")
        answer = service.call("POST", "reload")
        assert (answer.status_code, answer.json()["providers"]) == (200, ["fast"])
        policy.write_text("write_path:\n  enabled: perhaps\n")
        providers.write_text("providers:\n  fast: {enabld: true}\n")
        answer = service.call("POST", "reload")
        assert answer.status_code == 400
        assert {error["field"] for error in answer.json()["errors"]} == {"providers.fast.enabld", "write_path.enabled"}
        assert "data_providers.yaml:2" in answer.json()["detail"]
        assert list(service.status()["providers"]) == ["fast"]


def test_without_a_key_the_first_start_makes_one(tmp_path):
    """Readable by its owner alone, said in the log, and good for an operator's work."""
    with Running(tmp_path) as service:
        place = service.data / "first-key"
        assert stat.S_IMODE(place.stat().st_mode) == 0o600
        key = place.read_text().strip()
        assert service.call("POST", "start", DRY, key=key).status_code == 200
        log = service.stderr.read_text()
    assert str(place) in log
    assert key not in log


def test_what_is_started_is_stored_and_goes_on_after_a_kill(tmp_path):
    """The store has the events of before and after, each once, and the run is the same one."""
    with Running(tmp_path, API_KEY=KEY) as service:
        assert service.call("POST", "start", {"provider": "synthetic"}).json()["dry_run"] is False
        eventually(lambda: service.status()["runs"][0]["events"] > 500, 20, "events are written")
        since_ns = service.status()["runs"][0]["since_ns"]
        service.stop(signal.SIGKILL)
    with Running(tmp_path, API_KEY=KEY) as service:
        run = eventually(
            lambda: (r := service.status()["runs"][0])["state"] == "live" and r["events"] > 500 and r, 30, "it goes on"
        )
        assert run["since_ns"] == since_ns
        assert service.metrics()['ingest_starts_total{provider="synthetic"}'] == 1
        assert service.call("POST", "stop").json()["status"] == "stopped"
        # uvicorn ends by the signal it was sent, once it has shut down.
        assert service.stop() in (0, -signal.SIGTERM)
        assert service.stderr.read_text().rstrip().splitlines()[-1].startswith("INFO:     Finished server process")
    for table in ("quotes", "trades"):
        seqs = service.rows(table).column("seq")
        assert len(seqs) == pc.count_distinct(seqs).as_py() > 100


@pytest.mark.parametrize("key", [KEY, "wrong"])
def test_the_smoke_script_agrees(service, key):
    """It passes against a service that works, and fails with curl's code where it is not let in."""
    env = os.environ | {"BASE": service.url, "API_KEY": key}
    done = subprocess.run([ROOT / "scripts" / "ingest_smoke.sh"], env=env, capture_output=True, text=True, timeout=60)
    if key == KEY:
        assert (done.returncode, done.stdout.splitlines()[-1]) == (0, "ok"), done.stderr
    else:
        assert done.returncode == 22
        assert '"status":401' in done.stderr
        assert "wrong" not in done.stderr


def test_the_smoke_script_fails_where_nobody_answers():
    """With curl's code for that."""
    started = time.monotonic()
    env = os.environ | {"BASE": f"http://127.0.0.1:{free_port()}", "API_KEY": KEY}
    done = subprocess.run([ROOT / "scripts" / "ingest_smoke.sh"], env=env, capture_output=True, timeout=60)
    assert done.returncode == 7
    assert time.monotonic() - started < 30
