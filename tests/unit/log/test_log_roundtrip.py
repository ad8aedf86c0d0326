from __future__ import annotations

from dataclasses import replace

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from market_data_core.batch import Instrument, Instruments, SourceBatch, unlogged
from market_data_core.clock import ManualClock
from market_data_core.errors import LogError
from market_data_core.protocols import END_OF_TIME_NS, Mark
from market_data_core.schemas import TABLE_SCHEMAS, UNLOGGED_SCHEMAS, Kind, Origin
from market_data_pipeline.log import LogReader, LogWriter, RecordType
from support.logs import AT_ONCE, TABLE, TINY, drain, events, growing, named_right, prices, read_all, trades

TEXTS = ["", "plain", None, "ünïcødé ☃", "zero\0byte", "x" * 5000]


def of_kind(kind: Kind) -> SourceBatch:
    columns: dict[str, object] = {"instrument": [2, 0, 1, 0, 2, 1], "ts_event": [5, -1, 0, 2**62, 7, 7]}
    for field in UNLOGGED_SCHEMAS[kind]:
        if field.name in {"instrument", "ts_event", "ts_recv", "flags"}:
            continue
        if field.type == pa.string():
            columns[field.name] = TEXTS
        elif field.type == pa.float64():
            columns[field.name] = [0.1, -0.0, None, 1e308, float("inf"), 5e-324]
        else:
            columns[field.name] = [0, -1, None, 2**31 - 1, 1, 2]
    return SourceBatch(kind=kind, data=unlogged(kind, 6, columns), instruments=TABLE)


@pytest.mark.parametrize("kind", list(Kind))
def test_every_kind_comes_back_as_it_went_in(tmp_path, kind):
    """Nulls, empty and long texts, signed zeros and infinities survive in every kind."""
    batch = of_kind(kind)
    with_log = LogWriter(tmp_path, AT_ONCE)
    with_log.append(batch, origin=Origin.BACKFILL, partition=65535)
    with_log.close()
    with LogReader(tmp_path, 0) as reader:
        record = drain(reader)[0]
        got = record.events(reader.instruments)
    assert (record.kind, record.origin, record.partition, got.offset) == (kind, Origin.BACKFILL, 65535, 0)
    assert got.data.drop_columns("seq").equals(batch.data)
    assert got.column("seq").tolist() == list(range(6))
    table = got.to_table()
    assert table.schema == TABLE_SCHEMAS[kind]
    assert table.column("symbol").to_pylist() == [TABLE[i].symbol for i in batch.data.column(0).to_pylist()]


def test_a_slice_of_a_batch_is_logged_alone(tmp_path):
    """A batch that views a part of a larger one brings that part, not the whole."""
    whole = trades(0, 1000)
    part = replace(whole, data=whole.data.slice(500, 3))
    log = LogWriter(tmp_path, AT_ONCE)
    log.append(part, origin=Origin.REPLAY)
    log.close()
    assert prices(tmp_path) == [500, 501, 502]
    assert log.status.size_bytes < 2000


def test_marks_and_control_records_come_back(tmp_path):
    """Punctuation and control records keep what they say, and take a sequence number each."""
    clock = ManualClock(77)
    log = LogWriter(tmp_path, AT_ONCE, clock=clock)
    log.mark(Mark(vendor="v", ts_ns=END_OF_TIME_NS, symbols=("A", "B"), source_id="f", offset=9), origin=Origin.REPLAY)
    log.mark(Mark(vendor="v", ts_ns=1), origin=Origin.LIVE, idle=True)
    log.control("pause", {"actor": "ops", "deadline": 3})
    log.close()
    first, second, third = read_all(tmp_path)
    assert first.meta == {"v": "v", "t": END_OF_TIME_NS, "y": ["A", "B"], "s": "f", "o": 9}
    assert second.meta == {"v": "v", "t": 1, "idle": True}
    assert third.meta == {"a": "pause", "actor": "ops", "deadline": 3}
    assert [r.type for r in (first, second, third)] == [RecordType.MARK, RecordType.MARK, RecordType.CONTROL]
    assert all(r.barrier and r.count == 1 and r.ts_append == 77 for r in (first, second, third))


def test_a_record_across_the_position_is_given_whole(tmp_path):
    """Reading from the middle of a record gives that record; what ends before is passed over."""
    log = LogWriter(tmp_path, AT_ONCE)
    for start in (0, 10, 20):
        log.append(trades(start, 10), origin=Origin.REPLAY)
    log.close()
    assert prices(tmp_path, 15)[0] == 10
    assert prices(tmp_path, 20)[0] == 20


def test_sources_keep_their_own_instrument_numbers(tmp_path):
    """Tables that overlap, grow and repeat vendors' symbols all map to the right instruments of the log."""
    one = [Instrument(vendor="v", symbol="A")]
    two = [Instrument(vendor="w", symbol="A"), Instrument(vendor="v", symbol="A")]
    log = LogWriter(tmp_path, AT_ONCE)
    for at in range(0, 60, 3):
        log.append(trades(at, 3, table=one), origin=Origin.REPLAY)
        log.append(trades(at, 3, source_id="file:y", table=two), origin=Origin.REPLAY)
        one.append(Instrument(vendor="v", symbol=f"N{at}"))
        two.append(Instrument(vendor="w" if at % 2 else "v", symbol=f"N{at}"))
    log.close()
    with LogReader(tmp_path, 0) as reader:
        for record in drain(reader):
            if record.type is RecordType.EVENTS:
                at = record.offset // 3
                table = one[:at] if record.source_id == "file:x" else two[: at + 1]
                rows = record.events(reader.instruments).to_table().select(["seq", "vendor", "symbol", "price"])
                assert named_right([tuple(r.values()) for r in rows.to_pylist()], table)
    assert len(log.instruments) == len({(e.vendor, e.symbol) for e in [*one[:-1], *two[:-1]]})


def test_instruments_survive_rolls_trims_and_reopening(tmp_path):
    """Instruments first seen in segments that are gone are still known, from the newest alone."""
    table: list[Instrument] = []
    for start in range(0, 300, 100):
        log = LogWriter(tmp_path, replace(TINY, retention_s=0.0))
        for at in range(start, start + 100, 5):
            log.append(growing(at, 5, table), origin=Origin.REPLAY)
            assert log.wait_durable(log.end, 5)
        assert log.trim(log.end - 20) > 0
        log.close()
    first = min(int(p.stem) for p in tmp_path.glob("*.log"))
    found = events(tmp_path, first)
    assert found
    assert all(symbol == f"S{int(price) // 10}" for _, _, symbol, price in found)


def test_an_empty_batch_takes_no_number(tmp_path):
    """No rows, no record."""
    log = LogWriter(tmp_path, AT_ONCE)
    assert log.append(trades(0, 0), origin=Origin.REPLAY) == 0
    log.close()
    assert read_all(tmp_path) == []


def test_a_batch_reaches_a_barrier_by_itself(tmp_path):
    """After so many rows a barrier comes without being asked for, and none comes twice."""
    log = LogWriter(tmp_path, replace(AT_ONCE, barrier_rows=20))
    for at in range(0, 50, 10):
        log.append(trades(at, 10), origin=Origin.REPLAY)
    log.barrier()
    log.barrier()
    log.close()
    assert [r.barrier for r in read_all(tmp_path)] == [False, True, False, True, False, True]


def test_a_log_that_ended_without_a_barrier_gets_one(tmp_path):
    """Operators of the next process never wait for a barrier that the last one did not come to."""
    log = LogWriter(tmp_path, AT_ONCE)
    log.append(trades(0, 10), origin=Origin.REPLAY)
    assert log.wait_durable(10, 5)
    copied = tmp_path / "copy"
    copied.mkdir()
    for path in tmp_path.glob("*.log"):
        (copied / path.name).write_bytes(path.read_bytes())
    log.close()
    reopened = LogWriter(copied, AT_ONCE)
    assert reopened.wait_durable(11, 5)
    reopened.close()
    assert read_all(copied)[-1].barrier


def test_corrupt_records_cannot_be_decoded(tmp_path):
    """Asking a record without events for events is an error that says which."""
    log = LogWriter(tmp_path, AT_ONCE)
    log.control("pause")
    log.close()
    with pytest.raises(LogError, match="seq 0 to 1"):
        read_all(tmp_path)[0].events(Instruments())


class History:
    """A log, what was put into it, and a reader that follows it."""

    def __init__(self, folder, options):
        self.folder, self.options = folder, options
        self.log = LogWriter(folder, options)
        self.follower = LogReader(folder, 0)
        self.tables = {"file:x": list(TABLE), "file:y": [Instrument(vendor="u", symbol="Z")]}
        self.offsets: dict[str, int] = {}
        self.expected: list[tuple[int, str, str, float]] = []
        self.followed: list[int] = []
        self.kept_from = 0

    def append(self, source, count):
        table, start = self.tables[source], self.offsets.get(source, 0)
        first = self.log.append(trades(start, count, source, table), origin=Origin.REPLAY)
        self.offsets[source] = start + count
        for n in range(count):
            entry = table[(start + n) % len(table)]
            self.expected.append((first + n, entry.vendor, entry.symbol, float(start + n)))

    def mark(self, source, count):
        self.log.mark(Mark(vendor="v", ts_ns=count), origin=Origin.REPLAY)

    def control(self, source, count):
        self.log.control("session", {"n": count})

    def barrier(self, source, count):
        self.log.barrier()

    def durable(self, source, count):
        assert self.log.wait_durable(self.log.end, 5)

    def grow(self, source, count):
        table = self.tables[source]
        table.append(Instrument(vendor="g", symbol=f"G{len(table)}"))

    def reopen(self, source, count):
        self.log.close()
        self.log = LogWriter(self.folder, self.options)
        assert self.log.sources() == self.offsets
        assert not self.log.status.reports

    def trim(self, source, count):
        self.kept_from = self.follower.position
        self.log.trim(self.kept_from)

    def read(self, source, count):
        self.followed.extend(r.first_seq + n for r in drain(self.follower) for n in range(r.count))

    def end(self):
        self.log.close()
        self.read("", 0)
        self.follower.close()


ACTIONS = ["append", "append", "append", "mark", "control", "barrier", "durable", "grow", "reopen", "trim", "read"]
OPS = st.lists(
    st.tuples(st.sampled_from(ACTIONS), st.sampled_from(["file:x", "file:y"]), st.integers(1, 30)),
    min_size=1,
    max_size=40,
)


@settings(max_examples=60, deadline=None)
@given(ops=OPS, segment_bytes=st.integers(1, 3000), group_bytes=st.integers(1, 4000), data=st.data())
def test_any_history_reads_back_exactly(tmp_path_factory, ops, segment_bytes, group_bytes, data):
    """Appends, marks, rolls, trims and reopenings in any order: from any position everything after it is there."""
    folder = tmp_path_factory.mktemp("log")
    options = replace(AT_ONCE, segment_bytes=segment_bytes, group_bytes=group_bytes, retention_s=0.0, fsync=False)
    history = History(folder, options)
    for action, source, count in ops:
        getattr(history, action)(source, count)
    history.end()
    log = history.log
    assert history.followed == list(range(log.end))
    assert log.durable_end == log.end
    position = data.draw(st.integers(history.kept_from, log.end))
    assert [e for e in events(folder, position) if e[0] >= position] == [
        e for e in history.expected if e[0] >= position
    ]
    assert not log.status.problem
    assert log.status.pending_bytes == 0
    assert log.status.size_bytes == sum(p.stat().st_size for p in folder.glob("*.log"))
