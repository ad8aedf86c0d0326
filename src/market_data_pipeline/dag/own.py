"""Our operators as a configuration names their parameters, where that differs from their classes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from market_data_core.errors import ConfigurationError
from market_data_core.schemas import interval_ns
from market_data_pipeline.dag.durations import duration_ns
from market_data_pipeline.operators import Bars, TickHistory, Validate


def make_bars(
    *,
    interval: str = "1m",
    what: Literal["TRADES", "BID", "ASK", "MIDPOINT"] = "TRADES",
    lateness: str = "0s",
    align: str = "epoch",
    history: TickHistory | None = None,
    name: str = "bars",
) -> Bars:
    """Make the operator of bars.

    Args:
        interval: A count and one of s, m, h, d.
        what: Prices of trades, or bid, ask or midpoint of quotes.
        lateness: How long a bar waits for stragglers, in event time, such as ``5s``.
        align: ``epoch``, or ``HH:MM Zone``.
        history: Where ticks are read again for late events.
        name: Of the node.

    Raises:
        ConfigurationError: A value is not allowed; names the parameter.
    """
    _named("interval", interval_ns, interval)
    lateness_ns = _named("lateness", duration_ns, lateness)
    return Bars(interval, what=what, allowed_lateness_ns=lateness_ns, align=align, history=history, name=name)


def make_validate(*, future: str = "60s", jump: str = "30d", name: str = "validate") -> Validate:
    """Make the operator that flags what is odd and quarantines what cannot be represented.

    Args:
        future: How far a venue's clock may run before ours, such as ``60s``.
        jump: The longest silence, in event time, after which a source is still believed at once, such as ``30d``.
        name: Of the node.

    Raises:
        ConfigurationError: A value is not allowed; names the parameter.
    """
    return Validate(
        future_ns=_named("future", duration_ns, future), jump_ns=_named("jump", duration_ns, jump), name=name
    )


def _named(parameter: str, read: Callable[[str], int], text: str) -> int:
    try:
        return read(text)
    except ConfigurationError as exc:
        raise ConfigurationError(f"{parameter}: {exc}") from exc
