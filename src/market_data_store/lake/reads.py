"""Reading a table: which files can hold what is asked for, and which of several versions of a row counts."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
from deltalake import DeltaTable
from deltalake.exceptions import DeltaError

from market_data_core.errors import TemporaryUnavailable
from market_data_store.backend import END_OF_TIME_NS, START_OF_TIME_NS
from market_data_store.lake.declarations import TableSpec, date_of
from market_data_store.lake.folder import TableFolder
from market_data_store.lake.parts import sort_rank
from market_data_store.lake.paths import reason, translated
from market_data_store.places import opened_all

# A handle that lives long grows; one that follows a repaired log would be wrong.
_REOPEN_UPDATES: Final = 200
# Files may be vacuumed between the listing and the scan, and again on a slow second look.
_ATTEMPTS: Final = 3
# Each symbol asked for is looked up in the range of every file; of more, only the range of them all.
_SYMBOLS_APART: Final = 32

VERSION_ORDER: Final = ("revision", "ts_known", "seq")
"""Of two versions of a row, the one that is higher by these is the newer; null counts as 0."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """Which rows to read.

    Attributes:
        start_ns: Inclusive, by ``ts_event``, UTC nanoseconds.
        end_ns: Exclusive; `END_OF_TIME_NS` is no bound.
        symbols: Empty for all.
        vendor: None for all.
        where: A further condition on columns of the table.
    """

    start_ns: int = START_OF_TIME_NS
    end_ns: int = END_OF_TIME_NS
    symbols: tuple[str, ...] = ()
    vendor: str | None = None
    where: ds.Expression | None = None

    @property
    def last_ns(self) -> int:
        """The last ``ts_event`` that is wanted."""
        return self.end_ns if self.end_ns == END_OF_TIME_NS else self.end_ns - 1

    def expression(self) -> ds.Expression | None:
        """Return the condition on rows; None for all."""
        terms: list[Any] = [] if self.where is None else [self.where]
        if self.start_ns > START_OF_TIME_NS:
            terms.append(pc.field("ts_event") >= self.start_ns)
        if self.end_ns < END_OF_TIME_NS:
            terms.append(pc.field("ts_event") < self.end_ns)
        if self.symbols:
            terms.append(one_of("symbol", self.symbols))
        if self.vendor is not None:
            terms.append(pc.field("vendor") == self.vendor)
        return all_of(terms)


def all_of(terms: Sequence[Any]) -> ds.Expression | None:
    """Return the condition that all of `terms` hold; None if there are none."""
    whole: Any = None
    for term in terms:
        whole = term if whole is None else whole & term
    return whole


def one_of(column: str, values: Sequence[Any]) -> Any:
    """Return the condition that a column has one of `values`, of which there is at least one."""
    field: Any = pc.field(column)
    if len(values) == 1:
        return field == values[0]
    # Arrow leaves out row groups by a range, not by a set.
    return (field >= min(values)) & (field <= max(values)) & field.isin(list(values))


class TableReader:
    """Reads the newest version of one table. Safe to use from several threads, and while others write.

    A table that is not there has no rows.
    """

    def __init__(self, folder: TableFolder) -> None:
        self.folder = folder
        self._lock = threading.Lock()
        self._delta: DeltaTable | None = None
        self._files: pa.Table | None = None
        self._updates = 0

    def files(self, *, fresh: bool = False) -> pa.Table:
        """Return the data files of the newest version, a row each, as delta-rs describes them.

        Args:
            fresh: Look at the folder anew instead of following what was seen before.

        Raises:
            TemporaryUnavailable: The storage is away.
        """
        with self._lock, translated(f"listing table {self.folder.spec.name}"):
            if fresh or self._delta is None or self._updates >= _REOPEN_UPDATES:
                if not self.folder.exists():
                    return _NO_FILES
                self._delta, self._files, self._updates = self.folder.open(), None, 0
            else:
                before = self._delta.version()
                self._delta.update_incremental()
                self._updates += 1
                if self._delta.version() != before:
                    self._files = None
            if self._files is None:
                self._files = pa.table(self._delta.get_add_actions(flatten=True))
            return self._files

    def scan(self, selection: Selection, columns: Sequence[str] | None = None) -> pa.Table:
        """Return the selected rows in no promised order.

        Args:
            selection: Which rows.
            columns: Which columns, all if None.

        Raises:
            TemporaryUnavailable: The storage is away.
        """
        for attempt in range(_ATTEMPTS):
            files = prune(self.folder.spec, self.files(fresh=attempt > 0), selection)
            try:
                return scan_files(self.folder, files, selection.expression(), columns)
            except FilesVanished:
                if attempt == _ATTEMPTS - 1:
                    raise
        raise AssertionError


class FilesVanished(TemporaryUnavailable):
    """Files of the version being read were vacuumed meanwhile; a newer version has their rows elsewhere."""

    def __init__(self, table: str) -> None:
        super().__init__(f"files of table {table} keep vanishing", "TemporaryUnavailable")


def scan_files(
    folder: TableFolder, files: pa.Table, where: ds.Expression | None, columns: Sequence[str] | None = None
) -> pa.Table:
    """Return rows of some data files in no promised order.

    Args:
        folder: The table.
        files: Which files, as `TableReader.files` describes them.
        where: Which rows; None for all.
        columns: Which columns, all if None.

    Raises:
        FilesVanished: One of them is not there any more.
        TemporaryUnavailable: The storage is away.
    """
    schema = folder.spec.rows_schema
    wanted = list(columns) if columns is not None else schema.names
    if files.num_rows == 0:
        return pa.schema([schema.field(n) for n in wanted]).empty_table()
    with _reading(folder):
        # Pages of several columns lie side by side; one read each is cheaper than one per column.
        return _dataset(folder, files, pre_buffer=True).to_table(columns=wanted, filter=where)


def scan_batches(
    folder: TableFolder, files: pa.Table, where: ds.Expression | None, columns: Sequence[str], *, batch_rows: int
) -> Iterator[pa.RecordBatch]:
    """Give rows of some data files a few at a time, file by file, in memory that does not grow with their number.

    As `scan_files`. None of the batches is empty.
    """
    if files.num_rows == 0:
        return
    with _reading(folder):
        # On its threads Arrow reads on, up to a gigabyte, while a slow reader is at what came first.
        batches = _dataset(folder, files, pre_buffer=False).to_batches(
            columns=list(columns),
            filter=where,
            batch_size=batch_rows,
            batch_readahead=2,
            fragment_readahead=1,
            use_threads=False,
        )
        yield from (b for b in batches if b.num_rows)


@contextmanager
def _reading(folder: TableFolder) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError as exc:
        raise FilesVanished(folder.spec.name) from exc
    except (OSError, DeltaError, pa.ArrowException) as exc:
        raise TemporaryUnavailable(f"reading table {folder.spec.name}: {reason(exc)}") from exc


def prune(spec: TableSpec, files: pa.Table, selection: Selection) -> pa.Table:
    """Return those of a table's files that can have selected rows."""
    if files.num_rows == 0 or selection.start_ns > selection.last_ns:
        return files.slice(0, 0)
    masks: list[Any] = []
    if spec.dated_by == "ts_event":
        dates = files.column("partition.date")
        masks.append(pc.greater_equal(dates, date_of(selection.start_ns)))
        masks.append(pc.less_equal(dates, date_of(selection.last_ns)))
    masks.append(_overlap(files, "ts_event", selection.start_ns, selection.last_ns))
    if selection.vendor is not None:
        masks.append(_overlap(files, "vendor", selection.vendor, selection.vendor))
    if selection.symbols:
        symbols = selection.symbols
        ranges = [(s, s) for s in symbols] if len(symbols) <= _SYMBOLS_APART else [(min(symbols), max(symbols))]
        masks.append(np.logical_or.reduce([_overlap(files, "symbol", low, high) for low, high in ranges]))
    keep = np.ones(files.num_rows, np.bool_)
    for mask in masks:
        keep &= mask if isinstance(mask, np.ndarray) else mask.to_numpy() != np.False_
    return files.filter(pa.array(keep))


def _overlap(files: pa.Table, column: str, low: Any, high: Any) -> npt.NDArray[np.bool_]:
    # Without statistics (null) a file may hold anything.
    if f"min.{column}" not in files.schema.names:
        return np.ones(files.num_rows, np.bool_)
    reaches = pc.and_(
        pc.greater_equal(files.column(f"max.{column}"), low), pc.less_equal(files.column(f"min.{column}"), high)
    )
    found: npt.NDArray[np.bool_] = pc.fill_null(reaches, fill_value=True).to_numpy()
    return found


_NO_FILES: Final = pa.table(
    {
        n: pa.array([], t)
        for n, t in (
            ("path", pa.string()),
            ("partition.date", pa.string()),
            ("size_bytes", pa.int64()),
            ("num_records", pa.int64()),
        )
    }
)


def _dataset(folder: TableFolder, files: pa.Table, *, pre_buffer: bool) -> ds.Dataset:
    options = ds.ParquetFragmentScanOptions(pre_buffer=pre_buffer)
    paths, filesystem = opened_all(folder.path, files.column("path").to_pylist())
    return ds.dataset(
        paths,
        schema=folder.spec.rows_schema,
        format=ds.ParquetFileFormat(default_fragment_scan_options=options),
        filesystem=filesystem,
    )


def order_by(rows: pa.Table, columns: Sequence[str]) -> npt.NDArray[np.int64]:
    """Return in what order rows ascend by some columns; nulls first, equal ones as they stand."""
    return np.lexsort([sort_rank(rows.column(name)) for name in reversed(columns)])


def newest(rows: pa.Table, key: Sequence[str]) -> pa.Table:
    """Return of every key its newest version, ascending by the key.

    Args:
        rows: With the columns of the key and `VERSION_ORDER`, any order.
        key: What makes two rows versions of the same thing.
    """
    if rows.num_rows == 0:
        return rows
    ranks = [sort_rank(rows.column(n)) for n in key]
    age = [rows.column(n).fill_null(0).to_numpy() for n in VERSION_ORDER]
    order = np.lexsort([*reversed(age), *reversed(ranks)])
    last = np.roll(_first([r[order] for r in ranks]), -1)
    return rows.take(pa.array(order[last]))


def first_of_key(ordered: pa.Table, key: Sequence[str]) -> npt.NDArray[np.bool_]:
    """Return of rows in the order of their key which ones have another key than the row before."""
    return _first([sort_rank(ordered.column(n)) for n in key])


def _first(ranks: Sequence[npt.NDArray[np.generic]]) -> npt.NDArray[np.bool_]:
    first = np.ones(len(ranks[0]), np.bool_)
    first[1:] = np.logical_or.reduce([r[1:] != r[:-1] for r in ranks])
    return first
