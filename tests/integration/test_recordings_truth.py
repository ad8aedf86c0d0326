"""Recordings through the whole path by the command line, against their ground truth."""

from __future__ import annotations

import hashlib
import json
from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import numpy as np
import pytest

from market_data_orchestrator.cli.main import run
from market_data_store.lake import Lake
from market_data_store.query import run_query

pytestmark = [pytest.mark.recordings, pytest.mark.timeout(300)]
NEW_YORK = ZoneInfo("America/New_York")


@pytest.fixture(scope="module")
def truth(recordings):
    return json.loads((recordings / "truth.json").read_text())


@pytest.fixture(scope="module")
def data_dir(recordings, tmp_path_factory):
    """All equity ticks, replayed once by `mdo replay` with bars of three intervals."""
    folder = tmp_path_factory.mktemp("replayed")
    assert run(["replay", str(recordings / "equity_ticks"), "--data-dir", str(folder), "--bars", "1s,1m,5m"]) == 0
    return folder


def day_ns(day: str, hour: int = 0, minute: int = 0) -> int:
    at = datetime(int(day[:4]), int(day[4:6]), int(day[6:]), hour, minute, tzinfo=NEW_YORK)
    return int(at.astimezone(UTC).timestamp()) * 10**9


def bars_sha(data_dir, symbol: str, interval: str, start_ns: int, end_ns: int) -> tuple[int, str]:
    bars = Lake(data_dir / "lake", "default").bars(symbol, interval, start_ns=start_ns, end_ns=end_ns)
    columns = [bars.column("ts_event").to_pylist()]
    columns += [
        np.rint(bars.column(c).to_numpy() * 10_000).astype(int).tolist() for c in ("open", "high", "low", "close")
    ]
    columns += [bars.column("volume").to_numpy().astype(int).tolist(), bars.column("trade_count").to_pylist()]
    text = "".join(",".join(map(str, row)) + "\n" for row in zip(*columns, strict=True))
    return bars.num_rows, hashlib.sha256(text.encode()).hexdigest()


def test_bars_of_every_symbol_day_and_interval_equal_the_truth(data_dir, truth):
    """1-second, 1-minute and 5-minute bars of each trade file equal truth.json by hash."""
    compared = 0
    for name, facts in truth.items():
        if not name.startswith("equity_ticks/") or "bars_1m" not in facts:
            continue
        _, folder, file = name.split("/")
        if file.startswith("*"):
            start, end = day_ns("20131007"), day_ns("20131012")
        else:
            day = file[:8]
            start, end = day_ns(day), day_ns(day) + 86_400 * 10**9
        for interval in ("1s", "1m", "5m"):
            if f"bars_{interval}" in facts:
                expected = facts[f"bars_{interval}"]
                found = bars_sha(data_dir, folder.upper(), interval, start, end)
                assert found == (expected["count"], expected["sha256_csv"]), (name, interval)
                compared += 1
    assert compared == 32


def test_as_of_sums_of_trades_against_quotes_equal_the_truth(data_dir, truth):
    """Each trade of the regular session joined to the quote before it, from what the store holds."""
    lake = Lake(data_dir / "lake", "default")
    compared = 0
    for name, facts in truth.items():
        if "asof_trades_rth" not in facts:
            continue
        _, folder, file = name.split("/")
        day, symbol = file[:8], folder.upper()
        start, end = day_ns(day), day_ns(day) + 86_400 * 10**9
        expected = facts["asof_trades_rth"]
        quotes = lake.read("quotes", vendor="lean", symbol=symbol, start_ns=start, end_ns=end)
        quotes = quotes.sort_by([("ts_event", "ascending"), ("seq", "ascending")])
        trades = lake.read(
            "trades", vendor="lean", symbol=symbol, start_ns=day_ns(day, 9, 30), end_ns=day_ns(day, 16, 0)
        )
        assert quotes.num_rows == facts["rows"]
        place = np.searchsorted(quotes.column("ts_event").to_numpy(), trades.column("ts_event").to_numpy(), "right") - 1
        bid = np.rint(quotes.column("bid_price").to_numpy()[place] * 10_000).astype(int)
        ask = np.rint(quotes.column("ask_price").to_numpy()[place] * 10_000).astype(int)
        price = np.rint(trades.column("price").to_numpy() * 10_000).astype(int)
        size = trades.column("size").to_numpy().astype(int)
        at_bid, at_ask = price == bid, (price == ask) & (price != bid)
        found = {
            "trades": trades.num_rows,
            "below_bid": int((price < bid).sum()),
            "at_bid": int(at_bid.sum()),
            "inside": int(((price > bid) & (price < ask)).sum()),
            "at_ask": int(at_ask.sum()),
            # Where the book is crossed a price can lie on both sides; it counts below first.
            "above_ask": int(((price > ask) & (price >= bid)).sum()),
            "size_at_bid": int(size[at_bid].sum()),
            "size_at_ask": int(size[at_ask].sum()),
            "sum_matched_bid": int(bid.sum()),
            "sum_matched_ask": int(ask.sum()),
            "sum_matched_quote_row_index": int(place.sum()),
        }
        assert found == expected, name
        compared += 1
    assert compared == 7


def test_the_same_command_again_stores_nothing_twice(data_dir, recordings, capsys):
    """A second replay reads nothing anew, and every count stays as it was."""

    def counts():
        return {
            t: run_query(data_dir / "lake", "default", f"select count(*) as n from {t}").table.column("n")[0].as_py()
            for t in ("trades", "quotes", "bars", "bars_revisions", "quarantine")
        }

    before = counts()
    assert run(["replay", str(recordings / "equity_ticks"), "--data-dir", str(data_dir), "--bars", "1s,1m,5m"]) == 0
    assert "17 files were stored before" in capsys.readouterr().out
    assert counts() == before
    assert before["bars"] == before["bars_revisions"]
    assert before["trades"] == 700_015


def test_the_ledger_of_a_replay_agrees_with_a_recount(data_dir, capsys):
    """Log, tables and bars are counted again and say what the ledger says."""
    assert run(["audit", "ledger", "--data-dir", str(data_dir), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["agrees"]
    assert {c["consumer"] for c in said["checks"]} == {"raw", "bars-trades-1s", "bars-trades-1m", "bars-trades-5m"}
