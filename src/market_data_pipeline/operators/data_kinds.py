"""The kinds of events that are data, and which columns expressions may read of each."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from market_data_core.errors import ConfigurationError
from market_data_core.schemas import EVENT_SCHEMAS, Kind

DATA_KINDS: Final = frozenset(Kind) - {Kind.CONTROL, Kind.QUARANTINE}
"""The kinds that expressions can be about; what is quarantined is no data, and control is none of theirs."""

NAMES: Final = ("vendor", "symbol", "origin")
"""Columns of text that every kind has in its tables, and batches hold beside their rows."""


def kinds_with(names: Iterable[str], *, where: str) -> frozenset[Kind]:
    """Return the kinds of data that have all these columns.

    Raises:
        ConfigurationError: None has.
    """
    wanted = sorted(set(names))
    found = frozenset(kind for kind in DATA_KINDS if all(has_column(kind, name) for name in wanted))
    if not found:
        raise ConfigurationError(f"{where}: no kind of event has all of the columns {', '.join(wanted)}")
    return found


def kind_named(name: str, *, where: str) -> Kind:
    """Return a kind of data by its name.

    Raises:
        ConfigurationError: There is none of that name.
    """
    if name not in {str(kind) for kind in DATA_KINDS}:
        raise ConfigurationError(f"{where}: kind {name!r} is none of {', '.join(sorted(DATA_KINDS))}")
    return Kind(name)


def has_column(kind: Kind, name: str) -> bool:
    """Return whether events of a kind have a column that an expression may read."""
    # Ids of instruments mean something else in every log.
    return name in NAMES or (name != "instrument" and name in EVENT_SCHEMAS[kind].names)
