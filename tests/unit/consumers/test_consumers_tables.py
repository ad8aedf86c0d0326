"""A consumer with several tables: large ones are committed side by side, and each is whole whatever befalls another."""

from __future__ import annotations

import asyncio
import threading
from dataclasses import replace

import pytest

from market_data_core.batch import SourceBatch
from market_data_core.errors import TransformError
from market_data_core.schemas import Kind, Origin
from market_data_pipeline.consumers import ConsumerHost, ConsumerSettings, ConsumerSpec, Ledger
from market_data_pipeline.log import LogSettings, LogWriter
from market_data_pipeline.operators import Validate
from market_data_pipeline.source.synthetic.source import SyntheticSource
from support.service import eventually
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


def hosted(logged, folder, store, how=HOW):
    """The consumer, to be started."""
    return ConsumerHost([SPEC], log_folder=logged[0], store=store, folder=folder, settings=how)


def ended(host, logged, *, refused=0):
    """Have a consumer take everything to the end of the log, and return how it is then."""
    _, end, counts = logged
    assert host.stop(drain_to=end, timeout_s=60) == []
    status = host.status().consumers["all"]
    ledger = Ledger.restored(status["ledger"], status["flow"])
    assert ledger.unaccounted == 0
    assert (ledger["store"].passed, ledger["store"].failed) == (sum(counts.values()) - refused, refused)
    assert ledger["store"].in_flight == 0
    assert status["committed"] == end
    return status


def consumed(logged, folder, store, how=HOW):
    """Run the consumer to the end of the log, and return how many commits it made."""
    host = hosted(logged, folder, store, how)
    host.start()
    return ended(host, logged)["commits"]


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


@pytest.fixture
def held():
    """A store whose commits wait at a gate."""
    trouble = Trouble(Memory())
    trouble.gate.clear()
    yield trouble
    trouble.gate.set()


def test_the_log_is_read_on_while_a_large_commit_is_under_way(logged, tmp_path, held):
    """What is not in the tables yet is in flight, and nothing says that it is committed."""
    host = hosted(logged, tmp_path, held)
    host.start()

    def status():
        return host.status().consumers["all"]

    # Half of the events are due at the end of a span of at most 32,768; beyond that is what was read meanwhile.
    eventually(lambda: status()["position"] > EVENTS // 2 + (1 << 15), 30, "nothing was read behind the commit")
    eventually(lambda: held.entered == len(ROUTES), 30, "not all tables are committed")
    assert (status()["committed"], status()["commits"], held.appended) == (0, 0, [])
    # Storage that never answers must not keep the process from ending.
    assert [t.daemon for t in threading.enumerate() if t.name.startswith("commit-all")] == [True] * len(ROUTES)
    held.gate.set()
    assert ended(host, logged)["commits"] >= 2
    assert whole(held.store, logged[2])


def test_a_commit_is_known_as_soon_as_it_is_made(logged, tmp_path):
    """Without another to follow: the log is at its end, and the consumer waits for more."""
    memory = Memory()
    host = hosted(logged, tmp_path, memory, replace(HOW, commit_rows=EVENTS - 40_000))
    host.start()
    eventually(lambda: host.status().consumers["all"]["commits"] == 1, 30, "the commit is not known")
    status = host.status().consumers["all"]
    assert EVENTS - 40_000 <= status["committed"] < logged[1]
    ended(host, logged)
    assert whole(memory, logged[2])


@pytest.mark.parametrize("takes_codes", [False, True])
@pytest.mark.parametrize("commit_rows", [EVENTS // 2, EVENTS // 20])
def test_rows_that_a_large_commit_refuses_are_dead_letters(logged, tmp_path, commit_rows, takes_codes):
    """And their places are in a snapshot as soon as it is known: whoever begins again has them as refused, once."""
    memory = Memory(takes_codes=takes_codes)
    trouble = Trouble(memory, bad={1000, EVENTS // 2 + 3})
    how = replace(HOW, commit_rows=commit_rows)
    host = hosted(logged, tmp_path, trouble, how)
    host.start()
    assert ended(host, logged, refused=2)["dead_letters"] == 2
    again = hosted(logged, tmp_path, trouble, how)
    again.start()
    ended(again, logged, refused=2)
    for name, count in logged[2].items():
        seqs = memory.read(name, columns=["seq"]).column(0).to_pylist()
        assert len(seqs) == len(set(seqs))
        assert not trouble.bad & set(seqs)
        assert count - len(seqs) <= len(trouble.bad)


def test_who_begins_again_waits_for_the_commit_that_is_under_way(logged, tmp_path, held):
    """Reading fails while tables are committed: the next life finds them whole, and meets no other writer."""

    class Failing(Validate):
        def process(self, batch):
            # Behind the first commit, while that waits at the gate.
            if batch.data.column("seq")[-1].as_py() > EVENTS * 3 // 4 and not held.gate.is_set():
                threading.Timer(0.05, held.gate.set).start()
                raise TransformError("not now")
            return super().process(batch)

    spec = replace(SPEC, operators=lambda: [Failing()])
    host = ConsumerHost([spec], log_folder=logged[0], store=held, folder=tmp_path, settings=HOW)
    host.start()
    assert ended(host, logged)["restarts"] == 1
    assert whole(held.store, logged[2])
