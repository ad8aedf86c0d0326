"""Adding versions to a keyed table: compared with what is there, and committed only if that still is all."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Sequence
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
from deltalake import DeltaTable
from deltalake.exceptions import DeltaError

from market_data_core.errors import ConfigurationError, MarketDataError, TemporaryUnavailable
from market_data_core.steps import Step, reached
from market_data_store.backend import END_OF_TIME_NS, Upserted
from market_data_store.lake import commits, parts, versions
from market_data_store.lake.declarations import TableSpec
from market_data_store.lake.folder import TableFolder
from market_data_store.lake.paths import reason, translated
from market_data_store.lake.reads import (
    VERSION_ORDER,
    FilesVanished,
    Selection,
    all_of,
    one_of,
    prune,
    scan_batches,
    scan_files,
)
from market_data_store.lake.writing import discard, write_files

# A commit that meets another is done again. With eight processes at it all the time one needs some ten turns.
_ATTEMPTS: Final = 60
_FIRST_PAUSE_S: Final = 0.005
_LONGEST_PAUSE_S: Final = 0.25
_PREFIX: Final = "part-upsert"
_ROWS: Final = 65_536


class Upserter:
    """Adds versions to one keyed table. One object per table and lake; safe to use from several threads.

    Args:
        folder: The table.
    """

    def __init__(self, folder: TableFolder) -> None:
        self._folder = folder
        # Threads of one process would only get in each other's way.
        self._lock = threading.Lock()

    def upsert(self, rows: pa.Table, *, now_ns: int) -> Upserted:
        """Add versions; see `market_data_store.backend.Backend.upsert`.

        Other processes may do so at the same time, and append too: a commit stands only on the version of the table
        that the rows were compared with.

        Raises:
            ConfigurationError: The table's rows have no key.
            SchemaValidationError: A row cannot be stored; nothing is.
            TemporaryUnavailable: The storage did not take it, or others commit without a break; nothing, or the whole
                commit, is there. The same call again does no harm.
        """
        spec = self._folder.spec
        if not spec.key:
            raise ConfigurationError(f"rows of table {spec.name} are events without a key; append them")
        spec.check_columns(rows)
        spec.check_values(rows, not_null=tuple(dict.fromkeys((*spec.key, "ts_event"))))
        if rows.num_rows == 0:
            return Upserted()
        self._folder.make()
        with self._lock:
            return _Turn(self._folder, rows, now_ns).run()


class _Turn:
    # One call: the same rows until they are in.

    def __init__(self, folder: TableFolder, rows: pa.Table, now_ns: int) -> None:
        self._folder = folder
        self._rows = rows
        self._now_ns = now_ns
        self._selection = _kept_of(folder.spec, rows)
        self._files: list[parts.DataFile] = []
        self._written: pa.Table | None = None

    def run(self) -> Upserted:
        for attempt in range(_ATTEMPTS):
            if attempt:
                longest_s = min(_LONGEST_PAUSE_S, _FIRST_PAUSE_S * 2**attempt)
                time.sleep(random.uniform(0, longest_s))  # noqa: S311  so that two do not meet again
            try:
                done = self._try()
            except FilesVanished:
                continue
            except MarketDataError:
                # Not after whatever else may come: a signal can arrive when the commit is just made.
                self._discard()
                raise
            if done is not None:
                return done
        self._discard()
        raise TemporaryUnavailable(
            f"upsert into table {self._folder.spec.name}: others committed in between {_ATTEMPTS} times"
        )

    def _try(self) -> Upserted | None:
        # None if somebody else committed in between.
        name = self._folder.spec.name
        with translated(f"opening table {name}"):
            delta = self._folder.open()
            files = pa.table(delta.get_add_actions(flatten=True))
        plan = versions.plan(self._stored(files), self._rows, self._folder.spec.key, now_ns=self._now_ns)
        version = delta.version()
        if plan.added.num_rows:
            self._write(plan.added, version)
            if not self._commit(delta):
                return None
            self._files = []  # the commit's now
            version += 1
            reached(Step.TABLE_COMMITTED)
        else:
            self._discard()
        # What is already there may be somebody's commit that has not come to its sync yet.
        with translated(f"making a commit to table {name} durable"):
            self._folder.log.make_durable(version)
        reached(Step.TABLE_SYNCED)
        return plan.upserted

    def _stored(self, files: pa.Table) -> pa.Table:
        spec = self._folder.spec
        where = self._selection.expression()
        files = prune(spec, files, self._selection)
        if "ts_event" not in spec.key:
            # Any file can have the key. Where few do, only those are read in full.
            having = [
                f for f in _each(files) if _any(scan_batches(self._folder, f, where, spec.key, batch_rows=65_536))
            ]
            files = pa.concat_tables([files.slice(0, 0), *having])
        columns = [*spec.key, *VERSION_ORDER, "ts_recv", *versions.values_of(spec.rows_schema, spec.key)]
        return scan_files(self._folder, files, where, columns)

    def _write(self, added: pa.Table, version: int) -> None:
        if self._written is not None and self._files and added.equals(self._written):
            return  # what others committed changed nothing here
        self._discard()
        self._files = write_files(self._folder, added, prefix=f"{_PREFIX}-{version}")
        self._written = added

    def _commit(self, delta: DeltaTable) -> bool:
        token = commits.new_token()
        modified_ms = time.time_ns() // 1_000_000
        actions = [f.add_action(modified_ms=modified_ms, data_change=True) for f in self._files]
        try:
            # The machine may have slept since the files were written, longer than the vacuum spares them.
            for file in self._files:
                file.path.stat()
            commits.commit(delta, actions, token=token, transactions={}, next_version_only=True)
        except (OSError, DeltaError) as exc:
            log = self._folder.log
            outcome, _ = commits.examine(log, after=delta.version(), token=token, writer="")
            if outcome is commits.Outcome.PRESENT:
                return True
            with translated(f"looking at the log of table {self._folder.spec.name}"):
                newest = max(log.versions(), default=-1)
            if outcome is commits.Outcome.ABSENT and newest > delta.version():
                return False
            if outcome is commits.Outcome.UNKNOWN:
                self._files = []  # the commit may name them
            raise TemporaryUnavailable(
                f"commit to table {self._folder.spec.name} failed ({outcome.name.lower()} in its log): {reason(exc)}"
            ) from exc
        return True

    def _discard(self) -> None:
        discard(self._folder, self._files)
        self._files, self._written = [], None


def _kept_of(spec: TableSpec, rows: pa.Table) -> Selection:
    # Every stored version of the rows' keys, and not much more.
    texts: dict[str, list[Any]] = {}
    terms: list[ds.Expression] = []
    for name in spec.key:
        column = rows.column(name)
        if pa.types.is_string(column.type):
            texts[name] = pc.unique(column).to_pylist()
        elif name == "ts_event":
            terms.append(pc.field(name).isin(pc.unique(column)))
        else:
            # By range alone: of a set Arrow takes 0.0 and -0.0 for two members.
            low, high = pc.min_max(column).as_py().values()
            terms += [pc.field(name) >= low, pc.field(name) <= high]
    terms += [one_of(name, values) for name, values in texts.items() if name not in {"vendor", "symbol"}]
    vendors = texts["vendor"]
    if len(vendors) > 1:
        terms.append(one_of("vendor", vendors))
    selection: dict[str, Any] = {}
    if "ts_event" in spec.key:
        first_ns, last_ns = pc.min_max(rows.column("ts_event")).as_py().values()
        selection |= {"start_ns": first_ns, "end_ns": min(last_ns + 1, END_OF_TIME_NS)}
    return Selection(
        symbols=tuple(texts.get("symbol", ())),
        vendor=vendors[0] if len(vendors) == 1 else None,
        where=all_of(terms),
        **selection,
    )


def _each(files: pa.Table) -> Sequence[pa.Table]:
    return [files.slice(at, 1) for at in range(files.num_rows)]


def _any(batches: Any) -> bool:
    found = next(batches, None) is not None
    batches.close()
    return found
