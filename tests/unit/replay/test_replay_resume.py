"""What a replay gives does not depend on how it is cut, nor on where it was broken off."""

from __future__ import annotations

import random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from market_data_core.errors import SourceError
from market_data_core.protocols import END_OF_TIME_NS
from market_data_core.schemas import Kind
from market_data_pipeline.source.replay import ReplaySource

QUOTE_ROWS = ["B", "A", "0", "x", "5", ""]


def quote_lines(shape):
    """Lean quote lines: a bid, an ask, an empty ask, a row that cannot be read, one of too few columns, no row."""
    made = {
        "B": lambda i: f"{34_200_000 + i},{100_000 + i},{i + 1},0,0,P,1,0",
        "A": lambda i: f"{34_200_000 + i},0,0,{100_100 + i},{i + 1},P,1,1",
        "0": lambda i: f"{34_200_000 + i},0,0,0,0,P,1,0",
        "x": lambda i: f"{34_200_000 + i},oops,1,0,0,P,1,0",
        "5": lambda i: f"{34_200_000 + i},1,2,3,4",
        "": lambda _: "",
    }
    return [made[c](i) for i, c in enumerate(shape)]


def rows_by_source(given):
    found = {}
    for row in given.rows():
        found.setdefault(row[0], []).append(row[1:])
    return found


shapes = st.lists(st.sampled_from(QUOTE_ROWS), min_size=1, max_size=60).map(lambda s: ["B", *s])
relaxed = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@relaxed
@given(shape=shapes, batch_rows=st.integers(1, 70))
async def test_the_size_of_batches_changes_nothing(lean_file, replay, shape, batch_rows):
    """Any batch size gives the same rows in the same order, at most so many a batch."""
    path = lean_file("quote", quote_lines(shape))
    whole, cut = await replay(path), await replay(path, batch_rows=batch_rows)
    assert cut.rows() == whole.rows()
    assert cut.marks == whole.marks
    assert max(b.data.num_rows for b in cut.batches) <= batch_rows
    ends = [b.offset for b in cut.batches]
    assert ends == sorted(set(ends))
    assert ends[-1] == len([c for c in shape if c])


@relaxed
@given(shape=shapes, order=st.sampled_from(["file", "time"]), data=st.data())
async def test_a_resume_gives_the_tail(lean_file, replay, shape, order, data):
    """From any position on, a resumed replay gives what the whole one gave after it, book and all."""
    lines = quote_lines(shape)
    random.Random(len(shape)).shuffle(lines)
    path = lean_file("quote", lines)
    layout = ReplaySource([path]).plan()[0][1].model_copy(update={"order": order})
    whole = await replay(path, layout=layout)
    ((source_id, rows),) = rows_by_source(whole).items()
    total = len([c for c in shape if c])
    assert len(rows) == total
    at = data.draw(st.integers(0, total + 1))
    tail = await replay(path, layout=layout, resume={source_id: at})
    assert [r[1:] for r in tail.rows()] == rows[at:]
    assert len(tail.marks) == (at <= total)


names = st.lists(st.tuples(st.sampled_from(["A", "b", " c ", "", "D"]), st.sampled_from(["V", "W", ""])), max_size=30)


@relaxed
@given(names=names, data=st.data())
async def test_a_symbol_filter_keeps_positions(trades_csv, replay, names, data):
    """Rows of other symbols are left out, but their numbers are not given to others; a resume fits."""
    path = trades_csv([f"{vendor},{symbol},{i},1.5,10" for i, (symbol, vendor) in enumerate([("A", "V"), *names])])
    everything, some = await replay(path), await replay(path, symbols=["a", "C"])
    kept = [r for r in everything.rows() if r[2] in {"A", "C", "?"}]
    assert some.rows() == kept
    assert {s for m in some.marks for s in m.symbols} <= {"A", "C"}
    at = data.draw(st.integers(0, len(names) + 1))
    resumed = await replay(path, symbols=["A", "C"], resume={some.batches[0].source_id: at})
    number = {Kind.TRADES: lambda row: row["ts_event"], Kind.QUARANTINE: lambda row: row["line"] - 2}
    assert resumed.rows() == [r for r in kept if number[r[3]](r[-1]) >= at]
    assert resumed.marks == some.marks


async def test_files_that_span_many_blocks_resume_exactly(lean_file, replay):
    """The book and the order hold where one block of the file ends and the next begins."""
    n = 150_000
    lines = [f"{i},{100_000 + i},1,0,0,P,1,0" if i % 3 else f"{i},0,0,{200_000 + i},1,P,1,0" for i in range(n)]
    lines[70_001] = "garbage"
    path = lean_file("quote", lines)
    whole = await replay(path)
    table = whole.table(Kind.QUOTES)
    assert whole.quarantine == [(70_002, "expected 8 columns, found 1")]
    assert table.num_rows == n - 1
    assert table.column("ts_event").to_pylist()[70_000:70_002] == [
        table.column("ts_event")[0].as_py() + i * 1_000_000 for i in (70_000, 70_002)
    ]
    source_id = whole.batches[0].source_id
    for at in (1, 8_192, 70_001, 70_002, 100_000, n - 1):
        tail = (await replay(path, resume={source_id: at})).table(Kind.QUOTES)
        assert tail.equals(table.slice(at - (at > 70_001)))


async def test_a_finished_file_is_not_read(lean_file, replay):
    """A file that is done is skipped unread and counts as done; one whose mark is given gives nothing."""
    path = lean_file("trade", ["1000,10000,1,Q,0,0"])
    source_id = ReplaySource([path]).plan()[0][2]
    source = ReplaySource([path], done=[source_id])
    assert [item async for item in source.batches({})] == []
    assert (source.progress.files_done, source.progress.rows_read) == (1, 0)
    assert (source.progress.bytes_read, source.progress.bytes_total) == (source.plan()[0][3],) * 2
    nothing = await replay(path, resume={source_id: 2})
    assert (nothing.batches, nothing.marks) == ([], [])
    only_mark = await replay(path, resume={source_id: 1})
    ((mark,), batches) = only_mark.marks, only_mark.batches
    assert (batches, mark.offset, mark.ts_ns, mark.symbols, mark.vendor) == ([], 2, END_OF_TIME_NS, ("ABC",), "lean")


async def test_a_position_beyond_the_file_is_an_error(lean_file, replay):
    """More read than there is means that position and file do not belong together."""
    path = lean_file("trade", ["1000,10000,1,Q,0,0"])
    with pytest.raises(SourceError, match="1 rows, but 3"):
        await replay(path, resume={ReplaySource([path]).plan()[0][2]: 3})
