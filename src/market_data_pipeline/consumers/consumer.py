"""A consumer's thread: it runs one life after the other until told to stop."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from pathlib import Path

from market_data_core.errors import MarketDataError, WriterConflict
from market_data_core.protocols import Store
from market_data_pipeline.consumers.model import ConsumerSettings, ConsumerSpec, ConsumerStatus, Surroundings
from market_data_pipeline.consumers.session import Session
from market_data_pipeline.consumers.snapshot import read_snapshot

LOG = logging.getLogger(__name__)
_HOPELESS = 5


class Consumer:
    """Runs a consumer in a thread until told to stop, and begins again from its snapshot after any failure.

    Args:
        spec: What it does.
        log_folder: The log to read.
        store: Where its tables are.
        folder: Where its snapshot is kept.
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
        settings: ConsumerSettings | None = None,
        durable: Callable[[], int] | None = None,
    ) -> None:
        self.spec = spec
        self.status = ConsumerStatus()
        self._log_folder = log_folder
        self._store = store
        self._snapshot_path = folder / f"{spec.name}.snapshot"
        self._settings = settings or ConsumerSettings()
        self._durable = durable
        self._stop = threading.Event()
        self._abort = threading.Event()
        self._drain_to: int | None = None
        self._thread = threading.Thread(target=self._run, name=f"consumer-{spec.name}", daemon=True)
        self._published: dict[str, dict[str, int]] = {}
        saved = read_snapshot(self._snapshot_path)
        self.status.snapshot = self.status.committed = self.status.position = saved.position if saved else 0

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self, *, drain_to: int | None = None) -> None:
        """Ask for the end: at once, or when everything below a position is committed."""
        self._drain_to = drain_to
        self._stop.set()
        if drain_to is None:
            self._abort.set()

    def join(self, timeout_s: float) -> bool:
        """Wait for the end; False when the time ran out first."""
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def ledger(self) -> dict[str, dict[str, int]]:
        """Return the counts by node, all as of one moment."""
        return self._published

    def _run(self) -> None:
        delay_s, repeats = self._settings.retry_s, 0
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
                if self._abort.wait(delay_s):
                    return
                delay_s = min(delay_s * 2, self._settings.retry_max_s)
            else:
                self.status.state = "stopped"
                return

    def _session(self) -> None:
        given = Surroundings(
            spec=self.spec,
            settings=self._settings,
            log_folder=self._log_folder,
            store=self._store,
            snapshot_path=self._snapshot_path,
            durable=self._durable,
            status=self.status,
            abort=self._abort,
            stopping=self._stopping,
            publish=self._publish,
        )
        Session(given).run()

    def _stopping(self, done: int) -> bool:
        return self._stop.is_set() and (self._drain_to is None or done >= self._drain_to)

    def _publish(self, counts: dict[str, dict[str, int]]) -> None:
        self._published = counts


def _sentence(exc: Exception) -> str:
    return str(exc) if isinstance(exc, MarketDataError) else f"{type(exc).__name__}: {exc}"
