"""Consumers in a process of their own, so that operators and commits never hold up capture.

The parent speaks first: one JSON line with what to run. Then lines go both ways: the worker says where its consumers
stand, is told to go, and from then on says how they are; it ends when told to, or when the parent is gone.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import queue
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from market_data_core import disk, plugins, priority
from market_data_core.errors import ConfigurationError, MarketDataError, PipelineError, TemporaryUnavailable
from market_data_core.protocols import Store
from market_data_pipeline.children import Child, can_fork, forked, spawned
from market_data_pipeline.compiler import SinkDef, compile_graph
from market_data_pipeline.consumers import (
    ConsumerHost,
    ConsumerSettings,
    ConsumerSpec,
    HostStatus,
    LogAndStoreHistory,
)
from market_data_pipeline.consumers.host import Standing, standing
from market_data_pipeline.dag import GraphSpec
from market_data_pipeline.locks import lock_file, unlock
from market_data_pipeline.log import read_durable
from market_data_pipeline.pipelines import BarsConfig, bars, raw

LOG = logging.getLogger(__name__)
_NICE = 10
_ASK_S = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ConsumersConfig:
    """What consumers run, and over what; plain values, so that it can be handed to a process.

    Attributes:
        log_folder: The log.
        folder: Where snapshots are.
        store: Name of the store's entry point,
        store_root: where it is,
        tenant: and whose.
        bars: Which bars to make, beside storing everything as it came; if there is no graph.
        graph: What to run, as `GraphSpec.to_json` gives it with its secrets.
        sinks: What the graph's sinks stand for: by name the fields of `SinkDef`.
        vendors: Whose events the graph's sources give, by name.
        settings: When they commit.
        maintenance_s: How often the store is maintained; 0 for never.
        status_s: How often a worker says how its consumers are,
        describe_s: and how often the store is asked what it holds.
    """

    log_folder: str
    folder: str
    store: str = "store"
    store_root: str
    tenant: str = "default"
    bars: tuple[BarsConfig, ...] = (BarsConfig(),)
    graph: str = ""
    sinks: dict[str, dict[str, Any]] = field(default_factory=dict)
    vendors: dict[str, list[str]] = field(default_factory=dict)
    settings: ConsumerSettings = field(default_factory=ConsumerSettings)
    maintenance_s: float = 60.0
    status_s: float = 0.25
    describe_s: float = 2.0

    def to_json(self) -> str:
        """Return the configuration as one line."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> ConsumersConfig:
        """Return the configuration of `to_json`."""
        values = json.loads(text)
        values["bars"] = tuple(BarsConfig(**b) for b in values["bars"])
        values["settings"] = ConsumerSettings(**values["settings"])
        return cls(**values)


class Consumers:
    """The consumers of one log with their store, in threads of this process."""

    def __init__(self, config: ConsumersConfig) -> None:
        self._config = config
        self._store_says: dict[str, Any] = {}
        self._ending = threading.Event()
        self._lock_fd = -1

    def open(self) -> Standing:
        """Open the store and say where the consumers stand; the log need not be there yet.

        Raises:
            TemporaryUnavailable: Another process still runs these consumers, or the storage is away.
        """
        config = self._config
        folder = Path(config.folder)
        disk.make_dirs(folder)
        self._lock_fd = lock_file(folder / "lock", wait_s=10.0)
        if self._lock_fd < 0:
            raise TemporaryUnavailable(f"the consumers of {folder} are run by another process")
        self._store: Store = plugins.load(plugins.SINKS, config.store)(config.store_root, config.tenant)
        self._store.open()
        self._store_says = dict(self._store.describe())
        self.specs = self._specs(config)
        return standing(self.specs, self._store, folder)

    def _specs(self, config: ConsumersConfig) -> list[ConsumerSpec]:
        def history(writer: str, dedupe: bool) -> LogAndStoreHistory:  # noqa: FBT001  the compiler's way to ask
            return LogAndStoreHistory(self._store, Path(config.log_folder), writer=writer, dedupe=dedupe)

        if config.graph:
            sinks = {name: SinkDef(**values) for name, values in config.sinks.items()}
            graph = GraphSpec.from_json(config.graph)
            specs = compile_graph(
                graph,
                sinks=sinks,
                folder=Path(config.folder),
                history=history,
                vendors=config.vendors,
                tenant=config.tenant,
            )
        else:
            specs = [raw(), *(bars(b, history=history("raw", b.dedupe)) for b in config.bars)]
        if doubled := [n for n, count in Counter(spec.name for spec in specs).items() if count > 1]:
            raise ConfigurationError(f"two consumers are called {doubled[0]!r}")
        return specs

    def start(self) -> None:
        """Start the consumers, and the store's maintenance; the log is there now."""
        config = self._config
        log_folder = Path(config.log_folder)
        self._host = ConsumerHost(
            self.specs,
            log_folder=log_folder,
            store=self._store,
            folder=Path(config.folder),
            settings=config.settings,
            durable=lambda: read_durable(log_folder),
        )
        self._host.start()
        self._tending = threading.Thread(target=self._tend_store, name="store-maintenance", daemon=True)
        self._tending.start()

    def _tend_store(self) -> None:
        every_s, last, done = self._config.maintenance_s, time.monotonic(), {}
        look_s = min(self._config.describe_s, every_s) if every_s > 0 else self._config.describe_s
        while not self._ending.wait(look_s):
            try:
                if every_s > 0 and time.monotonic() - last >= every_s:
                    last = time.monotonic()
                    done = dict(self._store.maintain())
                self._store_says = {**self._store.describe(), "maintenance": done, "problem": ""}
            except (MarketDataError, OSError) as exc:
                LOG.warning("store maintenance failed, tried again later: %s", exc)
                self._store_says = {**self._store_says, "problem": str(exc)}

    def hurry(self, end: int) -> None:
        """Have what is below a position committed as soon as it is taken; as `ConsumerHost.hurry`."""
        self._host.hurry(end)

    def prepare(self, config: ConsumersConfig, change: str) -> None:
        """Get ready to run another configuration from the log's record of a change on, which is still to be written.

        Raises:
            ConfigurationError: What is wrong with it; nothing is changed.
        """
        specs = self._specs(config)
        self._host.prepare(specs, change)
        self._prepared = specs, config

    def apply(self, *, at: int, covers: Mapping[str, int], timeout_s: float) -> dict[str, list[str]]:
        """Run what was prepared; as `ConsumerHost.apply`."""
        done = self._host.apply(at=at, covers=covers, timeout_s=timeout_s)
        self.specs, self._config = self._prepared
        return done

    def cancel(self) -> None:
        """Go on as before `prepare`."""
        self._host.cancel()

    def status(self) -> HostStatus:
        """Return how the consumers and the store are."""
        return HostStatus(consumers=self._host.status().consumers, store=self._store_says)

    def stop(self, *, drain_to: int | None, timeout_s: float) -> list[str]:
        """Stop the consumers; return the names of those that did not drain in time."""
        self._ending.set()
        late = self._host.stop(drain_to=drain_to, timeout_s=timeout_s)
        self._tending.join(max(timeout_s, 5.0))
        if self._tending.is_alive() or self._host.is_running:
            # What they still commit would look torn to the next holder's repair: the lock goes with the process.
            LOG.error("store work has not ended; %s stays locked until this process ends", self._config.folder)
            return late
        self.close()
        return late

    def close(self) -> None:
        """Let another process run these consumers."""
        if self._lock_fd >= 0:
            # A store with connections has to be let go of; the protocol of stores asks nobody for it.
            close = getattr(getattr(self, "_store", None), "close", None)
            if close is not None:
                close()
            unlock(self._lock_fd)
            self._lock_fd = -1


class WorkerConsumers:
    """The same, in a child process."""

    def __init__(self, config: ConsumersConfig) -> None:
        self._config = config
        self._status = HostStatus()
        self._late: list[str] = []
        self._problem = ""
        self._child: Child | None = None
        self._hurried = 0
        self._asking = threading.Lock()
        self._saying = threading.Lock()
        self._answers: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()

    def begin(self, *, copy: bool = False) -> None:
        """Start the child; may be called well before `open`.

        Args:
            copy: Make it a copy of this process where that can be: it is there sooner, and shares what both have
                loaded. Only for a process that holds nothing open yet that the child should not.
        """
        if self._child is None:
            self._child = forked(main) if copy and can_fork() else spawned("market_data_pipeline.worker")
            self._say(self._config.to_json())

    def open(self) -> Standing:
        """Wait until the child has opened the store and says where the consumers stand."""
        self.begin()
        said = self._hear()
        if said is None or "error" in said:
            self.close()
            raise TemporaryUnavailable(said["error"] if said else "the consumers' process ended at once")
        return Standing(**said["standing"])

    def start(self) -> None:
        """Let the consumers go."""
        self._say(json.dumps({"go": True}))
        # Whoever asks for the status next learns where the consumers stand, not that nothing is known yet.
        said = self._hear()
        if said is not None and "consumers" in said:
            self._status = HostStatus(consumers=said["consumers"], store=said["store"])
        threading.Thread(target=self._listen, name="consumers-status", daemon=True).start()

    def _say(self, line: str) -> None:
        child = self._child
        if child is None or child.stdin is None or child.stdin.closed:
            return
        pipe = child.stdin
        try:
            with self._saying:
                pipe.write(line + "\n")
                pipe.flush()
        except BrokenPipeError:
            self._problem = f"the consumers' process has ended with code {child.poll()}"

    def _hear(self) -> dict[str, Any] | None:
        pipe = self._child.stdout if self._child is not None else None
        line = pipe.readline() if pipe is not None else ""
        return dict(json.loads(line)) if line else None

    def _listen(self) -> None:
        while (said := self._hear()) is not None:
            if "late" in said:
                self._late = said["late"]
            elif "answer" in said:
                self._answers.put(said["answer"])
            else:
                self._status = HostStatus(consumers=said["consumers"], store=said["store"])
        code = self._child.wait() if self._child is not None else None
        self._problem = f"the consumers' process has ended with code {code}"

    @property
    def problem(self) -> str:
        """Why there are no consumers; empty while there are."""
        return self._problem

    def hurry(self, end: int) -> None:
        """Have what is below a position committed as soon as it is taken; returns at once."""
        if end > self._hurried:
            self._hurried = end
            self._say(json.dumps({"hurry": end}))

    def prepare(self, config: ConsumersConfig, change: str) -> None:
        """Get ready to run another configuration; as `Consumers.prepare`."""
        self._ask({"prepare": config.to_json(), "change": change}, _ASK_S)

    def apply(self, *, at: int, covers: Mapping[str, int], timeout_s: float) -> dict[str, list[str]]:
        """Run what was prepared; as `ConsumerHost.apply`."""
        order = {"apply": at, "covers": dict(covers), "timeout_s": timeout_s}
        done: dict[str, list[str]] = self._ask(order, timeout_s + _ASK_S)
        return done

    def cancel(self) -> None:
        """Go on as before `prepare`."""
        self._ask({"cancel": True}, _ASK_S)

    def _ask(self, order: dict[str, Any], timeout_s: float) -> Any:
        with self._asking:
            self._answers = queue.SimpleQueue()
            self._say(json.dumps(order))
            try:
                answer = self._answers.get(timeout=timeout_s)
            except queue.Empty:
                raise TemporaryUnavailable(self._problem or "the consumers' process does not answer") from None
        if "error" in answer:
            raise (ConfigurationError if answer["wrong"] else PipelineError)(answer["error"])
        return answer["done"]

    @property
    def pid(self) -> int:
        """The child's process id."""
        if self._child is None:
            raise PipelineError("the consumers' process is not started")
        return self._child.pid

    def status(self) -> HostStatus:
        """Return what the child said last."""
        return self._status

    def stop(self, *, drain_to: int | None, timeout_s: float) -> list[str]:
        """Tell the child to drain and end; return the names of consumers that did not drain in time."""
        self._late = ["all"]
        self._say(json.dumps({"stop": True, "drain_to": drain_to, "timeout_s": timeout_s}))
        try:
            if self._child is not None:
                self._child.wait(timeout_s + 5.0)
        except subprocess.TimeoutExpired:
            LOG.error("the consumers' process does not end; it is killed, and goes on from its snapshots next time")
        self.close()
        return self._late if self._late != ["all"] else []

    def close(self) -> None:
        """End the child whatever it does; its state on disk is safe."""
        child, self._child = self._child, None
        if child is None:
            return
        if child.poll() is None:
            child.kill()
        child.wait()
        for pipe in (child.stdin, child.stdout):
            if pipe is not None:
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()


def _report(consumers: Consumers, say: Callable[[dict[str, Any]], None], over: threading.Event, every_s: float) -> None:
    while True:
        status = consumers.status()
        try:
            say({"consumers": status.consumers, "store": status.store})
        except BrokenPipeError:
            return
        if over.wait(every_s):
            return


def _obeyed(consumers: Consumers, order: dict[str, Any]) -> dict[str, Any]:
    try:
        if "prepare" in order:
            consumers.prepare(ConsumersConfig.from_json(order["prepare"]), order["change"])
            return {"done": {}}
        if "cancel" in order:
            consumers.cancel()
            return {"done": {}}
        done = consumers.apply(at=order["apply"], covers=order["covers"], timeout_s=order["timeout_s"])
    except (MarketDataError, OSError) as exc:
        return {"error": str(exc), "wrong": isinstance(exc, ConfigurationError)}
    return {"done": done}


def main() -> int:
    """Run the consumers that the first line on standard input asks for."""
    logging.basicConfig(
        level=os.environ.get("ORCH_LOG_LEVEL", "INFO"), format="%(asctime)s [%(levelname)s] %(name)s: %(message)s"
    )
    # Capture comes first: what is not stored yet waits in the log, what is not received is lost.
    priority.lower(_NICE)
    out = sys.stdout
    sys.stdout = sys.stderr  # whatever else is printed must not mix with what the parent reads
    line = sys.stdin.readline()
    if not line:
        return 0
    config = ConsumersConfig.from_json(line)
    consumers = Consumers(config)
    lock = threading.Lock()

    def say(value: dict[str, Any]) -> None:
        with lock:
            out.write(json.dumps(value) + "\n")
            out.flush()

    try:
        say({"standing": asdict(consumers.open())})
    except (MarketDataError, OSError) as exc:
        say({"error": str(exc)})
        return 1
    if not sys.stdin.readline():
        return 0
    consumers.start()
    over = threading.Event()

    reporting = threading.Thread(
        target=_report, args=(consumers, say, over, config.status_s), name="status", daemon=True
    )
    reporting.start()
    while (line := sys.stdin.readline()) and not (order := json.loads(line)).get("stop"):
        if "hurry" in order:
            consumers.hurry(order["hurry"])
        else:
            say({"answer": _obeyed(consumers, order)})
    if not line:
        # The parent is gone: what it would have wanted cannot be asked; everything safe is on disk.
        consumers.stop(drain_to=None, timeout_s=2.0)
        return 0
    late = consumers.stop(drain_to=order["drain_to"], timeout_s=float(order["timeout_s"]))
    over.set()
    status = consumers.status()
    say({"consumers": status.consumers, "store": status.store})
    say({"late": late})
    return 0


if __name__ == "__main__":
    sys.exit(main())
