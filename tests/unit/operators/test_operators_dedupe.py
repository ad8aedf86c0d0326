from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from operator_events import Drive, Trade

from market_data_core.protocols import Operator
from market_data_core.schemas import Kind
from market_data_pipeline.operators import Dedupe


def ids(drive):
    return [(r["vendor"], r["symbol"], r["trade_id"]) for r in drive.rows]


def test_it_is_an_operator_on_trades():
    """Quotes have no identity of their own and go past it."""
    op: Operator = Dedupe()
    assert (op.name, op.kinds) == ("dedupe", {Kind.TRADES})


@pytest.mark.parametrize("apart", [True, False])
def test_a_trade_id_given_again_is_dropped(apart):
    """Within a batch and across batches; the first one stands, order is kept."""
    events = [Trade(n, trade_id=i) for n, i in enumerate(["1", "2", "1", "3", "2"])]
    drive = Drive(Dedupe).run(events if apart else [events])
    assert [i for _, _, i in ids(drive)] == ["1", "2", "3"]
    assert (drive.counts["duplicate"], drive.passed) == (2, 3)


def test_another_source_of_the_same_vendor_repeats():
    """A file of what came live before gives the same trades."""
    drive = Drive(Dedupe).run([Trade(0, trade_id="1", source=""), Trade(0, trade_id="1", source="file")])
    assert drive.counts["duplicate"] == 1


def test_vendors_and_symbols_are_not_compared_with_each_other():
    """The same id of two vendors or of two instruments is two trades."""
    rows = [Trade(0, trade_id="1", vendor=v, symbol=s) for v in "vw" for s in "XY"]
    drive = Drive(Dedupe).run([rows])
    assert (drive.counts["duplicate"], drive.passed) == (0, 4)


@pytest.mark.parametrize("others", [[], [Trade(0, trade_id="1")]])
def test_trades_without_an_id_pass(others):
    """Nothing tells them from their likes."""
    drive = Drive(Dedupe).run([[Trade(0), Trade(0), *others]])
    assert (drive.counts["duplicate"], drive.passed) == (0, 2 + len(others))


def test_a_batch_of_nothing_new_gives_nothing():
    """Not even an empty batch."""
    drive = Drive(Dedupe).run([Trade(0, trade_id="1"), [Trade(1, trade_id="1"), Trade(2, trade_id="1")]])
    assert len(drive.out) == 1


def test_memory_is_bounded_and_the_oldest_are_forgotten_first():
    """By instrument: the latest ids are known, older ones are not, and no other instrument pushes them out."""
    drive = Drive(lambda: Dedupe(remember=10)).run([[Trade(0, trade_id="y", symbol="Y")]])
    drive.run([[Trade(n, trade_id=str(n)) for n in range(1000)]])
    kept = {symbol: seen for _, symbol, seen in drive.op.snapshot()["seen"]}
    assert kept == {"Y": ["y"], "X": [str(n) for n in range(990, 1000)]}
    drive.run([[Trade(0, trade_id=i) for i in ("990", "999", "0")], Trade(0, trade_id="y", symbol="Y")])
    assert drive.counts["duplicate"] == 3


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from([None, *"12345"]), st.sampled_from("XY"), st.sampled_from("vw")), max_size=40),
    st.sets(st.integers(0, 40)),
    st.integers(1, 6),
)
def test_batches_and_restarts_change_nothing(rows, stops, remember):
    """One by one, with state through JSON and other instrument ids in between, as all at once."""
    events = [Trade(n, trade_id=i, symbol=s, vendor=v) for n, (i, s, v) in enumerate(rows)]
    whole = Drive(lambda: Dedupe(remember=remember)).run([events] if events else [])
    stopped = Drive(lambda: Dedupe(remember=remember))
    for at, event in enumerate(events):
        if at in stops:
            stopped.restart()
        stopped.run([event])
    assert stopped.rows == whole.rows
    assert stopped.counts == whole.counts
    state = stopped.op.snapshot()
    assert json.loads(json.dumps(state)) == state
