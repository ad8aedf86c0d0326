"""Live events to many clients: looked at through a tap, encoded once, never waited for."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import orjson
import pyarrow as pa

from market_data_core.batch import Instrument
from market_data_core.errors import MarketDataError, ValidationError
from market_data_core.schemas import Kind
from market_data_orchestrator.market.bars import MadeBars
from market_data_orchestrator.market.last import LastValues, Seeds, row_of
from market_data_orchestrator.market.messages import KINDS, Channel
from market_data_orchestrator.market.outbox import ANY_KIND, Outbox, Parcel
from market_data_orchestrator.service import Service
from market_data_pipeline.taps import Tapped

LOG = logging.getLogger(__name__)

MAX_CLIENTS: Final = 200
MAX_CHANNELS: Final = 2_000
"""Kinds times symbols that one client may be subscribed to."""

_TAP_BATCHES: Final = 8192
# While somebody listens; and while nobody does, for the last values alone.
_LOOK_S: Final = 0.01
_IDLE_LOOK_S: Final = 0.25
# Rows turned into Python's values at a time, which holds its lock.
_ROWS_AT_ONCE: Final = 256


class Client:
    """One client: what it is subscribed to, and what waits for it."""

    def __init__(self, outbox: Outbox | None = None) -> None:
        self.outbox = outbox or Outbox()
        self.channels: set[Channel] = set()


class MarketFeed:
    """Gives every client the events of its channels as they are logged; bars also as the graph makes them.

    Capture puts batches into a tap and goes on; all work is done here, on the service's event loop. Where that falls
    behind, the tap drops its oldest batches, and clients are told.

    Args:
        service: Whose events.
        seeds: Finds bars that were made before anybody listened; None looks nowhere.
        max_clients: How many there may be.
        max_channels: Kinds times symbols of one client.
    """

    def __init__(
        self,
        service: Service,
        *,
        seeds: Seeds | None = None,
        max_clients: int = MAX_CLIENTS,
        max_channels: int = MAX_CHANNELS,
    ) -> None:
        self._service = service
        self._seeds = seeds
        self._max_clients = max_clients
        self._max_channels = max_channels
        self._clients: set[Client] = set()
        self._listening: dict[Channel, set[Client]] = {}
        self._wanted_version = 0
        self._wanted: dict[tuple[Kind, int], tuple[Any, npt.NDArray[np.bool_]]] = {}
        self._last = LastValues()
        self._bars = MadeBars(service, self.publish)
        self._seeding: set[asyncio.Task[None]] = set()
        self.over = asyncio.Event()
        """Set when the service stops."""

    @property
    def clients(self) -> int:
        """How many clients there are."""
        return len(self._clients)

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Look at what is logged until left; then all clients are let go."""
        self.over.clear()
        tasks = [
            asyncio.create_task(self._look(), name="market-feed"),
            asyncio.create_task(self._bars.run(), name="market-bars"),
        ]
        try:
            yield
        finally:
            self.over.set()
            ending = (*tasks, *self._seeding)
            for task in ending:
                task.cancel()
            await asyncio.gather(*ending, return_exceptions=True)

    def join(self, client: Client) -> bool:
        """Take a client in; False where there are too many already."""
        if len(self._clients) >= self._max_clients:
            return False
        self._clients.add(client)
        return True

    def leave(self, client: Client) -> None:
        """Let a client go; it may have gone before."""
        self.unsubscribe(client, tuple(client.channels))
        self._clients.discard(client)

    def subscribe(self, client: Client, channels: Sequence[Channel]) -> None:
        """Give a client the last value of each new channel now, and all that come from now on.

        Raises:
            ValidationError: Code ``too_many``; nothing was subscribed to.
        """
        fresh = [channel for channel in channels if channel not in client.channels]
        if len(client.channels) + len(fresh) > self._max_channels:
            raise ValidationError(
                f"one socket has at most {self._max_channels} channels, each a kind and a symbol", "too_many"
            )
        for channel in fresh:
            self._listening.setdefault(channel, set()).add(client)
        client.channels.update(fresh)
        self._changed()
        known, unknown = self._last.of(fresh)
        client.outbox.add(known)
        symbols = tuple(symbol for kind, symbol in unknown if kind is Kind.BARS)
        if symbols and self._seeds is not None:
            task = asyncio.create_task(self._seed(client, symbols), name="market-seed")
            self._seeding.add(task)
            task.add_done_callback(self._seeding.discard)

    def unsubscribe(self, client: Client, channels: Sequence[Channel]) -> None:
        """Give a client no more of these, not even what waits for it already."""
        for channel in channels:
            listeners = self._listening.get(channel)
            if listeners is not None:
                listeners.discard(client)
                if not listeners:
                    del self._listening[channel]
        client.channels.difference_update(channels)
        client.outbox.forget(set(channels))
        self._changed()

    def publish(self, kind: Kind, rows: Iterable[Mapping[str, Any]]) -> None:
        """Give rows, in the columns of the kind's table, to those who listen."""
        parcels: dict[tuple[str, str], list[str]] = {}
        for row in rows:
            parcels.setdefault((row["vendor"], row["symbol"]), []).append(orjson.dumps(row).decode())
            self._last.keep_row(kind, row)
        self._hand_out(Parcel(kind, vendor, symbol, tuple(lines)) for (vendor, symbol), lines in parcels.items())

    def _hand_out(self, parcels: Iterable[Parcel]) -> None:
        by_client: dict[Client, list[Parcel]] = {}
        for parcel in parcels:
            for client in self._listening.get((parcel.kind, parcel.symbol), ()):
                by_client.setdefault(client, []).append(parcel)
        for client, taken in by_client.items():
            client.outbox.add(taken)

    def _changed(self) -> None:
        self._wanted_version += 1
        self._wanted.clear()
        self._bars.wanted = any(kind is Kind.BARS for kind, _ in self._listening)

    async def _look(self) -> None:
        engine = self._service.engine
        if engine is None:
            return
        tap = engine.taps.open(_TAP_BATCHES)
        try:
            while True:
                await asyncio.sleep(_LOOK_S if self._listening else _IDLE_LOOK_S)
                items, missed = tap.take()
                if missed:
                    self._miss(ANY_KIND, missed)
                for group in _grouped(items):
                    try:
                        await self._take(group)
                    except Exception:
                        # A source's odd batch must not end the feed of all others.
                        LOG.exception("%s could not be given to clients", group[0].batch.kind)
                        self._miss(str(group[0].batch.kind), sum(item.batch.data.num_rows for item in group))
        finally:
            engine.taps.close(tap)

    def _miss(self, kind: str, count: int) -> None:
        # Of what was missed nobody knows whose it was: all who listen are told.
        for client in self._clients:
            if client.channels:
                client.outbox.miss(kind, count)

    async def _take(self, group: Sequence[Tapped]) -> None:
        first, kind, instruments = group[0], group[0].batch.kind, group[-1].batch.instruments
        data = _joined(group)
        ids = data.column("instrument").to_numpy()
        self._last.keep(kind, instruments, data, ids, str(first.origin))
        wanted = self._mask(kind, instruments)
        if wanted is None:
            return
        places = np.flatnonzero(wanted[ids])
        for start in range(0, len(places), _ROWS_AT_ONCE):
            rows = data.take(pa.array(places[start : start + _ROWS_AT_ONCE]))
            self._hand_out(_parcels(kind, instruments, rows, str(first.origin)))
            await asyncio.sleep(0)

    def _mask(self, kind: Kind, instruments: Sequence[Instrument]) -> npt.NDArray[np.bool_] | None:
        # By place in the source's table of instruments, whether anybody listens; that table only ever grows.
        key = (kind, id(instruments))
        known = self._wanted.get(key)
        if known is not None and known[0] is instruments and len(known[1]) == len(instruments):
            return known[1] if known[1].any() else None
        mask = np.fromiter(((kind, i.symbol) in self._listening for i in instruments), np.bool_, len(instruments))
        if len(self._wanted) > 64:
            self._wanted.clear()  # of sources that make their table anew with every batch
        self._wanted[key] = (instruments, mask)
        return mask if mask.any() else None

    async def _seed(self, client: Client, symbols: tuple[str, ...]) -> None:
        if self._seeds is None:
            return
        try:
            rows = await self._seeds.bars(symbols)
        except MarketDataError as exc:
            LOG.warning("the last bars of %s cannot be looked up: %s", ", ".join(symbols[:10]), exc)
            return
        except Exception:
            LOG.exception("the last bars of %s cannot be looked up", ", ".join(symbols[:10]))
            return
        for row in rows:
            channel = (Kind.BARS, row["symbol"])
            # A newer one may have come meanwhile, and the client may have left.
            if channel in client.channels and self._last.keep_older(Kind.BARS, row):
                line = orjson.dumps(row).decode()
                client.outbox.add([Parcel(Kind.BARS, row["vendor"], row["symbol"], (line,))])


def _grouped(items: Sequence[Tapped]) -> list[list[Tapped]]:
    # One group per source and kind: the table of instruments tells the source.
    groups: dict[tuple[Kind, int, str], list[Tapped]] = {}
    for item in items:
        if item.batch.kind in KINDS and item.batch.data.num_rows:
            groups.setdefault((item.batch.kind, id(item.batch.instruments), item.origin), []).append(item)
    return list(groups.values())


def _joined(group: Sequence[Tapped]) -> pa.RecordBatch:
    rows = pa.Table.from_batches([item.batch.data for item in group]).combine_chunks().to_batches()[0]
    seqs = np.concatenate([np.arange(t.first_seq, t.first_seq + t.batch.data.num_rows) for t in group])
    return rows.append_column("seq", pa.array(seqs, pa.int64()))


def _parcels(kind: Kind, instruments: Sequence[Instrument], rows: pa.RecordBatch, origin: str) -> list[Parcel]:
    found: dict[int, list[str]] = {}
    for row in rows.to_pylist():
        place = row["instrument"]
        found.setdefault(place, []).append(orjson.dumps(row_of(kind, instruments[place], row, origin)).decode())
    return [Parcel(kind, instruments[p].vendor, instruments[p].symbol, tuple(lines)) for p, lines in found.items()]
