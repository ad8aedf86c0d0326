from __future__ import annotations

import pytest

from market_data_core.clock import ManualClock
from market_data_core.errors import ConfigurationError, MarketDataError
from market_data_pipeline.orchestration import CircuitBreaker, CircuitBreakerOpen, CircuitState


@pytest.fixture
def clock():
    return ManualClock()


@pytest.fixture
async def opened(clock):
    """A breaker that two failures have just opened for ten seconds."""
    breaker = CircuitBreaker(threshold=2, timeout=10.0, clock=clock)
    await breaker.record_failure()
    await breaker.record_failure()
    return breaker


async def test_opens_at_the_threshold(clock):
    """Closed until so many failures in a row, then open."""
    breaker = CircuitBreaker(clock=clock)
    for _ in range(4):
        await breaker.record_failure()
    assert (breaker.is_open(), breaker.state) == (False, CircuitState.CLOSED)
    await breaker.record_failure()
    assert (breaker.is_open(), breaker.state) == (True, CircuitState.OPEN)


async def test_a_success_ends_the_row(clock):
    """Failures count in a row, not in all."""
    breaker = CircuitBreaker(threshold=2, clock=clock)
    for _ in range(5):
        await breaker.record_failure()
        await breaker.record_success()
    assert not breaker.is_open()


async def test_half_open_lets_one_probe_through(opened, clock):
    """After the timeout one who asks may go, everybody else is turned away."""
    clock.advance(9.9)
    assert opened.is_open()
    clock.advance(0.1)
    assert [opened.is_open() for _ in range(5)] == [False, True, True, True, True]
    assert opened.state is CircuitState.HALF_OPEN


async def test_the_probe_decides(opened, clock):
    """A probe that fails opens for another timeout, one that succeeds closes."""
    clock.advance(10)
    assert not opened.is_open()
    await opened.record_failure()
    clock.advance(9.9)
    assert opened.is_open()
    clock.advance(0.1)
    assert not opened.is_open()
    await opened.record_success()
    assert (opened.state, opened.failures) == (CircuitState.CLOSED, 0)


async def test_a_probe_that_is_never_heard_of_is_given_up(opened, clock):
    """After another timeout the next probe goes."""
    clock.advance(10)
    assert not opened.is_open()
    clock.advance(9.9)
    assert opened.is_open()
    clock.advance(0.1)
    assert not opened.is_open()


async def test_a_late_failure_does_not_prolong(opened, clock):
    """Failures of calls that were under way when it opened change nothing."""
    clock.advance(5)
    await opened.record_failure()
    assert opened.retry_in_s == 5
    clock.advance(5)
    assert not opened.is_open()


async def test_looking_takes_no_probe(opened, clock):
    """State and waiting time can be shown without using up the probe."""
    clock.advance(10)
    assert (opened.state, opened.retry_in_s) == (CircuitState.OPEN, 0.0)
    assert not opened.is_open()


async def test_reset_closes(opened):
    """An operator can close it at once."""
    await opened.reset()
    assert not opened.is_open()


def test_the_error_names_what_is_left_alone():
    """`CircuitBreakerOpen(name)` is a retryable error of ours."""
    error = CircuitBreakerOpen("ibkr")
    assert isinstance(error, MarketDataError)
    assert (error.retryable, error.name, "ibkr" in str(error)) == (True, "ibkr", True)


@pytest.mark.parametrize("given", [{"threshold": 0}, {"timeout": -1.0}, {"timeout": float("nan")}])
def test_wrong_figures_are_refused(given):
    """A breaker that could never open, or never close, is not made."""
    with pytest.raises(ConfigurationError, match=next(iter(given))):
        CircuitBreaker(**given)
