from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from market_data_core.batch import SourceBatch
from market_data_core.clock import ManualClock
from market_data_core.errors import (
    ConfigurationError,
    PipelineError,
    SinkError,
    SourceError,
    TemporaryUnavailable,
    TransformError,
)
from market_data_core.models import Bar, Quote, Trade
from market_data_core.protocols import PipelineRunner
from market_data_core.schemas import Kind
from market_data_pipeline import Batcher, MemorySink, NullSink, PipelineContext, RetryPolicy, StreamingPipeline
from market_data_pipeline.operators import Bars, Dedupe, Validate
from market_data_pipeline.source.synthetic import SyntheticSource

FAST = RetryPolicy(attempts=5, wait_initial_s=0.0, wait_max_s=0.0, wait_jitter_s=0.0)
NOON_NS = 1_704_196_800_000_000_000


def synthetic(count=1000, **given):
    """A source of that many events a second apart at most, as fast as they are read."""
    return SyntheticSource(symbols=["AAPL", "MSFT"], time="virtual", rate=100, count=count, **given)


class Numbers:
    """A user's source: numbers, then, if told to, silence or an error."""

    def __init__(self, numbers, *, then=None):
        self.numbers = list(numbers)
        self.then = then
        self.closes = 0

    async def stream(self):
        for number in self.numbers:
            yield number
            await asyncio.sleep(0)
        if self.then == "wait":
            await asyncio.Event().wait()
        elif self.then is not None:
            raise self.then

    async def close(self):
        self.closes += 1


class Ticks(Numbers):
    """A user's source of trades, one a second."""

    name = "ticks"

    async def stream(self):
        async for n in super().stream():
            yield Trade(symbol="abc", price=10.0 + n, size=1.0, ts_event_ns=NOON_NS + n * 1_000_000_000)


class Double:
    """A step that says everything twice."""

    async def process(self, value):
        return [value, value * 2]


class Odd:
    """A step without async that keeps odd numbers."""

    def process(self, value):
        return [value] if value % 2 else []


class Breaks:
    """A step that cannot deal with 3."""

    async def process(self, value):
        if value == 3:
            raise ValueError("three")
        return [value]


class FaultySink(MemorySink):
    """A sink that raises the given errors first, one a call."""

    def __init__(self, *errors):
        super().__init__()
        self.errors = list(errors)

    async def write(self, batch):
        if self.errors:
            raise self.errors.pop(0)
        await super().write(batch)


class StuckSink(MemorySink):
    """A sink that takes nothing until it is let go."""

    def __init__(self):
        super().__init__()
        self.asked = asyncio.Event()
        self.go = asyncio.Event()

    async def write(self, batch):
        self.asked.set()
        await self.go.wait()
        await super().write(batch)


async def eventually(claim, deadline_s=5.0):
    """Wait until `claim()` is true."""
    until = time.monotonic() + deadline_s
    while not claim():
        assert time.monotonic() < until, "not within the deadline"
        await asyncio.sleep(0)


async def test_events_flow_from_source_to_sink_in_order_and_are_accounted_for():
    """Every event arrives once, in order; the ledger explains all; source and sink are closed."""
    source, sink = Numbers(range(1234)), MemorySink()
    pipeline = StreamingPipeline(source=source, operator=None, batcher=Batcher(max_rows=100), sink=sink)
    await pipeline.run()
    assert sink.values == list(range(1234))
    assert [len(b) for b in sink.batches] == [100] * 12 + [34]
    assert pipeline.result.unaccounted == 0
    assert (pipeline.result.received, pipeline.result.written) == (1234, 1234)
    assert pipeline.result.ended_by == "source"
    assert sink.flushes >= 1
    assert (source.closes, sink.closed, pipeline.is_running) == (1, True, False)


async def test_it_is_a_pipeline_runner():
    """The object offers what the protocol says."""
    assert isinstance(StreamingPipeline(source=Numbers([]), sink=NullSink()), PipelineRunner)


async def test_transforms_may_be_async_or_not_and_are_accounted_for():
    """What a step passes on, makes new and leaves out is told apart."""
    sink = MemorySink()
    pipeline = StreamingPipeline(source=Numbers(range(10)), operator=[Odd(), Double()], sink=sink)
    await pipeline.run()
    assert sink.values == [v for n in range(1, 10, 2) for v in (n, 2 * n)]
    ledger = pipeline.ledger()
    assert list(ledger) == ["source", "Odd", "Double", "queue", "sink"]
    assert (ledger["Odd"]["passed"], ledger["Odd"]["filtered"]) == (5, 5)
    assert (ledger["Double"]["passed"], ledger["Double"]["emitted"]) == (5, 5)
    assert pipeline.result.unaccounted == 0


async def test_an_async_generator_is_a_transform_too():
    """A step whose process yields works as one that returns a list."""

    class Yields:
        async def process(self, value):
            yield value
            yield -value

    sink = MemorySink()
    await StreamingPipeline(source=Numbers([1, 2]), operator=Yields(), sink=sink).run()
    assert sink.values == [1, -1, 2, -2]


async def test_one_bad_event_does_not_stop_the_run():
    """An event a step fails on is counted failed with its text, and the others arrive."""
    sink = MemorySink()
    pipeline = StreamingPipeline(source=Numbers(range(6)), operator=Breaks(), sink=sink)
    await pipeline.run()
    assert sink.values == [0, 1, 2, 4, 5]
    assert pipeline.ledger()["Breaks"]["failed"] == 1
    (failure,) = pipeline.failures
    assert (failure.node, failure.event, failure.error) == ("Breaks", "3", "ValueError: three")
    assert pipeline.result.unaccounted == 0


async def test_on_error_stop_ends_the_run_after_writing_what_came_before():
    """With on_error stop, a failing step raises TransformError that names step and event."""
    source, sink = Numbers(range(6)), MemorySink()
    pipeline = StreamingPipeline(source=source, operator=Breaks(), sink=sink, on_error="stop")
    with pytest.raises(TransformError, match="Breaks failed on 3"):
        await pipeline.run()
    assert sink.values == [0, 1, 2]
    assert (pipeline.result.ended_by, pipeline.result.unaccounted, source.closes) == ("failure", 0, 1)


async def test_a_model_returned_bare_is_an_error_and_not_taken_apart():
    """A step that forgets the list is told so, instead of sending fields downstream."""

    class Bare:
        async def process(self, value):
            return value

    sink = MemorySink()
    pipeline = StreamingPipeline(source=Ticks([1]), operator=Bare(), sink=sink)
    await pipeline.run()
    assert sink.values == []
    assert "returns a list" in pipeline.failures[0].error


async def test_a_source_that_fails_ends_the_run_after_what_it_gave():
    """What came before a source's error is written; the error names the pipeline."""
    sink = MemorySink()
    ctx = PipelineContext(pipeline_id="p7")
    pipeline = StreamingPipeline(source=Numbers([1, 2], then=OSError("wire")), sink=sink, ctx=ctx)
    with pytest.raises(SourceError, match=r"p7.*wire"):
        await pipeline.run()
    assert sink.values == [1, 2]
    assert pipeline.result.unaccounted == 0


async def test_a_retryable_sink_error_loses_nothing():
    """A sink that is away for some calls gets every value, once and in order."""
    sink = FaultySink(TemporaryUnavailable("away"), TemporaryUnavailable("still"))
    pipeline = StreamingPipeline(source=Numbers(range(50)), batcher=Batcher(max_rows=7), sink=sink, retry=FAST)
    await pipeline.run()
    assert sink.values == list(range(50))
    assert pipeline.result.unaccounted == 0


@pytest.mark.parametrize(
    "errors", [[ValueError("no")], [SinkError("no")], [TemporaryUnavailable("no")] * 5], ids=["bug", "own", "gave-up"]
)
async def test_a_sink_that_refuses_ends_the_run_with_everything_counted(errors):
    """What a broken sink did not take counts as failed, and the source is closed."""
    source, sink = Numbers(range(50), then="wait"), FaultySink(*errors)
    pipeline = StreamingPipeline(source=source, batcher=Batcher(max_rows=7), sink=sink, retry=FAST)
    with pytest.raises(SinkError, match="no"):
        await pipeline.run()
    ledger = pipeline.ledger()
    assert ledger["sink"]["failed"] == 7
    assert ledger["queue"]["failed"] == ledger["source"]["received"] - 7
    assert (pipeline.result.unaccounted, pipeline.result.ended_by, source.closes) == (0, "failure", 1)


async def test_a_batch_goes_out_when_its_time_has_come():
    """A value waits for others for max_ms and no longer."""
    clock, sink = ManualClock(), MemorySink()
    pipeline = StreamingPipeline(
        source=Numbers([1], then="wait"),
        batcher=Batcher(max_rows=10, max_ms=1000),
        sink=sink,
        ctx=PipelineContext(clock=clock),
    )
    await pipeline.start()
    await eventually(lambda: pipeline.result.received == 1)
    clock.advance(0.5)
    for _ in range(20):
        await asyncio.sleep(0)
    assert sink.values == []
    clock.advance(0.5)
    await eventually(lambda: sink.values == [1])
    await pipeline.stop()


async def test_run_ends_after_its_duration_and_writes_what_it_took():
    """The duration stops intake by the pipeline's clock; nothing taken in is lost."""
    clock, sink = ManualClock(), MemorySink()
    pipeline = StreamingPipeline(
        source=Numbers(range(5), then="wait"), sink=sink, ctx=PipelineContext(clock=clock), duration_sec=60
    )
    running = asyncio.create_task(pipeline.run())
    await eventually(lambda: pipeline.result.received == 5)
    assert pipeline.is_running
    clock.advance(60)
    await running
    assert sink.values == [0, 1, 2, 3, 4]
    assert (pipeline.result.ended_by, pipeline.result.elapsed_s) == ("duration", 60.0)


async def test_stop_drains_and_can_be_called_twice():
    """After stop, what was taken in is written; another stop does nothing."""
    sink = MemorySink()
    pipeline = StreamingPipeline(source=Numbers(range(5), then="wait"), sink=sink)
    await pipeline.start()
    await eventually(lambda: pipeline.result.received == 5)
    await pipeline.stop()
    await pipeline.stop()
    assert sink.values == [0, 1, 2, 3, 4]
    assert pipeline.result.ended_by == "stop"


async def test_stop_without_drain_counts_what_it_gave_up():
    """Without drain nothing waits for the sink, and the ledger says what was not written."""
    sink = StuckSink()
    pipeline = StreamingPipeline(source=Numbers(range(5), then="wait"), batcher=Batcher(max_rows=2), sink=sink)
    await pipeline.start()
    await eventually(lambda: pipeline.result.received == 5)
    await sink.asked.wait()
    await pipeline.stop(drain=False)
    ledger = pipeline.ledger()
    assert (ledger["sink"]["failed"], ledger["queue"]["suppressed"]) == (2, 3)
    assert pipeline.result.unaccounted == 0
    assert not pipeline.is_running


async def test_a_drain_that_takes_too_long_says_so():
    """When the sink does not take everything in time, stop raises and the ledger stays whole."""
    sink = StuckSink()
    pipeline = StreamingPipeline(source=Numbers(range(5), then="wait"), sink=sink, drain_s=0.05)
    await pipeline.start()
    await eventually(lambda: pipeline.result.received == 5)
    with pytest.raises(SinkError, match="not written within"):
        await pipeline.stop()
    assert pipeline.result.unaccounted == 0


async def test_cancelling_run_leaves_no_task_behind():
    """A cancelled run writes what was taken in and ends every task it began."""
    before, sink = asyncio.all_tasks(), MemorySink()
    pipeline = StreamingPipeline(source=Numbers(range(5), then="wait"), operator=Odd(), sink=sink)
    running = asyncio.create_task(pipeline.run(duration_sec=3600))
    await eventually(lambda: pipeline.result.received == 5)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    await eventually(lambda: asyncio.all_tasks() == before)
    assert sink.values == [1, 3]
    assert pipeline.result.unaccounted == 0


@pytest.mark.parametrize(("policy", "kept"), [("drop_oldest", [0, 8, 9]), ("drop_newest", [0, 1, 2])])
async def test_a_full_queue_gives_way_as_its_policy_says(policy, kept):
    """Dropped batches count as suppressed; what stays keeps its order."""
    sink = StuckSink()
    pipeline = StreamingPipeline(
        source=Numbers(range(10), then="wait"), batcher=Batcher(max_rows=1), sink=sink, on_full=policy, queue_batches=2
    )
    await pipeline.start()
    await eventually(lambda: pipeline.result.received == 10)
    sink.go.set()
    await pipeline.stop()
    assert sink.values == kept
    assert pipeline.ledger()["queue"]["suppressed"] == 7
    assert pipeline.result.unaccounted == 0


async def test_a_full_queue_holds_the_source_up_by_default():
    """With the policy wait, no more is taken in than fits, and all of it arrives in the end."""
    sink = StuckSink()
    pipeline = StreamingPipeline(source=Numbers(range(100)), batcher=Batcher(max_rows=1), sink=sink, queue_batches=3)
    await pipeline.start()
    await eventually(lambda: pipeline.result.received == 5)
    for _ in range(50):
        await asyncio.sleep(0)
    assert pipeline.result.received == 5
    sink.go.set()
    await pipeline.wait()
    assert sink.values == list(range(100))


async def test_engine_operators_run_over_the_batches_of_a_source():
    """Bars come out with the quotes that go past them, and every event is accounted for."""
    sink = MemorySink()
    pipeline = StreamingPipeline(source=synthetic(), operator=[Validate(), Dedupe(), Bars("1s")], sink=sink)
    await pipeline.run()
    bars = [v for v in sink.values if isinstance(v, Bar)]
    quotes = [v for v in sink.values if isinstance(v, Quote)]
    assert (len(quotes), sum(b.trade_count for b in bars)) == (800, 200)
    assert list(pipeline.ledger()) == ["source", "validate", "dedupe", "bars_1s", "events", "queue", "sink"]
    assert pipeline.ledger()["bars_1s"]["absorbed"] == 200
    assert pipeline.result.unaccounted == 0


async def test_engine_operators_work_on_a_users_events_too():
    """A source that gives trades one by one has its bars, the last ones at its end."""
    sink = MemorySink()
    pipeline = StreamingPipeline(source=Ticks(range(125)), operator=[Validate(), Bars("1m")], sink=sink)
    await pipeline.run()
    assert [(b.symbol, b.trade_count, b.open) for b in sink.values] == [
        ("ABC", 60, 10.0),
        ("ABC", 60, 70.0),
        ("ABC", 5, 130.0),
    ]
    assert sink.values[0].meta.vendor == "ticks"
    assert pipeline.result.unaccounted == 0


async def test_bars_of_a_live_source_come_while_it_is_quiet():
    """Operators are asked for what is due by the clock where a source does not wait."""
    clock, sink = ManualClock(), MemorySink()
    pipeline = StreamingPipeline(
        source=Ticks(range(70), then="wait"),
        operator=Bars("1m"),
        batcher=Batcher(max_ms=0),
        sink=sink,
        ctx=PipelineContext(clock=clock),
    )
    await pipeline.start()
    await eventually(lambda: pipeline.result.received == 70)
    clock.advance(0.1)
    await eventually(lambda: len(sink.values) == 1)
    await pipeline.stop()
    assert pipeline.ledger()["bars_1m"]["in_flight"] == 10
    assert pipeline.result.unaccounted == 0


async def test_what_is_no_market_data_cannot_go_through_an_engine_operator():
    """Such a value is counted failed; the run goes on."""
    pipeline = StreamingPipeline(source=Numbers([1, 2]), operator=Validate(), sink=MemorySink())
    await pipeline.run()
    assert pipeline.ledger()["source"]["failed"] == 2
    assert pipeline.result.unaccounted == 0


async def test_an_engine_operator_that_fails_ends_the_run():
    """Its state cannot be trusted any more; the error names it and the batch counts as failed."""

    class Broken(Validate):
        def process(self, batch):
            if batch.kind is Kind.TRADES:
                raise ArithmeticError("sums")
            return super().process(batch)

    pipeline = StreamingPipeline(source=synthetic(), operator=Broken(), sink=MemorySink())
    with pytest.raises(TransformError, match="validate failed: ArithmeticError: sums"):
        await pipeline.run()
    assert pipeline.ledger()["validate"]["failed"] > 0
    assert pipeline.result.unaccounted == 0


def told(sink):
    return [value.model_dump(exclude={"meta"}) for value in sink.values]


@pytest.fixture(scope="module")
def unbatched():
    """What comes out of the pipeline of the next test with nothing said of batches."""
    sink = MemorySink()
    asyncio.run(StreamingPipeline(source=synthetic(250), operator=[Validate(), Bars("1s")], sink=sink).run())
    return told(sink)


@settings(deadline=None, max_examples=15)
@given(
    rows=st.integers(1, 400),
    size=st.integers(1, 20_000),
    flush_ms=st.sampled_from([0, 1, 1000]),
    queue=st.integers(1, 5),
)
def test_batching_never_changes_what_comes_out(unbatched, rows, size, flush_ms, queue):
    """Whatever the limits of batches and queue, the sink gets the same values in the same order."""
    sink = MemorySink()
    pipeline = StreamingPipeline(
        source=synthetic(250),
        operator=[Validate(), Bars("1s")],
        batcher=Batcher(rows, size, flush_ms),
        sink=sink,
        queue_batches=queue,
    )
    asyncio.run(pipeline.run())
    assert told(sink) == unbatched
    assert max(map(len, sink.batches)) <= rows
    assert pipeline.result.unaccounted == 0


async def test_a_batch_whose_time_came_while_the_queue_was_full_is_not_lost_at_the_end():
    """What the clock has sent on its way waits for room, and stop waits for it."""
    clock, sink = ManualClock(), StuckSink()
    pipeline = StreamingPipeline(
        source=Numbers(range(5), then="wait"),
        batcher=Batcher(max_rows=2, max_ms=1000),
        sink=sink,
        ctx=PipelineContext(clock=clock),
        queue_batches=1,
    )
    await pipeline.start()
    await eventually(lambda: pipeline.result.received == 5)
    clock.advance(1)
    stopping = asyncio.create_task(pipeline.stop())
    await eventually(lambda: not any("intake" in task.get_name() for task in asyncio.all_tasks()))
    for _ in range(10):
        await asyncio.sleep(0)
    sink.go.set()
    await stopping
    assert sink.values == [0, 1, 2, 3, 4]
    assert pipeline.result.unaccounted == 0


async def test_accounts_are_whole_while_the_sink_is_slow():
    """While batches wait for room, every value is somewhere."""
    sink = StuckSink()
    pipeline = StreamingPipeline(source=synthetic(500), operator=Validate(), batcher=Batcher(10), sink=sink)
    await pipeline.start()
    await sink.asked.wait()
    for _ in range(100):
        await asyncio.sleep(0)
        assert pipeline.result.unaccounted == 0
    sink.go.set()
    await pipeline.wait()
    assert pipeline.result.unaccounted == 0


async def test_accounts_are_whole_when_a_step_is_cut_off():
    """A sink that breaks while a step still works leaves no value uncounted."""

    class Slow:
        def __init__(self):
            self.seen = 0

        async def process(self, value):
            self.seen += 1
            if self.seen > 70:
                await asyncio.Event().wait()
            return [value]

    sink = FaultySink(ValueError("no"))
    pipeline = StreamingPipeline(
        source=synthetic(500), operator=[Validate(), Slow()], batcher=Batcher(10, max_ms=0), sink=sink
    )
    with pytest.raises(SinkError):
        await pipeline.run()
    assert pipeline.result.unaccounted == 0


async def test_bars_of_a_quiet_live_feed_close_by_the_clock():
    """Where a live feed gives nothing more, its bars come once their time is over by our clock."""

    class Quiet(SyntheticSource):
        async def batches(self, resume):
            async for item in super().batches(resume):
                yield item
                if isinstance(item, SourceBatch) and item.kind is Kind.TRADES:
                    await asyncio.Event().wait()

    clock, sink = ManualClock(NOON_NS), MemorySink()
    pipeline = StreamingPipeline(
        source=Quiet(symbols=["AAPL"], rate=1000, clock=clock),
        operator=[Bars("1s")],
        batcher=Batcher(max_ms=0),
        sink=sink,
        ctx=PipelineContext(clock=clock),
    )
    await pipeline.start()
    until = time.monotonic() + 5
    while not any(isinstance(v, Bar) for v in sink.values) and time.monotonic() < until:
        clock.advance(0.05)
        for _ in range(20):
            await asyncio.sleep(0)
    await pipeline.stop()
    (bar,) = [v for v in sink.values if isinstance(v, Bar)]
    assert bar.ts_event_ns == NOON_NS
    assert pipeline.result.unaccounted == 0


async def test_a_source_that_cannot_be_closed_does_not_keep_events_from_the_sink():
    """What was taken in is written before the error of the close is raised."""

    class Sticky(Numbers):
        async def close(self):
            raise OSError("stuck")

    sink = MemorySink()
    pipeline = StreamingPipeline(source=Sticky(range(5), then="wait"), sink=sink)
    await pipeline.start()
    await eventually(lambda: pipeline.result.received == 5)
    with pytest.raises(SourceError, match=r"cannot be closed.*stuck"):
        await pipeline.stop()
    assert sink.values == [0, 1, 2, 3, 4]


async def test_a_source_whose_stream_is_no_iterator_is_a_source_error():
    """A coroutine where an async iterator belongs is told as the source's fault."""

    class Wrong(Numbers):
        def stream(self):
            return [1, 2]

    with pytest.raises(SourceError, match="Wrong cannot be read"):
        await StreamingPipeline(source=Wrong([]), sink=NullSink()).run()


async def test_events_can_be_taken_one_by_one():
    """The async view gives the events after the steps; the sink is left alone."""
    sink = MemorySink()
    pipeline = StreamingPipeline(source=Numbers(range(10)), operator=Odd(), sink=sink)
    async with pipeline.events() as stream:
        taken = [event async for event in stream]
    assert taken == [1, 3, 5, 7, 9]
    assert sink.values == []
    assert pipeline.result.unaccounted == 0


async def test_leaving_the_view_early_ends_the_run():
    """Who breaks out of the loop leaves no task and no open source behind."""
    before = asyncio.all_tasks()
    source = Numbers(range(10), then="wait")
    pipeline = StreamingPipeline(source=source, sink=MemorySink())
    async with pipeline.events() as stream:
        async for event in stream:
            if event == 3:
                break
    assert asyncio.all_tasks() == before
    assert (source.closes, pipeline.is_running, pipeline.result.unaccounted) == (1, False, 0)


async def test_the_view_raises_what_ended_the_run():
    """A source's error comes out of the loop, after the events before it."""
    pipeline = StreamingPipeline(source=Numbers([1, 2], then=OSError("wire")), sink=NullSink())
    async with pipeline.events() as stream:
        assert [await anext(stream), await anext(stream)] == [1, 2]
        with pytest.raises(SourceError, match="wire"):
            await anext(stream)


async def test_a_pipeline_runs_once():
    """A second start is refused, because source and accounts are used up."""
    pipeline = StreamingPipeline(source=Numbers([]), sink=NullSink(), ctx=PipelineContext(pipeline_id="once"))
    await pipeline.run()
    with pytest.raises(PipelineError, match="once"):
        await pipeline.start()


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"source": object()}, "source"),
        ({"sink": object()}, "sink"),
        ({"sink": MemorySink}, "sink"),
        ({"operator": "bars"}, "operator"),
        ({"operator": [Odd(), Validate()]}, "operator: Validate"),
        ({"on_error": "retry"}, "on_error.*skip, stop"),
        ({"on_full": "block"}, "on_full.*wait, drop_oldest, drop_newest"),
        ({"queue_batches": 0}, "queue_batches"),
    ],
)
async def test_a_wrong_argument_is_named(wrong, named):
    """The error says which argument is wrong."""
    with pytest.raises(ConfigurationError, match=named):
        StreamingPipeline(**({"source": Numbers([]), "sink": NullSink()} | wrong))


def test_ctrl_c_writes_what_was_taken_in():
    """SIGINT under asyncio.run drains into the sink and ends as KeyboardInterrupt does."""
    program = """
import asyncio
from market_data_pipeline import MemorySink, create_pipeline
sink = MemorySink()
pipeline = create_pipeline(tenant_id="t", pipeline_id="p", operator=None, sink=sink, source_rate=500)
class Tell:
    said = False
    async def process(self, event):
        if not self.said:
            self.said = True
            print("live", flush=True)
        return [event]
async def main():
    running = create_pipeline(tenant_id="t", pipeline_id="p", operator=Tell(), sink=sink, source_rate=500)
    try:
        await running.run()
    finally:
        result = running.result
        print(result.received == len(sink.values) > 0, result.unaccounted, sink.closed, flush=True)
asyncio.run(main())
"""
    with subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as p:
        assert p.stdout.readline() == "live\n"
        p.send_signal(signal.SIGINT)
        out, err = p.communicate(timeout=20)
    assert out == "True 0 True\n"
    assert "KeyboardInterrupt" in err
