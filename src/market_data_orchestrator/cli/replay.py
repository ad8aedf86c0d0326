"""``mdo replay``: bring recordings in."""

from __future__ import annotations

import asyncio
import re
import time
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from market_data_core import disk
from market_data_core.clock import SystemClock
from market_data_core.errors import ConfigurationError, LogLocked, MarketDataError, TemporaryUnavailable
from market_data_orchestrator.cli.options import AsJson, DataDir, Tenant
from market_data_orchestrator.cli.output import ERR, OUT, print_json
from market_data_orchestrator.composition import engine_settings, load
from market_data_orchestrator.jobs import REPLAY, ReplayJobs, shown
from market_data_orchestrator.settings import OrchestratorSettings
from market_data_pipeline.engine import Engine, EngineSettings
from market_data_pipeline.locks import lock_file, unlock
from market_data_store.state import Job, State

_GONE_S = 30.0


def replay(
    paths: Annotated[
        list[str],
        typer.Argument(help="Files, folders or globs: CSV, NDJSON, Parquet, also .gz and .zip; Databento; captures."),
    ],
    layout: Annotated[
        str | None, typer.Option(help="Name of a packaged layout, or a YAML file; found by file name when not given.")
    ] = None,
    reader: Annotated[
        str | None,
        typer.Option(help="What reads them: replay, databento or captures; Databento files are known by their names."),
    ] = None,
    symbols: Annotated[str | None, typer.Option(help="Only these, comma-separated.")] = None,
    speed: Annotated[float, typer.Option(min=0, help="Recorded seconds per second; 0 is as fast as possible.")] = 0.0,
    bars: Annotated[str | None, typer.Option(help="Bar intervals, comma-separated [ORCH_BARS].")] = None,
    as_json: AsJson = False,
    data_dir: DataDir = None,
    tenant: Tenant = None,
) -> int:
    """Replay recorded files through the same path that live data takes: log, bars, store.

    Nothing is stored twice: what the store has is known by content, and a replay that was cut off goes on where it
    stopped. While `mdo up` runs on the same data, it does the work.

    Example: mdo replay recordings/20240102_trade.zip
    """
    settings, config = load(data_dir=data_dir, tenant_id=tenant, bars=bars)
    params: dict[str, Any] = {"paths": [_absolute(p) for p in paths], "layout": _layout(layout), "speed": speed}
    if reader:
        params["reader"] = reader
    if symbols:
        params["symbols"] = [s.strip().upper() for s in symbols.split(",") if s.strip()]
    disk.make_dirs(settings.data_path)
    state = State(settings.data_path / "state.db")
    try:
        job = state.enqueue_job(REPLAY, params, SystemClock().now_ns())
        with _progress(as_json) as bar:
            job = _wait(settings, engine_settings(settings, config, consumers="thread"), state, job, bar)
    finally:
        state.close()
    return _report(job, settings, as_json=as_json)


def _absolute(path: str) -> str:
    # The job may be done by a service with another working directory.
    return str(Path(path).absolute())


def _layout(layout: str | None) -> str | None:
    return _absolute(layout) if layout and layout.endswith((".yaml", ".yml")) else layout


def _progress(as_json: bool) -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f} %"),
        TextColumn("{task.fields[rows]:,} events"),
        TimeElapsedColumn(),
        console=ERR,
        disable=as_json or not ERR.is_terminal,
    )


def _wait(settings: OrchestratorSettings, made: EngineSettings, state: State, job: Job, bar: Progress) -> Job:
    task = bar.add_task("replay", total=1.0, rows=0)

    def show(current: Job) -> None:
        seen = shown(current)
        bar.update(task, completed=seen["fraction"], rows=seen["rows"])

    if _somebody_runs(made):
        bar.update(task, description="replay (by the running service)")
        return _wait_for_service(made, state, job.id, show)
    try:
        return asyncio.run(_do(settings, made, state, job.id, show))
    except LogLocked:
        return _wait_for_service(made, state, job.id, show)


def _somebody_runs(made: EngineSettings) -> bool:
    folder = made.log_folder or made.data_dir / "log"
    disk.make_dirs(folder)
    fd = lock_file(folder / "lock")
    if fd < 0:
        return True
    unlock(fd)
    return False


def _wait_for_service(made: EngineSettings, state: State, job_id: int, show: Any) -> Job:
    quiet_since = time.monotonic()
    heard = None
    while True:
        job = state.get_job(job_id)
        show(job)
        if job.finished_ns is not None:
            return job
        if job.heartbeat_ns != heard:
            heard, quiet_since = job.heartbeat_ns, time.monotonic()
        elif time.monotonic() - quiet_since > _GONE_S and not _somebody_runs(made):
            raise TemporaryUnavailable(
                f"the service that had the replay is gone; it goes on when `mdo up` runs again (job {job_id})"
            )
        time.sleep(0.1)


async def _do(settings: OrchestratorSettings, made: EngineSettings, state: State, job_id: int, show: Any) -> Job:
    engine = Engine(made)
    await asyncio.to_thread(engine.open)
    clock = SystemClock()
    owner = f"replay:{time.time_ns()}"
    try:
        jobs = ReplayJobs(state, engine, owner=owner, clock=clock)
        working = asyncio.create_task(_work(jobs, state, owner, job_id), name="replay-job")
        while not working.done():
            await asyncio.wait({working}, timeout=0.1)
            show(state.get_job(job_id))
        await working
    finally:
        await asyncio.to_thread(engine.close, settings.drain_sec)
    return state.get_job(job_id)


async def _work(jobs: ReplayJobs, state: State, owner: str, job_id: int) -> None:
    # Jobs are done in the order they came; one that was cut off before goes first.
    while state.get_job(job_id).finished_ns is None:
        job = state.claim_job(owner, SystemClock().now_ns(), kinds=[REPLAY], stale_after_s=0.0)
        if job is None:
            return
        await jobs.do(job)


def _report(job: Job, settings: OrchestratorSettings, *, as_json: bool) -> int:
    if as_json:
        print_json({"id": job.id, "state": str(job.state), "result": job.result, "error": job.error})
    if job.error:
        # A job keeps the text of its error alone, for whoever did it may be another process; paths in it say nothing.
        said = re.sub(r"(?<!\w)/\S+", "", job.error)
        if "layout" in said or "no file" in said:
            raise ConfigurationError(job.error)
        raise MarketDataError(job.error)
    result = job.result
    if not as_json:
        known = result["files"] - result["files_new"]
        OUT.print(
            f"{result['events']:,} rows taken in from {result['files_new']:,} files"
            + (f", {known:,} files were stored before" if known else "")
            + (
                f", {result['rejected']:,} rows could not be read: see the table quarantine"
                if result["rejected"]
                else ""
            ),
            highlight=False,
            soft_wrap=True,
        )
        OUT.print(
            f'Look: mdo query --data-dir {settings.data_path} "select * from bars limit 5"',  # noqa: S608  a hint to read
            highlight=False,
            soft_wrap=True,
        )
    return 0
