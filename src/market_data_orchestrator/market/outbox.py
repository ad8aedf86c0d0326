"""What waits to be sent to one client: bounded, newest quotes first to be kept, and every loss told."""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Final

from market_data_core.schemas import Kind
from market_data_orchestrator.market.messages import Channel, answer

ANY_KIND: Final = "*"
"""The ``kind`` of a notice of events that were missed before anybody knew what they were."""

MAX_ROWS: Final = 2_000
_MAX_TOLD: Final = 64
_MESSAGE_ROWS: Final = 500


@dataclass(frozen=True, slots=True)
class Parcel:
    """Rows of one instrument, encoded once for all clients.

    Attributes:
        kind: What they are.
        vendor: Whose,
        symbol: and of what.
        rows: Each as JSON, in order.
    """

    kind: Kind
    vendor: str
    symbol: str
    rows: tuple[str, ...]


class Outbox:
    """Filled by the feed, which never waits for it, and emptied by the task that writes to the client.

    Beyond `max_rows` it lets go: of quotes all but the newest of each instrument, then the oldest of the rest. What a
    client did not get is counted by kind and told before what it gets next.

    Args:
        max_rows: Rows that may wait.
    """

    def __init__(self, *, max_rows: int = MAX_ROWS) -> None:
        self._max_rows = max_rows
        self._told: deque[str] = deque()
        self._parcels: deque[Parcel] = deque()
        self._rows = 0
        self._missed: Counter[str] = Counter()
        self._filled = asyncio.Event()
        self._room = asyncio.Event()
        self._room.set()

    @property
    def rows(self) -> int:
        """How many rows wait."""
        return self._rows

    def tell(self, message: str) -> None:
        """Add an answer or notice; these are never let go, so who asks waits for `room` first."""
        self._told.append(message)
        if len(self._told) >= _MAX_TOLD:
            self._room.clear()
        self._filled.set()

    async def room(self) -> None:
        """Wait until there is room for an answer: who does not read what it asked for is not listened to."""
        await self._room.wait()

    def add(self, parcels: Sequence[Parcel]) -> None:
        """Add rows, letting go of others where there is no room."""
        self._parcels.extend(parcels)
        self._rows += sum(len(parcel.rows) for parcel in parcels)
        if self._rows > self._max_rows:
            self._let_go()
        self._filled.set()

    def miss(self, kind: str, count: int) -> None:
        """Note rows that this client will not get."""
        self._missed[kind] += count
        self._filled.set()

    def forget(self, channels: Collection[Channel]) -> None:
        """Let go of what waits for channels that were left; that is no loss."""
        self._keep(deque(p for p in self._parcels if (p.kind, p.symbol) not in channels))

    async def take(self) -> list[str]:
        """Wait for something to send, and return it as messages: answers, notices of loss, rows by kind."""
        await self._filled.wait()
        self._filled.clear()
        messages = [*self._told]
        self._told.clear()
        self._room.set()
        messages += [answer("missed", kind=kind, count=count) for kind, count in self._missed.items()]
        self._missed.clear()
        by_kind: dict[Kind, list[str]] = {}
        while self._parcels:
            parcel = self._parcels.popleft()
            by_kind.setdefault(parcel.kind, []).extend(parcel.rows)
        self._rows = 0
        for kind, rows in by_kind.items():
            for start in range(0, len(rows), _MESSAGE_ROWS):
                data = ",".join(rows[start : start + _MESSAGE_ROWS])
                messages.append(f'{{"type":"{kind}","data":[{data}]}}')
        return messages

    def _let_go(self) -> None:
        before = self._counts()
        newest = {(p.vendor, p.symbol): place for place, p in enumerate(self._parcels) if p.kind is Kind.QUOTES}
        kept: deque[Parcel] = deque()
        for place, parcel in enumerate(self._parcels):
            if parcel.kind is not Kind.QUOTES:
                kept.append(parcel)
            elif newest[parcel.vendor, parcel.symbol] == place:
                kept.append(Parcel(parcel.kind, parcel.vendor, parcel.symbol, parcel.rows[-1:]))
        self._keep(kept)
        # Down to half, so that this is not done again for every row that comes.
        others = deque(p for p in self._parcels if p.kind is not Kind.QUOTES)
        quotes = [p for p in self._parcels if p.kind is Kind.QUOTES]
        rows = self._rows
        while others and rows > self._max_rows // 2:
            rows -= len(others.popleft().rows)
        if rows < self._rows:
            self._keep(deque([*quotes, *others]))
        for kind, count in (before - self._counts()).items():
            self._missed[kind] += count

    def _keep(self, parcels: deque[Parcel]) -> None:
        self._parcels = parcels
        self._rows = sum(len(parcel.rows) for parcel in parcels)

    def _counts(self) -> Counter[str]:
        counts: Counter[str] = Counter()
        for parcel in self._parcels:
            counts[str(parcel.kind)] += len(parcel.rows)
        return counts
