"""Tables from one store into another, known to be the same by their digests.

Keyed rows go over with every version they have; a store knows a version it has already. Events have no key, so what is
there is compared first: dates of equal digests are done, and of a date that differs those rows go over that the target
lacks, counted as often as they are there. Nothing about an earlier attempt has to be remembered.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from market_data_core.clock import Clock, SystemClock
from market_data_core.schemas import KEYS, STORED_SCHEMAS
from market_data_store.backend import END_OF_TIME_NS, START_OF_TIME_NS, Backend, Upserted, Wanted
from mds_client.transfer.digest import Bits, Digest, row_hashes
from mds_client.transfer.dumping import digest_of
from mds_client.transfer.tables import COMMIT_ROWS, every_row, schema_of, settled

CopyProgress = Callable[[str, int, int | None], None]
"""Told which table, how many of its rows are through, and how many there are, None where that is not known."""

WRITER: Final = "copy"
"""Who commits copied events; two copies into one table at once are refused."""

_DAY_NS: Final = 86_400_000_000_000
# Eight bytes of each row of the target are held while a date is compared.
_COMPARED_ROWS: Final = 4_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Copied:
    """What became of one table.

    Attributes:
        table: Which.
        rows: How many the source has, of a keyed table every version.
        digest: Of the source's rows; see `mds_client.transfer.digest`.
        target_rows: How many the target has now.
        target_digest: Of the target's rows.
        added: How many of them were added just now.
    """

    table: str
    rows: int
    digest: str
    target_rows: int
    target_digest: str
    added: int

    @property
    def same(self) -> bool:
        """Whether both sides hold the same rows now."""
        return (self.rows, self.digest) == (self.target_rows, self.target_digest)


def copy(
    source: Backend,
    target: Backend,
    tables: Sequence[str] | None = None,
    *,
    progress: CopyProgress | None = None,
    clock: Clock | None = None,
) -> list[Copied]:
    """Bring tables of one store into another, and compare both sides.

    May be repeated, after a crash too, and then takes over what is missing. Nobody should write to either side
    meanwhile: what comes in during the copy shows up as a difference. What the target has and the source lacks stays.
    Positions of the platform's own writers stay behind.

    Args:
        source: From where.
        target: To where; its schema is there.
        tables: Which; None for all that the source has rows of.
        progress: Told how far it is.
        clock: The time of the call.

    Returns:
        A table each, with the digests of both sides at the end.

    Raises:
        ConfigurationError: There is no such table.
        TemporaryUnavailable: A store is away; repeat.
        WriterConflict: Another copy into the same table is under way.
    """
    for table in tables or ():
        schema_of(table)
    tell = progress or (lambda _table, _done, _of: None)
    now_ns = (clock or SystemClock()).now_ns()
    chosen = tables or [t for t in STORED_SCHEMAS if next(settled(source, t, every_row(t)), None) is not None]
    return [_copy_table(source, target, t, tell, now_ns) for t in chosen]


def _copy_table(source: Backend, target: Backend, table: str, tell: CopyProgress, now_ns: int) -> Copied:
    if table in KEYS:
        added = _copy_keyed(source, target, table, tell, now_ns)
    else:
        added = _copy_events(source, target, table, tell)
    here, there = digest_of(source, table), digest_of(target, table)
    tell(table, here.rows, here.rows)
    return Copied(
        table=table,
        rows=here.rows,
        digest=here.digest,
        target_rows=there.rows,
        target_digest=there.digest,
        added=added,
    )


def _copy_keyed(source: Backend, target: Backend, table: str, tell: CopyProgress, now_ns: int) -> int:
    here = digest_of(source, table)
    if here == digest_of(target, table):
        return 0
    done, rows = Upserted(), 0
    for batch in _commits(settled(source, table, every_row(table))):
        done += target.upsert(table, batch, now_ns=now_ns)
        rows += batch.num_rows
        tell(table, rows, here.rows)
    return done.inserted + done.revised


def _copy_events(source: Backend, target: Backend, table: str, tell: CopyProgress) -> int:
    here, there = _by_day(source, table), _by_day(target, table)
    total = sum(d.rows for d in here.values())
    rows = added = 0
    view = None
    for day in sorted(here):
        if day not in there or here[day].hexdigest() != there[day].hexdigest():
            for wanted in _portions(source, table, day, here[day].rows + (there[day].rows if day in there else 0)):
                missing = _missing(source, target, table, wanted, compare=day in there)
                for batch in _commits(missing):
                    view = view or target.table(table)
                    position = (view.position(WRITER) or 0) + batch.num_rows
                    view.append(batch, writer=WRITER, position=position, covers={})
                    added += batch.num_rows
                    tell(table, rows + added, total)
        else:
            rows += here[day].rows
        tell(table, min(rows + added, total), total)
    return added


def _by_day(backend: Backend, table: str) -> dict[int, Digest]:
    found: dict[int, Digest] = {}
    for batch in settled(backend, table, Wanted()):
        hashes = row_hashes(batch)
        days = batch.column("ts_event").to_numpy() // _DAY_NS
        for day in np.unique(days).tolist():
            found.setdefault(day, Digest()).add_hashes(hashes[days == day])
    return found


def _portions(source: Backend, table: str, day: int, rows: int) -> Iterator[Wanted]:
    start_ns = max(day * _DAY_NS, START_OF_TIME_NS)
    end_ns = min((day + 1) * _DAY_NS, END_OF_TIME_NS)
    whole = Wanted(start_ns=start_ns, end_ns=end_ns)
    if rows <= _COMPARED_ROWS:
        yield whole
        return
    covered = source.coverage(table, whole).group_by("symbol").aggregate([("rows", "sum")])
    sizes = dict(zip(covered.column("symbol").to_pylist(), covered.column("rows_sum").to_pylist(), strict=True))
    if None in sizes:  # rows without a symbol cannot be asked for by one
        yield whole
        return
    held: list[str] = []
    size = 0
    for symbol in sorted(sizes):
        if held and size + sizes[symbol] > _COMPARED_ROWS // 2:
            yield Wanted(start_ns=start_ns, end_ns=end_ns, symbols=tuple(held))
            held, size = [], 0
        held.append(symbol)
        size += sizes[symbol]
    if held:
        yield Wanted(start_ns=start_ns, end_ns=end_ns, symbols=tuple(held))


def _missing(
    source: Backend, target: Backend, table: str, wanted: Wanted, *, compare: bool
) -> Iterator[pa.RecordBatch]:
    # Complete before the first row goes over: what is added must not be compared with itself.
    theirs = [row_hashes(b) for b in settled(target, table, wanted)] if compare else []
    known, left = np.unique(np.concatenate([*theirs, np.empty(0, np.uint64)]), return_counts=True)
    for batch in settled(source, table, wanted):
        new = ~_there(row_hashes(batch), known, left)
        if new.any():
            yield batch if new.all() else batch.filter(pa.array(new))


def _there(hashes: Bits, known: Bits, left: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    # Whether the target has a row, each of the target's rows standing for one of the source's; takes them off `left`.
    if len(known) == 0:
        return np.zeros(len(hashes), np.bool_)
    values, inverse, counts = np.unique(hashes, return_inverse=True, return_counts=True)
    place = np.minimum(np.searchsorted(known, values), len(known) - 1)
    available = np.where(known[place] == values, left[place], 0)
    order = np.argsort(inverse, kind="stable")
    rank = np.empty(len(hashes), np.int64)
    rank[order] = np.arange(len(hashes)) - np.repeat(np.cumsum(counts) - counts, counts)
    taken = np.minimum(available, counts)
    left[place[taken > 0]] -= taken[taken > 0]
    found: npt.NDArray[np.bool_] = rank < available[inverse]
    return found


def _commits(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.Table]:
    held: list[pa.RecordBatch] = []
    rows = 0
    for batch in batches:
        held.append(batch)
        rows += batch.num_rows
        if rows >= COMMIT_ROWS:
            yield pa.Table.from_batches(held)
            held, rows = [], 0
    if held:
        yield pa.Table.from_batches(held)
