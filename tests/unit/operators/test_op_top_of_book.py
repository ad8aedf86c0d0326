from __future__ import annotations

import gzip
import hashlib
import json
import pickle
from decimal import Decimal

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from op_steps import BARRIER, BASE, Event, Steps, end, split, stopped

from market_data_core.batch import EventBatch, Instrument, Instruments
from market_data_core.errors import ConfigurationError
from market_data_core.schemas import EVENT_SCHEMAS, Flag, Kind, Origin
from market_data_pipeline.operators.top_of_book import TopOfBook

LAST = int(Flag.LAST)
CROSSED = int(Flag.CROSSED)
DOUBTFUL = int(Flag.MAYBE_BAD_BOOK)


def level(side, price, size, *, last=True, action="set", ts=0, flags=0, **rest):
    """A level's new size."""
    values = {"action": action, "side": side, "price": price, "size": size}
    return Event(Kind.DEPTH, ts, values, flags=flags | LAST * last, **rest)


def order(action, order_id, side=None, price=None, size=None, *, last=True, ts=0, **rest):
    """What happens to an order."""
    values = {"action": action, "order_id": order_id, "side": side, "price": price, "size": size}
    return Event(Kind.DEPTH, ts, values, flags=LAST * last, **rest)


def clear(side=None, *, last=False):
    """Nothing stands any more."""
    return Event(Kind.DEPTH, 0, {"action": "clear", "side": side}, flags=int(Flag.SNAPSHOT) | LAST * last)


def tops(steps):
    """(bid, size, ask, size) of what came out."""
    return [tuple(r[n] for n in ("bid_price", "bid_size", "ask_price", "ask_size")) for r in steps.rows]


def test_a_quote_is_given_when_the_best_of_a_side_changes():
    """Its price or its size; what happens behind it gives none."""
    script = [
        level("bid", 10.0, 1.0),
        level("ask", 12.0, 2.0),
        level("bid", 9.0, 5.0),
        level("bid", 10.0, 3.0),
        level("bid", 11.0, 4.0),
        level("bid", 11.0, 0.0),
        level("ask", 12.0, None, action="delete"),
    ]
    steps = Steps(TopOfBook).run([script])
    assert tops(steps) == [
        (10.0, 1.0, None, None),
        (10.0, 1.0, 12.0, 2.0),
        (10.0, 3.0, 12.0, 2.0),
        (11.0, 4.0, 12.0, 2.0),
        (10.0, 3.0, 12.0, 2.0),
        (10.0, 3.0, None, None),
    ]
    assert steps.counts["absorbed"] == len(script)


def test_a_quote_is_given_of_complete_updates_only():
    """It has the times, the seq and the flags of the update; the rows before are in flight."""
    snapshot = int(Flag.SNAPSHOT)
    steps = Steps(TopOfBook).run([level("bid", 10.0, 1.0, last=False, ts=1, flags=snapshot)])
    assert (steps.rows, steps.op.in_flight()) == ([], 1)
    steps.run([level("bid", 11.0, 1.0, last=False, ts=1), level("ask", 12.0, 2.0, ts=2)])
    assert tops(steps) == [(11.0, 1.0, 12.0, 2.0)]
    (row,) = steps.rows
    assert (row["ts_event"], row["ts_recv"], row["seq"], row["flags"]) == (BASE + 2, BASE + 3, 2, LAST | snapshot)
    assert steps.op.gives(frozenset({Kind.DEPTH})) == {steps.out[0].kind}


def test_a_crossed_book_is_flagged():
    """Locked is not crossed."""
    steps = Steps(TopOfBook).run([level("bid", 10.0, 1.0), level("ask", 10.0, 1.0), level("ask", 9.0, 1.0)])
    assert [r["flags"] & CROSSED for r in steps.rows] == [0, 0, CROSSED]


def test_a_snapshot_replaces_the_book():
    """What it does not name is gone."""
    old = [level("bid", 10.0, 1.0), level("ask", 12.0, 1.0)]
    steps = Steps(TopOfBook).run([*old, clear(), level("bid", 8.0, 1.0, last=False), level("ask", 9.0, 1.0)])
    assert tops(steps)[-1] == (8.0, 1.0, 9.0, 1.0)
    assert len(steps.rows) == 3
    assert tops(steps.run([clear("ask", last=True)]))[-1] == (8.0, 1.0, None, None)
    assert tops(steps.run([clear(last=True)]))[-1] == (None, None, None, None)


def test_a_price_has_the_sum_of_its_orders():
    """To the digit, however often orders come and go."""
    script = [
        order("add", "1", "bid", 10.0, 0.1),
        order("add", "2", "bid", 10.0, 0.2),
        order("add", "3", "ask", 11.0, 5.0),
        order("cancel", "1"),
        order("modify", "2", "bid", 10.5, 0.3),
        order("cancel", "3", "ask", 11.0, 2.0),
        order("cancel", "3", "ask", 11.0, 3.0),
    ]
    steps = Steps(TopOfBook).run([script])
    assert tops(steps) == [
        (10.0, 0.1, None, None),
        (10.0, 0.3, None, None),
        (10.0, 0.3, 11.0, 5.0),
        (10.0, 0.2, 11.0, 5.0),
        (10.5, 0.3, 11.0, 5.0),
        (10.5, 0.3, 11.0, 3.0),
        (10.5, 0.3, None, None),
    ]
    assert not any(r["flags"] & DOUBTFUL for r in steps.rows)


def test_executions_change_nothing():
    """The book's own messages follow them."""
    script = [
        order("add", "1", "bid", 10.0, 5.0),
        order("trade", "9", "ask", 10.0, 2.0),
        order("fill", "1", "bid", 10.0, 2.0),
    ]
    steps = Steps(TopOfBook).run([script])
    assert (len(steps.rows), steps.counts["filtered"]) == (1, 2)


def test_a_cancel_of_an_unknown_order_makes_the_book_doubtful_until_it_is_cleared():
    """Something was missed."""
    steps = Steps(TopOfBook).run([order("cancel", "7", "bid", 1.0, 1.0), order("add", "1", "bid", 10.0, 1.0)])
    steps.run([clear(), order("add", "1", "bid", 11.0, 1.0)])
    assert [r["flags"] & DOUBTFUL for r in steps.rows] == [DOUBTFUL, 0]


@pytest.mark.parametrize(
    "event",
    [
        level("bid", 10.0, 1.0, action="sort"),
        level(None, 10.0, 1.0),
        level("bid", None, 1.0),
        level("bid", float("nan"), 1.0),
        level("bid", 10.0, None),
        order("add", "1", "bid", 10.0),
    ],
)
def test_what_cannot_be_read_has_failed(event):
    """It is counted, and the book stays as it was."""
    steps = Steps(TopOfBook).run([event])
    assert (steps.rows, steps.counts["failed"]) == ([], 1)


def test_instruments_and_sources_have_books_of_their_own():
    """Two feeds of one instrument are two books."""
    script = [level("bid", 1.0, 1.0), level("bid", 2.0, 1.0, symbol="Y"), level("ask", 3.0, 1.0, source="b")]
    assert tops(Steps(TopOfBook).run(script))[-1] == (None, None, 3.0, 1.0)


def test_a_book_goes_with_its_source():
    """Rows of an update that was broken off are filtered out."""
    steps = Steps(TopOfBook).run([level("bid", 1.0, 1.0), level("bid", 2.0, 1.0, last=False), end(), BARRIER])
    assert (steps.op.in_flight(), steps.counts["filtered"]) == (0, 1)
    assert steps.op.snapshot()["kept"] == []
    assert tops(steps.run([level("ask", 5.0, 1.0)]))[-1] == (None, None, 5.0, 1.0)


def test_levels_that_come_and_go_are_not_remembered():
    """Behind the best price too, where nothing looks at them."""
    steps = Steps(TopOfBook).run([[level("bid", 100.0, 1.0), *(level("bid", 50.0, n % 2) for n in range(10_000))]])
    assert len(pickle.dumps(steps.op)) < 10_000


def test_a_quote_holds_one_level():
    """Other depths are refused."""
    with pytest.raises(ConfigurationError, match="depth 5"):
        TopOfBook(depth=5)


PRICES = st.integers(1, 6).map(float)
SIDES = st.sampled_from(["bid", "ask"])
SIZES = st.sampled_from([0.0, 0.1, 0.2, 7.0])
PLACES = {"symbol": st.sampled_from("XY"), "source": st.sampled_from("ab")}


def placed(event, symbol, source, last):
    return event._replace(symbol=symbol, source=source, flags=event.flags & ~LAST | LAST * last)


LEVELS = st.one_of(
    st.builds(level, SIDES, PRICES, SIZES),
    st.builds(level, SIDES, PRICES, SIZES, action=st.sampled_from(["delete", "trade", "odd"])),
    st.builds(clear, st.sampled_from([None, "bid", "ask"])),
)
ORDERS = st.one_of(
    st.builds(
        order,
        st.sampled_from(["add", "modify"]),
        st.sampled_from("123"),
        SIDES,
        PRICES,
        st.sampled_from([0.1, 0.2, 7.0]),
    ),
    st.builds(order, st.just("cancel"), st.sampled_from("123"), SIDES, PRICES, st.sampled_from([None, 0.1, 7.0])),
    st.builds(clear, st.sampled_from([None, "bid", "ask"])),
)


def books(rows):
    return st.builds(placed, rows, **PLACES, last=st.booleans())


@settings(deadline=None)
@given(st.lists(books(LEVELS), max_size=60))
def test_it_equals_a_naive_book(events):
    """The largest bid and the smallest ask after each complete update, where that is new."""
    steps = Steps(TopOfBook).run([events])
    book, given_, expected = {}, {}, []
    for e in events:
        sides = book.setdefault((e.symbol, e.source), {"bid": {}, "ask": {}})
        v = e.values
        if v["action"] == "clear":
            for side in [v["side"]] if v["side"] else ["bid", "ask"]:
                sides[side].clear()
        elif v["action"] in ("set", "delete"):
            sides[v["side"]].pop(v["price"], None)
            if v["action"] == "set" and v["size"]:
                sides[v["side"]][v["price"]] = v["size"]
        bid, ask = max(sides["bid"], default=None), min(sides["ask"], default=None)
        top = (bid, sides["bid"].get(bid), ask, sides["ask"].get(ask))
        if e.flags & LAST and top != given_.get((e.symbol, e.source), (None,) * 4):
            given_[e.symbol, e.source] = top
            expected.append(top)
    assert tops(steps) == expected


@settings(deadline=None)
@given(
    st.one_of(st.lists(books(LEVELS), max_size=40), st.lists(books(ORDERS), max_size=40)),
    st.lists(st.integers(1, 5), max_size=10),
    st.sets(st.integers(0, 40)),
    st.sets(st.integers(0, 40)),
)
def test_batches_barriers_and_restarts_change_nothing(events, cuts, stops, ends):
    """One by one, with state through JSON and other instrument ids in between, as all at once."""
    script = []
    for n, part in enumerate(split(events, cuts)):
        script += [part, BARRIER]
        script += [end("a")] if n in ends else []
    script += [end("a"), end("b"), BARRIER]
    whole = Steps(TopOfBook).run([s for s in script if s != BARRIER] + [BARRIER])
    parts = stopped(TopOfBook, script, stops)
    assert parts.rows == whole.rows
    assert parts.counts == whole.counts


def batches(columns, *, decimals, rows=8192):
    """Depth rows as a log gives them, in batches."""
    count = len(columns["action"])
    given_ = {
        "instrument": np.zeros(count, np.int32),
        "seq": np.arange(count),
        "ts_recv": columns["ts_event"],
        **columns,
    }
    schema = EVENT_SCHEMAS[Kind.DEPTH]
    arrays = [pa.array(given_[f.name], f.type) if f.name in given_ else pa.nulls(count, f.type) for f in schema]
    data = pa.RecordBatch.from_arrays(arrays, schema=schema)
    table = Instruments([Instrument(vendor="v", symbol="X", price_decimals=decimals, size_decimals=decimals)])
    for at in range(0, count, rows):
        yield EventBatch(
            kind=Kind.DEPTH, data=data.slice(at, rows), instruments=table, origin=Origin.REPLAY, source_id="r"
        )


def plain(number):
    return f"{Decimal(repr(number)).normalize():f}"


def recorded_levels(path):
    """A recorded feed as depth columns: its snapshot, and each update after that as one more."""
    columns = {n: [] for n in ("action", "side", "price", "size", "flags", "sequence", "ts_event")}

    def add(received, number, sides, *, fresh):
        rows = [("clear", None, None, None)] if fresh else []
        rows += [("set", side, float(p), float(q)) for side, levels in sides.items() for p, q in levels]
        for n, row in enumerate(rows, start=1):
            for column, value in zip(columns, (*row, LAST * (n == len(rows)), number, received), strict=True):
                columns[column].append(value)

    updates = []
    with gzip.open(path, "rt") as file:
        for line in file:
            received, text = line.split(" ", 1)
            message = json.loads(text)
            if "stream" not in message:
                since = message["lastUpdateId"]
                add(int(received), since, {"bid": message["bids"], "ask": message["asks"]}, fresh=True)
            elif "@depth" in message["stream"]:
                updates.append((int(received), message["data"]))
    for received, data in updates:
        if data["u"] > since:
            add(received, data["u"], {"bid": data["b"], "ask": data["a"]}, fresh=False)
    return columns


@pytest.mark.recordings
def test_recorded_levels_make_the_recorded_best_bid_and_ask(recordings):
    """Binance's snapshot and 3,449 updates: after each, price and size as the ground truth has them, by hash."""
    name = "crypto_l2/binance_spot_btcusdt_20240808.gz"
    truth = json.loads((recordings / "truth.json").read_text())[name]
    columns = recorded_levels(recordings / name)
    sequence = np.array(columns["sequence"])
    op, quotes = TopOfBook(), {}
    for batch in batches(columns, decimals=8):
        for out in op.process(batch).out:
            sides = (out.data.column(n).to_pylist() for n in ("bid_price", "bid_size", "ask_price", "ask_size"))
            quotes |= dict(zip(sequence[out.column("seq")].tolist(), zip(*sides, strict=True), strict=True))
    snapshot, *updates = dict.fromkeys(columns["sequence"])
    lines, top = [], quotes[snapshot]
    for number in updates:
        top = quotes.get(number, top)
        lines.append(f"{number},{','.join(map(plain, top))}\n")
    assert len(lines) == truth["depth_events_applied"]
    assert hashlib.sha256("".join(lines).encode()).hexdigest() == truth["bbo_series_sha256"]


@pytest.mark.recordings
def test_recorded_orders_make_the_recorded_book(recordings):
    """CME's E-mini future by order, 13,796 messages: orders, best bid and ask and all size at the end."""
    name = "dbn/nautilus/orderbooks_mbo_2024-05-08T00-00-00_2024-05-08T00-00-02.dbn.zst"
    truth = json.loads((recordings / "truth.json").read_text())[name]["mbo_book_end"]
    raw = pa.input_stream(str(recordings / name), compression="zstd").read()
    start = 8 + int.from_bytes(raw[4:8], "little")
    record = np.dtype(
        [
            ("head", "S8"),
            ("ts_event", "<i8"),
            ("order_id", "<u8"),
            ("price", "<i8"),
            ("size", "<u4"),
            ("flags", "u1"),
            ("channel", "u1"),
            ("action", "S1"),
            ("side", "S1"),
            ("ts_recv", "<i8"),
            ("delta", "<i4"),
            ("sequence", "<u4"),
        ]
    )
    rows = np.frombuffer(raw[start:], record)
    actions = {b"A": "add", b"C": "cancel", b"M": "modify", b"R": "clear", b"T": "trade", b"F": "fill", b"N": "none"}
    columns = {
        "action": [actions[a] for a in rows["action"].tolist()],
        "side": [{b"B": "bid", b"A": "ask"}.get(s) for s in rows["side"].tolist()],
        "price": pa.array(rows["price"] / 1e9, mask=rows["price"] == 2**63 - 1),
        "size": rows["size"].astype(float),
        "order_id": [str(i) for i in rows["order_id"].tolist()],
        "flags": rows["flags"].astype(np.int32),
        "sequence": rows["sequence"].astype(np.int64),
        "ts_event": rows["ts_event"],
    }
    op, quotes = TopOfBook(), []
    for batch in batches(columns, decimals=0):
        quotes += [row for out in op.process(batch).out for row in out.to_table().to_pylist()]
    last = quotes[-1]
    assert (last["bid_price"], last["bid_size"]) == (truth["best_bid"][0] / 1e9, truth["best_bid"][1])
    assert (last["ask_price"], last["ask_size"]) == (truth["best_ask"][0] / 1e9, truth["best_ask"][1])
    book = op.snapshot()["kept"][0][0]
    assert len(book["orders"]) == truth["orders"]
    assert [len(side) for side in book["levels"]] == [truth["bid_levels"], truth["ask_levels"]]
    assert [sum(s for _, s in side) for side in book["levels"]] == [truth["sum_bid_size"], truth["sum_ask_size"]]
    assert not book["doubtful"]
