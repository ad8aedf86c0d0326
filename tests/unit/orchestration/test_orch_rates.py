from __future__ import annotations

import asyncio

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from orch_world import at_noon, collect, drive, seconds, settle

from market_data_core.errors import ConfigurationError, RegistryError
from market_data_core.protocols import RateController
from market_data_core.telemetry import BackpressureLevel, RateAdjustment
from market_data_pipeline.orchestration import CircuitBreakerOpen, CircuitState, RateCoordinator


@pytest.fixture
def clock():
    return at_noon()


@pytest.fixture
def rates(clock):
    """A coordinator that knows one provider: two requests at once, then one a second."""
    coordinator = RateCoordinator(clock=clock)
    coordinator.register_provider("ibkr", capacity=2, refill_rate=1, breaker_threshold=2, breaker_timeout=30.0)
    return coordinator


def adjustment(scale):
    return RateAdjustment(provider="ibkr", scale=scale, reason=BackpressureLevel.SOFT, ts=0.0)


async def many(rates, clock, names):
    """Ask once per name, all at once; returns who went when, in order."""
    went = []

    async def ask(name, scope):
        await rates.acquire("ibkr", scope=scope)
        went.append((name, round(seconds(clock), 3)))

    await drive(clock, asyncio.gather(*(ask(name, scope) for name, scope in names)))
    return went


async def test_a_budget_as_published():
    """`register_provider(name)` has defaults, and `acquire(name)` returns at once while there is budget."""
    rates = RateCoordinator()
    rates.register_provider("ibkr", capacity=60, refill_rate=60, cooldown_sec=600, breaker_threshold=5)
    async with asyncio.timeout(5):
        for _ in range(60):
            await rates.acquire("ibkr")
    await rates.record_failure("ibkr")
    await rates.trigger_cooldown("ibkr", "historical")
    assert rates.status("ibkr").cooldowns["historical"] == pytest.approx(600, abs=5)


async def test_waits_for_tokens_in_order(rates, clock):
    """What is there goes at once, then one a second, first come first served."""
    went = await many(rates, clock, [(n, "") for n in range(5)])
    assert went == [(0, 0.0), (1, 0.0), (2, 1.0), (3, 2.0), (4, 3.0)]


async def test_a_rest_fills_up_to_the_capacity(rates, clock):
    """However long nobody asks, no more gathers than fits."""
    clock.advance(1000)
    assert rates.status("ibkr").tokens == 2
    went = await many(rates, clock, [(n, "") for n in range(3)])
    assert [at - 1000 for _, at in went] == [0.0, 0.0, 1.0]


async def test_who_is_cancelled_takes_nothing(rates, clock):
    """The place of one who gives up goes to the next."""
    await rates.acquire("ibkr")
    await rates.acquire("ibkr")
    impatient = asyncio.create_task(rates.acquire("ibkr"))
    await settle()
    patient = asyncio.create_task(rates.acquire("ibkr"))
    await settle()
    assert rates.status("ibkr").waiting == 2
    impatient.cancel()
    await settle()
    await drive(clock, patient)
    assert seconds(clock) == pytest.approx(1.0)
    assert rates.status("ibkr").waiting == 0


async def test_a_cooldown_returns_at_once_and_holds_its_scope(rates, clock):
    """Requests of the scope wait until it is over; others go on meanwhile."""
    await rates.trigger_cooldown("ibkr", "historical")
    assert seconds(clock) == 0
    went = await many(rates, clock, [("history", "historical"), ("quotes", "realtime")])
    assert went == [("quotes", 0.0), ("history", 600.0)]


async def test_who_does_not_say_what_for_waits_for_every_cooldown(rates, clock):
    """`acquire(name)` after `trigger_cooldown(name, scope)` waits."""
    await rates.trigger_cooldown("ibkr", "historical")
    assert await many(rates, clock, [("any", "")]) == [("any", 600.0)]


async def test_a_cooldown_of_the_whole_provider_holds_every_scope(rates, clock):
    """Without a scope, all of it rests."""
    await rates.trigger_cooldown("ibkr")
    assert await many(rates, clock, [("quotes", "realtime")]) == [("quotes", 600.0)]


async def test_failures_open_the_breaker_for_those_who_wait(rates, clock):
    """Who asks, and who has been waiting, is told at once; after the timeout one probe goes."""
    await rates.acquire("ibkr")
    await rates.acquire("ibkr")
    waiting = asyncio.create_task(rates.acquire("ibkr"))
    await settle()
    await rates.record_failure("ibkr")
    await rates.record_failure("ibkr")
    with pytest.raises(CircuitBreakerOpen, match="ibkr"):
        await waiting
    with pytest.raises(CircuitBreakerOpen) as told:
        await rates.acquire("ibkr")
    assert told.value.retry_after_sec == 30
    clock.advance(30)
    await rates.acquire("ibkr")
    with pytest.raises(CircuitBreakerOpen):
        await rates.acquire("ibkr")
    await rates.record_success("ibkr")
    await rates.acquire("ibkr")
    assert rates.status("ibkr").breaker is CircuitState.CLOSED


async def test_scale_slows_and_stops(rates, clock):
    """At half scale tokens come half as fast, at 0 none until it rises."""
    await rates.acquire("ibkr")
    await rates.acquire("ibkr")
    await rates.apply(adjustment(0.5))
    await drive(clock, rates.acquire("ibkr"))
    assert seconds(clock) == pytest.approx(2.0)
    await rates.apply(adjustment(0.0))
    waiting = asyncio.create_task(rates.acquire("ibkr"))
    await settle()
    clock.advance(1000)
    await settle()
    assert not waiting.done()
    await rates.apply(adjustment(1.0))
    await drive(clock, waiting)
    assert seconds(clock) == pytest.approx(1003.0)


async def test_a_live_feed_is_never_slowed(clock):
    """Backpressure does not reach who cannot wait."""
    rates = RateCoordinator(clock=clock)
    rates.register_provider("live", waits=False)
    await rates.apply(RateAdjustment(provider="live", scale=0.0, reason=BackpressureLevel.HARD, ts=0.0))
    assert rates.scale("live") == 1.0


async def test_items_come_at_the_providers_scale(rates, clock):
    """At half scale, items that take a second each come every two."""

    async def every_second():
        for n in range(4):
            await clock.sleep(1.0)
            yield n

    await rates.apply(adjustment(0.5))
    assert await drive(clock, collect(rates.paced("ibkr", every_second()))) == [0, 1, 2, 3]
    assert seconds(clock) == pytest.approx(8.0)


async def test_items_stop_at_scale_0(rates, clock):
    """Nothing comes while the scale is 0, and nothing is lost by it."""

    async def numbers():
        for n in range(3):
            yield n

    await rates.apply(adjustment(0.0))
    reading = asyncio.create_task(collect(rates.paced("ibkr", numbers())))
    await settle()
    assert not reading.done()
    await rates.apply(adjustment(1.0))
    assert await drive(clock, reading) == [0, 1, 2]


async def test_registering_again_keeps_who_waits(rates, clock):
    """New figures apply at once, also to those who wait already."""
    await rates.acquire("ibkr")
    await rates.acquire("ibkr")
    waiting = asyncio.create_task(rates.acquire("ibkr"))
    await settle()
    rates.register_provider("ibkr", capacity=2, refill_rate=10)
    await drive(clock, waiting)
    assert seconds(clock) == pytest.approx(0.1)


async def test_unknown_providers_are_named(rates):
    """Every call says which providers there are."""
    for call in (rates.acquire, rates.record_failure, rates.trigger_cooldown):
        with pytest.raises(RegistryError, match=r"'other'.*ibkr"):
            await call("other")


@pytest.mark.parametrize("figures", [{"capacity": 0}, {"refill_rate": 0}, {"cooldown_sec": -1}])
def test_wrong_figures_are_refused(rates, figures):
    """A budget nobody could ever use is not made."""
    with pytest.raises(ConfigurationError, match=next(iter(figures))):
        rates.register_provider("ibkr", **figures)


def test_is_the_published_protocol(rates):
    """A `RateCoordinator` is a `RateController`."""
    assert isinstance(rates, RateController)


@settings(max_examples=30, deadline=None)
@given(
    capacity=st.integers(1, 5),
    rate=st.sampled_from([0.5, 1, 7, 60]),
    delays=st.lists(st.floats(0, 3), min_size=1, max_size=25),
    scopes=st.integers(1, 3),
)
async def test_the_budget_is_never_exceeded_and_everybody_goes(capacity, rate, delays, scopes):
    """In no stretch of time go more than capacity and refill allow, and within a scope the order is kept."""
    clock = at_noon()
    rates = RateCoordinator(clock=clock)
    rates.register_provider("p", capacity=capacity, refill_rate=rate)
    went, asked = [], []

    async def ask(n, delay_s):
        await clock.sleep(delay_s)
        asked.append(n)
        await rates.acquire("p", scope=str(n % scopes))
        went.append((n, seconds(clock)))

    await drive(clock, asyncio.gather(*(ask(n, d) for n, d in enumerate(delays))))
    times = [at for _, at in went]
    assert sorted(n for n, _ in went) == list(range(len(delays)))
    assert [n for n, _ in went] == asked
    for i, start in enumerate(times):
        for j in range(i, len(times)):
            assert j - i + 1 <= capacity + (times[j] - start) * rate + 1e-3
