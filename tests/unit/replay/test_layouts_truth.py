"""Recorded bars, forex ticks and options against the truth that was established for them independently."""

from __future__ import annotations

import hashlib
import json
from collections import Counter

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from market_data_core.batch import EventBatch, Instruments
from market_data_core.errors import ConfigurationError
from market_data_core.schemas import EVENT_SCHEMAS, Flag, Kind, Origin
from market_data_pipeline.operators import Bars, Validate
from market_data_pipeline.source.replay import ReplaySource, detect_layout

pytestmark = pytest.mark.recordings

LAYOUTS = {
    "equity_ticks": {"lean_equity_quotes", "lean_equity_trades"},
    "fx_ticks": {"lean_fxcm_quotes"},
    "bars_1m/equity": {"lean_equity_quote_bars", "lean_equity_trade_bars"},
    "bars_1m/crypto_coinbase": {"lean_coinbase_quote_bars", "lean_coinbase_trade_bars"},
    "bars_1d": {"lean_equity_daily_bars"},
    "options/universe_aapl": {"lean_option_universe"},
    "options/minute_aapl": {"lean_option_trade_bars"},
    "options/minute_twx": {"lean_option_open_interest", "lean_option_quote_bars", "lean_option_trade_bars"},
}
SIDES = (("b", "BID"), ("a", "ASK"))
PRICES = ("open", "high", "low", "close")


@pytest.fixture(scope="session")
def truth(recordings):
    return json.loads((recordings / "truth.json").read_text())


def named(truth, folder):
    """The names of a folder's files that have a truth."""
    return [name for name in truth if name.startswith(f"{folder}/") and "*" not in name]


def ints(column, scale):
    return int(np.rint(column.drop_null().to_numpy() * scale).astype(np.int64).sum())


def events(given):
    """What a replay gave, numbered as the log would."""
    at = 0
    for b in given.batches:
        columns = {n: b.data.column(n) for n in b.data.schema.names}
        columns["seq"] = pa.array(np.arange(at, at + b.data.num_rows))
        columns["ts_recv"] = columns["ts_event"]
        at += b.data.num_rows
        schema = EVENT_SCHEMAS[b.kind]
        yield EventBatch(
            kind=b.kind,
            data=pa.RecordBatch.from_arrays([columns[n] for n in schema.names], schema=schema),
            instruments=Instruments(b.instruments),
            origin=Origin.REPLAY,
            source_id=b.source_id,
            offset=b.offset,
        )


def bars_of(given, **settings):
    """Bars of all that a replay gave."""
    bars, end = Bars("1m", **settings), 0
    for batch in events(given):
        bars.process(batch)
        end += len(batch)
    for mark in given.marks:
        bars.advance(mark)
    return pa.Table.from_batches([b.data for b in bars.barrier(end, 0).out])


@pytest.mark.parametrize("folder", LAYOUTS)
def test_every_recording_is_of_exactly_one_layout(recordings, folder):
    """Each file of a folder is recognised, and no file fits two layouts."""
    files = [p for p in (recordings / folder).rglob("*") if p.is_file()]
    assert {detect_layout(p).name for p in files} == LAYOUTS[folder]
    assert {p for p, *_ in ReplaySource([recordings / folder]).plan()} == set(files)


@pytest.mark.parametrize(("folder", "told"), [("dbn", "databento"), ("crypto_l2", "captures")])
def test_recordings_of_other_sources_are_told_apart(recordings, folder, told):
    """A file that another source reads is refused with the name of that source, however it is asked for."""
    files = [p for p in (recordings / folder).rglob("*") if p.is_file()]
    for path in (*files, recordings / folder):
        with pytest.raises(ConfigurationError, match=f"source {told}"):
            ReplaySource([path]).plan()
    with pytest.raises(ConfigurationError, match=f"source {told}"):
        ReplaySource([files[0]], "platform_trades").plan()


async def test_forex_ticks_and_their_bars_equal_the_recording(recordings, truth, replay):
    """Ticks sum up to the truth, and the bars of bids and asks made of them are the true ones to the digit."""
    for name in named(truth, "fx_ticks"):
        want, given = truth[name], await replay(recordings / name)
        table = given.table(Kind.QUOTES)
        times = table.column("ts_event").to_numpy()
        assert (table.num_rows, times[0], times[-1]) == (want["rows"], want["first_ts_ns"], want["last_ts_ns"])
        assert ints(table.column("bid_price"), 1e5) == want["sum_bid"]
        assert ints(table.column("ask_price"), 1e5) == want["sum_ask"]
        assert table.column("bid_size").null_count == table.column("ask_size").null_count == table.num_rows
        for what in ("BID", "ASK"):
            bars, of = bars_of(given, what=what), want[f"{what.lower()}_bars_1m"]
            columns = [np.rint(bars.column(n).to_numpy() * 1e5).astype(np.int64) for n in PRICES]
            counts = bars.column("trade_count").to_pylist()
            rows = zip(bars.column("ts_event").to_pylist(), *columns, counts, counts, strict=True)
            lines = "".join(",".join(map(str, row)) + "\n" for row in rows)
            assert (bars.num_rows, hashlib.sha256(lines.encode()).hexdigest()) == (of["count"], of["sha256_csv"])


async def test_crossed_forex_ticks_stay_and_are_flagged(recordings, replay):
    """Validation lets every crossed tick through, with the flag that says so."""
    given = await replay(recordings / "fx_ticks/fxcm_eurusd/20140502_quote.zip")
    validate = Validate()
    out = [b for batch in events(given) for b in validate.process(batch).out]
    flags = np.concatenate([b.column("flags") for b in out])
    crossed = np.concatenate([b.floats("bid_price") > b.floats("ask_price") for b in out])
    assert len(flags) == given.table(Kind.QUOTES).num_rows
    assert crossed.any()
    assert ((flags & Flag.CROSSED != 0) == crossed).all()


async def test_minute_bars_equal_the_recording(recordings, truth, replay):
    """Trade bars give one bar a row and quote bars two, and each column sums up to the truth."""
    for folder, scale in (("bars_1m/equity", 1e4), ("bars_1m/crypto_coinbase", 1e8)):
        for name in named(truth, folder):
            want, sums = truth[name], truth[name]["sums_int"]
            table = (await replay(recordings / name)).table(Kind.BARS)
            of = {what: table.filter(pc.equal(table.column("what"), what)) for what in ("TRADES", "BID", "ASK")}
            for prefix, what in SIDES if name.endswith("_quote.zip") else (("", "TRADES"),):
                bars = of.pop(what)
                times = bars.column("ts_event").to_pylist()
                assert (bars.num_rows, times[0], times[-1]) == (want["rows"], want["first_ns"], want["last_ns"])
                assert [ints(bars.column(n), scale) for n in PRICES] == [sums[f"{prefix}{n[0]}"] for n in PRICES]
                if what == "TRADES":
                    assert ints(bars.column("volume"), 1 if scale == 1e4 else 1e8) == sums["v"]
            assert not any(bars.num_rows for bars in of.values())


async def test_vendor_bars_stand_beside_bars_made_of_the_same_ticks(recordings, truth, replay):
    """Recorded bars of a day have the keys of bars made of its ticks, save the source, and mostly the same prices."""
    day = "bac/20131008_trade.zip"
    made = bars_of(await replay(recordings / "equity_ticks" / day))
    read = (await replay(recordings / "bars_1m/equity" / day)).table(Kind.BARS)
    assert set(read.column("source").to_pylist()) == {"external"}
    both = made.join(read, ["ts_event", "interval", "what", "session"], join_type="inner", right_suffix="_vendor")
    want = truth[f"equity_ticks/{day}"]["vendor_minute_bars_crosscheck"]
    assert (made.num_rows, read.num_rows, both.num_rows) == (want["tick_bars"], want["vendor_bars"], want["common"])
    for name in (*PRICES, "volume"):
        same = np.isclose(both.column(name).to_numpy(), both.column(f"{name}_vendor").to_numpy(), rtol=0, atol=1e-6)
        assert same.sum() == want[f"equal_{name[0]}"]


async def test_daily_bars_equal_the_recording(recordings, truth, replay):
    """Daily bars begin at midnight in New York and sum up to the truth."""
    for name in named(truth, "bars_1d"):
        want = truth[name]
        table = (await replay(recordings / name)).table(Kind.BARS)
        local = pc.strftime(
            table.column("ts_event")
            .cast(pa.timestamp("ns", "America/New_York"))
            .cast(pa.timestamp("s", "America/New_York")),
            "%Y%m%d %H:%M",
        )
        assert (table.num_rows, local[0].as_py(), local[-1].as_py()) == (want["rows"], want["first"], want["last"])
        found = {n[0]: ints(table.column(n), 1e4) for n in PRICES} | {"v": ints(table.column("volume"), 1)}
        assert found == want["sums_int"]
        assert table.column("interval").unique().to_pylist() == ["1d"]


async def test_option_chains_equal_the_recording(recordings, truth, replay):
    """Contracts, prices, volumes, volatilities and Greeks of a day's chain sum up to the truth."""
    for name in named(truth, "options/universe_aapl"):
        want, given = truth[name], await replay(recordings / name)
        table = given.table(Kind.OPTIONS)
        assert (table.num_rows, len(set(given.symbols))) == (want["contracts"], want["contracts"])
        assert given.batches[-1].offset == want["rows"]
        assert len(table.column("expiry").unique()) == want["expiries"]
        assert Counter(table.column("right").to_pylist()) == {"C": want["calls"], "P": want["puts"]}
        assert table.column("underlying_price").unique().to_pylist() == [want["underlying_close"]]
        assert len(table.column("implied_vol").drop_null()) == want["iv_gt0"]
        sums = {
            "volume": "volume", "open_interest": "open_interest", "strike": "strike", "last_price": "close",
            "implied_vol": "implied_volatility", "delta": "delta", "gamma": "gamma", "vega": "vega",
            "theta": "theta", "rho": "rho",
        }  # fmt: skip
        for ours, theirs in sums.items():
            assert pc.sum(table.column(ours)).as_py() == pytest.approx(want[f"sum_{theirs}"], abs=1e-5)


async def test_option_minutes_equal_the_recording(recordings, truth, replay):
    """A zip of contracts is one sequence in order of time, and its bars and open interest sum up to the truth."""
    for name in (n for folder in ("minute_aapl", "minute_twx") for n in named(truth, f"options/{folder}")):
        want, given = truth[name], await replay(recordings / name)
        assert len({b.source_id for b in given.batches}) == 1
        assert (np.diff(np.concatenate([b.data.column("ts_event") for b in given.batches])) >= 0).all()
        assert len(set(given.symbols)) == want["contracts"]
        assert len({symbol[6:12] for symbol in given.symbols}) == want["expiries"]
        if "openinterest" in name:
            table = given.table(Kind.OPTIONS)
            assert table.num_rows == want["rows"]
            assert pc.sum(table.column("open_interest")).as_py() == want["sum_volume_or_sizes_or_oi"]
            continue
        table = given.table(Kind.BARS)
        assert ints(table.column("close"), 1e4) == want["sum_close_int"]
        if "quote" in name:
            # A minute in which there was neither bid nor ask is a row without a bar.
            assert {reason for _, reason in given.quarantine} <= {"no prices at all"}
            # Each row has two places, and the last row both sides or one.
            assert (given.batches[-1].offset + 1) // 2 == want["rows"]
        else:
            assert table.num_rows == want["rows"]
            assert pc.sum(table.column("volume")).as_py() == want["sum_volume_or_sizes_or_oi"]
