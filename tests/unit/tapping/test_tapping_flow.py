"""Spans and flows: what every reader of the log that runs operators shares."""

from __future__ import annotations

import pytest

from market_data_core.errors import ConfigurationError, TransformError
from market_data_core.protocols import END_OF_TIME_NS, Mark
from market_data_core.schemas import Kind, Origin
from market_data_pipeline.consumers.ledger import Edge, Ledger
from market_data_pipeline.consumers.spans import Flow, Spans, chain, joined, mark_of
from market_data_pipeline.log import LogReader, LogWriter, Record, RecordType
from market_data_pipeline.operators import Bars, Dedupe, Validate
from market_data_pipeline.operators.entrance import Entrance
from support.logs import AT_ONCE, read_all, trades


def record(first_seq: int, count: int, *, barrier: bool = False) -> Record:
    return Record(
        type=RecordType.EVENTS,
        kind=Kind.TRADES,
        origin=Origin.LIVE,
        first_seq=first_seq,
        count=count,
        barrier=barrier,
        partition=0,
        ts_append=0,
        meta={},
        payload=None,
    )


def test_spans_end_at_barriers():
    """Records wait for their barrier, which belongs to the span."""
    spans = Spans()
    given = [list(spans.add(r)) for r in (record(0, 5), record(5, 5), record(10, 1, barrier=True), record(11, 3))]
    assert [[[r.first_seq for r in span] for span in found] for found in given] == [[], [], [[0, 5, 10]], []]


def test_a_hole_ends_a_span_whose_barrier_is_lost():
    """What came before a hole is a span of its own, so it never gets the end of a later one."""
    spans = Spans()
    assert list(spans.add(record(0, 5))) == []
    assert [[r.first_seq for r in s] for s in spans.add(record(20, 1, barrier=True))] == [[0], [20]]


@pytest.fixture
def batches(tmp_path):
    """Three batches of trades as a log gives them."""
    writer = LogWriter(tmp_path / "log", AT_ONCE)
    for start in (0, 4, 8):
        writer.append(trades(start, 4), origin=Origin.REPLAY)
    writer.barrier()
    assert writer.wait_durable(writer.end, 5)
    writer.close()
    with LogReader(tmp_path / "log", 0) as reader:
        return [r.events(reader.instruments) for r in reader.read() if r.type is RecordType.EVENTS]


def test_rows_of_one_kind_and_source_become_one_batch(batches):
    """All rows, in order, in one batch; a single one is not touched."""
    (whole,) = joined(batches)
    assert whole.column("seq").tolist() == list(range(12))
    assert list(joined(batches[:1])) == batches[:1]


def test_a_chain_lets_pass_what_it_does_not_work_on_and_counts_it(batches):
    """Without edges operators stand in a row; what is not of an operator's kinds goes past it."""
    operators = [Validate(name="check"), Bars("1s", what="BID", name="bars")]
    ledger, taken = Ledger(("log", "check", "bars", "store")), []
    flow = Flow(operators, ledger, take=lambda _sender, _port, batch: taken.append(batch))
    flow.run(batches, 12, 0)
    assert sum(len(b) for b in taken) == 12
    assert ledger["bars"].passed == 12
    assert ledger["check"].unaccounted == ledger["bars"].unaccounted == 0
    assert chain(["a", "b"]) == (Edge("log", "", "a"), Edge("a", "", "b"), Edge("b", "", "store"))


def test_what_nobody_takes_is_suppressed(batches):
    """In a graph an output without a way out is counted where it left, and all adds up."""
    edges = [Edge("log", "", "in"), Edge("in", "", "once")]
    ledger = Ledger(("log", "in", "once", "store"), edges)
    flow = Flow([Entrance(name="in"), Dedupe(name="once")], ledger, take=lambda *_: pytest.fail("nothing leads there"))
    ledger["log"].received = ledger["log"].passed = 12
    flow.run(batches, 12, 0)
    assert ledger["once"].suppressed == 12
    assert ledger.unaccounted == 0


def test_the_end_of_a_source_closes_what_is_open_on_the_way(batches):
    """A mark behind the events reaches every operator, and rows it closes come out at its barrier."""
    taken: list[tuple[str, str, str]] = []
    ledger = Ledger(("log", "in", "bars", "store"), [*chain(["in", "bars"])])
    flow = Flow(
        [Entrance(name="in"), Bars("1s", name="bars")],
        ledger,
        take=lambda sender, port, batch: taken.append((sender, port, str(batch.kind))),
    )
    flow.run(batches, 12, 0)
    assert taken == []
    flow.run([], 13, 0, Mark(vendor="v", ts_ns=END_OF_TIME_NS, source_id="file:x", offset=13))
    assert set(taken) == {("bars", "", "bars")}
    assert ledger["bars"].in_flight == ledger["bars"].received - ledger["bars"].absorbed


class Broken(Validate):
    """Fails as told."""

    error: Exception = ValueError("bad value")

    def process(self, batch):
        raise self.error


def test_an_operator_that_fails_is_named(batches):
    """Any error of an operator's becomes one that names it; errors of the platform stay what they are."""
    told: list[str] = []
    broken = Broken(name="own")
    flow = Flow(
        [broken], Ledger(("log", "own", "store")), take=lambda *_: None, at_work=lambda name, _since: told.append(name)
    )
    with pytest.raises(TransformError, match="operator own failed: ValueError: bad value"):
        flow.run(batches, 12, 0)
    assert told[-1] == "own"
    broken.error = ConfigurationError("wrong")
    with pytest.raises(ConfigurationError, match="wrong"):
        flow.run(batches, 12, 0)


def test_a_mark_is_read_back_as_it_was_logged(tmp_path):
    """Vendor, symbols, time and source come back."""
    mark = Mark(vendor="v", symbols=("A", "B"), ts_ns=17, source_id="file:x", offset=3)
    writer = LogWriter(tmp_path / "log", AT_ONCE)
    writer.mark(mark, origin=Origin.REPLAY)
    writer.barrier()
    assert writer.wait_durable(writer.end, 5)
    writer.close()
    (found,) = (r for r in read_all(tmp_path / "log") if r.type is RecordType.MARK)
    assert mark_of(found) == mark
