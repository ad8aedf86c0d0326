"""Recorded captures against the truth that was established for them independently."""

from __future__ import annotations

import gzip
import hashlib
import heapq
import json
from decimal import Decimal

import numpy as np
import pyarrow as pa
import pytest

from market_data_core.batch import SourceBatch
from market_data_core.schemas import Flag, Kind
from market_data_pipeline.source.captures import CaptureSource

pytestmark = pytest.mark.recordings

BINANCE = {
    "binance": "crypto_l2/binance_spot_btcusdt_20240808.gz",
    "binance_usdm": "crypto_l2/binance_usdm_btcusdt_20240808.gz",
}
OKX = "crypto_l2/okx_ws_20220513.txt.gz"


class Book:
    """A plain order book: sizes by price, best levels by heaps whose dead entries are passed over."""

    def __init__(self):
        self.clear()

    def clear(self):
        self.sides = {"bid": {}, "ask": {}}
        self.heaps = {"bid": [], "ask": []}

    def apply(self, action, side, price, size):
        if action == "clear":
            self.clear()
        elif action == "delete":
            self.sides[side].pop(price, None)
        else:
            if price not in self.sides[side]:
                heapq.heappush(self.heaps[side], -price if side == "bid" else price)
            self.sides[side][price] = size

    def best(self, side):
        heap, levels = self.heaps[side], self.sides[side]
        while abs(heap[0]) not in levels:
            heapq.heappop(heap)
        return abs(heap[0]), levels[abs(heap[0])]

    def top(self, side, count):
        prices = sorted(self.sides[side], reverse=side == "bid")[:count]
        return [(p, self.sides[side][p]) for p in prices]


@pytest.fixture(scope="module")
def truth(recordings):
    return json.loads((recordings / "truth.json").read_text())


async def read_tables(path):
    """The source, its rows by kind, its symbols by place and its vendors."""
    source, found = CaptureSource(path), {}
    async for item in source.batches({}):
        if isinstance(item, SourceBatch):
            found.setdefault(item.kind, []).append(item)
    tables = {kind: pa.Table.from_batches([b.data for b in batches]) for kind, batches in found.items()}
    symbols = [e.symbol for e in found[Kind.DEPTH][-1].instruments]
    vendors = {e.vendor for e in found[Kind.DEPTH][-1].instruments}
    return source, tables, symbols, vendors


@pytest.fixture(params=BINANCE)
async def binance(request, recordings, truth):
    """A Binance recording: its vendor, truth, source and tables."""
    name = BINANCE[request.param]
    source, tables, _, vendors = await read_tables(recordings / name)
    assert vendors == {request.param}
    return request.param, truth[name], source, tables


def scaled(table, name):
    return np.rint(table.column(name).to_numpy() * 1e8).astype(np.int64)


def plain(value):
    """A number as the truth writes it: no trailing zeros, no exponent."""
    text = format(Decimal(repr(value)).normalize(), "f")
    return text.rstrip("0").rstrip(".") if "." in text else text


def bars(trades, step_ns):
    """Rows of start, open, high, low, close, volume and count, by the truth's rule."""
    times, prices, sizes = trades.column("ts_event").to_numpy(), scaled(trades, "price"), scaled(trades, "size")
    order = np.argsort(times, kind="stable")
    starts = times[order] // step_ns * step_ns
    prices, sizes = prices[order], sizes[order]
    edges = np.flatnonzero(np.diff(starts, prepend=starts[0] - 1))
    ends = np.append(edges[1:], len(starts)) - 1
    return np.stack(
        [
            starts[edges],
            prices[edges],
            np.maximum.reduceat(prices, edges),
            np.minimum.reduceat(prices, edges),
            prices[ends],
            np.add.reduceat(sizes, edges),
            ends - edges + 1,
        ],
        axis=1,
    )


def csv_hash(rows):
    return hashlib.sha256("".join(",".join(map(str, r)) + "\n" for r in rows).encode()).hexdigest()


def check_trades(trades, want):
    assert trades.num_rows == want["n_trade"]
    ids = np.array(trades.column("trade_id").to_pylist(), np.int64)
    assert (ids.min(), ids.max(), len(set(ids))) == tuple(want[f"trade_id_{x}"] for x in ("min", "max", "unique"))
    pairs = [
        (Decimal(repr(p)), Decimal(repr(q)))
        for p, q in zip(trades.column("price").to_pylist(), trades.column("size").to_pylist(), strict=True)
    ]
    assert sum(q for _, q in pairs) == Decimal(want["trade_qty_sum"])
    assert sum(p * q for p, q in pairs) == Decimal(want["trade_notional_sum"])
    conditions = trades.column("conditions").to_pylist()
    assert {str(c or "null"): conditions.count(c) for c in set(conditions)} == want["trade_X"]
    assert set(trades.column("aggressor_side").to_pylist()) == {"buy", "sell"}


def check_bars(trades, want):
    for step_s, name in ((60, "trade_bars_1m_by_T"), (1, "trade_bars_1s_by_T")):
        made, expected = bars(trades, step_s * 10**9), want[name]
        assert csv_hash(made.tolist()) == expected["sha256_csv"]
        assert len(made) == expected["count"]
        sums = {f"sum_{n}": made[:, i].sum() for i, n in enumerate(("open", "high", "low", "close", "volume", "n"), 1)}
        for key, value in sums.items():
            assert value == expected.get(key, value)
        if step_s == 60:
            assert [made[0].tolist(), made[-1].tolist()] == [expected["first_bar"], expected["last_bar"]]
            assert (made[0, 0], made[-1, 0]) == (expected["first_bar_ns"], expected["last_bar_ns"])
            assert (made[:, 2].max(), made[:, 3].min()) == (expected["max_high"], expected["min_low"])


async def test_trades_and_their_bars_equal_the_recording(binance):
    """Count, ids, sums, conditions and bars of a second and a minute are the truth's, to the digit."""
    _, want, source, tables = binance
    check_trades(tables[Kind.TRADES], want)
    check_bars(tables[Kind.TRADES], want)
    assert (source.lines, source.malformed) == (want["lines"], 0)
    assert source.plan()[0].start_ns == want["first_recv_ns"]
    assert max(t.column("ts_recv").to_numpy().max() for t in tables.values()) == want["last_recv_ns"]


def raw_messages(path):
    """Update ids of the book tickers in a Binance capture, and ids and number of levels of its diffs."""
    tickers, diffs = [], []
    with gzip.open(path, "rt") as lines:
        for line in lines:
            message = json.loads(line.partition(" ")[2])
            data = message.get("data", {})
            if "bookTicker" in message.get("stream", ""):
                tickers.append(data["u"])
            elif data.get("e") == "depthUpdate":
                diffs.append((data["u"], len(data["b"]) + len(data["a"])))
    return np.array(tickers), diffs


def replayed(depth):
    """The book, and by update its id and best levels after it; checks flags and times of every message."""
    book, series = Book(), []
    columns = [
        depth.column(c).to_pylist() for c in ("action", "side", "price", "size", "sequence", "flags", "ts_event")
    ]
    seen = set()
    for action, side, price, size, sequence, flags, ts_event in zip(*columns, strict=True):
        book.apply(action, side, price, size)
        seen.add((sequence, ts_event))
        assert not flags & Flag.MAYBE_BAD_BOOK
        if flags & Flag.LAST:
            assert seen == {(sequence, ts_event)}
            seen = set()
            if not flags & Flag.SNAPSHOT:
                series.append((sequence, *book.best("bid"), *book.best("ask")))
    assert not seen
    return book, series


def check_final(book, want):
    for side in ("bid", "ask"):
        assert len(book.sides[side]) == want[f"final_{side}_levels"]
        assert sum(Decimal(repr(s)) for s in book.sides[side].values()) == Decimal(want[f"final_{side}_qty_sum"])
        assert book.top(side, 10) == [(float(p), float(s)) for p, s in want[f"final_top10_{side}s"]]


async def test_the_book_equals_the_recording_and_its_tickers(binance, recordings):
    """Rebuilt best bid and offer are the truth's after every update, and equal the exchange's own ticker."""
    vendor, want, _, tables = binance
    depth, quotes = tables[Kind.DEPTH], tables[Kind.QUOTES]
    assert Kind.STATUS not in tables
    book, series = replayed(depth)
    assert len(series) == want["depth_events_applied"]
    assert series[-1][0] == want["final_u"]
    assert sum(bid >= ask for _, bid, _, ask, _ in series) == want["crossed_after_event"] == want["chain_gaps"]
    lines = (",".join([str(u), *map(plain, best)]) for u, *best in series)
    assert hashlib.sha256("".join(f"{x}\n" for x in lines).encode()).hexdigest() == want["bbo_series_sha256"]
    check_final(book, want)

    ticker_ids, diffs = raw_messages(recordings / BINANCE[vendor])
    assert quotes.num_rows == len(ticker_ids) == want["n_bookTicker"]
    own = list(
        zip(*(quotes.column(c).to_pylist() for c in ("bid_price", "bid_size", "ask_price", "ask_size")), strict=True)
    )
    # Ids ascend, so the newest ticker up to an update is the one before the place where its id would go.
    assert (np.diff(ticker_ids) >= 0).all()
    at = np.searchsorted(ticker_ids, [u for u, *_ in series], side="right") - 1
    pairs = [(own[i], tuple(best), ticker_ids[i] == u) for i, (u, *best) in zip(at, series, strict=True) if i >= 0]
    assert len(pairs) == want["bbo_vs_bookTicker_compared"]
    assert sum(a == b for a, b, _ in pairs) == want["bbo_vs_bookTicker_equal"]
    assert sum(same for *_, same in pairs) == want["same_u"]
    assert sum(a == b for a, b, same in pairs if same) == want["same_u_equal"]
    check_snapshot(depth, diffs, want)


def check_snapshot(depth, diffs, want):
    snapshot = [r for r in depth.slice(0, 3000).to_pylist() if r["flags"] & Flag.SNAPSHOT]
    assert snapshot[0]["action"] == "clear"
    assert {r["sequence"] for r in snapshot} == {want["snapshot_lastUpdateId"]}
    sides = [r["side"] for r in snapshot]
    assert [sides.count("bid"), sides.count("ask")] == want["snapshot_levels"]
    assert len(diffs) == want["n_depth"]
    given = set(depth.column("sequence").to_pylist())
    dropped = sum(levels for u, levels in diffs if u not in given)
    assert depth.num_rows - len(snapshot) + dropped == want["depth_level_updates"]


async def test_times_are_the_exchanges_or_say_so(binance):
    """Spot tickers have no time of the exchange's and say so; everything else has one."""
    vendor, _, _, tables = binance
    quotes, trades = tables[Kind.QUOTES], tables[Kind.TRADES]
    synthetic = np.unique(quotes.column("flags").to_numpy() & Flag.TS_EVENT_SYNTHETIC)
    same = (quotes.column("ts_event").to_numpy() == quotes.column("ts_recv").to_numpy()).all()
    assert (synthetic.tolist(), same) == (([Flag.TS_EVENT_SYNTHETIC], True) if vendor == "binance" else ([0], False))
    assert not trades.column("flags").to_numpy().any()
    assert not (trades.column("ts_event").to_numpy() % 10**6).any()


async def test_okx_checksums_all_agree(recordings, truth):
    """All 290 checksums of the OKX recording agree, and its books end as the truth's do."""
    want = truth[OKX]
    source, tables, symbols, vendors = await read_tables(recordings / OKX)
    depth = tables[Kind.DEPTH].to_pylist()
    assert vendors == {"okx"}
    assert (source.checksums_ok, source.checksums_bad) == (
        want["checksums_ok"],
        want["checksums"] - want["checksums_ok"],
    )
    assert sum(r["action"] != "clear" for r in depth) == want["level_updates"]
    assert not any(r["flags"] & Flag.MAYBE_BAD_BOOK for r in depth)
    books = {}
    messages = dict.fromkeys(symbols, 0)
    for row in depth:
        symbol = symbols[row["instrument"]]
        books.setdefault(symbol, Book()).apply(row["action"], row["side"], row["price"], row["size"])
        messages[symbol] += bool(row["flags"] & Flag.LAST)
    assert {s: [n, n] for s, n in messages.items()} == want["per_pair"]
    for symbol, final in want["final"].items():
        book = books[symbol]
        assert (len(book.sides["bid"]), len(book.sides["ask"])) == (final["bids"], final["asks"])
        assert book.best("bid") == tuple(map(float, final["best_bid"]))
        assert book.best("ask") == tuple(map(float, final["best_ask"]))
