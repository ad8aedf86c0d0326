"""Gaps of a live feed closed from its provider's history, by the service itself."""

from __future__ import annotations

from contextlib import closing

import pytest

from market_data_store import open_backend
from market_data_store.backend import Wanted
from support.gateway import GatewayThread
from support.service import RunningService, eventually

SECOND_NS = 1_000_000_000
KEY = "key-of-the-tests-" + "x" * 24


@pytest.fixture
def gateway():
    made = GatewayThread()
    yield made
    made.close()


@pytest.fixture
def start(gateway, tmp_path):
    """Starts the service on the gateway, with bars of a second."""

    def started(**settings):
        of_ibkr = {"API_KEY": KEY, "PROVIDER": "ibkr", "PROVIDER_PORT": gateway.gateway.port, "PROVIDER_CLIENT_ID": 7}
        return RunningService(tmp_path / "data", SYMBOLS="AAPL,MSFT", BARS="1s", **of_ibkr, **settings)

    return started


def ask(service, method, path, **given):
    answer = service.client.request(method, f"{service.url}{path}", headers={"X-API-Key": KEY}, timeout=10, **given)
    assert answer.status_code < 300, answer.text
    return answer.json()


def gaps_of(service, cause):
    items = ask(service, "GET", "/gaps", params={"limit": 1000})["items"]
    return [gap for gap in items if gap["cause"] == cause]


def gap_of(service, cause, state, deadline_s=30):
    def found():
        return next((gap for gap in gaps_of(service, cause) if gap["state"] == state), None)

    return eventually(found, deadline_s, f"a gap of cause {cause} is {state}")


def filled_bars(folder, symbol):
    with closing(open_backend(str(folder / "lake"), "default")) as store:
        equal = {"interval": "1s", "what": "TRADES", "source": "external"}
        return store.fetch("bars", Wanted(symbols=(symbol,), equal=equal, versions=True)).to_pylist()


def seconds_of(gap):
    """The starts of the seconds that a gap touches."""
    return {s * SECOND_NS for s in range(gap["from_ns"] // SECOND_NS, -(-gap["to_ns"] // SECOND_NS))}


def test_a_lost_connection_is_filled_by_itself(start, gateway, tmp_path):
    """The gap of each symbol ends filled: its seconds are there as the vendor's bars; budgets and jobs show it."""
    with start() as service:
        service.wait_healthy(30)
        gateway.reset()
        eventually(lambda: len(gaps_of(service, "disconnected")) == 2, 20, "two gaps")
        eventually(lambda: {g["state"] for g in gaps_of(service, "disconnected")} == {"filled"}, 40, "both are filled")
        found = gaps_of(service, "disconnected")
        assert {gap["symbol"] for gap in found} == {"AAPL", "MSFT"}
        for gap in found:
            stored = filled_bars(tmp_path / "data", gap["symbol"])
            assert {row["ts_event"] for row in stored} == seconds_of(gap)
            assert {(row["vendor"], row["origin"], row["reason"]) for row in stored} == {
                ("ibkr", "backfill", f"backfill of gap {gap['id']}")
            }
            assert f"{len(stored)} bars stored" in gap["detail"]
        (budget,) = ask(service, "GET", "/budgets")["items"]
        assert (budget["provider"], budget["capacity"], budget["tokens"] < 60) == ("ibkr", 60, True)

        def states():
            return {job["state"] for job in service.get("/status").json()["jobs"] if job["kind"] == "backfill"}

        eventually(lambda: states() == {"done"}, 10, "both jobs are done")
        assert service.get("/status").json()["ledger"]["unaccounted"] == 0
        assert service.stop() == 0


def test_a_pause_is_filled_once_it_is_over_even_by_the_next_process(start, tmp_path):
    """Nothing is asked for while it lasts; killed meanwhile, the service that is resumed fills all of it."""
    with start() as service:
        service.wait_healthy(30)
        ask(service, "POST", "/control/pause")
        (gap,) = gaps_of(service, "paused")
        assert (gap["vendor"], gap["symbol"], gap["to_ns"]) == ("ibkr", "*", None)
        service.process.kill()
    with start() as service:
        eventually(service.answers, 30, "the service answers")
        eventually(lambda: service.get("/health").json()["state"] == "healthy", 30, "the service is healthy")
        assert [job for job in service.get("/status").json()["jobs"] if job["kind"] == "backfill"] == []
        ask(service, "POST", "/control/resume")
        gap = gap_of(service, "paused", "filled", 40)
        for symbol in ("AAPL", "MSFT"):
            starts = [row["ts_event"] for row in filled_bars(tmp_path / "data", symbol)]
            assert seconds_of(gap) <= set(starts)
            assert len(starts) == len(set(starts)), "a bar has two versions"


def test_what_the_provider_refuses_is_unfillable_and_says_why(start, gateway, tmp_path):
    """One symbol without permission: the other one's bars are stored, the gap names the refusal and is not filled."""
    with start(BACKFILL="manual") as service:
        service.wait_healthy(30)
        gateway.gateway.deny["MSFT"] = 354
        ask(service, "POST", "/control/pause")
        ask(service, "POST", "/control/resume")
        (gap,) = gaps_of(service, "paused")
        assert gap["state"] == "open", "nobody has asked for it"
        job = ask(service, "POST", "/backfill", json={"gap_id": gap["id"]})
        assert (job["gap_id"], job["provider"]) == (gap["id"], "ibkr")
        gap = gap_of(service, "paused", "unfillable")
        assert "MSFT" in gap["detail"]
        assert "AAPL" not in gap["detail"]
        assert {row["ts_event"] for row in filled_bars(tmp_path / "data", "AAPL")} == seconds_of(gap)
        assert filled_bars(tmp_path / "data", "MSFT") == []

        def failed():
            jobs = service.get("/status").json()["jobs"]
            return [job["error"] for job in jobs if job["kind"] == "backfill" and job["state"] == "failed"]

        (error,) = eventually(failed, 10, "the job has failed")
        assert "MSFT" in error


def test_a_service_killed_while_it_waits_for_history_goes_on_at_once(start, gateway, tmp_path):
    """Nobody waits for the job of a process that is gone to grow stale."""
    gateway.gateway.mute_history = True
    with start() as service:
        service.wait_healthy(30)
        ask(service, "POST", "/control/pause")
        ask(service, "POST", "/control/resume")
        eventually(lambda: gateway.gateway.asked(20), 30, "history is asked for")
        service.process.kill()
    gateway.gateway.mute_history = False
    with start() as service:
        service.wait_healthy(30)
        gap = gap_of(service, "paused", "filled", 30)
        assert seconds_of(gap) <= {row["ts_event"] for row in filled_bars(tmp_path / "data", "AAPL")}
