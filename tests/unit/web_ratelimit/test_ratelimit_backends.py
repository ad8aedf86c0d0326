"""What holds of rate limits wherever they are counted, and what happens when Redis is away."""

from __future__ import annotations

import asyncio
import time

import pytest

from market_data_core.errors import ConfigurationError
from market_data_core.web.ratelimit import RateLimited, RateLimits, Rule, control_rules

DEADLINE_S = 10.0
RULES = control_rules(["pause", "resume"], max_per_minute=5)


@pytest.fixture(params=["local", "shared"])
def url(request):
    """None, or the URL of a running Redis."""
    return request.getfixturevalue("own_redis").url if request.param == "shared" else None


async def outcomes(limits, count, action="pause", actor="alice"):
    return [(await limits.hit(action, actor)).allowed for _ in range(count)]


async def test_five_go_through_and_no_more(limits_of, url):
    """And it is told how many are left, and when the next is free."""
    limits = limits_of(url, RULES)
    found = [await limits.hit("pause", "alice") for _ in range(7)]
    assert [decision.allowed for decision in found] == [True] * 5 + [False] * 2
    assert [decision.remaining for decision in found] == [4, 3, 2, 1, 0, 0, 0]
    assert found[0].reset_after_s == 0
    assert 55 < found[-1].reset_after_s <= 60
    assert {decision.counted for decision in found} == {limits.state}


async def test_actions_and_actors_are_counted_apart(limits_of, url):
    """One operator cannot lock out another."""
    limits = limits_of(url, RULES)
    assert await outcomes(limits, 6) == [True] * 5 + [False]
    assert await outcomes(limits, 6, actor="bob") == [True] * 5 + [False]
    assert await outcomes(limits, 6, action="resume") == [True] * 5 + [False]
    assert await outcomes(limits, 1, actor="pause/\udcff\n") == [True]


async def test_at_the_same_time_no_more_go_through(limits_of, url):
    """Whoever asks."""
    limits = limits_of(url, RULES)
    found = await asyncio.gather(*(limits.hit("pause", "alice") for _ in range(30)))
    assert sum(decision.allowed for decision in found) == 5


async def test_the_window_moves(limits_of, url):
    """What was done a window ago counts no longer, and waiting as long as told is enough."""
    limits = limits_of(url, [Rule(action="pause", max_hits=2, window_s=1)])
    assert await outcomes(limits, 3) == [True, True, False]
    until = time.monotonic() + (await limits.test("pause", "alice")).reset_after_s
    deadline = time.monotonic() + DEADLINE_S
    while not (await limits.test("pause", "alice")).allowed:
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)
    assert time.monotonic() == pytest.approx(until, abs=0.3)
    assert await outcomes(limits, 1) == [True]


async def test_asking_counts_nothing(limits_of, url):
    """However often."""
    limits = limits_of(url, RULES)
    for _ in range(10):
        assert (await limits.test("pause", "alice")).allowed
    assert await outcomes(limits, 6) == [True] * 5 + [False]
    assert not (await limits.test("pause", "alice")).allowed


async def test_what_has_no_rule_is_not_limited(limits_of, url):
    """Nor told of."""
    told = []
    limits = limits_of(url, RULES, on_hit=lambda *hit: told.append(hit))
    assert await limits.hit("status", "alice") is None
    assert await limits.require("status", "alice") is None
    assert await limits.test("status", "alice") is None
    assert told == []


async def test_each_decision_is_told(limits_of, url):
    """For orchestrator_rate_limit_hits_total."""
    told = []
    limits = limits_of(url, RULES, on_hit=lambda *hit: told.append(hit))
    await outcomes(limits, 6)
    assert told == [("pause", "allowed")] * 5 + [("pause", "denied")]


async def test_a_denial_says_what_and_for_how_long(limits_of, url):
    """In the words its readers know."""
    limits = limits_of(url, RULES)
    await outcomes(limits, 5)
    with pytest.raises(RateLimited) as caught:
        await limits.require("pause", "alice")
    assert (caught.value.status_code, caught.value.detail) == (429, "Rate limit exceeded: max 5/pause/min")
    headers = caught.value.headers
    assert 55 <= int(headers["Retry-After"]) <= 60
    assert headers["RateLimit-Policy"] == '"pause";q=5;w=60'
    assert headers["RateLimit"] == f'"pause";r=0;t={headers["Retry-After"]}'


async def test_processes_share_one_count(limits_of, own_redis):
    """Two of them let through as many as one."""
    first, second = (limits_of(own_redis.url, RULES) for _ in range(2))
    assert await outcomes(first, 3) == [True] * 3
    assert await outcomes(second, 3) == [True, True, False]
    assert await outcomes(first, 1) == [False]


async def test_a_killed_redis_is_counted_and_control_goes_on_locally(limits_of, own_redis, clock):
    """What this process let through before still counts; reads are let through."""
    told = []
    rules = [*RULES, Rule(action="query", max_hits=1, on_outage="open")]
    limits = limits_of(own_redis.url, rules, on_degraded=lambda: told.append(1))
    assert await outcomes(limits, 3) == [True] * 3
    own_redis.kill()
    assert await outcomes(limits, 3) == [True, True, False]
    assert (limits.state, limits.degraded_total, told) == ("degraded", 1, [1])
    assert await outcomes(limits, 3, action="query") == [True] * 3
    assert (await limits.hit("query", "alice")).counted == "nowhere"

    own_redis.start()
    clock.advance(1)
    # The new Redis knows nothing; this process still does.
    assert await outcomes(limits, 1) == [False]
    assert limits.state == "shared"
    assert await outcomes(limits, 2, action="query") == [True, False]
    assert limits.degraded_total == 1


async def test_a_redis_that_does_not_answer_holds_nobody_up(limits_of, own_redis, clock):
    """One caller waits a quarter of a second, those beside it and after it not at all."""
    limits = limits_of(own_redis.url, RULES)
    assert await outcomes(limits, 1) == [True]
    own_redis.freeze()
    started = time.monotonic()
    assert await outcomes(limits, 5) == [True] * 4 + [False]
    took_s = time.monotonic() - started
    own_redis.thaw()
    assert 0.2 < took_s < 0.5
    assert (limits.state, limits.degraded_total) == ("degraded", 1)
    clock.advance(1)
    assert await outcomes(limits, 1, actor="bob") == [True]
    assert limits.state == "shared"


async def test_a_redis_that_was_never_there_is_no_error(limits_of, clock):
    """The service starts without it."""
    limits = limits_of("redis://127.0.0.1:1/1", RULES)
    assert await outcomes(limits, 6) == [True] * 5 + [False]
    assert limits.state == "degraded"


@pytest.mark.parametrize("wrong", ["http://host", "redis://", "memory://x", "redis://h:port/1", "redis://[/1"])
def test_a_wrong_url_is_told_at_once(wrong):
    """Without what may be a password in it."""
    with pytest.raises(ConfigurationError):
        RateLimits(wrong, RULES)


@pytest.mark.parametrize("wrong", [{"action": "A b"}, {"max_hits": 0}, {"window_s": 0}])
def test_a_rule_that_makes_no_sense_is_told_at_once(wrong):
    """And so are two of one action."""
    with pytest.raises(ConfigurationError):
        Rule(**({"action": "a", "max_hits": 1} | wrong))
    with pytest.raises(ConfigurationError):
        RateLimits(None, [*RULES, *RULES])


async def seen(claim, what):
    """Wait until a claim holds."""
    deadline = time.monotonic() + DEADLINE_S
    while not claim():
        assert time.monotonic() < deadline, what
        await asyncio.sleep(0.005)


async def test_a_watch_notices_while_nobody_asks(limits_of, own_redis, clock):
    """That Redis goes, with the cause and since when, and that it comes back; each within a second."""
    limits = limits_of(own_redis.url, RULES)
    watching = asyncio.create_task(limits.watch())
    await seen(lambda: clock._sleepers, "it was asked once")
    assert (limits.state, limits.outage) == ("shared", None)
    own_redis.kill()
    clock.advance(1)
    await seen(lambda: limits.state == "degraded", "it is missed")
    first = limits.outage
    assert (first.cause, first.since_ns) == ("ConnectionError", clock.now_ns())
    for _ in range(3):
        await seen(lambda: clock._sleepers, "it was asked again")
        clock.advance(1)
    assert limits.outage == first
    own_redis.start()
    await seen(lambda: clock._sleepers, "it was asked again")
    clock.advance(1)
    await seen(lambda: limits.state == "shared", "it is found again")
    assert limits.outage is None
    assert await outcomes(limits, 6) == [True] * 5 + [False]
    watching.cancel()


async def test_without_a_redis_there_is_nothing_to_watch(limits_of):
    """It ends at once."""
    limits = limits_of(None, RULES)
    await limits.watch()
    assert limits.outage is None
