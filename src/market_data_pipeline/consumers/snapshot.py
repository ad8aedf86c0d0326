"""Snapshots: a consumer's whole state at a position, replaced atomically."""

from __future__ import annotations

import json
import logging
import zlib
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from market_data_core import disk
from market_data_core.errors import TemporaryUnavailable
from market_data_core.steps import Step, reached

LOG = logging.getLogger(__name__)
_MAGIC = b"MDSNAP1\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """What a consumer knows at a position.

    Attributes:
        position: Exclusive end in the log; every table has committed everything that came out below it.
        covers: By source id, the exclusive end of what was seen.
        operators: The state of each operator by its name.
        ledger: The counts of each node by its name.
        config: Which configuration the state belongs to,
        versions: and which version each operator was of.
        flow: What went from node to node, for a graph.
        stored: By table, how many rows the consumer ever stored; goes on over changes of configuration.
    """

    position: int = 0
    covers: dict[str, int] = field(default_factory=dict)
    operators: dict[str, Any] = field(default_factory=dict)
    ledger: dict[str, dict[str, int]] = field(default_factory=dict)
    config: str = ""
    versions: dict[str, str] = field(default_factory=dict)
    flow: list[list[Any]] = field(default_factory=list)
    stored: dict[str, int] = field(default_factory=dict)


def write_snapshot(path: Path, snapshot: Snapshot) -> None:
    """Replace the snapshot file, durably; its folder exists.

    Raises:
        TemporaryUnavailable: The disk did not take it; the old one stands.
    """
    # json and not orjson: exact sums may need more than 64 bits.
    body = json.dumps(asdict(snapshot), separators=(",", ":")).encode()
    reached(Step.SNAPSHOT_BEFORE)
    try:
        disk.write_atomic(
            path,
            _MAGIC + zlib.crc32(body).to_bytes(4, "little") + body,
            written=lambda: reached(Step.SNAPSHOT_WRITTEN),
        )
    except OSError as exc:
        raise TemporaryUnavailable(f"snapshot {path} cannot be written: {exc}") from exc
    reached(Step.SNAPSHOT_AFTER)


def read_snapshot(path: Path) -> Snapshot | None:
    """Return the snapshot, or None if there is none; a damaged one is set aside and counts as none."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return None
    body = content[len(_MAGIC) + 4 :]
    crc = int.from_bytes(content[len(_MAGIC) : len(_MAGIC) + 4], "little")
    if not content.startswith(_MAGIC) or zlib.crc32(body) != crc:
        aside = path.with_suffix(".damaged")
        LOG.error(
            "snapshot %s is damaged; set aside as %s, its consumer reads the log from the start", path, aside.name
        )
        path.replace(aside)
        return None
    return Snapshot(**json.loads(body))
