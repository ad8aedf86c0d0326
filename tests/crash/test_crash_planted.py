"""Bugs planted on purpose: the checks of the crash tests must find them."""

from __future__ import annotations

import re

import pytest

from market_data_core.steps import Step
from market_data_pipeline.consumers.ledger import Ledger
from support.crash import Chain
from support.crash_child import Life
from support.crash_verdict import unbalanced


@pytest.fixture
def chains(tmp_path):
    """A few chains, because a bug need not bite at the first death."""
    lives = (Life(data_dir=str(tmp_path / f"data{n}"), count=6000) for n in range(4))
    return [Chain(life=life, power=True) for life in lives]


def test_saving_the_position_before_the_data_is_found(chains):
    """A snapshot ahead of the tables makes a kill lose rows, and the verdict says so."""

    def found(chain):
        assert chain.die(Step.DATA_FILE_WRITTEN, nth=8, planted="position_before_data")
        return any("lost" in problem for problem in chain.finish())

    assert any(found(chain) for chain in chains)


def test_saving_the_position_before_the_rows_of_a_database_is_found(tmp_path, dsn):
    """The verdict reads databases too."""
    chain = Chain(life=Life(data_dir=str(tmp_path / "data"), store_root=dsn, count=6000))
    assert chain.die(Step.DATA_FILE_WRITTEN, nth=8, planted="position_before_data")
    assert any("lost" in problem for problem in chain.finish())


@pytest.mark.parametrize(
    ("never_synced", "step", "nth", "named"),
    [
        (".parquet", Step.SNAPSHOT_AFTER, 6, "lost"),
        ("_delta_log/0", Step.SNAPSHOT_AFTER, 6, "lost|no log"),
        ("/log/", Step.SNAPSHOT_AFTER, 6, "the log lost what was durable"),
        # A snapshot is missed once the log below it is gone.
        ("consumers/raw", Step.LOG_TRIM_AFTER, 1, "raw"),
    ],
)
def test_a_missing_sync_is_found(chains, never_synced, step, nth, named):
    """One kind of file that is not synced makes a power cut break a promise, and the verdict says which."""

    def found(chain):
        assert chain.die(step, nth=nth, planted=f"no_sync:{never_synced}")
        chain.cut_power()
        return any(re.search(named, problem) for problem in chain.finish())

    assert any(found(chain) for chain in chains)


def test_a_row_that_an_operator_loses_is_unaccounted(chains):
    """One row deleted inside an operator: the ledger's unaccounted is 1, at that node."""
    outcome = chains[0].live(planted="drop_row")
    ledgers = {name: c["ledger"] for name, c in outcome.ended["consumers"].items()}
    unaccounted = {}
    for name, counts in ledgers.items():
        ledger = Ledger(tuple(counts))
        ledger.restore(counts)
        unaccounted[name] = ledger.unaccounted
    assert sorted(unaccounted.values()) == [0, 0, 1]
    assert len([p for name, counts in ledgers.items() for p in unbalanced(name, counts)]) == 1
