"""Captures of Binance, spot and USD-M futures: diff depth, REST snapshots, book tickers and trades.

How diffs make a book, and when one is missing:
https://developers.binance.com/docs/derivatives/usds-margined-futures/websocket-market-streams/How-to-manage-a-local-order-book-correctly
https://developers.binance.com/docs/binance-spot-api-docs/web-socket-streams#how-to-manage-a-local-order-book-correctly
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Any, ClassVar, Final

from market_data_pipeline.source.captures.messages import Counts, Message, levels, number, ticker, utc_ns, whole
from market_data_pipeline.source.captures.rows import Levels, Rows

MAX_HELD: Final = 1000
"""So many diffs of one symbol wait for a snapshot; a snapshot that takes longer does not reach back to the first."""

# Partial books are snapshots of a few levels, each complete in itself; they would tear the diffs' book down.
_PARTIAL: Final = ("depth5", "depth10", "depth20")


@dataclass(frozen=True, slots=True, kw_only=True)
class Diff:
    """One message of new sizes.

    Attributes:
        first: First update id in it (``U``).
        last: Last update id in it (``u``).
        previous: Last update id of the message before, where the exchange says it (``pu``).
        ts_event: UTC nanoseconds.
        ts_recv: UTC nanoseconds.
        bids: Levels of that side.
        asks: Levels of that side.
    """

    first: int
    last: int
    previous: int | None
    ts_event: int
    ts_recv: int
    bids: Levels
    asks: Levels


class _Sequence:
    # The order of one symbol's diffs: holds them until a snapshot is there, finds what is missing.
    def __init__(self, symbol: str, *, futures: bool, rows: Rows, counts: Counts) -> None:
        self._symbol = symbol
        self._futures = futures
        self._rows = rows
        self._counts = counts
        # Before the first snapshot all diffs; while the book is suspect the newest, for the snapshot that mends it.
        self._held: deque[Diff] = deque(maxlen=MAX_HELD)
        self._begun = False
        self._suspect = False
        self._base: int | None = None  # the snapshot's id, until a diff has met it
        self._base_ns = 0
        self._last: Diff | None = None
        self._given: Diff | None = None
        # A snapshot came while the book was whole: what was lost since the last diff given is to be told.
        self._bridging = False
        self._lost = False

    def diff(self, diff: Diff, *, again: bool = False) -> None:
        if not self._begun:
            self._held.append(diff)
            if len(self._held) == MAX_HELD:
                self.give_up(f"no snapshot within the first {MAX_HELD} updates")
            return
        before = self._last
        # An old id with a new time is no repetition: the exchange has begun to count anew.
        if before and diff.last <= before.last and diff.ts_event <= before.ts_event:
            self._counts.skipped["repeated diff"] += 1
            return
        self._last = diff
        self._lost |= before is not None and not self._follows(diff, before)
        if self._base is not None and self._is_in(self._base, diff):
            self._counts.skipped["diff before snapshot"] += 1
            return
        lost, self._lost = self._lost, False
        if self._base is None:
            self._suspect |= lost
            if lost and not again:
                self._report(diff)
        else:
            self._suspect = not self._meets(self._base, diff)
            if self._suspect or (lost and self._bridging):
                self._report(diff)
            self._base = None
        self._give(diff)

    def snapshot(self, last: int, *, ts_event: int | None, bids: Levels, asks: Levels) -> None:
        known = self._base if self._base is not None else self._last.last if self._last else None
        if self._begun and not self._suspect and known is not None and last <= known:
            # A book that is whole has passed it; going back would undo what was given since.
            self._counts.skipped["snapshot behind the book"] += 1
            return
        rows = self._rows
        rows.depth(
            self._symbol,
            ts_event=ts_event,
            ts_recv=rows.ts_recv,
            sequence=last,
            bids=bids,
            asks=asks,
            snapshot=True,
        )
        held, again = tuple(self._held), self._begun
        self._held.clear()
        self._bridging = self._begun and not self._suspect
        if not self._bridging:
            self._last, self._lost = None, False
        self._begun, self._suspect = True, False
        self._base, self._base_ns = last, rows.ts_recv if ts_event is None else ts_event
        for diff in held:
            self.diff(diff, again=again)

    # There will be no snapshot for what is held: better a book in doubt than none.
    def give_up(self, reason: str) -> None:
        if self._begun or not self._held:
            return
        held = tuple(self._held)
        self._held.clear()
        self._begun = self._suspect = True
        self._rows.status(self._symbol, ts_event=held[0].ts_event, status="gap", reason=reason)
        for diff in held:
            self.diff(diff)

    def _give(self, diff: Diff) -> None:
        self._given = diff
        if self._suspect:
            self._held.append(diff)
        self._rows.depth(
            self._symbol,
            ts_event=diff.ts_event,
            ts_recv=diff.ts_recv,
            sequence=diff.last,
            bids=diff.bids,
            asks=diff.asks,
            suspect=self._suspect,
        )

    # Called before the base is forgotten.
    def _report(self, diff: Diff) -> None:
        if self._base is not None and self._suspect:
            since_ns, problem = self._base_ns, f"does not meet snapshot {self._base}"
        elif self._given is not None:
            since_ns, problem = self._given.ts_event, f"does not follow {self._given.last}"
        else:
            since_ns, problem = diff.ts_event, "does not follow those before"
        reason = f"update {diff.first}-{diff.last} {problem}"
        self._rows.gap(self._symbol, from_ns=since_ns, to_ns=diff.ts_event, detail=reason)
        self._rows.status(self._symbol, ts_event=diff.ts_event, status="gap", reason=reason)

    def _follows(self, diff: Diff, before: Diff) -> bool:
        if self._futures:
            return diff.previous == before.last
        return diff.first <= before.last + 1 <= diff.last

    # Futures count a diff that ends with the snapshot's own id as the one to begin with, spot as the last one in it.
    def _is_in(self, base: int, diff: Diff) -> bool:
        return diff.last < base if self._futures else diff.last <= base

    def _meets(self, base: int, diff: Diff) -> bool:
        wanted = base if self._futures else base + 1
        return diff.first <= wanted <= diff.last


class _Binance:
    vendor: ClassVar[str]
    futures: ClassVar[bool]

    def __init__(self, rows: Rows, counts: Counts) -> None:
        self._rows = rows
        self._counts = counts
        self._sequences: dict[str, _Sequence] = {}
        self._symbols: set[str] = set()
        # A snapshot before any message that says whose it can be, with its line and receive time.
        self._orphan: tuple[Message, int, int] | None = None

    def take(self, message: Message) -> None:
        data = message.get("data", message)
        stream = message.get("stream", "").partition("@")[2].partition("@")[0]
        event = data.get("e") or ("bookTicker" if "B" in data and "A" in data else None)
        if stream in _PARTIAL:
            self._counts.skipped[stream] += 1
        elif event == "bookTicker":
            self._quote(data)
        elif event == "trade":
            self._trade(data)
        elif event == "depthUpdate":
            self._diff(data)
        elif event is None and "lastUpdateId" in data:
            self._snapshot(data)
        elif event or stream:
            self._counts.skipped[str(event or stream)] += 1
        elif "id" in message:
            self._counts.skipped["answer"] += 1
        else:
            raise ValueError("no message of Binance")

    def finish(self) -> None:
        for sequence in self._sequences.values():
            sequence.give_up("no snapshot in the capture")
        if self._orphan is not None:
            self._counts.malformed += 1
            self._rows.quarantine("a snapshot without a symbol, in a capture of none", b"", line=self._orphan[1])

    def _quote(self, data: Message) -> None:
        bid, ask = _side(data["b"], data["B"]), _side(data["a"], data["A"])
        ts_event = _time(data)
        self._rows.quote(self._met(data), ts_event=ts_event, bid=bid, ask=ask)

    def _trade(self, data: Message) -> None:
        price, size, maker = number(data["p"]), number(data["q"]), data["m"]
        trade_id, ts_event, conditions = data["t"], utc_ns(data["T"]), data.get("X")
        self._rows.trade(
            self._met(data),
            ts_event=ts_event,
            price=price,
            size=size,
            trade_id=str(trade_id),
            # `m` says that the buyer was the maker.
            aggressor_side="sell" if maker else "buy",
            conditions=None if conditions is None else str(conditions),
        )

    def _diff(self, data: Message) -> None:
        diff = Diff(
            first=whole(data["U"]),
            last=whole(data["u"]),
            previous=whole(data["pu"]) if self.futures else None,
            ts_event=utc_ns(data["T"] if "T" in data else data["E"]),
            ts_recv=self._rows.ts_recv,
            bids=levels(data["b"]),
            asks=levels(data["a"]),
        )
        self._sequence(self._met(data)).diff(diff)

    def _snapshot(self, data: Message) -> None:
        last, bids, asks, ts_event = (
            whole(data["lastUpdateId"]),
            levels(data["bids"]),
            levels(data["asks"]),
            _time(data),
        )
        if "symbol" in data:
            symbol = self._met({"s": data["symbol"]})
        elif len(self._symbols) > 1:
            raise ValueError(f"a snapshot without a symbol in a capture of {', '.join(sorted(self._symbols))}")
        elif not self._symbols:
            self._orphan = (data, self._rows.line, self._rows.ts_recv)
            return
        else:
            (symbol,) = self._symbols
        self._sequence(symbol).snapshot(last, ts_event=ts_event, bids=bids, asks=asks)

    # A message's symbol; the first one met is also the owner of a snapshot that came before.
    def _met(self, data: Message) -> str:
        symbol = ticker(data["s"])
        self._symbols.add(symbol)
        if self._orphan is not None:
            (snapshot, _, ts_recv), self._orphan = self._orphan, None
            now, self._rows.ts_recv = self._rows.ts_recv, ts_recv
            self._snapshot(snapshot)
            self._rows.ts_recv = now
        return symbol

    def _sequence(self, symbol: str) -> _Sequence:
        found = self._sequences.get(symbol)
        if found is None:
            found = _Sequence(symbol, futures=self.futures, rows=self._rows, counts=self._counts)
            self._sequences[symbol] = found
        return found


class Spot(_Binance):
    """Binance spot."""

    vendor = "binance"
    futures = False

    @staticmethod
    def knows(message: Message) -> bool:
        """Return whether a message can only be one of the spot market."""
        data = _payload(message)
        event = data.get("e")
        if event is None:
            return {"u", "s", "b", "B", "a", "A"} <= data.keys()
        return (event == "depthUpdate" and "pu" not in data) or (event == "trade" and "M" in data)


class UsdM(_Binance):
    """Binance USD-margined futures."""

    vendor = "binance_usdm"
    futures = True

    @staticmethod
    def knows(message: Message) -> bool:
        """Return whether a message can only be one of USD-margined futures; coin-margined ones name a pair (``ps``)."""
        data = _payload(message)
        event = data.get("e")
        if "ps" in data:
            return False
        return (event == "depthUpdate" and "pu" in data) or event == "bookTicker" or (event == "trade" and "X" in data)


def _payload(message: Message) -> Message:
    data = message.get("data", message)
    return data if isinstance(data, dict) else {}


# When the matching engine did it, else when it was sent; None where neither is said.
def _time(data: Message) -> int | None:
    value: Any = data.get("T") or data.get("E")
    return None if value is None else utc_ns(value)


# Where there is no order on a side, Binance writes zeros.
def _side(price: Any, size: Any) -> Levels | None:
    level = [number(price)], [number(size)]
    return level if level[1][0] or level[0][0] else None
