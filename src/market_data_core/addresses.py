"""Addresses of servers: what they name, and how they may be shown."""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import unquote, urlsplit

from market_data_core.errors import ConfigurationError

HIDDEN: Final = "***"
"""What stands for a password that is not shown."""

_POSTGRES: Final = re.compile(r"postgres(ql)?://", re.IGNORECASE)
_OBJECTS: Final = re.compile(r"s3://", re.IGNORECASE)
# A password that was not percent-encoded may hold any of `@:/?#`: all up to the last @ is taken for it.
_USER: Final = re.compile(r"(?P<before>[A-Za-z][A-Za-z0-9+.-]*://[^:@/?#\s]*):.*@", re.DOTALL)
_PARAMETER: Final = re.compile(r"(?P<mark>[?&])(?P<name>[^=&]+)=[^&]*")
_KEYWORD: Final = re.compile(r"(?P<name>\w*password)\s*=\s*('(\\.|[^'\\])*'|\S+)", re.IGNORECASE)
# Taken for a folder, PostgreSQL's other way to write an address would quietly make one.
_KEYWORDS: Final = re.compile(r"(^|\s)(host|hostaddr|port|dbname|user|password|service)\s*=")
_SECRET: Final = re.compile(r"pass|secret|token|key", re.IGNORECASE)


def is_postgres(address: str) -> bool:
    """Return whether an address names a PostgreSQL server."""
    return _POSTGRES.match(address) is not None


def is_object_store(address: str) -> bool:
    """Return whether an address names a place in an object store."""
    return _OBJECTS.match(address) is not None


def object_place(address: str, name: str) -> str:
    """Return the address of what is called `name` below an address in an object store.

    Raises:
        ConfigurationError: The address is not of the form; it is not repeated.
    """
    check_store(address)
    return f"{address.rstrip('/')}/{name}"


def check_store(address: str) -> None:
    """Raise ConfigurationError unless an address is of a form that names a store; it is not repeated."""
    if is_postgres(address):
        return
    if is_object_store(address):
        parts = urlsplit(address)
        if not parts.netloc or "@" in parts.netloc or parts.query:
            raise ConfigurationError("the address of an object store is s3://<bucket>/<prefix>, without credentials")
        return
    scheme = address.partition("://")[0].lower() if "://" in address else None
    if not address.strip() or scheme not in {None, "file"} or _KEYWORDS.search(address):
        named = f"begins with {scheme}://" if scheme else "is empty or not of a known form"
        raise ConfigurationError(
            f"the store's address {named}; there are: a folder, file:// URL or s3://bucket/prefix for the embedded "
            "lake, postgresql://... for PostgreSQL"
        )


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
