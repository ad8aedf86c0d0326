"""The worker that fills gaps."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any, Final, TypeVar

from market_data_core.clock import NS_PER_SECOND, Clock
from market_data_core.errors import (
    ConfigurationError,
    MarketDataError,
    PacingViolation,
    ProviderError,
    TemporaryUnavailable,
    ValidationError,
)
from market_data_core.models import Bar
from market_data_orchestrator.backfill.asking import (
    BACKFILL,
    NOT_FILLABLE,
    begin_backfill,
    provider_class,
    providers_of,
)
from market_data_orchestrator.backfill.windows import Request, requests_of, rows_of, series_of
from market_data_orchestrator.config import PlatformConfig
from market_data_orchestrator.jobs import Jobs
from market_data_pipeline.capture import Capture
from market_data_pipeline.orchestration import RateCoordinator
from market_data_store import open_backend
from market_data_store.backend import Backend, Upserted, Wanted
from market_data_store.state import Gap, GapState, Job, JobState, State

LOG = logging.getLogger(__name__)
T = TypeVar("T")

_HEARTBEAT_S: Final = 0.5
_SETTLE_S: Final = 5.0
_ATTEMPTS: Final = 5
_PAUSE_S: Final = 2.0
_FRUITLESS: Final = 3
_LOOK_S: Final = 2.0
# What a provider that says nothing of its budget is asked: one request a second after a few at once.
_BUDGET: Final[Mapping[str, float]] = {"capacity": 10, "refill_rate": 1, "cooldown_sec": 30}


class BackfillJobs(Jobs):
    """Fills gaps from their providers' history, one job after the other, and begins the jobs by itself.

    What is stored are bars of the vendor's own making, at the lengths that the graph makes bars of: beside the bars
    made from ticks, under a key of their own (``source=external``). Ticks that are sampled live cannot be had again.
    Bars are upserted, so the same job again, or after a crash, changes nothing. A gap is ``filled`` once every bar that
    the provider gave was read back from the store; ``unfillable``, and says why, if the provider refused for good.

    Args:
        state: Has gaps and jobs.
        capture: Runs the providers; they are asked on its loop, so that live data and history share one connection
            and one budget.
        config: Gives the configuration that is in force.
        paused: Says whether intake is paused; nothing is asked for, or stored, while it is.
        store: Address of the store,
        tenant: and whose data.
        owner: Names this process.
        clock: Tells the time.
        automatic: Whether gaps that are over are filled without being asked.
        settle_s: How long after the end of a gap's last bar the provider is asked for it.
    """

    def __init__(
        self,
        state: State,
        capture: Capture,
        *,
        config: Callable[[], PlatformConfig],
        paused: Callable[[], bool],
        store: str,
        tenant: str,
        owner: str,
        clock: Clock,
        automatic: bool = True,
        settle_s: float = _SETTLE_S,
    ) -> None:
        super().__init__(state, kind=BACKFILL, owner=f"{owner}:backfill", clock=clock)
        self._capture = capture
        self._config = config
        self._paused = paused
        self._place = (store, tenant)
        self._automatic = automatic
        self._settle_s = settle_s
        self._looked_s = -_LOOK_S
        self.rates = RateCoordinator(clock=clock)
        """How often each provider that gives history may still be asked for it."""
        self._register()

    @property
    def held(self) -> bool:
        """While intake is paused."""
        return self._paused()

    async def look(self) -> None:
        """Begin jobs for gaps that are over and that somebody can fill."""
        now_s = self._clock.monotonic_s()
        if now_s - self._looked_s < _LOOK_S or self.held:
            return
        self._looked_s = now_s
        self._register()
        if self._automatic and self.rates.providers:
            await asyncio.to_thread(self._begin_all)

    def _register(self) -> None:
        known = set(self.rates.providers)
        for entry in self._config().enabled:
            cls = provider_class(entry)
            if entry.name not in known and hasattr(cls, "request_historical_bars"):
                self.rates.register_provider(entry.name, **{**_BUDGET, **getattr(cls, "history_budget", {})})

    def _begin_all(self) -> None:
        config = self._config()
        jobs: dict[int, list[Job]] = {}
        for job in self._state.list_jobs(kind=BACKFILL, limit=1000):
            jobs.setdefault(job.params["gap_id"], []).append(job)
        for gap in self._state.list_gaps(states=[GapState.OPEN], limit=1000):
            if gap.to_ns is None or not providers_of(gap, config).able or not self._is_due(jobs.get(gap.id, [])):
                continue
            with contextlib.suppress(ValidationError):  # somebody was faster
                begin_backfill(self._state, config, gap.id, now_ns=self._clock.now_ns())

    def _is_due(self, jobs: Sequence[Job]) -> bool:
        # After failures later and later, and not for ever: then it is for people to look at.
        failed = [job for job in jobs if job.state is not JobState.DONE]
        if not failed:
            return True
        waited_s = (self._clock.now_ns() - (failed[0].finished_ns or 0)) / NS_PER_SECOND
        return len(failed) < _FRUITLESS and waited_s >= 60 * 4 ** len(failed)

    async def work(self, job: Job) -> dict[str, Any]:
        """Fill a gap, or say why it cannot be.

        Returns:
            ``requests``, ``bars`` that came, and of these ``inserted``, ``revised``, ``unchanged``; ``refused``: what
            the provider does not give, and why.

        Raises:
            MarketDataError: It did not work, the gap is open again, and it may work another time.
        """
        gap = await asyncio.to_thread(self._state.get_gap, int(job.params["gap_id"]))
        try:
            result = await self._fill(job, gap)
        except (MarketDataError, OSError) as exc:
            await self._mark(gap, GapState.OPEN, f"not filled: {exc}")
            raise
        left_out = result["refused"]
        said = f"{result['bars']} bars stored and read back in {result['requests']} requests"
        detail = "; ".join([said, *left_out])
        await self._mark(gap, GapState.UNFILLABLE if left_out else GapState.FILLED, detail)
        if left_out:
            raise ValidationError(detail, NOT_FILLABLE)
        return result

    async def _mark(self, gap: Gap, state: GapState, detail: str) -> None:
        began = f"{gap.detail.split(' | ', 1)[0]} | " if gap.detail else ""
        await asyncio.to_thread(self._state.close_gap, gap.id, state=state, detail=began + detail)

    async def _fill(self, job: Job, gap: Gap) -> dict[str, Any]:
        config = self._config()
        found = providers_of(gap, config)
        # Of a job that waited over a reload the providers may be gone.
        wanted = [e for e in found.able if e.name in job.params["providers"]]
        requests = requests_of(gap, wanted, series_of(config.graph))
        if not requests:
            raise TemporaryUnavailable(
                f"gap {gap.id}: none of its providers {job.params['providers']} is configured now"
            )
        refused = [f"{entry.name} gives no history" for entry in found.unable]
        total, done = Upserted(), 0
        with contextlib.closing(open_backend(*self._place)) as store:
            for at, request in enumerate(requests):
                heart = _Heart(self._beating(job, bars=done, fraction=at / len(requests), detail=str(request)))
                try:
                    bars = await self._asked(request, heart)
                except (ConfigurationError, ProviderError) as exc:
                    if exc.retryable:
                        raise
                    refused.append(f"{request}: {exc}")
                    continue
                await self._while_paused(heart)
                reason = f"backfill of gap {gap.id}"
                total += await heart.during(asyncio.to_thread(self._store, store, request, bars, reason))
                done += len(bars)
        counts = {"inserted": total.inserted, "revised": total.revised, "unchanged": total.unchanged}
        return {"requests": len(requests), "bars": done, **counts, "refused": refused}

    async def _asked(self, request: Request, heart: _Heart) -> Sequence[Bar]:
        # The newest bar is whole only some time after it has ended.
        wait_s = (request.end_ns - self._clock.now_ns()) / NS_PER_SECOND + self._settle_s
        if wait_s > 0:
            await heart.during(self._clock.sleep(wait_s))
        attempt = 1
        while True:
            await self._while_paused(heart)
            try:
                return await self._answer(request, heart)
            except MarketDataError as exc:
                if attempt == _ATTEMPTS or not exc.retryable:
                    raise
                pause_s = exc.retry_after_sec or _PAUSE_S * 2**attempt
            attempt += 1
            await heart.during(self._clock.sleep(pause_s))

    async def _answer(self, request: Request, heart: _Heart) -> Sequence[Bar]:
        name = request.provider
        await heart.during(self.rates.acquire(name))
        try:
            bars = await heart.during(self._capture.ask(name, lambda source: _question(source, request)))
        except PacingViolation:
            # The provider counts otherwise than we do, and its count is the one that matters.
            await self.rates.trigger_cooldown(name)
            raise
        except MarketDataError as exc:
            # One that says no is there all the same.
            await (self.rates.record_failure(name) if exc.retryable else self.rates.record_success(name))
            raise
        await self.rates.record_success(name)
        return bars

    def _beating(self, job: Job, *, bars: int, fraction: float, detail: str) -> Callable[[], None]:
        progress = {"appended": bars, "fraction": fraction, "detail": detail}

        def beat() -> None:
            now_ns = self._clock.now_ns()
            if self._state.update_job(job.id, progress, owner=self._owner, now_ns=now_ns).cancel_requested:
                raise TemporaryUnavailable("cancelled")

        return beat

    async def _while_paused(self, heart: _Heart) -> None:
        while self._paused():
            await heart.during(self._clock.sleep(_HEARTBEAT_S))

    def _store(self, store: Backend, request: Request, bars: Sequence[Bar], reason: str) -> Upserted:
        if not bars:
            return Upserted()
        done = store.upsert("bars", rows_of(bars, reason=reason), now_ns=self._clock.now_ns())
        named = {"interval": request.interval, "what": request.what, "source": "external"}
        wanted = Wanted(start_ns=request.start_ns, end_ns=request.end_ns, symbols=(request.symbol,), equal=named)
        there = set(store.fetch("bars", wanted, columns=["ts_event"]).column("ts_event").to_pylist())
        missing = [bar.ts_event_ns for bar in bars if bar.ts_event_ns not in there]
        if missing:
            raise TemporaryUnavailable(f"{request}: {len(missing)} of {len(bars)} bars were stored and cannot be read")
        return done


async def _question(source: Any, request: Request) -> Sequence[Bar]:
    found: Sequence[Bar] = await source.request_historical_bars(
        request.symbol, request.interval, start_ns=request.start_ns, end_ns=request.end_ns, what=request.what
    )
    return found


class _Heart:
    # Says that a job lives while something is waited for, and stops the wait when it must not go on.
    def __init__(self, beat: Callable[[], None]) -> None:
        self._beat = beat

    async def during(self, work: Coroutine[Any, Any, T]) -> T:
        task = asyncio.ensure_future(work)
        try:
            while True:
                await asyncio.to_thread(self._beat)
                done, _ = await asyncio.wait({task}, timeout=_HEARTBEAT_S)
                if done:
                    return task.result()
        finally:
            task.cancel()
