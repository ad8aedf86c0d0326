"""A simulated gateway on a loopback port, a provider on it, and what the provider gives."""

from __future__ import annotations

import asyncio
import time

from market_data_core.batch import SourceBatch
from market_data_core.protocols import Gap
from market_data_core.schemas import Kind
from market_data_ibkr import IBKRProvider

FAST = {"backoff_s": 0.02, "backoff_max_s": 0.2, "heartbeat_s": 5.0, "connect_timeout_s": 2.0, "retry_s": 0.1}


async def until(claim, deadline_s=10.0):
    """Wait on the loop until a claim is true and return it; fail after the deadline."""
    end = time.monotonic() + deadline_s
    while not (found := claim()):
        assert time.monotonic() < end, "not in time"
        await asyncio.sleep(0.005)
    return found


class Reading:
    """Reads a provider's batches and keeps them."""

    def __init__(self, provider):
        self.provider = provider
        self.items = []
        self.task = asyncio.create_task(self._read())

    async def _read(self):
        async for item in self.provider.batches({}):
            self.items.append(item)

    @property
    def gaps(self):
        return [i for i in self.items if isinstance(i, Gap)]

    def rows(self, kind, symbol=None):
        return [
            row
            for item in self.items
            if isinstance(item, SourceBatch) and item.kind is kind
            for row in item.data.to_pylist()
            if symbol in {None, item.instruments[row["instrument"]].symbol}
        ]

    def quotes(self, symbol):
        names = ("bid_price", "bid_size", "ask_price", "ask_size")
        return [tuple(r[n] for n in names) for r in self.rows(Kind.QUOTES, symbol)]

    def trades(self, symbol):
        return [(r["ts_event"] // 10**9, r["price"], r["size"]) for r in self.rows(Kind.TRADES, symbol)]


class Desk:
    """One gateway and the providers on it."""

    def __init__(self, gateway):
        self.gateway = gateway
        self.providers = []

    def provider(self, *symbols, **given):
        made = IBKRProvider(symbols=symbols, port=self.gateway.port, **{**FAST, **given})
        self.providers.append(made)
        return made

    async def reading(self, *symbols, **given):
        """A provider that is read and whose subscriptions have all arrived."""
        reading = Reading(self.provider(*symbols, **given))
        await self.subscribed(len(symbols))
        return reading

    async def subscribed(self, count, connection=None):
        connection = connection or max(self.gateway.accepted, 1)
        await until(lambda: self.gateway.count(1, connection) >= count)
        await until(self.settled)

    def settled(self):
        """Whether every provider has sent all that it means to."""
        return all(not p._feed._due for p in self.providers)

    async def same(self, reading, symbol):
        """Wait until the reader has what the gateway said of a symbol; fail if it has anything else."""
        said = self.gateway
        try:
            await until(lambda: reading.quotes(symbol) == said.quotes.get(symbol, []))
            await until(lambda: reading.trades(symbol) == said.trades.get(symbol, []))
        except AssertionError:
            assert reading.quotes(symbol) == said.quotes.get(symbol, [])
            assert reading.trades(symbol) == said.trades.get(symbol, [])
            raise
