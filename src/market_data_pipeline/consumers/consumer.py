"""A consumer's thread: it runs one life after the other until told to stop."""

from __future__ import annotations

import logging
import random
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from market_data_core.errors import MarketDataError, PipelineError, WriterConflict
from market_data_core.protocols import Store
from market_data_pipeline.consumers.ledger import Ledger
from market_data_pipeline.consumers.model import ConsumerSettings, ConsumerSpec, ConsumerStatus, Surroundings
from market_data_pipeline.consumers.session import Session
from market_data_pipeline.consumers.sink import SinkStore
from market_data_pipeline.consumers.snapshot import read_snapshot
from market_data_pipeline.writing.dead_letters import DeadLetters
from market_data_pipeline.writing.policy import Backoff

LOG = logging.getLogger(__name__)
_HOPELESS = 5


class Consumer:
    """Runs a consumer in a thread until told to stop, and begins again from its snapshot after any failure.

    Args:
        spec: What it does.
        log_folder: The log to read.
        store: Where its tables are.
        folder: Where its snapshot is kept.
        letters: Where rows go that its tables refuse.
        settings: When it commits.
        durable: Says how far the log may be read.
    """

    def __init__(
        self,
        spec: ConsumerSpec,
        *,
        log_folder: Path,
        store: Store,
        folder: Path,
        letters: DeadLetters,
        settings: ConsumerSettings | None = None,
        durable: Callable[[], int] | None = None,
    ) -> None:
        self.spec = spec
        self.status = ConsumerStatus(own_sink=spec.sink is not None)
        self._log_folder = log_folder
        # A sink of its own is made when it is needed, and again as long as that fails.
        self._sink: Store | None = store if spec.sink is None else None
        self._letters = letters
        self._snapshot_path = folder / f"{spec.name}.snapshot"
        self._settings = settings or ConsumerSettings()
        self._backoff = Backoff(initial_s=self._settings.retry_s, max_s=self._settings.retry_max_s)
        self._durable = durable
        self._stop = threading.Event()
        self._abort = threading.Event()
        self._drain_to: int | None = None
        self._awaited = 0
        # The change at whose record it ends, and whether it came there.
        self._turn = threading.Lock()
        self._change = ""
        self._ended = False
        self._thread = threading.Thread(target=self._run, name=f"consumer-{spec.name}", daemon=True)
        self._published: tuple[dict[str, dict[str, int]], list[list[Any]]] = ({}, [])
        saved = read_snapshot(self._snapshot_path)
        begin = saved.position if saved else 0
        self.status.snapshot = self.status.committed = self.status.position = begin

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self, *, drain_to: int | None = None) -> None:
        """Ask for the end: at once, or when everything below a position is committed."""
        self._drain_to = drain_to
        self._stop.set()
        if drain_to is None:
            self._abort.set()

    def hurry(self, end: int) -> None:
        """Have it commit once it has taken everything below a position, without waiting for more."""
        self._awaited = max(self._awaited, end)

    def end_at(self, change: str) -> None:
        """Have it end at the log's record of a change, having committed everything below."""
        with self._turn:
            self._change = change

    def go_on(self) -> bool:
        """Take back `end_at`; False if it has come there already, and ends."""
        with self._turn:
            self._change = ""
            return not self._ended

    def join(self, timeout_s: float) -> bool:
        """Wait for the end; False when the time ran out first."""
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def ledger(self) -> dict[str, dict[str, int]]:
        """Return the counts by node, all as of one moment."""
        return self._published[0]

    def flow(self) -> list[list[Any]]:
        """Return what went from node to node of a graph, as of the same moment; see `Ledger.flow`."""
        return self._published[1]

    def _run(self) -> None:
        try:
            self._lives()
        finally:
            with self._turn:
                self._ended = True
            if isinstance(self._sink, SinkStore):
                self._sink.close()

    def _lives(self) -> None:
        chance = random.Random()  # noqa: S311  spreads waits, keeps no secrets
        failures = repeats = commits = 0
        while True:
            try:
                self._session()
            except WriterConflict as exc:
                # Going on would double rows: somebody else is this consumer.
                self.status.state, self.status.problem = "conflict", str(exc)
                LOG.error("consumer %s stops: %s", self.spec.name, exc)
                return
            except Exception as exc:  # the supervisor: any failure is a restart from the snapshot
                problem = _sentence(exc)
                # The same error again and again that no waiting can mend is no longer a hiccup.
                repeats = repeats + 1 if problem == self.status.problem else 0
                hopeless = (
                    repeats >= _HOPELESS and not isinstance(exc, OSError) and not getattr(exc, "retryable", False)
                )
                self.status.state, self.status.problem = "failed" if hopeless else "retrying", problem
                self.status.restarts += 1
                LOG.warning(
                    "consumer %s begins again from its snapshot: %s",
                    self.spec.name,
                    self.status.problem,
                    exc_info=not isinstance(exc, MarketDataError | OSError),
                )
                # One that came further in between fails for the first time.
                failures = failures + 1 if self.status.commits == commits else 1
                commits = self.status.commits
                if self._abort.wait(self._backoff.delay_s(failures, chance)):
                    return
            else:
                self.status.state = "stopped"
                return

    def _session(self) -> None:
        if self._sink is None:
            if self.spec.sink is None:
                raise PipelineError(f"consumer {self.spec.name} has no store")
            self._sink = self.spec.sink()
        given = Surroundings(
            spec=self.spec,
            settings=self._settings,
            log_folder=self._log_folder,
            store=self._sink,
            letters=self._letters,
            snapshot_path=self._snapshot_path,
            durable=self._durable,
            status=self.status,
            abort=self._abort,
            stopping=self._stopping,
            awaited=lambda: self._awaited,
            ends_at=self._ends_at,
            publish=self._publish,
        )
        Session(given).run()

    def _stopping(self, done: int) -> bool:
        return self._stop.is_set() and (self._drain_to is None or done >= self._drain_to)

    def _ends_at(self, change: str) -> bool:
        with self._turn:
            self._ended = self._ended or (change != "" and change == self._change)
            return self._ended

    def _publish(self, ledger: Ledger) -> None:
        self._published = (ledger.snapshot(), ledger.flow())


def _sentence(exc: Exception) -> str:
    return str(exc) if isinstance(exc, MarketDataError) else f"{type(exc).__name__}: {exc}"
