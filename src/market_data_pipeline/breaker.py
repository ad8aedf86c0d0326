"""Circuit breakers: leave alone for a while what fails again and again."""

from __future__ import annotations

from enum import StrEnum
from typing import ClassVar

from market_data_core.clock import Clock, SystemClock
from market_data_core.errors import ConfigurationError, MarketDataError
from market_data_pipeline.waiting import left_s


class CircuitBreakerOpen(MarketDataError):
    """Something has failed too often and is left alone for now.

    Args:
        name: What is left alone.
        retry_after_sec: When it may be tried again, seconds from now; None where that is not known.
    """

    retryable: ClassVar[bool] = True

    def __init__(self, name: str, *, retry_after_sec: float | None = None) -> None:
        when = "" if retry_after_sec is None else f"; it is tried again in {retry_after_sec:.3g} s"
        super().__init__(f"circuit breaker of {name} is open after repeated failures{when}", details={"name": name})
        self.name = name
        self.retry_after_sec = retry_after_sec


class CircuitState(StrEnum):
    """What a breaker does with those who ask."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


class CircuitBreaker:
    """Opens after so many failures in a row, and after a while lets one probe through to find out.

    Belongs to one event loop.

    Args:
        threshold: Failures in a row that open it, at least 1.
        timeout: Seconds it stays open before a probe is let through; 0 for at once.
        clock: Times that; the system's if None.

    Raises:
        ConfigurationError: An argument is out of range.
    """

    def __init__(self, threshold: int = 5, timeout: float = 60.0, *, clock: Clock | None = None) -> None:
        if threshold < 1 or not 0 <= timeout < float("inf"):
            raise ConfigurationError(
                f"circuit breaker: threshold {threshold} is to be at least 1 and timeout {timeout} at least 0 s"
            )
        self._threshold = threshold
        self._timeout_s = timeout
        self._clock = clock or SystemClock()
        self._failures = 0
        self._state = CircuitState.CLOSED
        # When it opened, or when the probe went through: what the timeout is counted from.
        self._since_s = 0.0

    @property
    def state(self) -> CircuitState:
        """How it stands; looking changes nothing. ``open`` lasts until a probe has been let through."""
        return self._state

    @property
    def failures(self) -> int:
        """Failures since the last success."""
        return self._failures

    @property
    def retry_in_s(self) -> float:
        """Seconds until somebody is let through, 0 if that is now; looking changes nothing."""
        if self._state is CircuitState.CLOSED:
            return 0.0
        return left_s(self._clock, self._since_s + self._timeout_s)

    def is_open(self) -> bool:
        """Ask to be let through: False means go, and tell how it went.

        Once the timeout is over, the first who asks is the probe and everybody else is turned away until the probe has
        told how it went. A probe that is not heard of for another timeout is given up, and the next one goes.
        """
        if self._state is CircuitState.CLOSED:
            return False
        if self.retry_in_s > 0:
            return True
        self._state = CircuitState.HALF_OPEN
        self._since_s = self._clock.monotonic_s()
        return False

    async def record_failure(self) -> None:
        """Take note of a failure. That of a probe opens again; one that comes late changes nothing."""
        self._failures += 1
        late = self._state is CircuitState.OPEN and self.retry_in_s > 0
        if not late and (self._state is not CircuitState.CLOSED or self._failures >= self._threshold):
            self._state = CircuitState.OPEN
            self._since_s = self._clock.monotonic_s()

    async def record_success(self) -> None:
        """Take note of a success, which closes: it is proof, whoever brings it."""
        self._failures = 0
        self._state = CircuitState.CLOSED

    async def reset(self) -> None:
        """Close and forget, as an operator may decide."""
        await self.record_success()
