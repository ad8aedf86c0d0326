"""The one writer of an audit log: opens it where it ended, appends durably, rotates, signs."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from market_data_core import disk
from market_data_core.clock import NS_PER_SECOND, Clock
from market_data_core.errors import LogLocked, TemporaryUnavailable, ValidationError
from market_data_orchestrator.audit.chain import (
    CHECKPOINT,
    CHECKPOINT_EVERY,
    DAMAGED,
    MAX_LINE_BYTES,
    OPENED,
    RECOVERED,
    Head,
    Record,
    canonical,
    list_files,
    parsed,
    rotated_name,
    sealed,
)
from market_data_orchestrator.audit.checkpoints import SigningKeys, ensure_keys
from market_data_orchestrator.audit.reading import read_page
from market_data_pipeline.locks import lock_file, unlock

LOG = logging.getLogger(__name__)

_OWNER_ONLY: Final = 0o600
_OPENING_NOTES: Final = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class _Tail:
    # How the newest file ends: its size, the number of its first record, its last record that holds, how many records
    # stand behind its last checkpoint, and whether its last line is no record at all.
    size_bytes: int = 0
    first_seq: int | None = None
    head: Head | None = None
    unsigned: int = 0
    damaged: bool = False


class ChainWriter:
    """Appends to the log at `path`; open until `close`, or until an error closed it.

    Not for several threads at once: its owner holds a lock.

    Args:
        path: The file written to; full ones are moved aside beside it.
        keys_path: The keys that sign checkpoints; made when there are none.
        known: The end of the chain as it is known from elsewhere. A file that ends before it has lost records: the
            chain goes on behind `known`, so that the loss stays to be seen.
        max_bytes: Size at which a file is full.
        clock: Says when.

    Raises:
        LogLocked: Another process writes this log.
        ConfigurationError: The keys are not as they should be.
        TemporaryUnavailable: The disk is full, read-only or away.
    """

    def __init__(self, path: Path, *, keys_path: Path, known: Head, max_bytes: int, clock: Clock) -> None:
        self._path, self._max_bytes, self._clock = path, max_bytes, clock
        self.head = known
        self.torn_bytes = 0
        """Size of the torn line that opening moved aside; 0 for none."""
        self._fd = self._lock = -1
        self._size = self._unsigned = 0
        self._first_seq: int | None = None
        with self._translated():
            try:
                self._keys: SigningKeys = ensure_keys(keys_path, clock=clock)
                self._open(known)
            except BaseException:
                self._release()
                raise

    def append(self, fields: Mapping[str, Any]) -> Record:
        """Append one record; durable on return.

        Raises:
            TemporaryUnavailable: It is not recorded; the writer is closed and a new one may succeed.
        """
        with self._translated():
            try:
                self._check_place()
                # What is due comes before the record: once the record is written, nothing can fail any more.
                if self._size >= self._max_bytes:
                    self._rotate()
                elif self._unsigned >= CHECKPOINT_EVERY:
                    self.checkpoint()
                return self._write(fields)
            except BaseException:
                self._release()
                raise

    def checkpoint(self) -> None:
        """Sign the chain up to here."""
        record = self._write(self._own(CHECKPOINT, "", self._keys.sign(self.head)))
        self._unsigned = 0
        # Whoever collects the service's log elsewhere has an anchor that this machine cannot change.
        LOG.info("audit checkpoint: record %d, hash %s", record["seq"], record["hash"])

    def close(self) -> None:
        """Sign what is not signed yet, and let go of the log.

        Raises:
            TemporaryUnavailable: It could not be signed; it is let go of all the same.
        """
        with self._translated():
            try:
                if self._fd >= 0 and self._unsigned:
                    self._check_place()
                    self.checkpoint()
            finally:
                self._release()

    def _open(self, known: Head) -> None:
        disk.make_dirs(self._path.parent)
        self._lock = lock_file(self._path.with_name(self._path.name + ".lock"))
        if self._lock < 0:
            raise LogLocked(f"another process writes {self._path}")
        self._recover()
        tail = _read_tail(self._path) if self._path.exists() else _Tail()
        full = [file for file in list_files(self._path) if file != self._path]
        # A crash while rotating leaves no file, or an empty one: then the chain ends in the one before.
        before = _read_tail(full[-1]) if full and tail.head is None else tail
        found = before.head or Head()
        self._open_file(tail)
        self._unsigned = before.unsigned
        self.head = known if known.seq > found.seq else found
        damage = self._damage(known, found, tail)
        # What opening notes must fit before the next checkpoint.
        if self._unsigned > CHECKPOINT_EVERY - _OPENING_NOTES:
            self.checkpoint()
        self._note(damage)

    def _open_file(self, tail: _Tail) -> None:
        fresh = not self._path.exists()
        self._fd = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, _OWNER_ONLY)
        if fresh:
            disk.sync_dir(self._path.parent)
        self._size, self._first_seq = tail.size_bytes, tail.first_seq

    # What was known is replaced by what is written next, so it is compared first.
    def _damage(self, known: Head, found: Head, tail: _Tail) -> str:
        if tail.damaged:
            return "the last line is no record"
        if known.seq > found.seq:
            return f"the files end with record {found.seq}; record {known.seq} was the last known"
        if known.seq >= 0:
            there = read_page(self._path, limit=1, before_seq=known.seq + 1).events
            if not there or (there[0]["seq"], there[0].get("hash")) != (known.seq, known.hash):
                return f"record {known.seq} is not the one that was noted outside of the log"
        return ""

    def _note(self, damage: str) -> None:
        if damage:
            LOG.error("audit log %s is damaged: %s", self._path, damage)
            self._write(self._own(DAMAGED, damage, {}, status="error"))
        if self.torn_bytes:
            said = f"a line of {self.torn_bytes} bytes was cut in mid-write; it was moved aside"
            LOG.warning("audit log %s: %s", self._path, said)
            self._write(self._own(RECOVERED, said, {"torn_bytes": self.torn_bytes}))
        self._write(self._own(OPENED, "", {"pid": os.getpid()}))

    # A crash in mid-write leaves a line without its newline. It was never acknowledged; its bytes are kept, untrusted.
    def _recover(self) -> None:
        if not self._path.exists():
            return
        content = self._path.read_bytes()
        whole = content.rfind(b"\n") + 1
        torn = content[whole:]
        if not torn:
            return
        number = 1
        while (aside := self._path.with_name(f"{self._path.name}.torn-{number}")).exists():
            number += 1
        disk.write_atomic(aside, torn, mode=_OWNER_ONLY)
        fd = os.open(self._path, os.O_WRONLY)
        try:
            os.ftruncate(fd, whole)
            disk.sync_fd(fd, self._path)
        finally:
            os.close(fd)
        self.torn_bytes = len(torn)

    # Full: the last record in it is a checkpoint, and the next file begins with its hash.
    def _rotate(self) -> None:
        self.checkpoint()
        first = self.head.seq if self._first_seq is None else self._first_seq
        target = rotated_name(self._path, first)
        if target.exists():
            raise TemporaryUnavailable(f"{target} is there already: move it away, {self._path} is to become it")
        self._path.rename(target)
        disk.sync_dir(target.parent)
        os.close(self._fd)
        self._fd = -1
        self._open_file(_Tail())

    def _write(self, fields: Mapping[str, Any]) -> Record:
        record = sealed(fields, self.head)
        line = canonical(record) + b"\n"
        if len(line) > MAX_LINE_BYTES:
            raise ValidationError(f"an audit record of {len(line)} bytes is too large")
        try:
            view = memoryview(line)
            while view:
                view = view[os.write(self._fd, view) :]
            disk.sync_fd(self._fd, self._path)
        except BaseException:
            # Taken back, so that nothing which was refused stands there as done; recovery does it where this fails.
            with contextlib.suppress(OSError):
                os.ftruncate(self._fd, self._size)
                disk.sync_fd(self._fd, self._path)
            raise
        self._size += len(line)
        self._unsigned += 1
        self._first_seq = record["seq"] if self._first_seq is None else self._first_seq
        self.head = Head(seq=record["seq"], hash=record["hash"])
        return record

    # Somebody may move, replace or change the file under us; then what we write would be lost or lie behind damage.
    def _check_place(self) -> None:
        if self._fd < 0:
            raise TemporaryUnavailable(f"{self._path} is not open")
        ours, there = os.fstat(self._fd), self._path.stat()
        if (ours.st_dev, ours.st_ino, self._size) != (there.st_dev, there.st_ino, there.st_size):
            raise TemporaryUnavailable(f"{self._path} was changed or replaced by somebody else")

    def _own(self, action: str, detail: str, data: Mapping[str, Any], *, status: str = "ok") -> dict[str, Any]:
        return {
            "ts": self._clock.now_ns() / NS_PER_SECOND,
            "actor": "audit",
            "role": "system",
            "action": action,
            "target": self._path.name,
            "decision": "allowed",
            "result": {"status": status, "detail": detail or None},
            "request_id": "",
            "address": "",
            "duration_s": None,
            "data": dict(data),
        }

    def _release(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
        if self._lock >= 0:
            unlock(self._lock)
        self._fd = self._lock = -1

    @contextlib.contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except OSError as exc:
            raise TemporaryUnavailable(f"audit log {self._path}: {exc.strerror}") from exc


def _read_tail(path: Path) -> _Tail:
    content = path.read_bytes()
    lines = content.split(b"\n")[:-1]
    first: int | None = None
    head: Head | None = None
    unsigned, damaged = 0, False
    for number, line in enumerate(reversed(lines)):
        try:
            record = parsed(line)
        except ValidationError:
            damaged = damaged or number == 0
            continue
        head = head or Head(seq=record["seq"], hash=record["hash"])
        if record.get("action") == CHECKPOINT:
            break
        unsigned += 1
    with contextlib.suppress(ValidationError):
        first = parsed(lines[0])["seq"] if lines else None
    if first is None and head is not None:
        first = head.seq
    return _Tail(size_bytes=len(content), first_seq=first, head=head, unsigned=unsigned, damaged=damaged)
