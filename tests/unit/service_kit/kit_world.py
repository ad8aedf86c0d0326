"""A whole service within the test's process, its app called without a network."""

from __future__ import annotations

import asyncio
import time
from contextlib import asynccontextmanager

import httpx

from market_data_orchestrator.app import create_app
from market_data_orchestrator.container import ServiceContainer
from market_data_orchestrator.settings import OrchestratorSettings

ADMIN = "an-admin-key-of-the-tests"
DEADLINE_S = 15.0


async def until(claim, what):
    """Wait until a claim holds."""
    deadline_s = time.monotonic() + DEADLINE_S
    while not claim():
        assert time.monotonic() < deadline_s, what
        await asyncio.sleep(0.01)


def settings_in(folder, **given):
    """Settings that touch nothing outside of a folder."""
    config = folder / "configs" / "platform.yaml"
    config.parent.mkdir(exist_ok=True)
    config.write_text("tenant: default\n")
    usual = {
        "data_dir": folder / "data",
        "audit_log_path": folder / "audit.jsonl",
        "config": config,
        "api_key": ADMIN,
        "workers": "thread",
        "log_fsync": False,
        "provider_rate": 100.0,
    }
    return OrchestratorSettings(_env_file=None, **{**usual, **given})


@asynccontextmanager
async def running(container):
    """Run a container's service; gives a client of its app."""
    app = create_app(container)
    service = container.service
    transport = httpx.ASGITransport(app=app)
    async with service.running():
        await until(lambda: service.running_now.is_set() or service.failed.is_set(), "the service runs")
        assert not service.failed.is_set(), service.problem
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
            yield client


def container_in(folder, *, parts=None, **given):
    """Return a container with settings that touch nothing outside of a folder."""
    return ServiceContainer(settings_in(folder, **given), **(parts or {}))
