"""A lake in an object store: the same as in a folder, through a server that may go away."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pyarrow as pa
import pytest
from deltalake import DeltaTable

from market_data_core.errors import ConfigurationError, TemporaryUnavailable, ValidationError, WriterConflict
from market_data_store.lake import Lake
from market_data_store.lake.declarations import TABLES
from market_data_store.lake.maintenance import MaintenancePolicy, maintain
from market_data_store.lake.planning import CompactionPolicy
from market_data_store.query import run_query
from market_data_store.query.confine import landlock_version
from support.s3_server import S3Server, shared_s3
from support.service import eventually, free_port

HOUR_NS = 3600 * 10**9


@pytest.fixture
def address():
    return shared_s3().place()


@pytest.fixture
def objects(address):
    made = Lake(address, "acme")
    made.open()
    return made


def test_rows_come_back_in_another_process(objects, address, trades):
    """With the position of who wrote them; another tenant has none."""
    rows = trades(0, 50)
    objects.table("trades").append(rows, writer="log-a", position=50, covers={"s": 7})
    other = Lake(address, "acme")
    assert other.read("trades").sort_by("seq").equals(rows)
    view = other.table("trades")
    assert (view.position("log-a"), view.covers("log-a")) == (50, {"s": 7})
    assert other.written() == {"trades"}
    assert Lake(address, "other").read("trades").num_rows == 0


def test_the_same_writer_twice_is_a_conflict(objects, trades):
    """Of two who go on from one position only one does, and what the other wrote is not there."""
    first, second = objects.table("trades"), objects.table("trades")
    first.append(trades(0, 5), writer="raw", position=5, covers={})
    with pytest.raises(WriterConflict):
        second.append(trades(0, 5), writer="raw", position=5, covers={})
    assert objects.read("trades").num_rows == 5
    assert len(objects.folder("trades").data_files()) == 1


def test_upserts_at_once_lose_nothing(objects, address, bars):
    """Each stands on the version that it was compared with."""
    lakes = [Lake(address, "acme") for _ in range(3)]
    with ThreadPoolExecutor() as pool:
        told = [
            pool.submit(lake.upsert, "bars", bars([(n, None, None, 1.0)]), now_ns=1) for n, lake in enumerate(lakes)
        ]
        assert [done.result(60).inserted for done in told] == [1, 1, 1]
    assert objects.read("bars").num_rows == 3


def test_upkeep_merges_and_deletes(objects, address, trades):
    """Small files become one, what they replaced and old commits go, and a writer that stood still goes on."""
    view = objects.table("trades")
    for n in range(6):
        view.append(trades(n * 10, 10), writer="raw", position=(n + 1) * 10, covers={})
    policy = MaintenancePolicy(
        compaction=CompactionPolicy(fan_in=3),
        checkpoint_commits=2,
        log_versions=1,
        log_retention_ns=0,
        data_retention_ns=0,
    )
    first = maintain(objects, now_ns=time.time_ns(), policy=policy, tables=["trades"])
    assert (first.failures, first.conflicts) == ([], 0)
    assert first.files_replaced == 6
    # An object's time has whole seconds.
    second = maintain(objects, now_ns=time.time_ns() + 10 * 10**9, policy=policy, tables=["trades"])
    assert second.failures == []
    assert first.files_deleted + second.files_deleted == 6
    assert first.checkpoints + second.checkpoints >= 1
    assert first.commits_cleaned + second.commits_cleaned >= 6
    view.append(trades(60, 10), writer="raw", position=70, covers={})
    assert sorted(Lake(address, "acme").read("trades").column("seq").to_pylist()) == list(range(70))


def test_no_job_is_claimed_twice(objects, address):
    """Jobs have an order, a lease and one owner; the same key is the same job. Who finds none writes nothing."""
    asked = [objects.enqueue("fill", {"n": n}, idempotency_key=f"k{n}", now_ns=n) for n in range(3)]
    assert objects.enqueue("fill", {"n": 0}, idempotency_key="k0", now_ns=9) == asked[0]
    with pytest.raises(ValidationError, match="k0"):
        objects.enqueue("fill", {"n": 1}, idempotency_key="k0", now_ns=9)
    claimed: list[int] = []

    def work(owner):
        lake = Lake(address, "acme")
        while (job := lake.claim(owner, now_ns=10)) is not None:
            claimed.append(job.id)
            lake.finish(job.id, owner=owner, now_ns=11)

    threads = [threading.Thread(target=work, args=(f"w{n}",)) for n in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sorted(claimed) == [job.id for job in asked]
    assert {job.state for job in objects.jobs()} == {"done"}
    table = DeltaTable(f"{address}/acme/outbox")
    assert table.version() == 3 * len(asked)  # each was asked for, claimed and finished


def test_it_is_asked_in_sql(objects, address, trades):
    """By the confined process, which sees one tenant's tables."""
    objects.table("trades").append(trades(0, 50), writer="raw", position=50, covers={})
    result = run_query(address, "acme", "select count(*) as n, max(seq) as last from trades")
    assert result.table.to_pylist() == [{"n": 50, "last": 49}]
    with pytest.raises(ValidationError, match="there are: none yet"):
        run_query(address, "other", "select * from trades")
    with pytest.raises(ValidationError, match="only SELECT"):
        run_query(address, "acme", f"create external table t stored as parquet location '{address}/acme/trades'")


CONFINED = """
import encodings.idna, socket, sys
from market_data_store.query import child, confine
confine.read_only_below(*child._for_requests(), ports=sorted(child._ports()))
socket.create_connection(("127.0.0.1", int(sys.argv[1]))).close()
for what in (lambda: open("/etc/passwd"), lambda: open("/tmp/made", "w"),
             lambda: socket.create_connection(("127.0.0.1", int(sys.argv[2])))):
    try:
        what()
    except PermissionError:
        continue
    sys.exit("allowed")
"""


@pytest.mark.skipif(landlock_version() < 4, reason="this kernel cannot confine connections")
def test_its_process_reaches_the_store_and_nothing_else():
    """No file but what a connection needs, no port but the store's; were the check of the text to fail."""
    server = shared_s3()
    with socket.create_server(("127.0.0.1", 0)) as trap:
        done = subprocess.run(
            [sys.executable, "-c", CONFINED, str(server.port), str(trap.getsockname()[1])],
            env=os.environ | server.environment,
            capture_output=True,
            text=True,
            timeout=60,
        )
    assert done.returncode == 0, done.stderr


def test_a_store_that_does_not_answer_is_away(address, objects, trades, monkeypatch):
    """And is not taken for one with nothing in it."""
    objects.table("trades").append(trades(0, 5), writer="raw", position=5, covers={})
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{free_port()}")
    away = Lake(address, "acme")
    for ask in (lambda: away.read("trades"), away.health, away.written, away.jobs, lambda: away.table("trades")):
        with pytest.raises(TemporaryUnavailable):
            ask()
    with pytest.raises(TemporaryUnavailable, match="cannot be read"):
        run_query(address, "acme", "select * from trades")


@pytest.mark.chaos
def test_a_store_that_is_killed_and_started_again_has_everything_once(trades, monkeypatch):
    """While it is away nothing is taken for absent or stored; then the same rows go in."""
    server = S3Server()
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    try:
        lake = Lake(server.place(), "acme")
        lake.open()
        view = lake.table("trades")
        view.append(trades(0, 5), writer="raw", position=5, covers={})
        server.kill()
        with pytest.raises(TemporaryUnavailable):
            view.append(trades(5, 5), writer="raw", position=10, covers={})
        with pytest.raises(TemporaryUnavailable):
            lake.read("trades")
        with pytest.raises(TemporaryUnavailable):
            lake.health()
        server.start()
        eventually(lambda: _reads(lake), 60, "the store is back with what was stored")
        fresh = lake.table("trades")
        assert fresh.position("raw") == 5
        fresh.append(trades(5, 5), writer="raw", position=10, covers={})
        assert sorted(lake.read("trades").column("seq").to_pylist()) == list(range(10))
    finally:
        server.remove()


def _reads(lake) -> bool:
    try:
        return lake.read("trades").num_rows == 5
    except TemporaryUnavailable:
        return False


@pytest.mark.parametrize("address", ["s3://", "s3:///prefix", "s3://key:secret@bucket/x", "s3://bucket/x?secret=1"])
def test_an_address_without_bucket_or_with_credentials_is_refused(address):
    """And not repeated."""
    with pytest.raises(ConfigurationError, match="without credentials") as caught:
        Lake(address, "acme")
    assert "secret" not in str(caught.value).replace("credentials", "")


def test_wrong_credentials_are_no_empty_lake(objects, address, monkeypatch):
    """Whoever is not let in is told so."""
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    with pytest.raises(TemporaryUnavailable):
        Lake(address, "acme").read("trades")


def test_schemas_are_stored_as_declared(objects):
    """The table is one that any reader of Delta Lake can open."""
    stored = {f.name: f.type for f in pa.schema(objects.folder("trades").open().schema().to_arrow())}
    assert stored == {f.name: f.type for f in TABLES["trades"].stored_schema}
