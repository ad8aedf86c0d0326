"""A controller over real configuration files and a real capture, and what the tests wait with."""

from __future__ import annotations

import asyncio
import time
from contextlib import asynccontextmanager

import pytest
import yaml
from prometheus_client import CollectorRegistry

from market_data_core.clock import SystemClock
from market_data_pipeline.capture import Capture, CaptureSettings
from market_data_pipeline.log import LogWriter
from market_data_pipeline.runners import IngestController, IngestMetrics

DEADLINE_S = 10.0


async def until(claim, what):
    """Wait until `claim` gives something true and return it."""
    end = time.monotonic() + DEADLINE_S
    while not (found := claim()):
        assert time.monotonic() < end, f"not within {DEADLINE_S} s: {what}"
        await asyncio.sleep(0.005)
    return found


class Desk:
    """Everything around one controller; `opened` may be entered again, as after a restart."""

    def __init__(self, folder, capture):
        self.folder = folder
        self.configs = folder / "configs"
        self.configs.mkdir()
        self.capture = capture
        self.refusal = self.stop_refusal = None
        self.clock = SystemClock()
        self.given = {}
        self.restarted()

    def restarted(self):
        self.registry = CollectorRegistry()
        self.metrics = IngestMetrics(self.registry)

    def start_source(self, source):
        if self.refusal is not None:
            raise self.refusal
        return self.capture.add(source, {})

    def stop_source(self, name):
        if self.stop_refusal is not None:
            raise self.stop_refusal
        self.capture.remove(name)

    def providers(self, **entries):
        (self.configs / "data_providers.yaml").write_text(yaml.safe_dump({"providers": entries}))

    def policy(self, **parts):
        (self.configs / "ingestion_policy.yaml").write_text(yaml.safe_dump(parts))

    def count(self, name, **labels):
        return self.registry.get_sample_value(name, labels)

    @asynccontextmanager
    async def opened(self):
        controller = IngestController(
            configs=self.configs,
            state_dir=self.folder / "state",
            metrics=self.metrics,
            start_source=self.start_source,
            stop_source=self.stop_source,
            clock=self.clock,
            **self.given,
        )
        async with controller.running():
            yield controller


@pytest.fixture
def log(tmp_path):
    writer = LogWriter(tmp_path / "log")
    yield writer
    writer.close()


@pytest.fixture
def desk(tmp_path, log):
    capture = Capture(log, settings=CaptureSettings(barrier_s=0.02))
    capture.start()
    yield Desk(tmp_path, capture)
    capture.stop()


@pytest.fixture
def eventually():
    """Waits for a condition with a deadline."""
    return until


@pytest.fixture
def trades_file(tmp_path):
    """A recording of three trades."""
    path = tmp_path / "trades.csv"
    rows = "".join(f"test,A,{1_700_000_000_000_000_000 + n},1.5,1\n" for n in range(3))
    path.write_text("vendor,symbol,ts_event,price,size\n" + rows)
    return path
