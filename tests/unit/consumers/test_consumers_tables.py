"""A consumer with several tables: large ones are committed side by side, and each is whole whatever befalls another."""

from __future__ import annotations

import asyncio
import threading
from dataclasses import replace

import pytest

from market_data_core.batch import SourceBatch
from market_data_core.schemas import Kind, Origin
from market_data_pipeline.consumers import ConsumerHost, ConsumerSettings, ConsumerSpec, Ledger
from market_data_pipeline.log import LogSettings, LogWriter
from market_data_pipeline.source.synthetic.source import SyntheticSource
from support.trouble import Memory, Trouble

EVENTS = 150_000
ROUTES = {Kind.QUOTES: "quotes", Kind.TRADES: "trades"}
SPEC = ConsumerSpec(name="all", kinds=frozenset(ROUTES), operators=list, routes=ROUTES)
# Commits of half of the events, of both tables.
HOW = ConsumerSettings(
    commit_rows=EVENTS // 2, commit_s=60.0, commit_max_s=60.0, poll_s=0.001, retry_s=0.001, retry_max_s=0.002
)


@pytest.fixture(scope="module")
def logged(tmp_path_factory):
    """A log of quotes and trades, its end, and how many there are of each by table."""
    folder = tmp_path_factory.mktemp("tables") / "log"
    log = LogWriter(folder, LogSettings(fsync=False, reserve_bytes=0))
    counts = dict.fromkeys(ROUTES.values(), 0)

    async def fill():
        async for item in SyntheticSource(time="virtual", rate=0, count=EVENTS).batches({}):
            if isinstance(item, SourceBatch):
                log.append(item, origin=Origin.SYNTHETIC)
                counts[ROUTES[item.kind]] += item.data.num_rows

    asyncio.run(fill())
    log.barrier()
    assert log.wait_durable(log.end, 20)
    end = log.end
    log.close()
    return folder, end, counts


def consumed(logged, folder, store, how=HOW):
    """Run the consumer to the end of the log, and return how many rows it stored."""
    log_folder, end, counts = logged
    host = ConsumerHost([SPEC], log_folder=log_folder, store=store, folder=folder, settings=how)
    host.start()
    assert host.stop(drain_to=end, timeout_s=60) == []
    status = host.status().consumers["all"]
    ledger = Ledger.restored(status["ledger"], status["flow"])
    assert ledger.unaccounted == 0
    assert ledger["store"].passed == sum(counts.values())
    return status["commits"]


def whole(memory, counts):
    """Whether every row is there, once."""
    for name, count in counts.items():
        seqs = memory.read(name, columns=["seq"]).column(0).to_pylist()
        assert len(seqs) == len(set(seqs)) == count
    return True


class Meeting:
    """A store whose tables go on with their first commit of rows only when both have begun theirs."""

    def __init__(self, store):
        self.store = store
        self.both = threading.Barrier(len(ROUTES))
        self.met = set()

    def __getattr__(self, name):
        return getattr(self.store, name)

    def table(self, name):
        meeting, table = self, self.store.table(name)

        class Waiting:
            def __getattr__(self, attribute):
                return getattr(table, attribute)

            def append(self, rows, **how):
                if rows.num_rows and name not in meeting.met:
                    meeting.both.wait(30)
                    meeting.met.add(name)
                table.append(rows, **how)

        return Waiting()


def test_large_tables_are_committed_side_by_side(logged, tmp_path):
    """Each begins before the other has ended; what is in them is the same."""
    memory = Memory()
    meeting = Meeting(memory)
    assert consumed(logged, tmp_path, meeting) >= 2
    assert meeting.met == set(ROUTES.values())
    assert whole(memory, logged[2])


@pytest.mark.parametrize(
    "faults", [["before"], ["", "before"], ["after"], ["", "after"], ["after", "before"], ["before", "before", "after"]]
)
@pytest.mark.parametrize("commit_rows", [EVENTS // 2, EVENTS // 20])
def test_what_befalls_one_table_loses_and_doubles_nothing(logged, tmp_path, faults, commit_rows):
    """Storage that is away, or whose answer is lost, while the other table commits, side by side or in turn."""
    memory = Memory()
    trouble = Trouble(memory, faults=faults)
    consumed(logged, tmp_path, trouble, replace(HOW, commit_rows=commit_rows))
    assert trouble.entered > len(faults)
    assert whole(memory, logged[2])
