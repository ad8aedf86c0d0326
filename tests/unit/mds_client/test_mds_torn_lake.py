"""A lake that a power cut tore, met by a client that has no service beside it."""

from __future__ import annotations

from pathlib import Path

import pytest
from mds_values import bar

from market_data_store.lake import Lake
from mds_client import MDS, MarketDataError, Upserted


def empty(log):
    log.write_bytes(b"")


def halve(log):
    log.write_bytes(log.read_bytes()[:50])


@pytest.fixture
def lake(lake_options):
    """A lake with three commits of bars."""
    with MDS(lake_options) as client:
        for minute in range(3):
            client.upsert_bars([bar("own", minute=minute)])
    return Lake(lake_options["dsn"], "own")


def last_commit(lake):
    return max((Path(lake.path) / "bars" / "_delta_log").glob("*.json"))


@pytest.mark.parametrize("tear", [empty, halve])
def test_nothing_is_written_behind_a_torn_commit(lake, lake_options, tear):
    """It would go with it when somebody repairs; the error says what to do, and then it is taken and stays."""
    tear(last_commit(lake))
    with MDS(lake_options) as client:
        with pytest.raises(MarketDataError, match="mds migrate") as caught:
            client.upsert_bars([bar("own", minute=9)])
        assert caught.value.code == "LakeTorn"
        lake.open()
        assert client.upsert_bars([bar("own", minute=9)]) == Upserted(inserted=1)
    Lake(lake.path.parent, "own").open()
    with MDS(lake_options) as client:
        assert client.bars("AAPL", "1m").num_rows == 3


def test_nothing_is_written_behind_a_commit_whose_data_is_gone(lake, lake_options):
    """As above."""
    max((Path(lake.path) / "bars").glob("date=*/*.parquet"), key=lambda f: f.stat().st_mtime_ns).unlink()
    with MDS(lake_options) as client, pytest.raises(MarketDataError, match="is missing"):
        client.upsert_bars([bar("own", minute=9)])


def test_other_tables_are_written_all_the_same(lake, lake_options):
    """Each is looked at by itself."""
    halve(last_commit(lake))
    with MDS(lake_options) as client:
        job = client.enqueue_job("t", {}, idempotency_key="k")
        assert client.jobs() == [job]
