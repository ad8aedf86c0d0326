"""The policies of a configuration: what each is called, what it may be, and which setting it fills."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from market_data_core.errors import ConfigurationError
from market_data_pipeline.dag import duration_ns
from market_data_pipeline.dag.document import Item

_SIZE: Final = re.compile(r"([0-9]{1,18})\s*([KMGT]?)(?:i?B)?", re.IGNORECASE)
_UNITS: Final[Mapping[str, int]] = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}


@dataclass(frozen=True, slots=True)
class Policy:
    """One policy.

    Attributes:
        setting: The field of `OrchestratorSettings` it fills.
        read: Gives its value; raises ConfigurationError for what is not allowed.
    """

    setting: str
    read: Callable[[Item], Any]


def read_duration(item: Item) -> str:
    """Return a length of time as it was written, once it has been found to be one.

    Raises:
        ConfigurationError: It is none.
    """
    duration_ns(item.text if isinstance(item.value, str) else f"{item.text} (without a unit)")
    return item.text


def _seconds(item: Item) -> float:
    return duration_ns(read_duration(item)) / 1e9


def _some_seconds(item: Item) -> float:
    found = _seconds(item)
    if found <= 0:
        raise ConfigurationError(f"{item.text!r} is not above 0")
    return found


def _bytes(item: Item) -> int:
    match = _SIZE.fullmatch(item.text) if isinstance(item.value, str | int) else None
    if match is None or isinstance(item.value, bool):
        raise ConfigurationError(f"{item.text!r} is no size: bytes, or a count and one of K, M, G, T")
    return int(match[1]) * _UNITS[match[2].upper()]


def _bytes_or_none(item: Item) -> int | None:
    if item.value is None:
        return None
    found = _bytes(item)
    if found == 0:
        raise ConfigurationError("0 would keep no log; leave it empty for no limit")
    return found


def _count(item: Item) -> int:
    if isinstance(item.value, bool) or not isinstance(item.value, int) or item.value < 1:
        raise ConfigurationError(f"{item.text!r} is no whole number from 1 up")
    return item.value


POLICIES: Final[Mapping[str, Policy]] = {
    "log_retention": Policy("log_retention", _seconds),
    "log_max_bytes": Policy("log_max_bytes", _bytes_or_none),
    "log_reserve_bytes": Policy("log_reserve_bytes", _bytes),
    "drain": Policy("drain_sec", _seconds),
    "maintenance": Policy("maintenance_sec", _seconds),
    "query_timeout": Policy("query_timeout_sec", _some_seconds),
    "query_max_rows": Policy("query_max_rows", _count),
}
"""The policies that are settings of the service, by their name in the file."""
