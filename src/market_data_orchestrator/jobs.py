"""Jobs: handed over through the state file, so that one writer does them whoever asked."""

from __future__ import annotations

import asyncio
import logging
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

from market_data_core.clock import Clock
from market_data_core.errors import ConfigurationError, MarketDataError
from market_data_core.protocols import BatchSource
from market_data_orchestrator.recordings import Recording, progress_of, recorded_source, recordings
from market_data_pipeline.engine import Engine
from market_data_store.state import Job, State

LOG = logging.getLogger(__name__)
REPLAY = "replay"
_POLL_S = 0.2


class Jobs(ABC):
    """Does the jobs of one kind, one after the other.

    Args:
        state: Where jobs are kept.
        kind: Which ones.
        owner: Who works on them; names this process and this object.
        clock: For heartbeats.
    """

    def __init__(self, state: State, *, kind: str, owner: str, clock: Clock) -> None:
        self._state = state
        self._kind = kind
        self._owner = owner
        self._clock = clock

    @property
    def held(self) -> bool:
        """Whether no job is to be begun now."""
        return False

    async def run(self) -> None:
        """Do jobs for ever as they come in."""
        while True:
            try:
                job = None if self.held else await asyncio.to_thread(self._claim)
                await self.look()
                if job is not None:
                    await self.do(job)
                    continue
            except MarketDataError as exc:
                LOG.warning("jobs cannot be looked at now, tried again: %s", exc)
            await asyncio.sleep(_POLL_S)

    def _claim(self) -> Job | None:
        return self._state.claim_job(self._owner, self._clock.now_ns(), kinds=(self._kind,))

    async def look(self) -> None:  # noqa: B027  there need not be anything
        """Do what is to be done every time that jobs are looked for."""

    async def do(self, job: Job) -> None:
        """Do one claimed job to its end; a failure is its result, not ours."""
        now_ns = self._clock.now_ns
        try:
            result = await self.work(job)
        except (MarketDataError, OSError) as exc:
            LOG.warning("%s job %s failed: %s", self._kind, job.id, exc)
            await asyncio.to_thread(self._state.finish_job, job.id, owner=self._owner, now_ns=now_ns(), error=str(exc))
        except asyncio.CancelledError:
            # The service stops; what was done stands, and whoever runs next goes on from there.
            self._state.release_jobs(self._owner, now_ns())
            raise
        else:
            await asyncio.to_thread(self._state.finish_job, job.id, owner=self._owner, now_ns=now_ns(), result=result)

    @abstractmethod
    async def work(self, job: Job) -> dict[str, Any]:
        """Do a job and return its result.

        Raises:
            MarketDataError, OSError: It has failed.
        """


class ReplayJobs(Jobs):
    """Does replay jobs.

    Args:
        state: Where jobs and finished ingests are kept.
        engine: Open.
        owner: Who works on them; names this process.
        clock: For heartbeats.
    """

    def __init__(self, state: State, engine: Engine, *, owner: str, clock: Clock) -> None:
        super().__init__(state, kind=REPLAY, owner=owner, clock=clock)
        self._engine = engine
        self.recent: list[dict[str, Any]] = []
        """The newest jobs of every kind as people see them, newest first."""

    async def look(self) -> None:
        """Read the newest jobs."""
        self.recent = await asyncio.to_thread(self._look)

    def _look(self) -> list[dict[str, Any]]:
        return [shown(job) for job in self._state.list_jobs(limit=20)]

    async def work(self, job: Job) -> dict[str, Any]:
        """Replay what a job names, and store it.

        Returns:
            Counts of files and of events.
        """
        done_before = [ingest.source_id for ingest in self._state.list_ingests()]
        source = recorded_source(job.params, done_before)
        plan = await asyncio.to_thread(recordings, source)
        if job.params.get("symbols"):
            _refuse_part_of_a_file(plan)
        status = self._engine.add(source)
        done = asyncio.ensure_future(self._engine.capture.wait(source.name))
        while not done.done():
            await asyncio.wait({done}, timeout=0.5)
            current = await asyncio.to_thread(self._report, job, source, status)
            if current.cancel_requested:
                await asyncio.to_thread(self._engine.capture.remove, source.name)
                raise MarketDataError("cancelled")
        end = self._engine.log.end
        if status.state == "failed":
            raise MarketDataError(status.problem)
        while not await asyncio.to_thread(self._engine.wait_stored, end, 0.5):
            await asyncio.to_thread(self._report, job, source, status)
            if self._engine.problem:
                raise MarketDataError(self._engine.problem)
        return await asyncio.to_thread(self._register, source, plan, status.events)

    def _report(self, job: Job, source: BatchSource, status: Any) -> Job:
        committed = self._engine.consumers().committed
        waiting = max(status.end - committed, 0)
        progress = {**progress_of(source), "appended": status.events, "to_store": waiting}
        current = self._state.update_job(job.id, progress, owner=self._owner, now_ns=self._clock.now_ns())
        self.recent = self._look()
        return current

    def _register(self, source: BatchSource, plan: Sequence[Recording], appended: int) -> dict[str, Any]:
        progress = progress_of(source)
        offsets = self._engine.resume_offsets()
        new = stored = 0
        for recording in plan:
            if not self._state.ingest_done(recording.source_id):
                new += 1
                # The mark that ends a file counts as one event of its sequence.
                rows = max(offsets.get(recording.source_id, 1) - 1, 0)
                stored += rows
                self._state.register_ingest(recording.source_id, str(recording.path), rows, 0, self._clock.now_ns())
        return {
            "files": progress["files_total"],
            "files_new": new,
            "files_empty": progress["files_empty"],
            "events": stored,
            "events_appended": appended,
            "rejected": progress["rows_rejected"],
        }


def _refuse_part_of_a_file(plan: Sequence[Recording]) -> None:
    # What the store has of a file is known as one row number; of a file taken in part it would say too much, and the
    # other symbols could never be had.
    for recording in plan:
        if recording.whole:
            raise ConfigurationError(f"{recording.path} holds several symbols and is stored whole: leave out --symbols")


def shown(job: Job) -> dict[str, Any]:
    """Return a job as people see it."""
    progress = job.progress
    total, read = progress.get("bytes_total") or 0, progress.get("bytes_read") or 0
    return {
        "id": job.id,
        "kind": job.kind,
        "state": str(job.state),
        "rows": progress.get("appended", 0),
        "rejected": progress.get("rows_rejected", 0),
        "fraction": 1.0 if job.state == "done" else (read / total if total else progress.get("fraction", 0.0)),
        "detail": ", ".join(str(p) for p in job.params.get("paths", ())) or progress.get("detail", ""),
        "error": job.error,
    }
