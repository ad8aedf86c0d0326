"""The pipelines that the platform itself runs: raw ticks as they came, and bars."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from market_data_core.protocols import Operator
from market_data_core.schemas import Kind
from market_data_pipeline.consumers import ConsumerSpec
from market_data_pipeline.operators import Bars, Dedupe, TickHistory, Validate

RAW_KINDS = frozenset(set(Kind) - {Kind.CONTROL, Kind.TAQ})
"""What sources can give."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BarsConfig:
    """One series of bars to make.

    Attributes:
        interval: A count and one of s, m, h, d.
        what: TRADES, BID, ASK or MIDPOINT.
        allowed_lateness_ns: How long a bar waits for stragglers, in event time.
        align: ``epoch``, or ``HH:MM Zone``.
        dedupe: Drop trades whose id was seen before.
    """

    interval: str = "1m"
    what: str = "TRADES"
    allowed_lateness_ns: int = 0
    align: str = "epoch"
    dedupe: bool = False

    def __post_init__(self) -> None:
        # A wrong setting ends the start, not the consumer that meets it later.
        Bars(self.interval, what=self.what, allowed_lateness_ns=self.allowed_lateness_ns, align=self.align)

    @property
    def consumer(self) -> str:
        """The name of the consumer that makes them."""
        return f"bars-{self.what.lower()}-{self.interval}"


def raw() -> ConsumerSpec:
    """Return the consumer that stores everything as it came, with flags, and what had to be quarantined."""
    return ConsumerSpec(
        name="raw",
        kinds=RAW_KINDS,
        operators=lambda: [Validate()],
        routes={k: str(k) for k in RAW_KINDS},
    )


def bars(settings: BarsConfig, *, history: TickHistory | None) -> ConsumerSpec:
    """Return the consumer that makes and stores one series of bars."""
    usual = BarsConfig(interval=settings.interval, what=settings.what)

    def operators() -> Sequence[Operator]:
        made: list[Any] = [Validate()]
        if settings.dedupe:
            made.append(Dedupe())
        made.append(
            Bars(
                settings.interval,
                what=settings.what,
                allowed_lateness_ns=settings.allowed_lateness_ns,
                align=settings.align,
                history=history,
                name="bars",
            )
        )
        return made

    return ConsumerSpec(
        name=settings.consumer,
        kinds=frozenset({Kind.TRADES if settings.what == "TRADES" else Kind.QUOTES}),
        operators=operators,
        routes={Kind.BARS: "bars"},
        config="" if settings == usual else json.dumps(asdict(settings), sort_keys=True),
    )
