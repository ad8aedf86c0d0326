"""Lengths of event time as configuration writes them."""

from __future__ import annotations

from market_data_core.errors import ConfigurationError
from market_data_core.schemas import interval_ns

_MILLISECOND_NS = 1_000_000


def duration_ns(text: str, *, where: str, zero: bool = False, milliseconds: bool = False) -> int:
    """Return a length of time in nanoseconds.

    Args:
        text: A whole count and one of s, m, h, d: ``30s``, ``5m``.
        where: What it is for, to begin messages with.
        zero: Allow ``0s``.
        milliseconds: Allow ``250ms``.

    Raises:
        ConfigurationError: It is not of that form.
    """
    if not isinstance(text, str):
        raise ConfigurationError(f"{where}: {text!r} is no length of time; write it as text, such as '30s'")
    count = text.removesuffix("ms")
    if milliseconds and count != text and count.isascii() and count.isdigit() and int(count):
        return int(count) * _MILLISECOND_NS
    if zero and text in ("0s", "0m", "0h", "0d"):
        return 0
    try:
        return interval_ns(text)
    except ConfigurationError as exc:
        raise ConfigurationError(f"{where}: {exc.message}") from exc
