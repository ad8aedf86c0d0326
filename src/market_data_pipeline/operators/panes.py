"""Sliding windows from panes: which windows are due, and which panes they are made of.

A pane is one step of event time; a window is a whole number of panes. Each event goes into one pane, and windows that
overlap share it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from market_data_core.errors import ConfigurationError
from market_data_core.protocols import END_OF_TIME_NS
from market_data_pipeline.operators.exact import Exact, largest
from market_data_pipeline.operators.streams import Ints
from market_data_pipeline.operators.watermarks import BEFORE_ALL_NS

_SECOND_NS = 1_000_000_000
_MOST_PANES = 10_000
_ROOM = 2**62


@dataclass(frozen=True, slots=True)
class Due:
    """Windows to give, one row each, ascending (stream, end).

    Attributes:
        stream: The place of each.
        end: Where it ends, exclusive; it begins a window's length before.
        first: Its first pane that has events, as a row among all panes.
        last: Its last one.
    """

    stream: Ints
    end: Ints
    first: Ints
    last: Ints

    def __len__(self) -> int:
        return len(self.stream)


@dataclass(frozen=True, slots=True)
class Grid:
    """Windows of `length_ns`, one every `step_ns`, epoch-aligned.

    Attributes:
        step_ns: Length of a pane, whole seconds.
        length_ns: Length of a window, a whole multiple of that.
    """

    step_ns: int
    length_ns: int

    @classmethod
    def checked(cls, step_ns: int, length_ns: int, *, where: str) -> Grid:
        """Return the grid.

        Raises:
            ConfigurationError: The window is no whole number of steps, or too many of them.
        """
        if length_ns % step_ns or length_ns // step_ns > _MOST_PANES:
            raise ConfigurationError(
                f"{where}: a window of {length_ns // _SECOND_NS} s is not 1 to {_MOST_PANES} whole steps of "
                f"{step_ns // _SECOND_NS} s"
            )
        return cls(step_ns, length_ns)

    def starts(self, ts_ns: Ints) -> Ints:
        """Return the start of the pane of each time."""
        return ts_ns - ts_ns % self.step_ns

    def closed_until(self, limit_ns: Ints) -> Ints:
        """Return the latest end of a window that is not beyond each limit."""
        # The least integer has no multiple below it.
        return self.starts(np.maximum(limit_ns, BEFORE_ALL_NS + self.step_ns))

    def due(self, stream: Ints, start: Ints, given: Ints, closed: Ints) -> Due:
        """Return the windows that end beyond `given` and not beyond `closed`, and have an event.

        Args:
            stream: The place of each pane that has events; panes ascend (stream, start).
            start: Where it begins.
            given: Latest end given, by place.
            closed: Latest end to give, by place, as `closed_until` gives it.
        """
        following = np.full(len(start), END_OF_TIME_NS)
        same = stream[1:] == stream[:-1]
        following[:-1][same] = start[1:][same]
        # The pane is the last one with events in windows that end after it does, but not after the next one begins.
        low = np.maximum(start, given[stream]) + self.step_ns
        high = np.minimum(np.minimum(start + self.length_ns, following), closed[stream])
        counts = np.maximum((high - low) // self.step_ns + 1, 0)
        last = np.repeat(np.arange(len(start)), counts)
        within = np.arange(len(last)) - np.repeat(np.cumsum(counts) - counts, counts)
        end = low[last] + within * self.step_ns
        first = np.searchsorted(_keys(stream, start), _keys(stream[last], end - self.length_ns))
        return Due(stream[last], end, first, last)

    def spent(self, stream: Ints, start: Ints, closed: Ints) -> np.ndarray[tuple[int, ...], np.dtype[np.bool_]]:
        """Return which panes are in no window that is still to come."""
        gone: np.ndarray[tuple[int, ...], np.dtype[np.bool_]] = start + self.length_ns <= closed[stream]
        return gone


def sums(values: Exact, due: Due) -> Exact:
    """Return the exact sum of a column of panes over each window."""
    if values.dtype != object and largest(values) * len(values) >= _ROOM:
        values = values.astype(object)
    running = np.concatenate([np.zeros(1, values.dtype), np.cumsum(values)])
    total: Exact = running[due.last + 1] - running[due.first]
    return total


def _keys(stream: Ints, start: Ints) -> Ints:
    # One integer that orders as (stream, start) do: all seconds that int64 nanoseconds can name fit in 35 bits.
    return (stream << 36) + start // _SECOND_NS + (1 << 34)
