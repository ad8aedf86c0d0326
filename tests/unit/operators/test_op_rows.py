"""Filter, map, router and the per-event step: what goes in comes out at once."""

from __future__ import annotations

import math

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from op_drive import Ports, values
from operator_events import BASE, Quote, Trade, batch_of, trades

from market_data_core import models
from market_data_core.batch import EventBatch, Instruments
from market_data_core.errors import ConfigurationError
from market_data_core.schemas import EVENT_SCHEMAS, Flag, Kind
from market_data_pipeline.operators.filter import Filter
from market_data_pipeline.operators.map import Map
from market_data_pipeline.operators.per_event import PerEvent
from market_data_pipeline.operators.router import Router

FIVE = [Trade(n, price=float(n), size=10.0 * n, symbol="XY"[n % 2]) for n in range(5)]


@settings(deadline=None)
@given(st.lists(trades()))
def test_a_filter_keeps_what_its_condition_holds_for(events):
    """In order; the others are counted as filtered."""
    drive = Ports(lambda: Filter(where="size >= 5 and symbol == 'X'")).run([events] if events else [])
    kept = [n for n, e in enumerate(events) if e.size >= 5 and e.symbol == "X"]
    assert [r["seq"] for r in drive.rows] == kept
    assert drive.counts["filtered"] == len(events) - len(kept)


def test_kinds_without_the_columns_go_past_a_filter():
    """So one graph can have quotes and trades."""
    assert Filter(where="size > 0").kinds == {Kind.TRADES, Kind.TAQ, Kind.DEPTH}
    assert Filter(where="size > 0", kind="trades").kinds == {Kind.TRADES}


@pytest.mark.parametrize(
    ("make", "problem"),
    [
        (lambda: Filter(where="size"), "f'?ilter 'size' gives number; a condition"),
        (lambda: Filter(where="size > 0", kind="quotes"), "quotes have no column 'size'"),
        (lambda: Filter(where="size > 0", kind="ticks"), "kind 'ticks' is none of analytics"),
        (lambda: Filter(where=3), "is no expression"),
        (lambda: Map(name="m"), "m: give either set or analytics"),
        (lambda: Map(set={"price": "1.0"}, analytics={"a": "price"}), "either set or analytics"),
        (lambda: Map(set={}), "either set or analytics"),
        (lambda: Map(set={"ts_event": "ts_event + 1"}), "'ts_event' is no column that can be set"),
        (lambda: Map(set={"symbol": "'A'"}), "'symbol' is no column that can be set"),
        (lambda: Map(set={"price": "symbol"}), "gives text, number is needed"),
        (lambda: Map(set={"level": "level / 2"}), "gives number, whole number is needed"),
        (lambda: Map(set={"price": "bid_price", "open": "1.0"}), "no kind has all columns to set"),
        (lambda: Map(set={"price": "size"}, kind="quotes"), "quotes lack a column of price, size"),
        (lambda: Map(analytics={"up": "price > 1"}), "gives truth, whole number is needed"),
        (lambda: Router(routes={}), "at least one route"),
        (lambda: Router(routes={"a": "size > 1"}, otherwise="keep"), "neither pass nor drop"),
        (lambda: Router(routes={"a": "size > 1", "b": "sise > 1"}), "router route b 'sise > 1': no column"),
        (lambda: PerEvent(transform=object()), "has no method process"),
        (lambda: PerEvent(Async()), "is asynchronous"),
        (lambda: PerEvent(AsyncGiving()), "is asynchronous"),
        (lambda: PerEvent(Step(list), kinds=["depth"]), "kinds are some of bars, quotes, trades"),
    ],
)
def test_wrong_settings_are_refused(make, problem):
    """The message says which and what is allowed."""
    with pytest.raises(ConfigurationError, match=problem):
        make()


def test_a_map_sets_columns_from_the_row_as_it_came():
    """All at once, not one after the other; what has no value is null."""
    drive = Ports(lambda: Map(set={"price": "size / price", "size": "price * 2", "exchange": "'N'"})).run([FIVE])
    assert [(r["price"], r["size"], r["exchange"]) for r in drive.rows] == [
        (None, 0.0, "N"),
        *((10.0, 2.0 * n, "N") for n in range(1, 5)),
    ]
    assert [r["seq"] for r in drive.rows] == [0, 1, 2, 3, 4]
    assert drive.passed == 5


def test_a_map_sets_whole_numbers_and_what_does_not_fit_is_null():
    """A level is an int32; a sequence that is absent stays absent."""
    trade = batch_of([Trade(0)] * 3, instruments=Instruments())
    columns = {
        **dict(zip(trade.data.schema.names, trade.data.columns, strict=True)),
        "level": pa.array([1, 2**31 - 1, None], pa.int32()),
        "sequence": pa.array([7, None, 9], pa.int64()),
    }
    schema = EVENT_SCHEMAS[Kind.DEPTH]
    data = pa.RecordBatch.from_arrays([columns.get(f.name, pa.nulls(3, f.type)) for f in schema], schema=schema)
    depth = EventBatch(kind=Kind.DEPTH, data=data, instruments=trade.instruments, origin=trade.origin)
    result = Map(set={"level": "level + 1", "sequence": "max(sequence, 8)", "price": "level", "side": "'bid'"}).process(
        depth
    )
    rows = result.out[0].data.select(["level", "sequence", "price", "side"]).to_pylist()
    assert [tuple(row.values()) for row in rows] == [
        (2, 8, 1.0, "bid"),
        (None, None, 2.0**31 - 1, "bid"),
        (None, 9, None, "bid"),
    ]
    assert result.out[0].data.schema == schema


def test_a_map_gives_named_values_row_by_row():
    """In the order of names; a value that is null gives no row, and a row that gives none is filtered."""
    events = [Quote(0, 1.0, 2.0), Quote(5, None, 2.0), Quote(7, None, None)]
    drive = Ports(lambda: Map(analytics={"mid": "(bid_price + ask_price) / 2", "ask": "ask_price"})).run([events])
    assert values(drive) == {("X", BASE, "mid"): 1.5, ("X", BASE, "ask"): 2.0, ("X", BASE + 5, "ask"): 2.0}
    assert [(r["name"], r["seq"]) for r in drive.rows] == [("mid", 0), ("ask", 0), ("ask", 1)]
    assert (drive.counts["absorbed"], drive.counts["filtered"], drive.passed) == (2, 1, 0)


def test_what_a_map_says_it_gives():
    """Named values take the place of the kind they are made of."""
    both = frozenset({Kind.QUOTES, Kind.TRADES})
    assert Map(analytics={"a": "price"}).gives(both) == {Kind.ANALYTICS}
    assert Map(set={"price": "1"}).gives(both) == both


@settings(deadline=None)
@given(st.lists(trades(), min_size=1))
def test_the_first_route_that_holds_takes_a_row(events):
    """The others come out of the default output."""
    routes = {"big": "size >= 10", "y": "symbol == 'Y'", "none": "size < 0"}
    drive = Ports(lambda: Router(routes=routes)).run([events])
    found = {port: [r["seq"] for r in rows] for port, rows in {**drive.ports, "": drive.rows}.items()}
    expected = {"": []}
    for n, e in enumerate(events):
        expected.setdefault("big" if e.size >= 10 else "y" if e.symbol == "Y" else "", []).append(n)
    assert found == expected
    assert drive.op.ports == ("big", "y", "none")


def test_rows_without_a_route_are_dropped_where_that_is_said():
    """And counted."""
    drive = Ports(lambda: Router(routes={"big": "size >= 20"}, otherwise="drop")).run([FIVE])
    assert (drive.rows, drive.counts["filtered"], len(drive.ports["big"])) == ([], 2, 3)


def test_routes_may_be_about_different_kinds():
    """A route takes no rows of a kind that lacks its columns."""
    make = lambda: Router(routes={"up": "price > 0", "tight": "ask_price - bid_price < 1"})  # noqa: E731
    drive = Ports(make).run([Trade(0), Quote(0, 1.0, 1.5), Quote(0, 1.0, 9.0)])
    assert [len(drive.ports[p]) for p in ("up", "tight")] == [1, 1]
    assert [r["ask_price"] for r in drive.rows] == [9.0]


class Step:
    """A user's step made of a function."""

    def __init__(self, function):
        self.function = function
        self.seen = []

    def process(self, value):
        self.seen.append(value)
        return self.function(value)


class Async:
    """Written as for an event loop."""

    async def process(self, value):
        return [value]


class AsyncGiving:
    """Likewise."""

    async def process(self, value):
        yield value


def test_a_step_sees_values_and_passes_the_same_object_with_all_its_columns():
    """Conditions, ids and flags that it did not touch stay."""
    step = Step(lambda value: [value] if value.price > 2 else [])
    events = [Trade(n, price=float(n), trade_id=str(n), flags=int(Flag.CROSSED)) for n in range(5)]
    drive = Ports(lambda: PerEvent(step)).run([events])
    assert [type(v) for v in step.seen] == [models.Trade] * 5
    assert [(r["trade_id"], r["flags"]) for r in drive.rows] == [("3", Flag.CROSSED), ("4", Flag.CROSSED)]
    assert (drive.passed, drive.counts["filtered"]) == (2, 3)


def test_new_values_are_new_rows_of_the_event_they_were_made_of():
    """With its receive time and seq; an instrument the log does not know is one of the same vendor."""

    def quote(value):
        return (models.Quote.from_ns(value.ts_event_ns + 1, symbol="NEW", bid=value.price),)

    drive = Ports(lambda: PerEvent(Step(quote))).run([[Trade(0, price=7.0, ts_recv=9), Trade(3, price=8.0)]])
    assert [(r["vendor"], r["symbol"], r["ts_event"] - BASE, r["seq"], r["bid_price"]) for r in drive.rows] == [
        ("v", "NEW", 1, 0, 7.0),
        ("v", "NEW", 4, 1, 8.0),
    ]
    assert [r["ts_recv"] - BASE for r in drive.rows] == [9, 3]
    assert (drive.passed, drive.counts["absorbed"]) == (0, 2)


def test_a_value_may_pass_and_be_copied():
    """It passes once, and is a new row each further time; events keep their order."""
    drive = Ports(lambda: PerEvent(Step(lambda v: [v, v]))).run([[Trade(0, trade_id="1"), Trade(1, trade_id="2")]])
    assert [r["trade_id"] for r in drive.rows] == ["1", "1", "2", "2"]
    assert (drive.passed, drive.counts["absorbed"]) == (2, 0)


def raising(value):
    raise KeyError("no such table")


def failing_late(value):
    yield value
    raise KeyError("no such table")


async def coroutine(value):
    return [value]


@pytest.mark.parametrize(
    ("function", "problem"),
    [
        (raising, "KeyError: 'no such table'"),
        (failing_late, "KeyError: 'no such table'"),
        (lambda v: [1.0], "process returned float, which is no quote, trade or bar"),
        (lambda v: 3, "TypeError: 'int' object is not iterable"),
        (coroutine, "something to be awaited"),
        (lambda v: [models.Trade.from_ns(v.ts_event_ns, symbol="X", price="much", size=1.0)], "does not fit double"),
    ],
)
def test_what_goes_wrong_in_a_step_costs_the_one_event(function, problem):
    """It is counted, the reason is kept, and the others go on."""
    step = Step(lambda v: function(v) if v.price == 1 else [v])
    drive = Ports(lambda: PerEvent(step)).run([FIVE])
    assert [r["price"] for r in drive.rows] == [0.0, 2.0, 3.0, 4.0]
    assert drive.counts["failed"] == 1
    assert problem in drive.op.problem


def test_events_without_a_value_are_filtered():
    """A trade without a size cannot be shown to the step."""
    step = Step(lambda v: [v])
    drive = Ports(lambda: PerEvent(step)).run([[Trade(0, size=None), Trade(1, price=math.nan), Trade(2)]])
    assert (len(step.seen), drive.passed, drive.counts["filtered"]) == (1, 1, 2)


def test_a_step_without_state_keeps_its_last_problem_over_a_restart():
    """Whoever looks later can still see it."""
    drive = Ports(lambda: PerEvent(Step(raising))).run([Trade(0)])
    drive.restart()
    assert drive.op.problem == "KeyError: 'no such table'"
