"""Many who write and read at once, for a while: nobody is in anybody's way, and nobody sees what is not theirs."""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from itertools import pairwise

import pyarrow as pa
import pytest

from market_data_core.errors import TemporaryUnavailable
from market_data_store.backend import Wanted
from market_data_store.postgres import PostgresStore

NOW_NS = 1_704_110_400 * 10**9
DAY_NS = 86_400 * 10**9
TENANTS = ("acme", "other", "third")


class Crowd:
    """Threads on the stores of several tenants; each does what chance says until the time is over."""

    def __init__(self, stores, rows, *, cut=None):
        self.stores = stores
        self.rows = rows
        self.cut = cut
        self.errors = []
        self.appended = Counter()
        self.upserted = Counter()
        self.jobs = Counter()
        self._lock = threading.Lock()

    def run(self, threads, seconds):
        over = time.monotonic() + seconds
        crowd = [threading.Thread(target=self._work, args=(n, over)) for n in range(threads)]
        for thread in crowd:
            thread.start()
        for thread in crowd:
            thread.join(seconds + 60)
            assert not thread.is_alive(), "a thread hangs"

    def _work(self, number, over):
        chance = random.Random(number)
        tenant = TENANTS[number % len(TENANTS)]
        store = self.stores[tenant]
        acts = (self._append, self._upsert, self._upsert, self._read, self._stream, self._job)
        while time.monotonic() < over:
            try:
                chance.choice(acts)(store, tenant, number, chance)
            except TemporaryUnavailable as exc:
                if self.cut is None:
                    self.errors.append(exc)
            except BaseException as exc:
                self.errors.append(exc)
                raise

    def _append(self, store, tenant, number, chance):
        table, count = store.table("trades"), chance.randrange(1, 50)
        first = table.position(f"w{number}") or 0
        times = [NOW_NS + chance.randrange(3) * DAY_NS for _ in range(count)]
        batch = self.rows("trades", count, first=first, ts_event=times, trade_id=[tenant] * count)
        table.append(batch, writer=f"w{number}", position=first + count, covers={})
        self._count(self.appended, tenant, count)

    def _upsert(self, store, tenant, number, chance):
        table = chance.choice(["bars", "news"])
        batch = self.rows(table, 20, symbol=[tenant] * 20).take(pa.array(chance.sample(range(20), 12)))
        column = "reason" if table == "bars" else "url"
        at = batch.schema.get_field_index(column)
        batch = batch.set_column(at, batch.schema.field(at), pa.array([tenant] * 12))
        value = "close" if table == "bars" else "sentiment_score"
        at = batch.schema.get_field_index(value)
        batch = batch.set_column(at, batch.schema.field(at), pa.array([float(chance.randrange(5))] * 12))
        done = store.upsert(table, batch, now_ns=NOW_NS)
        assert done.inserted + done.revised + done.unchanged == 12
        self._count(self.upserted, (tenant, table), done.inserted + done.revised)

    def _read(self, store, tenant, number, chance):
        for table, column in (("trades", "trade_id"), ("bars", "reason"), ("news", "url")):
            found = store.fetch(table, Wanted(versions=chance.random() < 0.5), columns=[column])
            assert set(found.column(column).to_pylist()) <= {tenant}

    def _stream(self, store, tenant, number, chance):
        for batch in store.stream("bars", Wanted(versions=True), columns=["reason"], batch_rows=100):
            assert set(batch.column("reason").to_pylist()) == {tenant}
            if chance.random() < 0.2:
                return

    def _job(self, store, tenant, number, chance):
        store.enqueue("t", {"of": tenant}, idempotency_key=str(chance.randrange(10**6)), now_ns=NOW_NS)
        job = store.claim(f"w{number}", lease_s=10**6, now_ns=NOW_NS)
        if job is not None:
            assert job.payload == {"of": tenant}
            store.finish(job.id, owner=f"w{number}", now_ns=NOW_NS)
            self._count(self.jobs, (tenant, job.id), 1)

    def _count(self, counter, name, count):
        with self._lock:
            counter[name] += count

    def check(self):
        """What is stored is what was acknowledged: every row, every version, each job once."""
        assert not self.errors
        for tenant, store in self.stores.items():
            trades = store.read("trades", columns=["seq", "trade_id"])
            assert trades.num_rows == sum(p for p in store.describe()["tables"]["trades"]["writers"].values())
            assert set(trades.column("trade_id").to_pylist()) == {tenant}
            for table in ("bars", "news"):
                self._check_versions(store, table)
            assert all(j.attempts <= 1 for j in store.jobs(limit=10**6))
        assert set(self.jobs.values()) <= {1}

    @staticmethod
    def _check_versions(store, table):
        key = "ts_event" if table == "bars" else "id"
        value = "close" if table == "bars" else "sentiment_score"
        found = store.fetch(table, Wanted(versions=True), columns=[key, "revision", value]).to_pylist()
        found.sort(key=lambda r: (r[key], r["revision"]))
        for one, two in pairwise(found):
            if one[key] == two[key]:
                assert two["revision"] == one["revision"] + 1
                assert two[value] != one[value]
            else:
                assert two["revision"] == 0


@pytest.fixture
def stores(server, dsn):
    made = {t: PostgresStore(dsn, t, connections=6, timeout_s=30) for t in TENANTS}
    for store in made.values():
        store.open()
    yield made
    for store in made.values():
        store.close()
    deadline = time.monotonic() + 20
    while server.connections(dsn):
        assert time.monotonic() < deadline, "a connection is left"
        time.sleep(0.01)


def test_fifty_at_once_are_in_nobodys_way(stores, rows):
    """No deadlock, no error, nothing lost or doubled, no row of another tenant, no connection left."""
    crowd = Crowd(stores, rows)
    crowd.run(50, 4)
    crowd.check()
    for tenant, store in stores.items():
        assert store.read("trades").num_rows == crowd.appended[tenant] > 0
        for table in ("bars", "news"):
            assert store.fetch(table, Wanted(versions=True)).num_rows == crowd.upserted[tenant, table] > 0


@pytest.mark.chaos
def test_a_crowd_whose_connections_are_cut_goes_on(server, dsn, stores, rows):
    """For a minute, with every connection cut now and then: what is there is whole."""
    crowd = Crowd(stores, rows, cut=True)
    over = threading.Event()

    def cut():
        while not over.wait(1.5):
            server.terminate(dsn)

    cutter = threading.Thread(target=cut)
    cutter.start()
    try:
        crowd.run(50, 60)
    finally:
        over.set()
        cutter.join()
    crowd.check()
