"""Provider classes by name."""

from __future__ import annotations

import re
from importlib import import_module
from typing import Final

from market_data_core import plugins
from market_data_core.errors import RegistryError

_PATH: Final = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*", re.ASCII)


class SourceRegistry:
    """Provider classes by registered name, import path or entry point, in this order.

    A provider class takes ``symbols=`` and offers ``stream()``, ``await get_quote(symbol)`` and ``close()``. Those of
    this distribution are found like anybody else's: as entry points of ``market_data.providers``.
    """

    def __init__(self) -> None:
        self._classes: dict[str, type] = {}

    def register(self, name: str, cls: type) -> None:
        """Make a class known under a name; it goes before an entry point of the same name.

        Raises:
            RegistryError: The name is empty or looks like an import path, it stands for another class already, or
                `cls` is no class.
        """
        if not name or ":" in name:
            raise RegistryError(f"provider name {name!r} is empty or has a colon, which only import paths have")
        if not isinstance(cls, type):
            raise RegistryError(f"provider {name!r}: {cls!r} is not a class")
        if self._classes.setdefault(name, cls) is not cls:
            raise RegistryError(f"provider name {name!r} stands for {_path(self._classes[name])} already")

    def load(self, name: str) -> type:
        """Return a provider class.

        Args:
            name: A registered name, ``package.module:Class``, or an entry point of ``market_data.providers``.

        Raises:
            RegistryError: There is none of that name, which says what there is, or it cannot be imported.
        """
        if name in self._classes:
            return self._classes[name]
        if ":" in name:
            return _imported(name)
        if name not in self.discover_entrypoints():
            raise RegistryError(
                f"no provider named {name!r}; registered: {', '.join(sorted(self._classes)) or 'none'}; entry points "
                f"of {plugins.PROVIDERS}: {', '.join(self.discover_entrypoints()) or 'none'}; or package.module:Class"
            )
        return plugins.load(plugins.PROVIDERS, name)

    def discover_entrypoints(self) -> list[str]:
        """Return the names of the installed providers, sorted. Nothing is imported."""
        return list(plugins.available(plugins.PROVIDERS))


def _imported(path: str) -> type:
    if not _PATH.fullmatch(path):
        raise RegistryError(f"provider {path!r} is no import path of the form package.module:Class")
    module, _, attribute = path.partition(":")
    try:
        loaded = getattr(import_module(module), attribute)
    except (ImportError, AttributeError) as exc:
        raise RegistryError(f"provider {path!r} cannot be imported: {exc}") from exc
    if not isinstance(loaded, type):
        raise RegistryError(f"provider {path!r} is not a class")
    return loaded


def _path(cls: type) -> str:
    return f"{cls.__module__}:{cls.__qualname__}"
