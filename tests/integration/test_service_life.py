"""The service from its start to its end, as a process."""

from __future__ import annotations

import asyncio
import json
import signal
import time

import httpx
import pytest
import websockets

from market_data_orchestrator.audit.ledger import audit_ledger
from market_data_orchestrator.composition import engine_settings
from market_data_orchestrator.settings import load_settings
from market_data_store.query import run_query
from support.service import RunningService, eventually


def query(service: RunningService, sql: str) -> list[dict]:
    return run_query(service.data_dir / "lake", "default", sql).table.to_pylist()


def assert_ledger_agrees(service: RunningService) -> None:
    checks = audit_ledger(engine_settings(load_settings(data_dir=service.data_dir)))
    assert [c for c in checks if not c.agrees] == []
    assert {c.what for c in checks} >= {"unaccounted for", "rows in its tables", "events in the log"}


def test_data_flows_into_a_store_that_can_be_asked_while_it_runs(tmp_path):
    """Health soon, data within seconds, rows at most 3 s old, and a clean end with a ledger that balances."""
    with RunningService(tmp_path / "data", BARS="1s") as service:
        status = service.wait_healthy()
        assert status["running"]
        assert status["provider"]["state"] == "live"
        eventually(lambda: query(service, "select count(*) as n from bars")[0]["n"] > 0, 15, "bars are stored")

        def age_s():
            newest = query(service, "select max(ts_recv) as t from trades")[0]["t"]
            return time.time() - newest / 1e9

        # Other tests want the processor too; the age of what a lone service has stored is measured, not tested.
        eventually(lambda: age_s() < 3, 20, "the newest rows are at most 3 s old")
        ledger = service.get("/status").json()["ledger"]
        assert ledger["unaccounted"] == 0
        assert ledger["received"] > 0
        assert service.stop() == 0, service.output()
        end = query(service, "select count(*) as n, count(distinct trade_id) as d from trades")[0]
        assert end["n"] == end["d"] > 0
        assert_ledger_agrees(service)


def test_what_was_received_before_a_stop_is_stored_by_it(tmp_path):
    """SIGTERM drains: everything in the log is in the tables when the process ends, and SIGINT does the same."""
    for number in (signal.SIGTERM, signal.SIGINT):
        with RunningService(tmp_path / f"data{int(number)}", PROVIDER_RATE=20000) as service:
            service.wait_healthy()
            assert service.stop(number) == 0
            said = audit_ledger(engine_settings(load_settings(data_dir=service.data_dir)))
            logged = next(c for c in said if c.what == "events in the log")
            stored = next(c for c in said if c.what == "rows in its tables")
            assert logged.counted == stored.counted == logged.ledger


async def test_stops_in_time_with_websocket_clients_that_do_not_read(tmp_path):
    """Connected clients, reading or not, do not hold up a stop; those that read are told that it ends."""
    with RunningService(tmp_path / "data", SYMBOLS=",".join(f"S{i}" for i in range(300))) as service:
        await asyncio.to_thread(service.wait_healthy)
        address = f"ws://127.0.0.1:{service.port}/ws/status"
        reading = await websockets.connect(address, max_size=None)
        deaf = [await websockets.connect(address, max_size=None, max_queue=1) for _ in range(20)]
        first = json.loads(await asyncio.wait_for(reading.recv(), 5))
        assert first["type"] == "status"
        assert first["data"]["service"] == "market-data-orchestrator"
        await asyncio.to_thread(
            eventually, lambda: service.get("/status").json()["ws_clients"] == 21, 5, "clients are counted"
        )
        started = time.monotonic()
        stopping = asyncio.create_task(asyncio.to_thread(service.stop))
        async with asyncio.timeout(15):
            async for _ in reading:
                pass
        assert await stopping == 0, service.output()
        assert time.monotonic() - started < 15
        for socket in deaf:
            socket.transport.abort()


async def test_a_status_socket_is_for_pages_of_the_service_alone(tmp_path):
    """A page from elsewhere is refused before anything is sent; messages keep coming to one that is not."""
    with RunningService(tmp_path / "data") as service:
        await asyncio.to_thread(service.wait_healthy)
        address = f"ws://127.0.0.1:{service.port}/ws/status"
        with pytest.raises(websockets.InvalidStatus):
            await websockets.connect(address, origin="https://elsewhere.example")
        async with websockets.connect(address, origin=service.url, max_size=None) as socket:
            messages = [json.loads(await asyncio.wait_for(socket.recv(), 5)) for _ in range(3)]
        assert messages[0]["data"]["ts"] < messages[2]["data"]["ts"]


def test_every_public_route_answers(tmp_path):
    """Probes, status, metrics of every family, the cockpit, and problem+json for what is not there."""
    with RunningService(tmp_path / "data") as service:
        service.wait_healthy()
        assert service.get("/livez").status_code == 200
        assert service.get("/readyz").json()["status"] == "ready"
        metrics = service.get("/metrics").text
        for family in ("orchestrator_status", "pipeline_events_total", "provider_connection_status",
                       "orchestrator_ws_clients", "mds_unaccounted_events", "mds_http_requests_total"):  # fmt: skip
            assert f"# TYPE {family}" in metrics or f"# TYPE {family.removesuffix('_total')}" in metrics, family
        assert "default-src 'none'" in service.get("/ui").headers["content-security-policy"]
        missing = service.get("/nothing-here")
        assert missing.status_code == 404
        assert missing.headers["content-type"] == "application/problem+json"


def test_killed_and_started_again_it_has_everything_once(tmp_path):
    """After kill -9 the next start recovers by itself, notes the gap, and has no trade twice."""
    data = tmp_path / "data"
    with RunningService(data, PROVIDER_RATE=5000) as service:
        service.wait_healthy()
        eventually(lambda: service.get("/status").json()["ledger"]["stored"] > 5000, 15, "rows are stored")
        service.process.kill()
        service.process.wait(10)
    with RunningService(data, PROVIDER_RATE=5000) as service:
        service.wait_healthy(30)
        eventually(lambda: service.get("/status").json()["ledger"]["stored"] > 15000, 20, "rows are stored again")
        assert service.stop() == 0, service.output()
        rows = query(service, "select count(*) as n, count(distinct trade_id) as d from trades")[0]
        assert rows["n"] == rows["d"] > 0
        assert_ledger_agrees(service)


def test_one_writer_per_data_directory(tmp_path):
    """A second service on the same data ends at once and says why; the first does not notice."""
    with RunningService(tmp_path / "data") as first:
        first.wait_healthy()
        with RunningService(tmp_path / "data") as second:
            assert second.process.wait(20) == 1
            assert "in use by another process" in second.output()
        assert first.get("/health").json()["state"] == "healthy"


@pytest.mark.parametrize(
    ("settings", "code", "says"),
    [
        ({"PROVIDER": "nobody"}, 2, "nobody"),
        ({"HEALTH_PORT": "99999"}, 2, "ORCH_HEALTH_PORT"),
        ({"WS_INTERVAL_SEC": "soon", "LOG_LEVEL": "LOUD"}, 2, "ORCH_LOG_LEVEL"),
        ({"BARS": "1x"}, 2, "1x"),
    ],
)
def test_wrong_settings_end_the_start_with_their_name(tmp_path, settings, code, says):
    """A wrong setting is named on standard error and in the exit code."""
    with RunningService(tmp_path / "data", **settings) as service:
        assert service.process.wait(20) == code
        assert says in service.output()


def test_an_address_that_is_taken_is_named(tmp_path):
    """A port in use is a clear error, not a traceback."""
    with RunningService(tmp_path / "one") as first:
        first.wait_healthy()
        with RunningService(tmp_path / "two", HEALTH_PORT=first.port) as second:
            assert second.process.wait(20) == 2
            assert f"127.0.0.1:{first.port}" in second.output()
            assert "Traceback" not in second.output()


def test_health_answers_while_it_starts(tmp_path):
    """The doors open before the data path is up: degraded first, never refused."""
    with RunningService(tmp_path / "data") as service:
        eventually(service.answers, 15, "the service answers")
        states = {httpx.get(f"{service.url}/health", trust_env=False).json()["state"]}
        service.wait_healthy()
        assert states <= {"degraded", "healthy"}
