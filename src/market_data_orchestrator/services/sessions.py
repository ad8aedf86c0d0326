"""Browser sessions that outlive a restart."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Final

from market_data_core.clock import NS_PER_SECOND
from market_data_core.errors import TemporaryUnavailable
from market_data_core.web.auth import Principal, Role, Session
from market_data_core.web.auth.sessions import ABSOLUTE_S, IDLE_S
from market_data_store.state import LoginSession, State

LOG = logging.getLogger(__name__)

MAX_SESSIONS: Final = 10_000
"""Beyond it the sessions unused for longest end."""


class StateSessions:
    """Keeps sessions in ``state.db``, under the hash of their ids; a `SessionStore`.

    Every look-up reads the file, so a session that is ended is ended at once, and nothing of it stays in memory.

    Args:
        state: Returns where to, or None before the service has started.
    """

    def __init__(self, state: Callable[[], State | None]) -> None:
        self._state = state

    async def save(self, key: str, session: Session) -> None:
        """Keep a session, or note when it was last used.

        Raises:
            TemporaryUnavailable: A new one cannot be kept.
        """
        state = self._opened()
        if session.seen_ns > session.created_ns:
            try:
                await asyncio.to_thread(state.touch_session, key, session.seen_ns)
            except TemporaryUnavailable as exc:
                # The caller has shown who they are; the session may only end earlier than it should.
                LOG.warning("the use of a session could not be noted: %s", exc)
            return
        kept = LoginSession(
            key_hash=key,
            name=session.principal.name,
            role=str(session.principal.role),
            created_ns=session.created_ns,
            seen_ns=session.seen_ns,
        )
        await asyncio.to_thread(
            state.add_session,
            kept,
            created_after_ns=session.created_ns - int(ABSOLUTE_S * NS_PER_SECOND),
            seen_after_ns=session.created_ns - int(IDLE_S * NS_PER_SECOND),
            kept=MAX_SESSIONS,
        )

    async def find(self, key: str) -> Session | None:
        """Return the session, or None if there is none, or its role is not one of ours.

        Raises:
            TemporaryUnavailable: The service is starting, or the file is away.
        """
        kept = await asyncio.to_thread(self._opened().find_session, key)
        if kept is None or kept.role not in tuple(Role):
            return None
        principal = Principal(name=kept.name, role=Role(kept.role))
        return Session(principal=principal, created_ns=kept.created_ns, seen_ns=kept.seen_ns)

    async def remove(self, key: str) -> None:
        """Forget a session; there need not be one.

        Raises:
            TemporaryUnavailable: It cannot be forgotten now.
        """
        await asyncio.to_thread(self._opened().remove_session, key)

    def _opened(self) -> State:
        state = self._state()
        if state is None:
            raise TemporaryUnavailable("the service is starting: no session can be looked up yet")
        return state
