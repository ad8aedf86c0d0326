"""Starting the parts of a service in order, and stopping them in reverse."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, suppress
from dataclasses import dataclass
from functools import partial
from types import TracebackType
from typing import Any, Final, Literal, Self

from market_data_core.errors import ConfigurationError, MarketDataError

LOG = logging.getLogger(__name__)

PartState = Literal["waiting", "starting", "running", "stopping", "stopped", "late", "failed"]
"""How a part is: ``late`` was not stopped in time and is left as it is."""

Opener = Callable[[], AbstractAsyncContextManager[Any]]
"""Makes what is entered to start a part and left to stop it. What it opened before it fails, it closes itself."""

Again = Callable[[str, Exception], Awaitable[bool]]
"""Told the part that could not start and why; returns, when it is time, whether to try again."""

STOP_S: Final = 10.0
"""How long a part may take to stop unless it says otherwise, seconds."""


@dataclass(slots=True, kw_only=True)
class _Part:
    name: str
    open: Opener
    stop_s: float
    state: PartState = "waiting"


class LifecycleManager:
    """Starts parts in the order they were added and stops them in reverse, each within its own time.

    One that cannot start ends the start: those before it are stopped again. One that fails to stop, or does not in
    time, keeps no other from being stopped. Start and stop belong to one task.

    Args:
        again: Asked whether to try a part again that may be able to start later; None never tries again.
    """

    def __init__(self, *, again: Again | None = None) -> None:
        self._again = again
        self._parts: list[_Part] = []
        self._stack: AsyncExitStack | None = None

    @property
    def states(self) -> dict[str, PartState]:
        """How each part is, in the order of the start."""
        return {part.name: part.state for part in self._parts}

    def add(self, name: str, opener: Opener, *, stop_s: float = STOP_S) -> None:
        """Add a part, to be started after those before it.

        Args:
            name: Names it in logs and `states`.
            opener: Called at each start.
            stop_s: How long stopping may take, seconds; then it is given up and the others are stopped.

        Raises:
            ConfigurationError: There is one of that name, or the start was before.
        """
        if self._stack is not None or any(part.state != "waiting" for part in self._parts):
            raise ConfigurationError(f"{name} comes too late: the start was before")
        if name in self.states:
            raise ConfigurationError(f"two parts of the service are called {name}")
        self._parts.append(_Part(name=name, open=opener, stop_s=stop_s))

    async def start(self) -> None:
        """Start all parts.

        Raises:
            Exception: What the part raised that could not start; everything before it is stopped again.
        """
        stack = AsyncExitStack()
        try:
            for part in self._parts:
                await self._begin(part, stack)
        except BaseException:
            # They stop as on any other day: what is raised is why there is no start, and that alone. What goes wrong
            # on the way is logged where it does.
            with suppress(Exception):
                await stack.aclose()
            raise
        self._stack = stack

    async def stop(self) -> None:
        """Stop all parts; nothing happens where nothing runs.

        Raises:
            Exception: What the last part raised that failed to stop; all others are stopped.
        """
        await self.__aexit__(None, None, None)

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> bool:
        stack, self._stack = self._stack, None
        return stack is not None and bool(await stack.__aexit__(kind, value, trace))

    async def _begin(self, part: _Part, stack: AsyncExitStack) -> None:
        while True:
            part.state = "starting"
            opened = part.open()
            try:
                await opened.__aenter__()
            except Exception as exc:
                part.state = "failed"
                if not _may_work_later(exc) or self._again is None or not await self._again(part.name, exc):
                    raise
            else:
                part.state = "running"
                stack.push_async_exit(partial(_end, part, opened))
                return


def _may_work_later(exc: Exception) -> bool:
    return isinstance(exc, OSError) or (isinstance(exc, MarketDataError) and exc.retryable)


async def _end(
    part: _Part,
    opened: AbstractAsyncContextManager[Any],
    kind: type[BaseException] | None,
    value: BaseException | None,
    trace: TracebackType | None,
) -> bool:
    part.state = "stopping"
    try:
        async with asyncio.timeout(part.stop_s) as limit:
            swallowed = await opened.__aexit__(kind, value, trace)
    except BaseException as exc:
        part.state = "failed"
        if isinstance(exc, TimeoutError) and limit.expired():
            part.state = "late"
            LOG.error("%s did not stop within %g s and is left as it is", part.name, part.stop_s)
            return False
        if exc is not value:
            LOG.error("%s failed to stop: %s: %s", part.name, type(exc).__name__, exc)
        raise
    part.state = "stopped"
    return bool(swallowed)
