"""The chain: how a record becomes one line, and how each line holds the one before it in place.

A line is canonical JSON (keys sorted, no spaces, UTF-8) with ``seq`` counting from 0, ``prev_hash``, the hash of the
line before, and ``hash``, the SHA-256 of the line without that field. A record is the same bytes however it was made,
so every change of a byte shows.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from market_data_core.errors import ValidationError

Record = dict[str, Any]
"""One audit record, as its line holds it."""

GENESIS: Final = "0" * 64
"""``prev_hash`` of the first record."""

MAX_LINE_BYTES: Final = 1 << 17
"""No line is longer; whatever is, nobody here wrote."""

CHECKPOINT_EVERY: Final = 100
"""No more records than this stand between two checkpoints. A part of the format: fewer checkpoints are a fault."""

OWN_PREFIX: Final = "chain."
"""Actions that the log itself records; nobody else may use them."""

CHECKPOINT: Final = OWN_PREFIX + "checkpoint"
OPENED: Final = OWN_PREFIX + "opened"
RECOVERED: Final = OWN_PREFIX + "recovered"
DAMAGED: Final = OWN_PREFIX + "damaged"

# What ends a line for some reader, cannot be seen, or turns the direction of text: escaped beyond what JSON asks for.
_HIDDEN: Final = re.compile("[\x7f-\x9f\u00ad\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb]")


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """The end of a chain.

    Attributes:
        seq: Number of the last record; -1 for an empty chain.
        hash: Its hash.
    """

    seq: int = -1
    hash: str = GENESIS


def canonical(value: Mapping[str, Any]) -> bytes:
    """Return the one JSON text of `value`, in UTF-8, with control and invisible characters escaped.

    Raises:
        ValueError: It holds a number JSON does not have, or half a surrogate pair.
    """
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return _HIDDEN.sub(lambda found: f"\\u{ord(found[0]):04x}", text).encode()


def sealed(fields: Mapping[str, Any], after: Head) -> Record:
    """Return the record that follows `after` with these fields."""
    record = {**fields, "seq": after.seq + 1, "prev_hash": after.hash}
    return {**record, "hash": hashlib.sha256(canonical(record)).hexdigest()}


def parsed(line: bytes) -> Record:
    """Return the record of a line, without its newline, once its own hash has been checked.

    Raises:
        ValidationError: It is not a record, or has been changed; the message says which.
    """
    try:
        found = json.loads(line)
    except (ValueError, RecursionError) as exc:
        raise ValidationError("it is not JSON") from exc
    if not isinstance(found, dict):
        raise ValidationError("it is not a JSON object")
    if type(found.get("seq")) is not int or not all(isinstance(found.get(k), str) for k in ("prev_hash", "hash")):
        raise ValidationError("it has no seq, prev_hash and hash")
    if not 0 <= found["seq"] < 1 << 62:
        raise ValidationError("its seq is no number of a record")
    body = {name: value for name, value in found.items() if name != "hash"}
    try:
        intact = canonical(found) == line
        digest = hashlib.sha256(canonical(body)).hexdigest()
    except (ValueError, RecursionError) as exc:
        raise ValidationError("it holds what no record can") from exc
    if digest != found["hash"]:
        raise ValidationError("its content does not have its hash")
    if not intact:
        raise ValidationError("it is not written canonically")
    return found


def rotated_name(path: Path, first_seq: int) -> Path:
    """Return where the file of `path` goes when it is full; `first_seq` is the number of its first record."""
    return path.with_name(f"{path.stem}-{first_seq:012d}{path.suffix}")


def first_seq_named(path: Path, file: Path) -> int | None:
    """Return the first number that the name of a rotated file of `path` promises; None for any other file."""
    found = re.fullmatch(rf"{re.escape(path.stem)}-(\d{{12,}}){re.escape(path.suffix)}", file.name)
    return None if found is None else int(found[1])


def list_files(path: Path) -> list[Path]:
    """Return the files of the log at `path` that are there, oldest records first."""
    folder = path.parent
    names = folder.iterdir() if folder.is_dir() else ()
    rotated = sorted((seq, file) for file in names if (seq := first_seq_named(path, file)) is not None)
    return [file for _, file in rotated] + ([path] if path.exists() else [])
