"""Pages of stored rows: what comes after a place in an order, without reading what lies before it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import groupby, pairwise
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from market_data_core.clock import NS_PER_SECOND
from market_data_core.schemas import BAR_KEY, Kind
from market_data_store.backend import Backend, Wanted

_DAY_NS: Final = 86_400 * NS_PER_SECOND
_BATCH_ROWS: Final = 8192
_BAR_ORDER: Final = ("ts_event", *(name for name in BAR_KEY if name != "ts_event"))

Row = dict[str, Any]


def bars_after(backend: Backend, wanted: Wanted, place: tuple[Any, ...] | None, limit: int) -> list[Row]:
    """Return bars in ascending order of ``ts_event`` and then of the rest of their key, one more than `limit` at most.

    Args:
        backend: Where from.
        wanted: Which.
        place: `bar_place` of the last one that was given; None to begin.
        limit: How many a page has; one more tells that there is another page.
    """
    if place is not None:
        wanted = replace(wanted, start_ns=max(wanted.start_ns, place[0]))
    found: list[Row] = []
    # The store gives a date by its key; the day's rows of one symbol are few enough to be put by time.
    for _, batches in groupby(_batches(backend, str(Kind.BARS), wanted), key=_date):
        day = pa.Table.from_batches(list(batches))
        day = day.take(pc.sort_indices(day, [(name, "ascending") for name in _BAR_ORDER]))
        first = 0 if place is None else _behind(day, place)
        found += day.slice(first, limit + 1 - len(found)).to_pylist()
        if len(found) > limit:
            break
    return found


def bar_place(row: Row) -> tuple[Any, ...]:
    """Return the place of a bar in the order of `bars_after`."""
    return tuple(row[name] for name in _BAR_ORDER)


BAR_PLACE_TYPES: Final = (int, *(str for _ in _BAR_ORDER[1:]))
"""What a bar's place is made of."""


def newest_before(backend: Backend, table: str, wanted: Wanted, seq: int | None, limit: int) -> list[Row]:
    """Return rows of a table of events by descending ``seq``, one more than `limit` at most.

    All rows of `wanted` are looked at and few are held.

    Args:
        backend: Where from.
        table: Which table.
        wanted: Which of its rows.
        seq: Only those below it; None for the newest.
        limit: How many a page has.
    """
    kept: pa.Table | None = None
    for batch in backend.stream(table, wanted, batch_rows=_BATCH_ROWS):
        fresh = pa.Table.from_batches([batch])
        if seq is not None:
            fresh = fresh.filter(pc.less(fresh.column("seq"), seq))
        kept = fresh if kept is None else pa.concat_tables([kept, fresh])
        if kept.num_rows > limit + 1:
            kept = kept.take(pc.select_k_unstable(kept, limit + 1, [("seq", "descending")]))
    if kept is None:
        return []
    rows: list[Row] = kept.sort_by([("seq", "descending")]).to_pylist()
    return rows[: limit + 1]


def after(rows: Sequence[Row], names: Sequence[str], place: tuple[Any, ...] | None, limit: int) -> list[Row]:
    """Return those of sorted `rows` whose `names` lie behind `place`, one more than `limit` at most."""
    if place is None:
        return list(rows[: limit + 1])
    behind = (row for row in rows if tuple(row[name] for name in names) > place)
    return [row for row, _ in zip(behind, range(limit + 1), strict=False)]


def instruments(tables: Iterable[tuple[str, pa.Table]]) -> list[Row]:
    """Return what `Backend.coverage` says of several tables as one row per instrument, by vendor and symbol.

    Each has ``vendor``, ``symbol`` and, by table, ``rows``, ``first_ts`` and ``last_ts``.
    """
    found: dict[tuple[str, str], Row] = {}
    for name, table in tables:
        grouped = table.group_by(["vendor", "symbol"]).aggregate(
            [("rows", "sum"), ("first_ts", "min"), ("last_ts", "max")]
        )
        for row in grouped.to_pylist():
            key = (row["vendor"] or "", row["symbol"] or "")
            entry = found.setdefault(key, {"vendor": key[0], "symbol": key[1], "tables": {}})
            entry["tables"][name] = {
                "rows": row["rows_sum"],
                "first_ts": row["first_ts_min"],
                "last_ts": row["last_ts_max"],
            }
    return [found[key] for key in sorted(found)]


def _batches(backend: Backend, table: str, wanted: Wanted) -> Iterator[pa.RecordBatch]:
    # Each of one date, though the store may begin the next date within a batch.
    for batch in backend.stream(table, wanted, batch_rows=_BATCH_ROWS):
        days = np.floor_divide(batch.column("ts_event").to_numpy(), _DAY_NS)
        edges = [0, *(np.flatnonzero(np.diff(days)) + 1).tolist(), batch.num_rows]
        for start, end in pairwise(edges):
            if end > start:
                yield batch.slice(start, end - start)


def _date(batch: pa.RecordBatch) -> int:
    return int(batch.column("ts_event")[0].as_py()) // _DAY_NS


def _behind(day: pa.Table, place: tuple[Any, ...]) -> int:
    # How many rows of the sorted day lie at or before the place.
    low, high = 0, int(day.num_rows)
    while low < high:
        middle = (low + high) // 2
        row = tuple(day.column(name)[middle].as_py() for name in _BAR_ORDER)
        low, high = (middle + 1, high) if row <= place else (low, middle)
    return low
