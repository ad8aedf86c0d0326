"""Queries through the child process: what they give, and how they end at their limits."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import psutil
import pyarrow as pa
import pytest
from deltalake import DeltaTable, write_deltalake

from market_data_core.errors import TemporaryUnavailable, ValidationError
from market_data_core.schemas import TABLE_SCHEMAS, Kind
from market_data_store.query.limits import MIB, QueryLimits
from market_data_store.query.runner import QueryRunner, run_query

START_NS = 1_700_000_000_000_000_000
DATE = "2023-11-14"
FOREVER = "select count(*) from generate_series(1, 1000000000000)"


def rows(kind: Kind, count: int, **columns) -> pa.Table:
    """Return `count` rows of a kind; columns that are not given count up or name themselves."""
    made = {}
    for field in TABLE_SCHEMAS[kind]:
        if field.name in columns:
            values = columns[field.name]
        elif field.type == pa.string():
            values = [f"{field.name}{i % 3}" for i in range(count)]
        else:
            values = np.arange(count) + (START_NS if field.name.startswith("ts_") else 0)
        made[field.name] = pa.array(values).cast(field.type)
    return pa.table(made, schema=TABLE_SCHEMAS[kind]).append_column("date", pa.array([DATE] * count))


def write(root: Path, tenant: str, kind: Kind, table: pa.Table) -> None:
    """Append to a table of the lake as its writers do."""
    write_deltalake(root / tenant / kind, table, partition_by=["date"], mode="append")


@pytest.fixture(scope="module")
def query_lake(tmp_path_factory):
    """A lake: tenant ``a`` with trades, depth and two revisions of bars, tenant ``b`` with trades."""
    root = tmp_path_factory.mktemp("lake")
    write(root, "a", Kind.TRADES, rows(Kind.TRADES, 1000))
    write(root, "a", Kind.DEPTH, rows(Kind.DEPTH, 200_000))
    key = {"vendor": ["v"] * 3, "symbol": ["X", "X", "Y"], "ts_event": [0, 0, 0], "interval": ["1m"] * 3}
    key |= {"what": ["TRADES"] * 3, "session": ["ALL"] * 3, "source": ["internal"] * 3}
    write(root, "a", Kind.BARS, rows(Kind.BARS, 3, **key, revision=[0, 1, 0], close=[1.0, 2.0, 3.0]))
    write(root, "b", Kind.TRADES, rows(Kind.TRADES, 10))
    return root


@pytest.fixture
def ask(query_lake):
    """Run a query as tenant ``a``, limits by name."""
    return lambda sql, tenant="a", **limits: run_query(query_lake, tenant, sql, limits=QueryLimits(**limits))


def children() -> list[psutil.Process]:
    """Return the query processes that this one has running."""
    living = [p for p in psutil.Process().children() if p.status() != psutil.STATUS_ZOMBIE]
    # Other tests of this process may have left a helper of multiprocessing behind.
    return [p for p in living if "market_data_store.query.child" in p.cmdline()]


async def eventually(condition, deadline_s: float = 10.0) -> None:
    """Wait until `condition` holds; fail at the deadline."""
    async with asyncio.timeout(deadline_s):
        while not condition():  # noqa: ASYNC110  a process elsewhere sets no event here
            await asyncio.sleep(0.01)


def test_query_returns_rows(ask):
    """A SELECT gives an Arrow table with strings as plain strings."""
    result = ask("select symbol, count(*) as n from trades group by symbol order by symbol")
    assert result.table.to_pydict() == {"symbol": ["symbol0", "symbol1", "symbol2"], "n": [334, 333, 333]}
    assert result.table.schema.field("symbol").type == pa.string()
    assert not result.truncated
    assert result.elapsed_s > 0


def test_query_times_are_ns_and_can_be_rendered(ask):
    """Times come as int64 nanoseconds; to_timestamp_nanos makes timestamps of them without losing a digit."""
    sql = "select ts_event, cast(to_timestamp_nanos(ts_event) as varchar) as t from trades order by 1 limit 2"
    table = ask(sql).table
    assert table.schema.field("ts_event").type == pa.int64()
    assert table["t"].to_pylist() == ["2023-11-14T22:13:20", "2023-11-14T22:13:20.000000001"]


def test_query_bars_are_the_newest_revisions(ask):
    """`bars` has one row per key, of its newest revision; `bars_revisions` has them all."""
    sql = "select symbol, revision, close from {} where interval = '1m' order by symbol, revision"
    assert ask(sql.format("bars")).table.to_pylist() == [
        {"symbol": "X", "revision": 1, "close": 2.0},
        {"symbol": "Y", "revision": 0, "close": 3.0},
    ]
    assert ask(sql.format("bars_revisions")).table["revision"].to_pylist() == [0, 1, 0]


def test_query_show_tables_and_describe(ask):
    """SHOW TABLES names the tenant's own tables, DESCRIBE their columns."""
    assert ask("show tables").table["table"].to_pylist() == ["bars", "bars_revisions", "depth", "trades"]
    assert ask("show tables", tenant="b").table["table"].to_pylist() == ["trades"]
    assert "ts_event" in ask("describe bars").table["column_name"].to_pylist()


def test_query_of_a_tenant_without_tables(ask):
    """A tenant that has stored nothing is told so."""
    with pytest.raises(ValidationError, match="no tables yet"):
        ask("select 1", tenant="nobody")


@pytest.mark.parametrize("tenant", ["../a", "a/../b", "", ".", "a\0"])
def test_query_refuses_a_tenant_that_is_no_name(ask, tenant):
    """A tenant cannot be a path."""
    with pytest.raises(ValidationError, match="no name of a tenant"):
        ask("select 1", tenant=tenant)


def test_query_refusal_comes_through(ask):
    """What the child refuses arrives with code and place."""
    with pytest.raises(ValidationError, match="no table 'quotes'; there are: bars,") as caught:
        ask("select * from quotes")
    assert (caught.value.code, caught.value.details) == ("query_refused", {"line": 1, "column": 15})


def test_query_engine_error_names_no_path(ask, query_lake):
    """What the engine cannot do is said without saying where the lake lies."""
    with pytest.raises(ValidationError, match="No field named nope") as caught:
        ask("select nope from trades")
    assert caught.value.code == "query_failed"
    assert str(query_lake) not in caught.value.message


def test_query_result_is_cut_at_max_rows(ask):
    """More rows than allowed are cut off, and the result says so."""
    result = ask("select * from depth", max_rows=10_000)
    assert (result.table.num_rows, result.truncated) == (10_000, True)
    exact = ask("select * from depth limit 10000", max_rows=10_000)
    assert (exact.table.num_rows, exact.truncated) == (10_000, False)


def test_query_result_is_cut_at_max_bytes(ask):
    """More bytes than allowed are cut off, and the result says so; a huge result streams in small memory.

    The allowance is all there for the rows: no allocator may reserve most of it before the first.
    """
    sql = "select a.* from depth a cross join depth b"
    result = ask(sql, max_rows=10**9, max_result_bytes=2 * MIB, memory_bytes=400 * MIB)
    assert result.truncated
    assert MIB < result.table.nbytes <= 2 * MIB


def test_query_row_larger_than_the_result(ask):
    """A row that cannot fit is an error that names the limit."""
    with pytest.raises(ValidationError) as caught:
        ask("select repeat('x', 3000000) as x", max_result_bytes=MIB)
    assert (caught.value.code, caught.value.details["limit"]) == ("query_limit", "max_result_bytes")


@pytest.mark.parametrize(
    ("sql", "limits", "limit"),
    [
        (FOREVER, {"timeout_s": 1.0}, "timeout_s"),
        (
            "with recursive r(n) as (select 1 union all select n + 1 from r) select n from r",
            {"timeout_s": 1},
            "timeout_s",
        ),
        ("select " + "array[" * 30 + "1" + "]" * 30, {"timeout_s": 1.0}, "timeout_s"),
        ("select generate_series(1, 100000000000)", {}, "memory_bytes"),
        (
            "select array_agg(a.symbol || b.symbol) from depth a cross join depth b",
            {"memory_bytes": 512 * MIB},
            "memory_bytes",
        ),
        (
            "select a.seq from depth a cross join depth b order by a.seq + b.seq",
            {"memory_bytes": 512 * MIB},
            "memory_bytes",
        ),
        ("select " + "x" * 100_000, {}, "max_sql_bytes"),
    ],
    ids=["series", "recursion", "parser", "array", "aggregate", "sort", "text"],
)
def test_query_bomb_ends_at_a_limit(ask, sql, limits, limit):
    """What takes too much is ended with an error that names the limit, and leaves no process behind."""
    with pytest.raises(ValidationError) as caught:
        ask(sql, **limits)
    assert (caught.value.code, caught.value.details["limit"]) == ("query_limit", limit), caught.value.message
    assert children() == []


def test_query_that_breaks_the_engine(ask):
    """A text that overflows the engine's stack kills the child alone and is answered with an error."""
    with pytest.raises(ValidationError, match="the engine broke off") as caught:
        ask("select " + "+".join(["1"] * 15_000))
    assert caught.value.code == "query_failed"


async def test_query_leaves_the_loop_free(query_lake):
    """While a query eats memory and processors, the event loop that waits for it goes on."""
    task = asyncio.create_task(
        QueryRunner(query_lake).run(
            "a",
            "select a.seq from depth a cross join depth b order by a.seq + b.seq",
            limits=QueryLimits(memory_bytes=512 * MIB, timeout_s=20.0),
        )
    )
    longest_s, last_s = 0.0, time.monotonic()
    while not task.done():
        await asyncio.sleep(0.001)
        now_s = time.monotonic()
        longest_s, last_s = max(longest_s, now_s - last_s), now_s
    with pytest.raises(ValidationError, match="memory_bytes"):
        await task
    assert longest_s < 0.5


async def test_query_cancelled_kills_the_child(query_lake):
    """Cancelling the call ends the process."""
    task = asyncio.create_task(QueryRunner(query_lake).run("a", FOREVER))
    await eventually(children)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert children() == []


async def test_query_runner_bounds_concurrency_and_waiting(query_lake):
    """Only so many run and wait; one more is turned away at once, and a freed place is taken."""
    runner = QueryRunner(query_lake, concurrency=1, max_waiting=1)
    first = asyncio.create_task(runner.run("a", FOREVER))
    await eventually(children)
    second = asyncio.create_task(runner.run("a", "select 1 as one"))
    await asyncio.sleep(0)
    with pytest.raises(TemporaryUnavailable) as caught:
        await runner.run("a", "select 1")
    assert (caught.value.code, caught.value.retry_after_sec) == ("query_busy", 1.0)
    assert len(children()) == 1
    first.cancel()
    assert (await second).table.to_pydict() == {"one": [1]}


def test_query_runs_from_any_thread(ask):
    """The waiting form works outside the main thread, several at once."""
    results = []
    threads = [threading.Thread(target=lambda: results.append(ask("select 1 as one").table)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [t.num_rows for t in results] == [1, 1]


def test_query_dies_with_its_parent(query_lake):
    """When the process that asked is killed, the query's process does not outlive it."""
    code = "import sys; from pathlib import Path; from market_data_store.query.runner import run_query; "
    code += "run_query(Path(sys.argv[1]), 'a', sys.argv[2])"
    parent = subprocess.Popen([sys.executable, "-c", code, str(query_lake), FOREVER])
    deadline_s = time.monotonic() + 20
    try:
        # Killed any earlier, the child would find its parent gone by itself; here the kernel must tell it.
        while not (found := [c for c in psutil.Process(parent.pid).children() if c.num_threads() > 3]):
            assert time.monotonic() < deadline_s
    finally:
        parent.send_signal(signal.SIGKILL)
        parent.wait()
    _, alive = psutil.wait_procs(found, timeout=10)
    assert alive == []


@pytest.mark.chaos
def test_query_ends_beside_work_that_takes_all_there_is(ask):
    """It gives way to whoever else has something to do, and comes to its end within its time all the same."""
    busy = [
        subprocess.Popen([sys.executable, "-c", "while True: pass"], start_new_session=True)
        for _ in range(len(os.sched_getaffinity(0)))
    ]
    try:
        assert ask("select count(*) as n from trades").table.num_rows == 1
    finally:
        for process in busy:
            process.kill()
            process.wait()


def test_query_child_gets_no_environment(ask, monkeypatch):
    """A child cannot be steered or informed through the environment of the service."""
    monkeypatch.setenv("LD_PRELOAD", "/nonexistent.so")
    monkeypatch.setenv("PYTHONSTARTUP", "/nonexistent")
    assert ask("select 1 as one").table.num_rows == 1


def test_query_while_the_lake_is_rewritten(tmp_path):
    """Appends, compaction and vacuum under the queries change no answer."""
    write(tmp_path, "a", Kind.TRADES, rows(Kind.TRADES, 100))

    def rewrite() -> None:
        for _ in range(8):
            write(tmp_path, "a", Kind.TRADES, rows(Kind.TRADES, 100))
        table = DeltaTable(tmp_path / "a" / "trades")
        table.optimize.compact()
        table.vacuum(retention_hours=0, enforce_retention_duration=False, dry_run=False)

    counts = []
    for _ in range(4):
        # One vacuum per query: it may take the files of one attempt away, never of both.
        writer = threading.Thread(target=rewrite)
        writer.start()
        counts.append(run_query(tmp_path, "a", "select count(price) as n from trades").table["n"][0].as_py())
        writer.join()
    assert counts == sorted(counts)
    assert counts[-1] >= 2500
    assert all(n % 100 == 0 for n in counts)


def test_query_of_a_table_that_lost_a_file(tmp_path):
    """Files that stay away are no fault of the query: it may be asked again."""
    write(tmp_path, "a", Kind.TRADES, rows(Kind.TRADES, 100))
    for path in (tmp_path / "a" / "trades").glob("date=*/*.parquet"):
        path.unlink()
    with pytest.raises(TemporaryUnavailable, match="went away") as caught:
        run_query(tmp_path, "a", "select sum(price) from trades")
    assert str(tmp_path) not in caught.value.message
