"""Capture: from sources into the log, on an event loop of its own that does nothing else."""

from __future__ import annotations

import asyncio
import logging
import sys
import threading
from collections.abc import Callable, Coroutine, Mapping
from concurrent.futures import Future
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any, Protocol, TypeVar

import numpy as np
import pyarrow as pa

from market_data_core.batch import SourceBatch, plain_values
from market_data_core.clock import NS_PER_SECOND, Clock, SystemClock
from market_data_core.errors import LogFull, MarketDataError, TemporaryUnavailable
from market_data_core.protocols import BatchSource, Gap, Mark
from market_data_core.schemas import Flag
from market_data_pipeline.log import EventLog
from market_data_pipeline.loops import loop_factory
from market_data_pipeline.taps import Taps

LOG = logging.getLogger(__name__)

T = TypeVar("T")


class GapListener(Protocol):
    """Who is told of gaps in live sources."""

    def __call__(self, source: str, cause: str, *, begins: bool) -> None:
        """Take note that a gap begins, or ends; called by the capture thread."""
        ...


def _ignore_gap(source: str, cause: str, *, begins: bool) -> None:
    del source, cause, begins


def _ignore_marker(gap: Gap) -> None:
    del gap


@dataclass(frozen=True, slots=True, kw_only=True)
class CaptureSettings:
    """How events are taken in.

    Attributes:
        barrier_s: How long events may wait before operators run over them.
        idle_mark_s: How often a live source's time is put on record, so that quiet instruments' windows close.
        idle_lateness_s: How far behind our clock that time is: what may still be on its way.
        lag_rows: A source that can wait is slowed to half above this many events not yet stored,
        lag_rows_hard: and waits above this many.
        full_retry_s: How often a log that is full is tried again.
    """

    barrier_s: float = 0.1
    idle_mark_s: float = 1.0
    idle_lateness_s: float = 2.0
    lag_rows: int = 2_000_000
    lag_rows_hard: int = 4_000_000
    full_retry_s: float = 0.1


@dataclass(slots=True)
class SourceStatus:
    """How a source is doing.

    Attributes:
        name: Of the source.
        state: ``pending`` before the first event, ``live``, ``waiting`` (for room or for the store), ``paused``,
            ``done``, ``failed`` or ``stopped``.
        problem: Why it failed or waits.
        events: Appended since it was started.
        refused: Live events for which the log had no room.
        ts_event: Time of the newest event, UTC nanoseconds.
        ts_recv: When the newest event came, UTC nanoseconds.
        end: Exclusive log position of its newest event.
        discarded: Live events that came while intake was paused.
        scale: How fast it may go, 0 to 1.
    """

    name: str
    state: str = "pending"
    problem: str = ""
    events: int = 0
    refused: int = 0
    ts_event: int = 0
    ts_recv: int = 0
    end: int = 0
    discarded: int = 0
    scale: float = 1.0


class Capture:
    """Takes events from sources into the log.

    Runs its own event loop in its own thread: no operator, query, commit or JSON can hold it up.

    Args:
        log: Where events go.
        taps: Who looks on, after appending.
        clock: Stamps receive times.
        settings: How events are taken in.
        stored_to: Says to what position everything is stored; slows down sources that can wait.
        gap: Told of the beginning and end of a gap in a live source.
        marker: Told of the gaps that sources themselves speak of; called by the capture thread.
    """

    def __init__(
        self,
        log: EventLog,
        *,
        taps: Taps | None = None,
        clock: Clock | None = None,
        settings: CaptureSettings | None = None,
        stored_to: Callable[[], int] | None = None,
        gap: GapListener | None = None,
        marker: Callable[[Gap], None] | None = None,
    ) -> None:
        self.pressure = 1.0
        """How fast sources that can wait may go for the sake of others, 0 to 1; may be set from any thread."""
        self.taps = taps or Taps()
        self.sources: dict[str, SourceStatus] = {}
        self._log = log
        self._clock = clock or SystemClock()
        self._settings = settings or CaptureSettings()
        self._stored_to = stored_to
        self._gap = gap or _ignore_gap
        self._marker = marker or _ignore_marker
        self._loop: asyncio.AbstractEventLoop | None = None
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._main, name="capture", daemon=True)
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._running: dict[str, BatchSource] = {}
        # What the idle marks speak of: by (vendor, source id) of live sources, the offset given last.
        self._live: dict[tuple[str, str], tuple[int, BatchSource]] = {}
        self._ending = False
        self._paused = False

    def start(self) -> None:
        """Start the loop; sources can be added once this returns."""
        self._thread.start()
        self._ready.wait()

    def _main(self) -> None:
        with asyncio.Runner(loop_factory=loop_factory()) as runner:
            runner.run(self._serve())

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._over = asyncio.Event()
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._ready.set()
        async with asyncio.TaskGroup() as group:
            self._group = group
            ticking = group.create_task(self._tick(), name="capture-tick")
            await self._over.wait()
            ticking.cancel()
            for task in self._tasks.values():
                task.cancel()

    def _call(self, work: Coroutine[Any, Any, Any]) -> Future[Any]:
        if self._loop is None:
            work.close()
            raise RuntimeError("capture is not started")
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    def add(self, source: BatchSource, resume: Mapping[str, int]) -> SourceStatus:
        """Begin to take events from a source; returns its status, which stays up to date.

        Args:
            source: What to take from.
            resume: From where each of its sequences goes on.
        """
        status = SourceStatus(source.name)
        self.sources[source.name] = status

        async def begin() -> None:
            self._running[source.name] = source
            self._tasks[source.name] = self._group.create_task(
                self._take(source, dict(resume), status), name=f"source-{source.name}"
            )

        self._call(begin()).result()
        return status

    def remove(self, name: str, timeout_s: float = 5.0) -> None:
        """Stop taking from a source; what it has given stands."""

        async def end() -> None:
            task = self._tasks.get(name)
            source = self._running.get(name)
            if source is not None:
                await source.close()
            if task is not None:
                done, _ = await asyncio.wait({task}, timeout=timeout_s)
                if not done:
                    task.cancel()
                    await asyncio.wait({task})

        self._call(end()).result()

    def pause(self) -> None:
        """Take nothing more in: once this returns, nothing that comes is logged.

        A source that can wait is held; what a live one gives meanwhile is gone.
        """
        self._set_paused(value=True)

    def resume(self) -> None:
        """Take in again."""
        self._set_paused(value=False)

    def _set_paused(self, *, value: bool) -> None:
        async def set_() -> None:
            # On the loop that appends, so no batch is half way in.
            self._paused = value
            if value:
                self._flowing.clear()
            else:
                self._flowing.set()

        self._call(set_()).result()

    @property
    def live(self) -> list[str]:
        """The names of running sources that cannot wait."""
        return [name for name, source in list(self._running.items()) if not source.waits]

    def stop(self, timeout_s: float = 5.0) -> None:
        """Stop all sources and the loop; may be called twice."""
        if self._loop is None or not self._thread.is_alive():
            return
        self._ending = True
        for name in list(self._running):
            self.remove(name, timeout_s)
        self._loop.call_soon_threadsafe(self._over.set)
        self._thread.join(timeout_s)

    async def ask(self, name: str, question: Callable[[BatchSource], Coroutine[Any, Any, T]]) -> T:
        """Ask a running source something, on the loop that it belongs to, from any other.

        Args:
            name: Of the source.
            question: Makes what is awaited; it shares the loop with intake, so it must not keep it.

        Raises:
            TemporaryUnavailable: No source of that name is running.
        """
        source = self._running.get(name)
        if source is None:
            raise TemporaryUnavailable(f"provider {name} is not running, so it cannot be asked")
        answer: T = await asyncio.wrap_future(self._call(question(source)))
        return answer

    async def wait(self, name: str) -> None:
        """Wait, on any event loop, until a source has ended."""
        task = self._tasks.get(name)
        if task is None:
            return

        async def ended() -> None:
            await asyncio.wait({task})

        await asyncio.wrap_future(self._call(ended()))

    async def _take(self, source: BatchSource, resume: Mapping[str, int], status: SourceStatus) -> None:
        try:
            async for item in source.batches(resume):
                if self._paused and not await self._hold(source, status, item):
                    continue
                await self._give_way(source, status)
                if isinstance(item, Mark):
                    await self._append(source, status, partial(self._log.mark, item, origin=source.origin))
                elif isinstance(item, Gap):
                    self._log.control("gap", {"source": source.name, **asdict(item), "symbols": list(item.symbols)})
                    self._marker(item)
                else:
                    await self._take_batch(source, status, item)
            status.state = "stopped" if self._ending else "done"
        except asyncio.CancelledError:
            status.state = "stopped"
            raise
        except Exception as exc:  # the supervisor of this source: the others go on
            status.state, status.problem = "failed", str(exc)
            LOG.error("source %s failed: %s", source.name, exc, exc_info=not isinstance(exc, MarketDataError))
        finally:
            self._log.barrier()
            self._running.pop(source.name, None)
            self._tasks.pop(source.name, None)
            self._live = {k: v for k, v in self._live.items() if v[1] is not source}
            await source.close()

    # While intake is paused. True if the item may be taken after all, because its source waited for that.
    async def _hold(self, source: BatchSource, status: SourceStatus, item: object) -> bool:
        status.state = "paused"
        if not source.waits:
            status.discarded += item.data.num_rows if isinstance(item, SourceBatch) else 0
            if isinstance(item, Gap):
                # It may have begun before the pause, and nobody will say it again.
                self._marker(item)
            return False
        await self._flowing.wait()
        return True

    async def _take_batch(self, source: BatchSource, status: SourceStatus, batch: SourceBatch) -> None:
        rows = batch.data.num_rows
        if not rows:
            return
        batch = stamped(batch, self._clock.now_ns())
        first = await self._append(source, status, partial(self._log.append, batch, origin=source.origin))
        if first is None:
            status.refused += rows
            return
        status.events += rows
        status.end = first + rows
        status.state = "live"
        status.ts_event = int(plain_values(batch.data.column(1), np.int64)[-1])
        status.ts_recv = int(plain_values(batch.data.column(2), np.int64)[-1])
        if not source.waits:
            self._live[(batch.instruments[0].vendor, batch.source_id)] = (batch.offset, source)
        self.taps.publish(batch, first, source.origin)

    async def _append(self, source: BatchSource, status: SourceStatus, append: Callable[[], int]) -> int | None:
        refused = False
        while True:
            try:
                first = append()
            except LogFull as exc:
                status.problem = str(exc)
                if not source.waits:
                    if status.state != "waiting":
                        status.state = "waiting"
                        self._gap(source.name, "log_full", begins=True)
                    return None
                refused = True
                status.state = "waiting"
                await asyncio.sleep(self._settings.full_retry_s)
            else:
                if status.state == "waiting" and (refused or not source.waits):
                    status.state, status.problem = "live", ""
                    if not source.waits:
                        self._gap(source.name, "log_full", begins=False)
                return first

    async def _give_way(self, source: BatchSource, status: SourceStatus) -> None:
        # Feedback: full speed, half speed, or waiting, by how much is logged and not yet stored.
        if not source.waits or self._stored_to is None:
            return
        settings = self._settings
        while (lag := self._log.end - self._stored_to()) > settings.lag_rows_hard or self.pressure <= 0:
            status.scale, status.state = 0.0, "waiting"
            status.problem = f"{lag} events wait to be stored" if self.pressure > 0 else "told to wait by feedback"
            await asyncio.sleep(0.01)
        if lag > settings.lag_rows or self.pressure < 1:
            status.scale = 0.5
            await asyncio.sleep(0.001)
        else:
            status.scale = 1.0
        if status.state == "waiting":
            status.state, status.problem = "live", ""

    async def _tick(self) -> None:
        last_mark = self._clock.monotonic_s()
        while True:
            await asyncio.sleep(self._settings.barrier_s)
            self._log.barrier()
            if self._clock.monotonic_s() - last_mark < self._settings.idle_mark_s:
                continue
            last_mark = self._clock.monotonic_s()
            ts_ns = self._clock.now_ns() - int(self._settings.idle_lateness_s * NS_PER_SECOND)
            for (vendor, source_id), (offset, source) in self._live.items():
                mark = Mark(vendor=vendor, ts_ns=ts_ns, source_id=source_id, offset=offset)
                try:
                    self._log.mark(mark, origin=source.origin, idle=True)
                except LogFull:
                    break


def stamped(batch: SourceBatch, now_ns: int) -> SourceBatch:
    """Return the batch with receive times, and event times where the venue gave none."""
    data = batch.data
    recv = data.column(2)
    if plain_values(recv, np.int64)[0] == 0:
        now = pa.py_buffer(now_ns.to_bytes(8, sys.byteorder) * data.num_rows)
        recv = pa.Array.from_buffers(pa.int64(), data.num_rows, [None, now])
        data = data.set_column(2, data.schema.field(2), recv)
    ts = plain_values(data.column(1), np.int64)
    if ts[0] == 0 and not ts.any():
        flags = data.column(3).to_numpy() | np.int32(Flag.TS_EVENT_SYNTHETIC)
        data = data.set_column(1, data.schema.field(1), recv)
        data = data.set_column(3, data.schema.field(3), pa.array(flags, pa.int32()))
    return batch if data is batch.data else replace(batch, data=data)
