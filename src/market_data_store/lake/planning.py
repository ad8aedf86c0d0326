"""Which data files are worth rewriting: decided from their sizes and dates alone."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum


class Layout(StrEnum):
    """What a rewrite makes; also how the names of its files begin."""

    MERGED = "merged"
    """Several files become one."""
    DAY = "day"
    """All files of a finished date become files that share no instrument, but for one too large for a file."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredFile:
    """A data file of the table's newest version.

    Attributes:
        name: Relative to the table's folder.
        date: Its partition.
        rows, size_bytes: How much it holds.
        modified_ms: When it was committed, milliseconds since the epoch, UTC.
    """

    name: str
    date: str
    rows: int
    size_bytes: int
    modified_ms: int

    @property
    def is_day(self) -> bool:
        """True if it came out of a rewrite of the whole date."""
        return self.name.rpartition("/")[2].startswith(f"{Layout.DAY}-")


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """Files of one date that shall be replaced."""

    date: str
    layout: Layout
    inputs: tuple[StoredFile, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class CompactionPolicy:
    """When rewriting pays.

    Attributes:
        fan_in: So many files of about the same size become one; a row is rewritten once per power of this.
        max_rows: A rewritten file holds no more; also what a rewrite keeps in memory, at most half a GB per million
            (measured on bars, the widest rows).
        max_bytes: A file as large is not merged any more.
        settle_ns: A past date counts as finished when nothing was added to it for so long.
        loose_share: A finished date is laid out again when this share of its rows came after the last time.
    """

    fan_in: int = 8
    max_rows: int = 1_000_000
    max_bytes: int = 64 * 2**20
    settle_ns: int = 600 * 1_000_000_000
    loose_share: float = 0.1


def plan(files: Sequence[StoredFile], *, today: str, now_ns: int, policy: CompactionPolicy) -> list[Job]:
    """Return what to rewrite, oldest date first; no file is in two jobs.

    Args:
        files: All files of the table's newest version.
        today: The UTC date that is still being filled.
        now_ns: UTC nanoseconds since the epoch.
        policy: When it pays.
    """
    by_date: defaultdict[str, list[StoredFile]] = defaultdict(list)
    for file in files:
        by_date[file.date].append(file)
    jobs: list[Job] = []
    for date in sorted(by_date):
        day = _day(by_date[date], today, now_ns, policy)
        jobs += [day] if day is not None else _merge(by_date[date], policy)
    return jobs


def _day(files: list[StoredFile], today: str, now_ns: int, policy: CompactionPolicy) -> Job | None:
    loose = [f for f in files if not f.is_day]
    last_ms = max(f.modified_ms for f in files)
    if files[0].date >= today or not loose or last_ms * 1_000_000 > now_ns - policy.settle_ns:
        return None
    if len(files) == len(loose) == 1:
        return None  # sorted as it is
    if sum(f.rows for f in loose) < policy.loose_share * sum(f.rows for f in files):
        return None
    return Job(date=files[0].date, layout=Layout.DAY, inputs=tuple(files))


def _merge(files: list[StoredFile], policy: CompactionPolicy) -> list[Job]:
    tiers: defaultdict[int, list[StoredFile]] = defaultdict(list)
    for file in files:
        if not file.is_day and file.rows < policy.max_rows // 2 and file.size_bytes < policy.max_bytes:
            tiers[_tier(file.rows, policy.fan_in)].append(file)
    full = [t for t, members in tiers.items() if len(members) >= policy.fan_in]
    if not full:
        return []
    # Smaller files go along: they are cheap, and would be next.
    candidates = sorted((f for t, members in tiers.items() if t <= min(full) for f in members), key=lambda f: f.rows)
    groups: list[list[StoredFile]] = [[]]
    rows = 0
    for file in candidates:
        if rows + file.rows > policy.max_rows:
            groups.append([])
            rows = 0
        groups[-1].append(file)
        rows += file.rows
    if len(groups) > 1 and len(groups[-1]) < policy.fan_in:
        groups.pop()
    return [Job(date=files[0].date, layout=Layout.MERGED, inputs=tuple(g)) for g in groups if len(g) > 1]


def _tier(rows: int, fan_in: int) -> int:
    tier = 0
    while rows >= fan_in:
        rows //= fan_in
        tier += 1
    return tier
