"""Parts start in order, stop in reverse, and cannot take each other down."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager

import pytest
from hypothesis import given
from hypothesis import strategies as st

from market_data_core.errors import ConfigurationError, TemporaryUnavailable
from market_data_orchestrator.lifecycle import LifecycleManager


def part(name, said, *, failing=(), stopping=None):
    """Return an opener that says what happens; the first starts fail with `failing`, one after the other."""
    failures = list(failing)

    @asynccontextmanager
    async def opened():
        if failures:
            raise failures.pop(0)
        said.append(f"+{name}")
        try:
            yield
        finally:
            if stopping is not None:
                await stopping()
            said.append(f"-{name}")

    return opened


async def test_parts_stop_in_reverse():
    """The last to start is the first to stop, and each says how it is."""
    said = []
    lifecycle = LifecycleManager()
    for name in ("a", "b", "c"):
        lifecycle.add(name, part(name, said))
    assert set(lifecycle.states.values()) == {"waiting"}
    async with lifecycle:
        assert lifecycle.states == {"a": "running", "b": "running", "c": "running"}
    assert said == ["+a", "+b", "+c", "-c", "-b", "-a"]
    assert set(lifecycle.states.values()) == {"stopped"}
    await lifecycle.stop()
    assert len(said) == 6


@given(count=st.integers(1, 6), bad=st.integers(0, 5))
async def test_half_a_start_unwinds(count, bad):
    """Whichever part fails, exactly those before it are stopped again, in reverse, and its error is what is raised."""
    said = []
    lifecycle = LifecycleManager()
    for number in range(count):
        failing = [ConfigurationError("no")] if number == bad else ()
        lifecycle.add(str(number), part(str(number), said, failing=failing))
    began = [str(n) for n in range(min(bad, count))]
    if bad < count:
        with pytest.raises(ConfigurationError, match="no"):
            await lifecycle.start()
        assert lifecycle.states[str(bad)] == "failed"
    else:
        await lifecycle.start()
        await lifecycle.stop()
    assert said == [f"+{n}" for n in began] + [f"-{n}" for n in reversed(began)]


async def test_a_part_that_may_start_later_is_tried_again():
    """Those before it stay as they are meanwhile; an error that will stay is not tried again."""
    said, asked = [], []

    async def again(name, exc):
        asked.append((name, str(exc)))
        return True

    lifecycle = LifecycleManager(again=again)
    lifecycle.add("a", part("a", said))
    lifecycle.add("b", part("b", said, failing=[TemporaryUnavailable("away"), OSError("full")]))
    async with lifecycle:
        assert said == ["+a", "+b"]
    assert asked == [("b", "away"), ("b", "full")]
    lifecycle = LifecycleManager(again=again)
    lifecycle.add("c", part("c", said, failing=[ConfigurationError("wrong")]))
    with pytest.raises(ConfigurationError):
        await lifecycle.start()
    assert len(asked) == 2


async def test_a_start_that_is_given_up_raises_what_held_it_up():
    """When it is said not to try again, the others are stopped and the cause is told."""
    said = []

    async def never(name, exc):
        return False

    lifecycle = LifecycleManager(again=never)
    lifecycle.add("a", part("a", said))
    lifecycle.add("b", part("b", said, failing=[TemporaryUnavailable("away")]))
    with pytest.raises(TemporaryUnavailable, match="away"):
        await lifecycle.start()
    assert said == ["+a", "-a"]


async def test_a_part_that_does_not_stop_in_time_is_left():
    """Its own deadline ends the wait, and the others are stopped all the same."""
    said = []
    lifecycle = LifecycleManager()
    lifecycle.add("a", part("a", said))
    lifecycle.add("stuck", part("stuck", said, stopping=asyncio.Event().wait), stop_s=0.05)
    lifecycle.add("c", part("c", said))
    await lifecycle.start()
    await asyncio.wait_for(lifecycle.stop(), 5)
    assert said == ["+a", "+stuck", "+c", "-c", "-a"]
    assert lifecycle.states == {"a": "stopped", "stuck": "late", "c": "stopped"}


async def test_a_part_that_fails_to_stop_keeps_no_other_running():
    """Its error is raised once all others are stopped; a timeout of its own is no missed deadline."""

    async def broken():
        raise TimeoutError("of its own")

    said = []
    lifecycle = LifecycleManager()
    lifecycle.add("a", part("a", said))
    lifecycle.add("b", part("b", said, stopping=broken))
    await lifecycle.start()
    with pytest.raises(TimeoutError, match="of its own"):
        await lifecycle.stop()
    assert said == ["+a", "+b", "-a"]
    assert lifecycle.states["b"] == "failed"


async def test_a_task_of_a_part_that_fails_ends_what_runs():
    """The error of a part's task group reaches whoever waits inside, after everything was stopped."""
    said = []
    failing = asyncio.Event()

    @asynccontextmanager
    async def watching():
        async def watch():
            await failing.wait()
            raise RuntimeError("watcher")

        async with asyncio.TaskGroup() as group:
            group.create_task(watch())
            yield

    lifecycle = LifecycleManager()
    lifecycle.add("a", part("a", said))
    lifecycle.add("watching", watching)

    async def run():
        async with lifecycle:
            failing.set()
            await asyncio.Event().wait()

    with pytest.raises(ExceptionGroup) as caught:
        await run()
    assert caught.group_contains(RuntimeError, match="watcher")
    assert said == ["+a", "-a"]


async def test_nothing_is_added_twice_or_too_late():
    """A second part of a name, and one that would never be started, are refused."""
    lifecycle = LifecycleManager()
    lifecycle.add("a", part("a", []))
    with pytest.raises(ConfigurationError, match="called a"):
        lifecycle.add("a", part("a", []))
    async with lifecycle:
        with pytest.raises(ConfigurationError, match="too late"):
            lifecycle.add("b", part("b", []))
