"""One table of the lake as a writer sees it."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Final

import pyarrow as pa
from deltalake.exceptions import DeltaError
from deltalake.transaction import AddAction

from market_data_core.errors import ConfigurationError, MarketDataError, TemporaryUnavailable, WriterConflict
from market_data_core.steps import Step, reached
from market_data_store.lake import commits, parts
from market_data_store.lake.declarations import TableSpec
from market_data_store.lake.folder import TableFolder
from market_data_store.lake.paths import reason, translated
from market_data_store.lake.writing import discard, write_files

# A handle that lives long grows (80 MB in 550 commits), and one older than the log's retention can no longer see
# whether somebody committed in between.
_REOPEN_COMMITS: Final = 200
_REOPEN_AGE_S: Final = 300.0
_COVER: Final = "|"


class LakeTable:
    """A view of one table at one version, through which its writers commit.

    It advances with its own commits alone, which is how a commit that somebody else made as the same writer is
    noticed; of other writers it shows what they had committed when it was opened. Used by one thread at a time. After
    an error from `append` take a fresh view from the lake.
    """

    takes_codes: Final = True
    """Whether `append` also takes dictionaries in place of text."""

    def __init__(self, folder: TableFolder, spec: TableSpec) -> None:
        self._folder = folder
        self._spec = spec
        self._dead = False
        self._open()

    @property
    def name(self) -> str:
        """The table's name, such as ``trades``."""
        return self._spec.name

    @property
    def version(self) -> int:
        """The table version this view stands at."""
        return self._delta.version()

    def position(self, writer: str) -> int | None:
        """Return the exclusive end position of `writer`'s last commit, or None if it never made one."""
        return self._transactions.get(writer)

    def covers(self, writer: str) -> dict[str, int]:
        """Return, by source id, the exclusive end of what `writer` had seen at its last commit."""
        prefix = writer + _COVER
        return {a.removeprefix(prefix): end for a, end in self._transactions.items() if a.startswith(prefix)}

    def append(self, rows: pa.Table, *, writer: str, position: int, covers: Mapping[str, int]) -> None:
        """Add rows and the writer's position in one atomic, durable commit.

        Args:
            rows: In the table's declared columns, any order; may be empty, to move the position alone. Text may be
                dictionaries with int32 indices, without repetition.
            writer: Who commits; one writer has one position. Not empty, free of ``|``.
            position: Exclusive end position in the log; not below the last one.
            covers: By source id, the exclusive end of what the writer has seen; only those that moved.

        Raises:
            WriterConflict: Somebody else committed as this writer, or the position lies below the last one.
            TemporaryUnavailable: The storage did not take it; nothing, or the whole commit, is there.
            SchemaValidationError: The rows are not in the table's columns, or lack a time or seq.
            ConfigurationError: The writer's name is empty or has a ``|`` in it.
        """
        if not writer or _COVER in writer:
            raise ConfigurationError(f"writer {writer!r} of table {self.name} is empty or has a {_COVER!r} in it")
        if self._dead:
            raise TemporaryUnavailable(f"this view of table {self.name} failed before; take a fresh one")
        self._spec.check(rows)
        self._renew(writer)
        last = self.position(writer)
        if last is not None and position < last:
            raise WriterConflict(f"{writer} would move back from {last} to {position} in table {self.name}")
        files = write_files(self._folder, rows, prefix=parts.file_prefix(writer, position))
        transactions = {writer: position} | {writer + _COVER + s: end for s, end in covers.items()}
        self._commit(files, writer, transactions)
        reached(Step.TABLE_COMMITTED)
        self._settle(writer, position)
        self._transactions |= transactions
        reached(Step.TABLE_SYNCED)

    def _open(self) -> None:
        with translated(f"opening table {self.name}"):
            self._delta = self._folder.open()
            # A commit whose maker died before its sync is visible; what we report must survive a power cut.
            self._folder.log.make_durable(self._delta.version())
        # Read now, while the log still has them: an idle view may outlive its version's place in it.
        self._transactions = self._folder.log.transactions(self._delta.version())
        self._commits = 0
        self._opened_s = time.monotonic()

    def _renew(self, writer: str) -> None:
        # What stood still before we opened it may be cleaned from the log as soon as others commit.
        with translated(f"looking at the log of table {self.name}"):
            in_log = self._folder.log.commit_path(self.version).exists()
        if in_log and self._commits < _REOPEN_COMMITS and time.monotonic() - self._opened_s < _REOPEN_AGE_S:
            return
        before = self.position(writer)
        self._open()
        self._check_position(writer, before)

    def _check_position(self, writer: str, expected: int | None) -> None:
        with translated(f"reading the position of {writer} in table {self.name}"):
            found = self._delta.transaction_version(writer)
        if found != expected:
            self._dead = True
            raise WriterConflict(f"somebody else moved {writer} to {found} in table {self.name}; it was at {expected}")

    def _commit(self, files: Sequence[parts.DataFile], writer: str, transactions: Mapping[str, int]) -> None:
        token = commits.new_token()
        modified_ms = time.time_ns() // 1_000_000
        actions = [f.add_action(modified_ms=modified_ms, data_change=True) for f in files]
        while not self._committed(actions, files, writer, token, transactions):
            # Others committed so much since the view was renewed that upkeep cleaned away where it stood.
            try:
                self._renew(writer)
            except MarketDataError:
                discard(self._folder, files)
                raise

    def _committed(
        self,
        actions: Sequence[AddAction],
        files: Sequence[parts.DataFile],
        writer: str,
        token: str,
        transactions: Mapping[str, int],
    ) -> bool:
        # False if the log no longer shows what the commit would have to be compared with; nothing was written then.
        log = self._folder.log
        try:
            # The machine may have slept since the files were written, longer than the vacuum spares them.
            for file in files:
                file.path.stat()
            commits.commit(self._delta, actions, token=token, transactions=transactions)
        except (OSError, DeltaError) as exc:
            outcome, conflict = commits.examine(log, after=self.version, token=token, writer=writer)
            if outcome is commits.Outcome.ABSENT and not conflict and isinstance(exc, DeltaError):
                with translated(f"looking at the log of table {self.name}"):
                    if not log.commit_path(self.version).exists():
                        return False
            self._dead = True
            if outcome is commits.Outcome.ABSENT:
                discard(self._folder, files)
            if conflict:
                raise WriterConflict(f"somebody else committed to table {self.name} as {writer}") from exc
            raise TemporaryUnavailable(
                f"commit to table {self.name} failed ({outcome.name.lower()} in its log): {reason(exc)}"
            ) from exc
        return True

    def _settle(self, writer: str, position: int) -> None:
        try:
            with translated(f"making a commit to table {self.name} durable"):
                self._delta.update_incremental()
                self._folder.log.make_durable(self._delta.version())
        except TemporaryUnavailable:
            self._dead = True
            raise
        self._commits += 1
        self._check_position(writer, position)
