"""The lake as a backend where processes meet and die."""

from __future__ import annotations

import signal
import subprocess
import sys

import pyarrow as pa
import pytest

from market_data_core.schemas import STORED_SCHEMAS
from market_data_core.steps import Step
from market_data_store.backend import Upserted, Wanted
from market_data_store.lake import Lake, MaintenancePolicy, maintain, streams

NOW_NS = 1_704_110_400 * 10**9

# Waits to be told, so that all begin at once.
CHILD = """
import os, signal, sys
import pyarrow as pa
from market_data_core import steps
from market_data_core.schemas import STORED_SCHEMAS
from market_data_store.lake import Lake
root, what, number, step = sys.argv[1:]
lake = Lake(root, "acme")
if step:
    steps.install(lambda s: s == step and os.kill(os.getpid(), signal.SIGKILL))
print("ready", flush=True)
sys.stdin.readline()
if what == "jobs":
    for at in range(10):
        lake.enqueue("a", {}, idempotency_key=str(at), now_ns=1)
    while job := lake.claim(number, now_ns=2):
        lake.finish(job.id, owner=number, now_ns=3)
        print(job.id)
else:
    for at in range(8):
        row = {"vendor": "v", "symbol": "A", "id": "n", "ts_event": int(number) * 86400 * 10**9}
        row |= {"title": f"{number}/{at}", "flags": 0, "origin": "live"}
        lake.upsert("news", pa.Table.from_pylist([row], schema=STORED_SCHEMAS["news"]), now_ns=at)
"""


def _start(root, what, number, step=""):
    args = [sys.executable, "-c", CHILD, str(root), what, str(number), step]
    child = subprocess.Popen(args, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert child.stdout.readline() == "ready\n"
    return child


def _together(children):
    for child in children:
        child.stdin.write("\n")
        child.stdin.flush()
    outputs = [child.communicate(timeout=60)[0] for child in children]
    return [c.returncode for c in children], outputs


@pytest.fixture
def news():
    """Build one news item of a title."""

    def make(title, day=0):
        row = {"vendor": "v", "symbol": "A", "id": "n", "ts_event": day * 86_400 * 10**9, "title": title}
        return pa.Table.from_pylist([row | {"flags": 0, "origin": "live"}], schema=STORED_SCHEMAS["news"])

    return make


def _titles(lake):
    return lake.fetch("news", Wanted(versions=True), columns=["revision", "title"]).to_pylist()


def test_processes_that_upsert_at_once_lose_nothing(lake):
    """Not even where the table is not there yet: every value is a version, numbered without a gap."""
    codes, _ = _together([_start(lake.path.parent, "news", n) for n in range(3)])
    assert codes == [0, 0, 0]
    found = _titles(lake)
    assert sorted(r["revision"] for r in found) == list(range(24))
    assert {r["title"] for r in found} == {f"{n}/{at}" for n in range(3) for at in range(8)}


def test_processes_share_the_outbox(lake):
    """Its file is made by whoever is first; each job is one, and one's to do."""
    codes, outputs = _together([_start(lake.path.parent, "jobs", n) for n in range(3)])
    assert codes == [0, 0, 0]
    assert sorted(int(line) for text in outputs for line in text.split()) == sorted(
        j.id for j in lake.jobs(state="done")
    )
    assert len(lake.jobs()) == 10


@pytest.mark.parametrize(
    ("step", "stored"),
    [
        (Step.DATA_FILE_WRITTEN, 0),
        (Step.DATA_FILE_SYNCED, 0),
        (Step.TABLE_COMMITTED, 1),
        (Step.TABLE_SYNCED, 1),
    ],
)
def test_a_process_killed_in_an_upsert_leaves_all_of_it_or_nothing(lake, reopened, news, step, stored):
    """The same call again makes it whole, and changes nothing where it was."""
    codes, _ = _together([_start(lake.path.parent, "news", 0, str(step))])
    assert codes == [-signal.SIGKILL]
    again = reopened(lake)
    assert again.repairs == []
    assert len(_titles(again)) == stored
    done = again.upsert("news", news("0/0"), now_ns=NOW_NS)
    assert done == Upserted(inserted=1 - stored, unchanged=stored)
    assert [r["title"] for r in _titles(again)] == ["0/0"]


def test_upkeep_by_another_process_takes_no_version_away(lake, news):
    """Files merged and deleted meanwhile: upserts and readers that knew the old ones go on."""
    other = Lake(lake.path.parent, "acme")
    policy = MaintenancePolicy(data_retention_ns=0)
    for at in range(40):
        lake.upsert("news", news(str(at), day=at % 3), now_ns=at)
        if at % 10 == 9:
            assert maintain(other, now_ns=4 * 10**18, policy=policy, tables=["news"]).failures == []
            assert lake.fetch("news", Wanted()).column("title").to_pylist() == [str(at)]
    assert [int(r["title"]) for r in sorted(_titles(lake), key=lambda r: r["revision"])] == list(range(40))


@pytest.mark.parametrize("versions", [True, False])
def test_a_keyed_table_is_the_same_in_pieces_as_whole(lake, bars, monkeypatch, versions):
    """However small the pieces, versions of a key stay together and the order is the whole one's."""
    for symbol in ("C", "A", "B"):
        given = bars([(m % 40, None, None, float(m)) for m in range(120)], symbol=symbol)
        lake.upsert("bars", given, now_ns=NOW_NS)
    whole = pa.Table.from_batches(lake.stream("bars", Wanted(versions=versions)))
    monkeypatch.setattr(streams, "_PIECE_ROWS", 20)
    monkeypatch.setattr(streams, "_SAMPLES", 5)
    assert pa.Table.from_batches(lake.stream("bars", Wanted(versions=versions))).equals(whole)
    assert whole.num_rows == (360 if versions else 120)


def test_an_instrument_without_a_name_has_a_price_of_its_own(lake, trades):
    """Not that of one whose name is empty."""
    rows = trades(0, 2, symbols=("", None))
    lake.table("trades").append(rows, writer="w", position=2, covers={})
    prices = lake.latest_prices().to_pylist()
    assert {(r["symbol"], r["price"]) for r in prices} == {("", 100.0), (None, 101.0)}
