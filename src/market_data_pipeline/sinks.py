"""Sinks that come with the package, for trying out, measuring and tests."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from typing import Any


class NullSink:
    """Takes everything and keeps nothing.

    Attributes:
        count: Values taken.
    """

    def __init__(self) -> None:
        self.count = 0

    async def write(self, batch: Sequence[Any]) -> None:
        """Count the values."""
        self.count += len(batch)

    async def flush(self) -> None:
        """Do nothing: nothing is kept."""

    async def close(self) -> None:
        """Do nothing: nothing is held."""


class MemorySink:
    """Keeps everything in lists, which stay readable after `close`.

    Attributes:
        batches: What each `write` was given, in order.
        flushes: How often everything was to be made durable.
        closed: True after `close`.
    """

    def __init__(self) -> None:
        self.batches: list[list[Any]] = []
        self.flushes = 0
        self.closed = False

    @property
    def values(self) -> list[Any]:
        """All values in the order they came."""
        return [value for batch in self.batches for value in batch]

    async def write(self, batch: Sequence[Any]) -> None:
        """Keep the values."""
        self.batches.append(list(batch))

    async def flush(self) -> None:
        """Count the call: memory is as durable as it gets."""
        self.flushes += 1

    async def close(self) -> None:
        """Note the end."""
        self.closed = True


class HandOver:
    """A sink whose values somebody else takes one by one; whoever writes waits until they are wanted."""

    def __init__(self) -> None:
        self._batch: Sequence[Any] = ()
        self._closed = False
        self._changed = asyncio.Condition()

    async def write(self, batch: Sequence[Any]) -> None:
        """Hand over a batch; returns when it has been taken up."""
        async with self._changed:
            self._batch = batch
            self._changed.notify_all()
            await self._changed.wait_for(lambda: not self._batch)

    async def flush(self) -> None:
        """Do nothing: what was written has been taken up."""

    async def close(self) -> None:
        """Let the taker come to an end."""
        async with self._changed:
            self._closed = True
            self._changed.notify_all()

    async def values(self) -> AsyncGenerator[Any, None]:
        """Give what is written, until `close`."""
        while True:
            async with self._changed:
                await self._changed.wait_for(lambda: self._batch or self._closed)
                batch, self._batch = self._batch, ()
                self._changed.notify_all()
            if not batch:
                return
            for value in batch:
                yield value
