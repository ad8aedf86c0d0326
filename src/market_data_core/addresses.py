"""Addresses of servers: what they name, and how they may be shown."""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import unquote

HIDDEN: Final = "***"
"""What stands for a password that is not shown."""

_POSTGRES: Final = re.compile(r"postgres(ql)?://", re.IGNORECASE)
# A password that was not percent-encoded may hold any of `@:/?#`: all up to the last @ is taken for it.
_USER: Final = re.compile(r"(?P<before>[A-Za-z][A-Za-z0-9+.-]*://[^:@/?#\s]*):.*@", re.DOTALL)
_PARAMETER: Final = re.compile(r"(?P<mark>[?&])(?P<name>[^=&]+)=[^&]*")
_KEYWORD: Final = re.compile(r"(?P<name>\w*password)\s*=\s*('(\\.|[^'\\])*'|\S+)", re.IGNORECASE)
_SECRET: Final = re.compile(r"pass|secret|token|key", re.IGNORECASE)


def is_postgres(address: str) -> bool:
    """Return whether an address names a PostgreSQL server."""
    return _POSTGRES.match(address) is not None


def without_password(address: str) -> str:
    """Return an address, a URL or ``keyword=value`` pairs, with every password in it replaced by `HIDDEN`.

    What cannot be told from a password goes with it. Anything else, such as a folder, is returned as it is.
    """
    if "://" not in address:
        return _KEYWORD.sub(rf"\g<name>={HIDDEN}", address)
    shown = _USER.sub(rf"\g<before>:{HIDDEN}@", address, count=1)
    return _PARAMETER.sub(_parameter, shown)


def _parameter(found: re.Match[str]) -> str:
    # Servers decode names as well.
    hidden = _SECRET.search(unquote(found["name"]))
    return f"{found['mark']}{found['name']}={HIDDEN}" if hidden else found[0]
