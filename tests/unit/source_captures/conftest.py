from __future__ import annotations

import gzip
import json
import zlib
from dataclasses import dataclass, field

import pytest

from market_data_core.protocols import Gap, Mark
from market_data_core.schemas import Kind
from market_data_pipeline.source.captures import CaptureSource

START_NS = 1_700_000_000_000_000_000


@dataclass
class Given:
    """Everything a source gave, in order."""

    batches: list = field(default_factory=list)
    marks: list = field(default_factory=list)
    gaps: list = field(default_factory=list)

    @property
    def rows(self):
        """Kind, vendor, symbol and columns of all rows."""
        found = []
        for b in self.batches:
            for row in b.data.to_pylist():
                place = b.instruments[row.pop("instrument")]
                found.append((b.kind, place.vendor, place.symbol, row))
        return found

    def of(self, kind, *names):
        """All rows of a kind, or some columns of them."""
        rows = [r[-1] for r in self.rows if r[0] is kind]
        return [tuple(r[n] for n in names) for r in rows] if names else rows

    @property
    def depth(self):
        """Action, side, price, size, sequence and flags of all depth rows."""
        return self.of(Kind.DEPTH, "action", "side", "price", "size", "sequence", "flags")


async def take(source, resume=None, items=None):
    """Run a source to its end; `items` takes what came before an error."""
    given = Given()
    async for item in source.batches(resume or {}):
        if items is not None:
            items.append(item)
        into = given.marks if isinstance(item, Mark) else given.gaps if isinstance(item, Gap) else given.batches
        into.append(item)
    return given


@pytest.fixture
def captures():
    """Read captures to the end, with the settings of `CaptureSource`."""

    async def run(*paths, resume=None, items=None, **settings):
        return await take(CaptureSource(list(paths), **settings), resume, items)

    return run


def level_texts(levels):
    return [[str(p), str(s)] for p, s in levels.items()]


class BinanceLines:
    """Messages as Binance writes them, a millisecond apart from 1 s past the start on."""

    def __init__(self, *, futures, symbol="BTCUSDT", start_ns=START_NS):
        self.lines = []
        self.futures = futures
        self.symbol = symbol
        self.start_ns = start_ns

    @property
    def ms(self):
        return (self.start_ns + 10**9) // 10**6 + len(self.lines)

    def raw(self, text):
        self.lines.append(text)
        return self

    def message(self, value):
        return self.raw(f"{self.start_ns + len(self.lines) * 10**6} {json.dumps(value)}")

    def stream(self, name, data):
        return self.message({"stream": f"{self.symbol.lower()}@{name}", "data": {"s": self.symbol, **data}})

    def diff(self, first, last, *, bids=None, asks=None, previous=None):
        data = {"e": "depthUpdate", "E": self.ms, "U": first, "u": last}
        if self.futures:
            data |= {"T": self.ms - 1, "pu": first - 1 if previous is None else previous}
        return self.stream("depth@100ms", data | {"b": level_texts(bids or {}), "a": level_texts(asks or {})})

    def snapshot(self, last, *, bids, asks, **more):
        times = {"E": self.ms, "T": self.ms - 1} if self.futures else {}
        sides = {"bids": level_texts(bids), "asks": level_texts(asks)}
        return self.message({"lastUpdateId": last} | times | sides | more)

    def quote(self, bid="100.0", bid_size="1", ask="101.0", ask_size="2"):
        times = {"e": "bookTicker", "T": self.ms - 1, "E": self.ms} if self.futures else {}
        return self.stream("bookTicker", {"u": 1, "b": bid, "B": bid_size, "a": ask, "A": ask_size} | times)

    def trade(self, trade_id=1, price="100.5", size="0.25", *, maker=False):
        more = {"X": "MARKET"} if self.futures else {"M": True}
        data = {"e": "trade", "E": self.ms, "T": self.ms - 1, "t": trade_id, "p": price, "q": size, "m": maker}
        return self.stream("trade", data | more)


class OkxLines:
    """Messages as OKX writes them, a millisecond apart; books with the checksum of what they make."""

    def __init__(self, symbol="BTC-USDT"):
        self.lines = []
        self.symbol = symbol
        self.bids, self.asks = {}, {}

    @property
    def ms(self):
        return START_NS // 10**6 + len(self.lines)

    def raw(self, text):
        self.lines.append(text)
        return self

    def message(self, value):
        return self.raw(f"{START_NS // 10**9}.{len(self.lines):03d}: {json.dumps(value)}")

    def channel(self, channel, *data, **more):
        arg = {"channel": channel, "instId": self.symbol}
        return self.message(
            {"arg": arg, **more, "data": [{"instId": self.symbol, "ts": str(self.ms), **d} for d in data]}
        )

    def book(self, action, *, bids=None, asks=None, checksum=None, **ids):
        if action == "snapshot":
            self.bids, self.asks = {}, {}
        for side, new in ((self.bids, bids or {}), (self.asks, asks or {})):
            side.update(new)
            for price in [p for p, size in new.items() if float(size) == 0]:
                side.pop(price)
        texts = [[[p, s, "0", "1"] for p, s in (side or {}).items()] for side in (asks, bids)]
        said = okx_checksum(self.bids, self.asks) if checksum is None else checksum
        return self.channel("books", {"asks": texts[0], "bids": texts[1], "checksum": said, **ids}, action=action)

    def quote(self, bid="100.1", bid_size="1", ask="100.2", ask_size="2"):
        return self.channel("tickers", {"bidPx": bid, "bidSz": bid_size, "askPx": ask, "askSz": ask_size})

    def trade(self, trade_id="7", price="100.1", size="3", side="buy"):
        return self.channel("trades", {"tradeId": trade_id, "px": price, "sz": size, "side": side})


def okx_checksum(bids, asks):
    """The checksum as OKX documents it: bid, ask, bid, ask ... of 25 levels, a signed 32-bit CRC."""
    best_bids = sorted(bids.items(), key=lambda x: -float(x[0]))[:25]
    best_asks = sorted(asks.items(), key=lambda x: float(x[0]))[:25]
    parts = []
    for i in range(25):
        for side in (best_bids, best_asks):
            if i < len(side):
                parts += side[i]
    value = zlib.crc32(":".join(parts).encode())
    return value - 2**32 if value >= 2**31 else value


@pytest.fixture
def spot():
    """Lines of a Binance spot capture."""
    return BinanceLines(futures=False)


@pytest.fixture
def usdm():
    """Lines of a Binance USD-M capture."""
    return BinanceLines(futures=True)


@pytest.fixture
def okx():
    """Lines of an OKX capture."""
    return OkxLines()


@pytest.fixture
def write(tmp_path):
    """Write lines to a file; gzipped if its name ends so."""

    def to_file(lines, name="capture.txt"):
        text = "".join(f"{line}\n" for line in getattr(lines, "lines", lines)).encode()
        path = tmp_path / name
        path.write_bytes(gzip.compress(text) if name.endswith(".gz") else text)
        return path

    return to_file
