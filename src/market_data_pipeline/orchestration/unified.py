"""One runtime with three modes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import replace
from types import TracebackType
from typing import Any, Final, Literal, Self, get_args

from market_data_core.errors import ConfigurationError, PipelineError
from market_data_pipeline.orchestration.dag import GraphRunner
from market_data_pipeline.orchestration.runtime import PipelineRuntime
from market_data_pipeline.orchestration.settings import PipelineRuntimeSettings
from market_data_pipeline.pipeline import PipelineResult, PipelineSpec

Mode = Literal["dag", "streaming", "batch"]
DagRunner = Callable[[Any], Coroutine[Any, Any, Any]]
"""Runs a DAG until it has ended, and is cancelled to end it."""

_MODES: Final = get_args(Mode)


class UnifiedRuntime:
    """Runs one job in one of three modes; an async context manager.

    Args:
        settings: Of the `PipelineRuntime` beneath; by default the synthetic provider.
        mode: ``streaming`` runs a pipeline until it is stopped or its source has ended, whatever duration it names;
            ``batch`` runs it to the end of its source, or of its duration; ``dag`` runs a DAG.
        dag_runner: Runs it, in that mode; by default a `GraphRunner` over the providers of the settings, in their
            pipeline's `data_dir`.

    Raises:
        ConfigurationError: The mode is unknown.
    """

    def __init__(
        self,
        settings: PipelineRuntimeSettings | None = None,
        *,
        mode: Mode = "dag",
        dag_runner: DagRunner | None = None,
    ) -> None:
        if mode not in _MODES:
            raise ConfigurationError(f"mode {mode!r} is none of {', '.join(_MODES)}")
        settings = settings or PipelineRuntimeSettings()
        self.runtime = PipelineRuntime(settings)
        self._mode = mode
        self._dag_runner: DagRunner = dag_runner or GraphRunner(
            settings.pipeline.data_dir, providers=settings.providers
        )
        self._job: asyncio.Task[Any] | None = None

    @property
    def mode(self) -> Mode:
        """How it runs."""
        return self._mode

    @property
    def state(self) -> Literal["idle", "running", "stopped"]:
        """``running`` while there is a job, ``stopped`` after it."""
        if self._job is None:
            return "idle"
        return "stopped" if self._job.done() else "running"

    async def __aenter__(self) -> Self:
        await self.runtime.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            await self.stop()
        finally:
            await self.runtime.__aexit__(kind, value, trace)

    async def run(self, job: PipelineSpec | Mapping[str, Any] | Any) -> Any:
        """Run a pipeline, or in mode ``dag`` a DAG, and wait for its end.

        Returns:
            The pipeline's `PipelineResult`, also if it was stopped, or what the DAG's runner returns; None for a DAG,
            or a pipeline that had not begun, that was stopped.

        Raises:
            PipelineError: A job runs already.
            MarketDataError: What ended it.
        """
        if self.state == "running":
            raise PipelineError("a job runs already; stop it first")
        work = self._dag_runner(job) if self._mode == "dag" else self._run_pipeline(job)
        task = self._job = asyncio.create_task(work, name=f"{self._mode} runtime")
        try:
            await asyncio.wait({task})
        except asyncio.CancelledError:
            await self.stop()
            raise
        return None if task.cancelled() else task.result()

    async def stop(self) -> None:
        """Stop the job, draining it; does nothing where there is none. `run` then returns."""
        if self._job is not None and not self._job.done():
            self._job.cancel()
            await asyncio.wait({self._job})

    async def _run_pipeline(self, job: PipelineSpec | Mapping[str, Any]) -> PipelineResult:
        if not isinstance(job, PipelineSpec):
            job = self.runtime.pipeline_spec(job)
        if self._mode == "streaming":
            job = replace(job, duration_sec=None)
        key = await self.runtime.run_pipeline(job)
        try:
            await self.runtime.wait_pipeline(key)
        except asyncio.CancelledError:
            return await self.runtime.stop_pipeline(key)
        return await self.runtime.stop_pipeline(key)
