"""Consumers whose tables refuse rows: the rest is stored, everything is accounted for, and a replay puts it right."""

from __future__ import annotations

from dataclasses import replace

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from market_data_core.schemas import Kind, Origin
from market_data_pipeline.consumers import ConsumerHost, ConsumerSettings, ConsumerSpec, Ledger, read_snapshot
from market_data_pipeline.log import LogWriter
from market_data_pipeline.writing import DeadLetters, Replayed, replay
from market_data_store.postgres import PostgresStore
from support.logs import AT_ONCE, trades
from support.postgres_server import shared_server
from support.trouble import Memory, Trouble, dead, stored

SPEC = ConsumerSpec(name="all", kinds=frozenset({Kind.TRADES}), operators=list, routes={Kind.TRADES: "trades"})
QUICK = ConsumerSettings(commit_s=0.0, snapshot_s=0.0, poll_s=0.001, retry_s=0.001, retry_max_s=0.002)


def logged(folder, count, *, batch=10, prices=None):
    """A log of trades whose prices number them; returns its end."""
    log = LogWriter(folder / "log", AT_ONCE)
    for first in range(0, count, batch):
        given = trades(first, min(batch, count - first))
        if prices is not None:
            column = pa.array(prices[first : first + batch], pa.float64())
            names = given.data.schema.names
            given = replace(
                given, data=given.data.set_column(names.index("price"), given.data.schema.field("price"), column)
            )
        log.append(given, origin=Origin.REPLAY)
        log.barrier()
    end = log.end
    assert log.wait_durable(end, 10)
    log.close()
    return end


def consumed(folder, store, end, how=QUICK):
    """Run the consumer over the log to its end and return its status."""
    host = ConsumerHost([SPEC], log_folder=folder / "log", store=store, folder=folder / "consumers", settings=how)
    host.start()
    assert host.stop(drain_to=end, timeout_s=30) == []
    return host.status().consumers["all"]


def accounts(status):
    ledger = Ledger.restored(status["ledger"], status["flow"])
    assert ledger.unaccounted == 0
    node = ledger["store"]
    assert node.in_flight == 0
    return node.received, node.passed, node.failed


@pytest.mark.parametrize("names", [True, False])
def test_bad_rows_of_a_live_pipeline_do_not_hold_it_up(tmp_path, names):
    """They are dead letters and count as failed, status says so, and once the store takes them a replay stores them."""
    memory = Memory()
    trouble = Trouble(memory, bad={7, 30, 31}, column="price", names=names)
    status = consumed(tmp_path, trouble, logged(tmp_path, 50))
    assert stored(memory, column="price") == [n for n in range(50) if n not in trouble.bad]
    assert accounts(status) == (50, 47, 3)
    assert status["dead_letters"] == 3
    assert any("dead letters" in report for report in status["reports"])
    assert read_snapshot(tmp_path / "consumers" / "all.snapshot").stored == {"trades": 47}
    letters = DeadLetters(tmp_path / "dead_letters")
    assert dead(letters, "price") == [7, 30, 31]
    trouble.bad = set()
    assert replay(letters, trouble) == Replayed(stored=3)
    assert stored(memory, column="price") == list(range(50))


def test_postgres_refuses_nan_and_takes_the_rest(tmp_path):
    """Of ten thousand rows the one that PostgreSQL will not have is kept aside, with its values."""
    prices = [float("nan") if n == 6_543 else float(n) for n in range(10_000)]
    end = logged(tmp_path, 10_000, batch=5_000, prices=prices)
    with PostgresStore(shared_server().database(), "acme", timeout_s=5) as store:
        store.open()
        status = consumed(tmp_path, store, end)
        assert accounts(status) == (10_000, 9_999, 1)
        assert stored(store, column="price") == [float(n) for n in range(10_000) if n != 6_543]
        letters = DeadLetters(tmp_path / "dead_letters")
        (letter,) = letters.list_letters()
        assert "price" in letter.reason
        assert letters.read(letter.id).column("ts_event").to_pylist() == [6_543_000]

        def absent(table, rows):
            at = rows.schema.get_field_index("price")
            return rows.set_column(at, rows.schema.field(at), pa.nulls(rows.num_rows, pa.float64()))

        assert replay(letters, store, repair=absent) == Replayed(stored=1)
        assert store.read("trades").num_rows == 10_000


def test_a_consumer_that_begins_again_counts_what_it_had_set_aside(tmp_path):
    """Without its snapshot it reads the log anew: rows and dead letters are there once, and the ledger is the same."""
    memory = Memory()
    trouble = Trouble(memory, bad={3, 22}, column="price", names=False)
    end = logged(tmp_path, 40)
    before = accounts(consumed(tmp_path, trouble, end))
    (tmp_path / "consumers" / "all.snapshot").unlink()
    assert accounts(consumed(tmp_path, trouble, end)) == before == (40, 38, 2)
    assert stored(memory, column="price") == [n for n in range(40) if n not in trouble.bad]
    assert dead(DeadLetters(tmp_path / "dead_letters"), "price") == [3, 22]


@settings(max_examples=20, deadline=None)
@given(
    bad=st.sets(st.integers(0, 39), max_size=5),
    names=st.booleans(),
    faults=st.lists(st.sampled_from(["", "before", "after"]), max_size=20),
    batch=st.integers(3, 40),
    commit_rows=st.integers(1, 40),
)
def test_no_failure_of_a_commit_loses_or_doubles_a_row(tmp_path_factory, **how):
    """Whatever the store does in the middle of a commit, rows, dead letters and ledger agree in the end."""
    fail_and_count(tmp_path_factory.mktemp("consumer"), **how)


def fail_and_count(folder, *, bad, names, faults, batch, commit_rows):
    memory = Memory()
    trouble = Trouble(memory, bad=bad, column="price", names=names, faults=faults)
    how = replace(QUICK, commit_rows=commit_rows, commit_s=60.0, commit_max_s=60.0, snapshot_s=60.0)
    status = consumed(folder, trouble, logged(folder, 40, batch=batch), how)
    assert stored(memory, column="price") == [n for n in range(40) if n not in bad]
    assert dead(DeadLetters(folder / "dead_letters"), "price") == sorted(bad)
    assert accounts(status) == (40, 40 - len(bad), len(bad))
