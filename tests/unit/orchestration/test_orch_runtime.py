from __future__ import annotations

import asyncio
from contextlib import aclosing
from itertools import pairwise
from pathlib import Path

import pytest
from orch_world import Live, at_noon, drive, take

from market_data_core.errors import (
    ConfigurationError,
    ConnectionFailed,
    InvalidInstrument,
    PipelineError,
    RegistryError,
    SourceError,
    TemporaryUnavailable,
)
from market_data_core.models import Quote
from market_data_core.telemetry import BackpressureLevel, FeedbackEvent
from market_data_pipeline import MemorySink, PipelineSpec
from market_data_pipeline.consumers import Ledger
from market_data_pipeline.orchestration import (
    PipelineRuntime,
    PipelineRuntimeSettings,
    PipelineSettings,
    ProviderSettings,
    RateCoordinator,
    SourceRegistry,
    UnifiedRuntime,
    feedback_bus,
)
from market_data_pipeline.orchestration.rated import RatedSource
from market_data_pipeline.source.synthetic import SyntheticSource
from market_data_store.lake import Lake


async def eventually(true):
    """Wait for something to become true, for at most ten seconds."""
    async with asyncio.timeout(10):
        while not await true():  # noqa: ASYNC110  what a pipeline does sets no event here
            await asyncio.sleep(0.005)


def endless(name, **given):
    """A pipeline over made-up events that goes on until it is stopped."""
    return PipelineSpec(tenant_id="t", pipeline_id=name, operator=None, **{"sink": "null", "flush_ms": 10} | given)


def finite(name, count=500, **given):
    """A pipeline over so many made-up events."""
    return endless(name, source_params={"time": "virtual", "count": count}, **given)


class Broken:
    """A source that fails after three numbers."""

    async def stream(self):
        for n in range(3):
            yield n
        raise ConnectionFailed("the line is dead")

    async def close(self):
        pass


async def test_quotes_without_any_setting():
    """`async with PipelineRuntime() as runtime: async for quote in runtime.stream_quotes([...])`."""
    async with PipelineRuntime() as runtime, aclosing(runtime.stream_quotes(["AAPL", "MSFT"])) as quotes:
        found = []
        async for one in quotes:
            found.append(one)
            if len(found) == 20:
                break
    assert all(isinstance(q, Quote) and q.symbol in {"AAPL", "MSFT"} for q in found)


async def test_leaving_ends_a_stream_of_quotes():
    """A loop that is still reading when the runtime ends comes to its end."""
    async with PipelineRuntime() as runtime:
        quotes = runtime.stream_quotes(["AAPL"])
        await anext(quotes)
    async with asyncio.timeout(5):
        async for _ in quotes:
            pass
    with pytest.raises(PipelineError, match="not running"):
        await anext(runtime.stream_quotes(["AAPL"]))


async def test_quotes_fail_over_between_providers():
    """Providers are read in the order of the settings; what may be missing in between is told apart."""
    clock = at_noon()

    class First(Live):
        def __init__(self, *, symbols, depth):
            super().__init__("first", clock, [1, 2, ConnectionFailed("gone")])
            self.symbols = (*symbols, depth)

    class Second(Live):
        def __init__(self, *, symbols):
            super().__init__("second", clock, [7, 8, 9])

    registry = SourceRegistry()
    registry.register("first", First)
    registry.register("second", Second)
    settings = PipelineRuntimeSettings(providers={"first": {"depth": 3, "pacing": {"capacity": 5}}, "second": {}})
    async with PipelineRuntime(settings, registry=registry, clock=clock) as runtime:
        async with aclosing(runtime.stream_quotes(["AAPL"])) as quotes:
            found = await drive(clock, take(5, quotes))
        assert runtime.rates.status("first").capacity == 5
    assert [(q.meta.vendor, q.bid) for q in found] == [
        ("first", 1),
        ("first", 2),
        ("second", 7),
        ("second", 8),
        ("second", 9),
    ]
    assert [(gap.vendor, gap.symbols) for gap in runtime.gaps] == [("first", ("AAPL", 3))]


async def test_connections_take_tokens():
    """However often a provider fails, it is connected to no faster than its budget allows."""
    clock = at_noon()
    connections = []

    class Failing(Live):
        def __init__(self, *, symbols):
            super().__init__("failing", clock)

        def stream(self):
            connections.append(clock.monotonic_s())
            return super().stream()

    registry = SourceRegistry()
    registry.register("failing", Failing)
    pacing = {"capacity": 1, "refill_rate": 0.01}
    settings = PipelineRuntimeSettings(providers={"failing": {"pacing": pacing}}, circuit_breaker_threshold=1000)
    async with PipelineRuntime(settings, registry=registry, clock=clock) as runtime:
        quotes = runtime.stream_quotes(["AAPL"])
        reading = asyncio.create_task(anext(quotes))
        await drive(clock, clock.sleep(1000))
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)
        await quotes.aclose()
    waits = [after - before for before, after in pairwise(connections)]
    assert len(waits) >= 5
    assert min(waits) >= 99.9


async def test_feedback_slows_what_can_wait():
    """A full queue stops a source that can wait, an empty one lets it go; the fullest of several decides."""
    clock = at_noon()
    bus = feedback_bus("memory://")

    class Patient(Live):
        waits = True

        def __init__(self, *, symbols):
            super().__init__("patient", clock, list(range(1, 100)))

    registry = SourceRegistry()
    registry.register("patient", Patient)
    settings = PipelineRuntimeSettings(providers={"patient": {}})

    def event(who, level):
        return FeedbackEvent(coordinator_id=who, queue_size=1, capacity=2, level=level, ts=0.0)

    async with PipelineRuntime(settings, registry=registry, clock=clock, feedback=bus) as runtime:
        quotes = runtime.stream_quotes(["AAPL"])
        await drive(clock, take(2, quotes))
        await bus.publish(event("a", BackpressureLevel.HARD))
        await bus.publish(event("b", BackpressureLevel.OK))
        await eventually(lambda: _is(runtime.rates.scale("patient") == 0))
        reading = asyncio.create_task(take(3, quotes))
        for _ in range(100):
            await asyncio.sleep(0)
        assert not reading.done()
        await bus.publish(event("a", BackpressureLevel.SOFT))
        assert [q.bid for q in await drive(clock, reading)] == [3, 4, 5]
        assert runtime.rates.scale("patient") == 0.5
        await quotes.aclose()


async def test_feedback_does_not_slow_a_live_feed():
    """However full the queues are, what cannot wait is read."""
    bus = feedback_bus("memory://")
    await bus.publish(FeedbackEvent(coordinator_id="a", queue_size=2, capacity=2, level=BackpressureLevel.HARD, ts=0.0))
    async with PipelineRuntime(feedback=bus) as runtime, aclosing(runtime.stream_quotes(["AAPL"])) as quotes:
        async with asyncio.timeout(5):
            assert len(await take(5, quotes)) == 5


async def test_runs_lists_and_stops_pipelines():
    """`run_pipeline(spec)` gives a key, `list_pipelines()` has it, `stop_pipeline(key)` drains it."""
    sink = MemorySink()
    async with PipelineRuntime() as runtime:
        key = await runtime.run_pipeline(endless("one", sink=sink))
        assert key in await runtime.list_pipelines()
        await eventually(lambda: _is(sink.values))
        assert (await runtime.list_pipelines())[key].state == "running"
        result = await runtime.stop_pipeline(key)
        assert result.ended_by == "stop"
        assert result.received == result.written == len(sink.values) > 0
        assert await runtime.list_pipelines() == {}
        with pytest.raises(PipelineError, match="t/one"):
            await runtime.stop_pipeline(key)


async def test_one_that_fails_ends_no_other():
    """A failure is kept with the pipeline; the others go on."""
    async with PipelineRuntime() as runtime:
        good = await runtime.run_pipeline(endless("good"))
        bad = await runtime.run_pipeline(endless("bad", source=Broken()))
        await runtime.wait_pipeline(bad)
        listed = await runtime.list_pipelines()
        assert (listed[good].state, listed[bad].state) == ("running", "failed")
        assert "the line is dead" in listed[bad].problem
        assert listed[bad].result.received == 3
        with pytest.raises(SourceError, match="the line is dead"):
            await runtime.stop_pipeline(bad)
        assert list(await runtime.list_pipelines()) == [good]


async def test_only_so_many_run_at_once():
    """One more is refused, until one has ended; the same key cannot run twice."""
    async with PipelineRuntime(PipelineRuntimeSettings(max_concurrent_pipelines=2)) as runtime:
        first = await runtime.run_pipeline(endless("1"))
        with pytest.raises(PipelineError, match="t/1 runs already"):
            await runtime.run_pipeline(endless("1"))
        await runtime.run_pipeline(endless("2"))
        with pytest.raises(TemporaryUnavailable, match="max_concurrent_pipelines"):
            await runtime.run_pipeline(endless("3"))
        await runtime.stop_pipeline(first)
        await runtime.run_pipeline(endless("3"))


async def test_a_pipeline_that_has_ended_can_run_again():
    """Its key is free; a duration in the specification is kept."""
    async with PipelineRuntime() as runtime:
        for _ in range(2):
            key = await runtime.run_pipeline(finite("one"))
            await runtime.wait_pipeline(key)
            status = (await runtime.list_pipelines())[key]
            assert (status.state, status.result.ended_by, status.result.written) == ("done", "source", 500)
        key = await runtime.run_pipeline(endless("short", duration_sec=0.05))
        await runtime.wait_pipeline(key)
        assert (await runtime.stop_pipeline(key)).ended_by == "duration"


async def test_leaving_drains_everything():
    """What was taken in is written when the runtime ends, also when its block fails, whose error is told as it is."""
    sink = MemorySink()
    runtime = PipelineRuntime()

    async def block():
        async with runtime:
            key = await runtime.run_pipeline(endless("one", sink=sink, flush_ms=60_000, batch_size=100_000))
            await eventually(lambda: _received(runtime, key))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await block()
    (status,) = (await runtime.list_pipelines()).values()
    assert status.state == "done"
    assert status.result.received == len(sink.values) > 0


async def test_a_pipeline_into_the_store(tmp_path):
    """The settings' `pipeline` says what a specification leaves out: here, the durable store."""
    settings = PipelineRuntimeSettings(pipeline=PipelineSettings(data_dir=tmp_path, flush_ms=10))
    async with PipelineRuntime(settings) as runtime:
        given = {"pipeline_id": "one", "source_params": {"time": "virtual", "count": 200}, "symbols": ["AAPL"]}
        key = await runtime.run_pipeline(given)
        assert key == "default/one"
        await runtime.wait_pipeline(key)
        assert (await runtime.stop_pipeline(key)).received == 200
    assert (tmp_path / "lake").is_dir()


async def test_what_cannot_start_is_an_error_at_once(tmp_path):
    """Neither a wrong specification nor a pipeline that cannot start stays behind."""
    async with PipelineRuntime() as runtime:
        with pytest.raises(ConfigurationError, match="colour"):
            await runtime.run_pipeline({"pipeline_id": "one", "colour": "red"})
        with pytest.raises(ConfigurationError, match="source"):
            await runtime.run_pipeline({"pipeline_id": "one", "source": "nowhere"})
        (tmp_path / "log").write_text("in the way")
        with pytest.raises((OSError, TemporaryUnavailable)):
            await runtime.run_pipeline({"pipeline_id": "one", "data_dir": tmp_path})
        assert await runtime.list_pipelines() == {}


@pytest.mark.parametrize(
    ("providers", "error", "told"),
    [
        ({"synthetic": {"enabled": False}}, ConfigurationError, "enabled"),
        ({"nowhere": {}}, RegistryError, "nowhere"),
        ({"synthetic": {"colour": "red"}}, ConfigurationError, "colour"),
    ],
)
async def test_wrong_providers_are_named(providers, error, told):
    """The error says which provider, and what is wrong."""
    async with PipelineRuntime(PipelineRuntimeSettings(providers=providers)) as runtime:
        with pytest.raises(error, match=told):
            await anext(runtime.stream_quotes(["AAPL"]))


def test_settings_as_published():
    """`PipelineRuntimeSettings` has the published names and defaults."""
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
    assert settings.providers["synthetic"] == ProviderSettings()


async def test_without_orchestration_and_rates():
    """Switched off, the first provider alone is read, as it is."""
    settings = PipelineRuntimeSettings(orchestration_enabled=False, enable_rate_coordination=False)
    async with PipelineRuntime(settings) as runtime, aclosing(runtime.stream_quotes(["AAPL"])) as quotes:
        assert (await anext(quotes)).symbol == "AAPL"


async def test_batch_runs_to_the_end_of_its_source():
    """Mode `batch` returns what the run came to."""
    async with UnifiedRuntime(PipelineRuntimeSettings(), mode="batch") as runtime:
        assert (runtime.mode, runtime.state) == ("batch", "idle")
        result = await runtime.run(finite("one"))
        assert (result.ended_by, result.written, runtime.state) == ("source", 500, "stopped")


async def test_batch_tells_what_failed():
    """A batch whose source fails is an error."""
    async with UnifiedRuntime(mode="batch") as runtime:
        with pytest.raises(SourceError, match="the line is dead"):
            await runtime.run(endless("bad", source=Broken()))


async def test_streaming_runs_until_it_is_stopped():
    """Mode `streaming` knows no duration; stopping drains it, and `run` returns what it came to."""
    sink = MemorySink()
    async with UnifiedRuntime(mode="streaming") as runtime:
        running = asyncio.create_task(runtime.run(endless("one", sink=sink, duration_sec=0.001)))
        await eventually(lambda: _is(len(sink.values) > 50))
        assert runtime.state == "running"
        with pytest.raises(PipelineError, match="runs already"):
            await runtime.run(endless("two"))
        await runtime.stop()
        result = await running
    assert result.ended_by == "stop"
    assert result.written == result.received == len(sink.values)


async def test_dag_is_run_by_whom_it_is_given():
    """Mode `dag` hands the DAG over, returns what comes back, and cancels it to stop it."""
    begun = asyncio.Event()

    async def runner(dag):
        begun.set()
        if dag == "endless":
            await asyncio.Event().wait()
        return {"ran": dag}

    async with UnifiedRuntime(mode="dag", dag_runner=runner) as runtime:
        assert await runtime.run("short") == {"ran": "short"}
        begun.clear()
        running = asyncio.create_task(runtime.run("endless"))
        await begun.wait()
    assert await running is None


def test_modes_are_checked():
    """An unknown mode is refused."""
    with pytest.raises(ConfigurationError, match="dag, streaming, batch"):
        UnifiedRuntime(mode="fast")


DAG = """
dag:
  nodes:
    market: {source: synthetic, kinds: [trades]}
    clean: {operator: validate}
    second: {operator: resample_ohlc, interval: 1s}
    lake: {sink: store, kinds: [bars]}
    trades: {sink: store, kinds: [trades]}
  edges:
    - market -> clean -> second -> lake
    - clean -> trades
"""


def dag_settings(tmp_path, **params):
    params = {"rate": 1000, "time": "virtual", "seed": 2, **params}
    return PipelineRuntimeSettings(
        pipeline={"data_dir": tmp_path},
        providers={"synthetic": {"symbols": ["AAPL", "MSFT"], "params": params}},
    )


async def test_a_dag_in_yaml_runs_to_the_end_of_its_sources(tmp_path):
    """By default mode `dag` reads the providers of its settings and stores durably; every event is accounted for."""
    async with UnifiedRuntime(dag_settings(tmp_path, count=3000)) as runtime:
        consumers = await runtime.run(DAG)
    lake = Lake(tmp_path / "lake", "default")
    trades = lake.read("trades").num_rows
    assert 0 < trades < 3000
    assert sum(lake.read("bars").column("trade_count").to_pylist()) == trades
    assert {Ledger.restored(c["ledger"], c["flow"]).unaccounted for c in consumers.values()} == {0}


async def test_a_dag_that_is_stopped_has_stored_what_it_took(tmp_path):
    """Stopping drains: what was received is in the lake."""
    async with UnifiedRuntime(dag_settings(tmp_path, time="real")) as runtime:
        running = asyncio.create_task(runtime.run(DAG))
        await eventually(lambda: _is((tmp_path / "log").is_dir() and any((tmp_path / "lake").rglob("part-*.parquet"))))
        await runtime.stop()
        assert await running is None
    assert Lake(tmp_path / "lake", "default").read("trades").num_rows > 0


@pytest.mark.parametrize(
    ("dag", "told"),
    [
        (DAG.replace("validate", "validat"), "did you mean validate"),
        (DAG.replace("-> clean -> second", "-> clean -> second -> clean"), "cycle"),
        (DAG.replace("source: synthetic", "source: all"), "names no source to run"),
        (Path("nowhere.yaml"), "cannot be read"),
    ],
)
async def test_a_wrong_dag_is_refused_with_its_place(tmp_path, dag, told):
    """Nothing is begun."""
    async with UnifiedRuntime(dag_settings(tmp_path)) as runtime:
        with pytest.raises(ConfigurationError, match=told):
            await runtime.run(dag)
    assert not (tmp_path / "log").exists()


async def test_a_provider_within_its_budget_answers_for_single_symbols():
    """Requests take tokens; an answer that says no is an answer, and opens no breaker."""
    rates = RateCoordinator(clock=at_noon())
    rates.register_provider("synthetic", capacity=3, breaker_threshold=1)
    source = RatedSource(SyntheticSource(symbols=["AAPL"]), provider="synthetic", rates=rates)
    assert (await source.get_quote("AAPL")).symbol == "AAPL"
    with pytest.raises(InvalidInstrument):
        await source.get_quote("MSFT")
    assert (rates.status("synthetic").tokens, rates.status("synthetic").breaker) == (1, "closed")
    await source.close()


async def _is(true):
    return bool(true)


async def _received(runtime, key):
    return (await runtime.list_pipelines())[key].result.received > 0
