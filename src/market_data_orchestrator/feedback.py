"""Feedback: the service tells how far its store is behind, and hears how others are."""

from __future__ import annotations

from collections.abc import Callable

from market_data_core.clock import Clock
from market_data_core.telemetry import BackpressureLevel, FeedbackEvent
from market_data_orchestrator.events import EventRegistry
from market_data_pipeline.orchestration import FeedbackBus
from market_data_pipeline.writing.watermarks import Watermarks

_LOOK_S = 0.25
_REPEAT_S = 15.0
_STALE_S = 4 * _REPEAT_S
_NOTICES = "ingest"
"""The source of events that tell of new data, and of no queue."""

SCALES = {BackpressureLevel.OK: 1.0, BackpressureLevel.SOFT: 0.5, BackpressureLevel.HARD: 0.0}
"""How fast sources that can wait may go at each level."""


class LagReporter:
    """Publishes the level of a queue whenever it changes: at half the limit ``soft``, at the limit ``hard``.

    A level falls only at half of what it took to rise, so that a store that keeps pace with a full queue does not
    change it with every commit. One that is not ok is repeated, for those who lost it.

    Args:
        bus: Where to.
        lag: Says how many events are logged and not stored.
        limit: So many make it ``hard``.
        node: Whose lag it is.
        clock: Stamps events.
    """

    def __init__(self, bus: FeedbackBus, *, lag: Callable[[], int], limit: int, node: str, clock: Clock) -> None:
        self._bus = bus
        self._lag = lag
        self._marks = Watermarks(limit)
        self._node = node
        self._clock = clock

    @property
    def level(self) -> BackpressureLevel:
        """The level as it was last looked at."""
        return self._marks.level

    async def run(self) -> None:
        """Look for ever."""
        await self._tell(self._lag())
        told_s = self._clock.monotonic_s()
        while True:
            await self._clock.sleep(_LOOK_S)
            lag = self._lag()
            changed = self._marks.update(lag)
            repeat = self.level is not BackpressureLevel.OK and self._clock.monotonic_s() - told_s >= _REPEAT_S
            if changed or repeat:
                await self._tell(lag)
                told_s = self._clock.monotonic_s()

    async def _tell(self, lag: int) -> None:
        event = FeedbackEvent(
            coordinator_id=self._node,
            queue_size=lag,
            capacity=self._marks.capacity,
            level=self.level,
            ts=self._clock.now_ns() / 1e9,
            reason=f"{lag} events are logged and not stored",
        )
        await self._bus.publish(event)


class Pressure:
    """What the coordinators together ask for: the worst of those that spoke not long ago. Handles feedback events.

    Args:
        clock: Says what is long ago.
        apply: Told how fast sources that can wait may go, 0 to 1, whenever that changes.
    """

    def __init__(self, *, clock: Clock, apply: Callable[[float], None]) -> None:
        self._clock = clock
        self._apply = apply
        self._said: dict[str, FeedbackEvent] = {}
        self._scale = 1.0

    async def handle(self, event: FeedbackEvent) -> None:
        """Take note of what one coordinator says."""
        if event.source != _NOTICES:
            self._said[event.coordinator_id] = event
        self._changed()

    async def expire(self) -> None:
        """Forget, for ever, coordinators that have fallen silent: they may have died at their worst."""
        while True:
            await self._clock.sleep(_REPEAT_S)
            self._changed()

    def _changed(self) -> None:
        now_s = self._clock.now_ns() / 1e9
        self._said = {who: e for who, e in self._said.items() if now_s - e.ts < _STALE_S}
        scale = min((SCALES[e.level] for e in self._said.values()), default=1.0)
        if scale != self._scale:
            self._scale = scale
            self._apply(scale)


async def dispatch_all(bus: FeedbackBus, events: EventRegistry) -> None:
    """Hand everything that comes on the bus to the handlers, one after the other, until it is closed."""
    async for event in bus.subscribe():
        await events.dispatch(event)
