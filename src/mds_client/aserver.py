"""What `AMDS` asks of a server without a thread for each call: what is asked often and answered quickly."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from market_data_core.clock import Clock
from market_data_store.backend import Upserted
from mds_client.client import Symbols, named, rows_to_upsert, window_asked
from mds_client.models import Bar, LatestPrice, StoredRow
from mds_client.moments import When
from mds_client.reads import wanted_of
from mds_client.rows import latest_prices_from_rows, models_from_rows

if TYPE_CHECKING:  # the driver is for those who have a server
    from market_data_store.postgres import AsyncPostgresStore

UPSERT_ROWS: Final = 1000
"""More models than these would keep the event loop waiting while they are made rows."""

# Models that are made before the event loop has its turn: some milliseconds.
_TURN_ROWS: Final = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class AsyncServer:
    """A server as one tenant's client sees it.

    Attributes:
        store: What is asked.
        tenant_id: Whose data.
        clock: Where the time of upserts comes from.
    """

    store: AsyncPostgresStore
    tenant_id: str
    clock: Clock


async def health(server: AsyncServer) -> dict[str, Any]:
    """See `MDS.health`."""
    return await server.store.health()


async def schema_version(server: AsyncServer) -> int:
    """See `MDS.schema_version`."""
    return await server.store.schema_version()


async def latest_prices(server: AsyncServer, symbols: Symbols = (), vendor: str | None = None) -> list[LatestPrice]:
    """See `MDS.latest_prices`."""
    rows = await server.store.latest_prices(named(symbols), vendor=vendor)
    return latest_prices_from_rows(rows, tenant_id=server.tenant_id)


async def bars_window(  # noqa: PLR0917  those of `MDS.bars_window`
    server: AsyncServer,
    symbol: str,
    timeframe: str,
    start: When | None,
    end: When | None,
    vendor: str | None = None,
    *,
    what: str = "TRADES",
    source: str | None = None,
    as_of: When | None = None,
) -> list[Bar]:
    """See `MDS.bars_window`."""
    asked = window_asked(symbol, timeframe, start, end, vendor, what=what, source=source, as_of=as_of)
    rows = await server.store.fetch(asked.table, wanted_of(asked))
    bars = models_from_rows(Bar, rows.slice(0, _TURN_ROWS), tenant_id=server.tenant_id)
    for at in range(_TURN_ROWS, rows.num_rows, _TURN_ROWS):
        await asyncio.sleep(0)
        bars += models_from_rows(Bar, rows.slice(at, _TURN_ROWS), tenant_id=server.tenant_id)
    return bars


async def upsert(
    server: AsyncServer, models: Iterable[StoredRow], *, reason: str | None = None, ts_known: When | None = None
) -> Upserted:
    """See `MDS.upsert`."""
    asked = rows_to_upsert(list(models), tenant_id=server.tenant_id, reason=reason, ts_known=ts_known)
    if asked is None:
        return Upserted()
    table, rows = asked
    return await server.store.upsert(table, rows, now_ns=server.clock.now_ns())
