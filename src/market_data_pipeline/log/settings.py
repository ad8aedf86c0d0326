"""How a log is kept, and how its writer is doing."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, kw_only=True)
class LogSettings:
    """How a log is kept.

    Attributes:
        fsync: False gives up durability against power loss, never against a crash of the process.
        linger_s: How long a record may wait for others before the group is made durable.
        group_bytes: A group of this size does not wait.
        segment_bytes: A segment of this size is followed by the next.
        retention_s: How long segments are kept after all consumers are past them.
        max_bytes: Near this, segments that all consumers are past go early, and at it appending is refused.
            None: as much as the disk has, less `reserve_bytes`.
        reserve_bytes: Space left free on the disk for commits and state, which are what makes room again.
        pending_bytes: What may wait in memory while the disk does not take it.
        barrier_rows: A barrier at the latest after so many events,
        barrier_s: and after so long.
    """

    fsync: bool = True
    linger_s: float = 0.002
    group_bytes: int = 1 << 20
    segment_bytes: int = 64 << 20
    retention_s: float = 24 * 3600
    max_bytes: int | None = None
    reserve_bytes: int = 64 << 20
    pending_bytes: int = 64 << 20
    barrier_rows: int = 32 * 1024
    barrier_s: float = 0.1

    @property
    def roll_bytes(self) -> int:
        """Size at which a segment is followed by the next: what is trimmed is whole segments, so several must fit."""
        return self.segment_bytes if self.max_bytes is None else min(self.segment_bytes, self.max_bytes // 4)


@dataclass(slots=True)
class WriterStatus:
    """How the writer is doing.

    Attributes:
        problem: Why records cannot be made durable at present; empty when they can.
        full: True while the log takes nothing for want of room.
        size_bytes: Of all segments.
        pending_bytes: Appended, not yet durable.
        groups: How many groups were made durable.
        reports: One sentence for every thing that was not as it should be when the log was opened.
    """

    problem: str = ""
    full: bool = False
    size_bytes: int = 0
    pending_bytes: int = 0
    groups: int = 0
    reports: list[str] = field(default_factory=list)
