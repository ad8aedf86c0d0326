"""A table of the lake as its writers see it."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable
from hypothesis import given
from hypothesis import strategies as st

from market_data_core.errors import (
    ConfigurationError,
    SchemaValidationError,
    TemporaryUnavailable,
    WriterConflict,
)
from market_data_core.schemas import STORED_SCHEMAS, TABLE_SCHEMAS, Kind
from market_data_core.steps import Step
from market_data_store.lake import TABLES, Lake
from market_data_store.lake.declarations import date_of
from market_data_store.lake.parts import split

DAY_NS = 86_400 * 1_000_000_000


def coded(rows):
    """The same rows with text as dictionaries."""
    names = ("vendor", "symbol", "origin")
    type_ = pa.dictionary(pa.int32(), pa.string())
    return rows.cast(pa.schema([f.with_type(type_) if f.name in names else f for f in rows.schema]))


@pytest.mark.parametrize("name", TABLES)
def test_a_stored_table_has_the_declared_types(lake, name):
    """What Delta keeps of every declared column is the declared type, and the date is a string."""
    lake.table(name)
    stored = pa.schema(DeltaTable(lake.path / name).schema().to_arrow())
    declared = STORED_SCHEMAS[name].append(pa.field("date", pa.string()))
    assert [(f.name, f.type) for f in stored] == [(f.name, f.type) for f in declared]


def test_every_stored_kind_and_record_has_a_table():
    """All that a store may have is declared."""
    assert set(TABLES) == set(STORED_SCHEMAS)


@pytest.mark.parametrize("tenant", ["", ".", "..", "a/b", "a\\b", "a.b", "a b", "x" * 65, "é"])
def test_a_tenant_name_cannot_lead_elsewhere(tmp_path, tenant):
    """Only plain names are folders of tenants."""
    with pytest.raises(ConfigurationError, match="tenant"):
        Lake(tmp_path, tenant)


def test_a_lake_is_named_by_path_or_url(tmp_path):
    """A file URL is a folder; what is neither that nor an object store is refused by name."""
    assert Lake(f"file://{tmp_path}", "acme").path == tmp_path / "acme"
    with pytest.raises(ConfigurationError, match="not ftp://"):
        Lake("ftp://host/lake", "acme")


def test_rows_come_back_as_they_went_in(lake, trades):
    """Every column of every row survives, nulls included."""
    rows = trades(0, 50)
    lake.table("trades").append(rows, writer="log-a", position=50, covers={})
    assert lake.read("trades").sort_by("seq").equals(rows)


def test_a_writer_that_never_committed_has_no_position(lake):
    """None is not 0."""
    table = lake.table("trades")
    assert table.position("log-a") is None
    assert table.covers("log-a") == {}


def test_position_and_covers_come_with_the_rows(lake, trades):
    """They are seen by the view that committed and by a fresh one; sources that did not move keep their end."""
    table = lake.table("trades")
    table.append(trades(0, 5), writer="log-a", position=5, covers={"file:1": 3, "file:2": 2})
    table.append(trades(5, 5), writer="log-a", position=10, covers={"file:2|odd": 7, "file:2": 6})
    for view in (table, lake.table("trades")):
        assert view.position("log-a") == 10
        assert view.covers("log-a") == {"file:1": 3, "file:2": 6, "file:2|odd": 7}


def test_an_append_of_no_rows_moves_the_position(lake, trades, seqs):
    """The position moves alone, and no file is made."""
    table = lake.table("trades")
    table.append(trades(0, 5), writer="log-a", position=5, covers={})
    table.append(trades(0, 0), writer="log-a", position=9, covers={"s": 4})
    assert (lake.table("trades").position("log-a"), lake.table("trades").covers("log-a")) == (9, {"s": 4})
    assert seqs(lake) == list(range(5))
    assert lake.counts()["trades"].files == 1


def test_a_position_does_not_go_back(lake, trades, seqs):
    """An append below the last position is refused and leaves nothing."""
    table = lake.table("trades")
    table.append(trades(0, 5), writer="log-a", position=5, covers={})
    with pytest.raises(WriterConflict, match="from 5 to 4"):
        table.append(trades(5, 5), writer="log-a", position=4, covers={})
    assert seqs(lake) == list(range(5))


def test_a_stale_view_cannot_commit_for_a_writer_that_moved(lake, trades, seqs):
    """Who read the position before somebody else moved it is refused, and its files are gone."""
    stale, other = lake.table("trades"), lake.table("trades")
    other.append(trades(0, 5), writer="log-a", position=5, covers={})
    with pytest.raises(WriterConflict, match="log-a"):
        stale.append(trades(0, 9), writer="log-a", position=9, covers={})
    assert seqs(lake) == list(range(5))
    assert len(lake.folder("trades").data_files()) == 1
    with pytest.raises(TemporaryUnavailable, match="fresh"):
        stale.append(trades(5, 1), writer="log-a", position=9, covers={})


def test_a_view_that_renews_itself_still_notices_another_writer(lake, trades, monkeypatch):
    """Reopening a long-lived handle does not hide that somebody moved the position meanwhile."""
    stale, other = lake.table("trades"), lake.table("trades")
    other.append(trades(0, 5), writer="log-a", position=5, covers={})
    monkeypatch.setattr("market_data_store.lake.table._REOPEN_COMMITS", 0)
    with pytest.raises(WriterConflict, match="to 5"):
        stale.append(trades(0, 9), writer="log-a", position=9, covers={})


def test_a_view_that_renews_itself_goes_on(lake, trades, seqs, monkeypatch):
    """A handle that is reopened after every commit loses nothing."""
    monkeypatch.setattr("market_data_store.lake.table._REOPEN_COMMITS", 1)
    table = lake.table("trades")
    for i in range(5):
        table.append(trades(i, 1), writer="log-a", position=i + 1, covers={"s": i})
    assert (seqs(lake), table.covers("log-a")) == (list(range(5)), {"s": 4})


def test_two_writers_share_a_table(lake, trades, seqs):
    """Views of different writers do not disturb each other, however they alternate."""
    a, b = lake.table("trades"), lake.table("trades")
    for i in range(6):
        view, writer = ((a, "log-a"), (b, "log-b"))[i % 2]
        view.append(trades(i * 10, 10), writer=writer, position=i, covers={"s": i})
    assert seqs(lake) == list(range(60))
    fresh = lake.table("trades")
    assert [(fresh.position(w), fresh.covers(w)) for w in ("log-a", "log-b")] == [(4, {"s": 4}), (5, {"s": 5})]


def test_one_writer_name_may_begin_another(lake, trades):
    """The covers of ``log`` and ``log-2`` are told apart."""
    table = lake.table("trades")
    table.append(trades(0, 1), writer="log", position=1, covers={"s": 1})
    table.append(trades(1, 1), writer="log-2", position=1, covers={"s": 2})
    assert (table.covers("log"), table.covers("log-2")) == ({"s": 1}, {"s": 2})


@pytest.mark.parametrize("writer", ["", "log|a", "|rewriter"])
def test_a_writer_name_that_could_pass_for_another_is_refused(lake, trades, writer):
    """The separator of writer and source is in no name."""
    with pytest.raises(ConfigurationError, match="writer"):
        lake.table("trades").append(trades(0, 1), writer=writer, position=1, covers={})


def test_rows_of_other_columns_are_refused(lake, trades):
    """Names and types have to be the declared ones, and times have to be there."""
    table = lake.table("trades")
    with pytest.raises(SchemaValidationError, match="quotes"):
        lake.table("quotes").append(trades(0, 1), writer="w", position=1, covers={})
    rows = trades(0, 1)
    at = rows.schema.get_field_index("seq")
    with pytest.raises(SchemaValidationError, match="null in seq"):
        table.append(rows.set_column(at, "seq", pa.nulls(1, pa.int64())), writer="w", position=1, covers={})


def test_an_unknown_table_is_named_with_those_there_are(lake):
    """A typing error is answered with the choice."""
    with pytest.raises(ConfigurationError, match=r"trade'.*quotes, trades"):
        lake.table("trade")


def test_a_table_that_vanishes_is_not_made_anew(lake, trades):
    """An unmounted disk does not look like an empty lake."""
    lake.table("trades").append(trades(0, 1), writer="w", position=1, covers={})
    lake.path.rename(lake.path.with_name("away"))
    with pytest.raises(TemporaryUnavailable, match="mounted"):
        lake.table("trades")
    with pytest.raises(TemporaryUnavailable):
        lake.read("trades")


def test_rows_are_parted_at_utc_midnight(lake, trades):
    """The last nanosecond of a date and the first of the next lie in two folders."""
    midnight = 19_724 * DAY_NS
    lake.table("trades").append(trades(0, 4, start_ns=midnight - 2, step_ns=1), writer="w", position=4, covers={})
    folders = {p.parent.name: p for p in lake.folder("trades").data_files()}
    assert sorted(folders) == ["date=2024-01-01", "date=2024-01-02"]
    before = lake.read("trades", columns=["seq"], end_ns=midnight)
    after = lake.read("trades", columns=["seq"], start_ns=midnight)
    assert (sorted(before["seq"].to_pylist()), sorted(after["seq"].to_pylist())) == ([0, 1], [2, 3])


def test_quarantine_is_dated_by_the_time_of_receipt(lake):
    """What could not be parsed has an event time that nobody should trust."""
    schema = TABLE_SCHEMAS[Kind.QUARANTINE]
    values = {"ts_event": 0, "ts_recv": 19_724 * DAY_NS, "seq": 1, "flags": 0, "raw": "x,y", "reason": "columns"}
    rows = pa.Table.from_pylist([dict.fromkeys(schema.names) | values], schema=schema)
    lake.table("quarantine").append(rows, writer="w", position=1, covers={})
    assert [p.parent.name for p in lake.folder("quarantine").data_files()] == ["date=2024-01-02"]
    assert lake.read("quarantine", end_ns=5).num_rows == 1


@given(
    st.lists(
        st.tuples(st.sampled_from(["A", "B", "Ä", None]), st.integers(-3 * DAY_NS, 3 * DAY_NS), st.integers(0, 5)),
        max_size=40,
    ),
    st.booleans(),
)
def test_splitting_keeps_every_row_sorted_in_its_date(events, in_codes):
    """The parts are the rows again; each has one date, ascending, and is in the table's order."""
    schema = TABLE_SCHEMAS[Kind.TRADES]
    rows = pa.Table.from_pylist(
        [
            dict.fromkeys(schema.names) | {"symbol": s, "ts_event": t, "ts_recv": t, "seq": q, "flags": i}
            for i, (s, t, q) in enumerate(events)
        ],
        schema=schema,
    )
    parts = split(coded(rows) if in_codes else rows, TABLES["trades"])
    assert [p.date for p in parts] == sorted({p.date for p in parts})
    flags = []
    for part in parts:
        found = part.rows.select(["symbol", "ts_event", "seq", "flags"]).to_pylist()
        assert {date_of(r["ts_event"]) for r in found} == {part.date}
        keys = [((r["symbol"] or "").encode(), r["ts_event"], r["seq"]) for r in found]
        assert keys == sorted(keys)
        flags += [r["flags"] for r in found]
    assert sorted(flags) == list(range(len(events)))


def test_rows_of_very_many_symbols_and_dates_are_sorted_too(trades):
    """More than can be counted in 16 bits."""
    symbols = [f"S{n:05d}" for n in range(40_000, 0, -1)]
    ordered = split(trades(0, 40_000, symbols=symbols), TABLES["trades"])
    assert [p.rows["symbol"].to_pylist() for p in ordered] == [sorted(symbols)]
    dates = split(trades(0, 40_000, start_ns=0, step_ns=DAY_NS).sort_by([("seq", "descending")]), TABLES["trades"])
    assert [p.rows["seq"].to_pylist() for p in dates] == [[n] for n in range(40_000)]


def test_text_in_codes_is_stored_as_the_text_it_is(lake, trades):
    """And readers can leave out row groups by the range of symbols. Other codes are refused."""
    rows = trades(0, 70_000, symbols=[f"S{n:03d}" for n in range(100)])
    table = lake.table("trades")
    table.append(coded(rows), writer="w", position=70_000, covers={})
    assert lake.read("trades").sort_by("seq").equals(rows)
    (path,) = lake.folder("trades").data_files()
    found = pq.read_metadata(path)
    at = found.schema.names.index("symbol")
    ranges = [found.row_group(n).column(at).statistics for n in range(found.num_row_groups)]
    assert [(r.min, r.max) for r in ranges] == [("S000", "S046"), ("S046", "S093"), ("S093", "S099")]
    mixed = rows.set_column(0, "vendor", pa.array([1] * rows.num_rows).dictionary_encode())
    with pytest.raises(SchemaValidationError, match="vendor"):
        table.append(mixed, writer="w", position=140_000, covers={})


def test_an_append_passes_its_steps_in_order(lake, trades, at_step):
    """Data file, its sync, the commit, its sync."""
    table = lake.table("trades")
    passed = []
    at_step(passed.append)
    table.append(trades(0, 1), writer="w", position=1, covers={})
    assert passed == [Step.DATA_FILE_WRITTEN, Step.DATA_FILE_SYNCED, Step.TABLE_COMMITTED, Step.TABLE_SYNCED]


def test_an_acknowledged_append_is_synced_with_all_before_it(lake, trades, on_sync):
    """Data files, the folders they lie in, and every commit, another writer's included."""
    a, b = lake.table("trades"), lake.table("trades")
    synced = set()
    on_sync(lambda what, path: synced.add((what, path)))
    a.append(trades(0, 1), writer="w", position=1, covers={})
    b.append(trades(1, 1), writer="v", position=1, covers={})
    folder = lake.folder("trades")
    assert {("file", p) for p in folder.data_files()} <= synced
    assert {("file", folder.log.commit_path(v)) for v in (1, 2)} <= synced
    assert {("dir", p) for p in (folder.log.path, folder.path, folder.path / "date=2024-01-01")} <= synced


def test_a_data_file_that_is_gone_before_the_commit_stops_it(lake, trades, at_step, seqs):
    """A machine that slept between writing and committing may come back to a vacuumed file."""
    table = lake.table("trades")

    def vacuumed(step):
        if step is Step.DATA_FILE_SYNCED:
            for path in lake.folder("trades").data_files():
                path.unlink()

    at_step(vacuumed)
    with pytest.raises(TemporaryUnavailable, match="absent"):
        table.append(trades(0, 1), writer="w", position=1, covers={})
    assert (seqs(lake), lake.table("trades").position("w")) == ([], None)


def test_counts_say_what_a_table_holds(lake, trades):
    """Files, bytes and rows of the newest version."""
    assert lake.counts()["trades"].rows == 0
    lake.table("trades").append(trades(0, 7), writer="w", position=7, covers={})
    counts = lake.counts()["trades"]
    sizes = [p.stat().st_size for p in lake.folder("trades").data_files()]
    assert (counts.files, counts.size_bytes, counts.rows, counts.leftover_files) == (1, sum(sizes), 7, 0)
