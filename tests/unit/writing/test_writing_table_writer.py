"""Commits around bad rows, whatever crashes in between."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from market_data_core.errors import SchemaValidationError, TemporaryUnavailable, WriterConflict
from market_data_pipeline.writing import DeadLetters, Run, TableWriter
from market_data_pipeline.writing.bisect import append_around
from support.trouble import Crash, CrashingDisk, Memory, Trouble, dead, stored, trades


def writer_of(trouble, letters, name="w"):
    return TableWriter(lambda: trouble.table("trades"), writer=name, letters=letters)


def commit(writer, first, count, *, end):
    return writer.commit(
        trades(first, count), position=end, covers={"s": end}, runs=[Run(end=end, first=0, rows=count)]
    )


@pytest.mark.parametrize("names", [True, False])
@pytest.mark.parametrize("bad", [{777}, {0}, {9_999}, {0, 9_999}, {4_999, 5_000}, {3, 4, 5, 6, 7, 9_000}])
def test_bad_rows_do_not_hold_up_the_rest(lake, letters, names, bad):
    """Wherever they stand, and whether or not the store says which they are, all others are stored, in order."""
    trouble = Trouble(lake, bad=bad, names=names)
    refused = commit(writer_of(trouble, letters), 0, 10_000, end=50)
    assert [n for n, _ in refused] == sorted(bad)
    assert stored(lake) == [s for s in range(10_000) if s not in bad]
    assert trouble.order == sorted(trouble.order)
    assert dead(letters) == sorted(bad)
    table = lake.table("trades")
    assert (table.position("w"), table.covers("w")["s"]) == (50, 50)
    assert len(trouble.appended) == 1 if names else len(trouble.appended) <= 2 * 14 * len(bad)


def test_rows_that_are_all_bad_move_the_position_alone(lake, letters):
    """Nothing is stored, everything is set aside, and the writer is past it."""
    trouble = Trouble(lake, bad=set(range(20)), names=False)
    commit(writer_of(trouble, letters), 0, 20, end=7)
    assert stored(lake) == []
    assert dead(letters) == list(range(20))
    assert lake.table("trades").position("w") == 7


def test_a_real_store_refuses_one_row_of_ten_thousand(store, letters):
    """A row without a seq is set aside with its values and the store's own reason."""
    writer = TableWriter(lambda: store.table("trades"), writer="w", letters=letters)
    rows = trades(0, 10_000, seq=[None if s == 6_000 else s for s in range(10_000)])
    refused = writer.commit(rows, position=5, covers={}, runs=[Run(end=5, first=0, rows=10_000)])
    assert [n for n, _ in refused] == [6_000]
    assert stored(store) == [s for s in range(10_000) if s != 6_000]
    (letter,) = letters.list_letters()
    assert (letter.table, letter.writer, letter.rows) == ("trades", "w", 1)
    assert "seq" in letter.reason
    assert letters.read(letter.id).column("price").to_pylist() == [6_000.0]


def test_an_error_that_is_about_no_row_is_passed_on(letters):
    """A table that refuses even no rows has another fault, which is not hidden."""

    def refuse(rows, upto):
        raise SchemaValidationError("nothing fits")

    with pytest.raises(SchemaValidationError, match="nothing fits"):
        append_around(pa.table({"a": [1]}), refuse, lambda *_: None)


def test_another_writer_of_the_same_name_is_noticed_between_two_parts(lake, letters):
    """Who committed meanwhile is not overwritten, and nothing is doubled."""
    trouble = Trouble(lake, bad={5}, names=False)
    writer = writer_of(trouble, letters)
    lake.table("trades").append(trades(100, 1), writer="w", position=3, covers={})
    with pytest.raises(WriterConflict):
        commit(writer, 0, 10, end=50)
    assert stored(lake) == [100]


def test_no_room_for_dead_letters_is_a_refusal_and_no_loss(lake, tmp_path):
    """Nothing goes past a row that cannot be set aside."""
    trouble = Trouble(lake, bad={2})
    small = DeadLetters(tmp_path / "dl", limit_bytes=10)
    with pytest.raises(TemporaryUnavailable, match="replay or discard"):
        commit(writer_of(trouble, small), 0, 5, end=9)
    assert stored(lake) == []
    commit(writer_of(trouble, DeadLetters(tmp_path / "dl")), 0, 5, end=9)
    assert stored(lake) == [0, 1, 3, 4]


def test_a_row_that_turns_out_well_after_a_crash_is_no_dead_letter(lake, letters):
    """What was set aside and not passed is forgotten when its writer comes to it again."""
    trouble = Trouble(lake, bad={3}, faults=["", "crash before"])
    with pytest.raises(Crash):
        commit(writer_of(trouble, letters), 0, 6, end=9)
    assert dead(letters) == [3]
    trouble.bad = set()
    commit(writer_of(trouble, letters), 0, 6, end=9)
    assert (stored(lake), dead(letters)) == (list(range(6)), [])


FAULTS = ["", "", "before", "after", "crash before", "crash after"]


# Spans as a log has them: the rows that come out of each, and where it ends. A life may commit at any of their ends.
CRASHES = given(
    spans=st.lists(st.integers(0, 6), min_size=1, max_size=8),
    bad=st.sets(st.integers(0, 40), max_size=6),
    names=st.booleans(),
    faults=st.lists(st.sampled_from(FAULTS), max_size=25),
    synced=st.sets(st.integers(0, 12), max_size=4),
    every=st.lists(st.integers(1, 4), min_size=1, max_size=6),
)


@settings(max_examples=60, deadline=None)
@CRASHES
def test_no_crash_loses_or_doubles_a_row(**how):
    """Lives that end anywhere, followed by one that does not: each row is stored or set aside, once."""
    live_until_done(Memory(), **how)


@settings(max_examples=3, deadline=None)
@CRASHES
def test_no_crash_loses_or_doubles_a_row_of_the_lake(new_lake, **how):
    """The same where commits are made for good."""
    live_until_done(new_lake(), **how)


def live_until_done(store, *, spans, bad, names, faults, synced, every):
    trouble = Trouble(store, bad=bad, names=names, faults=faults)
    with tempfile.TemporaryDirectory() as folder, CrashingDisk(synced, lambda path: folder in path):
        letters = DeadLetters(Path(folder) / "dl")
        lives = 0
        while True:
            try:
                one_life(writer_of(trouble, letters), spans, every[lives % len(every)])
                break
            except (Crash, TemporaryUnavailable):
                lives += 1
        total = sum(spans)
        assert stored(store) == [s for s in range(total) if s not in bad]
        assert dead(letters) == sorted(s for s in range(total) if s in bad)


def one_life(writer, spans, every):
    first, waiting, runs = 0, [], []
    for number, count in enumerate(spans, 1):
        run = Run(end=number * 10, first=0, rows=count)
        done = writer.dealt(run)
        if done < count:
            waiting.append(trades(first + done, count - done))
            runs.append(Run(end=run.end, first=done, rows=count - done))
        first += count
        if waiting and (number % every == 0 or number == len(spans)):
            writer.commit(pa.concat_tables(waiting), position=run.end, covers={}, runs=runs)
            waiting, runs = [], []
