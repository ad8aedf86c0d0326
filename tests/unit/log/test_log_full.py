from __future__ import annotations

import resource
import signal
import threading
from dataclasses import replace

import pytest

from market_data_core import disk
from market_data_core.errors import LogError, LogFull
from market_data_core.schemas import Origin
from market_data_pipeline.log import LogReader, LogSettings, LogWriter, RecordType
from support.logs import AT_ONCE, TINY, drain, events, prices, trades


@pytest.fixture
def file_limit():
    """Makes the kernel refuse to let files grow beyond a size; whatever the cause, this is what a failed write is."""
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (limits[0] if size is None else size, limits[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    signal.signal(signal.SIGXFSZ, before)


@pytest.fixture
def failing_sync():
    """A disk whose log syncs fail until it is told otherwise: the bytes are in the file, and not to be relied on."""
    mended = threading.Event()

    def observe(what, path):
        if what == "file" and path.suffix == ".log" and not mended.is_set():
            raise OSError(5, "Input/output error")

    yield lambda: disk.observe(observe), mended
    disk.observe(None)


def until(claim, log, timeout_s=10.0):
    """Wait until a claim about a log's status holds; its condition is notified at every change."""
    with log._condition:
        assert log._condition.wait_for(claim, timeout_s), log.status


def fill(log, at=0, size=20):
    """Append until the log is full; return how many trades it took."""
    for _ in range(100_000):
        try:
            log.append(trades(at, size), origin=Origin.REPLAY)
        except LogFull:
            return at
        at += size
    raise AssertionError("never full")


def test_a_full_disk_refuses_and_goes_on(small_disk):
    """With the disk full appending is refused; with room again what waited is written, nothing lost or doubled."""
    ballast = small_disk / "ballast"
    ballast.write_bytes(b"x" * 1_000_000)
    folder = small_disk / "log"
    log = LogWriter(folder, replace(AT_ONCE, segment_bytes=100_000, pending_bytes=100_000))
    with LogReader(folder, 0) as reader:
        taken = fill(log)
        assert log.status.full
        assert log.status.problem
        assert 0 < log.status.pending_bytes <= log._settings.pending_bytes
        seen = sum(r.count for r in drain(reader))
        assert seen == log.durable_end < taken
        ballast.unlink()
        until(lambda: not log.status.full and not log.status.pending_bytes, log)
        assert log.status.problem == ""
        log.append(trades(taken, 20), origin=Origin.REPLAY)
        log.close()
        drain(reader)
        assert reader.position == log.end
    assert prices(folder) == list(range(taken + 20))
    assert log.status.size_bytes == sum(p.stat().st_size for p in folder.glob("*.log"))


def test_a_log_opens_on_a_full_disk(small_disk):
    """A torn tail on a disk without a byte free is cut all the same, and written on once there is room."""
    folder = small_disk / "log"
    log = LogWriter(folder, AT_ONCE)
    log.append(trades(0, 50), origin=Origin.REPLAY)
    log.close()
    with max(folder.glob("*.log")).open("ab") as file:
        file.write(b"torn" * 3000)
    ballast = small_disk / "ballast"
    with pytest.raises(OSError, match="No space"):
        ballast.write_bytes(b"x" * 4_000_000)
    again = LogWriter(folder, AT_ONCE)
    assert any("torn tail" in report for report in again.status.reports)
    again.append(trades(50, 50), origin=Origin.REPLAY)
    ballast.unlink()
    again.close()
    assert prices(folder) == list(range(100))


def test_the_reserve_is_left_to_commits(small_disk):
    """The log stops while there is room for what makes room; trimming lets it go on."""
    folder = small_disk / "log"
    settings = LogSettings(linger_s=0.0, reserve_bytes=1_000_000, segment_bytes=64 << 20, group_bytes=20_000)
    settings = replace(settings, pending_bytes=100_000)
    log = LogWriter(folder, settings)
    taken = fill(log)
    until(lambda: "kept for commits" in log.status.problem, log)
    position = log.durable_end
    assert prices(folder) == list(range(position))
    # One segment holds it all; it can go because a new one was begun when room ran out.
    assert log.trim(position) == 1
    until(lambda: not log.status.full, log)
    assert log.append(trades(taken, 20), origin=Origin.REPLAY) == log.end - 20
    log.close()
    assert events(folder, position)[-1][3] == taken + 19


def test_the_limit_refuses_until_consumers_are_further(tmp_path):
    """At max_bytes appending is refused; after a trim all that waited is there, in order."""
    log = LogWriter(tmp_path, replace(AT_ONCE, max_bytes=20_000))
    taken = fill(log, size=5)
    assert "of at most 20000 bytes" in log.status.problem
    assert sum(p.stat().st_size for p in tmp_path.glob("*.log")) < 21_000
    rounds = 0
    position = 0
    seen: list[int] = []
    with LogReader(tmp_path, 0) as reader:
        while reader.position < log.end:
            for record in drain(reader):
                if record.type is RecordType.EVENTS:
                    seen.extend(int(p) for p in record.events(reader.instruments).floats("price"))
            log.trim(reader.position)
            assert log.wait_durable(min(reader.position + 1, log.end), 10)
            rounds += 1
            assert rounds < 1000
            position = reader.position
    assert seen == list(range(taken))
    assert position == log.end
    log.append(trades(taken, 5), origin=Origin.REPLAY)
    log.close()


def test_a_limit_smaller_than_a_segment_is_no_standstill(tmp_path):
    """A batch that fills the limit alone is written, and gone again once it was read."""
    log = LogWriter(tmp_path, replace(AT_ONCE, max_bytes=8000, segment_bytes=1 << 20))
    end = 0
    for at in range(0, 1000, 50):
        end = log.append(trades(at, 50), origin=Origin.REPLAY) + 50
        while not log.wait_durable(end, 0.02):
            log.trim(log.durable_end)
    log.close()
    assert prices(tmp_path, end - 50) == list(range(950, 1000))


def test_control_records_are_taken_by_a_full_log(tmp_path):
    """That intake was paused because the log is full must itself be on record."""
    log = LogWriter(tmp_path, replace(AT_ONCE, max_bytes=6000))
    fill(log, size=5)
    seq = log.control("pause")
    assert log.end == seq + 1
    log.trim(log.durable_end)
    while not log.wait_durable(log.end, 0.02):
        log.trim(log.durable_end)
    log.close()


def test_a_write_cut_short_is_mended(tmp_path, file_limit):
    """A group that reached the file in part is cut off again and written whole elsewhere; readers see it once."""
    log = LogWriter(tmp_path, AT_ONCE)
    log.append(trades(0, 20), origin=Origin.REPLAY)
    assert log.wait_durable(20, 5)
    path = min(tmp_path.glob("*.log"))
    with LogReader(tmp_path, 0) as reader, LogReader(tmp_path, 0, durable=lambda: 21) as eager:
        found = [r.first_seq for r in drain(reader)]
        file_limit(path.stat().st_size + 1000)
        for at in range(20, 60, 20):
            log.append(trades(at, 20), origin=Origin.REPLAY)
        until(lambda: log.status.problem, log)
        assert "File too large" in log.status.problem
        assert not log.status.full
        assert log.durable_end == 20
        # What lies in the file beyond the durable end has been read ahead by now.
        assert [r.first_seq for r in drain(eager)] == [0]
        assert list(reader.read()) == []
        file_limit(None)
        assert log.wait_durable(60, 10)
        assert log.status.problem == ""
        log.close()
        found += [r.first_seq for r in drain(reader)]
    assert found == [0, 20, 40, 60]
    assert not reader.problems
    assert prices(tmp_path) == list(range(60))
    assert log.status.size_bytes == sum(p.stat().st_size for p in tmp_path.glob("*.log"))


@pytest.mark.parametrize("before", [0, 30])
def test_a_failed_sync_is_not_believed(tmp_path, failing_sync, before):
    """Bytes whose sync failed are not durable though they can be read; a reader that has them sees each record once."""
    start, mended = failing_sync
    log = LogWriter(tmp_path, TINY)
    for at in range(0, before, 10):
        log.append(trades(at, 10), origin=Origin.REPLAY)
        assert log.wait_durable(at + 10, 5)
    with LogReader(tmp_path, 0) as reader:
        found = [r.first_seq for r in drain(reader)]
        start()
        for at in range(before, before + 30, 10):
            log.append(trades(at, 10), origin=Origin.REPLAY)
        until(lambda: log.status.problem, log)
        assert "Input/output error" in log.status.problem
        assert list(reader.read()) == []
        assert log.durable_end == before
        mended.set()
        assert log.wait_durable(before + 30, 10)
        log.close()
        found += [r.first_seq for r in drain(reader)]
    assert found == [*range(0, before + 30, 10), before + 30]
    assert not reader.problems
    assert prices(tmp_path) == list(range(before + 30))


def test_a_segment_begun_anew_under_its_name_is_followed(tmp_path, file_limit):
    """A reader that has the first, unlucky life of a segment open goes on with the second."""
    file_limit(600)
    log = LogWriter(tmp_path, AT_ONCE)
    log.append(trades(0, 20), origin=Origin.REPLAY)
    until(lambda: log.status.problem, log)
    # The end it is told lies beyond what is there: it opens the segment, of which only the beginning fits, and waits.
    with LogReader(tmp_path, 0, durable=lambda: max(log.durable_end, 1)) as reader:
        assert drain(reader) == []
        file_limit(None)
        assert log.wait_durable(20, 10)
        assert [r.count for r in drain(reader)] == [20]
    log.close()


def test_closing_while_nothing_can_be_written_says_how_much_is_lost(tmp_path, failing_sync):
    """It comes back in time, with the number of events that are not durable; the next writer can begin."""
    start, mended = failing_sync
    log = LogWriter(tmp_path, AT_ONCE)
    start()
    log.append(trades(0, 10), origin=Origin.REPLAY)
    with pytest.raises(LogError, match=r"11 events .* not durable: .*Input/output"):
        log.close(timeout_s=0.1)
    mended.set()
    again = LogWriter(tmp_path, AT_ONCE)
    assert again.sources() in ({}, {"file:x": 10})
    again.append(trades(again.sources().get("file:x", 0), 10), origin=Origin.REPLAY)
    again.close()
    found = prices(tmp_path)
    assert found == list(range(len(found)))
