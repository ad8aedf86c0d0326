"""One market data line: what the gateway said of an instrument, and how far it can be trusted."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from market_data_core.clock import NS_PER_SECOND
from market_data_core.protocols import Gap
from market_data_core.schemas import Flag
from market_data_ibkr.contracts import Contract
from market_data_ibkr.wire import needed, number

VENDOR: Final = "ibkr"

QuoteRow = tuple[int, int, int, int, float | None, float | None, float | None, float | None]
"""Instrument, ts_event, ts_recv, flags, bid price and size, ask price and size."""
TradeRow = tuple[int, int, int, int, float, float, str | None, str | None]
"""Instrument, ts_event, ts_recv, flags, price, size, exchange, conditions."""

HELD_BACK: Final = int(Flag.PUBLISHER_SPECIFIC)
"""On quotes: delayed or frozen. On trades: sampled, so there may have been others between."""
NO_VENUE_TIME: Final = int(Flag.TS_EVENT_SYNTHETIC)

_NS_PER_MS: Final = 1_000_000
# Delayed ticks have numbers of their own; what they are is the same.
_PRICES: Final = {1: "bid", 2: "ask", 4: "last", 66: "bid", 67: "ask", 68: "last"}
_SIZES: Final = {0: "bid", 3: "ask", 5: "last", 69: "bid", 70: "ask", 71: "last"}
_VOLUMES: Final = (8, 74)
_TRADE_TIMES: Final = (48, 77)
_DELAYED: Final = range(66, 91)
_LAST_DELAYED: Final = 68
_PAST_LIMIT, _UNREPORTED = 1, 2


class LineState(StrEnum):
    """How a line is doing."""

    PENDING = "pending"
    LIVE = "live"
    STALE = "stale"
    DEAD = "dead"


@dataclass(slots=True)
class Book:
    """The top of the book and the last trade, as ticks have made them.

    Attributes:
        bid, ask, last: Prices; None where there is none.
        bid_size, ask_size, last_size: Units; None where there are none.
        volume: Units traded in the session.
        held_back: Whether the data is delayed or frozen.
    """

    bid: float | None = None
    bid_size: float | None = None
    ask: float | None = None
    ask_size: float | None = None
    last: float | None = None
    last_size: float | None = None
    volume: float | None = None
    held_back: bool = False

    def price(self, tick: int, price_text: str, size_text: str) -> bool:
        """Take a price tick; return whether the top of the book is another one now.

        Raises:
            ValueError: Price or size is no number.
        """
        side = _PRICES.get(tick)
        price, size = number(price_text), number(size_text) or None
        if side is None:
            return False
        # The gateway says -1 or 0, of no size, where there is no price. Of some instruments they are prices.
        if price in {-1.0, 0.0} and (size is None or size < 0):
            price = size = None
        self.held_back = self.held_back or tick in _DELAYED
        return self._set(side, price, size)

    def size(self, tick: int, size_text: str) -> bool:
        """Take a size tick; return whether the top of the book is another one now.

        Raises:
            ValueError: It is no number.
        """
        size = number(size_text) or None
        if tick in _VOLUMES:
            self.volume = None if size is None or size < 0 else size
        side = _SIZES.get(tick)
        if side is None:
            return False
        price: float | None = getattr(self, side)
        return self._set(side, price, None if price is None or (size is not None and size < 0) else size)

    def _set(self, side: str, price: float | None, size: float | None) -> bool:
        if (getattr(self, side), getattr(self, f"{side}_size")) == (price, size):
            return False  # each price tick is followed by a size tick that repeats it
        setattr(self, side, price)
        setattr(self, f"{side}_size", size)
        return side != "last"


@dataclass(slots=True, eq=False, kw_only=True)
class Line:
    """One instrument's subscription and its state.

    Attributes:
        symbol: As the platform knows it.
        instrument: Its place in the provider's table.
        contract: As the gateway knows it.
        by_tick: Whether its trades are asked for one by one.
        state: How it is doing.
        cause: Why it is stale or dead.
        code: The gateway's code for that, where there was one.
        problem: Why it is dead, in words.
        data_id, trade_id: Request ids in use on this connection.
        book: As ticks have made it on this subscription.
        last_seen_ns: When the newest tick came, UTC nanoseconds; 0 before the first.
    """

    symbol: str
    instrument: int
    contract: Contract
    by_tick: bool
    state: LineState = LineState.PENDING
    cause: str = ""
    code: int | None = None
    problem: str = ""
    data_id: int | None = None
    trade_id: int | None = None
    book: Book = field(default_factory=Book)
    last_seen_ns: int = 0
    _gap_from_ns: int | None = None
    _gap_moves: bool = False
    _may_resume: bool = True
    _last_trade: tuple[int, float] = (0, 0.0)
    _last_trade_is_old: bool = True

    def fresh(self) -> None:
        """Forget what the last subscription said: a half of an old book beside a half of a new one was never true."""
        self.book = Book()
        self._last_trade_is_old = True

    def stale(self, cause: str, *, code: int | None = None, may_resume: bool, moves: bool = False) -> None:
        """Note that ticks may be missing from the last one seen on.

        Args:
            cause: Why.
            code: The gateway's, if it gave one.
            may_resume: Whether the next tick is already the end of it.
            moves: Whether a tick that comes meanwhile is proof that nothing was missing before it.
        """
        if self.state is LineState.DEAD:
            return
        if self.last_seen_ns:
            if self._gap_from_ns is None:
                self._gap_from_ns = self.last_seen_ns
                self._gap_moves = moves
            self._gap_moves = self._gap_moves and moves
        self.state = LineState.STALE if self.last_seen_ns else LineState.PENDING
        self.cause, self.code, self._may_resume = cause, code, may_resume

    def may_resume(self) -> None:
        """Note that the next tick ends what made the line stale."""
        self._may_resume = True

    def revive(self) -> None:
        """Let a line that the gateway refused try again."""
        if self.state is LineState.DEAD:
            self.state = LineState.STALE if self.last_seen_ns else LineState.PENDING

    def dead(self, problem: str, code: int) -> None:
        """Note that the gateway refused it for good."""
        if self.last_seen_ns and self._gap_from_ns is None:
            self._gap_from_ns = self.last_seen_ns
        self.state, self.cause, self.code, self.problem = LineState.DEAD, "refused", code, problem

    def seen(self, ts_recv_ns: int) -> Gap | None:
        """Take note of a tick; return the gap that it ends, if it ends one."""
        gap = None
        if self._gap_from_ns is None or self._may_resume:
            gap = self.open_gap(ts_recv_ns)
            self._gap_from_ns = None
        elif self._gap_moves:
            self._gap_from_ns = ts_recv_ns
        self.last_seen_ns = ts_recv_ns
        if self._may_resume:
            self.state, self.cause, self.code = LineState.LIVE, "", None
        return gap

    def open_gap(self, until_ns: int) -> Gap | None:
        """Return what is missing until now, if anything may be: ``[last seen, until)``."""
        if self._gap_from_ns is None:
            return None
        return Gap(
            vendor=VENDOR,
            symbols=(self.symbol,),
            from_ns=self._gap_from_ns,
            to_ns=max(until_ns, self._gap_from_ns + 1),
            cause=self.cause or "disconnected",
            detail=f"{self.symbol}: {self.cause}" + (f" (code {self.code})" if self.code else ""),
        )

    def quote(self, ts_recv_ns: int) -> QuoteRow:
        """Return the top of the book as a row; the gateway gives no time of it."""
        b = self.book
        flags = NO_VENUE_TIME | (HELD_BACK if b.held_back else 0)
        return (self.instrument, ts_recv_ns, ts_recv_ns, flags, b.bid, b.bid_size, b.ask, b.ask_size)

    def trade_by_tick(self, fields: list[str], ts_recv_ns: int) -> TradeRow:
        """Return a trade that came as a tick of its own: ``99,id,type,time,price,size,mask,exchange,conditions``.

        Raises:
            ValueError, IndexError: The message cannot be read.
        """
        ts_event_ns = int(fields[3]) * NS_PER_SECOND
        mask = int(fields[6])
        conditions = [fields[8]] if fields[8] else []
        conditions += ["PAST_LIMIT"] * bool(mask & _PAST_LIMIT) + ["UNREPORTED"] * bool(mask & _UNREPORTED)
        price, size = needed(fields[4]), needed(fields[5])
        return (
            *(self.instrument, ts_event_ns, ts_recv_ns, 0, price, size),
            *(fields[7] or None, " ".join(conditions) or None),
        )

    def trade_from_text(self, tick: int, text: str, ts_recv_ns: int) -> TradeRow | None:
        """Return the trade in ``price;size;time;volume;vwap;single`` of ticks 48 and 77; None if it is known or none.

        Raises:
            ValueError, IndexError: The text cannot be read.
        """
        if tick not in _TRADE_TIMES:
            return None
        parts = text.split(";")
        price, size = number(parts[0]), number(parts[1])
        if price is None or not size:
            return None
        newest = (int(parts[2]) * _NS_PER_MS, needed(parts[3]))
        # After a reconnect the gateway begins with the last trade, which may be one that we have.
        if newest <= self._last_trade:
            return None
        self._last_trade = newest
        return (self.instrument, newest[0], ts_recv_ns, HELD_BACK, price, size, None, None)

    def delayed_trade(self, tick: int, ts_recv_ns: int) -> TradeRow | None:
        """Return the trade that a delayed last price is; None for the first one, which is of before we asked."""
        if tick != _LAST_DELAYED or self.book.last is None or self.book.last_size is None:
            return None
        if self._last_trade_is_old:
            self._last_trade_is_old = False
            return None
        flags = NO_VENUE_TIME | HELD_BACK
        return (self.instrument, ts_recv_ns, ts_recv_ns, flags, self.book.last, self.book.last_size, None, None)
