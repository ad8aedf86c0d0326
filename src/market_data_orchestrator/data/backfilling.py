"""``POST /backfill``: have a gap filled from its provider's history."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from starlette.exceptions import HTTPException

from market_data_core import plugins
from market_data_core.errors import RegistryError, ValidationError
from market_data_orchestrator.config import PlatformConfig, ProviderEntry
from market_data_orchestrator.data.rows import BackfillAnswer
from market_data_store.state import Gap, GapState, Job, JobState, State

BACKFILL: Final = "backfill"
"""The kind of the jobs that fill gaps."""

_UNDONE: Final = (JobState.QUEUED, JobState.RUNNING)


def provider_class(entry: ProviderEntry) -> type | None:
    """Return the class of a configured provider, None where it is not installed."""
    try:
        return plugins.load(plugins.PROVIDERS, entry.provider)
    except RegistryError:
        return None


def begin_backfill(
    state: State,
    config: PlatformConfig,
    gap_id: int,
    *,
    now_ns: int,
    key: str | None = None,
    class_of: Callable[[ProviderEntry], type | None] = provider_class,
) -> BackfillAnswer:
    """Record a job that fills a gap, or return the one that is at it.

    A provider can fill gaps if its class has ``request_historical_bars``, as `MarketDataProvider` declares it.
    Nothing is changed where this raises.

    Args:
        state: Has gaps and jobs.
        config: Has the providers.
        gap_id: Which gap.
        now_ns: Now, UTC nanoseconds.
        key: The idempotency key; None for none.
        class_of: Gives the class of a configured provider.

    Raises:
        HTTPException: 404, there is no such gap; 409, it cannot be filled: says why.
        ValidationError: The idempotency key was used for another request.
    """
    try:
        gap = state.get_gap(gap_id)
    except ValidationError as exc:
        raise HTTPException(404, f"There is no gap {gap_id}") from exc
    running = _job_of(state, gap_id)
    if running is not None:
        return _answer(running, gap)
    provider = _filler(gap, config, class_of)
    job = state.enqueue_job(BACKFILL, {"gap_id": gap_id, "provider": provider}, now_ns, idempotency_key=key)
    state.close_gap(gap_id, state=GapState.FILLING)
    return _answer(job, gap)


def _filler(gap: Gap, config: PlatformConfig, class_of: Callable[[ProviderEntry], type | None]) -> str:
    if gap.state is GapState.FILLED:
        raise HTTPException(409, f"Gap {gap.id} is filled already")
    if gap.to_ns is None:
        raise HTTPException(
            409, f"Gap {gap.id} of {gap.vendor} is not over yet; it can be filled once data comes again"
        )
    known = [(entry, class_of(entry)) for entry in config.enabled]
    concerned = [(entry, cls) for entry, cls in known if _gives(entry, cls, gap.vendor)]
    if not concerned:
        raise HTTPException(409, f"No provider that is configured gives data of {gap.vendor}; gap {gap.id} stays open")
    able = [entry.name for entry, cls in concerned if callable(getattr(cls, "request_historical_bars", None))]
    if not able:
        names = ", ".join(entry.name for entry, _ in concerned)
        raise HTTPException(
            409,
            f"Provider {names} cannot give history, so gap {gap.id} of {gap.vendor} cannot be filled and stays open",
        )
    return able[0]


def _gives(entry: ProviderEntry, cls: type | None, vendor: str) -> bool:
    # A gap is of a source by its configured name, of a vendor that the source named, or of everything.
    return vendor in ("*", entry.name) or vendor in getattr(cls, "vendors", ())


def _job_of(state: State, gap_id: int) -> Job | None:
    jobs = state.list_jobs(kind=BACKFILL, states=_UNDONE, limit=1000)
    return next((job for job in jobs if job.params.get("gap_id") == gap_id), None)


def _answer(job: Job, gap: Gap) -> BackfillAnswer:
    return BackfillAnswer(
        job_id=job.id, state=str(job.state), gap_id=gap.id, provider=str(job.params.get("provider", ""))
    )
