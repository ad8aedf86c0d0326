"""Pause, resume and reload of the running service: what is stored, what is missing, and how long it takes."""

from __future__ import annotations

import threading
import time
from contextlib import contextmanager

import httpx
import numpy as np
import pyarrow as pa
import pytest

from market_data_core.web.auth import FIRST_KEY_FILE
from market_data_store.lake import Lake
from market_data_store.state import State
from support.service import RunningService, eventually

RATE = 5000
# What an operator may have to wait, also on a busy machine; how long it was is recorded below, usually a tenth of it.
ACTION_S, LIVE_S = 20.0, 30.0
PLATFORM = """
providers:
  feed:
    provider: synthetic
    symbols: [{symbols}]
    params: {{ rate: 5000 }}
"""


class Controlled:
    """A service that may be acted on without limits, from a file that may be changed."""

    def __init__(self, folder):
        self.data_dir = folder / "data"
        self.config = folder / "platform.yaml"
        self.watch("AAA", "BBB")

    def watch(self, *symbols):
        self.config.write_text(PLATFORM.format(symbols=", ".join(symbols)))

    @contextmanager
    def running(self):
        settings = {"CONFIG": self.config, "RATE_LIMIT_ENABLED": "false"}
        with RunningService(self.data_dir, **settings) as self.service:
            self.service.wait_healthy(30)
            key = (self.data_dir / FIRST_KEY_FILE).read_text().strip()
            with httpx.Client(base_url=self.service.url, headers={"X-API-Key": key}, trust_env=False) as self.client:
                yield self

    def act(self, action):
        """Do it; return when it was asked for, when it was answered (both UTC nanoseconds), and the answer."""
        asked_ns = time.time_ns()
        answer = self.client.post(f"/control/{action}", timeout=30)
        answered_ns = time.time_ns()
        assert answer.status_code == 200, answer.text
        assert (answered_ns - asked_ns) / 1e9 < ACTION_S
        return asked_ns, answered_ns, answer.json()["detail"]

    def status(self):
        return self.service.get("/status").json()

    def received(self, since_ns=0, until_ns=1 << 62):
        """Symbols of what is stored and was received in that time."""
        lake = Lake(self.data_dir / "lake", "default")
        found = []
        for name in ("quotes", "trades"):
            table = lake.read(name)
            times = np.asarray(table.column("ts_recv").cast("int64"))
            symbols = table.column("symbol").filter(pa.array((times > since_ns) & (times < until_ns)))
            found += symbols.to_pylist()
        return found

    def gaps(self, cause="paused"):
        state = State(self.data_dir / "state.db")
        try:
            return [gap for gap in state.list_gaps() if gap.cause == cause]
        finally:
            state.close()

    def lets_go(self, count=RATE // 2):
        """Wait until so many events have come and were let go."""
        seen = self.status()["sources"][0]["discarded"]
        eventually(lambda: self.status()["sources"][0]["discarded"] > seen + count, 15, "events come and are let go")


@pytest.fixture
def controlled(tmp_path):
    with Controlled(tmp_path).running() as running:
        yield running


def test_nothing_received_after_the_answer_is_stored_and_the_gap_says_so(controlled, record_property):
    """To the nanosecond, at full rate: what came before is there, what came meanwhile is a gap, then it flows."""
    eventually(controlled.received, 15, "events are stored")
    asked_ns, paused_ns, said = controlled.act("pause")
    assert said == "Orchestrator paused"
    stored = len(controlled.received())
    (gap,) = controlled.gaps()
    assert (gap.vendor, gap.to_ns, asked_ns < gap.from_ns < paused_ns) == ("feed", None, True)
    controlled.lets_go()
    assert len(controlled.received()) == stored

    resuming_ns, resumed_ns, _ = controlled.act("resume")
    eventually(lambda: controlled.received(resumed_ns), LIVE_S, "events are stored again")
    live_ns = time.time_ns()
    assert controlled.received(paused_ns, resuming_ns) == []
    (gap,) = controlled.gaps()
    assert resuming_ns < gap.to_ns < resumed_ns
    # What is within the gap is not stored, what is stored is not within the gap.
    assert controlled.received(gap.from_ns + 10**9, gap.to_ns) == []
    assert controlled.status()["ledger"]["unaccounted"] == 0
    record_property("pause_s", (paused_ns - asked_ns) / 1e9)
    record_property("resume_s", (resumed_ns - resuming_ns) / 1e9)
    record_property("resume_to_stored_s", (live_ns - resumed_ns) / 1e9)


def test_a_paused_service_that_is_killed_comes_back_paused(tmp_path):
    """After kill -9 nothing is stored until somebody resumes; the gap of before then ends."""
    world = Controlled(tmp_path)
    with world.running():
        eventually(world.received, 15, "events are stored")
        _, paused_ns, _ = world.act("pause")
        stored = len(world.received())
        world.service.process.kill()
        world.service.process.wait(10)
    with world.running():
        status = world.status()
        assert (status["paused"], status["runtime"]["state"]) == (True, "paused")
        world.lets_go()
        assert len(world.received()) == stored
        resuming_ns, resumed_ns, said = world.act("resume")
        assert said == "Orchestrator resumed"
        eventually(lambda: world.received(resumed_ns), LIVE_S, "events are stored again")
        assert world.received(paused_ns, resuming_ns) == []
        assert [gap for gap in world.gaps() if gap.to_ns is None] == []
        assert world.service.stop() == 0, world.service.output()


def test_a_new_watchlist_is_live_with_the_answer(controlled, record_property):
    """What was left out comes no more, what was added does, and what stayed is not interrupted; nothing is lost."""
    eventually(lambda: {"AAA", "BBB"} <= set(controlled.received()), 15, "both are stored")
    controlled.watch("BBB", "CCC")
    asked_ns, answered_ns, _ = controlled.act("reload")
    eventually(lambda: "CCC" in controlled.received(answered_ns), LIVE_S, "the new one is stored")
    live_ns = time.time_ns()
    assert set(controlled.received(answered_ns)) == {"BBB", "CCC"}
    assert controlled.status()["ledger"]["unaccounted"] == 0
    record_property("reload_s", (answered_ns - asked_ns) / 1e9)
    record_property("reload_to_stored_s", (live_ns - answered_ns) / 1e9)


def test_a_reload_while_paused_takes_effect_with_the_resume(controlled):
    """It does not resume by the way."""
    eventually(controlled.received, 15, "events are stored")
    controlled.act("pause")
    stored = len(controlled.received())
    controlled.watch("DDD")
    controlled.act("reload")
    assert controlled.status()["paused"]
    controlled.lets_go()
    assert len(controlled.received()) == stored
    _, resumed_ns, _ = controlled.act("resume")
    eventually(lambda: controlled.received(resumed_ns), LIVE_S, "events are stored again")
    assert set(controlled.received(resumed_ns)) == {"DDD"}


def test_a_wrong_file_changes_nothing(controlled):
    """It is said where it is wrong, and what ran runs on."""
    controlled.config.write_text(PLATFORM.format(symbols="EEE") + "sinks:\n  store: { sink: nowhere-at-all }\n")
    answer = controlled.client.post("/control/reload", timeout=30)
    assert answer.status_code == 400
    assert "nowhere-at-all" in answer.json()["detail"]
    now_ns = time.time_ns()
    eventually(lambda: controlled.received(now_ns), LIVE_S, "events are stored")
    assert set(controlled.received()) == {"AAA", "BBB"}
    assert controlled.service.get("/health").json()["state"] == "healthy"


def test_killed_while_acting_it_has_every_answered_action_on_record(tmp_path):
    """The audit chain is whole after kill -9 under many actions, and goes on."""
    world = Controlled(tmp_path)
    answered = []
    with world.running():

        def toggle():
            for number in range(10_000):
                action = ("pause", "resume")[number % 2]
                try:
                    done = world.client.post(f"/control/{action}", timeout=30, headers={"X-Request-ID": f"n-{number}"})
                except httpx.HTTPError:
                    return
                assert done.status_code == 200, done.text
                answered.append(number)

        acting = threading.Thread(target=toggle, name="acting")
        acting.start()
        eventually(lambda: len(answered) > 4, 60, "some actions are done")
        world.service.process.kill()
        world.service.process.wait(10)
        acting.join(30)
    with world.running():
        verdict = world.client.get("/audit/verify").json()
        assert verdict["ok"], verdict
        events = world.client.get("/audit/events?limit=1000").json()["events"]
        assert world.act("resume")[2].startswith("Orchestrator resumed")
        assert world.client.get("/audit/verify").json()["ok"]
        recorded = {event["request_id"] for event in events}
        assert {f"n-{number}" for number in answered} <= recorded
