"""Reading a lake: which rows come back, in what order, and which version of a bar counts."""

from __future__ import annotations

import json
import subprocess
import sys

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from market_data_core.schemas import BAR_KEY, TABLE_SCHEMAS, Kind
from market_data_store.lake import Lake
from market_data_store.lake.reads import newest

DAY_NS = 86_400 * 1_000_000_000
MINUTE_NS = 60 * 1_000_000_000
JAN_1_NS = 19_723 * DAY_NS


def _closes(lake, **options):
    found = lake.bars("AAPL", "1m", start_ns=JAN_1_NS, end_ns=JAN_1_NS + DAY_NS, **options)
    return [
        ((t - JAN_1_NS) // MINUTE_NS, c)
        for t, c in zip(*(found[c].to_pylist() for c in ("ts_event", "close")), strict=True)
    ]


def test_a_lake_that_is_not_there_has_no_rows(tmp_path):
    """A reader makes nothing and finds nothing."""
    lake = Lake(tmp_path / "none", "acme")
    assert lake.read("trades").schema.equals(TABLE_SCHEMAS[Kind.TRADES])
    assert lake.bars("AAPL", "1m", start_ns=0, end_ns=1).num_rows == 0
    assert lake.ticks(Kind.TRADES, "ibkr", "AAPL", start_ns=0, end_ns=1, below_seq=9).num_rows == 0
    assert lake.counts()["trades"].files == 0
    assert not lake.path.exists()


def test_another_tenant_sees_nothing(lake, trades):
    """Each tenant has a folder of its own."""
    lake.table("trades").append(trades(0, 3), writer="w", position=3, covers={})
    assert Lake(lake.path.parent, "other").read("trades").num_rows == 0


def test_ticks_are_those_of_one_instrument_in_time_order(lake, trades):
    """Half-open in time, below the seq, ascending, whichever commit or file they came in."""
    table = lake.table("trades")
    table.append(trades(30, 30), writer="w", position=60, covers={})
    table.append(trades(0, 30), writer="v", position=60, covers={})
    table.append(trades(0, 60, vendor="other"), writer="u", position=60, covers={})
    found = lake.ticks(
        Kind.TRADES, "ibkr", "AAPL", start_ns=JAN_1_NS + 3 * 10**9, end_ns=JAN_1_NS + 51 * 10**9, below_seq=48
    )
    assert found.schema.equals(TABLE_SCHEMAS[Kind.TRADES])
    assert found["seq"].to_pylist() == list(range(3, 48, 3))


@pytest.mark.parametrize(("start", "end"), [(5, 5), (6, 5)])
def test_an_empty_span_has_no_rows(lake, trades, start, end):
    """Nothing lies between a time and itself."""
    lake.table("trades").append(trades(0, 10), writer="w", position=10, covers={})
    assert lake.read("trades", start_ns=JAN_1_NS + start, end_ns=JAN_1_NS + end).num_rows == 0


def test_a_read_takes_columns_and_conditions(lake, trades):
    """Only what was asked for comes back."""
    lake.table("trades").append(trades(0, 10), writer="w", position=10, covers={})
    found = lake.read("trades", columns=["seq", "symbol"], symbol="SPY", where=pc.field("price") > 105)
    assert found.sort_by("seq").to_pylist() == [{"seq": 8, "symbol": "SPY"}]


def test_the_newest_revision_of_a_bar_counts(lake, bars):
    """Whichever commit it came with."""
    table = lake.table("bars")
    table.append(bars([(1, 1, 50, 11.5), (0, 0, 10, 10.0)]), writer="w", position=1, covers={})
    table.append(bars([(1, 0, 20, 11.0), (2, 0, 30, 12.0)]), writer="v", position=1, covers={})
    assert _closes(lake) == [(0, 10.0), (1, 11.5), (2, 12.0)]


@pytest.mark.parametrize(
    ("as_of", "expected"), [(9, []), (10, [(0, 10.0)]), (25, [(0, 10.0), (1, 11.0)]), (50, [(0, 10.0), (1, 11.5)])]
)
def test_as_of_shows_what_was_known_then(lake, bars, as_of, expected):
    """By the time each version became known, inclusive."""
    rows = bars([(0, 0, 10, 10.0), (1, 0, 20, 11.0), (1, 1, 50, 11.5)])
    lake.table("bars").append(rows, writer="w", position=1, covers={})
    assert _closes(lake, as_of_ns=as_of) == expected


def test_a_bar_that_does_not_say_when_it_was_known_was_known_when_received(lake, bars):
    """As of a time before its receipt it is not there."""
    lake.table("bars").append(bars([(3, 0, None, 1.0)]), writer="w", position=1, covers={})
    received = JAN_1_NS + 3 * MINUTE_NS
    assert (_closes(lake, as_of_ns=received - 1), _closes(lake, as_of_ns=received)) == ([], [(3, 1.0)])


def test_bars_of_different_keys_never_replace_each_other(lake, bars):
    """Vendor, interval, price type, session and source are part of what a bar is."""
    table = lake.table("bars")
    others = [{}, {"vendor": "x"}, {"interval": "5m"}, {"what": "BID"}, {"session": "RTH"}, {"source": "external"}]
    for i, other in enumerate(others):
        table.append(bars([(0, i, i, float(i))], **other), writer="w", position=i, covers={})
    assert sorted(_closes(lake)) == [(0, 0.0), (0, 1.0), (0, 5.0)]
    assert _closes(lake, vendor="x") == [(0, 1.0)]
    assert _closes(lake, what="BID") == [(0, 3.0)]
    assert _closes(lake, session="RTH") == [(0, 4.0)]
    assert _closes(lake, source="external") == [(0, 5.0)]


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 3), st.integers(0, 5), st.floats(0, 9)), max_size=30))
def test_newest_agrees_with_a_dictionary(bars, versions):
    """The last of the versions in order of revision, time known and seq, per minute, ascending."""
    expected = {}
    for seq, (minute, revision, known, close) in sorted(enumerate(versions), key=lambda e: (e[1][1], e[1][2], e[0])):
        expected[minute] = (revision, known, seq, close)
    found = newest(bars(versions), BAR_KEY).select(["ts_event", "revision", "ts_known", "seq", "close"]).to_pylist()
    got = [
        ((r["ts_event"] - JAN_1_NS) // MINUTE_NS, (r["revision"], r["ts_known"], r["seq"], r["close"])) for r in found
    ]
    assert got == sorted(expected.items())


def test_only_files_that_can_hold_the_answer_are_opened(lake, trades):
    """Other dates and other instruments are left alone, damaged as they may be."""
    table = lake.table("trades")
    table.append(trades(0, 3, symbols=("A",)), writer="w", position=1, covers={})
    table.append(trades(3, 3, symbols=("Z",)), writer="w", position=2, covers={})
    table.append(trades(6, 3, symbols=("A",), start_ns=JAN_1_NS + DAY_NS), writer="w", position=3, covers={})
    log = lake.folder("trades").log
    for version in (2, 3):
        path = next(log.folder / a["add"]["path"] for a in log.actions(version) if "add" in a)
        path.write_bytes(b"no parquet")
    found = lake.ticks(Kind.TRADES, "ibkr", "A", start_ns=JAN_1_NS, end_ns=JAN_1_NS + DAY_NS, below_seq=100)
    assert found["seq"].to_pylist() == [0, 1, 2]


def test_a_reader_follows_what_others_write(lake, trades, seqs):
    """A lake that was read before sees the next commit."""
    reader = Lake(lake.path.parent, "acme")
    table = lake.table("trades")
    for i in range(3):
        table.append(trades(i, 1), writer="w", position=i + 1, covers={})
        assert seqs(reader) == list(range(i + 1))


def test_a_reader_whose_files_were_deleted_looks_again(lake, trades):
    """A listing that is older than the vacuum is not the last word."""
    table = lake.table("trades")
    table.append(trades(0, 5), writer="w", position=5, covers={})
    reader = lake._readers["trades"]
    stale = reader.files()
    reader._files = stale.set_column(0, "path", pa.array(["date=2024-01-01/gone.parquet"]))
    assert lake.read("trades").num_rows == 5


_READER = """
import json, sys
from market_data_store.lake import Lake
lake = Lake(sys.argv[1], "acme")
print("ready", flush=True)
for line in sys.stdin:
    seqs = sorted(lake.read("trades", columns=["seq"])["seq"].to_pylist())
    print(json.dumps([len(seqs), seqs == list(range(len(seqs)))]), flush=True)
"""


def test_another_process_reads_while_we_write(lake, trades):
    """Every look of a second process is whole, and not older than what was acknowledged before it."""
    table = lake.table("trades")
    with subprocess.Popen(
        [sys.executable, "-c", _READER, str(lake.path.parent)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout.readline() == "ready\n"
        for i in range(20):
            table.append(trades(i * 5, 5), writer="w", position=i * 5 + 5, covers={})
            child.stdin.write("\n")
            child.stdin.flush()
            if i % 2:
                for acknowledged in (i * 5, i * 5 + 5):
                    count, whole = json.loads(child.stdout.readline())
                    assert whole
                    assert count % 5 == 0
                    assert count >= acknowledged
        child.stdin.close()
    assert child.returncode == 0
