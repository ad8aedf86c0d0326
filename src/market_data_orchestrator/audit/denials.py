"""Whom a rate limit has turned away, on the audit trail."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final, cast

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import HTTPConnection
from starlette.responses import Response
from starlette.types import ExceptionHandler

from market_data_core.clock import Clock, SystemClock
from market_data_core.errors import TemporaryUnavailable
from market_data_core.web.auth import Principal
from market_data_core.web.ratelimit import Decision, RateLimited, address_of
from market_data_orchestrator.audit.ports import AuditLogger
from market_data_orchestrator.audit.trail import NOBODY, Outcome, action_of, path_of, put_on_record
from market_data_orchestrator.beside import beside

LOG = logging.getLogger(__name__)

WINDOW_S: Final = 60.0
"""How long denials of one actor and action are counted together, seconds."""

OTHERS: Final = "others"
"""The actor of a count that is of several, because there were more of them than are told apart."""

_MAX_APART: Final = 256
_STATUS: Final = 429

_Handler = Callable[[HTTPConnection, Exception], Awaitable[Response | None]]


@dataclass(slots=True, kw_only=True)
class _Window:
    # Denials that are counted together: whose they are, when it ends, and how many came after the first.
    action: str
    actor: str
    role: str
    address: str
    said: str
    until_s: float
    more: int = 0


class Denials:
    """Puts denials by rate limits on record, and keeps a flood of them from becoming a flood of records.

    The first denial of an actor and action is a record of its own: who, from where, what, status ``denied``, in `data`
    the ``status_code`` 429. Those that follow within `window_s` are counted, and the count is one more record, with
    ``more`` in `data`, when that time is over, at most `window_s` later, or when the service stops. So an actor makes
    at most two records of an action in a window, however often it asks. At most `max_apart` actors and actions are told
    apart at a time; beyond it all of an action are counted as one, whose actor is `OTHERS`. So there are at most two
    records in a window for each of `max_apart` and each action. A crash loses the counts of the windows that are open.

    The actor is the caller's name. Whoever is turned away for wrong keys or tokens has none: the actor is
    ``anonymous``, the action that of the limit, ``login``, and those of one address (of IPv6: of one /64) count
    together.

    Args:
        logger: Where to.
        window_s: How long denials are counted together, seconds.
        max_apart: How many actors and actions are told apart at a time.
        clock: Says when a window is over.
    """

    def __init__(
        self,
        logger: AuditLogger,
        *,
        window_s: float = WINDOW_S,
        max_apart: int = _MAX_APART,
        clock: Clock | None = None,
    ) -> None:
        self._logger = logger
        self._window_s = window_s
        self._max_apart = max_apart
        self._clock = clock or SystemClock()
        self._open: dict[tuple[str, str], _Window] = {}

    async def note(self, connection: HTTPConnection, decision: Decision) -> None:
        """Record a denial, or count it; a denial stands whether it can be recorded or not.

        Args:
            connection: The request; a gate has left the caller in ``state.principal`` if it could tell.
            decision: What the limit said.
        """
        caller: Principal | None = getattr(connection.state, "principal", None)
        # Of who is turned away for guessing, one count: they would otherwise get one for each route there is.
        action = decision.rule.action if caller is None else action_of(connection)
        key = (action, f"address {address_of(connection)}" if caller is None else f"name {caller.name}")
        if key not in self._open and len(self._open) >= self._max_apart:
            key = (action, OTHERS)
        window = self._open.get(key)
        now_s = self._clock.monotonic_s()
        if window is not None and now_s < window.until_s:
            window.more += 1
            return
        said = f"Rate limit exceeded: max {decision.rule.text}"
        alone = key[1] != OTHERS
        # In its place before anything is waited for: of those who come at the same time one is the first.
        self._open[key] = _Window(
            action=action,
            actor=(NOBODY if caller is None else caller.name) if alone else OTHERS,
            role=str(caller.role) if alone and caller is not None else "",
            address=address_of(connection) if alone else "",
            said=said,
            until_s=now_s + self._window_s,
        )
        if window is not None:
            await self._end([window])
        outcome = Outcome(status="denied", detail=said, decision="denied")
        data = {"status_code": _STATUS, "limit": decision.rule.text}
        try:
            await put_on_record(
                self._logger, connection, action=action, target=path_of(connection), outcome=outcome, data=data
            )
        except TemporaryUnavailable as exc:
            LOG.error("a denial of %s is not recorded: %s", action, exc)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Record counts when their time is over while entered; leaving records those that are left."""
        try:
            async with beside(self._sweep(), name="audit-denials"):
                yield
        finally:
            left, self._open = list(self._open.values()), {}
            await self._end(left)

    async def _sweep(self) -> None:
        while True:
            await self._clock.sleep(self._window_s)
            now_s = self._clock.monotonic_s()
            for key in [key for key, window in self._open.items() if window.until_s <= now_s]:
                # One by one: where this ends in the middle, those that are left are still there to be recorded.
                window = self._open.get(key)
                if window is not None and window.until_s <= now_s:
                    del self._open[key]
                    await self._end([window])

    async def _end(self, windows: Iterable[_Window]) -> None:
        for window in windows:
            if not window.more:
                continue
            try:
                await asyncio.to_thread(
                    self._logger.record,
                    action=window.action,
                    actor=window.actor,
                    role=window.role,
                    status="denied",
                    detail=f"{window.more} more in {self._window_s:g} s: {window.said}",
                    decision="denied",
                    address=window.address,
                    data={"status_code": _STATUS, "more": window.more},
                )
            except TemporaryUnavailable as exc:
                LOG.error("%d denials of %s are not recorded: %s", window.more, window.action, exc)


def record_denials(app: Starlette, denials: Denials) -> None:
    """Have every refusal by a rate limit noted before it is answered, of whatever route or socket of `app`.

    Call it when the app has its handlers of errors, and before it serves.
    """
    answer = cast("_Handler", app.exception_handlers[HTTPException])

    async def handle(connection: HTTPConnection, exc: Exception) -> Response | None:
        if isinstance(exc, RateLimited):
            await denials.note(connection, exc.decision)
        return await answer(connection, exc)

    app.add_exception_handler(RateLimited, cast("ExceptionHandler", handle))
