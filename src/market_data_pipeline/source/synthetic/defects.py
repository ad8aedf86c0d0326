"""What may be wrong with made-up data, as a configuration says it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Final

from market_data_core.clock import NS_PER_SECOND
from market_data_core.errors import ConfigurationError
from market_data_pipeline.source.synthetic.draws import FINEST_SHARE

BAD_VALUES: Final = ("nan", "negative", "zero_size")
"""A price that is no number, a price below zero, a trade of no size."""
MAX_AFTER: Final = 10_000
"""By how many trades a repeat may be behind its original."""

_LONGEST_S: Final = 1e9  # thirty years: as nanoseconds, still a tenth of int64
_MAX_FACTOR: Final = 1e6


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """A share of the events, and how far off they are; which fields count depends on the defect.

    Attributes:
        share: From a millionth to 1.
        by_ns: How much older `ts_event` is.
        factor: By which prices are multiplied.
        after: How many other trades come between an original and its repeat.
        what: Of `BAD_VALUES`.
    """

    share: float
    by_ns: int = 0
    factor: float = 1.0
    after: int = 0
    what: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Stretches:
    """One stretch of time in each period.

    Attributes:
        every_ns: Length of a period.
        for_ns: Length of a stretch; below `every_ns`.
        factor: By which the rate is multiplied.
        symbols: Whom it concerns, as places in the source's symbols; empty where none are named.
    """

    every_ns: int
    for_ns: int
    factor: float = 1.0
    symbols: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Defects:
    """What is wrong; None where nothing is. Each is described at `SyntheticSource`."""

    gaps: Stretches | None = None
    silence: Stretches | None = None
    bursts: Stretches | None = None
    duplicates: Part | None = None
    late: Part | None = None
    out_of_order: Part | None = None
    crossed: Part | None = None
    spikes: Part | None = None
    bad_values: Part | None = None

    @property
    def names(self) -> list[str]:
        """Those that there are."""
        return [f.name for f in fields(self) if getattr(self, f.name) is not None]


def parse_defects(given: Mapping[str, Any] | None, symbols: Sequence[str]) -> Defects:
    """Return what a configuration says.

    Args:
        given: By defect, a share or a mapping of its parameters. None, an empty mapping and a share of 0 ask for
            nothing.
        symbols: Of the source.

    Raises:
        ConfigurationError: A defect or parameter is unknown, or a value out of range; says which, and what there is.
    """
    if not isinstance(given, Mapping | None):
        raise ConfigurationError(
            f"synthetic source: defects is {given!r}; give a mapping of {', '.join(_DEFAULTS)} to their parameters"
        )
    given = given or {}
    unknown = [str(name) for name in given if name not in _DEFAULTS]
    if unknown:
        raise ConfigurationError(
            f"synthetic source: no defect is named {', '.join(unknown)}; there are: {', '.join(_DEFAULTS)}"
        )
    found: dict[str, Any] = {name: _defect(name, value, symbols) for name, value in given.items()}
    return Defects(**found)


def _defect(name: str, value: Any, symbols: Sequence[str]) -> Part | Stretches | None:
    where = f"synthetic source: defect {name}"
    defaults = _DEFAULTS[name]
    timed = "every_s" in defaults
    if _is_number(value) and not timed:
        value = {"share": value}
    if not isinstance(value, Mapping):
        wanted = "give a mapping of" if timed else "give a share, or a mapping of"
        raise ConfigurationError(f"{where} is {value!r}; {wanted} {', '.join(defaults)}")
    unknown = [str(key) for key in value if key not in defaults]
    if unknown:
        raise ConfigurationError(f"{where} has no {', '.join(unknown)}; it takes {', '.join(defaults)}")
    lacking = [key for key, default in defaults.items() if default is None and key not in value]
    if lacking:
        raise ConfigurationError(f"{where} needs {', '.join(lacking)}; it takes {', '.join(defaults)}")
    whole = {**defaults, **value}
    made = _stretches(name, whole, symbols, where) if timed else _part(whole, where)
    return None if isinstance(made, Part) and made.share == 0 else made


def _part(given: Mapping[str, Any], where: str) -> Part:
    share = _number(given["share"], f"{where}: share", f"0, or from {FINEST_SHARE:f} to 1", _is_share)
    found: dict[str, Any] = {"share": share}
    if "by_s" in given:
        found["by_ns"] = _nanoseconds(given["by_s"], f"{where}: by_s")
    if "factor" in given:
        # A price moved by less than a tenth might be the same price once it is on a tick, and nobody could tell.
        allowed = f"above 0 up to {_MAX_FACTOR:.0f}, and at least a tenth away from 1"
        found["factor"] = _number(
            given["factor"], f"{where}: factor", allowed, lambda f: 0 < f <= _MAX_FACTOR and not 0.9 < f < 1.1
        )
    if "after" in given:
        allowed = f"a whole number of trades from 0 to {MAX_AFTER}"
        found["after"] = int(
            _number(given["after"], f"{where}: after", allowed, lambda n: 0 <= n <= MAX_AFTER and n == int(n))
        )
    if "what" in given:
        found["what"] = _what(given["what"], where)
    return Part(**found)


def _stretches(name: str, given: Mapping[str, Any], symbols: Sequence[str], where: str) -> Stretches:
    every_ns, for_ns = (_nanoseconds(given[key], f"{where}: {key}") for key in ("every_s", "for_s"))
    if for_ns >= every_ns:
        raise ConfigurationError(f"{where}: for_s {given['for_s']} is not below every_s {given['every_s']}")
    factor = 1.0
    if "factor" in given:
        allowed = f"above 1 up to {_MAX_FACTOR:.0f}"
        factor = _number(given["factor"], f"{where}: factor", allowed, lambda f: 1 < f <= _MAX_FACTOR)
    chosen = _symbols(given.get("symbols", ()), symbols, where)
    if name == "silence" and len(symbols) <= max(len(chosen), 1):
        raise ConfigurationError(
            f"{where}: {len(symbols)} symbols with {max(len(chosen), 1)} of them silent leave nobody to speak"
        )
    return Stretches(every_ns=every_ns, for_ns=for_ns, factor=factor, symbols=chosen)


def _symbols(given: Any, symbols: Sequence[str], where: str) -> tuple[int, ...]:
    named = _texts(given, f"{where}: symbols")
    places = {symbol: place for place, symbol in enumerate(symbols)}
    wanted = [symbol.strip().upper() for symbol in named]
    unknown = [symbol for symbol in wanted if symbol not in places]
    if unknown:
        some = ", ".join(symbols[:20]) + (", …" if len(symbols) > 20 else "")
        raise ConfigurationError(f"{where}: the source has no symbol {', '.join(unknown)}; it has {some}")
    return tuple(sorted({places[symbol] for symbol in wanted}))


def _what(given: Any, where: str) -> tuple[str, ...]:
    wanted = _texts(given, f"{where}: what")
    unknown = [what for what in wanted if what not in BAD_VALUES]
    if unknown or not wanted:
        raise ConfigurationError(
            f"{where}: what is {', '.join(unknown) or 'empty'}; choose among {', '.join(BAD_VALUES)}"
        )
    return tuple(what for what in BAD_VALUES if what in wanted)


def _texts(given: Any, where: str) -> list[str]:
    if isinstance(given, str) or not isinstance(given, Sequence) or not all(isinstance(text, str) for text in given):
        raise ConfigurationError(f"{where} is {given!r}; give a list of names")
    return list(given)


def _nanoseconds(given: Any, where: str) -> int:
    allowed = f"a number of seconds from a nanosecond to {_LONGEST_S:.0f}"
    seconds = _number(given, where, allowed, lambda s: 1 / NS_PER_SECOND <= s <= _LONGEST_S)
    return round(seconds * NS_PER_SECOND)


def _number(given: Any, where: str, allowed: str, fits: Callable[[float], bool]) -> float:
    if not _is_number(given) or not math.isfinite(given) or not fits(given):
        raise ConfigurationError(f"{where} is {given!r}; it takes {allowed}")
    return float(given)


# True is a number to Python, but hardly to whoever wrote it.
def _is_number(given: Any) -> bool:
    return isinstance(given, int | float) and not isinstance(given, bool)


def _is_share(given: float) -> bool:
    return given == 0 or FINEST_SHARE <= given <= 1


_TIMED: Final = {"every_s": None, "for_s": None}
_DEFAULTS: Final[dict[str, dict[str, Any]]] = {
    "gaps": {**_TIMED, "symbols": ()},
    "silence": {**_TIMED, "symbols": ()},
    "bursts": {**_TIMED, "factor": 10.0},
    "duplicates": {"share": None, "after": 0},
    "late": {"share": None, "by_s": 5.0},
    "out_of_order": {"share": None, "by_s": 0.1},
    "crossed": {"share": None},
    "spikes": {"share": None, "factor": 10.0},
    "bad_values": {"share": None, "what": BAD_VALUES},
}
"""What each takes; None where it has to be said."""
