"""Reading a table: which files can hold what is asked for, and which of several versions of a row counts."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
from deltalake import DeltaTable
from deltalake.exceptions import DeltaError

from market_data_core.errors import TemporaryUnavailable
from market_data_core.schemas import BAR_KEY
from market_data_store.lake.declarations import date_of
from market_data_store.lake.folder import TableFolder
from market_data_store.lake.parts import sort_rank
from market_data_store.lake.paths import reason, translated

# A handle that lives long grows; one that follows a repaired log would be wrong.
_REOPEN_UPDATES: Final = 200
# Files may be vacuumed between the listing and the scan, and again on a slow second look.
_ATTEMPTS: Final = 3

START_OF_TIME_NS: Final = -(2**63)
END_OF_TIME_NS: Final = 2**63 - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """Which rows to read.

    Attributes:
        start_ns: Inclusive, by ``ts_event``, UTC nanoseconds.
        end_ns: Exclusive.
        symbol, vendor: None for all.
        where: A further condition on columns of the table.
    """

    start_ns: int = START_OF_TIME_NS
    end_ns: int = END_OF_TIME_NS
    symbol: str | None = None
    vendor: str | None = None
    where: ds.Expression | None = None

    def expression(self) -> ds.Expression | None:
        """Return the condition on rows; None for all."""
        terms: list[Any] = [] if self.where is None else [self.where]
        if self.start_ns > START_OF_TIME_NS:
            terms.append(pc.field("ts_event") >= self.start_ns)
        if self.end_ns < END_OF_TIME_NS:
            terms.append(pc.field("ts_event") < self.end_ns)
        for name, value in (("symbol", self.symbol), ("vendor", self.vendor)):
            if value is not None:
                terms.append(pc.field(name) == value)
        whole: Any = None
        for term in terms:
            whole = term if whole is None else whole & term
        return whole


class TableReader:
    """Reads the newest version of one table. Safe to use from several threads, and while others write.

    A table that is not there has no rows.
    """

    def __init__(self, folder: TableFolder) -> None:
        self._folder = folder
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
        with self._lock, translated(f"listing table {self._folder.spec.name}"):
            if fresh or self._delta is None or self._updates >= _REOPEN_UPDATES:
                if not self._folder.exists():
                    return _NO_FILES
                self._delta, self._files, self._updates = self._folder.open(), None, 0
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
        wanted = list(columns) if columns is not None else self._folder.spec.rows_schema.names
        schema = self._folder.spec.rows_schema
        for attempt in range(_ATTEMPTS):
            names = self._prune(self.files(fresh=attempt > 0), selection)
            if not names:
                break
            try:
                return _dataset([str(self._folder.path / n) for n in names], schema).to_table(
                    columns=wanted, filter=selection.expression()
                )
            except FileNotFoundError as exc:
                if attempt == _ATTEMPTS - 1:
                    raise TemporaryUnavailable(f"files of table {self._folder.spec.name} keep vanishing") from exc
            except (OSError, DeltaError, pa.ArrowException) as exc:
                raise TemporaryUnavailable(f"reading table {self._folder.spec.name}: {reason(exc)}") from exc
        return pa.schema([schema.field(n) for n in wanted]).empty_table()

    def _prune(self, files: pa.Table, selection: Selection) -> list[str]:
        if files.num_rows == 0 or selection.start_ns >= selection.end_ns:
            return []
        masks: list[Any] = []
        if self._folder.spec.dated_by == "ts_event":
            dates = files.column("partition.date")
            masks.append(pc.greater_equal(dates, date_of(selection.start_ns)))
            masks.append(pc.less_equal(dates, date_of(selection.end_ns - 1)))
        for column, low, high in (
            ("ts_event", selection.start_ns, selection.end_ns - 1),
            ("symbol", selection.symbol, selection.symbol),
            ("vendor", selection.vendor, selection.vendor),
        ):
            if low is None or f"min.{column}" not in files.schema.names:
                continue
            masks.append(pc.greater_equal(files.column(f"max.{column}"), low))
            masks.append(pc.less_equal(files.column(f"min.{column}"), high))
        keep = np.ones(files.num_rows, np.bool_)
        for mask in masks:
            # Without statistics (null) a file may hold anything.
            keep &= mask.to_numpy() != np.False_
        names: list[str] = files.column("path").filter(pa.array(keep)).to_pylist()
        return names


_NO_FILES: Final = pa.table({n: pa.array([], t) for n, t in (("path", pa.string()), ("size_bytes", pa.int64()))})


def _dataset(paths: list[str], schema: pa.Schema) -> ds.Dataset:
    # Pages of several columns lie side by side; one read each is cheaper than one per column.
    options = ds.ParquetFragmentScanOptions(pre_buffer=True)
    return ds.dataset(paths, schema=schema, format=ds.ParquetFileFormat(default_fragment_scan_options=options))


def newest(bars: pa.Table) -> pa.Table:
    """Return of every bar its newest version, ascending by ``ts_event`` and then by the rest of the key.

    The newest is the one of the highest revision, then the one known last, then the one of the highest ``seq``.

    Args:
        bars: Columns of the bars table, any order.
    """
    if bars.num_rows == 0:
        return bars
    key = [sort_rank(bars.column(n)) for n in ("ts_event", *(k for k in BAR_KEY if k != "ts_event"))]
    age = [bars.column(n).fill_null(0).to_numpy() for n in ("revision", "ts_known", "seq")]
    order = np.lexsort([*reversed(age), *reversed(key)])
    last = np.ones(len(order), np.bool_)
    last[:-1] = np.logical_or.reduce([k[order][1:] != k[order][:-1] for k in key])
    return bars.take(pa.array(order[last]))
