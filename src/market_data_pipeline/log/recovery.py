"""What opening a log finds, and puts right, after any end of the process before."""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass, field
from pathlib import Path

from market_data_core import disk
from market_data_core.batch import Instruments
from market_data_pipeline.log.segments import Damage, SegmentScan, list_segments, scan

LOG = logging.getLogger(__name__)
LOST_FOLDER = "quarantine"


@dataclass(slots=True, kw_only=True)
class Recovered:
    """What is known of a log once it has been looked through.

    Attributes:
        log_id: Whose log it is; empty for a folder without one.
        epoch: Of the newest segment.
        first_seq: The oldest sequence number kept.
        end_seq: Exclusive end of what is kept.
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
    after_barrier: bool = True
    instruments: Instruments = field(default_factory=Instruments)
    sources: dict[str, int] = field(default_factory=dict)
    ts_last: int = 0
    damages: list[Damage] = field(default_factory=list)
    reports: list[str] = field(default_factory=list)


def recover(folder: Path, *, needed_from: int) -> Recovered:
    """Look through the segments of a log, cut torn tails, and say what is there.

    A tail that was being written when the process or the power went is cut to its last whole record. Damage further
    up is kept in the folder ``quarantine``. If everything from there on comes from sources that can give it again, the
    log is cut there, so that they do; else the readers step over it and say how much is missing.

    Args:
        folder: Where the segments are; exists.
        needed_from: The lowest position any consumer still has to read from; older segments are not checked.
    """
    result = Recovered()
    segments = list_segments(folder)
    needed = _needed(segments, needed_from)
    scans: list[tuple[Path, SegmentScan]] = []
    for index, (_, path) in enumerate(segments):
        if index >= needed or index == len(segments) - 1:
            scans.append((path, scan(path, check=True)))
    if scans and not scans[-1][1].log_id:
        # Power went between making the newest segment and syncing its first record: it holds nothing.
        path, _ = scans.pop()
        result.reports.append(f"log segment {path.name} was never finished; removed")
        _set_aside(folder, path, 0)
        path.unlink()
        disk.sync_dir(folder)
        if not scans and len(segments) > 1:
            path = segments[-2][1]
            scans.append((path, scan(path, check=True)))
    scans = _cut(folder, scans, needed_from, result)
    if not scans:
        return result
    newest = scans[-1][1]
    result.log_id, result.epoch = newest.log_id, newest.epoch
    result.first_seq = min(segments[0][0], newest.first_seq)
    result.end_seq = newest.end_seq
    result.after_barrier = newest.after_barrier
    result.instruments = Instruments(newest.instruments)
    result.sources = dict(newest.sources)
    result.ts_last = newest.ts_last
    for message in result.reports:
        LOG.warning(message)
    return result


def _needed(segments: list[tuple[int, Path]], needed_from: int) -> int:
    # The segment that holds a position is the last one that begins at or before it.
    held = [i for i, (first_seq, _) in enumerate(segments) if first_seq <= needed_from]
    return held[-1] if held else 0


def _cut(
    folder: Path, scans: list[tuple[Path, SegmentScan]], needed_from: int, result: Recovered
) -> list[tuple[Path, SegmentScan]]:
    for index, (path, found) in enumerate(scans):
        damages = [d for d in found.damages if d.first_seq + (d.count or 1) > needed_from]
        last = index == len(scans) - 1
        if damages:
            damage = damages[0]
            can_repeat = _replayable_from(scans[index:])
            if can_repeat:
                result.reports.append(f"log damaged, cut there, its sources give the rest again: {damage}")
                for later, _ in reversed(scans[index + 1 :]):
                    _set_aside(folder, later, 0)
                    later.unlink()
                disk.sync_dir(folder)
                _truncate(folder, path, damage.at_byte)
                kept = [*scans[:index], (path, scan(path, check=True))]
                return kept if kept[-1][1].log_id else kept[:-1]
            for damage in damages:
                result.reports.append(f"log damaged, nobody can give it again: {damage}")
            result.damages.extend(damages)
        if last and path.stat().st_size > found.end_byte:
            torn = path.stat().st_size - found.end_byte
            result.reports.append(f"log segment {path.name}: torn tail of {torn} bytes cut after seq {found.end_seq}")
            _truncate(folder, path, found.end_byte)
    return scans


def _replayable_from(scans: list[tuple[Path, SegmentScan]]) -> bool:
    return all(s.replayable and all(d.count is not None for d in s.damages) for _, s in scans)


def _truncate(folder: Path, path: Path, size: int) -> None:
    _set_aside(folder, path, size)
    with path.open("r+b") as file:
        file.truncate(size)
        file.flush()
        disk.sync_fd(file.fileno(), path)


def _set_aside(folder: Path, path: Path, from_byte: int) -> None:
    # Nothing is thrown away unseen: what is cut can be looked at afterwards.
    content = path.read_bytes()[from_byte:]
    if not content:
        return
    target = folder / LOST_FOLDER
    disk.make_dirs(target)
    number = len(os.listdir(target))
    (target / f"{path.stem}-{from_byte}-{number}.bin").write_bytes(content)
