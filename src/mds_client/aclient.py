"""`AMDS`: what `MDS` does, without keeping an event loop waiting."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable, Coroutine, Mapping
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Any, Concatenate, ParamSpec, Self, TypeVar

from market_data_core.clock import Clock
from mds_client.client import MDS
from mds_client.config import MDSConfig
from mds_client.errors import ClientClosed
from mds_client.models import StoredRow

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


class AMDS:
    """Stored market data of one tenant, for event loops. Its methods are those of `MDS`, awaited.

    At most `pool_max` calls are under way at once, each in a thread; further ones wait their turn. A call that is
    cancelled while it waits is never made. One that is under way ends in its thread, and what comes of it is dropped:
    a write may then have happened or not, and can be made again without harm.

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
        # Waiting blocks, and the client's own threads cannot wait for themselves.
        await asyncio.get_running_loop().run_in_executor(None, self._finish)

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

    def check(self, model: StoredRow) -> None:
        """Refuse a model that this client cannot store; see `MDS.check`. Asks no store."""
        self._mds.check(model)

    health = _threaded(MDS.health)
    schema_version = _threaded(MDS.schema_version)
    migrate = _threaded(MDS.migrate)
    upsert = _threaded(MDS.upsert)
    upsert_bars = _threaded(MDS.upsert_bars)
    upsert_fundamentals = _threaded(MDS.upsert_fundamentals)
    upsert_news = _threaded(MDS.upsert_news)
    upsert_options = _threaded(MDS.upsert_options)
    upsert_corporate_actions = _threaded(MDS.upsert_corporate_actions)
    latest_prices = _threaded(MDS.latest_prices)
    bars_window = _threaded(MDS.bars_window)
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
