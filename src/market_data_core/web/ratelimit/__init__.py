"""How often a caller may do something."""

from __future__ import annotations

from market_data_core.web.ratelimit.gates import address_of, by_last_segment, guess_limited, limited
from market_data_core.web.ratelimit.limits import RateLimits
from market_data_core.web.ratelimit.rules import Decision, Limiter, Outage, RateLimited, Rule, control_rules

__all__ = [
    "Decision",
    "Limiter",
    "Outage",
    "RateLimited",
    "RateLimits",
    "Rule",
    "address_of",
    "by_last_segment",
    "control_rules",
    "guess_limited",
    "limited",
]
