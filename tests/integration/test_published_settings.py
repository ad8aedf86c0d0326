"""The service under the settings example that existing users have, as the file it came as."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import httpx
import pytest

from support.service import RunningService, eventually

EXAMPLE = Path(__file__).resolve().parents[2] / "docs" / "reference" / "published.env"
KEY = "your-secure-random-key-here"


@pytest.fixture
def service(tmp_path):
    """What the example says, but for the port, which is a free one."""
    folder = tmp_path / "data"
    folder.mkdir()
    shutil.copy(EXAMPLE, folder / ".env")
    # What the harness would set otherwise is set to what the example says; all else comes from the file.
    said = dict(line.split("=", 1) for line in EXAMPLE.read_text("utf-8").splitlines())
    same = {name: said[f"ORCH_{name}"] for name in ("AUDIT_LOG_PATH", "LOG_FORMAT", "WS_INTERVAL_SEC")}
    with RunningService(folder, **same) as running:
        eventually(running.answers, 30, "the service answers")
        eventually(lambda: running.get("/readyz").status_code == 200, 30, "the service is ready")
        yield running


def call(service, method, path, **headers):
    headers = {"X-API-Key": KEY, **headers}
    return httpx.request(method, f"{service.url}{path}", headers=headers, timeout=30, trust_env=False)


def test_the_published_example_runs(service):
    """Without the Redis and the issuer that it names: degraded where they lack, and everything else works."""
    health = service.get("/health")
    assert health.status_code == 200

    def components():
        return {c["name"]: c for c in service.get("/health").json()["components"]}

    eventually(lambda: components()["runtime"]["state"] == "healthy", 20, "the data path is well")
    assert "redis://localhost:6379/0" in components()["feedback_bus"]["detail"]
    assert call(service, "GET", "/auth/ping").json() == {"status": "ok", "user": "configured-key", "role": "admin"}
    assert call(service, "POST", "/control/pause").json()["detail"] == "Orchestrator paused"
    assert [call(service, "POST", "/control/resume").status_code for _ in range(6)] == [200] * 5 + [429]
    peers = call(service, "GET", "/federation/list").json()["peers"]
    assert len(peers) == 2
    token = "eyJhbGciOiJSUzI1NiIsImtpZCI6ImEifQ.e30.c2lnbmF0dXJl"
    bearer = {"Authorization": f"Bearer {token}"}
    answer = httpx.get(f"{service.url}/auth/ping", headers=bearer, timeout=30, trust_env=False)
    assert answer.status_code in (401, 503)
    assert service.stop() == 0
    assert (service.data_dir / "logs" / "audit.jsonl").exists()
    lines = [json.loads(line) for line in service.output().splitlines() if line.startswith("{")]
    assert lines
    assert all(line.keys() == {"timestamp", "level", "logger", "message", "extra"} for line in lines)
    assert KEY not in service.output()
