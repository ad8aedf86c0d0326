"""Dead letters put in again, once."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pyarrow as pa

from market_data_core import disk
from market_data_core.errors import ConfigurationError, TemporaryUnavailable
from market_data_core.protocols import Store
from market_data_core.schemas import STORED_SCHEMAS
from market_data_pipeline.locks import lock_file, unlock
from market_data_pipeline.writing.bisect import append_around
from market_data_pipeline.writing.dead_letters import (
    KEYED,
    PLACED,
    REPLAYING,
    About,
    DeadLetters,
    rows_of,
    settled,
)
from market_data_pipeline.writing.keyed import Upserts
from market_data_pipeline.writing.table_writer import Run, TableWriter

LOG = logging.getLogger(__name__)

REPLAYER: Final = "dead-letters"
"""The writer as which rows are put in again; nobody else may be called so."""

_TALLY: Final = "replayed.json"

Repair = Callable[[str, pa.Table], pa.Table]
"""Given a table's name and rows that it refused, returns as many rows to be stored instead, in the same order."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Replayed:
    """What came of a replay, in rows.

    Attributes:
        stored: In their tables now.
        refused: Refused again; they are dead letters still, under the name of the replay.
        left: Not tried, because their writer is not done with the commit that they belong to.
    """

    stored: int = 0
    refused: int = 0
    left: int = 0


def replay(
    letters: DeadLetters, store: Store, *, only: Collection[str] | None = None, repair: Repair | None = None
) -> Replayed:
    """Put dead letters into their tables, each row once, and remove them.

    Safe beside writers, and after a crash at any moment: the next replay goes on where it was. A row that is refused
    again does not hold up the others.

    Args:
        letters: What to put in.
        store: Where to.
        only: The ids of those to put in; all if None.
        repair: Puts rows right before they go in.

    Raises:
        TemporaryUnavailable: Storage or disk are away, or somebody else replays; what was put in so far stays.
        ConfigurationError: An id is unknown, or `repair` returned other than what it should.
    """
    if not letters.root.is_dir():
        if only:
            raise ConfigurationError(f"there are no dead letters in {letters.root}")
        return Replayed()
    fd = lock_file(letters.root / "replay.lock")
    if fd < 0:
        raise TemporaryUnavailable(f"somebody else replays the dead letters of {letters.root}")
    try:
        return _Replay(letters, store, repair).run(only)
    finally:
        unlock(fd)


def replayed(letters: DeadLetters, table: str) -> dict[str, int]:
    """Return how many rows of a table were ever stored by replays, by whom they were refused first."""
    return dict(_tally(letters).get(table, {}).get("stored", {}))


class _Replay:
    def __init__(self, letters: DeadLetters, store: Store, repair: Repair | None) -> None:
        self._letters = letters
        self._store = store
        self._repair = repair
        self._stored = self._refused = self._left = 0

    def run(self, only: Collection[str] | None) -> Replayed:
        # What was begun comes first: until it is settled, the position it was given is nobody else's.
        begun = self._letters.files(ends=(REPLAYING,))
        for path in begun:
            self._settle(path)
        paths = self._letters.files(ends=(PLACED, KEYED))
        if only is not None:
            idents = {self._letters.ident(p): p for p in paths}
            wanted = set(only) - {self._letters.ident(p) for p in begun}
            if unknown := wanted - idents.keys():
                raise ConfigurationError(f"there is no dead letter {min(unknown)} in {self._letters.root}")
            paths = [idents[i] for i in sorted(wanted)]
        for path in paths:
            content = self._letters.load(path)
            if content is None:
                continue
            if path.suffix == KEYED:
                self._upsert(path, *content)
            elif self._is_left_behind(*content):
                self._begin(path, *content)
            else:
                self._left += content[0].num_rows
        return Replayed(stored=self._stored, refused=self._refused, left=self._left)

    def _is_left_behind(self, content: pa.Table, about: About) -> bool:
        table = self._store.table(about.table)
        position, mark = TableWriter.standing(table, about.writer)
        return settled(content, position, mark)

    def _begin(self, path: Path, content: pa.Table, about: About) -> None:
        position, _ = TableWriter.standing(self._store.table(about.table), REPLAYER)
        target = position + content.num_rows
        self._settle(self._letters.rename(path, f"{path.stem}.{target}{REPLAYING}"))

    # The file's name holds the position that says all of it is in. Only the next one begins behind it.
    def _settle(self, path: Path) -> None:
        loaded = self._letters.load(path)
        if loaded is None:
            return
        content, about = loaded
        target, count = int(path.name.split(".")[1]), content.num_rows
        writer = TableWriter(
            lambda: self._store.table(about.table), writer=REPLAYER, letters=self._letters, origin=about.origin
        )
        done = writer.dealt(Run(end=target, first=0, rows=count))
        if writer.position < target:
            rest = self._repaired(about.table, rows_of(content).slice(done))
            run = Run(end=target, first=done, rows=rest.num_rows)
            writer.commit(rest, position=target, covers={}, runs=[run])
        refused = sum(p.end == target for p in writer.refused(above=target - 1))
        self._count(about, target, count - refused)
        self._stored += count - refused
        self._refused += refused
        self._letters.remove(path)

    def _upsert(self, path: Path, content: pa.Table, about: About) -> None:
        if not isinstance(self._store, Upserts):
            raise ConfigurationError(f"rows of table {about.table} have keys, which this store does not keep")
        store, now_ns, refused = self._store, about.ts_ns, set[int]()

        def append(part: pa.Table, upto: int) -> None:
            del upto
            if part.num_rows:
                store.upsert(about.table, part, now_ns=now_ns)

        append_around(self._repaired(about.table, rows_of(content)), append, lambda number, _exc: refused.add(number))
        self._stored += content.num_rows - len(refused)
        self._refused += len(refused)
        if refused:
            self._letters.store(path, content.take(sorted(refused)), about)
        else:
            self._letters.remove(path)

    def _repaired(self, table: str, rows: pa.Table) -> pa.Table:
        if self._repair is None or rows.num_rows == 0:
            return rows
        repaired = self._repair(table, rows)
        if repaired.num_rows != rows.num_rows or not repaired.schema.equals(STORED_SCHEMAS[table]):
            raise ConfigurationError(f"repairing {rows.num_rows} rows of table {table} gave other columns or numbers")
        return repaired

    # Counted once per target, however often the counting is repeated.
    def _count(self, about: About, target: int, stored: int) -> None:
        tally = _tally(self._letters)
        entry = tally.setdefault(about.table, {"to": 0, "stored": {}})
        if entry["to"] >= target:
            return
        entry["to"] = target
        entry["stored"][about.origin] = entry["stored"].get(about.origin, 0) + stored
        try:
            disk.write_atomic(self._letters.root / _TALLY, json.dumps(tally).encode())
        except OSError as exc:
            raise TemporaryUnavailable(f"what was replayed cannot be written down: {exc}") from exc


def _tally(letters: DeadLetters) -> dict[str, Any]:
    try:
        return dict(json.loads((letters.root / _TALLY).read_bytes()))
    except FileNotFoundError:
        return {}
