from __future__ import annotations

import asyncio
from contextlib import aclosing
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from orch_world import NOON_NS, SILENCE, Live, Recorded, at_noon, collect, drive, rows, seconds, settle, take

from market_data_core.batch import SourceBatch
from market_data_core.clock import NS_PER_SECOND
from market_data_core.errors import ConfigurationError, ConnectionFailed, InvalidInstrument, SourceError
from market_data_core.models import Quote, Trade
from market_data_core.protocols import BatchSource, Gap, Mark, TickSource
from market_data_core.schemas import Origin
from market_data_pipeline import MemorySink, StreamingPipeline
from market_data_pipeline.orchestration import Backoff, CircuitBreakerOpen, SourceRouter
from market_data_pipeline.source.synthetic import SyntheticSource

DEAD = ConnectionFailed("the line is dead")


@pytest.fixture
def clock():
    return at_noon()


@pytest.fixture
def make(clock):
    """Makes routers whose retries are not left to chance."""

    def made(*sources, strategy="first", **given):
        backoff = Backoff(initial_s=1.0, max_s=8.0, jitter=0.0)
        return SourceRouter(sources=sources, strategy=strategy, clock=clock, random=Random(1), backoff=backoff, **given)

    return made


def bids(items):
    """Who said what: the quotes as (vendor, bid), gaps by their cause."""
    return [(i.meta.vendor, int(i.bid)) if isinstance(i, Quote) else i.cause for i in items]


async def test_falls_back_on_error(make, clock):
    """`stream()` goes on with the next source, a gap in between."""
    router = make(Live("a", clock, [1, 2, DEAD]), Live("b", clock, [5, 6, SILENCE]))
    async with aclosing(router.stream()) as events:
        found = await drive(clock, take(5, events))
    assert bids(found) == [("a", 1), ("a", 2), "source_failed", ("b", 5), ("b", 6)]
    assert (router.status, router.symbols) == ("live", ("AAPL",))


async def test_a_gap_is_what_neither_had(make, clock):
    """It reaches from the last event of the one to the first of the other, and says why."""
    router = make(Live("a", clock, [1, 3.0, DEAD]), Live("b", clock, [4.0, 5, SILENCE]))
    async with aclosing(router.stream()) as events:
        _, gap, _ = await drive(clock, take(3, events))
    assert (gap.vendor, gap.symbols, gap.cause) == ("a", ("AAPL",), "source_failed")
    assert gap.from_ns == NOON_NS
    assert gap.to_ns == pytest.approx(NOON_NS + 7 * NS_PER_SECOND, abs=1000)
    assert "the line is dead" in gap.detail


async def test_no_gap_before_the_first_event(make, clock):
    """A source that never gave anything leaves none."""
    router = make(Live("a", clock), Live("b", clock, [1, SILENCE]))
    async with aclosing(router.stream()) as events:
        assert bids(await drive(clock, take(1, events))) == [("b", 1)]


async def test_returns_to_the_preferred_one_when_it_gives_events(make, clock):
    """It is tried beside the other one, with growing waits; connected alone is not enough to go back."""
    preferred = Live("a", clock, [1, DEAD], [5.0, DEAD], [2.0, 2, 0.5, 3, SILENCE])
    other = Live("b", clock, [step for n in range(10, 60) for step in (n, 1.0)])
    router = make(preferred, other)
    async with aclosing(router.stream()) as events:
        found = await drive(clock, _until_given(("a", 3), events))
    told = bids(found)
    back = told.index(("a", 2))
    assert told[:3] == [("a", 1), "source_failed", ("b", 10)]
    assert told[2:back] == [("b", n) for n in range(10, 10 + back - 2)]
    assert told[back : back + 2] == [("a", 2), ("a", 3)]
    # Waits of 1, then 2 s after the connection that came to nothing, and then the first event after 2 s.
    assert found[back].ts_event_ns == pytest.approx(NOON_NS + 10 * NS_PER_SECOND, abs=1000)


async def test_the_other_one_is_read_until_it_has_got_that_far(make, clock):
    """What a slower source still has on the way when the preferred one comes back is taken first."""
    preferred = Live("a", clock, [1, DEAD], [2, SILENCE])
    slower = Live("b", clock, [step for n in range(10, 90) for step in (n, 0.1)], lag_s=0.45)
    router = make(preferred, slower)
    async with aclosing(router.stream()) as events:
        found = await drive(clock, take(19, events))
    told = bids(found)
    back = told.index(("a", 2))
    assert found[back - 1].ts_event_ns >= found[back].ts_event_ns
    assert told.count("source_failed") == 1
    assert "source_changed" not in told


async def test_one_that_stays_behind_is_left_with_a_gap(make, clock):
    """After the time for handing over, what it had on the way is missing, and said to be."""
    preferred = Live("a", clock, [1, DEAD], [2, SILENCE])
    far_behind = Live("b", clock, [step for n in range(10, 90) for step in (n, 0.1)], lag_s=30.0)
    router = make(preferred, far_behind, handover_s=0.5)
    async with aclosing(router.stream()) as events:
        found = await drive(clock, take(19, events))
    at = bids(found).index("source_changed")
    assert bids(found)[at + 1] == ("a", 2)
    assert (found[at].from_ns, found[at].to_ns) == (found[at - 1].ts_event_ns, found[at + 1].ts_event_ns)


async def test_an_end_that_was_not_announced_is_a_failure(make, clock):
    """A live source whose events just stop is tried again; only one that says it has ended has."""
    router = make(Live("a", clock, [1], [2, SILENCE], status="live"))
    async with aclosing(router.stream()) as events:
        assert bids(await drive(clock, take(3, events))) == [("a", 1), "source_failed", ("a", 2)]


async def test_ends_when_all_have_ended(make, clock):
    """A source that has no more gives way to the next, without a gap; after the last, the stream is over."""
    router = make(Live("a", clock, [1, 2], status="closed"), Live("b", clock, [3]))
    assert bids(await drive(clock, collect(router.stream()))) == [("a", 1), ("a", 2), ("b", 3)]
    assert router.status == "closed"


async def test_does_not_end_while_one_may_come_back(make, clock):
    """With one ended and the other failing, it waits for the other."""
    failing = Live("b", clock)
    router = make(Live("a", clock, [1]), failing)
    async with aclosing(router.stream()) as events:
        assert bids(await drive(clock, take(1, events))) == [("a", 1)]
        coming = asyncio.create_task(take(2, events))
        await drive(clock, clock.sleep(100))
        assert not coming.done()
        assert router.status == "stale"
        failing.scripts.append([2])
        assert bids(await drive(clock, coming)) == ["source_failed", ("b", 2)]


async def test_all_failing_are_tried_on_with_growing_waits(make, clock):
    """Waits double up to the limit, and status says what is wrong."""
    source = Live("a", clock)
    router = make(source, breaker_threshold=100)
    async with aclosing(router.stream()) as events:
        coming = asyncio.create_task(anext(events))
        tries = []
        for _ in range(6):
            tried = source.connections
            await drive(clock, _until(lambda tried=tried: source.connections > tried, clock))
            tries.append(round(seconds(clock)))
        assert tries == [0, 1, 3, 7, 15, 23]
        (health,) = router.health()
        assert (health.state, health.failures, router.status) == ("failed", 6, "stale")
        assert "refuses" in health.problem
        coming.cancel()
        await asyncio.gather(coming, return_exceptions=True)


async def test_jitter_spreads_retries(clock):
    """Two routers do not come back at the same moment."""
    backoff = Backoff(initial_s=1.0, max_s=1.0, jitter=0.5)
    waits = [backoff.delay_s(1, Random(seed)) for seed in range(20)]
    assert len(set(waits)) == 20
    assert all(0.5 <= wait <= 1.0 for wait in waits)


async def test_each_source_stands_behind_its_own_breaker(make, clock):
    """After so many failures a source is left alone for the breaker's timeout; the other is not touched by it."""
    broken = Live("a", clock)
    router = make(broken, Live("b", clock, [1, SILENCE]), breaker_threshold=2, breaker_timeout=500.0)
    async with aclosing(router.stream()) as events:
        coming = asyncio.create_task(take(2, events))
        await drive(clock, clock.sleep(400))
        assert broken.connections == 2
        a, b = router.health()
        assert (a.breaker, b.breaker, b.state) == ("open", "closed", "active")
        await drive(clock, clock.sleep(200))
        assert broken.connections == 3
        coming.cancel()
        await asyncio.gather(coming, return_exceptions=True)


async def test_round_robin_takes_turns(make, clock):
    """Each connection takes the next source, and none is left while it works."""
    sources = [Live(name, clock, [1, 2, DEAD], [3, 4, DEAD]) for name in "abc"]
    router = make(*sources, strategy="round_robin")
    async with aclosing(router.stream()) as events:
        found = await drive(clock, take(17, events))
    told = [t for t in bids(found) if t != "source_failed"]
    assert [name for name, _ in told] == list("aabbccaabbcc")


async def test_latency_prefers_the_fastest(make, clock):
    """Those not yet measured are tried first, then the one whose events arrive soonest after they happened."""
    steps = [step for n in range(400) for step in (n, 0.25)]
    slow, fast = Live("slow", clock, steps, lag_s=2.0), Live("fast", clock, list(steps), lag_s=0.1)
    slow.scripts *= 5
    fast.scripts *= 5
    router = make(slow, fast, strategy="latency")
    async with aclosing(router.stream()) as events:
        found = await drive(clock, take(150, events))
    names = [name for name, _ in (t for t in bids(found) if isinstance(t, tuple))]
    assert names[0] == "slow"
    assert set(names[-100:]) == {"fast"}
    assert router.health()[1].latency_s == pytest.approx(0.1, abs=0.01)


async def test_close_ends_a_stream_that_waits(make, clock):
    """Who waits for the next event is told at once, and all sources are closed; twice does no harm."""
    sources = [Live("a", clock, [SILENCE]), Live("b", clock)]
    router = make(*sources)
    reading = asyncio.create_task(collect(router.stream()))
    await settle()
    await router.close()
    await router.close()
    assert await drive(clock, reading) == []
    assert router.status == "closed"
    assert all(source.closes for source in sources)
    assert await collect(router.stream()) == []


async def test_closing_closes_all_although_one_fails(make, clock):
    """A source that cannot be closed is named; the others are closed."""

    class Stuck(Live):
        async def close(self):
            raise OSError("stuck")

    other = Live("b", clock)
    with pytest.raises(SourceError, match=r"a: OSError: stuck"):
        await make(Stuck("a", clock), other).close()
    assert other.closes == 1


async def test_leaving_a_stream_leaves_nothing_behind(make, clock):
    """Readers that stop early leave no task."""
    before = asyncio.all_tasks()
    async with aclosing(make(Live("a", clock, [1, DEAD]), Live("b", clock, [2, SILENCE])).stream()) as events:
        await drive(clock, take(3, events))
    await settle()
    assert asyncio.all_tasks() == before


async def test_a_quote_comes_from_the_first_that_can_say(make, clock):
    """`get_quote` asks in order of preference."""
    router = make(Live("a", clock), Live("b", clock, [SILENCE]))
    assert (await router.get_quote("AAPL")).meta.vendor == "b"


async def test_a_quote_nobody_can_give_is_an_error(make, clock):
    """Every source's reason is in the error; once breakers are open, that is the error."""
    router = make(Live("a", clock), Live("b", clock), breaker_threshold=1)
    with pytest.raises(SourceError, match=r"a refuses.*b refuses"):
        await router.get_quote("AAPL")
    with pytest.raises(CircuitBreakerOpen):
        await router.get_quote("AAPL")


async def test_an_unknown_symbol_breaks_no_circuit():
    """A source that answers no works."""
    router = SourceRouter(sources=[SyntheticSource(symbols=["AAPL"])], breaker_threshold=1)
    for _ in range(3):
        with pytest.raises(InvalidInstrument):
            await router.get_quote("MSFT")
    assert (await router.get_quote("AAPL")).symbol == "AAPL"
    await router.close()


async def test_batches_resume_where_a_source_was(make, clock):
    """A recording that fails is read again from behind what it gave: no gap, nothing twice, nothing left out."""
    source = Recorded("r", clock, 10, dies_at=[4, 8])
    items = await drive(clock, collect(make(source).batches({"r": 2})))
    assert source.resumes == [2, 4, 8]
    assert rows(items, "r") == list(range(2, 10))
    assert not any(isinstance(item, Gap) for item in items)
    assert isinstance(items[-1], Mark)


async def test_batches_mark_what_a_live_source_missed(make, clock):
    """Numbers that go on do not mean that nothing was missed: a live source leaves a gap, its own return included."""
    source = Recorded("r", clock, 6, dies_at=[3], waits=False)
    items = await drive(clock, collect(make(source).batches({})))
    gaps = [item for item in items if isinstance(item, Gap)]
    assert rows(items, "r") == list(range(6))
    assert [(g.vendor, g.from_ns, g.to_ns) for g in gaps] == [
        ("r", NOON_NS + 2 * NS_PER_SECOND, NOON_NS + 3 * NS_PER_SECOND)
    ]


async def test_sources_of_single_events_give_batches_too(make, clock):
    """Their events go to the engine with vendor and gap."""
    router = make(Live("a", clock, [1, 2, DEAD]), Live("b", clock, [3, SILENCE]))
    async with aclosing(router.batches({})) as items:
        found = await drive(clock, take(4, items))
    assert [i.instruments[0].vendor if isinstance(i, SourceBatch) else i.cause for i in found] == [
        "a",
        "a",
        "source_failed",
        "b",
    ]


async def test_batch_sources_give_single_events_too(make, clock):
    """`stream()` over batch sources gives values, gaps among them, and goes on where a recording was."""
    router = make(Recorded("a", clock, 5, dies_at=[3], waits=False), Recorded("b", clock, 2))
    found = await drive(clock, collect(router.stream()))
    told = [(i.meta.vendor, int(i.price), i.meta.origin) if isinstance(i, Trade) else i.cause for i in found]
    assert [t for t in told if t != "source_failed" and t[0] == "a"] == [("a", n, Origin.LIVE) for n in range(5)]
    assert [t for t in told if t != "source_failed" and t[0] == "b"] == [("b", n, Origin.REPLAY) for n in range(2)]
    assert told[3] == "source_failed"


async def test_a_router_is_a_source(make, clock):
    """It has what engine and users ask of one, and a pipeline runs over it."""
    router = make(Recorded("a", clock, 10, dies_at=[4]), name="both")
    assert isinstance(router, BatchSource)
    assert isinstance(router, TickSource)
    assert (router.name, router.origin, router.waits, router.status) == ("both", Origin.REPLAY, True, "pending")
    sink = MemorySink()
    await drive(clock, StreamingPipeline(source=router, sink=sink).run())
    assert [int(trade.price) for trade in sink.values] == list(range(10))


async def test_a_source_that_breaks_in_its_own_way_is_a_failure(make, clock):
    """Errors that are not ours, and readings cancelled from within, lead to the next source."""

    class Odd(Live):
        def stream(self):
            raise TypeError("no such thing")

    class Cancelled(Live):
        async def stream(self):
            raise asyncio.CancelledError
            yield

    router = make(Odd("a", clock), Cancelled("b", clock), Live("c", clock, [1, SILENCE]))
    async with aclosing(router.stream()) as events:
        assert bids(await drive(clock, take(1, events))) == [("c", 1)]


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"sources": []}, "no sources"),
        ({"sources": [SyntheticSource]}, "stream"),
        ({"sources": [object()]}, "stream"),
        ({"sources": [Live("a", None)], "strategy": "luck"}, "first, round_robin, latency"),
    ],
)
def test_wrong_arguments_are_refused(given, told):
    """The error says what is allowed."""
    with pytest.raises(ConfigurationError, match=told):
        SourceRouter(**given)


deaths = st.lists(st.integers(0, 20), max_size=4).map(sorted)


@settings(max_examples=60, deadline=None)
@given(
    dies_at=st.tuples(deaths, deaths, deaths),
    batch_rows=st.integers(1, 7),
    waits=st.tuples(st.booleans(), st.booleans(), st.booleans()),
    pauses=st.tuples(*[st.sampled_from([0.01, 0.3, 2.0])] * 3),
    strategy=st.sampled_from(["first", "round_robin", "latency"]),
    seed=st.integers(0, 99),
)
async def test_nothing_a_source_gave_is_lost_or_doubled(  # noqa: PLR0917  hypothesis names them
    dies_at, batch_rows, waits, pauses, strategy, seed
):
    """However often sources die, each one's events come once, in order and to the last; failures leave gaps."""
    clock = at_noon()
    sources = [
        Recorded(name, clock, 20, dies_at=dies_at[n], batch_rows=batch_rows, waits=waits[n], pause_s=pauses[n])
        for n, name in enumerate("abc")
    ]
    router = SourceRouter(sources=sources, strategy=strategy, clock=clock, random=Random(seed), breaker_timeout=5.0)
    items = await drive(clock, collect(router.batches({})))
    for source in sources:
        assert rows(items, source.name) == source.given == list(range(20))
    assert sum(isinstance(item, Mark) for item in items) == 3
    assert all(gap.from_ns < gap.to_ns for gap in items if isinstance(gap, Gap))


@settings(max_examples=40, deadline=None)
@given(
    scripts=st.lists(
        st.lists(
            st.lists(st.one_of(st.integers(1, 9), st.sampled_from([0.1, 1.5, 9.0, DEAD])), max_size=8), max_size=4
        ),
        min_size=1,
        max_size=3,
    ),
    seed=st.integers(0, 99),
)
async def test_live_events_given_are_events_received(scripts, seed):
    """Whatever dies when, what live sources gave arrives, each one's in its order, gaps between."""
    clock = at_noon()
    sources = [Live(str(n), clock, *script, [99, SILENCE]) for n, script in enumerate(scripts)]
    router = SourceRouter(sources=sources, clock=clock, random=Random(seed), breaker_timeout=5.0)
    reading = asyncio.create_task(collect(router.stream()))
    await drive(clock, clock.sleep(1000))
    await router.close()
    found = await drive(clock, reading)
    for source in sources:
        assert [bid for name, bid in filter(lambda t: isinstance(t, tuple), bids(found)) if name == source.name] == (
            source.given
        )


async def _until(true, clock):
    while not true():
        await clock.sleep(0.01)


async def _until_given(last, events):
    found = []
    while not found or bids(found[-1:]) != [last]:
        found.append(await anext(events))
    return found
