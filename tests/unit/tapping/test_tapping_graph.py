"""Taps: what leaves a node is what a consumer of the same graph has there, and nobody is disturbed."""

from __future__ import annotations

import asyncio
import shutil

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tapping_rows import graph_of, left, prices, spans

from market_data_core.batch import SourceBatch
from market_data_core.clock import ManualClock
from market_data_core.errors import ConfigurationError, TransformError
from market_data_core.schemas import Origin
from market_data_pipeline.compiler import SinkDef
from market_data_pipeline.consumers import ConsumerSettings
from market_data_pipeline.consumers.model import CONFIGURATION
from market_data_pipeline.engine import Engine, EngineSettings
from market_data_pipeline.log import LogReader, LogSettings, LogWriter, RecordType
from market_data_pipeline.log.segments import list_segments
from market_data_pipeline.operators import Validate
from market_data_pipeline.source.synthetic import SyntheticSource
from market_data_pipeline.tapping import GraphTap, tap_graph
from market_data_store.lake import Lake
from support.logs import AT_ONCE, flip, places, trades

SECOND = 1_000_000_000


KEPT_SHORT = LogSettings(linger_s=0.0, reserve_bytes=0, segment_bytes=1500, retention_s=0.0)


class Failing(Validate):
    """An operator that cannot do what it is asked."""

    def process(self, batch):
        raise KeyError("no such thing")


def test_a_tap_gives_what_a_consumer_of_the_same_graph_stores(tmp_path):
    """From the log's begin on: the same bars to the last digit, and the same accounts at every node before them."""
    nodes = {
        "market": {"source": "all", "kinds": ["trades", "quotes"]},
        "clean": {"operator": "validate"},
        "only": {"operator": "filter", "where": "size > 100"},
        "seconds": {"operator": "bars", "interval": "1s"},
        "lake": {"sink": "store"},
    }
    graph = graph_of(nodes, ["market -> clean -> only -> seconds -> lake"])
    engine = Engine(
        EngineSettings(
            data_dir=tmp_path,
            graph=graph.to_json(reveal=True),
            sinks={"store": SinkDef(sink="store")},
            commit=ConsumerSettings(commit_s=0.05),
            maintenance_s=0,
        )
    )
    engine.open()
    try:
        engine.add(SyntheticSource(symbols=["AAA", "BBB"], seed=3, rate=1000, count=5000, time="virtual"))
        asyncio.run(engine.capture.wait("synthetic"))
        assert engine.wait_stored(engine.log.end, 30)
    finally:
        assert engine.close() == []
    stored = (
        Lake(tmp_path / "lake", "default").read("bars").sort_by([("ts_event", "ascending"), ("symbol", "ascending")])
    )
    with GraphTap(graph, "seconds", log_folder=tmp_path / "log", start=0) as tap:
        rows = [row for _, row in left(tap)]
        assert len(rows) == stored.num_rows > 0
        assert sorted(rows, key=lambda r: (r["ts_event"], r["symbol"])) == stored.select(list(rows[0])).to_pylist()
        assert tap.ledger.unaccounted == 0
        ledger = engine.consumers().consumers["lake"]["ledger"]
        mine = tap.ledger.snapshot()
        assert {n: mine[n] for n in ("log", "market", "clean", "only")} == {
            n: ledger[n] for n in ("log", "market", "clean", "only")
        }


def test_a_tap_begins_with_what_is_logged_from_now_on(graph, tapped, logged):
    """What was there before is not shown, what comes after is, in order and once."""
    logged(trades(0, 10))
    tap = tapped(graph, "market")
    assert prices(tap) == []
    logged(trades(10, 5))
    logged(trades(15, 5))
    assert prices(tap) == list(range(10, 20))
    assert prices(tap) == []


def test_a_tap_of_a_source_gives_what_it_lets_in(tapped, logged):
    """Symbols that the source was not asked for do not enter."""
    nodes = {"some": {"source": "all", "symbols": ["b"]}, "out": {"sink": "null"}}
    tap = tapped(graph_of(nodes, ["some -> out"]), "some")
    logged(trades(0, 9))
    assert prices(tap) == [1, 4, 7]


def test_all_outputs_leave_a_node_and_each_says_its_name(graph, tapped, logged):
    """Without a port all outputs come, with one that alone; every row of the log leaves by exactly one."""
    everything = tapped(graph, "sizes")
    each = {port: tapped(graph, "sizes", port=port) for port in ("", "high", "mid")}
    logged(trades(0, 120))
    named = {(port, int(row["price"])) for port, row in left(everything)}
    assert everything.ports == ("", "high", "mid")
    assert {p for _, p in named} == set(range(120))
    for port, tap in each.items():
        assert {(port, p) for p in prices(tap)} == {n for n in named if n[0] == port}
        assert tap.ledger.unaccounted == 0


def test_a_tap_of_a_sink_gives_what_it_is_given(graph, tapped, logged):
    """Of what comes to a sink, the kinds that it takes; by its one output, whatever it came by."""
    tap = tapped(graph, "store", start=0)
    logged(trades(0, 2_500_000 // 1000))
    logged(trades(3_000_000, 3))
    rows = left(tap)
    assert {port for port, _ in rows} == {""}
    assert {row["interval"] for _, row in rows} == {"1s"}
    assert tap.ledger.unaccounted == 0


def test_a_bar_that_was_open_holds_what_came_since(graph, tapped, logged):
    """State begins empty: the first bar is of the events after the tap's begin alone."""
    logged(trades(0, 10))
    late = tapped(graph, "seconds")
    whole = tapped(graph, "seconds", start=0)
    logged(trades(10, 7))
    logged(trades(5_000_000, 3))
    counts = [sum(row["trade_count"] for _, row in left(tap)) for tap in (late, whole)]
    assert counts == [7, 17]


@pytest.mark.parametrize(
    ("node", "port", "says"),
    [
        ("seconde", None, "no node 'seconde'; did you mean seconds?"),
        ("zzz", None, "there are: market, rest, seconds, sizes, store"),
        ("sizes", "hihg", "operator 'sizes' has no output 'hihg'; did you mean high?"),
        ("seconds", "big", "it has the default output only"),
        ("market", "high", "source 'market' has no output 'high'"),
    ],
)
def test_what_is_not_there_is_named_with_what_is_near(graph, tapped, node, port, says):
    """A wrong node or output is a wrong setting that names the nearest."""
    with pytest.raises(ConfigurationError) as wrong:
        tapped(graph, node, port=port)
    assert says in str(wrong.value)


@given(
    sizes=st.lists(st.integers(1, 40), min_size=1, max_size=12),
    cuts=st.lists(st.booleans(), min_size=12, max_size=12),
    max_rows=st.integers(1, 100),
)
@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_every_event_comes_once_and_in_order_however_it_is_read(graph, tmp_path_factory, sizes, cuts, max_rows):
    """Batches, barriers and the size of a read change nothing: outputs and bars are the same."""
    folder = tmp_path_factory.mktemp("tapping") / "log"
    writer = LogWriter(folder, AT_ONCE)
    at = 0
    for size, barrier in zip(sizes, cuts, strict=False):
        writer.append(trades(at, size), origin=Origin.REPLAY)
        at += size
        if barrier:
            writer.barrier()
    writer.barrier()
    writer.append(trades(9_000_000, 3), origin=Origin.REPLAY)
    writer.barrier()
    assert writer.wait_durable(writer.end, 5)
    writer.close()
    with GraphTap(graph, "sizes", log_folder=folder, start=0) as tap:
        found = [int(row["price"]) for _, row in sorted(left(tap, max_rows), key=lambda r: r[1]["seq"])]
        assert found == [*range(at), 9_000_000, 9_000_001, 9_000_002]
        assert tap.ledger.unaccounted == 0
    with GraphTap(graph, "seconds", log_folder=folder, start=0) as tap:
        assert sum(row["trade_count"] for _, row in left(tap, max_rows)) == at


def test_a_writer_and_its_log_do_not_notice_a_tap(graph, folder, tapped):
    """A tap holds no lock: the log can be closed, opened by another writer and go on, and the tap with it."""
    writer = LogWriter(folder, AT_ONCE)
    tap = tapped(graph, "market")
    for start in (0, 5):
        writer.append(trades(start, 5), origin=Origin.REPLAY)
        writer.barrier()
        assert writer.wait_durable(writer.end, 5)
        writer.close()
        writer = LogWriter(folder, AT_ONCE)
    writer.close()
    assert prices(tap) == list(range(10))


def test_a_begin_that_was_trimmed_away_is_the_logs_begin_now(graph, folder, tapped):
    """The tap says from where on it could not read, and begins where the log does."""
    writer = LogWriter(folder, KEPT_SHORT)
    for start in range(0, 200, 5):
        writer.append(trades(start, 5), origin=Origin.REPLAY)
        writer.barrier()
        assert writer.wait_durable(writer.end, 5)
    assert writer.trim(150)
    first = list_segments(folder)[0][0]
    tap = tapped(graph, "market", start=0)
    found = prices(tap)
    writer.close()
    assert first > 0
    assert found == list(range(found[0], 200))
    assert f"begins at seq {first}" in tap.problems[0]


def test_what_is_trimmed_while_a_tap_lags_is_told_and_state_begins_anew(graph, folder, tapped):
    """A tap too slow for the log's retention says what it missed and goes on without wrong bars."""
    writer = LogWriter(folder, KEPT_SHORT)

    def append(start, end):
        for at in range(start, end, 5):
            writer.append(trades(at, 5), origin=Origin.REPLAY)
            writer.barrier()
            assert writer.wait_durable(writer.end, 5)

    append(0, 100)
    tap = tapped(graph, "market", start=0)
    given_before = [int(r["price"]) for s in tap.read(20) for _, b in s.batches for r in b.to_table().to_pylist()]
    append(100, 300)
    assert writer.trim(280)
    found = prices(tap)
    writer.close()
    assert given_before == list(range(len(given_before)))
    assert found[-1] == 299
    # What it had open may still be read to its end; then it is told, and goes on.
    assert found == sorted(set(found))
    assert found[0] >= len(given_before)
    assert any("the tap begins anew" in problem for problem in tap.problems)


def test_a_log_that_was_replaced_is_begun_anew(graph, folder, tapped):
    """Data that was removed and begun again does not leave the tap waiting for positions that never come."""
    writer = LogWriter(folder, AT_ONCE)
    writer.append(trades(0, 50), origin=Origin.REPLAY)
    writer.barrier()
    assert writer.wait_durable(writer.end, 5)
    writer.close()
    tap = tapped(graph, "market")
    shutil.rmtree(folder)
    writer = LogWriter(folder, AT_ONCE)
    writer.append(trades(0, 3), origin=Origin.REPLAY)
    writer.barrier()
    assert writer.wait_durable(writer.end, 5)
    assert prices(tap) == []
    writer.append(trades(3, 4), origin=Origin.REPLAY)
    writer.barrier()
    assert writer.wait_durable(writer.end, 5)
    writer.close()
    assert prices(tap) == [3, 4, 5, 6]
    assert "this log is not the one it was" in tap.problems[0]


def test_damaged_events_are_told_and_the_rest_comes(graph, folder, tapped):
    """A payload that does not match its checksum costs its own events alone, and is counted as failed."""
    writer = LogWriter(folder, AT_ONCE)
    for start in (0, 10, 20):
        writer.append(trades(start, 10), origin=Origin.REPLAY)
        writer.barrier()
        assert writer.wait_durable(writer.end, 5)
    writer.close()
    _, segment = list_segments(folder)[0]
    events = [p for p in places(segment) if p[1] is RecordType.EVENTS]
    flip(segment, events[1][2] + 100)
    tap = tapped(graph, "market", start=0)
    assert prices(tap) == [*range(10), *range(20, 30)]
    assert tap.ledger["log"].failed == 10
    assert tap.ledger.unaccounted == 0
    assert "damaged in the log" in tap.problems[0]


def test_another_configuration_is_told_where_it_concerns_the_node(graph, log, logged, tapped):
    """A change of what lies before the node is said; one of something else, or of places in the file, is not."""
    tap = tapped(graph, "seconds")
    nodes = {
        "market": {"source": "all", "kinds": ["trades"]},
        "seconds": {"operator": "bars", "interval": "1s"},
        "more": {"sink": "null"},
    }
    elsewhere = graph_of(nodes, ["market -> seconds -> more"])
    log.control(CONFIGURATION, {"version": "1", "graph": elsewhere.to_json()})
    logged()
    assert spans(tap) == []
    assert tap.problems == []
    other = elsewhere.to_json().replace("1s", "5s")
    log.control(CONFIGURATION, {"version": "2", "graph": other})
    logged()
    assert spans(tap) == []
    (problem,) = tap.problems
    assert "seconds is configured otherwise" in problem


def test_an_operator_that_fails_ends_the_tap_with_its_name(tapped, logged):
    """The error says which node it was."""
    nodes = {
        "market": {"source": "all"},
        "own": {"operator": "test_tapping_graph:Failing"},
        "out": {"sink": "null"},
    }
    tap = tapped(graph_of(nodes, ["market -> own -> out"]), "own")
    logged(trades(0, 3))
    with pytest.raises(TransformError, match="own"):
        spans(tap)


async def test_a_tap_can_be_awaited(graph, folder, log):
    """`tap_graph` gives batches as they are logged, and waits by the clock it is given."""
    clock = ManualClock()
    stream = tap_graph(graph, "market", log_folder=folder, clock=clock)
    coming = asyncio.ensure_future(anext(stream))
    await asyncio.sleep(0)
    assert not coming.done()
    log.append(trades(0, 4), origin=Origin.REPLAY)
    log.barrier()
    assert await asyncio.to_thread(log.wait_durable, log.end, 5)
    while not coming.done():
        clock.advance(1.0)
        await asyncio.sleep(0)
    assert (await coming).column("seq").tolist() == [0, 1, 2, 3]
    await stream.aclose()


def test_a_batch_names_its_instruments(graph, tapped, logged, folder):
    """Rows carry vendor and symbol as the log has them."""
    tap = tapped(graph, "market")
    batch = trades(0, 3)
    logged(SourceBatch(kind=batch.kind, data=batch.data, instruments=batch.instruments))
    names = [(row["vendor"], row["symbol"]) for _, row in left(tap)]
    assert names == [("v", "A"), ("v", "B"), ("w", "A")]
    with LogReader(folder, 0) as reader:
        assert len(list(reader.read())) > 0
