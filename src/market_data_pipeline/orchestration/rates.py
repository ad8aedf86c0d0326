"""Who may ask a provider how often, for everybody who asks."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from dataclasses import dataclass
from itertools import count
from typing import Final, TypeVar

from market_data_core.clock import Clock, SystemClock
from market_data_core.errors import ConfigurationError, RegistryError
from market_data_core.telemetry import RateAdjustment
from market_data_pipeline.breaker import CircuitBreaker, CircuitBreakerOpen, CircuitState
from market_data_pipeline.waiting import first_of, left_s

T = TypeVar("T")

ALL_SCOPES: Final = ""
"""The scope of a cooldown that is the whole provider's, and of a request that does not say what it is for."""

# Floating point: a token that is this near to whole is whole, and a timer may be a nanosecond early.
_EPSILON: Final = 1e-6
# Sleeps shorter than this are saved up: timers are not finer.
_SHORTEST_SLEEP_S: Final = 0.01


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """How a provider's budget stands.

    Attributes:
        provider: Its name.
        tokens: Requests that could go at once.
        capacity: Most that can gather.
        refill_rate: Per second, at full rate.
        scale: Part of the full rate it runs at, 0 to 1.
        waiting: Who wait for a token.
        breaker: How its circuit breaker stands.
        cooldowns: Seconds left by scope; `ALL_SCOPES` is the whole provider's.
    """

    provider: str
    tokens: float
    capacity: float
    refill_rate: float
    scale: float
    waiting: int
    breaker: CircuitState
    cooldowns: Mapping[str, float]


class RateCoordinator:
    """Keeps a token bucket, cooldowns and a circuit breaker per provider; a `RateController`.

    Belongs to one event loop.

    Args:
        clock: Times everything; the system's if None.
    """

    def __init__(self, *, clock: Clock | None = None) -> None:
        self._clock = clock or SystemClock()
        self._providers: dict[str, _Provider] = {}

    def register_provider(  # noqa: PLR0917  the published call
        self,
        name: str,
        capacity: float = 60,
        refill_rate: float = 60,
        cooldown_sec: float = 600,
        breaker_threshold: int = 5,
        breaker_timeout: float = 60.0,
        *,
        waits: bool = True,
    ) -> None:
        """Make a provider known; again changes its figures and keeps who waits.

        Args:
            name: Of the provider.
            capacity: Requests that may go at once after a rest, at least 1.
            refill_rate: Requests per second that come on top.
            cooldown_sec: How long a cooldown lasts, seconds.
            breaker_threshold: Failures in a row after which it is left alone,
            breaker_timeout: and for how many seconds.
            waits: Whether it can be slowed without losing anything; a live feed cannot and keeps its full rate.

        Raises:
            ConfigurationError: A figure is out of range.
        """
        if not 1 <= capacity < float("inf") or not 0 < refill_rate < float("inf") or not 0 <= cooldown_sec < 1e12:
            raise ConfigurationError(
                f"provider {name!r}: capacity {capacity} is to be at least 1, refill_rate {refill_rate}/s above 0, "
                f"cooldown_sec {cooldown_sec} at least 0"
            )
        breaker = CircuitBreaker(breaker_threshold, breaker_timeout, clock=self._clock)
        figures = _Figures(capacity, refill_rate, cooldown_sec, waits)
        known = self._providers.get(name)
        if known is None:
            self._providers[name] = _Provider(name, self._clock, figures, breaker)
        else:
            known.reset(figures, breaker)

    @property
    def providers(self) -> tuple[str, ...]:
        """Names, in the order they were registered."""
        return tuple(self._providers)

    async def acquire(self, name: str, *, scope: str = ALL_SCOPES) -> None:
        """Wait for leave to send one request; those who wait go in the order they came.

        Who waits for a cooldown to end lets those of other scopes go ahead. Cancelled, it has taken nothing.

        Args:
            name: Of the provider.
            scope: What the request is for, in the provider's own terms. One that does not say waits for every
                cooldown, because it could be for any.

        Raises:
            RegistryError: No provider of that name is registered.
            CircuitBreakerOpen: The provider is left alone, from the start or meanwhile.
        """
        await self._get(name).acquire(scope)

    async def record_failure(self, name: str) -> None:
        """Take note that a request failed. Where that opens the breaker, those who wait are told at once."""
        await self._get(name).record(failed=True)

    async def record_success(self, name: str) -> None:
        """Take note that a request was answered."""
        await self._get(name).record(failed=False)

    async def trigger_cooldown(self, name: str, scope: str = ALL_SCOPES) -> None:
        """Let a provider rest for its `cooldown_sec`, from now; returns at once.

        Args:
            name: Of the provider.
            scope: What rests; other scopes go on. `ALL_SCOPES` is all of it.

        Raises:
            RegistryError: No provider of that name is registered.
        """
        self._get(name).cool_down(scope)

    async def apply(self, adjustment: RateAdjustment) -> None:
        """Run a provider at a part of its full rate, if it can be slowed without losing anything.

        Raises:
            RegistryError: No provider of that name is registered.
        """
        self._get(adjustment.provider).slow_down(adjustment.scale)

    def scale(self, name: str) -> float:
        """Return the part of its full rate that a provider runs at, 0 to 1."""
        return self._get(name).scale

    def status(self, name: str) -> Budget:
        """Return how a provider's budget stands.

        Raises:
            RegistryError: No provider of that name is registered.
        """
        return self._get(name).status()

    async def paced(self, name: str, items: AsyncIterator[T]) -> AsyncGenerator[T, None]:
        """Give items at the provider's scale: at 0.5 half as fast as they would come, at 0 none until it rises.

        Args:
            name: Of the provider.
            items: Events or batches; closed by whoever opened them.

        Raises:
            RegistryError: No provider of that name is registered.
        """
        provider = self._get(name)
        owed_s = 0.0
        since_s = self._clock.monotonic_s()
        async for item in items:
            now_s = self._clock.monotonic_s()
            if provider.scale < 1:
                owed_s = await provider.give_way(owed_s, now_s - since_s)
            since_s = self._clock.monotonic_s()
            yield item

    def _get(self, name: str) -> _Provider:
        found = self._providers.get(name)
        if found is None:
            raise RegistryError(
                f"no provider {name!r} is registered; there are: {', '.join(self._providers) or 'none'}"
            )
        return found


@dataclass(slots=True)
class _Waiter:
    ticket: int
    wake: asyncio.Future[None] | None = None


@dataclass(frozen=True, slots=True)
class _Figures:
    capacity: float
    refill_rate: float
    cooldown_s: float
    waits: bool


class _Provider:
    def __init__(self, name: str, clock: Clock, figures: _Figures, breaker: CircuitBreaker) -> None:
        self._name = name
        self._clock = clock
        self._figures = figures
        self._tokens = figures.capacity
        self._filled_s = clock.monotonic_s()
        self._breaker = breaker
        self.scale = 1.0
        self._cooldowns: dict[str, float] = {}
        # Those who wait, by scope and ticket, in the order they came.
        self._queues: dict[str, dict[int, _Waiter]] = {}
        self._tickets = count()
        self._runs = asyncio.Event()  # clear while the scale is 0
        self._runs.set()

    def reset(self, figures: _Figures, breaker: CircuitBreaker) -> None:
        self._fill()
        self._figures, self._breaker = figures, breaker
        self._tokens = min(self._tokens, figures.capacity)
        self._set_scale(self.scale if figures.waits else 1.0)
        self._wake(self._everybody())

    async def acquire(self, scope: str) -> None:
        me = _Waiter(next(self._tickets))
        self._queues.setdefault(scope, {})[me.ticket] = me
        try:
            while True:
                if self._breaker.retry_in_s > 0:
                    raise CircuitBreakerOpen(self._name, retry_after_sec=self._breaker.retry_in_s)
                delay_s = self._delay_s(me, scope)
                if delay_s == 0:
                    self._breaker.is_open()  # says go, as was just seen; where it is half open, this is the probe
                    self._tokens -= 1
                    return
                me.wake = asyncio.get_running_loop().create_future()
                await first_of(self._clock, delay_s, [me.wake], name=f"rate of {self._name}")
        finally:
            del self._queues[scope][me.ticket]
            if not self._queues[scope]:
                del self._queues[scope]
            self._wake(self._heads())

    async def record(self, *, failed: bool) -> None:
        await (self._breaker.record_failure() if failed else self._breaker.record_success())
        if self._breaker.retry_in_s > 0:
            self._wake(self._everybody())

    def cool_down(self, scope: str) -> None:
        self._cooldowns[scope] = self._clock.monotonic_s() + self._figures.cooldown_s
        self._wake(self._heads())

    def slow_down(self, scale: float) -> None:
        if self._figures.waits and scale != self.scale:
            self._fill()
            self._set_scale(scale)
            self._wake(self._heads())

    def _set_scale(self, scale: float) -> None:
        self.scale = scale
        if scale > 0:
            self._runs.set()
        else:
            self._runs.clear()

    async def give_way(self, owed_s: float, worked_s: float) -> float:
        while self.scale == 0:
            await self._runs.wait()
        owed_s += worked_s * (1 / self.scale - 1)
        if owed_s < _SHORTEST_SLEEP_S:
            return owed_s
        await self._clock.sleep(owed_s)
        return 0.0

    def status(self) -> Budget:
        self._fill()
        left = {scope: left_s(self._clock, until_s) for scope, until_s in self._cooldowns.items()}
        return Budget(
            provider=self._name,
            tokens=self._tokens,
            capacity=self._figures.capacity,
            refill_rate=self._figures.refill_rate,
            scale=self.scale,
            waiting=len(self._everybody()),
            breaker=self._breaker.state,
            cooldowns={scope: seconds for scope, seconds in left.items() if seconds > 0},
        )

    # How long this one waits at least; None until it is woken, 0 if it may go.
    def _delay_s(self, me: _Waiter, scope: str) -> float | None:
        self._fill()
        if next(iter(self._queues[scope])) != me.ticket:
            return None
        resting_s = self._resting_s(scope)
        if resting_s > 0:
            return resting_s
        for other, queue in self._queues.items():
            if next(iter(queue)) < me.ticket and self._resting_s(other) <= 0:
                return None  # it came earlier, and wakes this one when it has gone
        if self._tokens >= 1 - _EPSILON:
            return 0
        rate = self._figures.refill_rate * self.scale
        return (1 - self._tokens) / rate if rate > 0 else None

    def _resting_s(self, scope: str) -> float:
        scopes = self._cooldowns if scope == ALL_SCOPES else (scope, ALL_SCOPES)
        return max((left_s(self._clock, self._cooldowns[s]) for s in scopes if s in self._cooldowns), default=0.0)

    def _fill(self) -> None:
        now_s = self._clock.monotonic_s()
        gained = (now_s - self._filled_s) * self._figures.refill_rate * self.scale
        self._tokens = min(self._figures.capacity, self._tokens + gained)
        self._filled_s = now_s

    # The first of every scope: of the others nobody can go.
    def _heads(self) -> list[_Waiter]:
        return [next(iter(queue.values())) for queue in self._queues.values()]

    def _everybody(self) -> list[_Waiter]:
        return [waiter for queue in self._queues.values() for waiter in queue.values()]

    def _wake(self, waiters: list[_Waiter]) -> None:
        for waiter in waiters:
            if waiter.wake is not None and not waiter.wake.done():
                waiter.wake.set_result(None)
