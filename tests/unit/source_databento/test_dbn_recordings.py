"""Recorded DBN files of every schema and version against databento-dbn's own decoder and the established truth."""

from __future__ import annotations

import json

import numpy as np
import pytest
from dbn_oracle import by_kind, decoded, expected, take

from market_data_core.batch import EventBatch, Instruments
from market_data_core.errors import SourceError
from market_data_core.protocols import END_OF_TIME_NS, Mark
from market_data_core.schemas import EVENT_SCHEMAS, Kind, Origin
from market_data_pipeline.operators import Bars
from market_data_pipeline.source.databento import DatabentoSource, is_dbn

pytestmark = pytest.mark.recordings

MINUTE = 60_000_000_000
NAUTILUS = "dbn/nautilus"
TRADES = f"{NAUTILUS}/futures_trades_2024-07-01T23-58_2024-07-02T00-02.dbn.zst"
TOPS = f"{NAUTILUS}/futures_mbp-1_2024-07-01T23-58_2024-07-02T00-02.dbn.zst"
MINUTES = f"{NAUTILUS}/futures_ohlcv-1m_2024-07-01T23-40_2024-07-02T00-10.dbn.zst"
ORDERS = f"{NAUTILUS}/orderbooks_mbo_2024-05-08T00-00-00_2024-05-08T00-00-02.dbn.zst"
# A fragment does not say its version; databento-dbn must be told it.
VERSIONS = {"definition.v1.dbn": 1, "definition.v2.dbn": 2, "definition.dbn": 2, "definition.v3.dbn": 3}


@pytest.fixture(scope="module")
def truth(recordings):
    return json.loads((recordings / "truth.json").read_text())


def version_of(path):
    """The version of a fragment; None of a whole file."""
    if ".frag" not in path.suffixes:
        return None
    return next(version for part, version in VERSIONS.items() if part in path.name)


async def test_every_file_gives_what_its_own_decoder_finds(recordings, truth):
    """All columns of all rows of all files are those that databento-dbn's records lead to, one by one."""
    paths = sorted(p for p in (recordings / "dbn").rglob("*") if is_dbn(p) and p.is_file() and p.suffix != ".dbz")
    assert len(paths) > 70
    for path in paths:
        metadata, records = decoded(path.read_bytes(), fragment_version=version_of(path))
        known = truth.get(str(path.relative_to(recordings)))
        if known:
            assert len(records) == known["records"], path
        given = await take(DatabentoSource(path))
        wanted = [row for record in records for row in expected(metadata, record)]
        assert by_kind(given.rows()) == by_kind(wanted), path
        assert [m.offset for m in given.marks] == [len(wanted) + 1] * bool(records), path


async def test_the_legacy_format_is_refused(recordings, replay):
    """Every legacy file is refused with its name and what to do."""
    paths = sorted((recordings / "dbn").rglob("*.dbz"))
    assert len(paths) == 10
    for path in paths:
        with pytest.raises(SourceError, match=rf"{path.name} .*legacy format DBZ.*convert"):
            await replay(path)


def ints(values):
    return np.rint(np.array(values, float) * 1e9).astype(np.int64)


async def test_sums_are_those_of_the_truth(recordings, truth, replay):
    """Counts, sums of prices and sizes, sides and times equal what was established independently."""
    want = truth[TRADES]
    rows = (await replay(recordings / TRADES)).values(Kind.TRADES, "price", "size", "aggressor_side", "ts_event")
    prices, sizes, sides, times = zip(*rows, strict=True)
    assert (len(rows), ints(prices).sum(), sum(sizes)) == (
        want["records"],
        want["sum_price_1e9_excl_undef"],
        want["sum_size"],
    )
    assert (sides.count("buy"), sides.count("sell")) == (want["sides"]["B"], want["sides"]["A"])
    assert (times[0], times[-1]) == (want["first_ts_event"], want["last_ts_event"])
    tops = await replay(recordings / TOPS)
    assert len(tops.rows(Kind.QUOTES)) == truth[TOPS]["records"]
    assert tops.values(Kind.TRADES, "price", "size", "aggressor_side", "ts_event") == rows
    bars = (await replay(recordings / MINUTES)).rows(Kind.BARS)
    sums = {name: ints([b[name] for _, b in bars]).sum() for name in ("open", "high", "low", "close")}
    sums["volume"] = int(sum(b["volume"] for _, b in bars))
    assert sums == truth[MINUTES]["ohlcv_sums"]


async def test_orders_build_the_true_book(recordings, truth, replay):
    """The book that the orders' rows build in the end is the true one."""
    want = truth[ORDERS]["mbo_book_end"]
    orders = {}
    for _, row in (await replay(recordings / ORDERS)).rows(Kind.DEPTH):
        key, action = row["order_id"], row["action"]
        if action == "clear":
            orders.clear()
        elif action in {"add", "modify"}:
            orders[key] = [row["side"], row["price"], row["size"]]
        elif action == "cancel":
            orders[key][2] -= row["size"]
            if orders[key][2] <= 0:
                del orders[key]
    levels = {"bid": {}, "ask": {}}
    for side, price, size in orders.values():
        levels[side][price] = levels[side].get(price, 0) + size
    best = {"bid": max(levels["bid"]), "ask": min(levels["ask"])}
    assert len(orders) == want["orders"]
    for side in ("bid", "ask"):
        assert len(levels[side]) == want[f"{side}_levels"]
        assert [round(best[side] * 1e9), levels[side][best[side]]] == want[f"best_{side}"]
        assert sum(levels[side].values()) == want[f"sum_{side}_size"]


def as_events(batch, seq):
    """A source's batch as the log would number it."""
    columns = {n: batch.data.column(n) for n in batch.data.schema.names} | {"seq": np.arange(len(batch.data)) + seq}
    data = type(batch.data).from_pydict(columns, schema=EVENT_SCHEMAS[batch.kind])
    table = Instruments(batch.instruments)
    return EventBatch(kind=batch.kind, data=data, instruments=table, origin=Origin.REPLAY, source_id=batch.source_id)


@pytest.mark.parametrize("name", [TRADES, TOPS])
async def test_trades_make_the_vendors_minute_bars(recordings, replay, name):
    """Bars that our operator makes of the recorded trades equal the vendor's own, every value of every minute."""
    op, seq, made = Bars("1m"), 0, []
    given = await replay(recordings / name, batch_rows=17)
    for batch in given.batches:
        if batch.kind is Kind.TRADES:
            assert op.process(as_events(batch, seq)).late == 0
        seq += len(batch.data)
        made += op.barrier(seq, 0).out
    (mark,) = given.marks
    op.advance(Mark(vendor=mark.vendor, ts_ns=END_OF_TIME_NS, source_id=mark.source_id))
    made += op.barrier(seq, 0).out
    names = ("ts_event", "symbol", "open", "high", "low", "close", "volume")
    ours = [tuple(row[n] for n in names) for b in made for row in b.to_table().to_pylist()]
    theirs = (await replay(recordings / MINUTES, symbols=["ESU4"])).values(Kind.BARS, *names)
    first, last = ours[0][0], ours[-1][0]
    assert len(ours) == (last - first) // MINUTE + 1 == 4
    assert ours == [bar for bar in theirs if first <= bar[0] <= last]
