"""What is limited to how much, and what a caller beyond it is told."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, Literal, Protocol

from starlette.exceptions import HTTPException

from market_data_core.errors import ConfigurationError

_ACTION: Final = re.compile(r"[a-z][a-z0-9_-]{0,63}")
_UNITS: Final = {1: "s", 60: "min", 3600: "h"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """How often each caller may do one thing.

    Attributes:
        action: What it is, such as ``pause``; a label of metrics.
        max_hits: How often within any `window_s`.
        window_s: Length of the window, whole seconds. It moves: there is no boundary at which twice as much goes.
        on_outage: What happens while the shared counts are away: ``local`` counts in this process, ``open`` lets
            everything through.

    Raises:
        ConfigurationError: A value makes no sense.
    """

    action: str
    max_hits: int
    window_s: int = 60
    on_outage: Literal["local", "open"] = "local"

    def __post_init__(self) -> None:
        if _ACTION.fullmatch(self.action) is None or self.max_hits < 1 or self.window_s < 1:
            raise ConfigurationError(f"not a rate limit: {self.max_hits} of {self.action!r} in {self.window_s} s")

    @property
    def text(self) -> str:
        """The rule for people, such as ``5/pause/min``."""
        return f"{self.max_hits}/{self.action}/{_UNITS.get(self.window_s, f'{self.window_s}s')}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """What became of one attempt.

    Attributes:
        rule: The rule it was held against.
        allowed: May it be done?
        remaining: How many more there are in the window now.
        reset_after_s: When the next one is free again, seconds from now; 0 if there is one.
        counted: Where it was counted: ``shared``, ``local``, or ``nowhere`` for a rule that is open in an outage.
    """

    rule: Rule
    allowed: bool
    remaining: int
    reset_after_s: float
    counted: Literal["shared", "local", "nowhere"]

    @property
    def headers(self) -> dict[str, str]:
        """``RateLimit``, ``RateLimit-Policy`` (draft-ietf-httpapi-ratelimit-headers), if denied ``Retry-After``."""
        wait_s = math.ceil(self.reset_after_s)
        rule = self.rule
        found = {
            "RateLimit-Policy": f'"{rule.action}";q={rule.max_hits};w={rule.window_s}',
            "RateLimit": f'"{rule.action}";r={self.remaining};t={wait_s}',
        }
        return found if self.allowed else {**found, "Retry-After": str(max(1, wait_s))}


@dataclass(frozen=True, slots=True, kw_only=True)
class Outage:
    """Why shared counts are not shared.

    Attributes:
        cause: What came of asking Redis the first time it did not answer, such as ``ConnectionError``.
        since_ns: When that was, UTC nanoseconds since the epoch.
    """

    cause: str
    since_ns: int


class Limiter(Protocol):
    """What the gates ask: says how often a caller may do something."""

    async def hit(self, action: str, actor: str) -> Decision | None:
        """Count one attempt; None if the action is not limited."""
        ...

    async def test(self, action: str, actor: str) -> Decision | None:
        """Return what `hit` would, and count nothing."""
        ...

    async def require(self, action: str, actor: str) -> Decision | None:
        """Count one attempt.

        Raises:
            RateLimited: It may not go on.
        """
        ...


class RateLimited(HTTPException):
    """The caller has done this too often; status 429, with when to come again."""

    def __init__(self, decision: Decision) -> None:
        super().__init__(429, f"Rate limit exceeded: max {decision.rule.text}", headers=decision.headers)
        self.decision = decision


def control_rules(actions: Iterable[str], *, max_per_minute: int) -> list[Rule]:
    """Return one rule for each control action; they are counted here while Redis is away."""
    return [Rule(action=action, max_hits=max_per_minute) for action in actions]
