"""What modules of exchanges have in common: the port they fill, and the checks of a message's values.

Whatever is wrong with a message shows as one of `WRONG` before anything of it has been entered; the reader makes a
quarantined row of it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import isfinite
from typing import Any, ClassVar, Final, Protocol

from market_data_pipeline.source.captures.rows import Levels, Rows

Message = Mapping[str, Any]
"""One JSON object of a capture."""

WRONG: Final = (AttributeError, KeyError, OverflowError, TypeError, ValueError)
"""What a wrong message raises."""

_INT64_MAX: Final = 2**63 - 1
_MICROSECONDS: Final = 10**14  # as milliseconds this is the year 5138


@dataclass(slots=True, kw_only=True)
class Counts:
    """What has been read so far; kept by the reading thread, looked at from others.

    Attributes:
        lines: Lines read, blank ones and those that a resume passes over included.
        malformed: Of these, quarantined.
        skipped: Of these, what carries no event of ours, by what it is: ``sent``, ``answer``, a channel's name.
        checksums_ok: Books whose checksum agreed with the exchange's.
        checksums_bad: Books whose checksum did not.
    """

    lines: int = 0
    malformed: int = 0
    skipped: Counter[str] = field(default_factory=Counter)
    checksums_ok: int = 0
    checksums_bad: int = 0


class Exchange(Protocol):
    """Turns the messages of one file into rows, in the order of the file."""

    vendor: ClassVar[str]
    """Names the exchange, and its instruments' vendor."""

    def __init__(self, rows: Rows, counts: Counts) -> None: ...

    @staticmethod
    def knows(message: Message) -> bool:
        """Return whether a message can only be one of this exchange."""
        ...

    def take(self, message: Message) -> None:
        """Enter one message, received at ``rows.ts_recv``.

        Raises:
            One of `WRONG`: It is no message of this exchange; nothing of it was entered.
        """
        ...

    def finish(self) -> None:
        """Enter what was held back; the file has ended."""
        ...


def utc_ns(value: Any) -> int:
    """Return an exchange's time, milliseconds (or microseconds) since the epoch as a number or text, in nanoseconds."""
    count = int(value)
    ns = count * (1_000_000 if count < _MICROSECONDS else 1_000)
    if not 0 < ns <= _INT64_MAX:
        raise ValueError(f"time {value!r} is none")
    return ns


def whole(value: Any) -> int:
    """Return an update id."""
    if type(value) is not int or not -1 <= value <= _INT64_MAX:
        raise ValueError(f"id {value!r} is none")
    return value


def number(text: Any) -> float:
    """Return a price or size."""
    value = float(text)
    if not isfinite(value):
        raise ValueError(f"number {text!r} is none")
    return value


def ticker(value: Any) -> str:
    """Return a symbol, upper-cased."""
    if not isinstance(value, str) or not value:
        raise ValueError(f"symbol {value!r} is none")
    return value.upper()


def levels(raw: Sequence[Sequence[Any]]) -> Levels:
    """Return prices and new sizes of one side, of ``[[price, size, ...], ...]``."""
    if not raw:
        return [], []
    if not isinstance(raw[0], list):
        raise TypeError(f"level {raw[0]!r} is none")
    price_texts, size_texts, *_ = zip(*raw, strict=False)
    prices, sizes = list(map(float, price_texts)), list(map(float, size_texts))
    # A sum is finite only where all its parts are.
    if not isfinite(sum(prices) + sum(sizes)) or min(sizes) < 0:
        raise ValueError("a level's price or size is none")
    return prices, sizes
