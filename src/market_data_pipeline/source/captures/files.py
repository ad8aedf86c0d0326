"""Which files are captures, of which exchange, and their lines."""

from __future__ import annotations

import gzip
import hashlib
import os
from collections.abc import Generator
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import IO, Any, Final, cast

import orjson

from market_data_core.errors import ConfigurationError, SourceError
from market_data_pipeline.source.captures.exchanges import EXCHANGES
from market_data_pipeline.source.replay.files import expand, translated

_HEAD_LINES: Final = 500  # in which a capture shows whose it is
_LINE_BYTES: Final = 16 << 20  # the largest snapshots have about 1 MiB
_HASH_BYTES: Final = 1 << 20
_NS_DIGITS: Final = 19
_INT64_MAX: Final = 2**63 - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class CaptureFile:
    """One file to read.

    Attributes:
        path: Where it is; plain or ``.gz``.
        exchange: A key of `EXCHANGES`.
        source_id: ``file:<32 hex digits of the file's SHA-256>:<exchange>``.
        start_ns: When its first message was received, UTC nanoseconds; 0 if its first lines have none.
        modified_ns: Its time stamp when it was hashed.
    """

    path: Path
    exchange: str
    source_id: str
    start_ns: int
    modified_ns: int


def find_captures(path: str | Path, exchange: str | None) -> list[CaptureFile]:
    """Return the captures that a path stands for, sorted by name.

    Args:
        path: A file, a folder (read with all its subfolders) or a glob. Of folders and globs those files are taken
            whose first lines are of a known exchange.
        exchange: Which; None to detect it.

    Raises:
        ConfigurationError: There is nothing there, or a file is not of that exchange or of none that is known.
        SourceError: A file cannot be read.
    """
    files, named = expand(path)
    found = []
    for file in files:
        seen, start_ns, damage = _detect(file)
        if named and exchange is not None and seen not in (exchange, None):
            raise ConfigurationError(f"{file} is a capture of {seen}, not of {exchange}")
        chosen = (exchange if named else None) or seen
        if chosen is None and damage is not None and (named or isinstance(damage.__cause__, PermissionError)):
            raise damage
        if chosen is None and named:
            raise ConfigurationError(
                f"the first {_HEAD_LINES} lines of {file} are of no known exchange; name it with exchange=, one of "
                f"{', '.join(EXCHANGES)}"
            )
        if chosen is not None and exchange in (None, chosen):
            found.append(_capture(file, chosen, start_ns))
    if not found:
        raise ConfigurationError(f"no file at {str(path)!r} is a capture of {exchange or ', '.join(EXCHANGES)}")
    return found


def _capture(file: Path, exchange: str, start_ns: int) -> CaptureFile:
    digest = hashlib.sha256()
    with translated(str(file)), file.open("rb") as content:
        modified_ns = os.fstat(content.fileno()).st_mtime_ns
        while piece := content.read(_HASH_BYTES):
            digest.update(piece)
    return CaptureFile(
        path=file,
        exchange=exchange,
        source_id=f"file:{digest.hexdigest()[:32]}:{exchange}",
        start_ns=start_ns,
        modified_ns=modified_ns,
    )


# The exchange, the first receive time, and why reading ended early. A damaged file is judged by what stands before the
# damage; if it is a capture, reading it tells of the damage.
def _detect(file: Path) -> tuple[str | None, int, SourceError | None]:
    start_ns = 0
    try:
        with closing(_lines(file)) as lines:
            for line in islice(lines, _HEAD_LINES):
                try:
                    ts_recv, payload = split_line(line)
                    seen = exchange_of(orjson.loads(payload))
                except ValueError:
                    continue
                start_ns = start_ns or ts_recv
                if seen is not None:
                    return seen, start_ns, None
    except SourceError as exc:
        return None, start_ns, exc
    return None, start_ns, None


def exchange_of(message: Any) -> str | None:
    """Return the exchange that a message can only be of, None if it says nothing of that."""
    if not isinstance(message, dict):
        return None
    return next((name for name, cls in EXCHANGES.items() if cls.knows(message)), None)


def read_lines(file: CaptureFile) -> Generator[bytes, None, None]:
    """Give the lines of a capture, without their ends.

    Raises:
        SourceError: The file cannot be read on, or is not the one that was hashed. The lines before were given.
    """
    return _lines(file.path, file.modified_ns)


def _lines(path: Path, modified_ns: int | None = None) -> Generator[bytes, None, None]:
    with translated(str(path)), path.open("rb") as raw:
        if modified_ns is not None and os.fstat(raw.fileno()).st_mtime_ns != modified_ns:
            raise SourceError(f"{path} has changed since its reading was planned")
        packed = path.suffix.lower() == ".gz"
        stream = cast("IO[bytes]", gzip.GzipFile(fileobj=raw)) if packed else raw
        number = 0
        while line := stream.readline(_LINE_BYTES):
            number += 1
            if len(line) == _LINE_BYTES:
                raise SourceError(f"{path}, line {number}: longer than {_LINE_BYTES >> 20} MiB, so this is no capture")
            yield line.rstrip(b"\r\n")


def split_line(line: bytes) -> tuple[int, bytes]:
    """Return receive time, UTC nanoseconds, and message of a line.

    Lines are ``<nanoseconds> <message>`` or ``<seconds>.<fraction>: <message>``.

    Raises:
        ValueError: It has no receive time.
    """
    stamp, space, payload = line.partition(b" ")
    if space:
        if len(stamp) == _NS_DIGITS and stamp.isdigit():
            ts_recv = int(stamp)
        elif stamp.endswith(b":"):
            ts_recv = _from_seconds(stamp[:-1])
        else:
            ts_recv = 0
        if 0 < ts_recv <= _INT64_MAX:
            return ts_recv, payload
    raise ValueError("the line does not begin with a receive time")


# Through integers: a float of seconds is off by up to 120 ns.
def _from_seconds(text: bytes) -> int:
    seconds, _, fraction = text.partition(b".")
    if not seconds.isdigit() or not (fraction or b"0").isdigit():
        return 0
    return int(seconds) * 1_000_000_000 + int(fraction[:9].ljust(9, b"0"))
