"""Where things lie in a lake, and how foreign errors are named.

``<root>/<tenant>/<table>/date=2024-01-31/*.parquet`` with the table's log in ``<table>/_delta_log``, in a folder of
this machine or in an object store.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final
from urllib.parse import unquote, urlsplit

import pyarrow as pa
from deltalake.exceptions import DeltaError

from market_data_core.addresses import is_object_store, object_place
from market_data_core.errors import ConfigurationError, TemporaryUnavailable
from market_data_store.places import ObjectPath, ObjectStore, Place

_ORNAMENT: Final = re.compile(r"\x1b\[\d*m|\u21b3")
_FRAME: Final = re.compile(r"\s*\d+: ")
_TENANT: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")


def local_root(root: Path | str) -> Path:
    """Return the folder that a path or ``file://`` URL names.

    Raises:
        ConfigurationError: It is a URL of another kind.
    """
    if isinstance(root, Path):
        return root
    scheme, netloc, path, _, _ = urlsplit(root)
    if scheme == "file" and netloc in {"", "localhost"}:
        return Path(unquote(path))
    if "://" in root:
        raise ConfigurationError(f"a lake is a folder, a file:// URL or s3://bucket/prefix, not {scheme}://")
    return Path(root)


def tenant_root(root: Path | str, tenant: str) -> Place:
    """Return the folder of one tenant, beyond which its client never looks.

    Raises:
        ConfigurationError: The name could lead elsewhere, or the root is no folder or object store.
    """
    if _TENANT.fullmatch(tenant) is None:
        raise ConfigurationError(f"tenant {tenant!r} is not 1 to 64 of the letters A-Z a-z 0-9 _ -")
    if isinstance(root, str) and is_object_store(root):
        return ObjectPath(ObjectStore(object_place(root, tenant)))
    return local_root(root).absolute() / tenant


def reason(exc: BaseException) -> str:
    """Return what an error says in one line, without the colours, arrows and native backtrace of delta-rs."""
    causes: list[str] = []
    for line in _ORNAMENT.sub("", str(exc)).splitlines():
        if _FRAME.match(line):
            break
        if line.strip():
            causes.append(line.strip())
    return f"{type(exc).__name__}: {': '.join(causes) or 'no message'}"


@contextmanager
def translated(what: str) -> Iterator[None]:
    """Turn errors of disk, Arrow and Delta into TemporaryUnavailable that says `what` was being done."""
    try:
        yield
    except (OSError, DeltaError, pa.ArrowException) as exc:
        raise TemporaryUnavailable(f"{what}: {reason(exc)}") from exc
