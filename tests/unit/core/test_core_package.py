from __future__ import annotations

import importlib
import inspect
import re
import subprocess
import sys
from collections.abc import AsyncIterator
from importlib.metadata import PackageNotFoundError, version

import pytest

import market_data_core
from market_data_core import protocols


def test_all_is_sorted_and_whole():
    """Every name in `__all__` is there, once and in order."""
    names = market_data_core.__all__
    assert names == sorted(set(names))
    assert [n for n in names if not hasattr(market_data_core, n)] == []


@pytest.mark.parametrize("name", [n for n in market_data_core.__all__ if n[0].isupper() and n != "HealthState"])
def test_every_exported_type_is_documented(name):
    """Every exported class says in a docstring of its own what it is."""
    exported = getattr(market_data_core, name)
    assert inspect.isclass(exported)
    assert exported.__dict__.get("__doc__")


@pytest.mark.parametrize("name", [n for n in market_data_core.__all__ if n[0].isupper() and n != "HealthState"])
def test_exported_type_is_its_modules_own(name):
    """A type imported from the module that defines it is the one the package exports."""
    exported = getattr(market_data_core, name)
    module = importlib.import_module(exported.__module__)
    assert exported.__module__.startswith("market_data_core.")
    assert getattr(module, name) is exported


def test_version_is_the_distributions():
    """The version is that of the installed distribution, or says that there is none."""
    try:
        expected = version("market-data-platform")
    except PackageNotFoundError:
        expected = "0+unknown"
    assert market_data_core.__version__ == expected
    assert re.match(r"\d", expected)


def test_import_is_light():
    """Importing the contracts loads no server, store or client."""
    heavy = [
        "fastapi",
        "starlette",
        "uvicorn",
        "deltalake",
        "httpx",
        "prometheus_client",
        "sqlglot",
        "typer",
        "sqlite3",
    ]
    code = f"import sys, market_data_core; print([m for m in {heavy!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


class _Closing:
    async def close(self):
        return None


class _Ticks(_Closing):
    symbols = ("AAPL",)
    status = "live"

    def stream(self) -> AsyncIterator[int]:
        raise NotImplementedError


class _Provider:
    def stream_quotes(self, symbols): ...
    def stream_bars(self, symbols, resolution): ...
    def stream_trades(self, symbols): ...
    async def request_historical_bars(self, symbol, resolution, *, start_ns, end_ns): ...
    def stream_options(self, underlying): ...


class _Transform:
    async def process(self, value): ...


class _Sink(_Closing):
    async def write(self, batch): ...
    async def flush(self): ...


class _Runner:
    is_running = False

    async def start(self): ...
    async def stop(self, drain=True): ...
    async def run(self, duration_sec=None): ...


class _Registry:
    def register(self, name, cls): ...
    def load(self, name): ...


class _Publisher:
    async def publish(self, event): ...


class _Controller:
    async def apply(self, adjustment): ...


class _Directory:
    async def topology(self): ...
    async def endpoints(self): ...


@pytest.mark.parametrize(
    ("protocol", "implementation"),
    [
        (protocols.TickSource, _Ticks),
        (protocols.MarketDataProvider, _Provider),
        (protocols.Source, _Ticks),
        (protocols.Transform, _Transform),
        (protocols.Sink, _Sink),
        (protocols.PipelineRunner, _Runner),
        (protocols.ProviderRegistry, _Registry),
        (protocols.SinkRegistry, _Registry),
        (protocols.FeedbackPublisher, _Publisher),
        (protocols.RateController, _Controller),
        (protocols.FederationDirectory, _Directory),
    ],
)
def test_protocols_can_be_checked_at_run_time(protocol, implementation):
    """A class with a protocol's names is an instance of it, another is not."""
    assert isinstance(implementation(), protocol)
    assert not isinstance(object(), protocol)
