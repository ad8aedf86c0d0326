from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from market_data_core.clock import ManualClock
from market_data_core.errors import ConfigurationError, LogLocked, PipelineError, SourceError
from market_data_core.models import Bar, Quote, Trade
from market_data_core.protocols import PipelineRunner
from market_data_core.schemas import BAR_KEY
from market_data_pipeline import (
    MemorySink,
    PipelineSpec,
    build_pipeline,
    create_pipeline,
)
from market_data_pipeline.operators import Bars, Validate
from market_data_pipeline.source.synthetic import SyntheticSource
from market_data_store.lake import Lake

WHO = {"tenant_id": "acme", "pipeline_id": "p1"}
VIRTUAL = {"symbols": ["aapl", "msft"], "source_time": "virtual", "source_rate": 100}


async def eventually(claim, deadline_s=10.0):
    """Wait until `claim()` is true."""
    until = time.monotonic() + deadline_s
    while not claim():
        assert time.monotonic() < until, "not within the deadline"
        await asyncio.sleep(0.001)


def stored(folder):
    """What the lake of a folder holds: quotes, trades and bars."""
    lake = Lake(folder / "lake", "acme")
    return lake.read("quotes"), lake.read("trades"), lake.read("bars")


async def test_the_published_call_stores_ticks_and_bars(tmp_path):
    """With nothing but names, events and their bars are in the store when run returns."""
    pipeline = create_pipeline(
        tenant_id="acme",
        pipeline_id="p1",
        source="synthetic",
        symbols=["AAPL", "MSFT"],
        operator="bars",
        sink="store",
        duration_sec=30,
        batch_size=500,
        flush_ms=100,
        data_dir=tmp_path,
        operator_interval="1s",
        source_time="virtual",
        source_rate=100,
        source_count=2000,
    )
    assert isinstance(pipeline, PipelineRunner)
    await pipeline.run()
    quotes, trades, bars = stored(tmp_path)
    assert (quotes.num_rows, trades.num_rows) == (1600, 400)
    assert sum(bars.column("trade_count").to_pylist()) == 400
    assert set(bars.column("interval").to_pylist()) == {"1s"}
    result = pipeline.result
    assert (result.ended_by, result.received, result.unaccounted) == ("source", 2000, 0)
    assert result.written == 2000 + bars.num_rows
    assert pipeline.ledger()["raw/store"]["passed"] == 2000
    assert not pipeline.is_running


async def test_a_second_run_on_the_same_directory_goes_on_and_stores_nothing_twice(tmp_path):
    """The synthetic source resumes where it left off: two runs store what one long run would have, each event once."""
    received = []
    for _ in range(2):
        pipeline = create_pipeline(
            **WHO, symbols=["aapl", "msft"], source_rate=5000, data_dir=tmp_path, operator_interval="1s", flush_ms=50
        )
        await pipeline.start()
        await eventually(lambda running=pipeline: running.result.received > 300)
        await pipeline.stop()
        assert pipeline.result.unaccounted == 0
        received.append(pipeline.result.received)
    quotes, trades, bars = stored(tmp_path)
    assert quotes.num_rows + trades.num_rows == sum(received)
    whole = create_pipeline(**WHO, **VIRTUAL, source_count=sum(received), operator=None, sink="memory")
    await whole.run()
    expected = [(v.symbol, v.bid, v.ask) for v in whole.sink.values if isinstance(v, Quote)]
    rows = sorted(quotes.to_pylist(), key=lambda row: row["seq"])
    assert [(row["symbol"], row["bid_price"], row["ask_price"]) for row in rows] == expected[: len(rows)]
    versions = Counter(tuple(row[k] for k in (*BAR_KEY, "revision")) for row in bars.to_pylist())
    assert max(versions.values(), default=1) == 1


async def test_a_source_that_has_ended_gives_nothing_again(tmp_path):
    """Another run over the same count takes nothing in and stores nothing."""
    for fresh in (700, 0):
        pipeline = create_pipeline(**WHO, **VIRTUAL, source_count=700, data_dir=tmp_path, operator=None, flush_ms=50)
        await pipeline.run()
        assert (pipeline.result.received, pipeline.result.written) == (fresh, fresh)
    quotes, trades, _ = stored(tmp_path)
    assert (quotes.num_rows, trades.num_rows) == (560, 140)


async def test_duration_stops_the_durable_path_by_its_clock(tmp_path):
    """After the duration, what was taken in is stored and run returns."""
    clock = ManualClock(time.time_ns())
    pipeline = create_pipeline(
        **WHO, source_rate=2000, symbols=["AAPL"], duration_sec=60, data_dir=tmp_path, clock=clock, flush_ms=50
    )
    running = asyncio.create_task(pipeline.run())
    await eventually(lambda: pipeline.result.received > 100)
    clock.advance(60)
    await running
    quotes, trades, _ = stored(tmp_path)
    assert quotes.num_rows + trades.num_rows == pipeline.result.received
    assert (pipeline.result.ended_by, pipeline.result.unaccounted) == ("duration", 0)


async def test_start_and_stop_drain_into_the_store(tmp_path):
    """Between start and stop events flow; what was taken in is stored."""
    pipeline = create_pipeline(**WHO, source_rate=2000, operator=None, data_dir=tmp_path, flush_ms=50)
    await pipeline.start()
    assert pipeline.is_running
    await eventually(lambda: pipeline.result.received > 100)
    await pipeline.stop()
    await pipeline.stop()
    quotes, trades, bars = stored(tmp_path)
    assert quotes.num_rows + trades.num_rows == pipeline.result.received
    assert (bars.num_rows, pipeline.result.ended_by) == (0, "stop")
    with pytest.raises(PipelineError, match="p1"):
        await pipeline.start()


async def test_a_cancelled_durable_run_lets_go_of_its_directory(tmp_path):
    """After a cancel everything taken in is stored, and another pipeline may run there."""
    pipeline = create_pipeline(**WHO, source_rate=2000, operator=None, data_dir=tmp_path, flush_ms=50)
    running = asyncio.create_task(pipeline.run())
    await eventually(lambda: pipeline.result.received > 100)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    quotes, trades, _ = stored(tmp_path)
    assert quotes.num_rows + trades.num_rows == pipeline.result.received
    await create_pipeline(**WHO, **VIRTUAL, source_count=10, operator=None, data_dir=tmp_path).run()


async def test_a_directory_that_somebody_runs_is_refused_at_once(tmp_path):
    """The error names the directory and what to do."""
    first = create_pipeline(**WHO, source_rate=100, operator=None, data_dir=tmp_path)
    await first.start()
    try:
        with pytest.raises(LogLocked, match=rf"{tmp_path}.*another data_dir"):
            await create_pipeline(tenant_id="acme", pipeline_id="p2", data_dir=tmp_path).run()
    finally:
        await first.stop()


async def test_replay_by_name_stores_a_file_once(tmp_path):
    """A recorded file goes in through the same call, and only once."""
    recorded = tmp_path / "recorded"
    recorded.mkdir()
    noon_ns = 1_704_196_800_000_000_000
    rows = [f"acme,AAPL,{noon_ns + n},10.{n},5" for n in range(8)]
    (recorded / "trades.csv").write_text("\n".join(["vendor,symbol,ts_event,price,size", *rows]) + "\n")
    for fresh in (8, 0):
        pipeline = create_pipeline(
            **WHO,
            source="replay",
            source_paths=[recorded / "trades.csv"],
            data_dir=tmp_path / "data",
        )
        await pipeline.run()
        assert pipeline.result.received == fresh
    assert stored(tmp_path / "data")[1].num_rows == 8


async def test_a_source_that_fails_in_the_durable_path_is_raised_after_storing(tmp_path):
    """The error names the source; what it gave is kept."""

    class Fails(SyntheticSource):
        async def batches(self, resume):
            async for batch in super().batches(resume):
                yield batch
                raise SourceError("wire cut")

    source = Fails(symbols=["AAPL"], time="virtual", rate=100)
    pipeline = create_pipeline(**WHO, source=source, operator=None, data_dir=tmp_path)
    with pytest.raises(SourceError, match="wire cut"):
        await pipeline.run()
    assert stored(tmp_path)[0].num_rows == pipeline.result.received > 0


async def test_bars_into_memory_are_those_of_the_store(tmp_path):
    """The path without a store makes the same bars as the durable one."""
    sink = MemorySink()
    given = {**WHO, **VIRTUAL, "source_count": 3000, "operator_interval": "1s"}
    await create_pipeline(**given, sink=sink).run()
    await create_pipeline(**given, data_dir=tmp_path, flush_ms=50).run()
    assert all(isinstance(v, Bar) for v in sink.values)
    told = Counter((b.symbol, b.ts_event_ns, b.open, b.high, b.low, b.close, b.volume, b.vwap) for b in sink.values)
    columns = ("symbol", "ts_event", "open", "high", "low", "close", "volume", "vwap")
    assert told == Counter(tuple(row[c] for c in columns) for row in stored(tmp_path)[2].to_pylist())


async def test_a_named_memory_sink_gets_batches_of_the_size_asked_for():
    """Quotes and trades arrive as values, at most batch_size at a time."""
    pipeline = create_pipeline(**WHO, **VIRTUAL, source_count=1000, operator=None, sink="memory", batch_size=64)
    await pipeline.run()
    assert Counter(map(type, pipeline.sink.values)) == {Quote: 800, Trade: 200}
    assert max(map(len, pipeline.sink.batches)) == 64
    assert pipeline.result.unaccounted == 0


@pytest.mark.parametrize("operator", ["dedupe", "validate", None])
async def test_named_operators_run_without_a_store(operator):
    """Every name is an operator whose events are all accounted for."""
    pipeline = create_pipeline(**WHO, **VIRTUAL, source_count=500, operator=operator, sink="null")
    await pipeline.run()
    assert (pipeline.sink.count, pipeline.result.unaccounted) == (500, 0)


async def test_a_users_transform_runs_on_events():
    """An object with process gets quotes and trades and returns what it likes."""

    class Spread:
        async def process(self, event):
            return [event.ask - event.bid] if isinstance(event, Quote) else []

    pipeline = create_pipeline(**WHO, **VIRTUAL, source_count=500, operator=Spread(), sink="memory")
    await pipeline.run()
    assert len(pipeline.sink.values) == 400
    assert min(pipeline.sink.values) > 0
    assert pipeline.ledger()["Spread"]["filtered"] == 100


async def test_engine_operators_and_transforms_go_together():
    """Operators over batches come first, users' steps see what they give."""

    class Closes:
        async def process(self, event):
            return [event.close] if isinstance(event, Bar) else []

    pipeline = create_pipeline(
        **WHO, **VIRTUAL, source_count=500, operator=[Validate(), Bars("1s"), Closes()], sink="memory"
    )
    await pipeline.run()
    assert pipeline.sink.values
    assert pipeline.result.unaccounted == 0


@pytest.mark.parametrize("sink", ["store", "memory"])
async def test_events_of_any_pipeline_can_be_taken_one_by_one(sink, tmp_path):
    """The async view works whatever the sink is, and stores nothing."""
    pipeline = create_pipeline(**WHO, **VIRTUAL, source_count=500, operator_interval="1s", sink=sink, data_dir=tmp_path)
    async with pipeline.events() as stream:
        bars = [event async for event in stream]
    assert sum(b.trade_count for b in bars) == 100
    assert list(tmp_path.iterdir()) == []


async def test_the_synthetic_source_goes_by_the_pipelines_clock():
    """With a clock that is told the time, a run of real time is decided by the test."""
    clock = ManualClock(1_704_196_800_000_000_000)
    pipeline = create_pipeline(
        **WHO, symbols=["AAPL"], source_rate=10, operator=None, sink="memory", duration_sec=1, clock=clock
    )
    running = asyncio.create_task(pipeline.run())
    until = time.monotonic() + 10
    while not running.done() and time.monotonic() < until:
        for _ in range(50):
            await asyncio.sleep(0)
        clock.advance(0.05)
    await running
    assert 8 <= len(pipeline.sink.values) <= 11


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"rate": 5}, "rate: no parameter.*source_"),
        ({"source": "nasdaq"}, "source: 'nasdaq'.*replay, synthetic"),
        ({"source_rte": 5}, "source_rte.*source_rate"),
        ({"source_rate": -5}, "rate"),
        ({"operator": "options"}, "operator: 'options'.*bars, dedupe, validate"),
        ({"operator_interval": "1x"}, "interval '1x'"),
        ({"operator_every": "1s"}, "operator_every.*operator_interval"),
        ({"operator": None, "operator_interval": "1s"}, "operator_params: interval"),
        ({"operator": "dedupe"}, "operator: 'dedupe'.*sink 'store'.*operator_dedupe"),
        ({"sink": "kafka"}, "sink: 'kafka'.*memory, null, postgres, store"),
        ({"sink_path": "x"}, "sink_params: path.*data_dir"),
        ({"sink": "null", "sink_path": "x"}, "sink_path.*takes nothing"),
        ({"symbols": "AAPL"}, "symbols: 'AAPL'.*a list"),
        ({"symbols": []}, "symbols"),
        ({"duration_sec": 0}, "duration_sec: 0.*above 0"),
        ({"batch_size": 0}, "batch_size: 0.*from 1"),
        ({"batch_size": 1.5}, "batch_size: 1.5"),
        ({"flush_ms": -1}, "flush_ms: -1"),
        ({"tenant_id": "../x"}, "tenant_id"),
        ({"pipeline_id": ""}, "pipeline_id"),
        ({"source": object()}, "source.*BatchSource"),
        ({"source": SyntheticSource(), "symbols": ["A"]}, "symbols: A"),
        ({"source": SyntheticSource(), "source_rate": 1}, "source_params: rate"),
    ],
)
def test_a_wrong_argument_is_named_with_what_is_allowed(wrong, message):
    """The error says which argument, and what would be right."""
    with pytest.raises(ConfigurationError, match=message):
        create_pipeline(**(WHO | wrong))


PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=40)
@given(
    params=st.dictionaries(st.text(min_size=1, max_size=6), PLAIN, max_size=3),
    symbols=st.none() | st.lists(st.sampled_from(["aapl", "MSFT"]), min_size=1, max_size=2).map(tuple),
    operator=st.sampled_from(["bars", "dedupe", "validate"]),
    duration_sec=st.none() | st.floats(0.001, 1e6),
)
def test_a_specification_by_names_survives_json(params, symbols, operator, duration_sec):
    """What is read back equals what was written."""
    spec = PipelineSpec(
        **WHO,
        source="replay",
        source_params=params,
        symbols=symbols,
        operator=operator,
        operator_params=params,
        duration_sec=duration_sec,
    )
    assert PipelineSpec.from_json(spec.to_json()) == spec


async def test_a_specification_makes_its_pipeline():
    """A pipeline from JSON runs like one from the call."""
    text = '{"tenant_id": "acme", "pipeline_id": "p1", "sink": "memory", "operator": null, "source_params": '
    text += '{"time": "virtual", "count": 100}}'
    pipeline = build_pipeline(PipelineSpec.from_json(text))
    await pipeline.run()
    assert len(pipeline.sink.values) == 100


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "no JSON"),
        ("[]", "no JSON object"),
        ('{"tenant_id": "t"}', "pipeline_id: missing"),
        ('{"tenant_id": "t", "pipeline_id": "p", "sinks": 1}', "sinks: no field"),
        ('{"tenant_id": "t", "pipeline_id": "p", "data_dir": 5}', "data_dir"),
        ('{"tenant_id": "t", "pipeline_id": "p", "source_params": 5}', "source_params"),
    ],
)
def test_a_wrong_specification_is_explained(text, message):
    """The error names the field."""
    with pytest.raises(ConfigurationError, match=message):
        PipelineSpec.from_json(text)


def test_objects_do_not_go_to_json():
    """The error names the part that is an object."""
    with pytest.raises(ConfigurationError, match=r"sink: .*MemorySink"):
        PipelineSpec(**WHO, sink=MemorySink()).to_json()


def test_importing_the_package_loads_no_engine():
    """The names are there at once; what they need is loaded when one is used."""
    program = (
        "import sys, market_data_pipeline as m; assert 'create_pipeline' in m.__all__; "
        "heavy = {'market_data_pipeline.engine', 'market_data_pipeline.pipeline', 'deltalake'}; "
        "print(sorted(heavy & set(sys.modules))); m.create_pipeline"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=30, check=True)
    assert done.stdout == "[]\n"
