"""The platform's own rows, through every format and container and back."""

from __future__ import annotations

import io
import json
import zipfile

import numpy as np
import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from market_data_core.schemas import TABLE_SCHEMAS, Flag, Kind

price = st.floats(-1e9, 1e9, allow_nan=False)
maybe_price = st.none() | price
text = st.none() | st.text("abcXYZ019 ,'\"é;", min_size=1, max_size=6)
common = {
    "vendor": st.sampled_from(["T", "other"]),
    "symbol": st.sampled_from(["ABC", "XY.Z", "É"]),
    "ts_event": st.integers(0, 4 * 10**18),
    "ts_recv": st.integers(0, 4 * 10**18),
    "seq": st.integers(0, 10**12),
    "flags": st.sampled_from([0, int(Flag.SUSPICIOUS), int(Flag.LAST | Flag.TOB)]),
    "origin": st.just("live"),
}
own = {
    Kind.TRADES: {
        "price": price,
        "size": price,
        **dict.fromkeys(("exchange", "conditions", "trade_id", "aggressor_side"), text),
    },
    Kind.QUOTES: dict.fromkeys(("bid_price", "bid_size", "ask_price", "ask_size"), maybe_price),
}


def encode(rows, kind, how):
    table = pa.Table.from_pylist(rows, schema=TABLE_SCHEMAS[kind])
    if how == "ndjson":
        return "".join(json.dumps(r) + "\n" for r in rows).encode()
    buffer = io.BytesIO()
    if how == "csv":
        pacsv.write_csv(table, buffer)
    else:
        pq.write_table(table, buffer, row_group_size=3)
    return buffer.getvalue()


@pytest.mark.parametrize("container", ["", "gz", "zip"])
@pytest.mark.parametrize("how", ["csv", "ndjson", "parquet"])
@pytest.mark.parametrize("kind", [Kind.TRADES, Kind.QUOTES])
@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
async def test_rows_come_back_as_they_were(packed, replay, *, kind, how, container, data):
    """An export of the platform's tables replays to the same events, in every format and container."""
    rows = data.draw(st.lists(st.fixed_dictionaries({**common, **own[kind]}), min_size=1, max_size=12))
    path = packed(container, f"{kind}.{how}", encode(rows, kind, how))
    found = await replay(path, layout=f"platform_{kind}")
    assert found.quarantine == []
    kept = ["ts_event", "flags", *own[kind]]
    assert [(v, s, {n: r[n] for n in kept}) for _, v, s, _, r in found.rows()] == [
        (r["vendor"], r["symbol"], {n: r[n] for n in kept}) for r in rows
    ]
    assert {r[-1]["ts_recv"] for r in found.rows()} == {0}
    vendors = list(dict.fromkeys(r["vendor"] for r in rows))
    assert [(m.vendor, m.offset) for m in found.marks] == [(v, len(rows) + 1 + i) for i, v in enumerate(vendors)]


async def test_every_member_of_a_zip_is_a_sequence(tmp_path, replay):
    """Members that fit are read each for itself, under names of their own; others are left alone."""
    path = tmp_path / "trades.zip"
    with zipfile.ZipFile(path, "w") as z:
        for name in ("b/trades.csv", "a/trades.csv", "readme.txt"):
            z.writestr(name, f"vendor,symbol,ts_event,price,size\nT,{name[0]},1,1,1\n")
    found = await replay(path)
    assert found.symbols == ["A", "B"]
    assert [b.source_id.split("#")[1] for b in found.batches] == [f"{m}/trades.csv:platform_trades" for m in "ab"]
    assert len({b.source_id.split("#")[0] for b in found.batches}) == 1


async def test_lean_flags_and_scales(lean_file, replay):
    """Prices are scaled exactly, the vendor's own doubt becomes a flag, the symbol is that of the path."""
    path = lean_file("trade", ["0,1387001,500,D,20000020,1", "1,-1,7,N,,0"])
    (first, second) = (await replay(path)).rows()
    assert first[1:3] == ("lean", "ABC")
    assert (first[-1]["price"], first[-1]["flags"], first[-1]["conditions"]) == (138.7001, Flag.SUSPICIOUS, "20000020")
    assert (second[-1]["price"], second[-1]["flags"], second[-1]["conditions"]) == (-0.0001, 0, None)


async def test_instruments_carry_their_steps(lean_file, replay):
    """Instruments say the decimals that the layout declares."""
    given_ = await replay(lean_file("trade", ["0,1,1,D,0,0"]))
    assert [(i.price_decimals, i.size_decimals) for i in given_.batches[0].instruments] == [(4, 0)]


async def test_windows_line_ends_and_byte_order_marks(tmp_path, replay):
    """Files from elsewhere read the same."""
    path = tmp_path / "trades.csv"
    path.write_bytes(b"\xef\xbb\xbfvendor,symbol,ts_event,price,size\r\nT,A,1,1.5,10\r\nT,A,2,1.5,10\r\n")
    given_ = await replay(path)
    assert given_.values(Kind.TRADES, "ts_event", "size") == [(1, 10.0), (2, 10.0)]


async def test_parquet_timestamps_with_a_zone(tmp_path, replay):
    """A column of real timestamps is read for what it is."""
    path = tmp_path / "trades.parquet"
    times = pa.array([1, 2], pa.timestamp("ns", "America/New_York"))
    names = pa.array(["A", "A"]).dictionary_encode()
    pq.write_table(
        pa.table(
            {"vendor": names, "symbol": names, "ts_event": times, "price": np.ones(2, np.float32), "size": [1, 2]}
        ),
        path,
    )
    given_ = await replay(path)
    assert given_.values(Kind.TRADES, "ts_event", "price", "size") == [(1, 1.0, 1.0), (2, 1.0, 2.0)]


async def test_order_by_time_is_stable(trades_csv, replay):
    """Sorted by time, rows of one time keep their order, and a bad row stays behind its neighbour."""
    lines = ["T,A,3,1,1", "T,A,3,1,2", "T,A,1,1,3", "bad", "T,A,3,1,4", "T,A,2,1,5"]
    path = trades_csv(lines)
    layout = path.parent / "sorted.yaml"
    layout.write_text(
        "name: s\nvendor: v\nkind: trades\nformat: csv\norder: time\ntime: {column: ts_event, unit: ns}\n"
        "symbol: {column: symbol}\ncolumns: {price: price, size: size}\n"
    )
    given_ = await replay(path, layout=layout)
    assert [r[-1].get("size") or r[-1]["line"] for r in given_.rows()] == [3.0, 5, 5.0, 1.0, 2.0, 4.0]
