"""Audit records for people: newest first, a page at a time."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from market_data_core.errors import TemporaryUnavailable
from market_data_orchestrator.audit.chain import MAX_LINE_BYTES, Record, first_seq_named, list_files

MAX_PAGE: Final = 1000
_BLOCK_BYTES: Final = 1 << 16
# A filter that fits nothing must not read years of records in one request.
_MAX_LOOKED_AT: Final = 20_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """Some records.

    Attributes:
        events: Newest first.
        before_seq: What to ask for the next page with; None if there are no older ones. A page may be empty and still
            have one, when no record among those looked at fits.
    """

    events: list[Record]
    before_seq: int | None


def read_page(
    path: Path,
    *,
    limit: int,
    before_seq: int | None = None,
    actor: str | None = None,
    action: str | None = None,
    since_s: float | None = None,
) -> Page:
    """Return records of the log at `path`, newest first, without judging the chain: `verify_chain` does that.

    Args:
        path: The file written to.
        limit: At most so many.
        before_seq: Only records with a smaller number.
        actor: Only this actor's.
        action: Only of this action.
        since_s: Only from this moment on, seconds since the epoch, UTC.

    Raises:
        TemporaryUnavailable: The files cannot be read.
    """
    wanted: dict[str, Any] = {name: v for name, v in (("actor", actor), ("action", action)) if v is not None}
    found: list[Record] = []
    last: int | None = None
    try:
        for looked_at, record in enumerate(_newest_first(path, before_seq)):
            if len(found) >= limit or looked_at >= _MAX_LOOKED_AT:
                return Page(events=found, before_seq=last)
            last = record["seq"]
            if all(record.get(name) == value for name, value in wanted.items()) and (
                since_s is None or record["ts"] >= since_s
            ):
                found.append(record)
    except OSError as exc:
        raise TemporaryUnavailable(f"audit log {path}: {exc.strerror}") from exc
    return Page(events=found, before_seq=None)


def _newest_first(path: Path, before_seq: int | None) -> Iterator[Record]:
    shown = before_seq
    for file in reversed(list_files(path)):
        first = first_seq_named(path, file)
        if shown is not None and first is not None and first >= shown:
            continue
        for line in _lines_backwards(file):
            record = _record(line)
            # Each number once and downwards: a file that is rotated while it is read comes by a second time.
            if record is not None and (shown is None or record["seq"] < shown):
                shown = record["seq"]
                yield record


def _record(line: bytes) -> Record | None:
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        return None
    whole = isinstance(found, dict) and type(found.get("seq")) is int and isinstance(found.get("ts"), float | int)
    return found if whole else None


def _lines_backwards(file: Path) -> Iterator[bytes]:
    with file.open("rb") as stream:
        place = stream.seek(0, os.SEEK_END)
        rest = b""
        while place > 0:
            step = min(_BLOCK_BYTES, place)
            place -= step
            stream.seek(place)
            first, *whole = (stream.read(step) + rest).split(b"\n")
            yield from reversed(whole)
            rest = first if len(first) <= MAX_LINE_BYTES else b""
        yield rest
