from __future__ import annotations

import os
import threading
import time
from dataclasses import replace

import pytest

from market_data_core import disk, steps
from market_data_core.batch import Instrument
from market_data_core.errors import LogError, LogFull, LogLocked, SchemaValidationError
from market_data_core.protocols import Mark
from market_data_core.schemas import Origin
from market_data_core.steps import Step
from market_data_pipeline.log import LogReader, LogSettings, LogWriter, RecordType, read_durable
from market_data_pipeline.log.folder import DurableEnd
from support.log_writer_child import CONTEXT, Task, acknowledged
from support.logs import AT_ONCE, TINY, drain, events, growing, prices, read_all, trades


@pytest.fixture
def held_disk():
    """A disk that does not finish a sync before it is let go."""
    go = threading.Event()
    disk.observe(
        lambda what, path: go.wait(30) if what == "file" and threading.current_thread().name == "log-writer" else None
    )
    yield go
    go.set()
    disk.observe(None)


@pytest.fixture
def hook():
    """Puts a hook on the named steps, for this test."""
    yield steps.install
    steps.install(None)


def test_nothing_is_readable_before_it_is_durable(tmp_path, held_disk):
    """While the disk has not answered, readers see nothing and waiting runs out; then all at once it is there."""
    log = LogWriter(tmp_path, AT_ONCE)
    log.append(trades(0, 10), origin=Origin.REPLAY)
    assert not log.wait_durable(10, 0.05)
    assert (log.end, log.durable_end, read_durable(tmp_path)) == (10, 0, 0)
    assert read_all(tmp_path) == []
    assert log.status.pending_bytes > 0
    held_disk.set()
    assert log.wait_durable(10, 5)
    assert prices(tmp_path) == list(range(10))
    log.close()


def test_records_become_durable_in_groups(tmp_path):
    """What is appended within the linger time costs one sync, not one each."""
    log = LogWriter(tmp_path, LogSettings(linger_s=0.5, group_bytes=12_000, reserve_bytes=0))
    for at in range(100):
        log.append(trades(at, 1), origin=Origin.REPLAY)
    assert log.wait_durable(20, 0.4)
    log.close()
    assert log.status.groups < 10
    assert prices(tmp_path) == list(range(100))


def test_the_hook_hears_of_every_group(tmp_path):
    """It is called with rising ends, after the end was published; should it fail, the log goes on."""
    heard = []

    def listen(end):
        heard.append((end, read_durable(tmp_path)))
        raise RuntimeError("the listener's loop is closed")

    log = LogWriter(tmp_path, AT_ONCE, durable_hook=listen)
    for at in range(5):
        log.append(trades(at, 1), origin=Origin.REPLAY)
        assert log.wait_durable(at + 1, 5)
    log.close()
    assert [end for end, _ in heard] == sorted({end for end, _ in heard})
    assert all(end == published for end, published in heard)
    assert heard[-1][0] == log.end


def test_one_writer_per_process(tmp_path):
    """A second writer in the same process is refused; after closing, the next may write."""
    log = LogWriter(tmp_path, AT_ONCE)
    with pytest.raises(LogLocked):
        LogWriter(tmp_path, AT_ONCE)
    log.close()
    LogWriter(tmp_path, AT_ONCE).close()


def open_elsewhere(folder, answers):
    try:
        LogWriter(folder).close()
    except LogLocked as exc:
        answers.send(str(exc))
    else:
        answers.send("")


def test_one_writer_among_processes(tmp_path):
    """A writer in another process is refused while this one writes, and reading is not."""
    log = LogWriter(tmp_path, AT_ONCE)
    ours, theirs = CONTEXT.Pipe(duplex=False)
    other = CONTEXT.Process(target=open_elsewhere, args=(tmp_path, theirs))
    other.start()
    assert ours.poll(30)
    assert "in use by another writer" in ours.recv()
    other.join(30)
    ours.close()
    theirs.close()
    log.close()


def test_a_failed_opening_gives_the_lock_back(tmp_path):
    """When the folder cannot be used, the next try is not refused for the lock of the last."""
    (tmp_path / "durable").mkdir()
    with pytest.raises(LogError, match="cannot be opened"):
        LogWriter(tmp_path, AT_ONCE)
    (tmp_path / "durable").rmdir()
    LogWriter(tmp_path, AT_ONCE).close()


def test_a_reader_follows_a_writer_in_another_process(tmp_path):
    """Over many rolls, to the end, with nothing missing, doubled or misnamed."""
    found = []
    with LogReader(tmp_path, 0) as reader:
        # The first acknowledgement comes before most is written; the last when the writer is done.
        for _ in acknowledged(Task(folder=tmp_path, count=900, trim=False)):
            for record in drain(reader):
                if record.type is RecordType.EVENTS:
                    table = record.events(reader.instruments).to_table()
                    found.extend(zip(table["price"].to_pylist(), table["symbol"].to_pylist(), strict=True))
    assert found == [(float(n), f"S{n // 10}") for n in range(900)]
    assert not reader.problems


def test_appending_waits_for_no_disk(tmp_path, held_disk):
    """A disk that hangs does not hold up who appends, until memory for it is used up."""
    log = LogWriter(tmp_path, replace(AT_ONCE, pending_bytes=30_000))
    started = time.monotonic()
    for at in range(20):
        log.append(trades(at, 1), origin=Origin.REPLAY)
    assert time.monotonic() - started < 0.9, "it waited for room"
    log.append(trades(20, 200), origin=Origin.REPLAY)
    with pytest.raises(LogFull, match="does not keep up"):
        log.append(trades(220, 200), origin=Origin.REPLAY)
    held_disk.set()
    log.close()


def test_a_batch_larger_than_all_memory_for_waiting_is_taken_alone(tmp_path):
    """The bound refuses what comes on top, never a single batch for ever."""
    log = LogWriter(tmp_path, replace(AT_ONCE, pending_bytes=100))
    for at in range(0, 60, 20):
        log.append(trades(at, 20), origin=Origin.REPLAY)
    log.close()
    assert prices(tmp_path) == list(range(60))


class Counted(list):
    """A table that counts how many of its entries were looked at."""

    looked_at = 0

    def __getitem__(self, at):
        found = super().__getitem__(at)
        self.looked_at += len(found) if isinstance(at, slice) else 1
        return found

    def __iter__(self):
        self.looked_at += len(self)
        return super().__iter__()


def test_appending_costs_the_same_with_many_instruments(tmp_path):
    """A large table is gone through when it is first seen, and not again at every append."""
    table = Counted(Instrument(vendor="v", symbol=f"S{n}") for n in range(5000))
    other = Counted([Instrument(vendor="w", symbol="first"), *table])
    log = LogWriter(tmp_path, replace(AT_ONCE, fsync=False))
    log.append(trades(0, 1, table=table), origin=Origin.REPLAY)
    log.append(trades(0, 1, table=other), origin=Origin.REPLAY)
    first = other.looked_at
    assert first >= len(other)
    for at in range(50):
        log.append(trades(at, 1, table=other), origin=Origin.REPLAY)
    assert other.looked_at == first
    log.close()


def test_what_could_never_be_read_is_refused(tmp_path):
    """Wrong instrument numbers, details that are no JSON and partitions out of range never enter the log."""
    log = LogWriter(tmp_path, AT_ONCE)
    with pytest.raises(SchemaValidationError, match="outside its table"):
        log.append(replace(trades(0, 3), instruments=()), origin=Origin.REPLAY)
    with pytest.raises(SchemaValidationError, match="cannot be logged"):
        log.control("config", {"value": object()})
    with pytest.raises(SchemaValidationError, match="reserved"):
        log.control("config", {"s": "file:x"})
    with pytest.raises(SchemaValidationError, match="partition"):
        log.append(trades(0, 3), origin=Origin.REPLAY, partition=70_000)
    with pytest.raises(SchemaValidationError, match="cannot be logged"):
        log.append(trades(0, 1, table=[Instrument(vendor="v", symbol="\ud800")]), origin=Origin.REPLAY)
    assert log.end == 0
    assert log.sources() == {}
    log.append(trades(0, 3), origin=Origin.REPLAY)
    log.close()
    assert events(tmp_path)[0] == (0, "v", "A", 0.0)
    assert prices(tmp_path) == [0, 1, 2]


def test_a_closed_log_takes_nothing(tmp_path):
    """Appending to it is an error, closing it again and asking for a barrier are not."""
    log = LogWriter(tmp_path, AT_ONCE)
    log.close()
    log.close()
    log.barrier()
    for call in (
        lambda: log.append(trades(0, 1), origin=Origin.REPLAY),
        lambda: log.mark(Mark(vendor="v", ts_ns=1), origin=Origin.REPLAY),
        lambda: log.control("pause"),
    ):
        with pytest.raises(LogError, match="closed"):
            call()
    assert not log.wait_durable(1, 0)


def test_closing_over_a_hung_disk_says_so_and_keeps_the_lock(tmp_path, held_disk):
    """A write under way may still land: nobody else may write until it has."""
    log = LogWriter(tmp_path, AT_ONCE)
    log.append(trades(0, 10), origin=Origin.REPLAY)
    started = time.monotonic()
    with pytest.raises(LogError, match="has not answered"):
        log.close(timeout_s=0.1)
    assert time.monotonic() - started < 5
    with pytest.raises(LogLocked):
        LogWriter(tmp_path, AT_ONCE)
    held_disk.set()
    log.close()
    LogWriter(tmp_path, AT_ONCE).close()
    assert prices(tmp_path) == list(range(10))


def test_a_writer_that_fails_unforeseen_tells_everybody(tmp_path, hook):
    """Its thread ends, appending and closing are errors that say why, and waiting does not hang."""

    def fail(step):
        if step is Step.LOG_APPEND_BEFORE:
            raise RuntimeError("unforeseen")

    hook(fail)
    log = LogWriter(tmp_path, AT_ONCE)
    log.append(trades(0, 10), origin=Origin.REPLAY)
    assert not log.wait_durable(10)
    assert "unforeseen" in log.status.problem
    with pytest.raises(LogError, match="unforeseen"):
        log.append(trades(10, 10), origin=Origin.REPLAY)
    log.barrier()
    with pytest.raises(LogError, match=r"10 events .* not durable: .*unforeseen"):
        log.close()


def test_trim_keeps_what_is_needed(tmp_path):
    """Segments go only where they lie wholly below the position; the newest stays whatever happens."""
    log = LogWriter(tmp_path, replace(TINY, retention_s=0.0))
    for at in range(0, 100, 5):
        log.append(trades(at, 5), origin=Origin.REPLAY)
        assert log.wait_durable(at + 5, 5)
    before = sorted(tmp_path.glob("*.log"))
    assert log.trim(0) == 0
    removed = log.trim(50)
    assert 0 < removed < len(before) - 1
    assert prices(tmp_path, 50) == list(range(50, 100))
    log.trim(10_000)
    assert len(list(tmp_path.glob("*.log"))) == 1
    log.append(trades(100, 5), origin=Origin.REPLAY)
    log.close()
    assert log.status.size_bytes == sum(p.stat().st_size for p in tmp_path.glob("*.log"))
    with pytest.raises(LogError, match="no longer in it"):
        LogReader(tmp_path, 0)


def test_segments_stay_for_the_retention(tmp_path):
    """However far consumers are, a segment goes only when its time is over."""
    log = LogWriter(tmp_path, TINY)
    for at in range(0, 100, 5):
        log.append(trades(at, 5), origin=Origin.REPLAY)
        assert log.wait_durable(at + 5, 5)
    assert log.trim(100) == 0
    oldest = min(tmp_path.glob("*.log"))
    old = time.time() - TINY.retention_s - 1
    os.utime(oldest, (old, old))
    assert log.trim(100) == 1
    assert not oldest.exists()
    log.close()


def test_segments_go_early_near_the_limit(tmp_path):
    """Above three quarters of the limit, what all consumers are past goes before its time."""
    log = LogWriter(tmp_path, replace(AT_ONCE, max_bytes=20_000))
    for at in range(0, 500, 5):
        log.append(trades(at, 5), origin=Origin.REPLAY)
        assert log.wait_durable(at + 5, 5)
        log.trim(at)
    log.close()
    assert log.status.size_bytes <= 20_000
    assert prices(tmp_path, log.end - 20)[-1] == 499


def test_a_reader_whose_next_segment_was_trimmed_is_told(tmp_path):
    """Trimmed under a reader that has a segment open, the rest is missed with an error, not in silence."""
    log = LogWriter(tmp_path, replace(TINY, retention_s=0.0))
    with LogReader(tmp_path, 0) as reader:
        for at in range(0, 100, 5):
            log.append(trades(at, 5), origin=Origin.REPLAY)
            assert log.wait_durable(at + 5, 5)
            if at == 0:
                assert next(reader.read()).first_seq == 0
        log.trim(90)
        with pytest.raises(LogError, match="no longer in it"):
            drain(reader)
    log.close()


def test_a_reader_never_sees_half_a_durable_end(tmp_path):
    """The durable end is read whole or not at all, whatever it changes from and to."""
    published = DurableEnd(tmp_path, 0)
    stop = threading.Event()
    allowed = {0, 255, 256, (1 << 40) - 1, 1 << 40}

    def publish():
        while not stop.is_set():
            for end in allowed:
                published.publish(end)

    thread = threading.Thread(target=publish)
    thread.start()
    seen = {read_durable(tmp_path) for _ in range(3000)}
    stop.set()
    thread.join()
    published.close()
    assert seen <= allowed
    (tmp_path / "durable").write_bytes(b"\1" * 16)
    assert read_durable(tmp_path) == 0


def test_many_threads_append_in_one_order(tmp_path):
    """Sequence numbers are handed out once each, and every batch stays together."""
    log = LogWriter(tmp_path, replace(AT_ONCE, segment_bytes=5000))
    taken: list[int] = []

    def run(source):
        taken.extend([log.append(trades(at, 4, source), origin=Origin.REPLAY) for at in range(0, 100, 4)])

    threads = [threading.Thread(target=run, args=(f"file:{n}",)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    log.close()
    assert sorted(taken) == list(range(0, 400, 4))
    assert [e[0] for e in events(tmp_path)] == list(range(400))
    assert log.sources() == {f"file:{n}": 100 for n in range(4)}


def test_a_growing_table_is_logged_once(tmp_path):
    """Each instrument enters the log one time, however its source's table grows."""
    table: list[Instrument] = []
    log = LogWriter(tmp_path, AT_ONCE)
    for at in range(0, 200, 5):
        log.append(growing(at, 5, table), origin=Origin.REPLAY)
    log.close()
    assert [e.symbol for e in log.instruments] == [f"S{n}" for n in range(20)]
    assert log.status.pending_bytes == 0
