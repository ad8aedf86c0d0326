"""The one writer of a log: hands out sequence numbers at once, makes records durable in groups."""

from __future__ import annotations

import errno
import logging
import mmap
import os
import shutil
import struct
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import pyarrow as pa

from market_data_core import disk
from market_data_core.batch import Instrument, SourceBatch
from market_data_core.clock import Clock, SystemClock
from market_data_core.errors import LogError, LogFull, LogLocked
from market_data_core.protocols import Mark
from market_data_core.schemas import Kind, Origin
from market_data_core.steps import Step, reached
from market_data_pipeline.log.frames import RecordType, encode
from market_data_pipeline.log.recovery import Recovered, recover
from market_data_pipeline.log.segments import instrument_meta, list_segments, segment_path

LOG = logging.getLogger(__name__)
DURABLE_FILE: Final = "durable"
LOCK_FILE: Final = "lock"
_DURABLE: Final = struct.Struct("<q")


@dataclass(frozen=True, slots=True, kw_only=True)
class LogSettings:
    """How a log is kept.

    Attributes:
        fsync: False gives up durability against power loss, never against a crash of the process.
        linger_s: How long a record may wait for others before the group is made durable.
        group_bytes: A group of this size does not wait.
        segment_bytes: A segment of this size is followed by the next.
        retention_s: How long segments are kept after all consumers are past them.
        max_bytes: Above this, segments that all consumers are past go early, and at it appending is refused.
            None: as much as the disk has, less `reserve_bytes`.
        reserve_bytes: Space left free on the disk for commits and state, which are what makes room again.
        pending_bytes: What may wait in memory while the disk does not take it.
        barrier_rows: A barrier at the latest after so many events,
        barrier_s: and after so long.
    """

    fsync: bool = True
    linger_s: float = 0.005
    group_bytes: int = 1 << 20
    segment_bytes: int = 64 << 20
    retention_s: float = 24 * 3600
    max_bytes: int | None = None
    reserve_bytes: int = 64 << 20
    pending_bytes: int = 64 << 20
    barrier_rows: int = 8192
    barrier_s: float = 0.1


@dataclass(slots=True)
class _Pending:
    type: RecordType
    kind: Kind
    origin: Origin
    first_seq: int
    count: int
    barrier: bool
    partition: int
    ts_append: int
    meta: dict[str, Any]
    data: pa.RecordBatch | None
    size_bytes: int


@dataclass(slots=True)
class _Mapping:
    # Holding the source's table keeps its id() from being given to another.
    table: Sequence[Instrument]
    ids: list[int] = field(default_factory=list)
    same: bool = True


@dataclass(slots=True)
class WriterStatus:
    """How the writer is doing.

    Attributes:
        problem: Why records cannot be made durable at present; empty when they can.
        full: True while the log takes nothing for want of room.
        size_bytes: Of all segments.
        pending_bytes: Appended, not yet durable.
        groups: How many groups were made durable.
    """

    problem: str = ""
    full: bool = False
    size_bytes: int = 0
    pending_bytes: int = 0
    groups: int = 0
    reports: list[str] = field(default_factory=list)


class LogWriter:
    """Appends to the log of one folder.

    Args:
        folder: Where the segments are kept; made if it is not there.
        settings: How the log is kept.
        floor: No sequence number below this is handed out: the highest position any consumer has committed. A log
            that ends below it was lost or restored from an older copy, and goes on in a new epoch.
        needed_from: The lowest position any consumer still reads from.
        clock: For the time of appending.
        durable_hook: Called by the writer's thread with the new durable end after each group.

    Raises:
        LogLocked: Another process writes this log.
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
        self._fd = -1
        self._segment: Path | None = None
        self._segment_size = 0
        self._broken = False
        self.status = WriterStatus()
        try:
            disk.make_dirs(folder)
            self._lock_fd = _lock(folder / LOCK_FILE)
            found = recover(folder, needed_from=needed_from)
        except OSError as exc:
            raise LogError(f"log folder {folder} cannot be opened: {exc}") from exc
        self.recovered = found
        self.status.reports.extend(found.reports)
        self._adopt(found, floor)
        self._durable_map = _map_durable(folder / DURABLE_FILE, self._next_seq)
        self._durable_end = self._next_seq
        if not found.after_barrier:
            self._put(RecordType.CONTROL, Kind.CONTROL, Origin.LIVE, 1, {"a": "barrier"}, None, barrier=True)
        self._thread = threading.Thread(target=self._run, name="log-writer", daemon=True)
        self._thread.start()

    def _adopt(self, found: Recovered, floor: int) -> None:
        self.log_id = found.log_id or uuid.uuid4().hex
        self.epoch = found.epoch if found.log_id else 1
        self.instruments = found.instruments
        self._sources = dict(found.sources)
        # What the next segment may say of the time before it: only what is durable, never what still waits.
        self._durable_sources = dict(found.sources)
        self._durable_instruments = len(found.instruments)
        self._next_seq = found.end_seq
        self._rows_since_barrier = 0
        self._mapped: dict[int, _Mapping] = {}
        self._new_epoch = False
        if floor > found.end_seq:
            self._next_seq = floor
            self._new_epoch = True
            if found.log_id:
                self.epoch += 1
                message = (
                    f"log ends at seq {found.end_seq}, consumers are at {floor}: restored from an older copy? "
                    f"goes on as epoch {self.epoch} at {floor}"
                )
            else:
                message = f"log is gone, consumers are at {floor}: begun anew at {floor}"
            self.status.reports.append(message)
            LOG.warning(message)
        self._log_started = bool(found.log_id)
        for _, path in list_segments(self._folder):
            self.status.size_bytes += path.stat().st_size

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
        """
        rows = batch.data.num_rows
        if rows == 0:
            return self._next_seq
        with self._condition:
            self._check_room(batch.data.nbytes)
            data = self._map_instruments(batch)
            meta: dict[str, Any] = {}
            if batch.source_id:
                meta = {"s": batch.source_id, "o": batch.offset}
                self._sources[batch.source_id] = batch.offset
            self._rows_since_barrier += rows
            barrier = self._rows_since_barrier >= self._settings.barrier_rows
            first = self._put(
                RecordType.EVENTS, batch.kind, origin, rows, meta, data, barrier=barrier, partition=partition
            )
        reached(Step.LOG_APPEND_AFTER)
        return first

    def mark(self, mark: Mark, *, origin: Origin) -> int:
        """Append punctuation and return its sequence number."""
        with self._condition:
            self._check_room(0)
            meta: dict[str, Any] = {"v": mark.vendor, "t": mark.ts_ns}
            if mark.symbols:
                meta["y"] = list(mark.symbols)
            if mark.source_id:
                meta |= {"s": mark.source_id, "o": mark.offset}
                self._sources[mark.source_id] = mark.offset
            return self._put(RecordType.MARK, Kind.CONTROL, origin, 1, meta, None, barrier=True)

    def control(self, action: str, detail: Mapping[str, Any] | None = None) -> int:
        """Append a control record (pause, resume, configuration, gap, session) and return its sequence number."""
        with self._condition:
            return self._put(
                RecordType.CONTROL, Kind.CONTROL, Origin.LIVE, 1, {"a": action, **(detail or {})}, None, barrier=True
            )

    def barrier(self) -> None:
        """Let operators run up to here, if anything came since the last barrier."""
        with self._condition:
            if self._rows_since_barrier:
                self._put(RecordType.CONTROL, Kind.CONTROL, Origin.LIVE, 1, {"a": "barrier"}, None, barrier=True)

    def wait_durable(self, end: int, timeout_s: float | None = None) -> bool:
        """Wait until everything below `end` is durable; False when the time ran out first."""
        with self._condition:
            return self._condition.wait_for(lambda: self._durable_end >= end or self._closing, timeout_s) and (
                self._durable_end >= end
            )

    def trim(self, below: int) -> int:
        """Remove segments that lie wholly below a position and are older than the retention; return how many.

        Segments go early while the log is larger than ``max_bytes``.
        """
        segments = list_segments(self._folder)
        removed = 0
        keep_after = time.time() - self._settings.retention_s
        for (_, path), (next_first, _) in zip(segments, segments[1:], strict=False):
            if next_first > below:
                break
            stat = path.stat()
            over = self._settings.max_bytes is not None and self.status.size_bytes > self._settings.max_bytes * 3 // 4
            if stat.st_mtime > keep_after and not over and not self.status.full:
                break
            reached(Step.LOG_TRIM_BEFORE)
            path.unlink()
            self.status.size_bytes -= stat.st_size
            removed += 1
        if removed:
            disk.sync_dir(self._folder)
            reached(Step.LOG_TRIM_AFTER)
        return removed

    def close(self, timeout_s: float = 10.0) -> None:
        """Make everything appended durable and release the lock; may be called twice.

        Raises:
            LogError: The disk did not take everything in time; says how many events are not durable.
        """
        if self._lock_fd < 0:
            return
        self.barrier()
        left = 0
        if not self.wait_durable(self._next_seq, timeout_s):
            left = self._next_seq - self._durable_end
        with self._condition:
            self._closing = True
            self._condition.notify_all()
        self._thread.join(timeout_s)
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
        self._durable_map.close()
        os.close(self._lock_fd)
        self._lock_fd = -1
        if left:
            raise LogError(f"{left} events in {self._folder} are not durable: {self.status.problem or 'time ran out'}")

    # Everything below runs with the condition held, or in the writer's thread.

    def _check_room(self, size_bytes: int) -> None:
        if self._closing:
            raise LogError(f"log {self._folder} is closed")
        if self.status.full:
            raise LogFull(f"log {self._folder} is full: {self.status.problem}")
        if self.status.pending_bytes + size_bytes > self._settings.pending_bytes and self.status.pending_bytes:
            if not self.status.problem:
                # The disk is merely slower than the source: let the thread catch up instead of refusing.
                self._condition.wait_for(
                    lambda: self.status.pending_bytes + size_bytes <= self._settings.pending_bytes
                    or bool(self.status.problem)
                    or not self.status.pending_bytes,
                    timeout=1.0,
                )
                if self.status.pending_bytes + size_bytes <= self._settings.pending_bytes:
                    return
            raise LogFull(f"log {self._folder} does not keep up: {self.status.problem or 'disk too slow'}")

    def _map_instruments(self, batch: SourceBatch) -> pa.RecordBatch:
        # A source's table only grows, so what was mapped before stays mapped.
        known = self._mapped.get(id(batch.instruments))
        if known is None:
            if len(self._mapped) >= 256:
                self._mapped.pop(next(iter(self._mapped)))
            known = self._mapped[id(batch.instruments)] = _Mapping(batch.instruments)
        if len(known.ids) < len(batch.instruments):
            before = len(self.instruments)
            known.ids.extend(self.instruments.add(entry) for entry in batch.instruments[len(known.ids) :])
            known.same = known.ids == list(range(len(known.ids)))
            added = [instrument_meta(self.instruments[i]) for i in range(before, len(self.instruments))]
            if added:
                self._put(RecordType.INSTRUMENTS, Kind.CONTROL, Origin.LIVE, 0, {"add": added}, None)
        if known.same:
            return batch.data
        ids = pa.array(known.ids, pa.int32()).take(batch.data.column(0))
        return batch.data.set_column(0, batch.data.schema.field(0), ids)

    def _put(
        self,
        type_: RecordType,
        kind: Kind,
        origin: Origin,
        count: int,
        meta: dict[str, Any],
        data: pa.RecordBatch | None,
        *,
        barrier: bool = False,
        partition: int = 0,
    ) -> int:
        first = self._next_seq
        size = data.nbytes if data is not None else 64
        self._queue.append(
            _Pending(type_, kind, origin, first, count, barrier, partition, self._clock.now_ns(), meta, data, size)
        )
        self._next_seq += count
        self.status.pending_bytes += size
        if barrier:
            self._rows_since_barrier = 0
        self._condition.notify_all()
        return first

    def _run(self) -> None:
        while True:
            group = self._take_group()
            if group is None:
                return
            delay_s = 0.05
            while not self._write_group(group):
                with self._condition:
                    # Sleeping on the condition lets close() end the wait.
                    if self._condition.wait_for(lambda: self._closing, delay_s):
                        return
                delay_s = min(delay_s * 2, 0.5)

    def _take_group(self) -> list[_Pending] | None:
        settings = self._settings
        with self._condition:
            self._condition.wait_for(lambda: self._queue or self._closing)
            if not self._queue:
                return None
            self._condition.wait_for(
                lambda: self.status.pending_bytes >= settings.group_bytes or self._closing, settings.linger_s
            )
            group, size = [], 0
            while self._queue and size < 4 * settings.group_bytes:
                group.append(self._queue.popleft())
                size += group[-1].size_bytes
            return group

    def _write_group(self, group: list[_Pending]) -> bool:
        try:
            self._mend()
            self._refuse_if_full(group)
            if self._fd < 0 or self._segment_size >= self._settings.segment_bytes:
                self._roll(group[0].first_seq)
            reached(Step.LOG_APPEND_BEFORE)
            buffers: list[bytes | pa.Buffer] = []
            for item in group:
                payload: pa.Buffer | bytes = b"" if item.data is None else item.data.serialize()
                buffers += encode(
                    item.type,
                    first_seq=item.first_seq,
                    count=item.count,
                    ts_append=item.ts_append,
                    meta=item.meta,
                    payload=payload,
                    kind=item.kind,
                    origin=item.origin,
                    barrier=item.barrier,
                    partition=item.partition,
                )
            self._write(buffers)
        except OSError as exc:
            self._fail(exc, full=exc.errno in (errno.ENOSPC, errno.EDQUOT))
            return False
        except LogFull as exc:
            self._fail(exc, full=True)
            return False
        self._done(group)
        return True

    def _refuse_if_full(self, group: list[_Pending]) -> None:
        settings = self._settings
        size = sum(item.size_bytes for item in group)
        if settings.max_bytes is not None and self.status.size_bytes + size > settings.max_bytes:
            raise LogFull(f"the log holds {self.status.size_bytes} of at most {settings.max_bytes} bytes")
        free = shutil.disk_usage(self._folder).free
        if free - size < settings.reserve_bytes:
            raise LogFull(f"{free} bytes are free on the disk, {settings.reserve_bytes} of them kept for commits")

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
        self._segment_size += written
        self.status.size_bytes += written
        reached(Step.LOG_SYNC_AFTER)

    def _done(self, group: list[_Pending]) -> None:
        end = group[-1].first_seq + group[-1].count
        _DURABLE.pack_into(self._durable_map, 0, end)
        for item in group:
            if item.type is RecordType.INSTRUMENTS:
                self._durable_instruments += len(item.meta["add"])
            elif "s" in item.meta:
                self._durable_sources[item.meta["s"]] = item.meta["o"]
        with self._condition:
            self._durable_end = end
            self.status.pending_bytes -= sum(item.size_bytes for item in group)
            self.status.groups += 1
            self.status.problem, self.status.full = "", False
            self._condition.notify_all()
        if self._durable_hook is not None:
            self._durable_hook(end)

    def _fail(self, exc: Exception, *, full: bool) -> None:
        if not self.status.problem:
            LOG.error("log %s: %s", self._folder, exc)
        with self._condition:
            self.status.problem, self.status.full = str(exc), full
            self._condition.notify_all()
        self._broken = self._fd >= 0

    def _mend(self) -> None:
        # After a failed write or sync the kernel may have dropped what it held: nothing of the group counts as
        # written. The segment is cut back to what is known to be durable and the group goes to a new one.
        if not self._broken or self._segment is None:
            return
        os.ftruncate(self._fd, self._segment_size)
        disk.sync_fd(self._fd, self._segment)
        os.close(self._fd)
        self._fd, self._broken = -1, False

    def _roll(self, first_seq: int) -> None:
        path = segment_path(self._folder, first_seq)
        meta = {
            "log_id": self.log_id,
            "epoch": self.epoch,
            "sources": self._durable_sources,
            "instruments": [instrument_meta(self.instruments[i]) for i in range(self._durable_instruments)],
        }
        head = encode(RecordType.SEGMENT, first_seq=first_seq, count=0, ts_append=self._clock.now_ns(), meta=meta)
        data = b"".join(bytes(b) for b in head)
        disk.write_atomic(path, data)
        if self._fd >= 0:
            os.close(self._fd)
        self._fd = os.open(path, os.O_WRONLY | os.O_APPEND)
        self._segment, self._segment_size = path, len(data)
        self.status.size_bytes += len(data)
        reached(Step.LOG_ROLL)


def _lock(path: Path) -> int:
    fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        import fcntl  # noqa: PLC0415  absent on Windows, where msvcrt does the same

        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except ImportError:  # pragma: no cover  Windows
        import msvcrt  # noqa: PLC0415

        try:
            msvcrt.locking(fd, msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined,unused-ignore]  Windows alone has it
        except OSError as exc:
            os.close(fd)
            raise LogLocked(f"{path.parent} is in use by another process") from exc
    except BlockingIOError as exc:
        os.close(fd)
        raise LogLocked(f"{path.parent} is in use by another process") from exc
    return fd


def _map_durable(path: Path, end: int) -> mmap.mmap:
    fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        os.ftruncate(fd, _DURABLE.size)
        mapped = mmap.mmap(fd, _DURABLE.size)
    finally:
        os.close(fd)
    _DURABLE.pack_into(mapped, 0, end)
    return mapped


def read_durable(folder: Path) -> int:
    """Return the exclusive end of what is durable, as the writer last said; 0 where there is no log yet."""
    try:
        raw = (folder / DURABLE_FILE).read_bytes()
    except FileNotFoundError:
        return 0
    return int(_DURABLE.unpack(raw)[0]) if len(raw) == _DURABLE.size else 0
