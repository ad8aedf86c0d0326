"""What every store promises its writers and readers."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pyarrow as pa
import pytest

from market_data_core.errors import (
    ConfigurationError,
    SchemaValidationError,
    TemporaryUnavailable,
    WriterConflict,
)
from market_data_core.schemas import TABLE_SCHEMAS, Kind
from market_data_core.steps import Step, install

DAY_NS = 86_400 * 10**9
JAN_1_NS = 19_723 * DAY_NS
LAST_NS = 2**63 - 1
KINDS = [k for k in Kind if k is not Kind.CONTROL]


def seqs(store, name="trades"):
    return sorted(store.read(name, columns=["seq"]).column("seq").to_pylist())


def numbered(rows, first, count, **same):
    return rows("trades", [{"seq": s, "ts_event": JAN_1_NS + s} | same for s in range(first, first + count)])


def full(kind, at):
    """A row with a value of its own in every column."""
    values = {"string": f"{kind}-{at}", "int64": JAN_1_NS + at, "int32": at, "double": at + 0.1}
    return {f.name: values[str(f.type)] for f in TABLE_SCHEMAS[kind]}


@pytest.mark.parametrize("kind", KINDS)
def test_rows_of_every_kind_come_back_as_they_went_in(store, rows, kind):
    """Every column of a full row and of one that is null wherever that is allowed."""
    batch = rows(kind, [full(kind, 1), {"seq": 2, "flags": None, "origin": None}, full(kind, 3)])
    store.table(kind).append(batch, writer="w", position=3, covers={})
    assert store.read(kind).sort_by("seq").equals(batch.sort_by("seq"))


@pytest.mark.parametrize("text", ["", "é", "日本語", "🏦" * 50, "a'b\"c\\d\te\nf", "%s %(x)s {y}", "\\N", "x" * 5000])
def test_any_text_is_kept(home, rows, text):
    """Letters of any script, quotes, escapes, and nothing at all, which is not null."""
    batch = rows("quarantine", [{"raw": text, "symbol": text, "source_id": None}])
    home.store().table("quarantine").append(batch, writer=text or "w", position=1, covers={text: 1})
    store = home.store()
    assert store.read("quarantine").equals(batch)
    assert store.table("quarantine").covers(text or "w") == {text: 1}


@pytest.mark.parametrize("bound", [-(2**63), -1, 0, 2**53 + 1, 2**63 - 1])
def test_integers_are_kept_to_their_bounds(store, rows, bound):
    """Times and counts of 64 bits, and flags of 32."""
    batch = rows("bars", [{"trade_count": bound, "ts_known": bound, "ts_recv": bound, "flags": -(2**31)}])
    store.table("bars").append(batch, writer="w", position=1, covers={})
    assert store.read("bars").equals(batch)


@pytest.mark.parametrize("ts_ns", [-(2**63), -1, 0, 2**63 - 2])
def test_events_of_any_time_are_found(store, rows, ts_ns):
    """From the first nanosecond that there is to the last that an exclusive end can tell."""
    store.table("trades").append(rows("trades", [{"ts_event": ts_ns}]), writer="w", position=1, covers={})
    found = store.read("trades", start_ns=ts_ns, end_ns=ts_ns + 1)
    assert found.column("ts_event").to_pylist() == [ts_ns]


@pytest.mark.parametrize("number", [0.1, -0.0, 5e-324, 1.7976931348623157e308, float("inf")])
def test_floats_are_kept_to_the_last_digit(store, rows, number):
    """Bit for bit."""
    store.table("trades").append(rows("trades", [{"price": number}]), writer="w", position=1, covers={})
    assert [p.hex() for p in store.read("trades").column("price").to_pylist()] == [number.hex()]


def test_a_writer_that_never_committed_has_no_position(store):
    """None is not 0, and nothing was written."""
    table = store.table("trades")
    assert (table.name, table.position("w"), table.covers("w")) == ("trades", None, {})
    assert store.written() == frozenset()


def test_position_and_covers_come_with_the_rows(home, rows):
    """For the view that committed and for a process that starts anew; sources that did not move keep their end."""
    table = home.store().table("trades")
    table.append(numbered(rows, 0, 5), writer="w", position=5, covers={"file:1": 3, "file:2": 2})
    table.append(numbered(rows, 5, 5), writer="w", position=10, covers={"file:2|odd": 2**62, "file:2": 6})
    for view in (table, home.store().table("trades")):
        assert view.position("w") == 10
        assert view.covers("w") == {"file:1": 3, "file:2": 6, "file:2|odd": 2**62}


def test_tables_and_writers_have_positions_of_their_own(store, rows):
    """Nothing of one shows in another; the tables that were written to are known."""
    store.table("trades").append(numbered(rows, 0, 2), writer="a", position=2, covers={"s": 2})
    store.table("trades").append(numbered(rows, 0, 1), writer="b", position=7, covers={})
    store.table("quotes").append(rows("quotes", [{}]), writer="a", position=9, covers={})
    assert [store.table("trades").position(w) for w in "ab"] == [2, 7]
    assert [store.table("trades").covers(w) for w in "ab"] == [{"s": 2}, {}]
    assert store.table("quotes").position("a") == 9
    assert store.written() == {"trades", "quotes"}


def test_an_append_of_no_rows_moves_the_position(home, rows):
    """It moves alone, also the first time."""
    table = home.store().table("trades")
    table.append(numbered(rows, 0, 0), writer="w", position=4, covers={"s": 4})
    table.append(numbered(rows, 0, 3), writer="w", position=5, covers={})
    table.append(numbered(rows, 0, 0), writer="w", position=9, covers={"s": 5})
    again = home.store()
    assert (again.table("trades").position("w"), again.table("trades").covers("w")) == (9, {"s": 5})
    assert seqs(again) == [0, 1, 2]


@pytest.mark.parametrize("position", [0, 2**63 - 1])
def test_positions_are_kept_to_their_bounds(home, rows, position):
    """Nought is a position, and so is the greatest."""
    home.store().table("trades").append(numbered(rows, 0, 1), writer="w", position=position, covers={})
    assert home.store().table("trades").position("w") == position


def test_the_same_position_again_is_an_append_like_any_other(store, rows):
    """Which rows are new is for the writer to know."""
    table = store.table("trades")
    table.append(numbered(rows, 0, 1), writer="w", position=5, covers={})
    table.append(numbered(rows, 1, 1), writer="w", position=5, covers={})
    assert seqs(store) == [0, 1]


def test_a_position_does_not_go_back(store, rows):
    """An append below the last position is refused and leaves nothing."""
    table = store.table("trades")
    table.append(numbered(rows, 0, 5), writer="w", position=5, covers={})
    with pytest.raises(WriterConflict, match="from 5 to 4"):
        table.append(numbered(rows, 5, 5), writer="w", position=4, covers={"s": 1})
    assert (seqs(store), store.table("trades").covers("w")) == (list(range(5)), {})


@pytest.mark.parametrize("before", [0, 1])
def test_a_stale_view_cannot_commit_for_a_writer_that_moved(home, rows, before):
    """Who read the position before somebody else moved it is refused, leaves nothing, and has to look again."""
    if before:
        home.store().table("trades").append(numbered(rows, 0, 1), writer="w", position=1, covers={})
    stale, other = home.store().table("trades"), home.store().table("trades")
    other.append(numbered(rows, 1, 4), writer="w", position=5, covers={})
    with pytest.raises(WriterConflict, match="w"):
        stale.append(numbered(rows, 5, 4), writer="w", position=9, covers={"s": 1})
    with pytest.raises(TemporaryUnavailable, match="fresh"):
        stale.append(numbered(rows, 5, 4), writer="w", position=9, covers={})
    store = home.store()
    assert (seqs(store), store.table("trades").covers("w")) == (list(range(1 - before, 5)), {})


def test_a_stale_view_is_refused_where_the_position_stayed_too(home, rows):
    """Somebody else committed rows without moving the position."""
    stale, other = home.store().table("trades"), home.store().table("trades")
    for view in (other, other):
        view.append(numbered(rows, 0, 0), writer="w", position=5, covers={})
    with pytest.raises(WriterConflict, match="w"):
        stale.append(numbered(rows, 1, 1), writer="w", position=5, covers={})
    late = home.store().table("trades")
    other.append(numbered(rows, 2, 1), writer="w", position=5, covers={})
    with pytest.raises(WriterConflict, match="w"):
        late.append(numbered(rows, 3, 1), writer="w", position=5, covers={})
    assert seqs(home.store()) == [2]


def test_two_writers_of_one_table_do_not_disturb_each_other(home, rows):
    """Views that were open all the time go on, and every row is there once."""

    def write(number):
        table = home.store().table("trades")
        for at in range(8):
            batch = numbered(rows, number * 1000 + at * 10, 10)
            table.append(batch, writer=f"w{number}", position=at, covers={"s": at})

    with ThreadPoolExecutor(2) as threads:
        list(threads.map(write, range(2)))
    store = home.store()
    assert seqs(store) == [*range(80), *range(1000, 1080)]
    assert [store.table("trades").position(f"w{n}") for n in range(2)] == [7, 7]


def test_of_two_who_commit_as_one_writer_at_once_one_is_refused(home, rows):
    """Whoever loses stored nothing, however close the two are."""
    views = [home.store().table("trades") for _ in range(2)]
    start = threading.Barrier(2)

    def write(number):
        start.wait()
        try:
            views[number].append(numbered(rows, number * 10, 10), writer="w", position=number + 1, covers={})
        except WriterConflict:
            return []
        return list(range(number * 10, number * 10 + 10))

    with ThreadPoolExecutor(2) as threads:
        won = list(threads.map(write, range(2)))
    assert sorted(map(len, won)) == [0, 10]
    assert seqs(home.store()) == won[0] + won[1]


@pytest.fixture
def at_step():
    yield install
    install(None)


def test_an_append_that_fails_half_way_leaves_nothing(home, rows, at_step):
    """Rows, position and covers are there together or not at all."""
    table = home.store().table("trades")
    table.append(numbered(rows, 0, 2), writer="w", position=2, covers={"s": 2})

    def fail(step):
        if step is Step.DATA_FILE_WRITTEN:
            raise OSError(28, "No space left on device")

    at_step(fail)
    with pytest.raises((OSError, TemporaryUnavailable)):
        table.append(numbered(rows, 2, 2), writer="w", position=4, covers={"s": 4})
    at_step(None)
    store = home.store()
    view = store.table("trades")
    assert (seqs(store), view.position("w"), view.covers("w")) == ([0, 1], 2, {"s": 2})
    view.append(numbered(rows, 2, 2), writer="w", position=4, covers={"s": 4})
    assert seqs(store) == [0, 1, 2, 3]


@pytest.mark.parametrize("column", ["ts_event", "ts_recv", "seq"])
def test_a_row_without_its_place_is_refused(store, rows, column):
    """The error names the column, nothing is stored, and the view goes on."""
    table = store.table("trades")
    with pytest.raises(SchemaValidationError, match=column):
        table.append(rows("trades", [{}, {column: None}]), writer="w", position=2, covers={})
    table.append(numbered(rows, 0, 1), writer="w", position=2, covers={})
    assert seqs(store) == [0]


def test_rows_of_another_schema_are_refused(store, rows):
    """A type that is nearly right is not right."""
    batch = numbered(rows, 0, 2)
    nearly = batch.set_column(batch.schema.get_field_index("flags"), "flags", pa.array([0, 0], pa.int64()))
    for wrong in (nearly, batch.drop_columns(["price"]), rows("quotes", [{}])):
        with pytest.raises(SchemaValidationError, match="trades"):
            store.table("trades").append(wrong, writer="w", position=2, covers={})
    assert store.written() == frozenset()


def test_a_writer_has_a_name(store, rows):
    """An empty one is a mistake of ours."""
    with pytest.raises(ConfigurationError, match="writer"):
        store.table("trades").append(numbered(rows, 0, 1), writer="", position=1, covers={})


@pytest.mark.parametrize("name", ["control", "nothing", "trades; DROP", ""])
def test_only_declared_tables_exist(store, name):
    """The error names those that do."""
    with pytest.raises(ConfigurationError, match="trades"):
        store.table(name)


def test_ticks_are_ordered_and_filtered(store, rows):
    """By event time, then seq; of one vendor, symbol and kind; start inclusive, end and seq exclusive."""
    at = JAN_1_NS
    events = [
        {"seq": 5, "ts_event": at + 10, "price": 1.0},
        {"seq": 2, "ts_event": at + 10, "price": 2.0},
        {"seq": 9, "ts_event": at - DAY_NS, "price": 3.0},
        {"seq": 3, "ts_event": at + DAY_NS, "price": 4.0},
        {"seq": 1, "ts_event": at + 10, "symbol": "B"},
        {"seq": 1, "ts_event": at + 10, "vendor": "u"},
    ]
    store.table("trades").append(rows("trades", events), writer="w", position=10, covers={})
    store.table("quotes").append(rows("quotes", [{"seq": 4, "ts_event": at + 10}]), writer="w", position=10, covers={})

    def found(start_ns, end_ns, below_seq):
        got = store.ticks(Kind.TRADES, "v", "A", start_ns=start_ns, end_ns=end_ns, below_seq=below_seq)
        assert got.schema.equals(TABLE_SCHEMAS[Kind.TRADES])
        return got.column("price").to_pylist()

    assert found(-(2**63), LAST_NS, LAST_NS) == [3.0, 2.0, 1.0, 4.0]
    assert found(at + 10, at + 11, 100) == [2.0, 1.0]
    assert found(at + 11, at + DAY_NS, 100) == []
    assert found(at - DAY_NS, at + DAY_NS + 1, 5) == [2.0, 4.0]
    assert found(at + 11, at + 10, 100) == []
    assert store.ticks(Kind.DEPTH, "v", "A", start_ns=0, end_ns=LAST_NS, below_seq=1).num_rows == 0


def test_ticks_of_a_kind_that_is_not_stored_are_an_error(store):
    """Control events are the log's own."""
    with pytest.raises(ConfigurationError, match="control"):
        store.ticks(Kind.CONTROL, "v", "A", start_ns=0, end_ns=1, below_seq=1)


def version(minute, revision, ts_known, close, **more):
    ts_ns = JAN_1_NS + minute * 60 * 10**9
    return {"ts_event": ts_ns, "revision": revision, "ts_known": ts_known, "close": close} | more


def closes(store, **which):
    found = store.bars("A", "1m", start_ns=JAN_1_NS, end_ns=LAST_NS, **which)
    return [(b["revision"], b["close"]) for b in found.to_pylist()]


@pytest.mark.parametrize("together", [True, False])
def test_of_a_bar_the_newest_version_is_read(home, rows, together):
    """By revision, then by when it was known; in one append or in several."""
    versions = [version(0, 0, 10, 1.0), version(1, 0, 10, 5.0), version(0, 1, 20, 2.0), version(0, 1, 30, 3.0)]
    table = home.store().table("bars")
    for at, part in enumerate([versions] if together else [[v] for v in versions]):
        table.append(rows("bars", part), writer="w", position=at, covers={})
    store = home.store()
    assert closes(store) == [(1, 3.0), (0, 5.0)]
    assert [closes(store, as_of_ns=t) for t in (9, 10, 25)] == [[], [(0, 1.0), (0, 5.0)], [(1, 2.0), (0, 5.0)]]
    assert store.read("bars").num_rows == 4


def test_versions_in_one_append_may_be_in_any_order(store, rows):
    """The newest wins wherever it stands."""
    versions = [version(0, r, 10 * r, float(r)) for r in (2, 0, 3, 1)]
    store.table("bars").append(rows("bars", versions), writer="w", position=1, covers={})
    assert closes(store) == [(3, 3.0)]
    assert closes(store, as_of_ns=15) == [(1, 1.0)]


def test_bars_that_differ_in_any_part_of_the_key_are_different_bars(store, rows):
    """Vendor, source, session and price type are never merged, and an absent part is one of its own kind."""
    same = version(0, 0, 1, 1.0)
    others = [{"vendor": "u"}, {"source": "external"}, {"session": "RTH"}, {"what": "MID"}, {"session": None}]
    batch = rows("bars", [same, *(same | o for o in others)])
    store.table("bars").append(batch, writer="w", position=1, covers={})
    assert store.read("bars").num_rows == 6
    assert len(closes(store)) == 3
    assert [len(closes(store, **w)) for w in ({"vendor": "u"}, {"source": "external"}, {"session": "RTH"})] == [1, 1, 1]


def test_tenants_do_not_see_each_other(home, rows):
    """Neither rows nor positions."""
    home.store("one").table("trades").append(numbered(rows, 0, 2), writer="w", position=2, covers={})
    other = home.store("two")
    assert (other.written(), other.read("trades").num_rows) == (frozenset(), 0)
    other.table("trades").append(numbered(rows, 7, 1), writer="w", position=1, covers={})
    assert seqs(home.store("one")) == [0, 1]


def test_opening_and_maintaining_again_change_nothing(store, rows):
    """Both are safe at any time, and describe tells the rows of a table."""
    store.table("trades").append(numbered(rows, 0, 5), writer="w", position=5, covers={})
    for _ in range(2):
        store.open()
        store.maintain()
    assert store.table("trades").position("w") == 5
    assert seqs(store) == list(range(5))
    assert store.describe()["tables"]["trades"]["rows"] == 5
    assert store.describe()["tables"]["quotes"]["rows"] == 0
