"""Gaps, shown in PostgreSQL too, for whoever asks the database alone what is missing."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Final

from market_data_core.errors import MarketDataError
from market_data_store.state import Gap, State

if TYPE_CHECKING:  # the driver is for those who have a server
    from market_data_store.postgres import PostgresStore

LOG = logging.getLogger(__name__)
_PAGE: Final = 1000
_EVERY_S: Final = 1.0
_LONGEST_S: Final = 30.0


class GapCopies:
    """Copies the gaps of the small state, which stays the one that counts, to ``mds.gaps``; what changed, when it did.

    A server that is away is waited for; meanwhile the state takes every gap as always.

    Args:
        state: Has the gaps; this process alone writes to them.
        store: Where they are shown.
    """

    def __init__(self, state: State, store: PostgresStore) -> None:
        self._state = state
        self._store = store
        self._copied: dict[int, Gap] = {}
        self._seen = -1

    async def run(self) -> None:
        """Copy until cancelled: all there are, then each that changes, within about a second; then close the store."""
        delay_s, away = _EVERY_S, False
        try:
            while True:
                try:
                    await asyncio.to_thread(self.copy)
                    delay_s, away = _EVERY_S, False
                except MarketDataError as exc:
                    if not away:
                        LOG.warning("gaps are not shown in the store for now: %s", exc)
                    delay_s, away = min(delay_s * 2, _LONGEST_S), True
                await asyncio.sleep(delay_s)
        finally:
            await asyncio.to_thread(self._store.close)

    def copy(self) -> int:
        """Copy what changed since the last time; returns how many gaps that were.

        Raises:
            MarketDataError: The state or the store is away; what was not copied is, the next time.
        """
        changes = self._state.gap_changes
        if changes == self._seen:
            return 0
        count, last = 0, None
        while page := self._state.list_gaps(limit=_PAGE, before=last):
            last = page[-1]
            changed = [gap for gap in page if self._copied.get(gap.id) != gap]
            if changed:
                self._store.put_gaps(changed)
                self._copied.update((gap.id, gap) for gap in changed)
                count += len(changed)
        self._seen = changes
        return count
