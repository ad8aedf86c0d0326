"""One writer's way into one table: whole commits, or commits of all rows but those that the table refuses."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import pyarrow as pa

from market_data_core.errors import ValidationError, WriterConflict
from market_data_core.protocols import Table
from market_data_core.schemas import STORED_SCHEMAS
from market_data_pipeline.writing.bisect import append_around
from market_data_pipeline.writing.dead_letters import DeadLetters, Place, Refused

# A commit in parts says in the table itself how far it is: all rows of ends below the first number, and so many of
# that end, are in the table or set aside. It is atomic with the rows, as the position is, and means nothing once that
# has passed it.
_MARK_END: Final = "~dealt/end"
_MARK_ROWS: Final = "~dealt/rows"


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """Rows that stand next to each other and came out of the same span.

    Attributes:
        end: Exclusive end position of the span.
        first: How many rows for the table came out of it before these.
        rows: How many these are.
    """

    end: int
    first: int
    rows: int


class TableWriter:
    """Commits rows to one table as one writer; what the table refuses is set aside and the rest goes in.

    A crash at any moment leaves the table and the rows set aside in agreement: opened again, it knows which rows of a
    commit that was cut short are dealt with. That holds for whoever makes the same rows again in the same order; who
    cannot calls `begin_anew` first. After an error other than that of a bad row take a new one.

    Args:
        view: Takes a fresh view of the table.
        writer: Who commits.
        letters: Where refused rows go.
        origin: Whose rows they are, if not the writer's own.

    Raises:
        TemporaryUnavailable: The storage is away.
    """

    def __init__(self, view: Callable[[], Table], *, writer: str, letters: DeadLetters, origin: str = "") -> None:
        self._view = view
        self._writer = writer
        self._letters = letters
        self._origin = origin
        self._table = view()
        self.position, self.mark = self.standing(self._table, writer)
        """Exclusive end of the last whole commit, and how far beyond it rows are dealt with."""
        letters.forget(writer, self.name, position=self.position, mark=self.mark)

    @staticmethod
    def standing(table: Table, writer: str) -> tuple[int, Place]:
        """Return the exclusive end of a writer's last whole commit, and how far beyond it rows are dealt with."""
        covers = table.covers(writer)
        return table.position(writer) or 0, Place(covers.get(_MARK_END, 0), covers.get(_MARK_ROWS, 0))

    @property
    def name(self) -> str:
        """The table's name."""
        return self._table.name

    @property
    def takes_codes(self) -> bool:
        """Whether rows may have dictionaries in place of text."""
        return bool(getattr(self._table, "takes_codes", False))

    @property
    def covers(self) -> dict[str, int]:
        """By source id, the exclusive end of what the writer had seen at its last commit."""
        covers = self._table.covers(self._writer)
        return {s: end for s, end in covers.items() if s not in (_MARK_END, _MARK_ROWS)}

    def dealt(self, run: Run) -> int:
        """Return how many of these rows, from the first on, are in the table or set aside."""
        if run.end <= self.position or run.end < self.mark.end:
            return run.rows
        return min(max(self.mark.row - run.first, 0), run.rows) if run.end == self.mark.end else 0

    def refused(self, *, above: int) -> set[Place]:
        """Return the places, of ends above a position, of rows that were set aside."""
        return self._letters.places(self._writer, self.name, above=above)

    def begin_anew(self) -> None:
        """Leave behind a commit that was cut short, the rest of which nobody has any more.

        Raises:
            TemporaryUnavailable, WriterConflict: As `commit`.
        """
        if self.mark.end > self.position:
            self.commit(STORED_SCHEMAS[self.name].empty_table(), position=self.mark.end, covers={}, runs=())

    def commit(
        self, rows: pa.Table, *, position: int, covers: Mapping[str, int], runs: Sequence[Run]
    ) -> list[tuple[int, str]]:
        """Commit rows that are not dealt with yet, and the position.

        Args:
            rows: As `Table.append`.
            position: As `Table.append`.
            covers: As `Table.append`.
            runs: Where the rows stand, in their order.

        Returns:
            The number in `rows` of each that was set aside, ascending, and why.

        Raises:
            WriterConflict: Somebody else committed as this writer.
            TemporaryUnavailable: Storage or disk did not take it.
            ValidationError: The table refuses even no rows.
        """
        refused: dict[int, str] = {}
        kept = 0

        def append(part: pa.Table, upto: int) -> None:
            nonlocal kept
            if len(refused) > kept:
                # Before anything behind them is in the table: from then on nobody makes them again.
                self._set_aside(rows, {n: refused[n] for n in list(refused)[kept:]}, runs)
                kept = len(refused)
            if upto == rows.num_rows:
                self._append(part, position, covers)
                self.position = position
            else:
                mark = place_of(upto, runs)
                self._append(part, self.position, {_MARK_END: mark.end, _MARK_ROWS: mark.row})
                self.mark = mark

        def refuse(number: int, exc: ValidationError) -> None:
            refused[number] = str(exc)

        append_around(rows, append, refuse)
        return sorted(refused.items())

    def _append(self, rows: pa.Table, position: int, covers: Mapping[str, int]) -> None:
        try:
            self._table.append(rows, writer=self._writer, position=position, covers=covers)
        except ValidationError:
            # A view may be used up by an error. The next must show what this one did.
            self._table = self._view()
            if self.standing(self._table, self._writer) != (self.position, self.mark):
                raise WriterConflict(f"somebody else committed to table {self.name} as {self._writer}") from None
            raise

    def _set_aside(self, rows: pa.Table, refused: Mapping[int, str], runs: Sequence[Run]) -> None:
        numbers = sorted(refused)
        self._letters.put(
            Refused(
                rows=rows.take(numbers).cast(STORED_SCHEMAS[self.name]),
                places=[place_of(n, runs) for n in numbers],
                reasons=[refused[n] for n in numbers],
            ),
            writer=self._writer,
            table=self.name,
            origin=self._origin,
        )


def place_of(number: int, runs: Sequence[Run]) -> Place:
    """Return where the row of this number stands; for one behind the last, the place that follows it."""
    for run in runs:
        if number < run.rows:
            return Place(run.end, run.first + number)
        number -= run.rows
    last = runs[-1]
    return Place(last.end, last.first + last.rows + number)
