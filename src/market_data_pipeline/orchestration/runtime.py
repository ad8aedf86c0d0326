"""Quotes from the configured providers, and pipelines side by side."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import AsyncExitStack, aclosing
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Any, Final, Literal, Self

from market_data_core.clock import Clock, SystemClock
from market_data_core.errors import ConfigurationError, MarketDataError, PipelineError, TemporaryUnavailable
from market_data_core.models import Quote
from market_data_core.protocols import Gap
from market_data_core.telemetry import BackpressureLevel, FeedbackEvent, RateAdjustment
from market_data_pipeline.orchestration.feedback import FeedbackBus, Subscription
from market_data_pipeline.orchestration.rated import RatedSource
from market_data_pipeline.orchestration.rates import RateCoordinator
from market_data_pipeline.orchestration.registry import SourceRegistry
from market_data_pipeline.orchestration.router import SourceRouter
from market_data_pipeline.orchestration.settings import PipelineRuntimeSettings
from market_data_pipeline.pipeline import Pipeline, PipelineResult, PipelineSpec, build_pipeline

_LOG = logging.getLogger(__name__)

SCALES: Final = {BackpressureLevel.OK: 1.0, BackpressureLevel.SOFT: 0.5, BackpressureLevel.HARD: 0.0}
"""The part of its full rate that a source that can wait runs at, by how full the queues are."""

# Pipelines that have ended and are still listed; of more, the oldest are forgotten.
_KEPT_ENDED: Final = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class PipelineStatus:
    """How a pipeline of a runtime is doing.

    Attributes:
        key: As `PipelineRuntime.run_pipeline` gave it.
        state: ``running``, ``done`` or ``failed``.
        problem: Why it failed; empty if it did not.
        result: What it has done so far, or in all.
    """

    key: str
    state: Literal["running", "done", "failed"]
    problem: str
    result: PipelineResult


class PipelineRuntime:
    """Gives quotes of the configured providers and runs pipelines, each on its own; an async context manager.

    Leaving the context ends all pipelines, draining each, and closes what is open.

    Args:
        settings: What it reads and how much it runs; by default the synthetic provider.
        registry: Knows the provider classes; one of its own if None.
        rates: Keeps the providers' budgets; one of its own if None.
        feedback: Slows down sources that can wait by how full queues are; None for nobody. Its owner closes it.
        clock: The system's if None.
    """

    def __init__(
        self,
        settings: PipelineRuntimeSettings | None = None,
        *,
        registry: SourceRegistry | None = None,
        rates: RateCoordinator | None = None,
        feedback: FeedbackBus | None = None,
        clock: Clock | None = None,
    ) -> None:
        self.settings = settings or PipelineRuntimeSettings()
        self.registry = registry or SourceRegistry()
        self._clock = clock or SystemClock()
        self.rates = rates or RateCoordinator(clock=self._clock)
        self._feedback = feedback
        self._stack = AsyncExitStack()
        self._group: asyncio.TaskGroup | None = None
        self._is_over = False
        # By coordinator, what it said last; and the providers known to be able to wait.
        self._levels: dict[str, FeedbackEvent] = {}
        self._waiting: set[str] = set()
        self._runs: dict[str, _Run] = {}
        self._routers: set[SourceRouter] = set()
        self.gaps: deque[Gap] = deque(maxlen=1000)
        """What is missing in the quotes of `stream_quotes` so far, newest last; the last thousand."""

    async def __aenter__(self) -> Self:
        if self._group is not None:
            raise PipelineError("the runtime has been started before; make a new one")
        self._register_providers()
        async with AsyncExitStack() as stack:
            self._group = await stack.enter_async_context(asyncio.TaskGroup())
            if self._feedback is not None:
                listener = self._feedback.subscribe()
                stack.push_async_callback(listener.aclose)
                self._group.create_task(self._listen(listener), name="runtime: feedback")
            stack.push_async_callback(self._end)
            self._stack = stack.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        # Not told what ended the block: a task group would wrap it, and it goes on its way by itself.
        del kind, value, trace
        await self._stack.aclose()

    async def stream_quotes(self, symbols: Sequence[str] | None = None) -> AsyncGenerator[Quote, None]:
        """Give quotes as they arrive, from one provider at a time.

        What may be missing where one provider followed another is in `gaps`.

        Args:
            symbols: What to subscribe to; None for what each provider's settings, or the provider itself, say.

        Raises:
            ConfigurationError: No provider is enabled, or one does not take what it is given.
            RegistryError: A provider is unknown.
        """
        self._tasks()
        router = self._router(symbols)
        await self._apply_levels()
        self._routers.add(router)
        try:
            async with aclosing(router.stream()) as events:
                async for event in events:
                    if isinstance(event, Quote):
                        yield event
                    elif isinstance(event, Gap):
                        self.gaps.append(event)
        finally:
            self._routers.discard(router)
            await router.close()

    async def run_pipeline(self, spec: PipelineSpec | Mapping[str, Any]) -> str:
        """Start a pipeline and return its key, ``<tenant>/<pipeline>``.

        Args:
            spec: The pipeline, or its fields where they are not those of the settings' `pipeline`.

        Raises:
            ConfigurationError: The specification is wrong.
            PipelineError: A pipeline of this key runs already.
            TemporaryUnavailable: As many run as may.
            MarketDataError: It cannot be started, such as when another process runs its directory.
        """
        group = self._tasks()
        if not isinstance(spec, PipelineSpec):
            spec = self.pipeline_spec(spec)
        key = f"{spec.tenant_id}/{spec.pipeline_id}"
        running = [k for k, run in self._runs.items() if run.is_running]
        if key in running:
            raise PipelineError(f"pipeline {key} runs already; stop it first")
        if len(running) >= self.settings.max_concurrent_pipelines:
            raise TemporaryUnavailable(
                f"pipeline {key}: {len(running)} run already, which is max_concurrent_pipelines; stop one first"
            )
        pipeline = build_pipeline(spec, clock=self._clock)
        run = _Run(key, pipeline, spec.duration_sec, self._clock)
        previous = self._runs.pop(key, None)
        self._runs[key] = run  # holds the place while it starts
        try:
            await pipeline.start()
        except BaseException:
            del self._runs[key]
            if previous is not None:
                self._runs[key] = previous
            raise
        if self._is_over:
            await pipeline.stop()
            raise PipelineError(f"pipeline {key}: the runtime ended while it was started")
        run.task = group.create_task(run.see_through(), name=f"runtime: {key}")
        self._forget()
        return key

    def pipeline_spec(self, given: Mapping[str, Any]) -> PipelineSpec:
        """Return the pipeline that some fields describe together with the settings' `pipeline`.

        Raises:
            ConfigurationError: A field is unknown, missing or wrong.
        """
        try:
            return self.settings.pipeline.spec(dict(given))
        except TypeError as exc:
            raise ConfigurationError(f"pipeline specification: {exc}") from exc

    async def wait_pipeline(self, key: str) -> None:
        """Wait until a pipeline has ended; it stays listed.

        Raises:
            PipelineError: There is none of that key.
        """
        task = self._get(key).task
        if task is not None:
            await asyncio.wait({task})

    async def list_pipelines(self) -> dict[str, PipelineStatus]:
        """Return the pipelines that run, and those that ended by themselves and were not stopped since, by key."""
        return {key: run.status() for key, run in self._runs.items() if run.task is not None}

    async def stop_pipeline(self, key: str) -> PipelineResult:
        """Stop a pipeline, write what it took in, and forget it; returns what it came to.

        Raises:
            PipelineError: There is none of that key.
            MarketDataError: What it failed with.
        """
        run = self._get(key)
        try:
            await run.stop()
        finally:
            if not run.is_running and self._runs.get(key) is run:
                del self._runs[key]
        if run.failure is not None:
            raise run.failure
        return run.result

    def _tasks(self) -> asyncio.TaskGroup:
        if self._group is None or self._is_over:
            raise PipelineError("the runtime is not running; use it as `async with PipelineRuntime() as runtime`")
        return self._group

    def _get(self, key: str) -> _Run:
        run = self._runs.get(key)
        if run is None or run.task is None:
            raise PipelineError(f"no pipeline {key!r}; there are: {', '.join(self._runs) or 'none'}")
        return run

    # For live feeds until a source has been made and says that it can wait.
    def _register_providers(self) -> None:
        for name, provider in self.settings.providers.items():
            if provider.enabled and name not in self.rates.providers:
                self._register(name, waits=False)

    def _register(self, name: str, *, waits: bool) -> None:
        self.rates.register_provider(
            name,
            **dict(self.settings.providers[name].pacing),
            breaker_threshold=self.settings.circuit_breaker_threshold,
            breaker_timeout=self.settings.circuit_breaker_timeout_sec,
            waits=waits,
        )
        if waits:
            self._waiting.add(name)

    def _router(self, symbols: Sequence[str] | None) -> SourceRouter:
        enabled = [name for name, provider in self.settings.providers.items() if provider.enabled]
        if not enabled:
            raise ConfigurationError("providers: none is enabled")
        if not self.settings.orchestration_enabled:
            enabled = enabled[:1]
        return SourceRouter(
            sources=[self._source(name, symbols) for name in enabled],
            strategy=self.settings.router_strategy,
            clock=self._clock,
            breaker_threshold=self.settings.circuit_breaker_threshold,
            breaker_timeout=self.settings.circuit_breaker_timeout_sec,
        )

    def _source(self, name: str, symbols: Sequence[str] | None) -> Any:
        provider = self.settings.providers[name]
        wanted = symbols if symbols is not None else provider.symbols
        given = provider.params if wanted is None else {**provider.params, "symbols": list(wanted)}
        made = self.registry.load(name)
        try:
            source = made(**given)
        except (TypeError, ValueError) as exc:
            raise ConfigurationError(f"providers: {name!r} cannot be made with {given!r}: {exc}") from exc
        if not self.settings.enable_rate_coordination:
            return source
        if getattr(source, "waits", False) and name not in self._waiting:
            self._register(name, waits=True)
        return RatedSource(source, provider=name, rates=self.rates)

    async def _listen(self, listener: Subscription) -> None:
        async for event in listener:
            self._levels[event.coordinator_id] = event
            await self._apply_levels()

    # The fullest queue decides.
    async def _apply_levels(self) -> None:
        worst = min(self._levels.values(), key=lambda e: SCALES[e.level], default=None)
        if worst is None:
            return
        for name in self.rates.providers:
            adjustment = RateAdjustment(provider=name, scale=SCALES[worst.level], reason=worst.level, ts=worst.ts)
            await self.rates.apply(adjustment)

    async def _end(self) -> None:
        self._is_over = True
        for router in tuple(self._routers):
            await router.close()
        running = [run for run in self._runs.values() if run.task is not None and run.is_running]
        for problem in await asyncio.gather(*(run.stop() for run in running), return_exceptions=True):
            if isinstance(problem, BaseException):
                _LOG.error("a pipeline could not be stopped: %s", problem)
        for run in running:
            if run.failure is not None:
                _LOG.warning("pipeline %s failed at the end of the runtime: %s", run.key, run.failure)

    def _forget(self) -> None:
        ended = [key for key, run in self._runs.items() if run.task is not None and not run.is_running]
        for key in ended[:-_KEPT_ENDED]:
            del self._runs[key]


class _Run:
    def __init__(self, key: str, pipeline: Pipeline, duration_s: float | None, clock: Clock) -> None:
        self.key = key
        self.task: asyncio.Task[None] | None = None
        self.failure: MarketDataError | None = None
        self._pipeline = pipeline
        self._duration_s = duration_s
        self._clock = clock
        self._timed_out = False

    @property
    def is_running(self) -> bool:
        return self.task is None or not self.task.done()

    @property
    def result(self) -> PipelineResult:
        result = self._pipeline.result
        return replace(result, ended_by="duration") if self._timed_out and result.ended_by == "stop" else result

    def status(self) -> PipelineStatus:
        state: Literal["running", "done", "failed"] = "running"
        if not self.is_running:
            state = "done" if self.failure is None else "failed"
        return PipelineStatus(key=self.key, state=state, problem=str(self.failure or ""), result=self.result)

    # The supervisor of one pipeline: what it fails with is kept, and the others go on.
    async def see_through(self) -> None:
        try:
            async with asyncio.TaskGroup() as group:
                over = None
                if self._duration_s is not None:
                    over = group.create_task(self._end_after(self._duration_s), name=f"runtime: {self.key} duration")
                await self._pipeline.wait()
                if over is not None and not self._timed_out:
                    over.cancel()
        except* Exception as failures:  # noqa: BLE001  see above
            failure = failures.exceptions[0]
            if not isinstance(failure, MarketDataError):
                _LOG.error("pipeline %s broke", self.key, exc_info=failure)
                broken = PipelineError(f"pipeline {self.key} broke: {type(failure).__name__}: {failure}")
                broken.__cause__ = failure
                failure = broken
            self.failure = failure

    async def stop(self) -> None:
        try:
            await self._pipeline.stop()
        except MarketDataError as exc:
            # The same that ends `see_through`, or what only the drain found out.
            self.failure = self.failure or exc
        if self.task is not None:
            await asyncio.wait({self.task})

    async def _end_after(self, duration_s: float) -> None:
        await self._clock.sleep(duration_s)
        self._timed_out = True
        await self._pipeline.stop()
