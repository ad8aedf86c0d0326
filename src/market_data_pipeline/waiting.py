"""Waiting for what comes first."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any

from market_data_core.clock import Clock


class Closing:
    """Makes any iterator one that `contextlib.aclosing` takes: users' own need not have ``aclose``.

    Args:
        items: An async iterator, or None.
    """

    def __init__(self, items: Any) -> None:
        self._items = items

    async def aclose(self) -> None:
        """Close the iterator, if it can be closed."""
        close = getattr(self._items, "aclose", None)
        if close is not None:
            await close()


def left_s(clock: Clock, until_s: float) -> float:
    """Return how many seconds are left until then, 0 where that is past or less than a microsecond away.

    Args:
        clock: Says what time it is.
        until_s: On the clock's monotonic scale, which as a float is no finer than that.
    """
    left = until_s - clock.monotonic_s()
    return left if left > 1e-6 else 0.0


async def first_of(clock: Clock, delay_s: float | None, others: Iterable[asyncio.Future[Any]], *, name: str) -> None:
    """Wait for the first of the others to be done, at most `delay_s` seconds; the others go on.

    Args:
        clock: Times the delay.
        delay_s: None for no limit.
        others: What is waited for.
        name: Who waits.
    """
    waited = set(others)
    timer: asyncio.Task[None] | None = None
    if delay_s is not None:
        timer = asyncio.create_task(clock.sleep(delay_s), name=f"{name}: timer")
        waited.add(timer)
    try:
        await asyncio.wait(waited, return_when=asyncio.FIRST_COMPLETED)
        if timer is not None and timer.done():
            timer.result()  # a clock that fails is an error, not a reason to ask it again
    finally:
        if timer is not None:
            timer.cancel()
            await asyncio.gather(timer, return_exceptions=True)
