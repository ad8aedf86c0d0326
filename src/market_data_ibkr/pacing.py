"""How fast the gateway may be asked.

Fifty messages a second of all kinds together; of historical requests sixty in ten minutes, no identical ones within
fifteen seconds, and fewer than six of one contract within two.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Hashable
from typing import Final

from market_data_core.clock import Clock
from market_data_core.errors import PacingViolation
from market_data_ibkr.codes import IDENTICAL_WAIT_S

HISTORY_COUNT: Final = 60
HISTORY_WINDOW_S: Final = 600.0
SAME_CONTRACT_COUNT: Final = 5
SAME_CONTRACT_WINDOW_S: Final = 2.0


class Window:
    """At most so many in any stretch of time.

    Args:
        count: How many.
        window_s: The length of the stretch.
    """

    def __init__(self, count: int, window_s: float) -> None:
        self._count = count
        self._window_s = window_s
        self._taken: deque[float] = deque()

    def wait_s(self, now_s: float, cost: int = 1) -> float:
        """Return how long it takes until `cost` more fit in; 0 if they do now."""
        while self._taken and self._taken[0] <= now_s - self._window_s:
            self._taken.popleft()
        over = len(self._taken) + cost - self._count
        if over <= 0:
            return 0.0
        return max(self._taken[min(over, len(self._taken)) - 1] + self._window_s - now_s, 1e-6)

    def take(self, now_s: float, cost: int = 1) -> None:
        """Note that `cost` were spent now."""
        self._taken.extend([now_s] * cost)


class MessagePace:
    """Lets messages go, in order, as fast as the gateway allows.

    Args:
        per_s: How many in any second.
        clock: Tells the time and waits.
    """

    def __init__(self, *, per_s: int, clock: Clock) -> None:
        self._window = Window(per_s, 1.0)
        self._clock = clock
        self._turn = asyncio.Lock()

    async def turn(self) -> None:
        """Wait until one more message may go."""
        async with self._turn:
            while wait_s := self._window.wait_s(self._clock.monotonic_s()):
                await self._clock.sleep(wait_s)
            self._window.take(self._clock.monotonic_s())


class HistoryPace:
    """Lets historical requests go within the gateway's budget.

    Args:
        clock: Tells the time and waits.
        max_wait_s: How long a request may have to wait before it is refused here.
    """

    def __init__(self, *, clock: Clock, max_wait_s: float) -> None:
        self._clock = clock
        self._max_wait_s = max_wait_s
        self._budget = Window(HISTORY_COUNT, HISTORY_WINDOW_S)
        self._contracts: dict[Hashable, Window] = {}
        self._identical: dict[Hashable, float] = {}
        self._barred_until_s = 0.0
        self._turn = asyncio.Lock()

    async def turn(self, *, contract: Hashable, request: Hashable, cost: int = 1) -> None:
        """Wait until a request may go.

        Args:
            contract: What it shares the limit of five in two seconds with.
            request: Equal for identical requests.
            cost: How often it counts; requests of bid and ask count twice.

        Raises:
            PacingViolation: It would have to wait too long; says how long.
        """
        async with self._turn:
            while (wait_s := self._wait_s(contract, request, cost)) > 0:
                if wait_s > self._max_wait_s:
                    raise PacingViolation(
                        f"the budget for historical requests is spent for {wait_s:.0f} s", retry_after_sec=wait_s
                    )
                await self._clock.sleep(wait_s)
            now_s = self._clock.monotonic_s()
            self._budget.take(now_s, cost)
            self._contracts[contract].take(now_s, cost)
            self._identical[request] = now_s

    def bar(self, wait_s: float) -> None:
        """Let nothing go for so long: the gateway counts otherwise than we do."""
        self._barred_until_s = max(self._barred_until_s, self._clock.monotonic_s() + wait_s)

    def _wait_s(self, contract: Hashable, request: Hashable, cost: int) -> float:
        now_s = self._clock.monotonic_s()
        self._identical = {k: v for k, v in self._identical.items() if v > now_s - IDENTICAL_WAIT_S}
        own = self._contracts.setdefault(contract, Window(SAME_CONTRACT_COUNT, SAME_CONTRACT_WINDOW_S))
        last_s = self._identical.get(request)
        return max(
            self._budget.wait_s(now_s, cost),
            own.wait_s(now_s, cost),
            0.0 if last_s is None else last_s + IDENTICAL_WAIT_S - now_s,
            self._barred_until_s - now_s,
        )
