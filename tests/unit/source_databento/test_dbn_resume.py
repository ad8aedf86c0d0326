"""What DBN files give does not depend on how it is cut, nor on where it was broken off."""

from __future__ import annotations

import databento_dbn as dbn
import pytest
from databento_dbn import Action
from dbn_oracle import BASE, SECOND, pairs, take, top, trade
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from market_data_core.errors import SourceError
from market_data_core.schemas import Kind
from market_data_pipeline.source.databento import DatabentoSource

relaxed = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def depth(ts, number):
    return dbn.MBP10Msg(
        publisher_id=1,
        instrument_id=number,
        ts_event=BASE + ts,
        price=1,
        size=1,
        action=Action.ADD,
        side=dbn.Side.BID,
        depth=0,
        ts_recv=BASE + ts,
        levels=pairs(5.0, 6.0, 10),
    )


MAKE = {
    "q": lambda ts, n: top(ts, number=n),
    "t": lambda ts, n: top(ts, number=n, action=Action.TRADE),
    "p": lambda ts, n: trade(ts, number=n),
    "d": depth,
    "s": lambda ts, n: dbn.StatusMsg(publisher_id=1, instrument_id=n, ts_event=BASE + ts, ts_recv=BASE + ts),
    "h": lambda ts, _: dbn.SystemMsg(ts_event=BASE + ts, msg="Heartbeat"),
}
EVENTS = {"q": 1, "t": 2, "p": 1, "d": 21, "s": 1, "h": 0}
shapes = st.lists(
    st.tuples(st.sampled_from(sorted(MAKE)), st.integers(0, SECOND), st.sampled_from([1, 2, 3])),
    min_size=1,
    max_size=40,
)


def records_of(shape):
    """Records of a shape: (type, nanoseconds since the one before, instrument)."""
    ts, records = 0, []
    for kind, step, number in shape:
        ts += step
        records.append(MAKE[kind](ts, number))
    return records


def numbered(found):
    """Each row with its number: of batches that hold all rows, every number up to the last."""
    return list(enumerate(found.rows()))


@relaxed
@given(shape=shapes, batch_rows=st.integers(1, 50), data=st.data())
async def test_a_resume_gives_the_tail(dbn_file, replay, shape, batch_rows, data):
    """At any batch size and from any position on, what comes is what the whole file gave after it."""
    path = dbn_file(records_of(shape))
    whole, cut = await replay(path), await replay(path, batch_rows=batch_rows)
    total = sum(EVENTS[kind] for kind, _, _ in shape)
    assert len(whole.rows()) == total
    assert cut.rows() == whole.rows()
    assert cut.marks == whole.marks
    assert [m.offset for m in whole.marks] == [total + 1] * bool(total)
    assert all(b.data.num_rows <= batch_rows for b in cut.batches)
    ends = [b.offset for b in cut.batches]
    assert ends == [sum(b.data.num_rows for b in cut.batches[: i + 1]) for i in range(len(ends))]
    if total:
        at = data.draw(st.integers(0, total + 1))
        tail = await replay(path, batch_rows=batch_rows, resume={whole.marks[0].source_id: at, "other": 3})
        assert tail.rows() == whole.rows()[at:]
        assert tail.marks == (whole.marks if at <= total else [])


@relaxed
@given(shape=shapes, data=st.data())
async def test_a_symbol_filter_keeps_positions(dbn_file, replay, shape, data):
    """Events of other symbols are left out, but their numbers are not given to others; a resume fits."""
    path = dbn_file(records_of(shape))
    whole, some = await replay(path), await replay(path, symbols=["abc", "3"])
    kept = [(n, row) for n, row in numbered(whole) if row[1]["symbol"] in {"ABC", "3"}]
    assert some.rows() == [row for _, row in kept]
    assert {s for m in some.marks for s in m.symbols} == {row[1]["symbol"] for _, row in kept}
    if kept:
        at = data.draw(st.integers(0, len(whole.rows()) + 1))
        tail = await replay(path, symbols=["ABC", "3"], resume={some.marks[0].source_id: at})
        assert tail.rows() == [row for n, row in kept if n >= at]


@relaxed
@given(shape=shapes)
async def test_kinds_are_never_more_than_a_second_apart(dbn_file, replay, shape):
    """Kinds come in turns, so an event is at most a second of receive time behind one that was given before it."""
    rows = (await replay(dbn_file(records_of(shape)))).rows()
    latest = 0
    for _, row in rows:
        assert latest - row["ts_event"] <= SECOND + 1000
        latest = max(latest, row["ts_event"])


async def test_a_trade_comes_after_its_quote(dbn_file, replay):
    """Of an update that is a trade, the quote is given first and the trade has its time."""
    rows = (await replay(dbn_file([top(0), top(5, action=Action.TRADE), top(2 * SECOND)]))).rows()
    assert [(k, r["ts_event"] - BASE) for k, r in rows] == [
        (Kind.QUOTES, 0),
        (Kind.QUOTES, 5),
        (Kind.TRADES, 5),
        (Kind.QUOTES, 2 * SECOND),
    ]


async def test_long_mixed_files_resume_exactly(dbn_file, replay):
    """Where one piece of a file ends and the next begins, nothing is lost or given twice."""
    records = [MAKE["qtpqd"[i % 5]](i * 1000, 1 + i % 2) for i in range(20_000)]
    path = dbn_file(records, "a.dbn.zst")
    whole = await replay(path)
    ends = [b.offset for b in whole.batches]
    assert len(ends) > 5
    rows = whole.rows()
    for at in (ends[1] - 1, ends[1], ends[3] + 1, len(rows) - 1):
        tail = await replay(path, resume={whole.marks[0].source_id: at}, batch_rows=5000)
        assert len(tail.rows()) == len(rows) - at
        assert (tail.rows()[:3], tail.rows()[-3:]) == (rows[at : at + 3], rows[at:][-3:])


async def test_a_finished_file_is_not_read(dbn_file):
    """A file that is done is skipped and counts as done; of one whose mark is given nothing comes."""
    path = dbn_file([trade()])
    ((_, _, source_id, size),) = DatabentoSource(path).plan()
    source = DatabentoSource(path, done=[source_id])
    assert await take(source) == await take(DatabentoSource(path), {source_id: 2})
    progress = source.progress
    assert (progress.files_done, progress.rows_read, progress.bytes_read, progress.bytes_total) == (1, 0, size, size)
    only_mark = await take(DatabentoSource(path), {source_id: 1})
    assert (only_mark.batches, [m.offset for m in only_mark.marks]) == ([], [2])


async def test_a_position_beyond_the_file_is_an_error(dbn_file, replay):
    """More read than there is means that position and file do not belong together."""
    path = dbn_file([trade()])
    with pytest.raises(SourceError, match="1 events, but 3"):
        await replay(path, resume={DatabentoSource(path).plan()[0][2]: 3})
