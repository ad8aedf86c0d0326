"""Counts of what callers did, in this process or shared through Redis."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import time
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import Any, Final, Literal
from urllib.parse import urlsplit

from limits import RateLimitItemPerSecond
from limits.aio.storage import MemoryStorage
from limits.aio.strategies import MovingWindowRateLimiter

from market_data_core.clock import Clock, SystemClock
from market_data_core.errors import ConfigurationError
from market_data_core.web.ratelimit.rules import Decision, Outage, RateLimited, Rule

LOG = logging.getLogger(__name__)

_TIMEOUT_S: Final = 0.25
# While Redis is away only one caller in this time finds out, the others do not wait for it.
_RETRY_S: Final = 1.0
_SCHEMES: Final = frozenset({"redis", "rediss"})
# What the watch counts: it writes as any limit does, since a Redis that can only be read is away too. Nobody waits for
# it, so a process that is itself too busy for a moment need not take Redis for dead.
_PROBE: Final = Rule(action="probe", max_hits=1, window_s=1)
_PROBE_TIMEOUT_S: Final = 1.0
_PROBES: Final = 2


class RateLimits:
    """Holds callers to rules.

    With a `url` the counts are shared by all processes that name the same Redis; each process also keeps its own, so
    that what was done before Redis went away still counts while it is. Times are those of the processes.

    Args:
        url: ``redis://[user:password@]host:port/db`` or ``rediss://``; None or empty to count in this process only.
        rules: One for each action; an action without a rule is not limited.
        on_hit: Told of each decision: the action, and ``allowed`` or ``denied``.
        on_degraded: Told each time Redis did not answer.
        timeout_s: How long Redis may keep a caller waiting, seconds.
        clock: Says when Redis is tried again, and since when it is away.

    Raises:
        ConfigurationError: The URL is not one, two rules are of one action, or the package redis is absent.
    """

    def __init__(
        self,
        url: str | None,
        rules: Iterable[Rule],
        *,
        on_hit: Callable[[str, Literal["allowed", "denied"]], None] | None = None,
        on_degraded: Callable[[], None] | None = None,
        timeout_s: float = _TIMEOUT_S,
        clock: Clock | None = None,
    ) -> None:
        listed = list(rules)
        self._rules = {rule.action: rule for rule in listed}
        if len(self._rules) != len(listed):
            raise ConfigurationError("two rate limits are of the same action")
        self._on_hit = on_hit
        self._on_degraded = on_degraded
        self._timeout_s = timeout_s
        self._clock = clock or SystemClock()
        self._local = MovingWindowRateLimiter(MemoryStorage())
        self._shared = _shared(url, timeout_s) if url else None
        self._outage: Outage | None = None
        self._retry_at_s = 0.0
        self._unanswered = 0

    @property
    def state(self) -> Literal["local", "shared", "degraded"]:
        """Where it counts; ``degraded`` if Redis is configured and did not answer last time."""
        if self._shared is None:
            return "local"
        return "degraded" if self._outage is not None else "shared"

    @property
    def outage(self) -> Outage | None:
        """Why and since when each process counts alone; None while counts are shared, or never are."""
        return self._outage

    @property
    def degraded_total(self) -> int:
        """How often Redis did not answer."""
        return self._unanswered

    async def hit(self, action: str, actor: str) -> Decision | None:
        """Count one attempt and return whether it may go on; None if the action is not limited.

        Denied attempts take nothing from what is left.

        Args:
            action: What is to be done.
            actor: Who does it: a name or an address. Only its hash is stored.
        """
        rule = self._rules.get(action)
        if rule is None:
            return None
        decision = await self._decide(rule, actor, take=True)
        if self._on_hit is not None:
            self._on_hit(action, "allowed" if decision.allowed else "denied")
        return decision

    async def test(self, action: str, actor: str) -> Decision | None:
        """Return what `hit` would, and count nothing."""
        rule = self._rules.get(action)
        return None if rule is None else await self._decide(rule, actor, take=False)

    async def require(self, action: str, actor: str) -> Decision | None:
        """Count one attempt, as `hit` does.

        Raises:
            RateLimited: It may not go on.
        """
        decision = await self.hit(action, actor)
        if decision is not None and not decision.allowed:
            raise RateLimited(decision)
        return decision

    async def watch(self) -> None:
        """Ask Redis once a second whether it is there; runs until cancelled, or ends at once without a Redis.

        Without it `state` is only as new as the last request that was held against a rule.
        """
        while self._shared is not None:
            await self._ask_shared(_PROBE, "", take=True, timeout_s=_PROBE_TIMEOUT_S, tries=_PROBES)
            await self._clock.sleep(_RETRY_S)

    async def close(self) -> None:
        """Let the connection to Redis go."""
        if self._shared is not None:
            await self._shared.close()

    async def _decide(self, rule: Rule, actor: str, *, take: bool) -> Decision:
        key = hashlib.sha256(actor.encode("utf-8", "surrogatepass")).hexdigest()
        shared = await self._ask_shared(rule, key, take=take, timeout_s=self._timeout_s)
        if shared is None and self._shared is not None and rule.on_outage == "open":
            return Decision(rule=rule, allowed=True, remaining=rule.max_hits, reset_after_s=0.0, counted="nowhere")
        if shared is not None and not shared.allowed:
            return shared
        # This process's count is part of the shared one, so it denies more only if Redis has forgotten something.
        local = await _count(self._local, rule, key, "local", take=take)
        return local if shared is None or not local.allowed else shared

    async def _ask_shared(
        self, rule: Rule, key: str, *, take: bool, timeout_s: float, tries: int = 1
    ) -> Decision | None:
        now_s = self._clock.monotonic_s()
        if self._shared is None or (self._outage is not None and now_s < self._retry_at_s):
            return None
        # Set before asking: whoever comes while this one waits is not kept waiting too.
        self._retry_at_s = now_s + _RETRY_S
        try:
            async with asyncio.timeout(timeout_s):
                decision = await _count(self._shared.limiter, rule, key, "shared", take=take)
        except self._shared.errors as exc:
            if tries > 1 and self._outage is None:
                await self._shared.forget()
                return await self._ask_shared(rule, key, take=take, timeout_s=timeout_s, tries=tries - 1)
            self._unanswered += 1
            if self._outage is None:
                LOG.warning("rate limits: Redis at %s does not answer (%s)", self._shared.place, type(exc).__name__)
                self._outage = Outage(cause=type(exc).__name__, since_ns=self._clock.now_ns())
            if self._on_degraded is not None:
                self._on_degraded()
            await self._shared.forget()
            return None
        if self._outage is not None:
            LOG.info("rate limits: Redis at %s answers again", self._shared.place)
        self._outage = None
        return decision


@dataclass(frozen=True, slots=True, kw_only=True)
class _Shared:
    limiter: MovingWindowRateLimiter
    place: str
    errors: tuple[type[Exception], ...]
    forget: Callable[[], Awaitable[None]]
    close: Callable[[], Awaitable[None]]


def _shared(url: str, timeout_s: float) -> _Shared:
    try:
        parts = urlsplit(url)
        place = f"{parts.hostname}:{parts.port or 6379}"
    except ValueError as exc:
        raise ConfigurationError("the URL of rate limits is no URL") from exc
    if parts.scheme not in _SCHEMES or not parts.hostname:
        raise ConfigurationError(f"the URL of rate limits is not redis://host:port/db but {parts.scheme}://{place}")
    try:
        from limits.aio.storage import RedisStorage  # noqa: PLC0415  only who shares counts needs the package redis
        from redis.asyncio import BlockingConnectionPool  # noqa: PLC0415
        from redis.asyncio.retry import Retry  # noqa: PLC0415
        from redis.backoff import NoBackoff  # noqa: PLC0415
        from redis.exceptions import RedisError  # noqa: PLC0415
    except ImportError as exc:
        raise ConfigurationError(f"rate limits over redis:// need the package redis: {exc}") from exc
    try:
        pool = BlockingConnectionPool.from_url(
            url,
            max_connections=8,
            timeout=timeout_s,
            # Whoever asks has a time of their own, which is no longer.
            socket_timeout=max(timeout_s, _PROBE_TIMEOUT_S),
            socket_connect_timeout=max(timeout_s, _PROBE_TIMEOUT_S),
            # Asking again is decided here, where it is counted.
            retry=Retry(NoBackoff(), 0),
        )
    except ValueError as exc:
        raise ConfigurationError(f"the URL of rate limits at {place} is not one that Redis takes") from exc
    # The library's own annotations know no pool, its documentation does.
    options: dict[str, Any] = {"connection_pool": pool}
    storage = RedisStorage(f"async+{parts.scheme}://{place}", implementation="redispy", **options)
    failures = (RedisError, OSError, TimeoutError)

    async def forget() -> None:
        # Connections of before an outage are dead, and each would count as another one when its turn came. That a dead
        # one does not close as it should is no more news.
        with contextlib.suppress(*failures):
            await pool.disconnect(inuse_connections=False)

    limiter = MovingWindowRateLimiter(storage)
    return _Shared(limiter=limiter, place=place, errors=failures, forget=forget, close=pool.aclose)


async def _count(
    limiter: MovingWindowRateLimiter, rule: Rule, key: str, counted: Literal["shared", "local"], *, take: bool
) -> Decision:
    item = RateLimitItemPerSecond(rule.max_hits, rule.window_s)
    allowed = await (limiter.hit if take else limiter.test)(item, rule.action, key)
    window = await limiter.get_window_stats(item, rule.action, key)
    remaining = max(0, window.remaining)
    return Decision(
        rule=rule,
        allowed=allowed,
        remaining=remaining,
        # The library's windows are on the scale of the wall clock.
        reset_after_s=0.0 if remaining else min(max(0.0, window.reset_time - time.time()), float(rule.window_s)),
        counted=counted,
    )
