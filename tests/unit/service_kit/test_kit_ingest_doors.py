"""Ingestion control inside the service: on the record, and not too often."""

from __future__ import annotations

from kit_world import ADMIN, container_in, running

from market_data_core.web.auth import KeyStore, Role

START = {"provider": "synthetic", "dry_run": True}


async def test_who_asks_for_what_is_on_the_record(tmp_path):
    """What was done, with the provider; what failed; and who was not let in."""
    container = container_in(tmp_path)
    viewer = {"X-API-Key": KeyStore(tmp_path / "data" / "api-keys.jsonl").add("vic", Role.VIEWER)}
    key = {"X-API-Key": ADMIN}
    async with running(container) as client:
        assert (await client.post("/runtime/ingest/start", json=START, headers=key)).status_code == 200
        assert (await client.post("/runtime/ingest/start", json=START, headers=key)).status_code == 409
        assert (await client.post("/runtime/ingest/stop", headers=viewer)).status_code == 403
        assert (await client.post("/runtime/ingest/stop", headers=key)).status_code == 200
        assert (await client.post("/runtime/ingest/reload", headers=key)).status_code == 200
        events = (await client.get("/audit/events", headers=key)).json()["events"]
    told = [
        (e["actor"], e["action"], e["target"], e["result"]["status"]) for e in reversed(events) if e["actor"] != "audit"
    ]
    assert told == [
        ("configured-key", "runtime.ingest.start", "synthetic", "ok"),
        ("configured-key", "runtime.ingest.start", "synthetic", "error"),
        ("vic", "runtime.ingest.stop", "/runtime/ingest/stop", "denied"),
        ("configured-key", "runtime.ingest.stop", "*", "ok"),
        ("configured-key", "runtime.ingest.reload", "", "ok"),
    ]


async def test_actions_are_limited_by_actor_and_action(tmp_path):
    """The sixth stop of a minute is refused; looking is not limited, nor is another action or the service's reload."""
    container = container_in(tmp_path)
    key = {"X-API-Key": ADMIN}
    async with running(container) as client:
        codes = [(await client.post("/runtime/ingest/stop", headers=key)).status_code for _ in range(6)]
        assert codes == [200] * 5 + [429]
        for _ in range(6):
            assert (await client.get("/runtime/ingest/status", headers=key)).status_code == 200
        for _ in range(5):
            assert (await client.post("/runtime/ingest/reload", headers=key)).status_code == 200
        assert (await client.post("/control/reload", headers=key)).status_code == 200
        text = (await client.get("/metrics")).text
    assert 'orchestrator_rate_limit_hits_total{action="ingest_stop",result="denied"} 1.0' in text
