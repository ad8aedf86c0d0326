"""Claims that hold for every operator on rows and windows."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from op_drive import Ports, cut, run, without
from operator_events import BASE, SECOND, Barrier, Quote, Trade, finished, scripts, trades

from market_data_core import models
from market_data_core.protocols import Mark, Operator
from market_data_core.schemas import Kind
from market_data_pipeline.operators.buffer import Buffer
from market_data_pipeline.operators.filter import Filter
from market_data_pipeline.operators.map import Map
from market_data_pipeline.operators.per_event import PerEvent
from market_data_pipeline.operators.rolling import Rolling
from market_data_pipeline.operators.router import Router
from market_data_pipeline.operators.throttle import Throttle
from market_data_pipeline.operators.tumbling import Window


class Halved:
    """Passes small trades, splits larger ones, drops those of no size and does not cope with some prices."""

    def __init__(self):
        self.count = 0

    def process(self, value):
        self.count += 1
        if value.price < 0:
            raise ValueError(f"price {value.price}")
        if value.size == 0:
            return
        if value.size < 1:
            yield value
        elif self.count % 3:
            half = {"symbol": value.symbol, "price": value.price, "size": value.size / 2}
            yield models.Trade.from_ns(value.ts_event_ns, **half)
            yield models.Trade.from_ns(value.ts_event_ns + 1, **half)
            if self.count % 2:
                yield value

    def snapshot(self):
        return {"count": self.count}

    def restore(self, state):
        self.count = state["count"]


AGGREGATE = {
    "total": "sum(size)",
    "value": "sum(price * size)",
    "low": "min(price)",
    "high": "max(price)",
    "open": "first(price)",
    "close": "last(log(price))",
    "mean": "mean(size / price)",
    "n": "count()",
}
MAKES = {
    "filter": lambda: Filter(where="price > 1 and size <= 10 or symbol == 'Y'"),
    "map": lambda: Map(set={"price": "price / size", "exchange": "symbol"}),
    "map analytics": lambda: Map(analytics={"value": "price * size", "log": "log(price)"}),
    "router": lambda: Router(routes={"big": "size >= 10", "y": "symbol == 'Y'"}),
    "router drop": lambda: Router(routes={"big": "size >= 10", "y": "symbol == 'Y'"}, otherwise="drop"),
    "buffer": lambda: Buffer(rows=3),
    "buffer seconds": lambda: Buffer(rows=5, seconds=1.5),
    "throttle": lambda: Throttle(every="2s"),
    "throttle last": lambda: Throttle(every="2s", keep="last"),
    "throttle ms": lambda: Throttle(every="500ms", keep="last"),
    "rolling": lambda: Rolling(window="4s"),
    "rolling late": lambda: Rolling(window="3s", allowed_lateness="2s", statistics=["volatility", "volume"]),
    "window": lambda: Window(length="2s", aggregate=AGGREGATE),
    "window slide": lambda: Window(length="4s", slide="2s", aggregate=AGGREGATE, allowed_lateness="1s"),
    "per event": lambda: PerEvent(Halved()),
}
LENGTHS = st.lists(st.integers(1, 12), max_size=20)


every_operator = pytest.mark.parametrize("make", MAKES.values(), ids=MAKES.keys())


@every_operator
def test_it_is_an_operator(make):
    """It has a name, works on trades, and says what comes out."""
    op: Operator = make()
    assert Kind.TRADES in op.kinds
    assert op.gives(frozenset({Kind.TRADES})) <= set(Kind)
    assert op.gives(frozenset({Kind.STATUS})) <= {Kind.STATUS}
    assert op.in_flight() == 0


@every_operator
@settings(deadline=None, max_examples=25)
@given(st.lists(trades(), max_size=60), LENGTHS)
def test_a_split_into_batches_changes_no_row(make, events, lengths):
    """The same span in other batches gives the same rows in the same order."""
    whole, split = run(make, [events]), run(make, cut(events, lengths))
    assert split.rows == whole.rows
    assert split.ports == whole.ports
    assert split.counts == whole.counts
    assert split.op.in_flight() == 0


@every_operator
@settings(deadline=None, max_examples=25)
@given(st.lists(trades(), max_size=60), LENGTHS)
def test_barriers_anywhere_give_the_same_rows(make, events, lengths):
    """Where barriers fall decides when a row comes out, and nothing else."""
    whole = run(make, [events])
    split = run(make, [step for batch in cut(events, lengths) for step in (batch, Barrier())])
    derived = ("seq", "ts_recv") if make().name in ("rolling", "window") else ()
    assert without(split.rows, *derived) == without(whole.rows, *derived)
    assert split.ports == whole.ports
    assert split.counts == whole.counts


@every_operator
@settings(deadline=None, max_examples=25)
@given(scripts(), st.data())
def test_going_on_from_a_snapshot_equals_never_having_stopped(make, script, data):
    """State through JSON at any point, under other instrument ids, changes no row and no count; the ledger is even."""
    script = finished(script)
    stops = data.draw(st.sets(st.integers(0, len(script))))
    steady, stopped = Ports(make).run(script), Ports(make)
    for place, step in enumerate(script):
        if place in stops:
            stopped.restart()
        stopped.run([step])
    assert stopped.rows == steady.rows
    assert stopped.ports == steady.ports
    assert stopped.counts == steady.counts
    assert stopped.op.in_flight() == steady.op.in_flight() == 0


@every_operator
@settings(deadline=None, max_examples=10)
@given(scripts(sources=("a",)))
def test_nothing_is_kept_of_a_source_that_has_ended(make, script):
    """Streams go with their source."""
    drive = Ports(make).run(finished(script, sources=("a",)))
    assert '"X"' not in json.dumps(drive.op.snapshot())


@every_operator
def test_an_empty_batch_gives_nothing(make):
    """Nor does a mark of a stream that never spoke."""
    drive = Ports(make).run([Trade(0)])
    empty = drive.log.batches[0].with_data(drive.log.batches[0].data.slice(0, 0))
    held = drive.op.in_flight()
    result = drive.op.process(empty)
    assert not result.out
    drive.op.advance(Mark(vendor="w", ts_ns=BASE))
    assert drive.op.in_flight() == held
    assert drive.unaccounted == 0


@pytest.mark.parametrize("name", ["buffer", "throttle", "throttle last"])
def test_kinds_do_not_move_each_other(name):
    """Quotes of a span come before its trades, whatever the venue's order was."""
    events = [Trade(n * SECOND) for n in range(8)]
    quotes = [Quote(n * SECOND, 1.0, 2.0) for n in range(100, 103)]
    alone, beside = run(MAKES[name], [events]), run(MAKES[name], [quotes, events])
    assert without([r for r in beside.rows if "price" in r], "seq") == without(alone.rows, "seq")
    assert beside.counts["late"] == 0
