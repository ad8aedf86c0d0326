"""One machine's data path: sources, log and consumers, started and stopped in order."""

from __future__ import annotations

import logging
import threading
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, Protocol

from market_data_core.clock import Clock, SystemClock
from market_data_core.errors import LogError, LogLocked, MarketDataError, PipelineError
from market_data_core.protocols import BatchSource, Gap
from market_data_pipeline.capture import Capture, CaptureSettings, GapListener, SourceStatus
from market_data_pipeline.compiler import SinkDef
from market_data_pipeline.consumers import ConsumerSettings, HostStatus
from market_data_pipeline.consumers.host import Standing, resume_offsets
from market_data_pipeline.consumers.model import CONFIGURATION
from market_data_pipeline.dag import GraphSpec
from market_data_pipeline.locks import lock_file, unlock
from market_data_pipeline.log import LogSettings, LogWriter
from market_data_pipeline.pipelines import BarsConfig
from market_data_pipeline.taps import Taps
from market_data_pipeline.worker import Consumers, ConsumersConfig, WorkerConsumers

LOG = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineSettings:
    """What a data path is made of.

    Attributes:
        data_dir: Where log, snapshots and, unless `store_root` says otherwise, the lake are.
        log_folder: The log; by default the folder ``log`` in `data_dir`.
        store: Name of the store's entry point.
        store_root: Where the store is; by default the folder ``lake`` in `data_dir`.
        tenant: Whose tables.
        bars: Which bars to make.
        graph: What to run instead, as `GraphSpec.to_json` gives it with its secrets.
        sinks: What the graph's sinks stand for, by name.
        vendors: Whose events its sources give, by name; all are let in by one that is not named.
        consumers: In threads of this process, or in a process of their own, which costs memory and keeps capture's
            latency free of theirs.
        trim_s: How often segments nobody needs are let go.
    """

    data_dir: Path
    log_folder: Path | None = None
    store: str = "store"
    store_root: str | None = None
    tenant: str = "default"
    bars: tuple[BarsConfig, ...] = (BarsConfig(),)
    graph: str = ""
    sinks: Mapping[str, SinkDef] = field(default_factory=dict)
    vendors: Mapping[str, Sequence[str]] = field(default_factory=dict)
    consumers: Literal["process", "thread"] = "thread"
    log: LogSettings = field(default_factory=LogSettings)
    capture: CaptureSettings = field(default_factory=CaptureSettings)
    commit: ConsumerSettings = field(default_factory=ConsumerSettings)
    maintenance_s: float = 60.0
    trim_s: float = 5.0

    def consumers_config(self) -> ConsumersConfig:
        """Return what the consumers are told."""
        return ConsumersConfig(
            log_folder=str(self.log_folder or self.data_dir / "log"),
            folder=str(self.data_dir / "consumers"),
            store=self.store,
            store_root=self.store_root or str(self.data_dir / "lake"),
            tenant=self.tenant,
            bars=self.bars,
            graph=self.graph,
            vendors={name: list(vendors) for name, vendors in self.vendors.items()},
            sinks={name: {"sink": s.sink, "params": dict(s.params)} for name, s in self.sinks.items()},
            settings=self.commit,
            maintenance_s=self.maintenance_s,
        )


class _Runs(Protocol):
    def open(self) -> Standing: ...
    def start(self) -> None: ...
    def status(self) -> HostStatus: ...
    def hurry(self, end: int) -> None: ...
    def prepare(self, config: ConsumersConfig, change: str) -> None: ...
    def apply(self, *, at: int, covers: Mapping[str, int], timeout_s: float) -> dict[str, list[str]]: ...
    def cancel(self) -> None: ...
    def stop(self, *, drain_to: int | None, timeout_s: float) -> list[str]: ...
    def close(self) -> None: ...


class Engine:
    """Runs one data path.

    Args:
        settings: What it is made of.
        clock: Where time comes from.
        gap: Told of the beginning and end of a gap in a live source.
        marker: Told of the gaps that sources themselves speak of.
        consumers: A worker for these settings that was begun before.
    """

    def __init__(
        self,
        settings: EngineSettings,
        *,
        clock: Clock | None = None,
        gap: GapListener | None = None,
        marker: Callable[[Gap], None] | None = None,
        consumers: WorkerConsumers | None = None,
    ) -> None:
        self.settings = settings
        self.taps = Taps()
        self._clock = clock or SystemClock()
        self._gap = gap
        self._marker = marker
        config = settings.consumers_config()
        made: _Runs = WorkerConsumers(config) if settings.consumers == "process" else Consumers(config)
        self._consumers: _Runs = consumers or made
        self._ending = threading.Event()

    def open(self) -> None:
        """Open store and log, start consumers and capture; sources can be added once this returns.

        Raises:
            LogLocked: Another process runs this data directory.
            TemporaryUnavailable: The store is away.
        """
        settings = self.settings
        try:
            self._refuse_second_writer()
        except LogLocked:
            self._consumers.close()
            raise
        stand = self._consumers.open()
        try:
            self.log = LogWriter(
                settings.log_folder or settings.data_dir / "log",
                settings.log,
                floor=stand.floor,
                needed_from=stand.needed_from,
                clock=self._clock,
            )
        except BaseException:
            self._consumers.close()
            raise
        self._covers = stand.covers
        self._consumers.start()
        self.capture = Capture(
            self.log,
            taps=self.taps,
            clock=self._clock,
            settings=settings.capture,
            stored_to=lambda: self._consumers.status().committed,
            gap=self._gap,
            marker=self._marker,
        )
        self.capture.start()
        self._trimmer = threading.Thread(target=self._trim, name="log-trim", daemon=True)
        self._trimmer.start()

    def _refuse_second_writer(self) -> None:
        # The log's own lock decides; asking first keeps a second writer from waiting for the consumers of the first.
        folder = self.settings.log_folder or self.settings.data_dir / "log"
        if folder.is_dir():
            fd = lock_file(folder / "lock")
            if fd < 0:
                raise LogLocked(f"{folder} is in use by another process")
            unlock(fd)

    def _trim(self) -> None:
        while not self._ending.wait(self.settings.trim_s):
            try:
                self.log.trim(self._consumers.status().trim_below)
            except LogError as exc:
                LOG.warning("log cannot be trimmed, tried again later: %s", exc)

    def add(self, source: BatchSource) -> SourceStatus:
        """Begin to take events from a source, from where it left off."""
        return self.capture.add(source, resume_offsets(self.log.sources(), self._covers))

    def resume_offsets(self) -> dict[str, int]:
        """Return, by source id, from where a source that is added now would go on."""
        return resume_offsets(self.log.sources(), self._covers)

    def pause(self, detail: Mapping[str, Any], *, timeout_s: float) -> int:
        """Stop intake and store what was taken in; nothing that comes after this is stored.

        Args:
            detail: What the log records of it.
            timeout_s: How long storing may take.

        Returns:
            How many events are still to be stored; they are in the log, and go on being stored.
        """
        self.capture.pause()
        end = self.log.control("pause", detail) + 1
        self.wait_stored(end, timeout_s)
        return max(end - self._consumers.status().committed, 0)

    def resume(self, detail: Mapping[str, Any]) -> None:
        """Take in again."""
        self.log.control("resume", detail)
        self.capture.resume()

    def reconfigure(
        self,
        *,
        graph: str,
        sinks: Mapping[str, SinkDef] | None = None,
        vendors: Mapping[str, Sequence[str]] | None = None,
        version: str = "",
        timeout_s: float = 10.0,
    ) -> dict[str, list[str]]:
        """Run other consumers from here on, without losing an event; all of them, or nothing is changed.

        The log records which configuration begins where, so what comes out stays a function of the log. Not to be
        called by two threads at once.

        Args:
            graph: What to run, as in `EngineSettings`.
            sinks: What its sinks stand for.
            vendors: Whose events its sources give.
            version: Names the configuration on record.
            timeout_s: How long the consumers that change may take for what is logged already.

        Returns:
            Names of consumers, as `ConsumerHost.apply`.

        Raises:
            ConfigurationError: What is wrong with it.
            PipelineError: Consumers did not get there in time; all go on as before, and the log says so.
        """
        settings, change = (
            replace(self.settings, graph=graph, sinks=sinks or {}, vendors=vendors or {}),
            uuid.uuid4().hex,
        )
        self._consumers.prepare(settings.consumers_config(), change)
        covers = self.log.sources()
        at = self._record_configuration(settings, version, change)
        try:
            if not self.log.wait_durable(at, timeout_s):
                self._consumers.cancel()
                raise PipelineError(f"all goes on as before: {self.log.status.problem or 'the log is slow'}")
            done = self._consumers.apply(at=at, covers=covers, timeout_s=timeout_s)
        except MarketDataError:
            self._record_configuration(self.settings, "", "")
            raise
        self.settings = settings
        return done

    def record_configuration(self, version: str) -> None:
        """Put on record what runs from here on, as it was given at the start."""
        self._record_configuration(self.settings, version, "")

    def _record_configuration(self, settings: EngineSettings, version: str, change: str) -> int:
        graph = GraphSpec.from_json(settings.graph).to_json() if settings.graph else ""
        series = [asdict(b) for b in settings.bars]
        detail = {"version": version, "change": change, "bars": series, "graph": graph}
        return self.log.control(CONFIGURATION, detail) + 1

    def wait_stored(self, end: int, timeout_s: float) -> bool:
        """Have everything below a position stored now, and wait for it; False when the time ran out first."""
        self._consumers.hurry(end)
        until = time.monotonic() + timeout_s
        while self._consumers.status().committed < end:
            if time.monotonic() >= until or self.problem:
                return False
            time.sleep(0.01)
        return True

    @property
    def problem(self) -> str:
        """Why the data path cannot go on by itself; empty while it can."""
        ended = getattr(self._consumers, "problem", "")
        if ended:
            return str(ended)
        for name, consumer in self._consumers.status().consumers.items():
            if consumer["state"] in ("conflict", "failed"):
                return f"consumer {name}: {consumer['problem']}"
        return ""

    def consumers(self) -> HostStatus:
        """Return how the consumers and the store are."""
        return self._consumers.status()

    def close(self, drain_s: float = 10.0) -> list[str]:
        """Stop intake, let the consumers store what was taken in, and let go of everything.

        Args:
            drain_s: How long storing may take; what is left stays in the log and is stored after the next start.

        Returns:
            The names of consumers that did not get through in time.
        """
        started = time.monotonic()
        self.capture.stop()
        self._ending.set()
        self.log.barrier()
        end = self.log.end
        durable = self.log.wait_durable(end, drain_s)
        left_s = max(drain_s - (time.monotonic() - started), 0.5)
        late = self._consumers.stop(drain_to=end if durable else None, timeout_s=left_s)
        self._trimmer.join(self.settings.trim_s + 1)
        self.log.close(timeout_s=1.0 if durable else 0.1)
        return late

    def status(self) -> dict[str, Any]:
        """Return sources, log and consumers as plain values."""
        consumers = self._consumers.status()
        return {
            "sources": {name: asdict(s) for name, s in self.capture.sources.items()},
            "log": {
                "id": self.log.log_id,
                "epoch": self.log.epoch,
                "end": self.log.end,
                "durable_end": self.log.durable_end,
                **asdict(self.log.status),
            },
            "consumers": consumers.consumers,
            "store": consumers.store,
        }
