"""What the small state is made of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any


class JobState(StrEnum):
    """Where a job stands; the last three are final."""

    QUEUED = "queued"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"


class GapState(StrEnum):
    """Where the filling of a gap stands."""

    OPEN = "open"
    FILLING = "filling"
    FILLED = "filled"
    UNFILLABLE = "unfillable"


@dataclass(frozen=True, slots=True, kw_only=True)
class Ingest:
    """One source whose content has been stored to the end.

    Attributes:
        source_id: Names the content, as `market_data_core.batch.SourceBatch` does.
        path: Where it was read when it was stored first.
        rows: Rows stored.
        rejected: Rows that went to quarantine.
        ts: When it was registered, UTC nanoseconds.
    """

    source_id: str
    path: str
    rows: int
    rejected: int
    ts: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A piece of work that outlives the process that does it.

    Attributes:
        id: Ascending in the order of enqueueing.
        kind: What is to be done.
        params: With what; JSON values.
        state: See `JobState`.
        idempotency_key: What its caller named it by, so that asking twice makes one job.
        owner: Who works on it, or did last.
        attempts: How often it was claimed.
        cancel_requested: Its owner should stop and finish it with an error.
        created_ns, heartbeat_ns, finished_ns: UTC nanoseconds; the last two are None until there is such a time.
        progress: What its owner last said of it; JSON values.
        result: What came of it when it is done; any JSON value.
        error: Why it failed or where it was stopped.
    """

    id: int
    kind: str
    params: Mapping[str, Any]
    state: JobState
    idempotency_key: str | None
    owner: str | None
    attempts: int
    cancel_requested: bool
    created_ns: int
    heartbeat_ns: int | None
    finished_ns: int | None
    progress: Mapping[str, Any]
    result: Any
    error: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Gap:
    """A stretch of time for which data is known to be missing.

    Attributes:
        id: Names it.
        vendor: Whose data.
        symbol: Of what, ``*`` for all of the vendor's.
        kind: Which kind, ``*`` for all.
        from_ns: First moment without data, UTC nanoseconds, inclusive.
        to_ns: First moment with data again, exclusive; None while it goes on.
        cause: ``disconnect``, ``paused``, ``log_full``, ...
        state: See `GapState`.
        detail: More, in words.
    """

    id: int
    vendor: str
    symbol: str
    kind: str
    from_ns: int
    to_ns: int | None
    cause: str
    state: GapState
    detail: str


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditHead:
    """The last record of an audit log, kept apart from it, so that a cut tail shows.

    Attributes:
        log: Names the log: its absolute path.
        seq: Number of the record, from 0.
        hash: Its SHA-256, 64 hexadecimal digits.
    """

    log: str
    seq: int
    hash: str


@dataclass(frozen=True, slots=True, kw_only=True)
class LoginSession:
    """One login of a browser.

    Attributes:
        key_hash: Hash of the secret the browser holds; the secret itself is nowhere here.
        name: Who logged in.
        role: In which role.
        created_ns: When, UTC nanoseconds since the epoch.
        seen_ns: When it was last used, same unit.
    """

    key_hash: str
    name: str
    role: str
    created_ns: int
    seen_ns: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Repair:
    """A database that could not be used and was moved aside.

    Attributes:
        reason: What was wrong with it.
        moved_to: Path of the old file; what can still be read in it is there.
    """

    reason: str
    moved_to: str
