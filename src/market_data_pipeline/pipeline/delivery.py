"""From the last step to the sink: batches, a bounded queue, and a writer that tries again."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Literal

import stamina

from market_data_core.clock import Clock
from market_data_core.errors import MarketDataError, SinkError
from market_data_core.protocols import Sink
from market_data_pipeline.consumers.ledger import NodeCounts
from market_data_pipeline.pipeline.batcher import Batcher

OnFull = Literal["wait", "drop_oldest", "drop_newest"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """How often and for how long a sink is asked again after a retryable error.

    Attributes:
        attempts: Calls in all; None for no limit.
        timeout_s: After so long no further call is made; None for no limit.
        wait_initial_s: Before the second call; doubles from call to call,
        wait_max_s: up to this.
        wait_jitter_s: At most so much is added, at random. An error's own `retry_after_sec` is gone by instead.
    """

    attempts: int | None = 10
    timeout_s: float | None = 45.0
    wait_initial_s: float = 0.1
    wait_max_s: float = 5.0
    wait_jitter_s: float = 0.1


class Delivery:
    """Gathers values into batches and writes them to a sink.

    Args:
        name: Of the pipeline, for errors.
        batcher: Says what a batch is.
        sink: Where batches go, one `write` at a time, in order.
        limit: Batches that may wait.
        on_full: Who gives way when so many wait: ``wait`` holds up the source; ``drop_oldest`` and ``drop_newest``
            drop a batch, which counts as suppressed.
        retry: What to do after a retryable error.
        clock: Times the batches.
        queue_node, sink_node: The accounts.
    """

    def __init__(
        self,
        *,
        name: str,
        batcher: Batcher,
        sink: Sink[Any],
        limit: int,
        on_full: OnFull,
        retry: RetryPolicy,
        clock: Clock,
        queue_node: NodeCounts,
        sink_node: NodeCounts,
    ) -> None:
        self.gathering = asyncio.Event()
        self._name = name
        self._batcher = batcher
        self._sink = sink
        self._limit = limit
        self._on_full = on_full
        self._again = stamina.AsyncRetryingCaller(
            attempts=retry.attempts,
            timeout=retry.timeout_s,
            wait_initial=retry.wait_initial_s,
            wait_max=retry.wait_max_s,
            wait_jitter=retry.wait_jitter_s,
        )
        self._clock = clock
        self._queue_node = queue_node
        self._sink_node = sink_node
        self._queue: deque[list[Any]] = deque()
        self._changed = asyncio.Condition()
        self._ended = False
        self._held = 0

    async def put(self, values: list[Any]) -> None:
        """Take values; waits for room in the queue where that is the policy."""
        self._queue_node.received += len(values)
        now_s = self._clock.monotonic_s()
        full = [batch for value in values for batch in self._batcher.add(value, now_s)]
        if self._batcher.due_in_s(now_s) == 0:
            full.append(self._batcher.take())
        if full:
            await self._enqueue(full)
        else:
            self._count_gathered()

    async def flush_when_due(self, lock: asyncio.Lock) -> None:
        """Put batches into the queue when their time has come, until cancelled; `lock` guards `put` too."""
        while True:
            await self.gathering.wait()
            due_in_s = self._batcher.due_in_s(self._clock.monotonic_s())
            if due_in_s:
                await self._clock.sleep(due_in_s)
                continue
            async with lock:
                if self._batcher.due_in_s(self._clock.monotonic_s()) == 0:
                    await self._enqueue_gathered()

    async def end(self) -> None:
        """Let the writer end when everything that was put in is written."""
        await self._enqueue_gathered()
        async with self._changed:
            self._ended = True
            self._changed.notify_all()

    async def write(self) -> None:
        """Write batches until `end`, and flush whenever none waits.

        Raises:
            SinkError: The sink did not take a batch, now or after all retries. Says how many values it was.
        """
        while (batch := await self._next()) is not None:
            node = self._sink_node
            node.received += len(batch)
            node.in_flight = len(batch)
            taken = False
            try:
                await self._ask(self._sink.write, batch, what=f"did not take {len(batch)} values")
                taken = True
            finally:
                # Cancelled in the middle, nobody knows; what is not known to be written is not counted as written.
                node.in_flight = 0
                if taken:
                    node.passed += len(batch)
                else:
                    node.failed += len(batch)
            if not self._queue:
                await self._ask(self._sink.flush, what="could not be flushed")

    def abandon(self, *, failed: bool) -> int:
        """Give up what is not written; return how many values that is. They count as failed, or as suppressed."""
        left = self._waiting()
        self._batcher.take()
        self._queue.clear()
        self._held = self._queue_node.in_flight = 0
        if failed:
            self._queue_node.failed += left
        else:
            self._queue_node.suppressed += left
        return left

    async def close(self) -> None:
        """Close the sink.

        Raises:
            SinkError: It cannot be closed.
        """
        try:
            await self._sink.close()
        except Exception as exc:
            raise self._error("could not be closed", exc) from exc

    # Whatever waits in a full queue is behind what it holds: batches keep their order under every policy.
    async def _enqueue(self, batches: list[list[Any]]) -> None:
        self._held = sum(map(len, batches))
        self._count_gathered()
        for batch in batches:
            async with self._changed:
                if self._on_full == "wait":
                    await self._changed.wait_for(lambda: len(self._queue) < self._limit)
                self._held -= len(batch)
                self._admit(batch)
                self._changed.notify_all()
            await asyncio.sleep(0)  # the writer gets its turn, however little the source waits

    def _admit(self, batch: list[Any]) -> None:
        if len(self._queue) >= self._limit:
            if self._on_full == "drop_newest":
                dropped = batch
            else:
                dropped = self._queue.popleft()
                self._queue.append(batch)
            self._queue_node.suppressed += len(dropped)
        else:
            self._queue.append(batch)
        self._count_gathered()

    async def _enqueue_gathered(self) -> None:
        batch = self._batcher.take()
        await self._enqueue([batch] if batch else [])

    def _waiting(self) -> int:
        return len(self._batcher) + self._held + sum(map(len, self._queue))

    def _count_gathered(self) -> None:
        self._queue_node.in_flight = self._waiting()
        if len(self._batcher):
            self.gathering.set()
        else:
            self.gathering.clear()

    async def _next(self) -> list[Any] | None:
        async with self._changed:
            await self._changed.wait_for(lambda: self._queue or self._ended)
            if not self._queue:
                return None
            batch = self._queue.popleft()
            self._queue_node.passed += len(batch)
            self._queue_node.in_flight = self._waiting()
            self._changed.notify_all()
            return batch

    async def _ask(self, call: Callable[..., Awaitable[None]], *arguments: Any, what: str) -> None:
        try:
            await self._again(_retryable, call, *arguments)
        except Exception as exc:
            raise self._error(what, exc) from exc

    def _error(self, what: str, exc: Exception) -> SinkError:
        text = str(exc) if isinstance(exc, MarketDataError) else f"{type(exc).__name__}: {exc}"
        return SinkError(f"pipeline {self._name}: sink {type(self._sink).__name__} {what}: {text}")


def _retryable(exc: Exception) -> bool | float:
    if not (isinstance(exc, MarketDataError) and exc.retryable):
        return False
    return exc.retry_after_sec or True
