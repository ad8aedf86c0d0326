"""Answers of any size, a date and a piece at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import date
from itertools import pairwise
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds

from market_data_store.lake.asking import Question
from market_data_store.lake.declarations import DAY_NS, date_of
from market_data_store.lake.folder import TableFolder
from market_data_store.lake.reads import (
    VERSION_ORDER,
    Selection,
    TableReader,
    all_of,
    first_of_key,
    newest,
    order_by,
    prune,
    scan_batches,
    scan_files,
)

_PIECE_ROWS: Final = 400_000
"""About so many rows of a keyed table are compared at a time, some 200 MB at the most."""

_SAMPLES: Final = 200
"""So many rows of a piece are looked at to find where it ends."""

_SCAN_ROWS: Final = 65_536

_EPOCH_ORDINAL: Final = date(1970, 1, 1).toordinal()


@dataclass(frozen=True, slots=True, kw_only=True)
class Day:
    """A UTC date of an answer: which files can have rows of it, and which of their rows are of it."""

    date: str
    files: pa.Table
    read: Selection


def fetch(reader: TableReader, question: Question) -> pa.Table:
    """Return the whole answer, ascending ``(ts_event, seq)``, of a keyed table by ``ts_event``, key and version.

    Raises:
        TemporaryUnavailable: The storage is away.
    """
    rows = question.settle(reader.scan(question.read, question.columns))
    ascending = ["ts_event", *question.spec.key, *VERSION_ORDER] if question.spec.key else ["ts_event", "seq"]
    return rows.take(pa.array(order_by(rows, ascending))).select(question.shown)


def stream(reader: TableReader, question: Question, *, batch_rows: int) -> Iterator[pa.RecordBatch]:
    """Give the answer by UTC date, of a keyed table by key and version within one, of the table as it stands now.

    Raises:
        TemporaryUnavailable: The storage is away, or the reader took so long that upkeep deleted what it read.
    """
    folder = reader.folder
    listed = days(reader, question)
    moved = _moved(folder, listed, question)
    for day in listed:
        if question.first_ns // DAY_NS <= _number(day) <= question.last_ns // DAY_NS:  # of a key without time, all are
            yield from day_rows(folder, question, day, moved=moved, batch_rows=batch_rows)


def day_rows(
    folder: TableFolder, question: Question, day: Day, *, moved: pa.Table | None = None, batch_rows: int = _SCAN_ROWS
) -> Iterator[pa.RecordBatch]:
    """Give the answer's rows of one date, of a keyed table by key and version.

    Args:
        folder: The table.
        question: What was asked.
        day: Of which date.
        moved: Of rows that have versions on several dates, the newest; None if there are none.
        batch_rows: At most so many rows at a time.

    Raises:
        TemporaryUnavailable: The storage is away.
    """
    where = day.read.expression()
    if not question.spec.key:
        for batch in scan_batches(folder, day.files, where, question.columns, batch_rows=batch_rows):
            yield batch.select(question.shown)
        return
    for piece in _pieces(folder, day.files, where, question.spec.key):
        rows = scan_files(folder, day.files, all_of([t for t in (where, piece) if t is not None]), question.columns)
        if moved is not None:
            others = moved if piece is None else moved.filter(piece)
            # Those of the date come last: where the same version is there twice, it is they that count.
            rows = pa.concat_tables([others, rows], promote_options="default").select(question.columns)
        rows = _ordered(question.settle(rows), question)
        if moved is not None:
            rows = rows.filter(pa.array(_day_numbers(rows) == _number(day)))
        yield from (b for b in rows.select(question.shown).combine_chunks().to_batches(batch_rows) if b.num_rows)


def _ordered(rows: pa.Table, question: Question) -> pa.Table:
    if question.newest:
        return rows  # in the order of the key since they were compared
    return rows.take(pa.array(order_by(rows, (*question.spec.key, *VERSION_ORDER))))


def days(reader: TableReader, question: Question) -> list[Day]:
    """Return the dates that the answer may have rows of, ascending.

    Raises:
        TemporaryUnavailable: The storage is away.
    """
    files = prune(question.spec, reader.files(), question.read)
    if question.spec.dated_by == "ts_event":
        dates = files.column("partition.date")
        return [
            Day(date=name, files=files.filter(pc.equal(dates, name)), read=question.read)
            for name in sorted(pc.unique(dates).to_pylist())
        ]
    # Folders are named for another time, so every file may have rows of any date.
    found: set[int] = set()
    for batch in scan_batches(reader.folder, files, question.read.expression(), ["ts_event"], batch_rows=_SCAN_ROWS):
        found.update(np.unique(batch.column(0).to_numpy() // DAY_NS).tolist())
    return [_day(question, files, number) for number in sorted(found)]


def _day(question: Question, files: pa.Table, number: int) -> Day:
    start_ns = max(number * DAY_NS, question.read.start_ns)
    end_ns = min((number + 1) * DAY_NS, question.read.end_ns)
    read = replace(question.read, start_ns=start_ns, end_ns=end_ns)
    return Day(date=date_of(number * DAY_NS), files=prune(question.spec, files, read), read=read)


def _number(day: Day) -> int:
    return date.fromisoformat(day.date).toordinal() - _EPOCH_ORDINAL


def _day_numbers(rows: pa.Table) -> npt.NDArray[np.int64]:
    numbers: npt.NDArray[np.int64] = rows.column("ts_event").to_numpy() // DAY_NS
    return numbers


def _moved(folder: TableFolder, listed: Sequence[Day], question: Question) -> pa.Table | None:
    # Where the key has no time, a version may lie on another date than the one it takes the place of: a news item that
    # was dated anew. Those are few, and kept; what has to be compared to find them is looked at piece by piece.
    if not question.newest or "ts_event" in question.spec.key or len(listed) < 2:
        return None
    needed = {"ts_event", *question.spec.key, *VERSION_ORDER}
    columns = [n for n in question.columns if n in needed]
    files = pa.concat_tables([d.files for d in listed])
    where = question.read.expression()
    found: list[pa.Table] = []
    for piece in _pieces(folder, files, where, question.spec.key):
        rows = scan_files(folder, files, all_of([t for t in (where, piece) if t is not None]), columns)
        rows = rows.take(pa.array(order_by(rows, question.spec.key)))
        first = first_of_key(rows, question.spec.key)
        numbers, keys = _day_numbers(rows), np.cumsum(first)
        elsewhere = np.flatnonzero(~first[1:] & (numbers[1:] != numbers[:-1])) + 1
        found.append(newest(rows.filter(pa.array(np.isin(keys, keys[elsewhere]))), question.spec.key))
    moved = pa.concat_tables(found)
    return moved if moved.num_rows else None


def _pieces(
    folder: TableFolder, files: pa.Table, where: ds.Expression | None, key: Sequence[str]
) -> list[ds.Expression | None]:
    # Conditions that cut rows into ranges of the key, ascending, of about as many rows each as are compared at a time.
    # Where to cut is told by every so-manieth row; one key's versions always stay together.
    if int(pc.sum(files.column("num_records")).as_py() or 0) <= _PIECE_ROWS:
        return [None]
    stride = _PIECE_ROWS // _SAMPLES
    seen = 0
    sampled: list[pa.RecordBatch] = []
    for batch in scan_batches(folder, files, where, key, batch_rows=_SCAN_ROWS):
        sampled.append(batch.take(pa.array(np.arange(-seen % stride, batch.num_rows, stride))))
        seen += batch.num_rows
    if seen <= _PIECE_ROWS:
        return [None]
    rows = pa.Table.from_batches(sampled)
    rows = rows.take(pa.array(order_by(rows, key)))
    cuts = rows.take(pa.array(np.arange(_SAMPLES, rows.num_rows, _SAMPLES)))
    bounds: list[dict[str, Any] | None] = [None]
    bounds += cuts.filter(pa.array(first_of_key(cuts, key))).to_pylist()
    bounds.append(None)
    return [_between(low, high, key) for low, high in pairwise(bounds)]


def _between(low: dict[str, Any] | None, high: dict[str, Any] | None, key: Sequence[str]) -> ds.Expression | None:
    # Keys from `low` on and below `high`.
    terms: list[Any] = []
    if low is not None:
        terms.append(~_below(low, key))
    if high is not None:
        terms.append(_below(high, key))
    if low is not None and high is not None:
        # Says nothing new, but in a form by which Arrow leaves out row groups.
        for column in key:
            if low[column] is None or high[column] is None:
                break
            terms += [pc.field(column) >= low[column], pc.field(column) <= high[column]]
            if low[column] != high[column]:
                break
    return all_of(terms)


def _below(bound: dict[str, Any], key: Sequence[str]) -> Any:
    # Whether a row's key comes before `bound`; null comes first.
    below: Any = pc.scalar(False)  # noqa: FBT003
    for column in reversed(key):
        field: Any = pc.field(column)
        if bound[column] is None:
            below = field.is_null() & below
        else:
            less = pc.coalesce(field < bound[column], pc.scalar(True))  # noqa: FBT003
            same = pc.coalesce(field == bound[column], pc.scalar(False))  # noqa: FBT003
            below = less | (same & below)
    return below
