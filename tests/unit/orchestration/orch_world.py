"""Sources that do as they are told, and a clock that moves when nothing else does."""

from __future__ import annotations

import asyncio

from market_data_core.batch import Instrument, SourceBatch, unlogged
from market_data_core.clock import NS_PER_SECOND, ManualClock
from market_data_core.errors import ConnectionFailed
from market_data_core.models import EventMeta, Quote
from market_data_core.protocols import END_OF_TIME_NS, Mark
from market_data_core.schemas import Kind, Origin

NOON_NS = 1_704_196_800 * NS_PER_SECOND
SILENCE = object()


def at_noon():
    return ManualClock(NOON_NS)


def seconds(clock):
    """Seconds since noon."""
    return (clock.now_ns() - NOON_NS) / NS_PER_SECOND


async def settle(turns=60):
    """Let everything happen that needs no time."""
    for _ in range(turns):
        await asyncio.sleep(0)


async def drive(clock, awaitable):
    """Wait for something, moving the clock to the next sleeper whenever all others wait."""
    task = asyncio.ensure_future(awaitable)
    try:
        while True:
            await settle()
            if task.done():
                return task.result()
            due = [at_ns for at_ns, future in clock._sleepers if not future.done()]
            assert due, "everybody waits and nobody for the clock"
            clock.advance((min(due) - clock.now_ns()) / NS_PER_SECOND + 1e-9)
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def take(count, items):
    """The next so many items."""
    return [await anext(items) for _ in range(count)]


async def collect(items):
    """All items to the end."""
    return [item async for item in items]


def quote(vendor, n, *, ts_ns):
    return Quote(
        symbol="AAPL", bid=float(n), ask=n + 0.5, ts_event_ns=ts_ns, meta=EventMeta(vendor=vendor, ts_recv_ns=ts_ns)
    )


class Live:
    """A live feed of quotes. Each connection follows the next script; when there is none left, connecting fails.

    A step of a script is a number (a quote with that bid, now), a float (so many seconds pass), an error, or SILENCE.
    """

    symbols = ("AAPL",)

    def __init__(self, name, clock, *scripts, lag_s=0.0, status=None):
        self.name = name
        self.clock = clock
        self.scripts = list(scripts)
        self.lag_s = lag_s
        self.given = []
        self.connections = 0
        self.closes = 0
        if status is not None:
            self.status = status

    async def stream(self):
        self.connections += 1
        if not self.scripts:
            raise ConnectionFailed(f"{self.name} refuses")
        for step in self.scripts.pop(0):
            if isinstance(step, float):
                await self.clock.sleep(step)
            elif isinstance(step, Exception):
                raise step
            elif step is SILENCE:
                await asyncio.Event().wait()
            else:
                await asyncio.sleep(0)
                self.given.append(step)
                yield quote(self.name, step, ts_ns=self.clock.now_ns() - int(self.lag_s * NS_PER_SECOND))

    async def get_quote(self, symbol):
        if not self.scripts:
            raise ConnectionFailed(f"{self.name} refuses")
        return quote(self.name, 1, ts_ns=self.clock.now_ns())

    async def close(self):
        self.closes += 1


class Recorded:
    """A recording of `count` trades, one a second, that can be read again from anywhere; dies at given offsets."""

    def __init__(self, name, clock, count, *, dies_at=(), batch_rows=3, waits=True, pause_s=0.1):
        self.name = name
        self.clock = clock
        self.count = count
        self.dies_at = list(dies_at)
        self.batch_rows = batch_rows
        self.waits = waits
        self.pause_s = pause_s
        self.origin = Origin.REPLAY if waits else Origin.LIVE
        self.given = []
        self.resumes = []
        self.instruments = (Instrument(vendor=name, symbol="AAPL"),)

    async def batches(self, resume):
        place = resume.get(self.name, 0)
        self.resumes.append(place)
        while place < self.count:
            await self.clock.sleep(self.pause_s)
            end = min(place + self.batch_rows, self.count)
            if self.dies_at and self.dies_at[0] < end:
                death = self.dies_at.pop(0)
                if death <= place:
                    raise ConnectionFailed(f"{self.name} died at {death}")
                end = death
                self.dies_at.insert(0, death)
            numbers = range(place, end)
            columns = {
                "instrument": [0] * len(numbers),
                "ts_event": [NOON_NS + n * NS_PER_SECOND for n in numbers],
                "price": [float(n) for n in numbers],
                "size": [1.0] * len(numbers),
            }
            self.given += numbers
            place = end
            yield SourceBatch(
                kind=Kind.TRADES,
                data=unlogged(Kind.TRADES, len(numbers), columns),
                instruments=self.instruments,
                source_id=self.name,
                offset=end,
            )
        if place == self.count:
            yield Mark(vendor=self.name, ts_ns=END_OF_TIME_NS, source_id=self.name, offset=self.count + 1)

    async def close(self):
        self.closed = True


def rows(items, name):
    """The numbers of a recording's trades among what a router gave."""
    return [
        int(price)
        for item in items
        if isinstance(item, SourceBatch) and item.source_id == name
        for price in item.data.column("price").to_pylist()
    ]
