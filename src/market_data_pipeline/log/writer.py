"""The one writer of a log: hands out sequence numbers at once, makes records durable in groups."""

from __future__ import annotations

import errno
import logging
import os
import shutil
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import pyarrow as pa

from market_data_core import disk
from market_data_core.batch import SourceBatch
from market_data_core.clock import Clock, SystemClock
from market_data_core.errors import LogError, LogFull, SchemaValidationError
from market_data_core.protocols import Mark
from market_data_core.schemas import Kind, Origin
from market_data_core.steps import Step, reached
from market_data_pipeline.log.folder import DurableEnd, lock, read_durable
from market_data_pipeline.log.frames import RecordType, encode, encode_meta
from market_data_pipeline.log.mapping import InstrumentMap
from market_data_pipeline.log.recovery import Recovered, recover
from market_data_pipeline.log.segments import instrument_meta, list_segments, segment_path
from market_data_pipeline.log.settings import LogSettings, WriterStatus

LOG = logging.getLogger(__name__)
MAX_BATCH_BYTES: Final = 1 << 31
MAX_PARTITION: Final = (1 << 16) - 1
_RESERVED: Final = frozenset({"a", "s", "o"})
_LOOK_S: Final = 0.1
_SMALL_BYTES: Final = 1 << 20


@dataclass(slots=True, kw_only=True)
class _Pending:
    type: RecordType
    kind: Kind = Kind.CONTROL
    origin: Origin = Origin.LIVE
    first_seq: int = 0
    count: int = 0
    barrier: bool = False
    partition: int = 0
    ts_append: int = 0
    meta: bytes = b""
    # What becomes known for certain once the record is durable.
    source: tuple[str, int] | None = None
    instruments: int = 0
    data: pa.RecordBatch | None = None
    size_bytes: int = 0

    def encoded(self, *, starts_group: bool) -> list[bytes | pa.Buffer]:
        return encode(
            self.type,
            first_seq=self.first_seq,
            count=self.count,
            ts_append=self.ts_append,
            meta=self.meta,
            payload=b"" if self.data is None else self.data.serialize(),
            kind=self.kind,
            origin=self.origin,
            barrier=self.barrier,
            starts_group=starts_group,
            partition=self.partition,
        )


class LogWriter:
    """Appends to the log of one folder.

    Args:
        folder: Where the segments are kept; made if it is not there.
        settings: How the log is kept.
        floor: No sequence number below this is handed out: the highest position any consumer has committed. A log
            that ends below it, or below what readers were told to be durable, was lost, cut or restored from an older
            copy, and goes on in a new epoch.
        needed_from: The lowest position any consumer still reads from.
        clock: For the time of appending.
        durable_hook: Called by the writer's thread with the new durable end after each group; should not raise.

    Raises:
        LogLocked: Another writer has this log.
        LogError: The folder cannot be used.
    """

    def __init__(
        self,
        folder: Path,
        settings: LogSettings | None = None,
        *,
        floor: int = 0,
        needed_from: int = 0,
        clock: Clock | None = None,
        durable_hook: Callable[[int], None] | None = None,
    ) -> None:
        self._folder = folder
        self._settings = settings or LogSettings()
        self._clock = clock or SystemClock()
        self._durable_hook = durable_hook
        self._condition = threading.Condition()
        self._queue: deque[_Pending] = deque()
        self._closing = False
        self._dead = False
        self._fd = -1
        self._segment: Path | None = None
        self._segment_first = self._segment_size = 0
        self._broken = False
        # Of each kind, how many rows were written last and how many bytes they took.
        self._written: dict[Kind, tuple[int, int]] = {}
        # What the disk had free, less what was written since, and when it was looked.
        self._free = 0
        self._looked_s = float("-inf")
        self.status = WriterStatus()
        try:
            disk.make_dirs(folder)
            self._lock_fd = lock(folder)
        except OSError as exc:
            raise LogError(f"log folder {folder} cannot be opened: {exc}") from exc
        try:
            found = recover(folder, needed_from=needed_from, fsync=self._settings.fsync)
            self.recovered = found
            self._adopt(found, max(floor, found.seen_end, read_durable(folder)))
            self._published = DurableEnd(folder, self._next_seq)
        except OSError as exc:
            os.close(self._lock_fd)
            raise LogError(f"log folder {folder} cannot be opened: {exc}") from exc
        except BaseException:
            os.close(self._lock_fd)
            raise
        self._durable_end = self._next_seq
        if self._new_epoch or not found.after_barrier:
            # A new epoch's also leads readers across the hole before it: sources may wait until they are there.
            with self._condition:
                self._put_barrier()
        self._thread = threading.Thread(target=self._run, name="log-writer", daemon=True)
        self._thread.start()

    def _adopt(self, found: Recovered, begin: int) -> None:
        self.instruments = found.instruments
        self._map = InstrumentMap(self.instruments)
        self._sources = dict(found.sources)
        # What the next segment may say of the time before it: only what is durable, never what still waits.
        self._durable_sources = dict(found.sources)
        self._durable_instruments = len(found.instruments)
        self._next_seq = max(begin, found.end_seq)
        self._rows_since_barrier = 0
        self._new_epoch = self._next_seq > found.end_seq or (not found.log_id and found.end_seq > 0)
        self.log_id = found.log_id or uuid.uuid4().hex
        self.epoch = found.epoch + 1 if self._new_epoch or not found.log_id else found.epoch
        self.status.reports.extend(found.reports)
        if self._new_epoch:
            what = f"log {self._folder} ends at seq {found.end_seq}" if found.log_id else f"log {self._folder} is gone"
            message = (
                f"{what}, but what is below {self._next_seq} was given to consumers: lost, cut or restored from an "
                f"older copy; goes on as epoch {self.epoch} at {self._next_seq}"
            )
            self.status.reports.append(message)
            LOG.warning(message)
        self.status.size_bytes = sum(path.stat().st_size for _, path in list_segments(self._folder))

    @property
    def end(self) -> int:
        """Exclusive end of what was appended."""
        return self._next_seq

    @property
    def durable_end(self) -> int:
        """Exclusive end of what survives a power cut; consumers read no further."""
        return self._durable_end

    @property
    def new_epoch(self) -> bool:
        """True if the log was lost or restored, so consumers must compare by source offset."""
        return self._new_epoch

    def sources(self) -> dict[str, int]:
        """Return, by source id, the exclusive end of what was appended."""
        with self._condition:
            return dict(self._sources)

    def append(self, batch: SourceBatch, *, origin: Origin, partition: int = 0) -> int:
        """Append events and return the sequence number of the first.

        Raises:
            LogFull: There is no room, on the disk or in memory; nothing was appended.
            LogError: The log is closed; nothing was appended.
            SchemaValidationError: What is in the batch could never be read back; nothing was appended.
        """
        rows = batch.data.num_rows
        if rows == 0:
            return self._next_seq
        size = self._size_of(batch)
        if size > MAX_BATCH_BYTES or not 0 <= partition <= MAX_PARTITION:
            raise SchemaValidationError(
                f"batch of {size} bytes for partition {partition} cannot be logged: at most {MAX_BATCH_BYTES} bytes "
                f"and partition {MAX_PARTITION}"
            )
        source = (batch.source_id, batch.offset) if batch.source_id else None
        meta = encode_meta({"s": batch.source_id, "o": batch.offset}) if source else b""
        with self._condition:
            self._check_room(size)
            self._put_instruments(batch)
            barrier = self._rows_since_barrier + rows >= self._settings.barrier_rows
            first = self._put(
                _Pending(
                    type=RecordType.EVENTS,
                    kind=batch.kind,
                    origin=origin,
                    count=rows,
                    barrier=barrier,
                    partition=partition,
                    meta=meta,
                    source=source,
                    data=self._map.translate(batch),
                    size_bytes=size,
                )
            )
        reached(Step.LOG_APPEND_AFTER)
        return first

    def mark(self, mark: Mark, *, origin: Origin, idle: bool = False) -> int:
        """Append punctuation and return its sequence number; raises as `append` does.

        Args:
            mark: What it says.
            origin: How the events it speaks of come to us.
            idle: True if we say so because time passed; it is then no event of its source's sequence.
        """
        meta: dict[str, Any] = {"v": mark.vendor, "t": mark.ts_ns}
        if idle:
            meta["idle"] = True
        if mark.symbols:
            meta["y"] = list(mark.symbols)
        if mark.source_id:
            meta |= {"s": mark.source_id, "o": mark.offset}
        source = (mark.source_id, mark.offset) if mark.source_id else None
        text = encode_meta(meta)
        with self._condition:
            self._check_room(0)
            return self._put(
                _Pending(type=RecordType.MARK, origin=origin, count=1, barrier=True, meta=text, source=source)
            )

    def control(self, action: str, detail: Mapping[str, Any] | None = None) -> int:
        """Append a control record (pause, resume, configuration, gap, session) and return its sequence number.

        A full log takes it too: it is small, and what it says must not be forgotten.

        Raises:
            LogError: The log is closed.
            SchemaValidationError: The detail is no JSON, or uses the names ``a``, ``s`` or ``o``.
        """
        taken = _RESERVED & set(detail or {})
        if taken:
            raise SchemaValidationError(f"detail of control record {action} uses reserved names: {sorted(taken)}")
        text = encode_meta({"a": action, **(detail or {})})
        with self._condition:
            self._check_open()
            return self._put(_Pending(type=RecordType.CONTROL, count=1, barrier=True, meta=text))

    def barrier(self) -> None:
        """Let operators run up to here, if anything came since the last barrier; nothing where the log has ended."""
        with self._condition:
            if self._rows_since_barrier and not self._closing and not self._dead:
                self._put_barrier()

    def wait_durable(self, end: int, timeout_s: float | None = None) -> bool:
        """Wait until everything below `end` is durable; False when the time ran out first, or the log was closed."""
        with self._condition:
            self._condition.wait_for(lambda: self._durable_end >= end or self._closing or self._dead, timeout_s)
            return self._durable_end >= end

    def trim(self, below: int) -> int:
        """Remove segments that lie wholly below a position and are older than the retention; return how many.

        Segments go early while there is no room, or the log is near ``max_bytes``.

        Raises:
            LogError: The disk refused.
        """
        removed = 0
        try:
            segments = list_segments(self._folder)
            for (_, path), (next_first, _) in pairwise(segments):
                if next_first > below or not self._may_go(path):
                    break
                reached(Step.LOG_TRIM_BEFORE)
                size = path.stat().st_size
                path.unlink()
                with self._condition:
                    self.status.size_bytes -= size
                removed += 1
                # One after the other: a power cut must not bring back what lies before a hole.
                disk.sync_dir(self._folder)
                reached(Step.LOG_TRIM_AFTER)
        except OSError as exc:
            raise LogError(f"log {self._folder} cannot be trimmed: {exc}") from exc
        return removed

    def _may_go(self, path: Path) -> bool:
        most = self._settings.max_bytes
        near = most is not None and self.status.size_bytes > most * 3 // 4
        # The times of files are the system's wall clock, whatever clock the log has.
        return near or self.status.full or path.stat().st_mtime <= time.time() - self._settings.retention_s

    def close(self, timeout_s: float = 10.0) -> None:
        """Make everything appended durable and release the lock; may be called twice.

        Raises:
            LogError: The disk did not take everything in time; says how many events are not durable. While the disk
                does not even answer, the lock stays held, and closing may be tried again.
        """
        if self._lock_fd < 0:
            return
        self.barrier()
        started = time.monotonic()
        self.wait_durable(self._next_seq, timeout_s)
        with self._condition:
            self._closing = True
            self._condition.notify_all()
        self._thread.join(max(1.0, timeout_s - (time.monotonic() - started)))
        if self._thread.is_alive():
            # It may be inside a write: closing its files under it could send that write into another file.
            raise LogError(f"log {self._folder} cannot be closed: the disk has not answered for {timeout_s} s")
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
        self._published.close()
        os.close(self._lock_fd)
        self._lock_fd = -1
        left = self._next_seq - self._durable_end
        if left:
            raise LogError(f"{left} events in {self._folder} are not durable: {self.status.problem or 'time ran out'}")

    # Asking Arrow for the size lets go of the interpreter, and whoever waits for it is woken. About as many rows of a
    # kind as were written last take about as much.
    def _size_of(self, batch: SourceBatch) -> int:
        rows: int = batch.data.num_rows
        last_rows, last_bytes = self._written.get(batch.kind, (0, 0))
        alike = last_rows <= 2 * rows <= 4 * last_rows
        if alike and batch.data.get_total_buffer_size() <= _SMALL_BYTES:
            return max(last_bytes, last_bytes * rows // last_rows)
        return int(pa.ipc.get_record_batch_size(batch.data))

    # Everything below runs with the condition held, or in the writer's thread.

    def _check_open(self) -> None:
        if self._closing:
            raise LogError(f"log {self._folder} is closed")
        if self._dead:
            raise LogError(f"log {self._folder} takes nothing any more: {self.status.problem}")

    def _check_room(self, size_bytes: int) -> None:
        def fits() -> bool:
            pending = self.status.pending_bytes
            return not pending or pending + size_bytes <= self._settings.pending_bytes

        self._check_open()
        if not self.status.full and not self.status.problem and not fits():
            # The disk is merely slower than the source: let the thread catch up instead of refusing.
            self._condition.wait_for(lambda: fits() or bool(self.status.problem) or self._closing, timeout=1.0)
            self._check_open()
        if self.status.full:
            raise LogFull(f"log {self._folder} is full: {self.status.problem}")
        if not fits():
            raise LogFull(f"log {self._folder} does not keep up: {self.status.problem or 'disk too slow'}")

    def _put_instruments(self, batch: SourceBatch) -> None:
        unseen = self._map.unseen(batch)
        if unseen:
            # Where in the table they go is said too: should damage take one such record, the next still fits.
            meta = encode_meta({"at": len(self.instruments), "add": [instrument_meta(entry) for entry in unseen]})
            for entry in unseen:
                self.instruments.add(entry)
            self._put(_Pending(type=RecordType.INSTRUMENTS, meta=meta, instruments=len(unseen)))

    def _put_barrier(self) -> None:
        self._put(_Pending(type=RecordType.CONTROL, count=1, barrier=True, meta=encode_meta({"a": "barrier"})))

    def _put(self, item: _Pending) -> int:
        item.first_seq, item.ts_append = self._next_seq, self._clock.now_ns()
        item.size_bytes += len(item.meta)
        self._queue.append(item)
        self._next_seq += item.count
        if item.source is not None:
            self._sources[item.source[0]] = item.source[1]
        if item.barrier:
            self._rows_since_barrier = 0
        elif item.type is RecordType.EVENTS:
            self._rows_since_barrier += item.count
        self.status.pending_bytes += item.size_bytes
        # Waking the thread for every record would cost more than appending does.
        if len(self._queue) == 1 or self.status.pending_bytes >= self._settings.group_bytes:
            self._condition.notify_all()
        return item.first_seq

    def _run(self) -> None:
        try:
            while (group := self._take_group()) is not None:
                end = group[-1].first_seq + group[-1].count
                if not self._persist(partial(self._write_group, group)) or not self._persist(
                    partial(self._publish, end)
                ):
                    return
                self._done(group, end)
        except Exception as exc:
            # Nothing may die unseen here: who appends and who waits is told.
            LOG.exception("log %s: writer stopped", self._folder)
            with self._condition:
                self._dead = True
                self.status.problem = f"writer stopped: {exc!r}"
                self._condition.notify_all()

    def _persist(self, attempt: Callable[[], bool]) -> bool:
        delay_s = 0.05
        while not attempt():
            with self._condition:
                # Sleeping on the condition lets close() end the wait.
                if self._condition.wait_for(lambda: self._closing, delay_s):
                    return False
            delay_s = min(delay_s * 2, 0.5)
        return True

    def _take_group(self) -> list[_Pending] | None:
        settings = self._settings
        most = 4 * settings.group_bytes
        if settings.max_bytes is not None:
            most = min(most, settings.max_bytes // 8)
        with self._condition:
            self._condition.wait_for(lambda: self._queue or self._closing)
            if not self._queue:
                return None
            self._condition.wait_for(
                lambda: self.status.pending_bytes >= settings.group_bytes or self._closing, settings.linger_s
            )
            group = [self._queue.popleft()]
            size = group[0].size_bytes
            while self._queue and size + self._queue[0].size_bytes <= most:
                group.append(self._queue.popleft())
                size += group[-1].size_bytes
            return group

    def _write_group(self, group: list[_Pending]) -> bool:
        buffers = [buffer for n, item in enumerate(group) for buffer in item.encoded(starts_group=n == 0)]
        for item, payload in zip(group, buffers[1::2], strict=True):
            if item.data is not None:
                self._written[item.kind] = item.count, len(payload)
        first_seq = group[0].first_seq
        try:
            self._mend()
            self._refuse_if_full(sum(len(b) for b in buffers), first_seq)
            if self._fd < 0 or self._segment_size >= self._settings.roll_bytes:
                self._roll(first_seq)
            reached(Step.LOG_APPEND_BEFORE)
            self._broken = True
            self._write(buffers)
            self._broken = False
        except OSError as exc:
            self._fail(exc, full=exc.errno in (errno.ENOSPC, errno.EDQUOT))
            return False
        except LogFull as exc:
            self._fail(exc, full=True)
            return False
        return True

    def _refuse_if_full(self, size: int, first_seq: int) -> None:
        settings = self._settings
        # The less is asked of the system for each group, the less it takes of others' time: each answer is waited for.
        now_s = time.monotonic()
        if now_s - self._looked_s >= _LOOK_S or self._free - size < settings.reserve_bytes:
            self._free, self._looked_s = shutil.disk_usage(self._folder).free, now_s
        free = self._free
        if settings.max_bytes is not None and self.status.size_bytes + size > settings.max_bytes:
            reason = f"the log holds {self.status.size_bytes} of at most {settings.max_bytes} bytes"
        elif free - size < settings.reserve_bytes:
            reason = f"{free} bytes are free on the disk, {settings.reserve_bytes} of them kept for commits"
        else:
            return
        if self._fd < 0 or self._segment_first < first_seq:
            # The newest segment is never trimmed: without one after it, the log could wait for itself.
            self._roll(first_seq)
        raise LogFull(reason)

    def _write(self, buffers: list[bytes | pa.Buffer]) -> None:
        views = [memoryview(b) for b in buffers if len(b)]
        written = 0
        for start in range(0, len(views), 512):
            chunk = views[start : start + 512]
            while chunk:
                n = os.writev(self._fd, chunk)
                written += n
                while chunk and n >= len(chunk[0]):
                    n -= len(chunk.pop(0))
                if chunk and n:
                    chunk[0] = chunk[0][n:]
        if self._settings.fsync and self._segment is not None:
            disk.sync_fd(self._fd, self._segment)
        self._grown(written)
        reached(Step.LOG_SYNC_AFTER)

    def _grown(self, size_bytes: int) -> None:
        self._free -= size_bytes
        self._segment_size += size_bytes
        with self._condition:
            self.status.size_bytes += size_bytes

    def _publish(self, end: int) -> bool:
        try:
            self._published.publish(end)
        except OSError as exc:
            self._fail(exc, full=exc.errno in (errno.ENOSPC, errno.EDQUOT))
            return False
        return True

    def _done(self, group: list[_Pending], end: int) -> None:
        for item in group:
            self._durable_instruments += item.instruments
            if item.source is not None:
                self._durable_sources[item.source[0]] = item.source[1]
        with self._condition:
            self._durable_end = end
            self.status.pending_bytes -= sum(item.size_bytes for item in group)
            self.status.groups += 1
            self.status.problem, self.status.full = "", False
            self._condition.notify_all()
        if self._durable_hook is not None:
            try:
                self._durable_hook(end)
            except Exception:
                # Who listens may be gone while the log still closes; what is appended must become durable all the same.
                LOG.exception("log %s: durable hook failed", self._folder)

    def _fail(self, exc: Exception, *, full: bool) -> None:
        if not self.status.problem:
            LOG.error("log %s: %s", self._folder, exc)
        with self._condition:
            self.status.problem, self.status.full = str(exc), full
            self._condition.notify_all()

    def _mend(self) -> None:
        # After a failed write or sync the kernel may have dropped what it held: nothing of the group counts as
        # written. The segment is cut back to what is known to be durable and the group goes to a new one.
        if not self._broken or self._fd < 0 or self._segment is None:
            return
        os.ftruncate(self._fd, self._segment_size)
        disk.sync_fd(self._fd, self._segment)
        self._release_segment()
        self._broken = False

    def _release_segment(self) -> None:
        # Forgotten first: whatever happens next, no other file may ever be written through this number.
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def _roll(self, first_seq: int) -> None:
        path = segment_path(self._folder, first_seq)
        meta = {
            "log_id": self.log_id,
            "epoch": self.epoch,
            "sources": self._durable_sources,
            "instruments": [instrument_meta(self.instruments[i]) for i in range(self._durable_instruments)],
        }
        head = encode(
            RecordType.SEGMENT, first_seq=first_seq, count=0, ts_append=self._clock.now_ns(), meta=encode_meta(meta)
        )
        data = b"".join(bytes(b) for b in head)
        # One of that name holds no events, and nothing that is not said here again.
        replaced = path.stat().st_size if path.exists() else 0
        disk.write_atomic(path, data)
        self._release_segment()
        self._segment, self._segment_first, self._segment_size = path, first_seq, 0
        self._grown(len(data))
        with self._condition:
            self.status.size_bytes -= replaced
        self._fd = os.open(path, os.O_WRONLY | os.O_APPEND)
        reached(Step.LOG_ROLL)
