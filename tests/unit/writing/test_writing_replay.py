"""Dead letters: kept, listed, put in again once, whatever crashes in between."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from market_data_core.clock import ManualClock
from market_data_core.errors import ConfigurationError, TemporaryUnavailable
from market_data_core.schemas import STORED_SCHEMAS
from market_data_pipeline.locks import lock_file, unlock
from market_data_pipeline.writing import DeadLetters, Replayed, Run, TableWriter, replay
from market_data_pipeline.writing.dead_letters import Place, Refused
from market_data_pipeline.writing.replay import replayed
from support.trouble import (
    NOON_NS,
    Crash,
    CrashingDisk,
    Memory,
    Trouble,
    Versions,
    dead,
    figures,
    priced,
    stored,
    trades,
)


def set_aside(lake, letters, bad, *, writer="w", count=20, first=0, end=9):
    trouble = Trouble(lake, bad=set(bad))
    writing = TableWriter(lambda: trouble.table("trades"), writer=writer, letters=letters)
    writing.commit(trades(first, count), position=end, covers={}, runs=[Run(end=end, first=0, rows=count)])
    return trouble


def test_what_was_repaired_is_stored_and_gone_from_the_dead_letters(store, letters):
    """Once the store takes them, all rows are there once, with their values, and a second replay has nothing to do."""
    set_aside(store, letters, [3, 7])
    assert replay(letters, store) == Replayed(stored=2)
    assert stored(store) == list(range(20))
    assert priced(store.read("trades", columns=["seq", "price"]))
    assert letters.list_letters() == []
    assert replay(letters, store) == Replayed()
    assert replayed(letters, "trades") == {"w": 2}


def test_what_is_refused_again_stays_and_holds_up_nothing(lake, letters):
    """The good rows of a file go in, the bad one is a dead letter still and says where it came from."""
    trouble = set_aside(lake, letters, [3, 7, 11])
    trouble.bad = {7}
    assert replay(letters, trouble) == Replayed(stored=2, refused=1)
    (letter,) = letters.list_letters()
    assert (letter.origin, letter.writer, dead(letters)) == ("w", "dead-letters", [7])
    trouble.bad = set()
    assert replay(letters, trouble) == Replayed(stored=1)
    assert stored(lake) == list(range(20))
    assert replayed(letters, "trades") == {"w": 3}


def test_a_repair_changes_rows_on_their_way_in(store, letters):
    """Rows that no store will have can be put right."""
    writer = TableWriter(lambda: store.table("trades"), writer="w", letters=letters)
    writer.commit(trades(0, 3, seq=[0, None, 2]), position=5, covers={}, runs=[Run(end=5, first=0, rows=3)])
    assert replay(letters, store).refused == 1

    def repair(table, rows):
        assert table == "trades"
        return rows.set_column(4, STORED_SCHEMAS[table].field("seq"), pa.array([1]))

    assert replay(letters, store, repair=repair) == Replayed(stored=1)
    assert stored(store) == [0, 1, 2]


def test_a_repair_that_loses_rows_is_refused(lake, letters):
    """As many rows have to come back as went in."""
    set_aside(lake, letters, [3, 7])
    with pytest.raises(ConfigurationError, match="gave other columns or numbers"):
        replay(letters, lake, repair=lambda _, rows: rows.slice(1))
    assert replay(letters, lake) == Replayed(stored=2)


def test_only_what_is_asked_for_is_put_in(lake, letters):
    """By id; one that is not known changes nothing."""
    set_aside(lake, letters, [3], writer="a")
    set_aside(lake, letters, [13], writer="b/..", first=10, count=10)
    assert [letter.writer for letter in letters.list_letters()] == ["a", "b/.."]
    with pytest.raises(ConfigurationError, match="no dead letter x"):
        replay(letters, lake, only=["x"])
    (ident,) = [letter.id for letter in letters.list_letters(writer="b/..")]
    assert replay(letters, lake, only=[ident]) == Replayed(stored=1)
    assert dead(letters) == [3]


def test_what_its_writer_comes_to_again_is_left_alone(lake, letters):
    """A row that a crash left between dead letters and table belongs to the writer, who makes it again."""
    trouble = Trouble(lake, bad={3}, faults=["", "crash before"])
    with pytest.raises(Crash):
        TableWriter(lambda: trouble.table("trades"), writer="w", letters=letters).commit(
            trades(0, 6), position=9, covers={}, runs=[Run(end=9, first=0, rows=6)]
        )
    assert replay(letters, lake) == Replayed(left=1)
    set_aside(lake, letters, [3], count=6)
    assert replay(letters, lake) == Replayed(stored=1)
    assert stored(lake) == list(range(6))


def test_two_replays_at_once_are_one(lake, letters):
    """The second is turned away."""
    set_aside(lake, letters, [3])
    fd = lock_file(letters.root / "replay.lock")
    try:
        with pytest.raises(TemporaryUnavailable, match="somebody else replays"):
            replay(letters, lake)
    finally:
        unlock(fd)
    assert replay(letters, lake) == Replayed(stored=1)


CRASHES = given(
    bad=st.lists(st.sets(st.integers(0, 9), min_size=1, max_size=5), min_size=1, max_size=3),
    still=st.sets(st.integers(0, 29), max_size=4),
    names=st.booleans(),
    faults=st.lists(st.sampled_from(["", "before", "after", "crash before", "crash after"]), max_size=12),
    synced=st.sets(st.integers(0, 20), max_size=5),
)


@settings(max_examples=30, deadline=None)
@CRASHES
def test_no_crash_of_a_replay_loses_or_doubles_a_row(**how):
    """However often a replay is cut short: in the end every row is stored or a dead letter, once, and counted."""
    replay_until_done(Memory(), **how)


@settings(max_examples=3, deadline=None)
@CRASHES
def test_no_crash_of_a_replay_into_the_lake_loses_or_doubles_a_row(new_lake, **how):
    """The same where commits are made for good."""
    replay_until_done(new_lake(), **how)


def replay_until_done(lake, *, bad, still, names, faults, synced):
    with tempfile.TemporaryDirectory() as folder:
        letters = DeadLetters(Path(folder) / "dl")
        aside = set()
        for number, rows in enumerate(bad):
            here = {10 * number + n for n in rows}
            aside |= here
            set_aside(lake, letters, here, first=10 * number, count=10, end=number + 1)
        trouble = Trouble(lake, bad=still, names=names, faults=faults)
        with CrashingDisk(synced, lambda path: folder in path):
            while True:
                try:
                    replay(letters, trouble)
                    break
                except (Crash, TemporaryUnavailable):
                    continue
        assert dead(letters) == sorted(aside & still)
        assert stored(lake) == sorted(set(range(10 * len(bad))) - (aside & still))
        assert sum(replayed(letters, "trades").values()) == len(aside - still)


def test_a_listing_is_bounded_and_goes_on(letters):
    """Page by page every file comes once."""
    for number in range(5):
        letters.put(
            Refused(rows=trades(number, 1), places=[Place(number + 1, 0)], reasons=["no"]), writer="w", table="trades"
        )
    seen, after = [], ""
    while page := letters.list_letters(after=after, limit=2):
        assert len(page) <= 2
        seen += [letter.id for letter in page]
        after = page[-1].id
    assert len(seen) == len(set(seen)) == 5
    letters.discard(seen[0])
    assert len(letters.list_letters()) == 4


def test_a_damaged_file_is_set_aside(letters):
    """One unreadable file does not hide the others."""
    for number in range(2):
        letters.put(
            Refused(rows=trades(number, 1), places=[Place(number + 1, 0)], reasons=["no"]), writer="w", table="trades"
        )
    path = letters.files()[0]
    path.write_bytes(path.read_bytes()[:100])
    assert dead(letters) == [1]
    assert [p.suffix for p in path.parent.iterdir() if p not in letters.files()] == [".damaged"]


def test_keyed_rows_are_replayed_as_versions(tmp_path):
    """What was refused under a key goes in by its key, and what is refused again stays."""
    letters = DeadLetters(tmp_path / "dl", clock=ManualClock(NOON_NS))
    kept = Versions()
    letters.put(
        Refused(rows=figures([("A", 1), ("B", 2)]), places=[Place(1, 0), Place(1, 1)], reasons=["no", "no"]),
        writer="w",
        table="fundamentals",
        keyed=True,
    )
    kept.bad = {2.0}
    assert replay(letters, kept) == Replayed(stored=1, refused=1)
    kept.bad = set()
    assert replay(letters, kept) == Replayed(stored=1)
    assert {key[1]: values for key, values in kept.values.items()} == {"A": [1.0], "B": [2.0]}
    assert letters.list_letters() == []
