"""Providers and sinks by entry point, ours through the same door as anyone's.

A distribution offers a provider with an entry point in the group ``market_data.providers``, a sink in
``market_data.sinks``. Only installed metadata is read until one is asked for.
"""

from __future__ import annotations

from importlib.metadata import EntryPoint, entry_points
from typing import Final

from market_data_core.errors import RegistryError

PROVIDERS: Final = "market_data.providers"
SINKS: Final = "market_data.sinks"


def available(group: str) -> dict[str, EntryPoint]:
    """Return the entry points of a group by name, sorted. Nothing is imported."""
    return {p.name: p for p in sorted(entry_points(group=group), key=lambda p: p.name)}


def load(group: str, name: str) -> type:
    """Return the class behind an entry point.

    Raises:
        RegistryError: There is none of that name, or it cannot be imported; says which there are, and why.
    """
    found = available(group)
    if name not in found:
        raise RegistryError(f"no {group} entry point named {name!r}; there are: {', '.join(found) or 'none'}")
    try:
        loaded = found[name].load()
    except (ImportError, AttributeError) as exc:
        raise RegistryError(f"{group} entry point {name!r} ({found[name].value}) cannot be loaded: {exc}") from exc
    if not isinstance(loaded, type):
        raise RegistryError(f"{group} entry point {name!r} ({found[name].value}) is not a class")
    return loaded
