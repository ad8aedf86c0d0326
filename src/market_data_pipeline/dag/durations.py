"""Lengths of time as people write them."""

from __future__ import annotations

import re
from typing import Final

from market_data_core.errors import ConfigurationError

_UNITS_NS: Final[dict[str, int]] = {
    "ns": 1,
    "us": 1_000,
    "ms": 1_000_000,
    "s": 1_000_000_000,
    "m": 60 * 1_000_000_000,
    "h": 3_600 * 1_000_000_000,
    "d": 86_400 * 1_000_000_000,
}


def duration_ns(text: str) -> int:
    """Return a length of time in nanoseconds.

    Args:
        text: A count, which may have decimals, and one of ns, us, ms, s, m, h, d: ``5s``, ``1.5m``, ``0s``.

    Raises:
        ConfigurationError: The text is not of that form, or is no whole number of nanoseconds within int64.
    """
    match = re.fullmatch(r"([0-9]{1,19})(?:\.([0-9]{1,18}))?\s*(ns|us|ms|s|m|h|d)", text)
    if match is not None:
        decimals = match[2] or ""
        # Whole numbers throughout: a float would move the end of long spans.
        scale = int("1" + "0" * len(decimals))
        found, rest = divmod(int(match[1] + decimals) * _UNITS_NS[match[3]], scale)
        if rest == 0 and found < 2**62:
            return found
    raise ConfigurationError(f"{text!r} is not a count and one of ns, us, ms, s, m, h, d, such as 5s")
