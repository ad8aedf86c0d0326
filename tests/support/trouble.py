"""A store in trouble: a real one behind a layer that refuses rows, fails, loses answers and crashes as it is told."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import pyarrow as pa

from market_data_core import disk
from market_data_core.errors import SchemaValidationError, TemporaryUnavailable, WriterConflict
from market_data_core.schemas import STORED_SCHEMAS

NOON_NS = 1_704_110_400 * 10**9  # 2024-01-01 12:00


class Crash(BaseException):
    """The process is gone at this moment."""


def trades(first: int, count: int, **columns) -> pa.Table:
    """Trades of one symbol whose seq and price say which they are, from `first` on."""
    seqs = list(range(first, first + count))
    given = {
        "vendor": ["v"] * count,
        "symbol": ["A"] * count,
        "ts_event": [NOON_NS + s for s in seqs],
        "ts_recv": [NOON_NS + s for s in seqs],
        "seq": seqs,
        "flags": [0] * count,
        "origin": ["live"] * count,
        "price": [float(s) for s in seqs],
    } | columns
    schema = STORED_SCHEMAS["trades"]
    return pa.table(
        {f.name: pa.array(given[f.name], f.type) if f.name in given else pa.nulls(count, f.type) for f in schema},
        schema=schema,
    )


class Memory:
    """A store of nothing but rows and positions, for tests that need thousands of commits.

    Args:
        takes_codes: Whether its tables take dictionaries in place of text; they keep text all the same.
    """

    def __init__(self, *, takes_codes=False):
        self.takes_codes = takes_codes
        self.rows = {}
        self.positions = {}
        self.marks = {}
        self.commits = {}

    def table(self, name):
        return _MemoryTable(self, name)

    def written(self):
        return frozenset(name for name, _ in self.positions)

    def read(self, name, *, columns):
        return pa.concat_tables(self.rows.get(name, [STORED_SCHEMAS[name].empty_table()])).select(columns)


class _MemoryTable:
    def __init__(self, store, name):
        self._store = store
        self.name = name
        self.takes_codes = store.takes_codes
        self._seen = dict(store.commits)

    def position(self, writer):
        return self._store.positions.get((self.name, writer))

    def covers(self, writer):
        return dict(self._store.marks.get((self.name, writer), {}))

    def append(self, rows, *, writer, position, covers):
        store, who = self._store, (self.name, writer)
        if store.commits.get(who) != self._seen.get(who) or position < store.positions.get(who, 0):
            raise WriterConflict("somebody else was here")
        assert self.takes_codes or rows.schema.equals(STORED_SCHEMAS[self.name])
        store.rows.setdefault(self.name, []).append(rows.cast(STORED_SCHEMAS[self.name]))
        store.positions[who] = position
        store.marks.setdefault(who, {}).update(covers)
        self._seen[who] = store.commits[who] = store.commits.get(who, 0) + 1


@dataclass
class Trouble:
    """A store whose tables do as they are told.

    Attributes:
        store: What keeps the rows.
        bad: The seqs of rows that are refused,
        column: or, by another column that numbers them,
        names: and whether the error says which row it was.
        faults: What becomes of each append in turn, then nothing: ``before`` it the storage is away, ``after`` it the
            answer is lost, ``crash before`` and ``crash after`` end the process.
        away: Whether the storage is away altogether.
        gate: Appends wait for it.
        entered: How many appends were begun,
        asked: and how many got as far as the store.
        appended: The seqs of the rows of each append that was made.
    """

    store: object
    bad: set[int] = field(default_factory=set)
    column: str = "seq"
    names: bool = True
    faults: Iterable[str] = ()
    away: bool = False
    gate: threading.Event = field(default_factory=threading.Event)
    entered: int = 0
    asked: int = 0
    appended: list[list[int]] = field(default_factory=list)

    def __post_init__(self):
        self.faults = iter(self.faults)
        self.gate.set()

    @property
    def order(self) -> list[int]:
        """The seqs of all rows in the order they went in."""
        return [s for part in self.appended for s in part]

    def table(self, name):
        if self.away:
            raise TemporaryUnavailable("the storage is away")
        return _Table(self, self.store.table(name))

    def written(self):
        return self.store.written()

    def open(self):
        self.store.open()


class _Table:
    def __init__(self, trouble: Trouble, table) -> None:
        self._trouble = trouble
        self._table = table
        self.name, self.position, self.covers = table.name, table.position, table.covers
        self.takes_codes = getattr(table, "takes_codes", False)

    def append(self, rows, **how):
        trouble = self._trouble
        trouble.entered += 1
        trouble.gate.wait()
        trouble.asked += 1
        fault = next(trouble.faults, "")
        if trouble.away or fault == "before":
            raise TemporaryUnavailable("the storage is away")
        if fault == "crash before":
            raise Crash
        seqs = rows.column(trouble.column).to_pylist()
        if (at := next((n for n, s in enumerate(seqs) if s in trouble.bad), None)) is not None:
            raise SchemaValidationError("this row cannot be", details={"row": at} if trouble.names else {})
        self._table.append(rows, **how)
        trouble.appended.append(seqs)
        if fault == "after":
            raise TemporaryUnavailable("the answer is lost")
        if fault == "crash after":
            raise Crash


class CrashingDisk:
    """Ends the process at the syncs of these numbers, counted from 0, that are of files of dead letters."""

    def __init__(self, at: Iterable[int], of: Callable[[str], bool]) -> None:
        self._at = set(at)
        self._of = of
        self._count = 0

    def __enter__(self):
        disk.observe(self._synced)

    def __exit__(self, *exc):
        disk.observe(None)

    def _synced(self, kind, path):
        if self._of(str(path)):
            self._count += 1
            if self._count - 1 in self._at:
                raise Crash


def stored(store, table="trades", column="seq") -> list[int]:
    """The numbers of all stored rows, ascending, each as often as it is there."""
    return sorted(store.read(table, columns=[column]).column(column).to_pylist())


def dead(letters, column="seq") -> list[int]:
    """The numbers of all dead letters."""
    found = [letters.read(d.id).column(column).to_pylist() for d in letters.list_letters()]
    return sorted(s for part in found for s in part)


def priced(table: pa.Table) -> bool:
    """Whether every row still has the price it was made with."""
    return table.column("price").to_pylist() == [float(s) for s in table.column("seq").to_pylist()]


class Versions:
    """The least that keeps keyed rows: the newest values of each key, and how many versions there were."""

    def __init__(self):
        self.values: dict[tuple, list] = {}
        self.bad: set[float] = set()
        self.lost = 0

    def upsert(self, table, rows, *, now_ns):
        del table, now_ns
        found = rows.to_pylist()
        for at, row in enumerate(found):
            if row["eps"] in self.bad:
                raise SchemaValidationError("no such figure", details={"row": at})
        for row in found:
            kept = self.values.setdefault((row["vendor"], row["symbol"], row["ts_event"]), [])
            if not kept or kept[-1] != row["eps"]:
                kept.append(row["eps"])
        if self.lost:
            self.lost -= 1
            raise TemporaryUnavailable("the answer is lost")

    def table(self, name):
        raise AssertionError(f"{name} has keys")


def figures(values) -> pa.Table:
    """Fundamentals as (symbol, eps)."""
    rows = [{"vendor": "v", "symbol": s, "ts_event": NOON_NS, "eps": float(e)} for s, e in values]
    return pa.Table.from_pylist(rows, schema=STORED_SCHEMAS["fundamentals"])
