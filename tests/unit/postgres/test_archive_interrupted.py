"""Days are archived while others work, and whatever is killed: each row is there, once, at every moment."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest

from market_data_core.errors import TemporaryUnavailable
from market_data_store.backend import Wanted
from market_data_store.postgres import (
    PostgresStore,
    archive,
)
from mds_client.transfer import digest_of
from support.archived_days import (
    BEFORE_NS,
    DAYS,
    FIRST,
    answers,
    append,
    awaited,
    chunks,
    fill,
    one,
    sql_of,
    ticks,
)
from support.service import eventually
from support.timescale_server import TimescaleServer, timescale_server


@pytest.fixture(scope="module")
def server():
    return timescale_server()


STEPS = [
    ("SELECT mds_archive.take('trades', 'trades_20240101')",),
    (
        "SELECT mds_archive.take('trades', 'trades_20240101')",
        "SELECT moved FROM mds_archive.settle('trades', 'trades_20240101')",
    ),
    (
        "SELECT mds_archive.take('trades', 'trades_20240101')",
        "SELECT moved FROM mds_archive.settle('trades', 'trades_20240101')",
        "CALL refresh_continuous_aggregate('mds_archive.trades_days', 1704067200000000000, 1704153600000000000)",
    ),
]


@pytest.mark.parametrize("steps", STEPS, ids=["taken", "moved", "aggregated"])
def test_between_any_two_steps_every_row_is_there_once(dsn, rows, steps):
    """For every reader; late rows that come in between too; and the next call finishes."""
    fill(dsn, rows, tables=["trades"])
    before = answers(dsn, "acme", ["trades"])
    with psycopg.connect(dsn, autocommit=True) as owner:
        for step in steps:
            owner.execute(step)
            assert answers(dsn, "acme", ["trades"]) == before
    with PostgresStore(dsn, "acme") as store:
        append(store, "trades", ticks(rows, "trades", [FIRST], 30, first=9000), position=9999)
        before = answers(dsn, "acme", ["trades"])
        assert before["trades", "digest"][0] == 1230
        archive(dsn, "trades", before_ns=BEFORE_NS)
        assert answers(dsn, "acme", ["trades"]) == before
    assert one(dsn, "SELECT count(*) FROM mds_archive.stale_days") == 0
    assert one(dsn, "SELECT count(*) FROM pg_inherits WHERE inhparent = 'mds_archive.trades_incoming'::regclass") == 0


def command(dsn):
    return subprocess.Popen(
        [sys.executable, "-m", "mds_client.cli", "archive", "trades", "--before", "2024-01-04", "--json", "--dsn", dsn],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


# How far it is, from 0 on: days that left their table, and of those the ones that are moved.
def progress(dsn):
    with psycopg.connect(dsn, autocommit=True) as connection:
        left = connection.execute("SELECT 4 - count(*) FROM pg_inherits WHERE inhparent = 'mds.trades'::regclass")
        there = connection.execute(
            "SELECT count(*) FROM pg_inherits WHERE inhparent = 'mds_archive.trades_incoming'::regclass"
        )
        return 2 * left.fetchone()[0] - there.fetchone()[0]


@pytest.mark.parametrize("reached", range(7))
def test_the_command_may_be_killed(dsn, rows, reached):
    """At whatever step: no row is lost or doubled, and repeating it finishes."""
    fill(dsn, rows, tables=["trades"], per_day=8_000)
    with PostgresStore(dsn, "acme") as store:
        before = digest_of(store, "trades")
        process = command(dsn)
        eventually(lambda: process.poll() is not None or progress(dsn) >= reached, 60, "the command gets that far")
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert digest_of(store, "trades") == before
        # The server goes on with the step that it was at.
        free = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'"
        eventually(lambda: one(dsn, free) == 0, 60, "the server is through with it")
        assert digest_of(store, "trades") == before
        archive(dsn, "trades", before_ns=BEFORE_NS)
        assert digest_of(store, "trades") == before
        assert sum(r["rows"] for r in store.coverage("trades", Wanted()).to_pylist()) == before.rows
    assert chunks(dsn) == [("trades", True)] * 3


@pytest.fixture
def own_server():
    """A server that may be killed."""
    timescale_server()
    made = TimescaleServer(timescale_server()._programs)
    yield made
    made.close()


def test_the_server_may_be_killed(own_server, rows):
    """Again and again while it archives: what is there after it has recovered is what was there before."""
    dsn = own_server.database()
    fill(dsn, rows, tables=["trades"], per_day=4_000)
    with PostgresStore(dsn, "acme") as store:
        before = digest_of(store, "trades")
    for reached in range(1, 7):
        process = command(dsn)
        eventually(lambda: process.poll() is not None or progress(dsn) >= reached, 60, "it gets that far")  # noqa: B023  called at once
        own_server.kill()
        process.communicate()
        own_server.start()
        with PostgresStore(dsn, "acme") as store:
            assert digest_of(store, "trades") == before
    archive(dsn, "trades", before_ns=BEFORE_NS)
    with PostgresStore(dsn, "acme") as store:
        assert digest_of(store, "trades") == before
        assert sum(r["rows"] for r in store.coverage("trades", Wanted()).to_pylist()) == before.rows
    assert chunks(dsn) == [("trades", True)] * 3


READERS = {
    "fetch": lambda dsn, store: store.fetch("trades", Wanted()).num_rows,
    "stream": lambda dsn, store: sum(b.num_rows for b in store.stream("trades", Wanted())),
    "coverage": lambda dsn, store: sum(r["rows"] for r in store.coverage("trades", Wanted()).to_pylist()),
    "coverage of rows": lambda dsn, store: sum(
        r["rows"] for r in store.coverage("trades", Wanted(equal={"origin": "live"})).to_pylist()
    ),
    "read": lambda dsn, store: store.read("trades", below_seq=2**60).num_rows,
    "awaited": lambda dsn, store: asyncio.run(awaited(dsn, "acme", "trades"))[0].num_rows * 3,
    "query": lambda dsn, store: sql_of(dsn, "acme", "select count(*) as n from trades")[0]["n"],
    "query of a view": lambda dsn, store: len(sql_of(dsn, "acme", "select * from latest_prices")) * 200,
}


@pytest.mark.parametrize("late", [False, True], ids=["new day", "late rows"])
@pytest.mark.parametrize("reader", READERS)
def test_who_waits_for_the_move_finds_all_rows(dsn, rows, reader, late):
    """A reader that comes while the rows change places waits, and does not look with eyes of before."""
    fill(dsn, rows, tables=["trades"])
    with PostgresStore(dsn, "acme") as store:
        if late:
            archive(dsn, "trades", before_ns=BEFORE_NS)
            append(store, "trades", ticks(rows, "trades", [FIRST], 300, first=9000), position=9999)
        expected = READERS[reader](dsn, store)
        assert expected >= 1200
        one(dsn, "SELECT mds_archive.take('trades', 'trades_20240101')")
        with psycopg.connect(dsn) as mover, ThreadPoolExecutor(1) as thread:
            mover.execute("SELECT mds_archive.settle('trades', 'trades_20240101')")
            found = thread.submit(READERS[reader], dsn, store)
            waiting = "SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = 'mds.trades'::regclass"
            eventually(lambda: found.done() or one(dsn, waiting) > 0, 60, "the reader waits")
            assert not found.done()
            mover.commit()
            assert found.result(timeout=60) == expected


def test_nothing_moves_while_somebody_reads_on(dsn, rows):
    """For five seconds it is waited; the day stays, and the next call moves it."""
    fill(dsn, rows, tables=["trades"])
    with PostgresStore(dsn, "acme") as store:
        stream = store.stream("trades", Wanted(), batch_rows=10)
        next(stream)
        with pytest.raises(TemporaryUnavailable, match="lock timeout"):
            archive(dsn, "trades", before_ns=BEFORE_NS)
        assert sum(b.num_rows for b in stream) == 1190
        assert archive(dsn, "trades", before_ns=BEFORE_NS).days == DAYS


def test_only_one_archives_at_a_time(dsn, rows):
    """The second gives up after five seconds."""
    fill(dsn, rows, tables=["trades"])
    with psycopg.connect(dsn) as other:
        other.execute("SELECT pg_advisory_xact_lock(hashtextextended('mds.archive', 0))")
        with pytest.raises(TemporaryUnavailable, match="lock timeout"):
            archive(dsn, "trades", before_ns=BEFORE_NS)
    assert archive(dsn, "trades", before_ns=BEFORE_NS).days == DAYS


class Others:
    """Threads that read what is ``other``'s and append to what is ``acme``'s, over and over, until they are stopped."""

    def __init__(self, dsn, rows):
        self._dsn, self._rows = dsn, rows
        self._over = threading.Event()
        self.errors, self.reads, self.written = [], 0, 0
        self._stores = PostgresStore(dsn, "acme"), PostgresStore(dsn, "other")
        self._closed = Wanted(end_ns=BEFORE_NS, vendor="v")
        self._expected = self._stores[1].fetch("trades", self._closed)
        self._count = self._stores[1].fetch("trades", Wanted()).num_rows
        self._threads = [threading.Thread(target=self._run, args=(w,)) for w in (self.fetch, self.count, self.write)]

    def __enter__(self):
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *exc):
        self._over.set()
        for thread in self._threads:
            thread.join(60)
        for store in self._stores:
            store.close()

    def _run(self, work):
        try:
            while not self._over.is_set():
                work()
        except BaseException as exc:
            self.errors.append(exc)
            raise

    def fetch(self):
        assert self._stores[1].fetch("trades", self._closed).equals(self._expected)
        self.reads += 1

    def count(self):
        store = self._stores[1]
        assert sum(b.num_rows for b in store.stream("trades", Wanted())) == self._count
        assert sum(r["rows"] for r in store.coverage("trades", Wanted()).to_pylist()) == self._count
        assert sql_of(self._dsn, "other", "select count(*) as n from trades") == [{"n": self._count}]

    def write(self):
        day, first = FIRST + self.written // 20 % 4, 100_000 + self.written
        append(self._stores[0], "trades", ticks(self._rows, "trades", [day], 20, first=first), position=first)
        self.written += 20


def test_others_read_and_write_while_days_are_archived(dsn, rows):
    """Readers find each row once, at every moment; writers of today and of late rows go on."""
    fill(dsn, rows, tables=["trades"], per_day=4_000)
    rounds, moved = 0, 0
    deadline = time.monotonic() + 120
    with Others(dsn, rows) as others:
        while (rounds < 8 or others.written < 400) and not others.errors and time.monotonic() < deadline:
            # Who reads on for long is waited for, not for ever.
            with contextlib.suppress(TemporaryUnavailable):
                moved += archive(dsn, "trades", before_ns=BEFORE_NS).rows
            rounds += 1
    assert not others.errors
    assert others.reads > 5
    moved += archive(dsn, "trades", before_ns=BEFORE_NS).rows
    with PostgresStore(dsn, "acme") as store:
        found = store.fetch("trades", Wanted())
        assert found.num_rows == len(set(found.column("seq").to_pylist())) == 16_000 + others.written
        assert sum(r["rows"] for r in store.coverage("trades", Wanted()).to_pylist()) == found.num_rows
    assert moved == one(dsn, "SELECT count(*) FROM mds_archive.trades") >= 36_000 + others.written // 2
