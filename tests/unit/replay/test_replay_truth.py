"""Recorded files against the truth that was established for them independently."""

from __future__ import annotations

import hashlib
import json
from datetime import datetime
from pathlib import Path
from zoneinfo import ZoneInfo

import numpy as np
import pytest

from market_data_core.schemas import Kind

pytestmark = pytest.mark.recordings

QUOTES = [
    "bac/20131008_quote.zip",
    "bac/20131009_quote.zip",
    *(f"ibm/201310{day}_quote.zip" for day in ("07", "08", "09", "10", "11")),
]
TRADES = [f"{symbol}/201310{day}_trade.zip" for symbol in ("bac", "ibm") for day in ("07", "08", "09", "10", "11")]
FXCM = """
name: fxcm
vendor: fxcm
kind: quotes
format: csv
header: false
fields: [ms, bid, ask]
time: {column: ms, unit: ms_since_midnight, zone: "UTC-05:00"}
date: {path: ['/(\\d{8})_quote.zip']}
symbol: {path: ['/fxcm_([a-z]+)/']}
columns: {bid_price: bid, ask_price: ask}
price_decimals: 5
"""


@pytest.fixture(scope="session")
def truth(recordings):
    return json.loads((recordings / "truth.json").read_text())


def ints(table, name, scale=1):
    return np.rint(table.column(name).to_numpy() * scale).astype(np.int64)


@pytest.mark.parametrize("name", TRADES)
async def test_trades_equal_the_recording(recordings, truth, replay, name):
    """Rows, times, prices, sizes and exchanges of a trade file sum up to the truth."""
    want = truth[f"equity_ticks/{name}"]
    given = await replay(recordings / "equity_ticks" / name)
    table = given.table(Kind.TRADES)
    times, prices, sizes = table.column("ts_event").to_numpy(), ints(table, "price", 10_000), ints(table, "size")
    assert table.num_rows == want["rows"] == given.batches[-1].offset
    assert (times[0], times[-1]) == (want["first_ts_ns"], want["last_ts_ns"])
    assert bool((np.diff(times) >= 0).all()) == want["ts_monotonic"]
    assert sizes.sum() == want["sum_size"]
    assert prices.sum() == want["sum_price_int"]
    assert (prices * sizes).sum() == want["sum_price_x_size"]
    assert (prices.min(), prices.max()) == (want["min_price"], want["max_price"])
    assert (table.column("flags").to_numpy() != 0).sum() == want["suspicious"]
    counts = {c["values"]: c["counts"] for c in table.column("exchange").value_counts().to_pylist()}
    assert counts == want["by_exchange_rows"]
    assert set(given.symbols[:1]) == {name[:3].upper()}


@pytest.mark.parametrize("name", QUOTES)
async def test_quotes_equal_the_recording(recordings, truth, replay, name):
    """Each one-sided row becomes the whole top of book, and the book at every minute is the true one."""
    want = truth[f"equity_ticks/{name}"]
    table = (await replay(recordings / "equity_ticks" / name)).table(Kind.QUOTES)
    times = table.column("ts_event").to_numpy()
    assert table.num_rows == want["rows"]
    assert (times[0], times[-1]) == (want["first_ts_ns"], want["last_ts_ns"])
    assert (table.column("flags").to_numpy() != 0).sum() == want["suspicious"]
    assert [table.column(n).null_count for n in ("bid_price", "ask_price")] in ([0, 1], [1, 0])
    columns = [("bid_price", 10_000), ("bid_size", 1), ("ask_price", 10_000), ("ask_size", 1)]
    whole = table.slice(1)
    book = [ints(whole, n, s) for n, s in columns]
    state = np.stack(book)
    # The first bid and the first ask are changes too.
    assert (np.diff(state, axis=1) != 0).any(axis=0).sum() + 2 == want["bbo_changes_price_or_size"]
    assert (book[0] == book[2]).sum() == want["rows_bbo_locked"]
    assert (book[0] > book[2]).sum() == want["rows_bbo_crossed"]
    day = datetime.strptime(Path(name).name[:8], "%Y%m%d").replace(
        tzinfo=ZoneInfo("America/New_York"), hour=9, minute=30
    )
    minutes = int(day.timestamp()) * 10**9 + np.arange(391) * 60 * 10**9
    at = np.searchsorted(times[1:], minutes, side="right") - 1
    lines = "".join(f"{t},{b},{bs},{a},{s}\n" for t, b, bs, a, s in zip(minutes, *(c[at] for c in book), strict=True))
    assert hashlib.sha256(lines.encode()).hexdigest() == want["bbo_minute_samples"]["sha256_csv"]


async def test_a_folder_finds_just_the_tick_files(recordings, truth, replay):
    """All recordings under a folder are read, and bar files with the same names elsewhere are left alone."""
    given = await replay(recordings / "equity_ticks", symbols=["ibm"])
    both = truth["equity_ticks/ibm/*_trade.zip"]
    trades = given.table(Kind.TRADES)
    assert (trades.num_rows, int(ints(trades, "size").sum())) == (both["rows"], both["sum_size"])
    assert set(given.symbols) == {"IBM"}
    assert len(given.marks) == 10


async def test_a_user_layout_reads_fixed_offset_forex(recordings, truth, replay, tmp_path):
    """A layout of one's own, with a fixed UTC-05 clock and plain decimals, reads the forex recording."""
    name = "fx_ticks/fxcm_eurusd/20140502_quote.zip"
    layout = tmp_path / "fxcm.yaml"
    layout.write_text(FXCM)
    table = (await replay(recordings / name, layout=layout)).table(Kind.QUOTES)
    want, times = truth[name], table.column("ts_event").to_numpy()
    assert (table.num_rows, times[0], times[-1]) == (want["rows"], want["first_ts_ns"], want["last_ts_ns"])
    assert ints(table, "bid_price", 100_000).sum() == want["sum_bid"]
    assert ints(table, "ask_price", 100_000).sum() == want["sum_ask"]
    assert table.column("bid_size").null_count == table.num_rows
