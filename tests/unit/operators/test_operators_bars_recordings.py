from __future__ import annotations

import datetime as dt
import hashlib
import json
import zipfile
from zoneinfo import ZoneInfo

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pytest

from market_data_core.batch import EventBatch, Instrument, Instruments
from market_data_core.protocols import END_OF_TIME_NS, Mark
from market_data_core.schemas import EVENT_SCHEMAS, Kind, Origin
from market_data_pipeline.operators import Bars

pytestmark = pytest.mark.recordings

ROWS = 8192
SYMBOLS = ("bac", "ibm")
TRADES = ("ms", "price", "size", "exchange", "conditions", "suspicious")
QUOTES = ("ms", "bid_price", "bid_size", "ask_price", "ask_size", "exchange", "conditions", "suspicious")


def read(path):
    """A day of ticks in event columns: UTC times, prices in dollars, a side of 0 absent."""
    kind, names = (Kind.TRADES, TRADES) if "_trade" in path.name else (Kind.QUOTES, QUOTES)
    with zipfile.ZipFile(path) as archive, archive.open(archive.namelist()[0]) as file:
        table = pa.csv.read_csv(file, pa.csv.ReadOptions(column_names=names))
    midnight = dt.datetime.strptime(path.name[:8], "%Y%m%d").replace(tzinfo=ZoneInfo("America/New_York"))
    ts = int(midnight.timestamp()) * 10**9 + table["ms"].to_numpy().astype(np.int64) * 10**6
    columns = {"ts_event": ts, "ts_recv": ts}
    for name in names:
        if name.endswith(("price", "size")):
            values = table[name].to_numpy() / (10_000 if name.endswith("price") else 1)
            columns[name] = pa.array(values, mask=values == 0) if kind is Kind.QUOTES else pa.array(values)
    return kind, columns


def batches(path, seq):
    """The day in batches under one source of its own."""
    kind, columns = read(path)
    rows = len(columns["ts_event"])
    columns |= {"seq": np.arange(seq, seq + rows)}
    zeros = pa.array(np.zeros(rows, np.int32))
    arrays = [
        pa.array(columns[f.name]) if f.name in columns else pa.nulls(rows, f.type) if f.nullable else zeros
        for f in EVENT_SCHEMAS[kind]
    ]
    data = pa.RecordBatch.from_arrays(arrays, schema=EVENT_SCHEMAS[kind])
    table = Instruments([Instrument(vendor="lean", symbol=path.parent.name, price_decimals=4, size_decimals=0)])
    for at in range(0, rows, ROWS):
        yield EventBatch(
            kind=kind, data=data.slice(at, ROWS), instruments=table, origin=Origin.REPLAY, source_id=path.name
        )


def bar_rows(paths, op):
    """(start, o, h, l, c, v, n) as the ground truth writes them, by file, with a barrier after every batch."""
    seq, found = 0, {}
    for path in paths:
        out = []
        for batch in batches(path, seq):
            seq += len(batch)
            assert op.process(batch).late == 0
            out += op.barrier(seq, 0).out
        op.advance(Mark(vendor="lean", ts_ns=END_OF_TIME_NS, source_id=path.name))
        out += op.barrier(seq, 0).out
        assert op.in_flight() == 0
        bars = pa.concat_tables([b.to_table() for b in out])
        assert set(bars["revision"].to_pylist()) == {0}
        prices = [np.rint(bars[c].to_numpy() * 10_000).astype(np.int64) for c in ("open", "high", "low", "close")]
        counts = bars["trade_count"].to_numpy()
        volume = counts if op.what != "TRADES" else bars["volume"].to_numpy().astype(np.int64)
        found[path.name] = np.column_stack([bars["ts_event"].to_numpy(), *prices, volume, counts])
    return found


def sha256_csv(rows):
    text = "".join(",".join(map(str, row)) + "\n" for row in rows.tolist())
    return hashlib.sha256(text.encode("ascii")).hexdigest()


@pytest.fixture(scope="module")
def truth(recordings):
    return json.loads((recordings / "truth.json").read_text())


@pytest.mark.parametrize("interval", ["1m", "1s", "5m"])
@pytest.mark.parametrize("symbol", SYMBOLS)
def test_bars_of_recorded_trades_are_those_of_the_ground_truth(recordings, truth, symbol, interval):
    """Every digit of every bar of every day, and of all days in a row."""
    paths = sorted((recordings / "equity_ticks" / symbol).glob("*_trade.zip"))
    found = bar_rows(paths, Bars(interval))
    key = f"equity_ticks/{symbol}"
    assert len(paths) == 5
    assert {name: sha256_csv(rows) for name, rows in found.items()} == {
        path.name: truth[f"{key}/{path.name}"][f"bars_{interval}"]["sha256_csv"] for path in paths
    }
    together = truth[f"{key}/*_trade.zip"]
    if f"bars_{interval}" in together:
        assert sha256_csv(np.concatenate(list(found.values()))) == together[f"bars_{interval}"]["sha256_csv"]


@pytest.mark.parametrize("side", ["BID", "ASK"])
def test_bars_of_recorded_quotes_take_their_side_alone(recordings, truth, side):
    """Each row of the recording carries one side; the other is no event of the bar."""
    paths = sorted((recordings / "equity_ticks" / "ibm").glob("*_quote.zip"))
    found = bar_rows(paths, Bars("1m", what=side))
    assert {name: sha256_csv(rows) for name, rows in found.items()} == {
        path.name: truth[f"equity_ticks/ibm/{path.name}"][f"{side.lower()}_bars_1m"]["sha256_csv"] for path in paths
    }
