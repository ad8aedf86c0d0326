"""A coordinator's voice on the feedback bus: each change of its level once, in order."""

from __future__ import annotations

import asyncio
import logging
from collections import deque

from market_data_core.clock import NS_PER_SECOND, Clock
from market_data_core.protocols import FeedbackPublisher
from market_data_core.telemetry import BackpressureLevel, FeedbackEvent
from market_data_pipeline.waiting import first_of
from market_data_pipeline.writing.watermarks import Watermarks

LOG = logging.getLogger(__name__)


class Teller:
    """Publishes levels from a task of its own, so that who writes does not wait for a bus.

    Args:
        bus: Where to; None for nowhere.
        coordinator_id: Who speaks.
        repeat_s: A level that is not ok is said again after so many seconds: listeners forget those that fell silent.
        clock: Stamps and times.
    """

    def __init__(self, bus: FeedbackPublisher | None, *, coordinator_id: str, repeat_s: float, clock: Clock) -> None:
        self._bus = bus
        self._id = coordinator_id
        self._repeat_s = repeat_s
        self._clock = clock
        self._events: deque[FeedbackEvent] = deque()
        self._came = asyncio.Event()
        self._ending = False
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin, once."""
        if self._bus is not None and self._task is None:
            self._task = asyncio.create_task(self._run(self._bus), name=f"{self._id}: feedback")

    def tell(self, marks: Watermarks, size: int) -> None:
        """Have the level told that a queue has reached."""
        if self._bus is not None:
            self._events.append(
                FeedbackEvent(
                    coordinator_id=self._id,
                    queue_size=size,
                    capacity=marks.capacity,
                    level=marks.level,
                    ts=self._clock.now_ns() / NS_PER_SECOND,
                    reason=f"{size} rows wait to be stored",
                )
            )
            self._came.set()

    async def close(self) -> None:
        """Tell what is left, and end. May be called twice."""
        self._ending = True
        self._came.set()
        if self._task is not None:
            await self._task

    async def _run(self, bus: FeedbackPublisher) -> None:
        last: FeedbackEvent | None = None
        while True:
            while self._events:
                last = self._events.popleft()
                await self._publish(bus, last)
            if self._ending:
                return
            self._came.clear()
            repeat = last is not None and last.level is not BackpressureLevel.OK
            came = asyncio.create_task(self._came.wait(), name=f"{self._id}: level")
            try:
                await first_of(self._clock, self._repeat_s if repeat else None, [came], name=self._id)
            finally:
                came.cancel()
            if last is not None and repeat and not self._events and not self._ending:
                self._events.append(last.model_copy(update={"ts": self._clock.now_ns() / NS_PER_SECOND}))

    async def _publish(self, bus: FeedbackPublisher, event: FeedbackEvent) -> None:
        try:
            await bus.publish(event)
        except Exception as exc:  # noqa: BLE001  a bus that fails must not hold up what it only speaks of
            LOG.warning("%s: level %s cannot be told: %s", self._id, event.level, exc)
