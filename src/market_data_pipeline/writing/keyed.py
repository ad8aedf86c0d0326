"""Rows of keyed tables: a step that is repeated changes nothing, so they need no position."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Protocol, runtime_checkable

import pyarrow as pa

from market_data_core.errors import ValidationError
from market_data_core.schemas import KEYS
from market_data_pipeline.writing.bisect import append_around
from market_data_pipeline.writing.dead_letters import DeadLetters, Place, Refused


@runtime_checkable
class Upserts(Protocol):
    """A store that keeps versions of keyed rows."""

    def upsert(self, table: str, rows: pa.Table, *, now_ns: int) -> object:
        """Add versions of keyed rows in one atomic, durable step.

        Rows equal to the newest version of their key change nothing.

        Args:
            table: One of `market_data_core.schemas.KEYS`.
            rows: In ``STORED_SCHEMAS[table]``.
            now_ns: The time of this call, UTC nanoseconds.

        Raises:
            ValidationError: A row cannot be stored; nothing is. Its ``details`` may say which ``row``, from 0.
            TemporaryUnavailable: The storage is away.
        """
        ...


class KeyedRows:
    """Rows on their way into a keyed table, to be written again and again until `write` returns.

    Args:
        table: The table's name.
        rows: What to write.
        now_ns: When these rows came, UTC nanoseconds; what they are known by if they do not say.
    """

    def __init__(self, table: str, rows: pa.Table, *, now_ns: int) -> None:
        self.refused: dict[int, str] = {}
        """By number in the rows, why a row was refused."""
        self._table = table
        self._rows = rows
        self._now_ns = now_ns
        self._left = _turns(rows, KEYS[table])

    def write(self, store: Upserts, set_aside: Callable[[pa.Table, int, str], None]) -> None:
        """Write what is not written yet; after an error, the next call goes on where this one was.

        Args:
            store: Where to.
            set_aside: Takes a row that the table refuses, its number, and why, and keeps it durably.

        Raises:
            TemporaryUnavailable: Storage or disk did not take it.
        """
        while self._left:
            self._write_turn(store, set_aside)
            self._left.pop(0)

    def _write_turn(self, store: Upserts, set_aside: Callable[[pa.Table, int, str], None]) -> None:
        numbers = [n for n in self._left[0] if n not in self.refused]

        def append(part: pa.Table, upto: int) -> None:
            if part.num_rows:
                store.upsert(self._table, part, now_ns=self._now_ns)
            self._left[0] = numbers[upto:]

        def refuse(number: int, exc: ValidationError) -> None:
            at = numbers[number]
            set_aside(self._rows.slice(at, 1), at, str(exc))
            self.refused[at] = str(exc)

        append_around(self._rows.take(pa.array(numbers, pa.int64())), append, refuse)


def set_aside_in(letters: DeadLetters, *, writer: str, table: str) -> Callable[[pa.Table, int, str], None]:
    """Return what sets rows of a keyed table aside in `letters`, each in a file of its own."""

    def set_aside(row: pa.Table, number: int, reason: str) -> None:
        # No two of one writer and table have the same moment and number.
        place = Place(time.time_ns(), number)
        letters.put(Refused(rows=row, places=[place], reasons=[reason]), writer=writer, table=table, keyed=True)

    return set_aside


def _turns(rows: pa.Table, key: Sequence[str]) -> list[list[int]]:
    # A step whose outcome is not known is repeated, and that changes nothing only where it has a key once: of two
    # versions the first would look new again beside the second.
    if rows.select(list(key)).group_by(list(key)).aggregate([]).num_rows == rows.num_rows:
        return [list(range(rows.num_rows))]
    turns: list[list[int]] = []
    seen: Counter[tuple[object, ...]] = Counter()
    for number, values in enumerate(zip(*(rows.column(k).to_pylist() for k in key), strict=True)):
        turn = seen[values]
        seen[values] += 1
        if turn == len(turns):
            turns.append([])
        turns[turn].append(number)
    return turns
