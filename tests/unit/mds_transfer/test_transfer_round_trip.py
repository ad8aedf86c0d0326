"""Out of a store and into another: the same digest, whichever stores and formats are on the way."""

from __future__ import annotations

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transfer_rows import START_NS, bars, put, rows_of, trades

from market_data_core.schemas import KEYS, STORED_SCHEMAS
from market_data_store.backend import Wanted
from mds_client.transfer import Digest, digest_of, dump, restore

FILES = ("rows.csv", "rows.csv.gz", "rows.ndjson", "rows.ndjson.gz", "rows.parquet")

any_rows = settings(
    max_examples=6, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)


def _digest(rows):
    digest = Digest()
    for batch in rows.to_batches():
        digest.add(batch)
    return digest.hexdigest()


@pytest.mark.parametrize("table", ["trades", "quarantine", *KEYS])
@any_rows
@given(data=st.data())
def test_any_rows_come_back_by_digest(table, opening, tmp_path, data):
    """Whatever a table can hold goes lake -> file -> PostgreSQL -> file -> lake, and has one digest everywhere."""
    rows, name = data.draw(rows_of(table)), data.draw(st.sampled_from(FILES))
    with opening("lake", "postgres", "lake") as (first, middle, last):
        put(first, table, rows)
        out = dump(first, table, tmp_path / name)
        taken = restore(middle, table, tmp_path / name)
        again = dump(middle, table, tmp_path / f"again.{name}")
        restore(last, table, tmp_path / f"again.{name}")
        digests = {out.digest, taken.digest, again.digest, digest_of(last, table).digest, _digest(rows)}
    assert len(digests) == 1
    assert out.rows == taken.rows == again.rows == rows.num_rows


@pytest.mark.parametrize("name", FILES)
def test_every_format_keeps_every_value(name, store, new_store, kind, tmp_path):
    """What is read back is the rows themselves: nulls beside empty texts, floats to the last bit."""
    rows = trades(50)
    put(store, "trades", rows)
    done = dump(store, "trades", tmp_path / name)
    other = new_store(kind)
    assert restore(other, "trades", tmp_path / name).inserted == 50
    assert other.fetch("trades", Wanted()).equals(rows)
    assert done.digest == _digest(rows)


@pytest.mark.parametrize("name", FILES)
def test_the_character_nul_travels(name, new_store, tmp_path):
    """A lake can hold NUL in a text, and every format brings it back."""
    first, other = new_store("lake"), new_store("lake")
    rows = [{**r, "trade_id": "a\0b"} for r in trades(2).to_pylist()]
    put(first, "trades", pa.Table.from_pylist(rows, STORED_SCHEMAS["trades"]))
    dump(first, "trades", tmp_path / name)
    restore(other, "trades", tmp_path / name)
    assert other.fetch("trades", Wanted()).to_pylist() == rows


def test_every_version_of_a_keyed_row_travels(store, new_store, kind, tmp_path):
    """A dump has the history; restored, `as_of` answers as it did."""
    for revision in range(3):
        put(store, "bars", bars(4, revision=revision, close=10.0 + revision))
    dump(store, "bars", tmp_path / "bars.csv")
    other = new_store(kind)
    done = restore(other, "bars", tmp_path / "bars.csv")
    assert (done.rows, done.inserted + done.revised) == (12, 12)
    for wanted in (Wanted(), Wanted(versions=True), Wanted(as_of_ns=START_NS + 1)):
        assert other.fetch("bars", wanted).equals(store.fetch("bars", wanted))


def test_the_newest_versions_alone_can_be_dumped(store, tmp_path):
    """Who asks without versions gets one row a key."""
    for revision in range(3):
        put(store, "bars", bars(4, revision=revision, close=10.0 + revision))
    assert dump(store, "bars", tmp_path / "newest.csv", wanted=Wanted()).rows == 4
    assert dump(store, "bars", tmp_path / "all.csv").rows == 12


@pytest.mark.parametrize("name", FILES)
def test_repeating_a_restore_changes_nothing(name, store, new_store, kind, tmp_path):
    """The second time all rows are there already, keyed or not."""
    put(store, "trades", trades(30))
    put(store, "bars", bars(30))
    other = new_store(kind)
    for table in ("trades", "bars"):
        dump(store, table, tmp_path / name)
        first, second = (restore(other, table, tmp_path / name) for _ in range(2))
        assert (first.inserted, first.unchanged) == (30, 0)
        assert (second.inserted, second.revised, second.unchanged) == (0, 0, 30)
        assert digest_of(other, table) == digest_of(store, table)


def test_a_dump_takes_what_is_asked_for(store, tmp_path):
    """Filters of time and symbol hold for dumps, and the digest is of the rows in the file."""
    put(store, "trades", trades(10))
    put(store, "trades", trades(10, symbol="MSFT"))
    wanted = Wanted(symbols=("AAPL",), start_ns=START_NS + 2_000_000_000, end_ns=START_NS + 5_000_000_000)
    done = dump(store, "trades", tmp_path / "some.csv", wanted=wanted)
    assert done.rows == 3
    assert done.digest == _digest(trades(3, start=2))


def test_an_empty_table_makes_a_file_that_can_be_restored(store, new_store, kind, tmp_path):
    """No rows are a header, nothing, or a footer: never an error."""
    other = new_store(kind)
    for name in FILES:
        for table in STORED_SCHEMAS:
            assert dump(store, table, tmp_path / name).rows == 0
            assert restore(other, table, tmp_path / name).rows == 0


def test_equal_rows_make_equal_files(store, tmp_path):
    """Compression adds no time and no name, so a dump can be compared byte by byte."""
    put(store, "trades", trades(20))
    for name in ("a.csv.gz", "b.csv.gz"):
        dump(store, "trades", tmp_path / name)
    assert (tmp_path / "a.csv.gz").read_bytes() == (tmp_path / "b.csv.gz").read_bytes()


def test_a_file_written_by_hand_needs_only_its_key_and_values(store, tmp_path):
    """Bars of somebody's own, with times as people write them: the rest has defaults, and repeating is no revision."""
    (tmp_path / "own.csv").write_text(
        "vendor,symbol,interval,ts_event,close\nme,AAPL,1d,2024-01-02T00:00:00-05:00,185.64\n"
    )
    first, second = (restore(store, "bars", tmp_path / "own.csv") for _ in range(2))
    assert (first.inserted, second.unchanged) == (1, 1)
    row = store.fetch("bars", Wanted()).to_pylist()[0]
    assert (row["what"], row["session"], row["source"]) == ("TRADES", "ALL", "external")
    assert row["ts_event"] == 1_704_171_600_000_000_000


@given(data=st.data())
@settings(max_examples=30, deadline=None)
def test_the_digest_knows_no_order_and_no_batches(data):
    """Rows in any order and cut anywhere come to the same; one row more or another value does not."""
    rows = data.draw(rows_of("trades", most=12).filter(lambda t: t.num_rows > 0))
    order = data.draw(st.permutations(range(rows.num_rows)))
    cut = data.draw(st.integers(0, rows.num_rows))
    moved = rows.take(pa.array(order))
    assert _digest(pa.concat_tables([moved.slice(cut), moved.slice(0, cut)])) == _digest(rows)
    assert _digest(pa.concat_tables([rows, rows.slice(0, 1)])) != _digest(rows)
    changed = rows.set_column(7, rows.schema.field(7), [[12345.678] * rows.num_rows])
    assert (_digest(changed) == _digest(rows)) == changed.equals(rows)


def test_digests_are_what_they_were():
    """A digest that was written down years ago can still be compared."""
    assert _digest(trades(3)) == "4311ed36a8e4614cc8ceb872cdefdd84"
    assert _digest(bars(2)) == "c0c71b58b985afc75b9dde44283bab2b"


def test_a_column_without_values_leaves_the_digest_as_it_is():
    """Digests stay what they were when a later version declares a further column."""
    rows = trades(5)
    assert _digest(rows) == _digest(rows.append_column("later", pa.nulls(5, pa.string())))
