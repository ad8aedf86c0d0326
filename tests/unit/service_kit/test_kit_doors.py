"""The doors before the service has read its keys."""

from __future__ import annotations

import httpx
import pytest

from market_data_orchestrator.app import create_app
from market_data_orchestrator.service import Service
from market_data_orchestrator.settings import load_settings


@pytest.fixture
async def client(tmp_path):
    app = create_app(Service(load_settings(data_dir=tmp_path, audit_log_path=tmp_path / "audit.jsonl")))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://127.0.0.1") as made:
        yield made


@pytest.mark.parametrize("headers", [{"X-API-Key": "k" * 40}, {"Authorization": "Bearer " + "k" * 40}])
async def test_a_key_that_cannot_be_checked_yet_is_not_called_wrong(client, headers):
    """503 with what is going on, however often, and no guess is counted; without a key it is 401 as ever."""
    for _ in range(20):
        answer = await client.get("/control/status", headers=headers)
        assert (answer.status_code, "starting" in answer.text) == (503, True), answer.text
    assert (await client.get("/control/status")).status_code == 401
    failures = [line for line in (await client.get("/metrics")).text.splitlines() if "auth_failures_total{" in line]
    assert {line.rsplit(" ", 1)[1] for line in failures if "invalid" in line or "unknown" in line} <= {"0.0"}
