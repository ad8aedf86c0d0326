"""Reading the store for requests: in a few threads, never on the event loop, and never for longer than is said."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Final, ParamSpec, TypeVar

from market_data_core.errors import TemporaryUnavailable
from market_data_orchestrator.settings import OrchestratorSettings
from market_data_store import open_backend

if TYPE_CHECKING:  # loading a store costs a start what only its readers have to pay
    from market_data_store.backend import Backend

P = ParamSpec("P")
R = TypeVar("R")

THREADS: Final = 4
MAX_WAITING: Final = 32
READ_TIMEOUT_S: Final = 10.0


class StoredData:
    """The service's stored data, as its HTTP interface reads it.

    Reads run in threads, `threads` at once; `max_waiting` more may wait for their turn. A read that its caller no
    longer waits for keeps its thread until it ends, so slow storage cannot gather threads.

    Args:
        settings: Name the store and the tenant.
        threads: How many reads run at once.
        max_waiting: How many may wait; one more is turned away.
        timeout_s: How long a caller waits for one.
    """

    def __init__(
        self,
        settings: OrchestratorSettings,
        *,
        threads: int = THREADS,
        max_waiting: int = MAX_WAITING,
        timeout_s: float = READ_TIMEOUT_S,
    ) -> None:
        self._settings = settings
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="data-read")
        self._most = threads + max_waiting
        self._timeout_s = timeout_s
        self._begun = 0
        self._opening = threading.Lock()
        self._backend: Backend | None = None

    @property
    def under_way(self) -> int:
        """How many reads run or wait for a thread."""
        return self._begun

    async def read(self, what: Callable[[Backend], R]) -> R:
        """Return what `what` makes of the backend, in a thread.

        Raises:
            TemporaryUnavailable: The store is away or too slow, or too many reads wait already.
            ConfigurationError: The settings name no store that there is.
        """
        return await self.run(lambda: what(self._opened()))

    async def run(self, work: Callable[[], R]) -> R:
        """Return what `work` returns, in a thread.

        Raises:
            TemporaryUnavailable: It took too long, or too many wait already.
        """
        if self._begun >= self._most:
            raise _later("too many reads are waiting already", 1.0)
        self._begun += 1
        # Shielded from the caller's end: only a thread that is free again makes room for another read.
        task = asyncio.get_running_loop().run_in_executor(self._pool, work)
        task.add_done_callback(self._ended)
        try:
            async with asyncio.timeout(self._timeout_s):
                return await asyncio.shield(task)
        except TimeoutError as exc:
            raise _later(f"reading the store took longer than {self._timeout_s:g} s; ask for less", 5.0) from exc

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Let go of the store when left; reads that are under way end by themselves."""
        try:
            yield
        finally:
            with self._opening:
                backend, self._backend = self._backend, None
            if backend is not None:
                await asyncio.to_thread(backend.close)

    def _ended(self, task: asyncio.Future[R]) -> None:
        self._begun -= 1
        if not task.cancelled():
            task.exception()  # looked at, because its caller may be gone

    def _opened(self) -> Backend:
        with self._opening:
            if self._backend is None:
                settings = self._settings
                self._backend = open_backend(
                    settings.store_root, settings.tenant_id, pool_max=THREADS, statement_timeout_s=self._timeout_s
                )
            return self._backend


def _later(why: str, retry_after_s: float) -> TemporaryUnavailable:
    busy = TemporaryUnavailable(why, "data_busy")
    busy.retry_after_sec = retry_after_s
    return busy
