"""How full a queue is, said only when that changes."""

from __future__ import annotations

from market_data_core.errors import ConfigurationError
from market_data_core.telemetry import BackpressureLevel

_ORDER = (BackpressureLevel.OK, BackpressureLevel.SOFT, BackpressureLevel.HARD)


class Watermarks:
    """Makes a level of a queue's size, and tells when it changes.

    A level falls only at a part of what it took to rise, so that a queue that stays about as full does not change it
    with every row.

    Args:
        capacity: How much fits, at least 1.
        soft: At this part of it, above 0, the level is ``soft``,
        hard: and at this, up to 1, ``hard``.
        falling: A level is kept down to this part, above 0 and up to 1, of where it begins.

    Raises:
        ConfigurationError: An argument is out of range.
    """

    def __init__(self, capacity: int, *, soft: float = 0.5, hard: float = 1.0, falling: float = 0.5) -> None:
        if capacity < 1 or not 0 < soft <= hard <= 1 or not 0 < falling <= 1:
            raise ConfigurationError(
                f"watermarks: capacity {capacity} is to be at least 1, 0 < soft {soft} <= hard {hard} <= 1, "
                f"0 < falling {falling} <= 1"
            )
        self.capacity = capacity
        self.level = BackpressureLevel.OK
        """The level as of the last `update`."""
        self._rises = {BackpressureLevel.SOFT: capacity * soft, BackpressureLevel.HARD: capacity * hard}
        self._falling = falling

    def update(self, size: int) -> bool:
        """Take note of the size; return whether the level is another one now."""
        before = self.level
        self.level = self._level(size)
        return self.level is not before

    def _level(self, size: int) -> BackpressureLevel:
        now = _ORDER.index(self.level)
        for place in (2, 1):
            level = _ORDER[place]
            if size >= self._rises[level] * (self._falling if now >= place else 1.0):
                return level
        return BackpressureLevel.OK
