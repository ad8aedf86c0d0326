"""Which gaps can be filled, and the jobs that do it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from market_data_core import plugins
from market_data_core.errors import RegistryError, ValidationError
from market_data_core.protocols import HistoricalBars
from market_data_orchestrator.config import PlatformConfig, ProviderEntry
from market_data_store.state import Gap, GapState, Job, JobState, State

BACKFILL: Final = "backfill"
"""The kind of the jobs that fill gaps."""
NOT_FILLABLE: Final = "not_fillable"
"""The code of the error that says why a gap cannot be filled."""

_UNDONE: Final = (JobState.QUEUED, JobState.RUNNING)

ClassOf = Callable[[ProviderEntry], type | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Providers:
    """Whose gap it is.

    Attributes:
        able: Configured providers that give the gap's data and its history.
        unable: Those that give the data and no history of it.
    """

    able: tuple[ProviderEntry, ...]
    unable: tuple[ProviderEntry, ...]


def provider_class(entry: ProviderEntry) -> type | None:
    """Return the class of a configured provider, None where it is not installed."""
    try:
        return plugins.load(plugins.PROVIDERS, entry.provider)
    except RegistryError:
        return None


def providers_of(gap: Gap, config: PlatformConfig, class_of: ClassOf = provider_class) -> Providers:
    """Return which configured providers a gap is of.

    A gap is of a provider by its configured name, of a vendor that the provider says it gives, or of everything.
    """
    known = [(entry, class_of(entry)) for entry in config.enabled]
    concerned = [(e, c) for e, c in known if gap.vendor in ("*", e.name, *getattr(c, "vendors", ()))]
    return Providers(
        able=tuple(entry for entry, cls in concerned if _gives_history(cls)),
        unable=tuple(entry for entry, cls in concerned if not _gives_history(cls)),
    )


def begin_backfill(
    state: State,
    config: PlatformConfig,
    gap_id: int,
    *,
    now_ns: int,
    key: str | None = None,
    class_of: ClassOf = provider_class,
) -> Job:
    """Record a job that fills a gap, or return the one that is at it. Nothing is changed where this raises.

    Args:
        state: Has gaps and jobs.
        config: Has the providers.
        gap_id: Which gap.
        now_ns: Now, UTC nanoseconds.
        key: The idempotency key; None for none.
        class_of: Gives the class of a configured provider.

    Raises:
        ValidationError: Code ``not_found``: there is no such gap; ``not_fillable``: it cannot be filled, and says why;
            ``idempotency_conflict``: the key was used for another request.
    """
    gap = state.get_gap(gap_id)
    at_it = next((job for job in jobs_of(state, gap_id) if job.state in _UNDONE), None)
    if at_it is not None:
        return at_it
    names = [entry.name for entry in _able(gap, config, class_of)]
    return state.enqueue_job(BACKFILL, {"gap_id": gap_id, "providers": names}, now_ns, key, fills=gap_id)


def jobs_of(state: State, gap_id: int) -> list[Job]:
    """Return the jobs of one gap among the newest thousand, newest first."""
    return [job for job in state.list_jobs(kind=BACKFILL, limit=1000) if job.params.get("gap_id") == gap_id]


def _able(gap: Gap, config: PlatformConfig, class_of: ClassOf) -> tuple[ProviderEntry, ...]:
    if gap.state is GapState.FILLED:
        raise _refused(f"Gap {gap.id} is filled already")
    if gap.to_ns is None:
        raise _refused(f"Gap {gap.id} of {gap.vendor} is not over yet; it can be filled once data comes again")
    found = providers_of(gap, config, class_of)
    if found.able:
        return found.able
    if not found.unable:
        raise _refused(f"No provider that is configured gives data of {gap.vendor}; gap {gap.id} stays open")
    names = ", ".join(entry.name for entry in found.unable)
    raise _refused(
        f"Provider {names} cannot give history, so gap {gap.id} of {gap.vendor} cannot be filled and stays open"
    )


def _refused(why: str) -> ValidationError:
    return ValidationError(why, NOT_FILLABLE)


def _gives_history(cls: type | None) -> bool:
    return isinstance(cls, type) and issubclass(cls, HistoricalBars)
