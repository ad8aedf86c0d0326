"""Gathering values into batches for a sink."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel

from market_data_core.errors import ConfigurationError

# Timers and clocks round; a wait of less than this is over.
_DUST_S = 1e-6


class Batcher:
    """Gathers values until there are enough of them, in number, size or age. Keeps their order.

    Args:
        max_rows: Most values in a batch.
        max_bytes: Most bytes in a batch, as columns would hold it: 8 for a number, one for a character. A value that
            is larger alone makes a batch alone.
        max_ms: How long the first value of a batch may wait for others, in milliseconds; 0 waits for nothing that has
            not come yet.

    Raises:
        ConfigurationError: A limit is out of range; names it.
    """

    def __init__(self, max_rows: int = 500, max_bytes: int = 1 << 20, max_ms: float = 1000.0) -> None:
        for name, value, least in (("max_rows", max_rows, 1), ("max_bytes", max_bytes, 1), ("max_ms", max_ms, 0)):
            if not least <= value < float("inf"):
                raise ConfigurationError(f"batcher: {name} is {value}; it is a number from {least} up")
        self.max_rows = max_rows
        self.max_bytes = max_bytes
        self.max_ms = max_ms
        self._values: list[Any] = []
        self._bytes = 0
        self._since_s = 0.0

    def __len__(self) -> int:
        return len(self._values)

    def add(self, value: Any, now_s: float) -> list[list[Any]]:
        """Take a value; return the batches that are full because of it, mostly none.

        Args:
            value: Anything.
            now_s: The present on a monotonic scale, seconds.
        """
        full = []
        size = size_bytes(value)
        if self._values and self._bytes + size > self.max_bytes:
            full.append(self.take())
        if not self._values:
            self._since_s = now_s
        self._values.append(value)
        self._bytes += size
        if len(self._values) >= self.max_rows or self._bytes >= self.max_bytes:
            full.append(self.take())
        return full

    def due_in_s(self, now_s: float) -> float | None:
        """Return how long the batch may still wait, in seconds; 0 when it is due, None when it is empty."""
        if not self._values:
            return None
        left_s = self._since_s + self.max_ms / 1000 - now_s
        return left_s if left_s > _DUST_S else 0.0

    def take(self) -> list[Any]:
        """Return what has been gathered, and begin anew."""
        values, self._values, self._bytes = self._values, [], 0
        return values


def size_bytes(value: Any) -> int:
    """Return about how many bytes a value is: 8 for a number, one for a character, the sum over its fields."""
    if isinstance(value, str | bytes):
        return len(value)
    if isinstance(value, BaseModel):
        value = value.__dict__
    if isinstance(value, Mapping):
        size = 0
        for part in value.values():  # a loop, because a generator costs twice as much, and this runs for every value
            size += len(part) if type(part) is str else 8
        return size
    return 8
