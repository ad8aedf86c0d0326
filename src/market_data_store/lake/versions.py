"""Which versions of keyed rows have to be added so that a table says what it is told."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from market_data_core.errors import SchemaValidationError
from market_data_core.schemas import VERSION_COLUMNS
from market_data_store.backend import Upserted
from market_data_store.lake.reads import VERSION_ORDER, first_of_key, order_by

_HOW_IT_CAME: Final = frozenset({"flags", "origin", "ts_recv", "seq", *VERSION_COLUMNS})
_LAST_REVISION: Final = 2**31 - 1

Indices = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What has to be stored.

    Attributes:
        added: New versions, complete, in the order in which they were given.
        upserted: What became of the given rows.
    """

    added: pa.Table
    upserted: Upserted


def values_of(schema: pa.Schema, key: Sequence[str]) -> list[str]:
    """Return the columns in which a version of a key can differ from another."""
    return [n for n in schema.names if n not in _HOW_IT_CAME and n not in key]


def plan(stored: pa.Table, given: pa.Table, key: Sequence[str], *, now_ns: int) -> Plan:
    """Return which versions to add.

    Args:
        stored: Every stored version of the given keys; other rows do no harm. At least the columns of the key, its
            values, `VERSION_ORDER` and ``ts_recv``.
        given: As `Backend.upsert` takes them, nothing null in the key.
        key: What makes two rows versions of the same thing.
        now_ns: When what is given became known, where it does not say, UTC nanoseconds.

    Raises:
        SchemaValidationError: A key has no revisions left.
    """
    given = _filled(given, now_ns)
    restored = given.column("revision").is_valid().to_numpy()
    pool = _Pool(stored, given, key, restored)
    upserted = Upserted()
    # A row that is restored and one that says what is true now go by different rules, and each has to see what the
    # ones before it did to its key. So rows are taken in turns, in which a key has rows of one sort alone.
    for turn in pool.turns():
        upserted += pool.restore(turn[restored[turn - pool.offset]]) + pool.tell(turn[~restored[turn - pool.offset]])
    return Plan(added=pool.added(), upserted=upserted)


def _filled(given: pa.Table, now_ns: int) -> pa.Table:
    for name, value in (("ts_recv", now_ns), ("seq", 0)):
        given = _with(given, name, pc.fill_null(given.column(name), value))
    # Of a version that is restored it may be unknown when it became known.
    told = pc.and_(given.column("ts_known").is_null(), given.column("revision").is_null())
    return _with(given, "ts_known", pc.if_else(told, now_ns, given.column("ts_known")))


def _with(rows: pa.Table, name: str, values: Any) -> pa.Table:
    at = rows.schema.get_field_index(name)
    return rows.set_column(at, rows.schema.field(at), values.cast(rows.schema.field(at).type))


class _Pool:
    # Stored rows and, behind them, from `offset` on, the given ones. Rows are named by their place in it.

    def __init__(self, stored: pa.Table, given: pa.Table, key: Sequence[str], restored: Mask) -> None:
        self.offset = stored.num_rows
        self._given = given
        self._restored = restored
        names = [*key, *VERSION_ORDER, "ts_recv", *values_of(given.schema, key)]
        rows = pa.concat_tables([stored.select(names), given.select(names)])
        order = order_by(rows, key)
        self._group = np.empty(len(order), np.int64)
        self._group[order] = np.cumsum(first_of_key(rows.take(pa.array(order)), key)) - 1
        self._revision, self._known, self._seq = (
            rows.column(n).cast(pa.int64()).fill_null(0).to_numpy().copy() for n in VERSION_ORDER
        )
        # One that does not say when it became known did so when it was received.
        moment = pc.coalesce(rows.column("ts_known"), rows.column("ts_recv"))
        self._moment = moment.fill_null(0).to_numpy()
        self._values = [_comparable(rows.column(n)) for n in values_of(given.schema, key)]
        self._present = np.arange(len(order)) < self.offset

    def turns(self) -> list[Indices]:
        # In each, rows of a key stand together, as they were given.
        rows = np.arange(self.offset, len(self._group))
        rows = rows[np.argsort(self._group[rows], kind="stable")]
        sort = self._restored[rows - self.offset]
        first = _starts(self._group[rows])
        flips = np.zeros(len(rows), np.int64)
        flips[1:] = (sort[1:] != sort[:-1]) & ~first[1:]
        turn = _running(flips, first)
        return [rows[turn == t] for t in range(int(turn.max(initial=-1)) + 1)]

    def tell(self, rows: Indices) -> Upserted:
        # What is true before a row is what the row before it said, whether that was news or not.
        if not len(rows):
            return Upserted()
        first = _starts(self._group[rows])
        newest = self._newest(rows)[self._group[rows]]
        before = np.where(first, newest, np.roll(rows, 1))
        changed = (before < 0) | self._differ(rows, before)
        last = np.where(newest < 0, -1, self._revision[newest])
        self._revision[rows] = last + _running(changed.astype(np.int64), first)
        self._refuse_beyond(rows)
        self._present[rows[changed]] = True
        inserted = int((before < 0).sum())
        return Upserted(
            inserted=inserted, revised=int(changed.sum()) - inserted, unchanged=len(rows) - int(changed.sum())
        )

    def restore(self, rows: Indices) -> Upserted:
        # A version is there once, by its number, when it became known and where it stood.
        if not len(rows):
            return Upserted()
        known_key = self._newest(rows)[self._group[rows]] >= 0
        others = np.flatnonzero(self._present & self._of_keys(rows))
        both = np.concatenate([others, rows])
        identity = [self._group[both], self._revision[both], self._moment[both], self._seq[both]]
        # Sorted so that what is there already comes before what is not, and that in the order it was given.
        order = np.lexsort([np.arange(len(both)), *reversed(identity)])
        is_new = np.empty(len(both), np.bool_)
        is_new[order] = np.logical_or.reduce([_starts(part[order]) for part in identity])
        is_new = is_new[len(others) :]
        self._present[rows[is_new]] = True
        # The first new version of a key that was not there; rows of a key stand together.
        inserted = int((_starts(self._group[rows]) & ~known_key).sum())
        return Upserted(
            inserted=inserted, revised=int(is_new.sum()) - inserted, unchanged=len(rows) - int(is_new.sum())
        )

    def added(self) -> pa.Table:
        at = np.flatnonzero(self._present[self.offset :])
        added = self._given.take(pa.array(at))
        return _with(added, "revision", pa.chunked_array([pa.array(self._revision[at + self.offset])]))

    def _of_keys(self, rows: Indices) -> Mask:
        wanted = np.zeros(int(self._group.max(initial=-1)) + 1, np.bool_)
        wanted[self._group[rows]] = True
        of_keys: Mask = wanted[self._group]
        return of_keys

    def _newest(self, rows: Indices) -> Indices:
        # By group, the newest version that is there of the keys of `rows`, -1 where there is none.
        found = np.full(int(self._group.max(initial=-1)) + 1, -1)
        there = np.flatnonzero(self._present & self._of_keys(rows))
        order = np.lexsort([self._seq[there], self._known[there], self._revision[there], self._group[there]])
        # Of several values for one place the last one stays.
        found[self._group[there[order]]] = there[order]
        return found

    def _differ(self, rows: Indices, others: Indices) -> Mask:
        differ = np.zeros(len(rows), np.bool_)
        for values, absent in self._values:
            differ |= (values[rows] != values[others]) | (absent[rows] != absent[others])
        return differ

    def _refuse_beyond(self, rows: Indices) -> None:
        beyond = rows[self._revision[rows] > _LAST_REVISION]
        if len(beyond):
            row = int(beyond.min()) - self.offset
            raise SchemaValidationError(
                f"row {row}: its key has revision {_LAST_REVISION}, and there is none after that",
                details={"row": row, "column": "revision"},
            )


def _comparable(column: pa.ChunkedArray) -> tuple[npt.NDArray[np.generic], Mask]:
    # Values that are equal where the column's are, and where it has none.
    absent: Mask = column.is_null().to_numpy()
    if pa.types.is_string(column.type):
        codes = column.dictionary_encode().unify_dictionaries().combine_chunks().indices
        return codes.fill_null(-1).to_numpy(zero_copy_only=False), absent
    return column.fill_null(0).to_numpy(), absent


def _starts(values: npt.NDArray[np.generic]) -> Mask:
    starts = np.ones(len(values), np.bool_)
    starts[1:] = values[1:] != values[:-1]
    return starts


def _running(counts: Indices, first: Mask) -> Indices:
    # Sums from the start of each group on.
    total = np.cumsum(counts)
    base = np.maximum.accumulate(np.where(first, np.arange(len(counts)), 0))
    running: Indices = total - total[base] + counts[base]
    return running
