"""What the tests of the lake share: rows to store, and lakes to store them in."""

from __future__ import annotations

import shutil

import pyarrow as pa
import pytest

from market_data_core import disk, steps
from market_data_core.schemas import TABLE_SCHEMAS, Kind
from market_data_store.lake import Lake

DAY_NS = 86_400 * 1_000_000_000
MINUTE_NS = 60 * 1_000_000_000
JAN_1_NS = 19_723 * DAY_NS  # 2024-01-01


def _table(kind, columns, count):
    schema = TABLE_SCHEMAS[kind]
    return pa.table(
        {f.name: pa.array(columns[f.name], f.type) if f.name in columns else pa.nulls(count, f.type) for f in schema},
        schema=schema,
    )


@pytest.fixture(scope="session")
def trades():
    """Build rows of the trades table: `count` from seq `first` on, a second apart, over some symbols."""

    def make(first, count, *, start_ns=JAN_1_NS, symbols=("AAPL", "MSFT", "SPY"), vendor="ibkr", step_ns=10**9):
        seqs = list(range(first, first + count))
        times = [start_ns + s * step_ns for s in seqs]
        return _table(
            Kind.TRADES,
            {
                "vendor": [vendor] * count,
                "symbol": [symbols[s % len(symbols)] for s in seqs],
                "ts_event": times,
                "ts_recv": times,
                "seq": seqs,
                "flags": [0] * count,
                "origin": ["live"] * count,
                "price": [100.0 + s for s in seqs],
                "size": [1.0] * count,
            },
            count,
        )

    return make


@pytest.fixture(scope="session")
def bars():
    """Build rows of the bars table from (minute, revision, ts_known, close) and what is the same in all of them."""

    def make(versions, **same):
        count = len(versions)
        times = [JAN_1_NS + v[0] * MINUTE_NS for v in versions]
        columns = {
            "vendor": "ibkr",
            "symbol": "AAPL",
            "interval": "1m",
            "what": "TRADES",
            "session": "ALL",
            "source": "internal",
            "origin": "live",
        } | same
        return _table(
            Kind.BARS,
            {name: [value] * count for name, value in columns.items()}
            | {
                "ts_event": times,
                "ts_recv": times,
                "seq": list(range(count)),
                "flags": [0] * count,
                "revision": [v[1] for v in versions],
                "ts_known": [v[2] for v in versions],
                "close": [v[3] for v in versions],
            },
            count,
        )

    return make


@pytest.fixture(scope="session")
def empty_lake(tmp_path_factory):
    """The folder of a lake whose tables were made and never written to; making them takes ten times a copy."""
    root = tmp_path_factory.mktemp("empty") / "lake"
    Lake(root, "acme").open()
    return root


@pytest.fixture
def lake(tmp_path, empty_lake):
    """An opened lake of tenant ``acme``."""
    shutil.copytree(empty_lake, tmp_path / "lake")
    made = Lake(tmp_path / "lake", "acme")
    made.open()
    return made


@pytest.fixture
def reopened():
    """Give another view of a lake's folder, as a process has that starts anew."""

    def reopen(lake):
        again = Lake(lake.path.parent, lake.tenant)
        again.open()
        return again

    return reopen


@pytest.fixture
def seqs():
    """Read the seq of every stored row of a table, ascending."""

    def read(lake, name="trades"):
        return sorted(lake.read(name, columns=["seq"]).column("seq").to_pylist())

    return read


@pytest.fixture
def at_step():
    """Have something called at every named step; taken out again after the test."""
    yield steps.install
    steps.install(None)


@pytest.fixture
def on_sync():
    """Have something called after every sync; taken out again after the test."""
    yield disk.observe
    disk.observe(None)
