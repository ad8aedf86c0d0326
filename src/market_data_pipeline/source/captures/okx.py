"""Captures of OKX: order books with checksums, tickers and trades.

https://www.okx.com/docs-v5/en/#order-book-trading-market-data-ws-order-book-channel
"""

from __future__ import annotations

import zlib
from bisect import bisect_left
from typing import Any, ClassVar, Final

from market_data_pipeline.source.captures.messages import Counts, Message, levels, number, ticker, utc_ns, whole
from market_data_pipeline.source.captures.rows import Levels, Rows

_CHECKED: Final = 25  # levels of each side that the checksum covers


class _Side:
    # One side of a book, best level first; texts as the exchange wrote them, for the checksum is over those.
    def __init__(self, sign: int) -> None:
        self._sign = sign
        self._keys: list[float] = []
        self._texts: dict[float, str] = {}

    def update(self, raw: list[list[str]], values: Levels) -> None:
        for (price_text, size_text, *_), price, size in zip(raw, *values, strict=True):
            key = self._sign * price
            if size:
                if key not in self._texts:
                    self._keys.insert(bisect_left(self._keys, key), key)
                self._texts[key] = f"{price_text}:{size_text}"
            elif self._texts.pop(key, None) is not None:
                del self._keys[bisect_left(self._keys, key)]

    def best(self) -> list[str]:
        return [self._texts[k] for k in self._keys[:_CHECKED]]


class _Book:
    def __init__(self) -> None:
        self.clear()
        self.last: int | None = None
        self.ts_event = 0
        self.begun = False
        self.suspect = False

    def clear(self) -> None:
        self.bids, self.asks = _Side(-1), _Side(1)

    # Bid and ask of each level in turn; where one side has no more, the other goes on alone.
    def checksum(self) -> int:
        bids, asks = self.bids.best(), self.asks.best()
        both = [text for pair in zip(bids, asks, strict=False) for text in pair]
        shared = min(len(bids), len(asks))
        return zlib.crc32(":".join([*both, *bids[shared:], *asks[shared:]]).encode())


class Okx:
    """OKX, all markets."""

    vendor: ClassVar[str] = "okx"

    def __init__(self, rows: Rows, counts: Counts) -> None:
        self._rows = rows
        self._counts = counts
        self._books: dict[str, _Book] = {}

    @staticmethod
    def knows(message: Message) -> bool:
        """Return whether a message can only be one of OKX."""
        arg = message.get("arg")
        return isinstance(arg, dict) and "channel" in arg

    def take(self, message: Message) -> None:
        """Enter one message; raises what `Exchange.take` says."""
        if "event" in message:
            self._counts.skipped["answer"] += 1
            return
        arg = message["arg"]
        channel = arg["channel"]
        if channel == "books":
            self._depth(ticker(arg["instId"]), message)
        elif channel == "tickers":
            for quote in [_quote(data) for data in message["data"]]:
                self._rows.quote(**quote)
        elif channel == "trades":
            for trade in [_trade(data) for data in message["data"]]:
                self._rows.trade(**trade)
        else:
            self._counts.skipped[str(channel)] += 1

    def finish(self) -> None:
        """Do nothing: every message was entered as it came."""

    def _depth(self, symbol: str, message: Message) -> None:
        action = message["action"]
        if action not in ("snapshot", "update"):
            raise ValueError(f"action {action!r} is neither snapshot nor update")
        (data,) = message["data"]
        self._update(symbol, data, snapshot=action == "snapshot")

    def _update(self, symbol: str, data: Message, *, snapshot: bool) -> None:
        # All that can be wrong is found before the book is touched.
        ts_event, bids, asks = utc_ns(data["ts"]), levels(data["bids"]), levels(data["asks"])
        sequence = whole(data["seqId"]) if "seqId" in data else None
        previous = whole(data["prevSeqId"]) if "prevSeqId" in data else None
        said = None if data.get("checksum") is None else int(data["checksum"]) & 0xFFFF_FFFF
        book = self._books.setdefault(symbol, _Book())
        if snapshot:
            book.clear()
            book.begun, book.suspect = True, False
        else:
            self._check_sequence(symbol, book, ts_event, previous)
        book.bids.update(data["bids"], bids)
        book.asks.update(data["asks"], asks)
        book.last, book.ts_event = sequence, ts_event
        wrong = book.begun and said is not None and self._is_wrong(symbol, book, ts_event, said)
        self._rows.depth(
            symbol,
            ts_event=ts_event,
            ts_recv=self._rows.ts_recv,
            sequence=sequence,
            bids=bids,
            asks=asks,
            snapshot=snapshot,
            suspect=book.suspect or wrong,
        )

    def _check_sequence(self, symbol: str, book: _Book, ts_event: int, previous: int | None) -> None:
        if not book.begun:
            if not book.suspect:
                book.suspect = True
                self._rows.status(symbol, ts_event=ts_event, status="gap", reason="an update before any snapshot")
        elif previous is not None and book.last is not None and previous != book.last:
            book.suspect = True
            reason = f"update after {previous} does not follow {book.last}"
            self._rows.gap(symbol, from_ns=book.ts_event, to_ns=ts_event, detail=reason)
            self._rows.status(symbol, ts_event=ts_event, status="gap", reason=reason)

    def _is_wrong(self, symbol: str, book: _Book, ts_event: int, said: int) -> bool:
        found = book.checksum()
        if found == said:
            self._counts.checksums_ok += 1
            return False
        self._counts.checksums_bad += 1
        reason = f"the book's checksum is {found}, the exchange says {said}"
        self._rows.status(symbol, ts_event=ts_event, status="bad_checksum", reason=reason)
        return True


def _quote(data: Message) -> dict[str, Any]:
    return {
        "symbol": ticker(data["instId"]),
        "ts_event": utc_ns(data["ts"]),
        "bid": _best(data["bidPx"], data["bidSz"]),
        "ask": _best(data["askPx"], data["askSz"]),
    }


# Where there is no order on a side, OKX writes empty texts.
def _best(price: str, size: str) -> Levels | None:
    return ([number(price)], [number(size)]) if price else None


def _trade(data: Message) -> dict[str, Any]:
    side = data["side"]
    if side not in ("buy", "sell"):
        raise ValueError(f"side {side!r} is neither buy nor sell")
    return {
        "symbol": ticker(data["instId"]),
        "ts_event": utc_ns(data["ts"]),
        "price": number(data["px"]),
        "size": number(data["sz"]),
        "trade_id": str(data["tradeId"]),
        "aggressor_side": side,
    }
