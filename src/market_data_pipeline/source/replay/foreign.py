"""Recordings that are no business of layouts: whose they are."""

from __future__ import annotations

import gzip
import re
import zlib
from contextlib import suppress
from pathlib import Path
from typing import IO, Final, cast

_DATABENTO = re.compile(r"\.dbn(\.|$)|\.dbz$", re.IGNORECASE)
# A receive time and a message of JSON, or a frame as a WebSocket client logs it.
_CAPTURED = re.compile(rb"\d{10,19}(\.\d+)?:? ?[{\[]|wss?://")
_PEEK_BYTES: Final = 256
_OTHERS: Final = frozenset({".zip", ".parquet"})


def owner_of(path: Path) -> str | None:
    """Return what a file is and which source reads it, in words; None if it is not known to be another source's."""
    if _DATABENTO.search(path.name):
        return "a Databento file, which source databento reads"
    if path.suffix.lower() not in _OTHERS and _CAPTURED.match(_first_bytes(path)):
        return "a capture of WebSocket messages, which source captures reads"
    return None


def _first_bytes(path: Path) -> bytes:
    # Only a better word for a file that is refused anyway: one that cannot be looked into has none.
    with suppress(OSError, EOFError, zlib.error), path.open("rb") as file:
        unpacking = path.suffix.lower() == ".gz"
        text = cast("IO[bytes]", gzip.GzipFile(fileobj=file)) if unpacking else file
        return text.read(_PEEK_BYTES)
    return b""
