"""What opening a log finds, and puts right, after any end of the process before."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from pathlib import Path

from market_data_core import disk
from market_data_core.batch import Instruments
from market_data_pipeline.log.segments import Damage, SegmentScan, has_head, list_segments, scan

LOG = logging.getLogger(__name__)
LOST_FOLDER = "quarantine"


@dataclass(slots=True, kw_only=True)
class Recovered:
    """What is known of a log once it has been looked through.

    Attributes:
        log_id: Whose log it is; empty for a folder without one, or where nothing says so any more.
        epoch: Of the newest segment.
        first_seq: The oldest sequence number kept.
        end_seq: Exclusive end of what is kept.
        seen_end: Exclusive end of what may have been durable before anything was cut; no number below it is handed out
            again.
        after_barrier: True if the last numbered record is a barrier.
        instruments: All that the log has seen.
        sources: By source id, the exclusive end of what was logged.
        ts_last: When the last record was appended, UTC nanoseconds; 0 for an empty log.
        damages: Damage that readers will meet, and whose events nobody can give again.
        reports: One sentence for every thing that was not as it should be.
    """

    log_id: str = ""
    epoch: int = 0
    first_seq: int = 0
    end_seq: int = 0
    seen_end: int = 0
    after_barrier: bool = True
    instruments: Instruments = field(default_factory=Instruments)
    sources: dict[str, int] = field(default_factory=dict)
    ts_last: int = 0
    damages: list[Damage] = field(default_factory=list)
    reports: list[str] = field(default_factory=list)


def recover(folder: Path, *, needed_from: int, fsync: bool = True) -> Recovered:
    """Look through the segments of a log, cut torn tails, and say what is there.

    A tail that was being written when the process or the power went is cut to its last whole record. Damage further
    up is kept in the folder ``quarantine``. If everything from there on comes from sources that can give it again, the
    log is cut there, so that they do; else the readers step over it and say how much is missing. What is kept is
    durable when this returns: a process that was killed may have left records that were never synced.

    Args:
        folder: Where the segments are; exists.
        needed_from: The lowest position any consumer still has to read from; older segments are not checked.
        fsync: False leaves it to the system when bytes reach the disk.

    Raises:
        OSError: The folder cannot be read or written.
    """
    result = Recovered()
    for left_over in folder.glob("*.log.new"):
        left_over.unlink()
    scans = _scan(folder, needed_from)
    while scans and not scans[-1][1].records:
        # Segments get their name with their first record, so this is damage; nothing in it can be read.
        path = scans[-1][0]
        result.reports.append(f"log segment {path.name} holds no record that can be read; removed")
        _set_aside(folder, path, 0, result)
        path.unlink()
        disk.sync_dir(folder)
        scans = _scan(folder, needed_from)
    if scans:
        newest = scans[-1][1]
        # Nobody was told of numbers in a write that was cut off, and they are free.
        result.seen_end = newest.torn[0].first_seq if newest.torn else newest.end_seq
        scans = _cut(folder, scans, needed_from, result)
        _adopt(folder, scans[-1][1], result)
        if fsync:
            disk.sync_file(scans[-1][0])
            disk.sync_dir(folder)
    for message in result.reports:
        LOG.warning(message)
    return result


def _scan(folder: Path, needed_from: int) -> list[tuple[Path, SegmentScan]]:
    segments = list_segments(folder)
    # The segment that holds a position is the last one that begins at or before it.
    start = max((i for i, (first, _) in enumerate(segments) if first <= needed_from), default=0)
    while start > 0 and not has_head(segments[start][1]):
        start -= 1
    scans: list[tuple[Path, SegmentScan]] = []
    for index in range(start, len(segments)):
        before = scans[-1][1] if scans else None
        sealed_end = segments[index + 1][0] if index + 1 < len(segments) else None
        path = segments[index][1]
        scans.append((path, scan(path, check=True, before=before, sealed_end=sealed_end)))
    return scans


def _adopt(folder: Path, newest: SegmentScan, result: Recovered) -> None:
    result.log_id, result.epoch = newest.log_id, newest.epoch
    result.first_seq = list_segments(folder)[0][0]
    result.end_seq = newest.end_seq
    result.after_barrier = newest.after_barrier
    result.instruments = Instruments(newest.instruments)
    result.sources = dict(newest.sources)
    result.ts_last = newest.ts_last


def _cut(
    folder: Path, scans: list[tuple[Path, SegmentScan]], needed_from: int, result: Recovered
) -> list[tuple[Path, SegmentScan]]:
    for index, (path, found) in enumerate(scans):
        damages = [d for d in found.damages if max(d.end_seq, d.first_seq + 1) > needed_from]
        if not damages:
            continue
        # Cut before the first record of a log there would be nothing left that says whose log it is.
        whole = damages[0].at_byte == 0
        if (index > 0 or not whole) and all(s.replayable for _, s in scans[index:]):
            result.reports.append(f"log damaged, cut there, its sources give the rest again: {damages[0]}")
            for later, _ in reversed(scans[index + 1 :]):
                _set_aside(folder, later, 0, result)
                later.unlink()
            if whole:
                _set_aside(folder, path, 0, result)
                path.unlink()
            disk.sync_dir(folder)
            if whole:
                return scans[:index]
            _truncate(folder, path, damages[0].at_byte, result)
            before = scans[index - 1][1] if index else None
            return [*scans[:index], (path, scan(path, check=True, before=before))]
        result.reports.extend(f"log damaged, nobody can give it again: {damage}" for damage in damages)
        result.damages.extend(damages)
    path, newest = scans[-1]
    torn = path.stat().st_size - newest.end_byte
    if torn:
        result.reports.append(f"log segment {path.name}: torn tail of {torn} bytes cut after seq {newest.end_seq}")
        _truncate(folder, path, newest.end_byte, result)
    return scans


def _truncate(folder: Path, path: Path, size: int, result: Recovered) -> None:
    _set_aside(folder, path, size, result)
    with path.open("r+b") as file:
        file.truncate(size)
        disk.sync_fd(file.fileno(), path)


def _set_aside(folder: Path, path: Path, from_byte: int, result: Recovered) -> None:
    # Nothing is thrown away unseen: what is cut can be looked at afterwards. A full disk is no reason not to start.
    content = path.read_bytes()[from_byte:]
    if not content:
        return
    target = folder / LOST_FOLDER
    try:
        disk.make_dirs(target)
        number = 0
        while (kept := target / f"{path.stem}-{from_byte}-{number}.bin").exists():
            number += 1
        kept.write_bytes(content)
    except OSError as exc:
        result.reports.append(f"{len(content)} bytes cut from log segment {path.name} could not be kept: {exc}")
