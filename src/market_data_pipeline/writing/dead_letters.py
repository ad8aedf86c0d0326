"""Rows that a table would not have, kept durably until somebody puts them in again or throws them away."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final, NamedTuple
from urllib.parse import quote, unquote

import pyarrow as pa
import pyarrow.compute as pc

from market_data_core import disk
from market_data_core.clock import Clock, SystemClock
from market_data_core.errors import ConfigurationError, TemporaryUnavailable

LOG = logging.getLogger(__name__)

PLACED: Final = ".arrow"
"""Ends the names of files whose rows have a place among all that their writer ever wrote,"""
KEYED: Final = ".keyed"
"""of those whose rows have a key instead,"""
REPLAYING: Final = ".replaying"
"""and of those that are being put in again."""

_ABOUT: Final = b"market_data.dead_letter"
_END, _ROW, _REASON = "dead_end", "dead_row", "dead_reason"
_OWN: Final = (_END, _ROW, _REASON)


class Place(NamedTuple):
    """Where a row stands among all that one writer writes to one table; the same every time it is made.

    Attributes:
        end: Exclusive end position of what it came out of.
        row: Which of the rows for the table that came out of it, from 0.
    """

    end: int
    row: int


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadLetter:
    """One file of rows that were refused together.

    Attributes:
        id: Names it to `DeadLetters.read` and `replay`.
        table: Which table refused them.
        writer: Who set them aside.
        origin: Who tried first; another than the writer where rows were replayed and refused again.
        rows: How many.
        reason: Why the first was refused.
        ts_ns: When they were set aside, UTC nanoseconds.
        size_bytes: Of the file.
    """

    id: str
    table: str
    writer: str
    origin: str
    rows: int
    reason: str
    ts_ns: int
    size_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
    """Rows to be set aside: in the table's columns, with the place and the reason of each, in the order of places."""

    rows: pa.Table
    places: Sequence[Place]
    reasons: Sequence[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class About:
    """What a file says of itself; the fields are those of `DeadLetter`."""

    writer: str
    table: str
    origin: str
    ts_ns: int


class DeadLetters:
    """Refused rows in files below a folder, by writer and table. Safe to use from several threads and processes.

    A row has one place, and a writer that begins again after a crash comes to the same one, so it is here once.

    Args:
        root: The folder; made with the first row.
        limit_bytes: So much fits. Then no row is set aside any more, and whoever wants to has to wait.
        clock: Stamps files.
    """

    def __init__(self, root: Path, *, limit_bytes: int = 1 << 30, clock: Clock | None = None) -> None:
        self.root = root
        self._limit = limit_bytes
        self._clock = clock or SystemClock()

    def list_letters(
        self, *, writer: str = "", table: str = "", after: str = "", limit: int = 1000
    ) -> list[DeadLetter]:
        """Return what there is, ascending by id.

        Args:
            writer: Only what was set aside by this one.
            table: Only of this table.
            after: Only what comes behind this id, to go on where a list ended.
            limit: At most so many.
        """
        found: list[DeadLetter] = []
        for path in self.files(writer, table):
            if len(found) >= limit:
                break
            if (ident := self.ident(path)) > after and (content := self.load(path)) is not None:
                rows, about = content
                found.append(
                    DeadLetter(
                        id=ident,
                        table=about.table,
                        writer=about.writer,
                        origin=about.origin,
                        rows=rows.num_rows,
                        reason=str(rows.column(_REASON)[0]),
                        ts_ns=about.ts_ns,
                        size_bytes=_size(path),
                    )
                )
        return found

    def read(self, ident: str) -> pa.Table:
        """Return the rows of one file: the table's columns, and ``dead_end``, ``dead_row`` and ``dead_reason``.

        Raises:
            ConfigurationError: There is none of that id.
        """
        content = self.load(self.find(ident))
        if content is None:
            raise ConfigurationError(f"dead letter {ident} in {self.root} is damaged")
        return content[0]

    def discard(self, ident: str) -> None:
        """Throw the rows of one file away, for good.

        Raises:
            ConfigurationError: There is none of that id.
        """
        self.remove(self.find(ident))

    # What follows is for those who write and replay.

    def put(self, refused: Refused, *, writer: str, table: str, origin: str = "", keyed: bool = False) -> None:
        """Set rows aside, durably.

        Raises:
            TemporaryUnavailable: The disk does not take them, or there is no room left.
        """
        first, last = refused.places[0], refused.places[-1]
        about = About(writer=writer, table=table, origin=origin or writer, ts_ns=self._clock.now_ns())
        ends, numbers = zip(*refused.places, strict=True)
        own = (pa.array(ends, pa.int64()), pa.array(numbers, pa.int64()), pa.array(refused.reasons, pa.string()))
        rows = refused.rows
        for name, values in zip(_OWN, own, strict=True):
            rows = rows.append_column(name, values)
        # Names sort as places do.
        name = f"{first.end:020d}-{first.row:010d}-{last.end:020d}{KEYED if keyed else PLACED}"
        path = self._folder(writer, table) / name
        held = sum(_size(p) for p in self.files() if p != path)
        if held + rows.nbytes > self._limit:
            raise TemporaryUnavailable(
                f"dead letters in {self.root} hold {held} bytes of at most {self._limit}; replay or discard some",
                code="DeadLettersFull",
            )
        self.store(path, rows, about)

    def forget(self, writer: str, table: str, *, position: int, mark: Place) -> None:
        """Forget rows that their writer comes to again: those behind `position` that are not before `mark` either.

        Raises:
            TemporaryUnavailable: The disk does not take it.
        """
        for path in self.files(writer, table, (PLACED,)):
            if _last_end(path) <= position or (content := self.load(path)) is None:
                continue
            rows, about = content
            kept = rows.filter(_settled(rows, position, mark))
            if kept.num_rows == 0:
                self.remove(path)
            elif kept.num_rows < rows.num_rows:
                self.store(path, kept, about)

    def places(self, writer: str, table: str, *, above: int) -> set[Place]:
        """Return the places, of ends above a position, of the rows that are here."""
        found: set[Place] = set()
        for path in self.files(writer, table, (PLACED, REPLAYING)):
            if _last_end(path) > above and (content := self.load(path)) is not None:
                ends, numbers = (content[0].column(n).to_pylist() for n in (_END, _ROW))
                found |= {Place(e, r) for e, r in zip(ends, numbers, strict=True) if e > above}
        return found

    def files(self, writer: str = "", table: str = "", ends: Sequence[str] = (PLACED, KEYED, REPLAYING)) -> list[Path]:
        """Return the files of rows, ascending; of one writer and table where they are given."""
        pattern = f"{_quoted(writer) or '*'}/{_quoted(table) or '*'}/*"
        return sorted((p for p in self.root.glob(pattern) if p.suffix in ends), key=self.ident)

    def find(self, ident: str) -> Path:
        """Return the file of an id.

        Raises:
            ConfigurationError: There is none.
        """
        for path in self.files():
            if self.ident(path) == ident:
                return path
        raise ConfigurationError(f"there is no dead letter {ident} in {self.root}")

    def load(self, path: Path) -> tuple[pa.Table, About] | None:
        """Return what a file holds; None if it is gone, or damaged, in which case it is set aside.

        Raises:
            TemporaryUnavailable: It is damaged, and the disk does not take that it is set aside.
        """
        try:
            with pa.ipc.open_stream(path.read_bytes()) as reader:
                rows = reader.read_all()
            about = About(**json.loads(rows.schema.metadata[_ABOUT]))
        except FileNotFoundError:
            return None
        except (pa.ArrowException, OSError, KeyError, TypeError, ValueError) as exc:
            LOG.error("dead letters in %s are damaged, set aside: %s", path, exc)
            self.rename(path, path.name + ".damaged")
            return None
        return rows.replace_schema_metadata(None), about

    def store(self, path: Path, rows: pa.Table, about: About) -> None:
        """Write or replace a file, durably.

        Raises:
            TemporaryUnavailable: The disk does not take it.
        """
        stream = pa.BufferOutputStream()
        rows = rows.replace_schema_metadata({_ABOUT: json.dumps(asdict(about)).encode()})
        with pa.ipc.new_stream(stream, rows.schema) as writer:
            writer.write_table(rows)
        try:
            disk.make_dirs(path.parent)
            disk.write_atomic(path, stream.getvalue().to_pybytes())
        except OSError as exc:
            raise TemporaryUnavailable(f"dead letters cannot be written to {path}: {exc}") from exc

    def rename(self, path: Path, name: str) -> Path:
        """Give a file another name, durably, and return where it is.

        Raises:
            TemporaryUnavailable: The disk does not take it.
        """
        renamed = path.with_name(name)
        try:
            path.replace(renamed)
            disk.sync_dir(path.parent)
        except OSError as exc:
            raise TemporaryUnavailable(f"dead letters in {path} cannot be renamed: {exc}") from exc
        return renamed

    def remove(self, path: Path) -> None:
        """Remove a file, durably.

        Raises:
            TemporaryUnavailable: The disk does not take it.
        """
        try:
            path.unlink(missing_ok=True)
            disk.sync_dir(path.parent)
        except OSError as exc:
            raise TemporaryUnavailable(f"dead letters in {path} cannot be removed: {exc}") from exc

    def _folder(self, writer: str, table: str) -> Path:
        return self.root / _quoted(writer) / _quoted(table)

    def ident(self, path: Path) -> str:
        """Return what `DeadLetters.read` and `replay` know a file by."""
        return f"{unquote(path.parent.parent.name)}/{unquote(path.parent.name)}/{path.name.partition('.')[0]}"


def rows_of(content: pa.Table) -> pa.Table:
    """Return the rows of a file in their table's own columns."""
    return content.drop_columns(list(_OWN))


def settled(content: pa.Table, position: int, mark: Place) -> bool:
    """Return whether the writer has left all rows of a file behind, so that it will not come to them again."""
    return bool(pc.all(_settled(content, position, mark)).as_py())


def _settled(rows: pa.Table, position: int, mark: Place) -> pa.ChunkedArray:
    ends, numbers = rows.column(_END), rows.column(_ROW)
    before = pc.or_(pc.less(ends, mark.end), pc.and_(pc.equal(ends, mark.end), pc.less(numbers, mark.row)))
    return pc.or_(pc.less_equal(ends, position), before)


def _quoted(name: str) -> str:
    # A name is one folder, whatever is in it.
    return quote(name, safe="").replace(".", "%2E")


def _last_end(path: Path) -> int:
    return int(path.name.partition(".")[0].split("-")[2])


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0
