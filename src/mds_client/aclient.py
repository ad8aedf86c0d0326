"""`AMDS`: what `MDS` does, without keeping an event loop waiting."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable, Coroutine, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Any, Concatenate, ParamSpec, Self, TypeVar

from market_data_core.clock import Clock, SystemClock
from market_data_store.backend import Upserted
from mds_client import aserver
from mds_client.aserver import AsyncServer
from mds_client.client import MDS, all_of
from mds_client.config import MDSConfig
from mds_client.errors import ClientClosed
from mds_client.models import Bar, Fundamentals, News, OptionSnap, StoredRow
from mds_client.moments import When

_P = ParamSpec("_P")
_R = TypeVar("_R")


# The same method, with the same arguments, in a thread of the client's.
def _threaded(
    method: Callable[Concatenate[MDS, _P], _R],
) -> Callable[Concatenate[AMDS, _P], Coroutine[Any, Any, _R]]:
    async def call(self: AMDS, /, *args: _P.args, **kwargs: _P.kwargs) -> _R:
        return await self.run(method, *args, **kwargs)

    functools.update_wrapper(call, method)
    return call


# The same method, with the same arguments: of a server awaited without a thread, else as above.
def _awaited(
    method: Callable[Concatenate[MDS, _P], _R],
    natively: Callable[Concatenate[AsyncServer, _P], Coroutine[Any, Any, _R]],
) -> Callable[Concatenate[AMDS, _P], Coroutine[Any, Any, _R]]:
    async def call(self: AMDS, /, *args: _P.args, **kwargs: _P.kwargs) -> _R:
        return await self.ask(method, natively, *args, **kwargs)

    functools.update_wrapper(call, method)
    return call


class AMDS:
    """Stored market data of one tenant, for event loops. Its methods are those of `MDS`, awaited.

    At most `pool_max` calls are under way at once, each in a thread; further ones wait their turn. A call that is
    cancelled while it waits is never made. One that is under way ends in its thread, and what comes of it is dropped:
    a write may then have happened or not, and can be made again without harm.

    Of a server, `latest_prices`, `bars_window`, `health`, `schema_version` and upserts of up to 1,000 models take no
    thread: they are awaited on `pool_max` connections of their own, and one that is cancelled is cancelled at the
    server too; an upsert that was cancelled before its commit then changed nothing. These connections belong to the
    event loop that asked first; calls of another take threads.

    Args:
        config: Options by name, as in `mds_client.config.MDSConfig`.
        clock: Where the time of upserts and jobs comes from; the system's if None.

    Raises:
        ConfigurationError: An option is unknown, missing or wrong; names it.
    """

    def __init__(self, config: Mapping[str, Any] | MDSConfig, *, clock: Clock | None = None) -> None:
        self._mds = MDS(config, clock=clock)
        self.config = self._mds.config
        self._threads = ThreadPoolExecutor(self.config.pool_max, thread_name_prefix="mds")
        self._closed = False
        self._server = _server_of(self.config, clock or SystemClock())
        self._loop: asyncio.AbstractEventLoop | None = None
        self._closing: asyncio.Task[None] | None = None
        self._asking = 0
        self._all_answered = asyncio.Event()
        self._all_answered.set()

    @property
    def tenant_id(self) -> str:
        """Whose data."""
        return self.config.tenant_id

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Take no further calls, wait for those under way, and release what the store holds. May be called twice.

        Where waiting is cancelled, the rest of it happens all the same.
        """
        self._closed = True
        self._closing = self._closing or asyncio.create_task(self._close_server(), name="mds-close")
        # Waiting blocks, and the client's own threads cannot wait for themselves.
        threads = asyncio.get_running_loop().run_in_executor(None, self._finish)
        await asyncio.shield(self._closing)
        await threads

    async def _close_server(self) -> None:
        # A loop that is not this one has ended or goes on by itself; its connections are not ours to close.
        if self._server is not None and self._loop is asyncio.get_running_loop():
            await self._all_answered.wait()
            await self._server.store.close()

    def _finish(self) -> None:
        self._threads.shutdown(wait=True)
        self._mds.close()

    async def run(self, method: Callable[Concatenate[MDS, _P], _R], /, *args: _P.args, **kwargs: _P.kwargs) -> _R:
        """Call something with the client behind this one, in one of its threads.

        Raises:
            ClientClosed: The client is closed.
        """
        if self._closed:
            raise ClientClosed(f"the client of tenant {self.tenant_id} is closed")
        call = functools.partial(method, self._mds, *args, **kwargs)
        return await asyncio.get_running_loop().run_in_executor(self._threads, call)

    async def ask(
        self,
        method: Callable[Concatenate[MDS, _P], _R],
        natively: Callable[Concatenate[AsyncServer, _P], Coroutine[Any, Any, _R]],
        /,
        *args: _P.args,
        **kwargs: _P.kwargs,
    ) -> _R:
        """Call `natively` where there is a server whose connections are this event loop's, else `method` as `run` does.

        Raises:
            ClientClosed: The client is closed.
        """
        loop = asyncio.get_running_loop()
        if self._closed or self._server is None or (self._loop or loop) is not loop:
            return await self.run(method, *args, **kwargs)
        self._loop = loop
        self._asking += 1
        self._all_answered.clear()
        try:
            return await natively(self._server, *args, **kwargs)
        finally:
            self._asking -= 1
            if self._asking == 0:
                self._all_answered.set()

    def check(self, model: StoredRow) -> None:
        """Refuse a model that this client cannot store; see `MDS.check`. Asks no store."""
        self._mds.check(model)

    async def upsert(
        self, models: Iterable[StoredRow], *, reason: str | None = None, ts_known: When | None = None
    ) -> Upserted:
        """Store models of one type, all or none; see `MDS.upsert`."""
        given = list(models)
        if len(given) > aserver.UPSERT_ROWS:
            return await self.run(MDS.upsert, given, reason=reason, ts_known=ts_known)
        return await self.ask(MDS.upsert, aserver.upsert, given, reason=reason, ts_known=ts_known)

    async def upsert_bars(
        self, bars: Iterable[Bar], *, reason: str | None = None, ts_known: When | None = None
    ) -> Upserted:
        """Store bars; see `MDS.upsert`."""
        return await self.upsert(all_of(Bar, bars), reason=reason, ts_known=ts_known)

    async def upsert_fundamentals(
        self, fundamentals: Iterable[Fundamentals], *, reason: str | None = None, ts_known: When | None = None
    ) -> Upserted:
        """Store fundamentals; see `MDS.upsert`."""
        return await self.upsert(all_of(Fundamentals, fundamentals), reason=reason, ts_known=ts_known)

    async def upsert_news(
        self, news: Iterable[News], *, reason: str | None = None, ts_known: When | None = None
    ) -> Upserted:
        """Store news; see `MDS.upsert`."""
        return await self.upsert(all_of(News, news), reason=reason, ts_known=ts_known)

    async def upsert_options(
        self, options: Iterable[OptionSnap], *, reason: str | None = None, ts_known: When | None = None
    ) -> Upserted:
        """Store option snapshots; see `MDS.upsert`."""
        return await self.upsert(all_of(OptionSnap, options), reason=reason, ts_known=ts_known)

    health = _awaited(MDS.health, aserver.health)
    schema_version = _awaited(MDS.schema_version, aserver.schema_version)
    migrate = _threaded(MDS.migrate)
    upsert_corporate_actions = _threaded(MDS.upsert_corporate_actions)
    latest_prices = _awaited(MDS.latest_prices, aserver.latest_prices)
    bars_window = _awaited(MDS.bars_window, aserver.bars_window)
    bars = _threaded(MDS.bars)
    trades = _threaded(MDS.trades)
    quotes = _threaded(MDS.quotes)
    rows = _threaded(MDS.rows)
    coverage = _threaded(MDS.coverage)
    dump = _threaded(MDS.dump)
    restore = _threaded(MDS.restore)
    enqueue_job = _threaded(MDS.enqueue_job)
    claim_job = _threaded(MDS.claim_job)
    finish_job = _threaded(MDS.finish_job)
    jobs = _threaded(MDS.jobs)


def _server_of(config: MDSConfig, clock: Clock) -> AsyncServer | None:
    if not config.is_server:
        return None
    from market_data_store.postgres import AsyncPostgresStore  # noqa: PLC0415  the driver is for those who have a server

    store = AsyncPostgresStore(
        config.address(),
        config.tenant_id,
        connections=config.pool_max,
        timeout_s=config.timeout_s,
        statement_timeout_s=config.statement_timeout_s,
    )
    return AsyncServer(store=store, tenant_id=config.tenant_id, clock=clock)
