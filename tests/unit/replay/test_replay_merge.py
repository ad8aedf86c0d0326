"""Several files as one stream: order, pace, progress, closing."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
from datetime import UTC, datetime
from pathlib import Path

import pytest

from market_data_core.clock import ManualClock
from market_data_core.errors import SourceError
from market_data_core.protocols import BatchSource, Mark
from market_data_core.schemas import Kind, Origin
from market_data_pipeline.source.replay import ReplaySource
from market_data_pipeline.source.replay import merge as merge_module

SECOND_NS = 10**9


def lines(symbol, times):
    return [f"T,{symbol},{t},1,1" for t in times]


async def read(source, into, now=lambda: 0):
    """Keep what a source gives, with the time, even if it ends in an error."""
    async for item in source.batches({}):
        into.append((now(), item))


async def give(condition, deadline_s=5.0):
    """Let others run until something holds."""
    async with asyncio.timeout(deadline_s):
        while not condition():  # noqa: ASYNC110  what is waited for is another thread's doing
            await asyncio.sleep(0.001)


def test_it_is_a_source():
    """It is what the engine reads from, and says that it can wait."""
    source = ReplaySource(["x"], symbols=["A"])
    assert isinstance(source, BatchSource)
    assert (source.name, source.origin, source.waits) == ("replay", Origin.REPLAY, True)


async def test_files_are_laced_by_time(trades_csv, replay):
    """Rows of files that overlap come at most a stretch of one file out of order; each file keeps its own order."""
    for name, step in (("a", 1), ("b", 3), ("c", 40)):
        trades_csv(lines(name, range(0, 60_000, step)), name=f"{name}_trades.csv")
    folder = trades_csv([], name="z_trades.csv").parent
    given = await replay(folder)
    latest = {}
    for *_, symbol, _kind, row in given.rows():
        assert row["ts_event"] >= latest.get(symbol, 0)
        latest[symbol] = row["ts_event"]
        assert row["ts_event"] >= max(latest.values()) - merge_module.MERGE_ROWS
    assert sorted(m.symbols for m in given.marks) == [("A",), ("B",), ("C",)]


async def test_the_lacing_is_the_same_for_any_batch_size(trades_csv, replay):
    """The order of all rows of all files does not depend on the size of batches."""
    for name, step in (("a", 2), ("b", 5)):
        trades_csv(lines(name, range(0, 100_000, step)), name=f"{name}_trades.csv")
    folder = trades_csv([], name="z_trades.csv").parent
    assert (await replay(folder)).rows() == (await replay(folder, batch_rows=777)).rows()


async def test_days_follow_one_another(lean_file, replay, tmp_path):
    """A day is opened when the day before has been read up to it, whatever the order of the names."""
    for day in ("20131009", "20131007", "20131008"):
        for symbol in ("zzz", "abc"):
            lean_file(
                "trade", [f"{ms},10000,{int(day[-1])},Q,0,0" for ms in (34_200_000, 57_600_000)], symbol=symbol, day=day
            )
    given = await replay(*sorted(tmp_path.iterdir(), reverse=True))
    assert [r[-1]["size"] for r in given.rows()] == [7.0] * 4 + [8.0] * 4 + [9.0] * 4


def open_files(folder):
    links = []
    for fd in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # other threads close files meanwhile
            links.append(fd.readlink())
    return sum(link.is_relative_to(folder) for link in links)


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="open files are counted through /proc")
async def test_few_files_are_open_at_once(trades_csv, monkeypatch):
    """However many files overlap, no more than the limit are open; all of them are read."""
    monkeypatch.setattr(merge_module, "MAX_OPEN", 3)
    for i in range(10):
        folder = trades_csv(lines(f"s{i}", range(i, 60_000, 9)), name=f"{i}_trades.csv").parent
    most = rows = 0
    async for item in ReplaySource([folder]).batches({}):
        rows += 0 if isinstance(item, Mark) else item.data.num_rows
        most = max(most, open_files(folder))
    assert rows == sum(len(range(i, 60_000, 9)) for i in range(10))
    assert 2 <= most <= 3


async def test_a_file_that_goes_back_in_time_is_taken_as_it_stands(trades_csv, replay):
    """Going back in time changes nothing about a file's order."""
    times = [5, 1, 9, 2, 2, 8, 3]
    path = trades_csv(lines("a", times), name="a_trades.csv")
    trades_csv(lines("b", range(10)), name="b_trades.csv")
    given = await replay(path.parent)
    assert [r[-1]["ts_event"] for r in given.rows() if r[2] == "A"] == times


async def test_a_bad_file_does_not_take_back_the_others(trades_csv):
    """What was read before the error is given before the error is raised."""
    path = trades_csv(lines("a", range(40_000)), name="a_trades.csv")
    late = "vendor,symbol,ts_event,price,size\nT,b,50000,1,1\n" + "".join(
        f"T,b,{i},1,1\n" for i in range(50_001, 60_000)
    )
    (path.parent / "b_trades.csv.gz").write_bytes(gzip.compress(late.encode())[:-100])
    source, given = ReplaySource([path.parent]), []
    with pytest.raises(SourceError, match="b_trades"):
        await read(source, given)
    items = [item for _, item in given]
    assert sum(item.data.num_rows for item in items if not isinstance(item, Mark)) > 40_000
    assert {symbol for item in items if isinstance(item, Mark) for symbol in item.symbols} <= {"A"}


async def test_pace(trades_csv):
    """At speed 10 an hour takes six minutes of the clock, in batches of at most 50 ms."""
    path = trades_csv(lines("a", [i * SECOND_NS // 10 for i in range(101)]))
    clock = ManualClock(int(datetime(2024, 1, 1, tzinfo=UTC).timestamp()) * SECOND_NS)
    source, given = ReplaySource([path], speed=10, clock=clock), []

    start_s = clock.monotonic_s()
    reading = asyncio.create_task(read(source, given, lambda: clock.monotonic_s() - start_s), name="reading")
    await give(lambda: given)
    while not reading.done():
        for _ in range(20):
            await asyncio.sleep(0)
        clock.advance(0.01)
        await give(lambda: reading.done() or clock._sleepers)
    batches = [(at, b) for at, b in given if not isinstance(b, Mark)]
    assert sum(b.data.num_rows for _, b in batches) == 101
    for at, b in batches:
        times = b.data.column("ts_event").to_pylist()
        assert times[-1] - times[0] <= 0.5 * SECOND_NS
        assert at >= (times[-1] - 0.5 * SECOND_NS) / SECOND_NS / 10 - 1e-6
    assert 0.9 <= batches[-1][0] <= 1.1


async def test_closing_ends_a_paced_replay(trades_csv):
    """A source that is closed while it waits for a recorded night to pass ends, without its marks."""
    path = trades_csv(lines("a", [0, 10**14]))
    clock, given = ManualClock(), []
    source = ReplaySource([path], speed=1, clock=clock)

    reading = asyncio.create_task(read(source, given), name="reading")
    await give(lambda: clock._sleepers)
    await source.close()
    clock.advance(1)
    await asyncio.wait_for(reading, 5)
    await source.close()
    assert [b.data.num_rows for _, b in given] == [1]


async def test_leaving_early_releases_the_files(trades_csv):
    """A consumer that stops, or is cancelled, leaves nothing open."""
    path = trades_csv(lines("a", range(200_000)))
    source = ReplaySource([path], batch_rows=10)
    async with contextlib.aclosing(source.batches({})) as batches:
        first = await anext(batches)
    assert first.data.num_rows == 10
    assert not source._runs

    reading = asyncio.create_task(read(source, []), name="reading")
    await give(lambda: source.progress.rows_read)
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading
    assert not source._runs


async def test_progress(trades_csv):
    """Progress grows to the whole and says what was rejected."""
    path = trades_csv([*lines("a", range(50_000)), "bad", *lines("a", range(50_000, 90_000))])
    source = ReplaySource([path])
    before = source.progress
    assert (before.files_total, before.rows_read, before.ts_event) == (0, 0, None)
    seen = []
    await read(source, seen, lambda: source.progress)
    counts = [p.rows_read for p, _ in seen]
    assert counts == sorted(counts)
    assert all(p.bytes_read <= p.bytes_total for p, _ in seen)
    assert seen[0][0].rows_total_estimate == pytest.approx(90_001, rel=0.2)
    end = source.progress
    assert (end.rows_read, end.rows_rejected, end.files_done, end.ts_event) == (90_001, 1, 1, 89_999)
    assert end.bytes_read == end.bytes_total
    assert [item.kind for _, item in seen if not isinstance(item, Mark)].count(Kind.QUARANTINE) == 1
