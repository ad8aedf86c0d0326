"""The lines of a provider: subscribing, reading ticks, and telling what may be missing."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter, deque
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, Final

from market_data_core.clock import Clock
from market_data_core.schemas import Kind
from market_data_ibkr.codes import Reaction, error_for, reaction
from market_data_ibkr.lines import Line, LineState
from market_data_ibkr.outlet import Outlet
from market_data_ibkr.session import Session

LOG = logging.getLogger(__name__)

_TRADES_IN_TEXT: Final = "233"
# Live data held back or shown as it last was.
_HELD_BACK_TYPES: Final = (2, 3, 4)


@dataclass(frozen=True, slots=True, kw_only=True)
class FeedSettings:
    """How lines are kept alive.

    Attributes:
        market_data_type: 1 live, 2 frozen, 3 delayed, 4 delayed and frozen.
        verify_s: After the gateway says that lines are back, how long one may give nothing before it is asked again.
        retry_s: After how long a line is tried again that was refused for a reason that passes.
    """

    market_data_type: int = 1
    verify_s: float = 30.0
    retry_s: float = 60.0


class Feed:
    """Lines over a session; the session's handler.

    Args:
        settings: How lines are kept alive.
        clock: Tells the time and waits.
        trades: Whether trades are wanted.
    """

    def __init__(self, *, settings: FeedSettings, clock: Clock, trades: bool) -> None:
        self._settings = settings
        self._clock = clock
        self._trades = trades
        self._session: Session | None = None
        self.lines: dict[str, Line] = {}
        self.outlets: set[Outlet] = set()
        self.counts: Counter[str] = Counter()
        self._by_id: dict[int, Line] = {}
        self._bars: dict[int, Callable[[list[str]], None]] = {}
        self._due: deque[Line] = deque()
        self._wake = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._farms_down: set[str] = set()
        self._link_down = False
        self._takes: dict[str, Callable[[list[str], int], None]] = {
            "1": self._price,
            "2": self._size,
            "46": self._text,
            "50": self._bar,
            "58": self._type,
            "99": self._tick,
        }

    def over(self, session: Session) -> None:
        """Use this session; once, before it runs."""
        self._session = session

    def add(self, line: Line) -> None:
        """Subscribe to one more line."""
        self.lines[line.symbol] = line
        self._subscribe(line)

    def on_bars(self, number: int, take: Callable[[list[str]], None] | None) -> None:
        """Give the five-second bars of a request to `take`, or to nobody any more."""
        if take is None:
            self._bars.pop(number, None)
        else:
            self._bars[number] = take

    async def connected(self) -> None:
        """Subscribe to every line, and from then on to those that need it; runs as long as the connection."""
        if self._session is None:
            raise AssertionError("a feed is told its session before that runs")
        session = self._session
        try:
            await session.send(59, 1, self._settings.market_data_type)
            self._due.clear()
            for line in self.lines.values():
                line.revive()
                self._subscribe(line)
            while True:
                while self._due:
                    await self._send(session, self._due.popleft())
                self._wake.clear()
                await self._wake.wait()
        finally:
            for task in self._tasks:
                task.cancel()

    def disconnected(self, reason: str) -> None:
        """Note that from here on everything may be missing."""
        LOG.info("all %d lines are stale: %s", len(self.lines), reason)
        self._farms_down.clear()
        self._link_down = False
        self._by_id.clear()
        for line in self.lines.values():
            line.data_id = line.trade_id = None
            line.stale("disconnected", may_resume=False)

    def message(self, fields: list[str], ts_recv_ns: int) -> None:
        """Take one message; those of no concern are left out.

        Raises:
            ValueError, IndexError: It cannot be read.
        """
        take = self._takes.get(fields[0])
        if take is not None:
            take(fields, ts_recv_ns)

    def coded(self, request_id: int, code: int, text: str) -> None:
        """React to a code of the gateway."""
        found = reaction(code)
        if request_id in self._by_id:
            self._line_coded(self._by_id[request_id], request_id, found, code, text)
        elif found is Reaction.LINK_LOST:
            self._link_down = True
            self._all_stale("link_lost", code, moves=False)
        elif found is Reaction.LINK_BACK_EMPTY:
            self._link_down = False
            self._all_stale("link_lost", code, moves=False)
            self._again(list(self.lines.values()))
        elif found is Reaction.LINK_BACK:
            self._link_down = False
            self._back()
        elif found is Reaction.FARM_DOWN:
            self._farms_down.add(_farm(text))
            self._all_stale("farm_down", code, moves=True)
        elif found is Reaction.FARM_UP:
            was_down = bool(self._farms_down)
            self._farms_down.discard(_farm(text))
            if was_down and not self._farms_down:
                self._back()
        elif found is Reaction.REFUSED and request_id < 0:
            LOG.warning("the gateway says %d: %s", code, text)

    def put_open_gaps(self) -> None:
        """Say what is missing up to now, because nothing more will come."""
        now_ns = self._clock.now_ns()
        for line in self.lines.values():
            gap = line.open_gap(now_ns)
            if gap is not None:
                for outlet in self.outlets:
                    outlet.mark(gap)

    def _line_coded(self, line: Line, request_id: int, found: Reaction, code: int, text: str) -> None:
        if found is Reaction.TICK_LIMIT or (found is Reaction.REFUSED and request_id == line.trade_id):
            # Its quotes are a subscription of their own; trades come with that one instead.
            LOG.warning("%s: no trades one by one (%d: %s); they are sampled", line.symbol, code, text)
            line.by_tick = False
            line.trade_id = None
            del self._by_id[request_id]
            self._subscribe(line)
        elif found is Reaction.RESUBSCRIBE:
            line.stale("resubscribed", code=code, may_resume=False)
            self._subscribe(line)
        elif found is Reaction.RETRY_LATER:
            self._stale_and_retry(line, code)
        elif found is Reaction.REFUSED:
            # An unknown contract that was known before is what resets of the gateway look like.
            if code == 200 and line.last_seen_ns:
                self._stale_and_retry(line, code)
                return
            error = error_for(code, text, line.symbol)
            LOG.error("%s", error)
            line.dead(str(error), code)

    def _stale_and_retry(self, line: Line, code: int) -> None:
        LOG.warning("%s is stale (code %d); tried again in %s s", line.symbol, code, self._settings.retry_s)
        line.stale("refused", code=code, may_resume=True)
        self._later(self._retry(line))

    async def _retry(self, line: Line) -> None:
        await self._clock.sleep(self._settings.retry_s)
        if line.state is not LineState.LIVE:
            self._subscribe(line)

    def _all_stale(self, cause: str, code: int, *, moves: bool) -> None:
        LOG.warning("all lines are stale: %s (code %d)", cause, code)
        for line in self.lines.values():
            line.stale(cause, code=code, may_resume=False, moves=moves)

    # Lines are said to be alive again. That has been found untrue, so each has to show it.
    def _back(self) -> None:
        if self._link_down or self._farms_down:
            return
        lines = [line for line in self.lines.values() if line.state is not LineState.DEAD]
        for line in lines:
            line.may_resume()
        self._later(self._verify(lines, self._clock.now_ns()))

    async def _verify(self, lines: list[Line], since_ns: int) -> None:
        await self._clock.sleep(self._settings.verify_s)
        self._again([line for line in lines if line.last_seen_ns < since_ns])

    def _again(self, lines: list[Line]) -> None:
        for line in lines:
            if line.state is not LineState.DEAD:
                self._subscribe(line)

    def _subscribe(self, line: Line) -> None:
        if line not in self._due:
            self._due.append(line)
        self._wake.set()

    def _later(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work, name="ibkr: later")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _send(self, session: Session, line: Line) -> None:
        if line.state is LineState.DEAD:
            return
        if line.data_id is not None:
            line.stale(line.cause or "resubscribed", code=line.code, may_resume=False)
            self._by_id.pop(line.data_id, None)
            await session.send(2, 2, line.data_id)
        if line.trade_id is not None:
            self._by_id.pop(line.trade_id, None)
            await session.send(98, line.trade_id)
        line.trade_id = None
        line.fresh()
        line.data_id = session.new_id()
        self._by_id[line.data_id] = line
        text = _TRADES_IN_TEXT if self._trades and not line.by_tick else ""
        # No legs, no delta-neutral contract, no snapshot of either sort, no options.
        await session.send(1, 11, line.data_id, *line.contract.fields, 0, text, 0, 0, "")
        if self._trades and line.by_tick:
            line.trade_id = session.new_id()
            self._by_id[line.trade_id] = line
            await session.send(97, line.trade_id, *line.contract.fields, "Last", 0, 0)
        # Only what comes after both requests went out is proof that both streams flow.
        if not self._link_down:
            line.may_resume()

    def _of(self, number: str) -> Line | None:
        line = self._by_id.get(int(number))
        if line is None:
            self.counts["late_messages"] += 1  # still on its way when we cancelled
        return line

    def _seen(self, line: Line, ts_recv_ns: int) -> None:
        gap = line.seen(ts_recv_ns)
        if gap is not None:
            self.counts["gaps"] += 1
            for outlet in self.outlets:
                outlet.mark(gap)

    def _put(self, kind: Kind, row: Any) -> None:
        for outlet in self.outlets:
            outlet.put(kind, row)

    def _price(self, fields: list[str], ts_recv_ns: int) -> None:
        line = self._of(fields[2])
        if line is None:
            return
        tick = int(fields[3])
        changed = line.book.price(tick, fields[4], fields[5])
        self._seen(line, ts_recv_ns)
        if changed:
            self._put(Kind.QUOTES, line.quote(ts_recv_ns))
        elif not line.by_tick and (trade := line.delayed_trade(tick, ts_recv_ns)) is not None:
            self._put(Kind.TRADES, trade)

    def _size(self, fields: list[str], ts_recv_ns: int) -> None:
        line = self._of(fields[2])
        if line is None:
            return
        changed = line.book.size(int(fields[3]), fields[4])
        self._seen(line, ts_recv_ns)
        if changed:
            self._put(Kind.QUOTES, line.quote(ts_recv_ns))

    def _text(self, fields: list[str], ts_recv_ns: int) -> None:
        line = self._of(fields[2])
        if line is None or line.by_tick:
            return
        trade = line.trade_from_text(int(fields[3]), fields[4], ts_recv_ns)
        self._seen(line, ts_recv_ns)
        if trade is not None:
            self._put(Kind.TRADES, trade)

    def _tick(self, fields: list[str], ts_recv_ns: int) -> None:
        line = self._of(fields[1])
        if line is None:
            return
        trade = line.trade_by_tick(fields, ts_recv_ns)
        self._seen(line, ts_recv_ns)
        self._put(Kind.TRADES, trade)

    def _type(self, fields: list[str], ts_recv_ns: int) -> None:
        del ts_recv_ns  # it says how, not that, data comes
        line = self._of(fields[2])
        if line is not None:
            line.book.held_back = int(fields[3]) in _HELD_BACK_TYPES

    def _bar(self, fields: list[str], ts_recv_ns: int) -> None:
        del ts_recv_ns  # bars carry their own time
        take = self._bars.get(int(fields[2]))
        if take is not None:
            take(fields)


# The farm's name is what stands behind the colon: "Market data farm connection is broken:usfarm".
def _farm(text: str) -> str:
    return text.rpartition(":")[2].strip()
