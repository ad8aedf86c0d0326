"""The named steps between which a crash may fall.

Code that makes something durable says `reached(step)` on the way. Nothing happens there unless a fault test has
installed a hook; naming the steps is what lets such a test kill the process, or cut its power, at each of them.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum


class Step(StrEnum):
    """Every point at which the fault tests interrupt the platform."""

    LOG_APPEND_BEFORE = "log.append.before"
    LOG_APPEND_AFTER = "log.append.after"
    LOG_SYNC_AFTER = "log.sync.after"
    LOG_ROLL = "log.roll"
    DATA_FILE_WRITTEN = "table.data_file.written"
    DATA_FILE_SYNCED = "table.data_file.synced"
    TABLE_COMMITTED = "table.committed"
    TABLE_SYNCED = "table.synced"
    POSITION_TAKEN = "consumer.position.taken"
    SNAPSHOT_BEFORE = "consumer.snapshot.before"
    SNAPSHOT_WRITTEN = "consumer.snapshot.written"
    SNAPSHOT_AFTER = "consumer.snapshot.after"
    LOG_TRIM_BEFORE = "log.trim.before"
    LOG_TRIM_AFTER = "log.trim.after"
    MAINTENANCE_WRITTEN = "maintenance.file.written"
    MAINTENANCE_COMMITTED = "maintenance.committed"
    MAINTENANCE_CHECKPOINT = "maintenance.checkpoint"
    MAINTENANCE_CLEANED = "maintenance.cleaned"


_hook: Callable[[Step], None] | None = None


def reached(step: Step) -> None:
    """Say that `step` has just been reached."""
    if _hook is not None:
        _hook(step)


def install(hook: Callable[[Step], None] | None) -> None:
    """Have `hook` called at every step; None takes it out again."""
    global _hook  # noqa: PLW0603  one hook per process, installed by fault tests alone
    _hook = hook
