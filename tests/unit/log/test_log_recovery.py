from __future__ import annotations

import shutil
from dataclasses import replace

import pyarrow as pa
import pytest

from market_data_core.batch import Instrument
from market_data_core.errors import LogError
from market_data_core.schemas import Origin
from market_data_pipeline.log import LogReader, LogWriter, RecordType, read_durable
from support.logs import (
    AT_ONCE,
    TINY,
    drain,
    events,
    flip,
    flip_header,
    growing,
    named_right,
    places,
    prices,
    read_all,
    trades,
)


def write(folder, records, settings=AT_ONCE):
    """Append records of ten trades each, every one a group, from source ids; a text without colon is a live source."""
    log = LogWriter(folder, settings)
    for at, source in enumerate(records):
        log.append(trades(at * 10, 10, source if ":" in source else ""), origin=Origin.REPLAY)
        assert log.wait_durable(log.end, 5)
    log.close()
    return log


def segments(folder):
    return sorted(folder.glob("*.log"))


def event_places(path):
    return [p for p in places(path) if p[1] is RecordType.EVENTS]


def copy_of(folder, target, size=None):
    shutil.copytree(folder, target)
    (target / "durable").unlink(missing_ok=True)
    if size is not None:
        with segments(target)[-1].open("r+b") as file:
            file.truncate(size)
    return target


def test_a_tail_torn_at_any_byte_is_cut_to_whole_records(tmp_path):
    """Wherever in the last record writing stopped, all before it is kept and the next number follows on."""
    one = tmp_path / "one"
    log = LogWriter(one, AT_ONCE)
    log.append(trades(0, 10), origin=Origin.REPLAY)
    assert log.wait_durable(10, 5)
    log.append(trades(10, 2), origin=Origin.REPLAY)
    assert log.wait_durable(12, 5)
    path = segments(one)[0]
    last = places(path)[-1]
    content = path.read_bytes()
    log.close()
    for size in range(last[0], last[0] + last[3]):
        torn = tmp_path / "torn"
        torn.mkdir()
        (torn / path.name).write_bytes(content[:size])
        reopened = LogWriter(torn, replace(AT_ONCE, fsync=False))
        assert reopened.sources() == {"file:x": 10}
        assert len(reopened.status.reports) == (size > last[0])
        # A barrier comes first: the one before ended without.
        reopened.append(trades(10, 5), origin=Origin.REPLAY)
        reopened.close()
        assert [e[0] for e in events(torn)] == [*range(10), *range(11, 16)]
        assert prices(torn) == list(range(15))
        shutil.rmtree(torn)


@pytest.mark.parametrize("harm", ["payload", "header"])
@pytest.mark.parametrize("nth", range(6))
def test_damage_in_the_last_write_begins_no_epoch(tmp_path, nth, harm):
    """A power cut may leave a hole anywhere in the last write: nobody was told of its numbers, they are used again."""
    left = after_a_power_cut(tmp_path, "file:x", nth, harm)
    log = LogWriter(left, AT_ONCE)
    acknowledged = nth < 3
    assert (log.new_epoch, len(log.status.reports)) == (acknowledged, 1 + acknowledged)
    assert log.sources() == ({"file:x": nth * 10} if nth else {})
    # A barrier comes first where what is there ends without, and in a new epoch.
    begin = 61 if acknowledged else nth * 10 + (nth > 3)
    assert log.append(trades(nth * 10, 10), origin=Origin.REPLAY) == begin
    log.close()
    assert prices(left) == list(range(nth * 10 + 10))


@pytest.mark.parametrize("harm", ["payload", "header"])
@pytest.mark.parametrize("nth", range(6))
def test_damage_in_the_last_write_of_a_live_source_costs_no_other_record(tmp_path, nth, harm):
    """What follows it was not acknowledged either, and cannot be had again: it is kept, unless nothing follows."""
    left = after_a_power_cut(tmp_path, "", nth, harm)
    log = LogWriter(left, AT_ONCE)
    assert not log.new_epoch
    assert [(d.first_seq, d.count) for d in log.recovered.damages] == ([(nth * 10, 10)] if nth < 5 else [])
    log.close()
    assert prices(left) == [n for n in range(60) if n // 10 != nth]


def after_a_power_cut(folder, source, nth, harm):
    """A copy, as a power cut leaves it, of a log of two groups of three records with the n-th record damaged."""
    size = pa.ipc.get_record_batch_size(trades(0, 10).data)
    log = LogWriter(folder / "log", replace(AT_ONCE, linger_s=60, group_bytes=3 * size, barrier_rows=30))
    for at in range(0, 60, 10):
        log.append(trades(at, 10, source), origin=Origin.REPLAY)
        assert at % 30 < 20 or log.wait_durable(log.end, 5)
    assert log.status.groups == 2
    left = copy_of(folder / "log", folder / "left")
    log.close()
    path = segments(left)[0]
    at, _, payload, _ = event_places(path)[nth]
    flip(path, payload + 100) if harm == "payload" else flip_header(path, at)
    return left


@pytest.mark.parametrize("zeros", [True, False])
def test_a_tail_of_nonsense_is_cut(tmp_path, zeros):
    """Zeros or noise, as a power cut may leave them at the end, are cut and kept aside."""
    write(tmp_path, ["file:x"])
    nonsense = b"\0" * 5000 if zeros else bytes(range(256)) * 20
    with segments(tmp_path)[-1].open("ab") as file:
        file.write(nonsense)
    write(tmp_path, ["file:x"])
    assert prices(tmp_path) == [*range(10), *range(10)]
    assert (kept := list((tmp_path / "quarantine").iterdir()))
    assert kept[0].read_bytes() == nonsense


def test_damaged_payload_of_a_live_source_is_stepped_over_and_counted(tmp_path):
    """What nobody can give again costs its own record alone, and readers are told how many."""
    write(tmp_path, ["live"] * 5)
    at = event_places(segments(tmp_path)[0])[2]
    flip(segments(tmp_path)[0], at[2] + at[3] // 2)
    log = LogWriter(tmp_path, AT_ONCE)
    assert [(d.first_seq, d.count) for d in log.recovered.damages] == [(20, 10)]
    assert not log.new_epoch
    log.close()
    records = [r for r in read_all(tmp_path) if r.type is RecordType.EVENTS]
    assert [(r.first_seq, r.count, r.corrupt) for r in records] == [(n * 10, 10, n == 2) for n in range(5)]
    with pytest.raises(LogError, match="seq 20 to 30"):
        records[2].events(log.instruments)


def test_damaged_header_of_a_live_source_is_stepped_over_and_reported(tmp_path):
    """Where the header is gone too, the next record is found, and the problem says which numbers are lost."""
    write(tmp_path, ["live"] * 5)
    flip_header(segments(tmp_path)[0], event_places(segments(tmp_path)[0])[2][0])
    log = LogWriter(tmp_path, AT_ONCE)
    assert [(d.first_seq, d.count) for d in log.recovered.damages] == [(20, 10)]
    log.close()
    with LogReader(tmp_path, 0) as reader:
        assert [r.first_seq for r in drain(reader) if r.type is RecordType.EVENTS] == [0, 10, 30, 40]
        assert any("seq 20 to 30" in problem for problem in reader.problems)


def test_damage_is_cut_where_sources_give_the_rest_again(tmp_path):
    """A log of files alone is cut at the damage; its numbers are not used again, and the sources resume there."""
    write(tmp_path, ["file:x"] * 5, TINY)
    assert len(segments(tmp_path)) > 1
    end = read_durable(tmp_path)
    path = segments(tmp_path)[1]
    flip(path, event_places(path)[0][2] + 100)
    log = LogWriter(tmp_path, TINY)
    assert log.sources() == {"file:x": 10}
    assert log.new_epoch
    assert log.end >= end
    first = log.append(trades(10, 40), origin=Origin.REPLAY)
    log.close()
    assert prices(tmp_path) == list(range(50))
    assert [e[0] for e in events(tmp_path)] == [*range(10), *range(first, first + 40)]


def test_damage_to_what_was_live_is_not_cut(tmp_path):
    """Though all that follows could be given again, what is damaged could not: it is counted, not forgotten."""
    write(tmp_path, ["file:x", "live", "file:x", "file:x"])
    flip(segments(tmp_path)[0], event_places(segments(tmp_path)[0])[1][2] + 100)
    log = LogWriter(tmp_path, AT_ONCE)
    log.close()
    assert not log.new_epoch
    assert [(r.first_seq, r.corrupt) for r in read_all(tmp_path)][:4] == [
        (0, False),
        (10, True),
        (20, False),
        (30, False),
    ]


def test_names_come_back_with_the_next_segment(tmp_path):
    """A name that damage took is known again from where the table is repeated on."""
    log = LogWriter(tmp_path, TINY)
    table: list[Instrument] = []
    for at in range(0, 60, 5):
        log.append(growing(at, 5, table), origin=Origin.LIVE)
        assert log.wait_durable(log.end, 5)
    last = log.append(trades(2, 10, "", table), origin=Origin.LIVE)
    log.close()
    named = [(path, p[0]) for path in segments(tmp_path) for p in places(path) if p[1] is RecordType.INSTRUMENTS]
    flip_header(*named[1])
    found = events(tmp_path)
    assert len(found) < 70
    assert [s for q, _, s, _ in found if q >= last] == [f"S{n % 6}" for n in range(2, 12)]


def test_a_reader_that_was_ahead_of_a_cut_goes_on(tmp_path):
    """A reader in a process that outlived the writer sees what is given again, under numbers it has not seen."""
    table = [Instrument(vendor="v", symbol=f"S{n}") for n in range(2)]
    log = LogWriter(tmp_path, AT_ONCE)
    log.append(trades(0, 10, table=table), origin=Origin.REPLAY)
    assert log.wait_durable(10, 5)
    table.append(Instrument(vendor="v", symbol="CUT"))
    log.append(trades(10, 10, table=table), origin=Origin.REPLAY)
    log.close()
    with LogReader(tmp_path, 0) as reader:
        assert sum(r.count for r in drain(reader) if r.type is RecordType.EVENTS) == 20
        path = segments(tmp_path)[0]
        flip(path, event_places(path)[1][2] + 50)
        again = LogWriter(tmp_path, AT_ONCE)
        # Instruments in another order than before: ids of the cut part mean something else now.
        other = [Instrument(vendor="w", symbol="NEW"), *table]
        again.append(trades(10, 10, "file:x", other), origin=Origin.REPLAY)
        again.close()
        found = [r for r in drain(reader) if r.type is RecordType.EVENTS]
        assert sum(r.count for r in found) == 10
        rows = found[0].events(reader.instruments).to_table().select(["seq", "vendor", "symbol", "price"])
        assert named_right([tuple(r.values()) for r in rows.to_pylist()], other)


def test_damage_before_a_control_record_is_not_cut(tmp_path):
    """Nobody gives a pause again: where one follows the damage, the log is not cut."""
    log = LogWriter(tmp_path, AT_ONCE)
    log.append(trades(0, 10), origin=Origin.REPLAY)
    log.append(trades(10, 10), origin=Origin.REPLAY)
    log.control("pause")
    log.close()
    flip(segments(tmp_path)[0], event_places(segments(tmp_path)[0])[1][2] + 100)
    again = LogWriter(tmp_path, AT_ONCE)
    again.close()
    assert [d.count for d in again.recovered.damages] == [10]
    assert [r.meta.get("a") for r in read_all(tmp_path) if r.type is RecordType.CONTROL] == ["pause"]


def test_damage_nobody_needs_any_more_is_left_alone(tmp_path):
    """Below the lowest position of all consumers nothing is looked at."""
    write(tmp_path, ["file:x"] * 5)
    flip(segments(tmp_path)[0], event_places(segments(tmp_path)[0])[1][2] + 100)
    log = LogWriter(tmp_path, AT_ONCE, needed_from=30)
    log.close()
    assert not log.recovered.reports
    assert not log.new_epoch
    assert prices(tmp_path, 30)[:1] == [30]


def test_damage_at_the_end_of_an_older_segment_is_counted(tmp_path):
    """The last record of a segment that others follow was whole once: it is lost, not torn."""
    write(tmp_path, ["live"] * 5, TINY)
    path = segments(tmp_path)[0]
    at = places(path)[-1]
    flip_header(path, at[0])
    log = LogWriter(tmp_path, TINY)
    log.close()
    lost = sum(d.count for d in log.recovered.damages)
    assert lost > 0
    with LogReader(tmp_path, 0) as reader:
        assert sum(r.count for r in drain(reader)) == log.end - lost
        assert reader.problems


def test_lost_names_never_become_other_names(tmp_path):
    """With the record of new instruments destroyed, their events are lost, and all others keep their names."""
    table: list[Instrument] = []
    log = LogWriter(tmp_path, AT_ONCE)
    for at in range(0, 60, 5):
        batch = growing(at, 5, table)
        log.append(replace(batch, source_id=""), origin=Origin.LIVE)
        assert log.wait_durable(log.end, 5)
    log.close()
    path = segments(tmp_path)[0]
    named = [p for p in places(path) if p[1] is RecordType.INSTRUMENTS]
    flip_header(path, named[2][0])

    def check(positions):
        for position in positions:
            found = events(tmp_path, position)
            assert {int(p) for *_, p in found} == {n for n in range(position - position % 5, 60) if n // 10 != 2}
            assert all(symbol == f"S{int(p) // 10}" for _, _, symbol, p in found)

    check([0, 15, 25, 40, 42])
    again = LogWriter(tmp_path, AT_ONCE)
    end = again.append(replace(growing(20, 10, table[:]), source_id=""), origin=Origin.LIVE)
    again.close()
    found = events(tmp_path)
    assert [(int(p), s) for q, _, s, p in found if q >= end] == [(n, "S2") for n in range(20, 30)]
    assert all(symbol == f"S{int(p) // 10}" for _, _, symbol, p in found)


def test_a_segment_whose_first_record_is_damaged_keeps_its_events(tmp_path):
    """What a segment repeats at its start is taken from the one before it; not an event is lost."""
    write(tmp_path, ["live"] * 8, TINY)
    end = read_durable(tmp_path)
    assert len(segments(tmp_path)) > 2
    for path in segments(tmp_path)[1:]:
        flip_header(path, 0)
    log_id = LogWriter(tmp_path, TINY)
    log_id.close()
    assert log_id.recovered.log_id == log_id.log_id
    assert log_id.end == end
    found = events(tmp_path)
    assert [int(e[3]) for e in found] == list(range(80))
    assert named_right(found)
    assert prices(tmp_path, 70)[-10:] == list(range(70, 80))


@pytest.mark.parametrize("content", [b"", b"\0" * 4096, b"MDL1" + b"\xff" * 500])
def test_a_newest_segment_that_says_nothing_is_removed(tmp_path, content):
    """An empty or meaningless newest segment is no refusal to start: the log goes on after the one before it."""
    write(tmp_path, ["file:x"])
    end = read_durable(tmp_path)
    (tmp_path / f"{end:020d}.log").write_bytes(content)
    log = LogWriter(tmp_path, AT_ONCE)
    assert log.end == end
    assert len(log.status.reports) == 1
    log.append(trades(10, 10), origin=Origin.REPLAY)
    log.close()
    assert prices(tmp_path) == list(range(20))


def test_a_log_that_is_only_an_empty_segment_begins(tmp_path):
    """Nothing but an empty file is a log that has not begun."""
    (tmp_path / f"{0:020d}.log").touch()
    write(tmp_path, ["file:x"])
    assert prices(tmp_path) == list(range(10))


def test_the_first_record_of_an_only_segment_can_be_lost(tmp_path):
    """Without whose log it is and what ids mean, the log still opens, and says what readers cannot have."""
    write(tmp_path, ["file:x"] * 2)
    end = read_durable(tmp_path)
    flip_header(segments(tmp_path)[0], 0)
    log = LogWriter(tmp_path, AT_ONCE)
    # One more: the barrier that leads readers across the hole.
    assert (log.end, log.new_epoch) == (end + 1, True)
    log.append(trades(20, 10), origin=Origin.REPLAY)
    log.close()
    assert named_right(events(tmp_path))
    assert prices(tmp_path)[-10:] == list(range(20, 30))


def test_a_log_that_is_gone_begins_at_the_floor(tmp_path):
    """No number is handed out that a consumer has committed; a reader from below is told."""
    with LogReader(tmp_path, 0) as early:
        assert drain(early) == []
        log = LogWriter(tmp_path, AT_ONCE, floor=500)
        assert (log.end, log.new_epoch, log.epoch) == (501, True, 1)
        assert log.append(trades(0, 10), origin=Origin.REPLAY) == 501
        log.close()
        with pytest.raises(LogError, match="begins at seq 500"):
            drain(early)
    with pytest.raises(LogError, match="begins at seq 500") as caught:
        LogReader(tmp_path, 499)
    assert caught.value.details == {"first_seq": 500}
    assert prices(tmp_path, 500) == list(range(10))


def test_a_log_restored_from_an_older_copy_goes_on_above_the_floor(tmp_path):
    """Numbers beyond the copy are not used twice: the epoch rises, readers cross the hole and say so."""
    log = tmp_path / "log"
    write(log, ["file:x"])
    old = copy_of(log, tmp_path / "old")
    log_id = write(log, ["file:x"]).log_id
    restored = LogWriter(old, AT_ONCE, floor=30)
    assert (restored.log_id, restored.epoch, restored.end) == (log_id, 2, 31)
    assert restored.sources() == {"file:x": 10}
    restored.append(trades(10, 10), origin=Origin.REPLAY)
    restored.close()
    with LogReader(old, 0) as reader:
        found = [r.first_seq for r in drain(reader) if r.type is RecordType.EVENTS]
        assert found == [0, 31]
        assert any("nothing of seq" in problem for problem in reader.problems)
    again = LogWriter(old, AT_ONCE, floor=30)
    assert (again.epoch, again.new_epoch) == (2, False)
    again.close()


def test_what_readers_were_told_is_never_told_otherwise(tmp_path):
    """Without a floor too: below the durable end that stands in the folder, no number is given to another event."""
    write(tmp_path, ["live"] * 3)
    end = read_durable(tmp_path)
    with segments(tmp_path)[0].open("r+b") as file:
        file.truncate(event_places(segments(tmp_path)[0])[1][0])
    log = LogWriter(tmp_path, AT_ONCE)
    # One more: the barrier that the cut tail had held.
    assert (log.end, log.new_epoch) == (end + 1, True)
    log.close()


def test_half_made_segments_are_cleared_away(tmp_path):
    """A segment that had not got its name when the process died does not stay for ever."""
    (tmp_path / "00000000000000000000.log.new").write_bytes(b"half")
    write(tmp_path, ["file:x"])
    assert not list(tmp_path.glob("*.new"))


def test_a_reader_waits_where_the_log_was_cut_under_it(tmp_path):
    """A tail that vanishes while the writer is away is not skipped in silence."""
    write(tmp_path, ["live"] * 3)
    with LogReader(tmp_path, 0) as reader:
        with segments(tmp_path)[0].open("r+b") as file:
            file.truncate(event_places(segments(tmp_path)[0])[1][0])
        assert sum(r.count for r in drain(reader)) == 10
        assert reader.position == 10
        assert len(reader.problems) == 1


def test_a_reader_steps_over_a_damaged_end_and_goes_on(tmp_path):
    """Damage at the end of the segment being written costs what it covers, not what is written after it."""
    log = LogWriter(tmp_path, AT_ONCE)
    for at in (0, 10):
        log.append(trades(at, 10, ""), origin=Origin.LIVE)
        assert log.wait_durable(at + 10, 5)
    flip_header(segments(tmp_path)[0], event_places(segments(tmp_path)[0])[1][0])
    with LogReader(tmp_path, 0) as reader:
        assert sum(r.count for r in drain(reader)) == 10
        assert reader.position == 20
        log.append(trades(20, 10, ""), origin=Origin.LIVE)
        log.close()
        found = [r for r in drain(reader) if r.type is RecordType.EVENTS]
        assert [(r.first_seq, r.corrupt) for r in found] == [(20, False)]
        assert len(reader.problems) == 1
