"""The public calls of the pipeline package, each written as its users write it."""

from __future__ import annotations

import asyncio
import inspect
from contextlib import aclosing

import httpx
import pytest

from market_data_core.errors import RegistryError
from market_data_ibkr.simulator import SimulatedGateway
from market_data_pipeline import PipelineSpec, create_pipeline
from market_data_pipeline.orchestration import (
    CircuitBreaker,
    CircuitBreakerOpen,
    PipelineRuntime,
    PipelineRuntimeSettings,
    PipelineSettings,
    RateCoordinator,
    SourceRegistry,
    SourceRouter,
    UnifiedRuntime,
)
from market_data_pipeline.runners.api import create_app
from market_data_pipeline.runners.settings import load_ingest_settings
from market_data_pipeline.source.synthetic import SyntheticSource

FEW = {"time": "virtual", "count": 200}


def defaults(call):
    """The defaults of a call by name."""
    parameters = inspect.signature(call).parameters.values()
    return {p.name: p.default for p in parameters if p.default is not p.empty}


async def test_create_pipeline(tmp_path):
    """`create_pipeline(tenant_id=, pipeline_id=, source=, symbols=, operator=, sink=, ...)`, then `await run()`."""
    pipeline = create_pipeline(
        tenant_id="t",
        pipeline_id="p",
        source="synthetic",
        symbols=["AAPL"],
        operator="bars",
        sink="store",
        duration_sec=0.3,
        batch_size=500,
        flush_ms=100,
        data_dir=tmp_path,
    )
    await pipeline.run()
    assert pipeline.result.received > 0
    assert defaults(create_pipeline)["batch_size"] == 500


def test_pipeline_spec():
    """`PipelineSpec` is a value."""
    assert PipelineSpec(tenant_id="t", pipeline_id="p") == PipelineSpec(tenant_id="t", pipeline_id="p")


async def test_streaming_pipeline():
    """`StreamingPipeline(source=, operator=, batcher=, sink=, ctx=)` over a `SyntheticSource`."""
    from market_data_pipeline import (  # noqa: PLC0415  as the page of this call has it
        Batcher,
        MemorySink,
        PipelineContext,
        StreamingPipeline,
    )

    sink = MemorySink()
    await StreamingPipeline(
        source=SyntheticSource(symbols=["AAPL"], **FEW),
        operator=None,
        batcher=Batcher(),
        sink=sink,
        ctx=PipelineContext(tenant_id="t", pipeline_id="p"),
    ).run()
    assert len(sink.values) == 200


async def test_providers_by_name():
    """`registry.load(name)(symbols=[...])` gives `stream()`, `await get_quote(symbol)`, `close()`."""
    registry = SourceRegistry()
    source = registry.load("synthetic")(symbols=["AAPL"])
    assert (await source.get_quote("AAPL")).symbol == "AAPL"
    async with aclosing(source.stream()) as events:
        assert (await anext(events)).symbol == "AAPL"
    await source.close()
    registry.register("mine", SyntheticSource)
    assert registry.load("mine") is SyntheticSource
    assert {"synthetic", "replay"} <= set(registry.discover_entrypoints())


async def test_the_brokers_provider():
    """`registry.load("ibkr")(symbols=[...])`: it streams and gives quotes, here from the simulated gateway."""
    gateway = SimulatedGateway(interval_s=0.01)
    await gateway.start()
    try:
        provider = SourceRegistry().load("ibkr")(symbols=["AAPL"], port=gateway.port)
        assert (await provider.get_quote("AAPL")).symbol == "AAPL"
        async with aclosing(provider.stream()) as events:
            assert (await anext(events)).symbol == "AAPL"
        await provider.close()
    finally:
        await gateway.close()


def test_a_provider_that_is_not_installed():
    """The error names those that are."""
    with pytest.raises(RegistryError, match=r"'bloomberg'.*captures.*databento.*ibkr.*replay.*synthetic"):
        SourceRegistry().load("bloomberg")


@pytest.mark.parametrize("strategy", ["first", "round_robin", "latency"])
async def test_source_router(strategy):
    """`SourceRouter(sources=[...], strategy=...)` is itself a source."""
    router = SourceRouter(sources=[SyntheticSource(symbols=["AAPL"]), SyntheticSource(seed=2)], strategy=strategy)
    async with aclosing(router.stream()) as events:
        await anext(events)
    await router.close()
    assert defaults(SourceRouter)["strategy"] == "first"


async def test_rate_coordinator():
    """`register_provider`, `acquire`, `record_failure`, `trigger_cooldown`, with the published defaults."""
    rates = RateCoordinator()
    rates.register_provider("p")
    await rates.acquire("p")
    await rates.record_failure("p")
    await rates.trigger_cooldown("p", "historical")
    published = {
        "capacity": 60,
        "refill_rate": 60,
        "cooldown_sec": 600,
        "breaker_threshold": 5,
        "breaker_timeout": 60.0,
    }
    assert defaults(rates.register_provider).items() >= published.items()


async def test_circuit_breaker():
    """`CircuitBreaker(threshold=5, timeout=60.0)`: `is_open`, `record_failure`, `record_success`, `reset`."""
    breaker = CircuitBreaker()
    assert defaults(CircuitBreaker).items() >= {"threshold": 5, "timeout": 60.0}.items()
    for _ in range(5):
        assert not breaker.is_open()
        await breaker.record_failure()
    assert breaker.is_open()
    await breaker.reset()
    await breaker.record_success()
    assert not breaker.is_open()
    assert "p" in str(CircuitBreakerOpen("p"))


async def test_pipeline_runtime():
    """`async with PipelineRuntime() as runtime`: quotes; `run_pipeline`, `list_pipelines`, `stop_pipeline`."""
    async with PipelineRuntime() as runtime:
        async with aclosing(runtime.stream_quotes(["AAPL"])) as quotes:
            assert (await anext(quotes)).symbol == "AAPL"
        key = await runtime.run_pipeline(PipelineSpec(tenant_id="t", pipeline_id="p", operator=None, sink="null"))
        assert key in await runtime.list_pipelines()
        await runtime.stop_pipeline(key)
        assert key not in await runtime.list_pipelines()


async def test_pipeline_runtime_settings():
    """`PipelineRuntimeSettings(...)` takes every published name, with the published defaults."""
    settings = PipelineRuntimeSettings(
        pipeline=PipelineSettings(),
        orchestration_enabled=True,
        max_concurrent_pipelines=10,
        enable_rate_coordination=True,
        circuit_breaker_threshold=5,
        circuit_breaker_timeout_sec=60.0,
        providers={"synthetic": {}},
    )
    assert settings == PipelineRuntimeSettings()
    async with PipelineRuntime(settings):
        pass


@pytest.mark.parametrize("mode", ["streaming", "batch"])
async def test_unified_runtime_runs_pipelines(mode):
    """`UnifiedRuntime` in modes streaming and batch."""
    spec = PipelineSpec(tenant_id="t", pipeline_id="p", operator=None, sink="null", source_params=FEW)
    async with UnifiedRuntime(mode=mode) as runtime:
        assert (await runtime.run(spec)).received == 200


async def test_unified_runtime_runs_graphs(tmp_path):
    """In mode dag a graph is YAML: nodes and edges."""
    settings = PipelineRuntimeSettings(
        pipeline=PipelineSettings(data_dir=tmp_path), providers={"synthetic": {"params": FEW}}
    )
    dag = "nodes:\n  a: {source: synthetic}\n  b: {sink: store}\nedges: [a -> b]\n"
    async with UnifiedRuntime(settings, mode="dag") as runtime, asyncio.timeout(60):
        assert list(await runtime.run(dag)) == ["b"]


async def test_ingestion_routes(tmp_path, monkeypatch):
    """`/runtime/ingest/{status,start,stop,reload}` with the published bodies and status codes, packaged defaults."""
    monkeypatch.chdir(tmp_path)
    app = create_app(lambda: load_ingest_settings(data_dir=tmp_path / "data", api_key="a-key"))
    client = httpx.AsyncClient(
        transport=httpx.ASGITransport(app=app), base_url="http://127.0.0.1", headers={"X-API-Key": "a-key"}
    )
    start = {"provider": "synthetic", "symbols": ["AAPL"], "dry_run": True, "override_params": {}}
    async with app.router.lifespan_context(app), client:
        status = (await client.get("/runtime/ingest/status")).json()
        assert status.keys() >= {"running", "active_provider", "dry_run", "policy", "providers"}
        started = (await client.post("/runtime/ingest/start", json=start)).json()
        assert started == {"status": "started", "provider": "synthetic", "dry_run": True, "store_mode": "none"}
        assert (await client.post("/runtime/ingest/start", json=start)).status_code == 409
        assert (await client.post("/runtime/ingest/start", json={"provider": "x"})).status_code == 404
        assert (await client.post("/runtime/ingest/start", json={"provider": "replay"})).status_code == 400
        stopped = (await client.post("/runtime/ingest/stop", json={"provider": "synthetic"})).json()
        assert (stopped["status"], stopped["reason"]) == ("stopped", "operator_request")
        assert (await client.post("/runtime/ingest/stop")).json() == {"status": "idle"}
        assert (await client.post("/runtime/ingest/reload")).json().keys() >= {"providers", "policy"}
        metrics = (await client.get("/metrics")).text
    for name in ("active", "starts_total", "stops_total", "errors_total", "writes_suppressed_total"):
        assert f"ingest_{name}" in metrics
