"""Capture: from sources into the log."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Mapping

import numpy as np
import pytest

from market_data_core.batch import Instrument, SourceBatch, unlogged
from market_data_core.errors import SourceError
from market_data_core.protocols import END_OF_TIME_NS, Gap, Mark
from market_data_core.schemas import Flag, Kind, Origin
from market_data_pipeline.capture import Capture, CaptureSettings
from market_data_pipeline.log import LogReader, LogSettings, LogWriter, RecordType
from support.service import eventually

INSTRUMENTS = [Instrument(vendor="test", symbol="A", price_decimals=2, size_decimals=0)]


def trades(first: int, count: int, *, source_id: str = "file:a", ts_event: int | None = None) -> SourceBatch:
    ts = np.arange(first, first + count) + 1 if ts_event is None else np.full(count, ts_event)
    columns = {"instrument": np.zeros(count), "ts_event": ts, "price": np.full(count, 1.5), "size": np.ones(count)}
    data = unlogged(Kind.TRADES, count, columns)
    return SourceBatch(
        kind=Kind.TRADES,
        data=data,
        instruments=INSTRUMENTS,
        source_id=source_id,
        offset=first + count if source_id else 0,
    )


class Given:
    """A source that gives what it is told to, then ends, fails or waits."""

    def __init__(self, items, *, waits=True, fails=None, stays=False, name="given"):
        self.items, self.waits, self.fails, self.stays, self.name = items, waits, fails, stays, name
        self.origin = Origin.REPLAY
        self.resumed: dict[str, int] = {}
        self.closed = 0
        self.over = asyncio.Event()

    async def batches(self, resume: Mapping[str, int]) -> AsyncIterator[SourceBatch | Mark]:
        self.resumed = dict(resume)
        for item in self.items:
            yield item
            await asyncio.sleep(0)
        if self.fails:
            raise self.fails
        if self.stays:
            await self.over.wait()

    async def close(self) -> None:
        self.closed += 1
        self.over.set()


@pytest.fixture
def log(tmp_path):
    writer = LogWriter(tmp_path / "log")
    yield writer
    writer.close()


@pytest.fixture
def capture(log):
    running = Capture(log, settings=CaptureSettings(barrier_s=0.02, idle_mark_s=0.05))
    running.start()
    yield running
    running.stop()


def records(log, tmp_path):
    log.barrier()
    log.wait_durable(log.end, 5)
    with LogReader(tmp_path / "log", 0) as reader:
        return [(r, r.events(reader.instruments) if r.type is RecordType.EVENTS else None) for r in reader.read()]


def test_events_are_logged_in_order_with_a_receive_time(capture, log, tmp_path):
    """What a source gives is in the log once, in order, stamped on arrival."""
    before = time.time_ns()
    status = capture.add(Given([trades(0, 10), trades(10, 5)]), {"file:a": 0})
    eventually(lambda: status.state == "done", 5, "the source ends")
    events = [batch for _, batch in records(log, tmp_path) if batch is not None]
    assert [len(b) for b in events] == [10, 5]
    assert np.concatenate([b.column("ts_event") for b in events]).tolist() == list(range(1, 16))
    assert all((b.column("ts_recv") >= before).all() for b in events)
    assert status.events == 15
    assert log.sources() == {"file:a": 15}


def test_a_source_goes_on_where_it_is_told_to(capture):
    """The offsets to resume from reach the source."""
    source = Given([])
    status = capture.add(source, {"file:a": 42})
    eventually(lambda: status.state == "done", 5, "the source ends")
    assert source.resumed == {"file:a": 42}
    assert source.closed


def test_events_without_a_venue_time_get_ours_and_a_flag(capture, log, tmp_path):
    """Where the venue gives no time, event time equals receive time and a flag says so."""
    status = capture.add(Given([trades(0, 3, ts_event=0)]), {})
    eventually(lambda: status.state == "done", 5, "the source ends")
    (batch,) = [batch for _, batch in records(log, tmp_path) if batch is not None]
    assert (batch.column("ts_event") == batch.column("ts_recv")).all()
    assert (batch.column("flags") & Flag.TS_EVENT_SYNTHETIC).all()


def test_a_source_that_fails_ends_alone(capture):
    """A failure is the source's own: what it gave stands, others go on, and the cause is shown."""
    failing = capture.add(Given([trades(0, 4)], fails=SourceError("line 5 is gone"), name="failing"), {})
    healthy = capture.add(Given([trades(0, 6, source_id="file:b")], name="healthy"), {})
    eventually(lambda: failing.state == "failed" and healthy.state == "done", 5, "both end")
    assert failing.problem == "line 5 is gone"
    assert (failing.events, healthy.events) == (4, 6)


def test_a_mark_of_the_source_is_logged_as_one_of_its_events(capture, log, tmp_path):
    """Punctuation takes a sequence number and moves the source's offset."""
    mark = Mark(vendor="test", ts_ns=END_OF_TIME_NS, source_id="file:a", offset=11)
    status = capture.add(Given([trades(0, 10), mark]), {})
    eventually(lambda: status.state == "done", 5, "the source ends")
    found = [r for r, _ in records(log, tmp_path) if r.type is RecordType.MARK]
    assert [(r.source_id, r.offset, r.count, r.barrier) for r in found] == [("file:a", 11, 1, True)]
    assert log.sources() == {"file:a": 11}


def test_a_gap_that_a_source_speaks_of_is_logged_where_it_is_and_told(log, tmp_path):
    """Between the events before and after it stands a control record, and whoever keeps gaps hears of it."""
    gap = Gap(vendor="test", symbols=("AAA",), from_ns=5, to_ns=9, cause="source_failed")
    told: list[Gap] = []
    capture = Capture(log, marker=told.append)
    capture.start()
    try:
        status = capture.add(Given([trades(0, 2), gap, trades(2, 2)]), {})
        eventually(lambda: status.state == "done", 5, "the source ends")
    finally:
        capture.stop()
    assert told == [gap]
    logged = [r for r, _ in records(log, tmp_path)]
    (place,) = [i for i, r in enumerate(logged) if r.type is RecordType.CONTROL and r.meta["a"] == "gap"]
    assert (logged[place].meta["cause"], logged[place].meta["symbols"]) == ("source_failed", ["AAA"])
    assert [logged[place - 1].offset, logged[place + 1].offset] == [2, 4]


def test_a_quiet_live_source_puts_its_time_on_record(capture, log, tmp_path):
    """While a live source is silent, marks let the windows of its instruments close; they are no events of it."""
    source = Given([trades(0, 2)], waits=False, stays=True)
    capture.add(source, {})

    def idle_marks():
        return [r for r, _ in records(log, tmp_path) if r.type is RecordType.MARK]

    eventually(lambda: len(idle_marks()) >= 2, 5, "marks are logged")
    assert all(r.meta["idle"] and r.offset == 2 for r in idle_marks())
    assert log.sources() == {"file:a": 2}


def test_taps_see_events_with_their_numbers_and_are_told_what_they_missed(log):
    """A tap gets batches as appended; one that does not look drops the oldest and says how many events."""
    capture = Capture(log)
    capture.start()
    try:
        attentive, slow = capture.taps.open(), capture.taps.open(limit=2)
        status = capture.add(Given([trades(i * 10, 10) for i in range(5)]), {})
        eventually(lambda: status.state == "done", 5, "the source ends")
        items, missed = attentive.take()
        assert [i.first_seq for i in items] == sorted({i.first_seq for i in items})
        assert (sum(i.batch.data.num_rows for i in items), missed) == (50, 0)
        items, missed = slow.take()
        assert (sum(i.batch.data.num_rows for i in items), missed) == (20, 30)
        assert slow.take() == ([], 0)
    finally:
        capture.stop()


def test_a_source_that_can_wait_is_slowed_by_what_is_not_stored(log):
    """Above the soft limit at half speed, above the hard one not at all, and at full speed when it is stored."""
    stored = [0]
    settings = CaptureSettings(lag_rows=50, lag_rows_hard=100)
    capture = Capture(log, settings=settings, stored_to=lambda: stored[0])
    capture.start()
    try:
        status = capture.add(Given([trades(i * 10, 10) for i in range(40)]), {})
        eventually(lambda: status.state == "waiting" and status.scale == 0.0, 5, "the source waits")
        assert log.end <= 120
        stored[0] = 10**9
        eventually(lambda: status.state == "done", 5, "it goes on")
        assert (status.events, status.scale) == (400, 1.0)
    finally:
        capture.stop()


@pytest.mark.parametrize("waits", [True, False])
def test_a_full_log_holds_up_replay_and_opens_a_gap_for_live(tmp_path, waits):
    """Without room a source that can wait waits and loses nothing; of a live one a gap tells what was refused."""
    settings = LogSettings(
        max_bytes=400_000, segment_bytes=50_000, group_bytes=10_000, pending_bytes=50_000, retention_s=0
    )
    log = LogWriter(tmp_path / "log", settings)
    gaps: list[tuple[str, str, bool]] = []
    capture = Capture(log, gap=lambda source, cause, *, begins: gaps.append((source, cause, begins)))
    capture.start()
    try:
        status = capture.add(Given([trades(i * 100, 100) for i in range(120)], waits=waits, stays=not waits), {})
        eventually(lambda: status.state == "waiting", 10, "the log is full")
        if not waits:
            eventually(lambda: status.refused > 0, 5, "live events are refused")
            assert gaps == [("given", "log_full", True)]

        def room():
            log.trim(log.durable_end)
            return status.state == "done" if waits else log.durable_end == log.end

        eventually(room, 20, "it goes on by itself once there is room")
        if waits:
            assert (status.events, status.refused, gaps) == (12_000, 0, [])
        else:
            assert status.events + status.refused == 12_000
    finally:
        capture.stop()
        log.close()
