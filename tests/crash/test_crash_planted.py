"""Bugs planted on purpose: the checks of the crash tests must find them."""

from __future__ import annotations

import pytest

from market_data_core.steps import Step
from market_data_pipeline.consumers.ledger import Ledger
from support.crash import Chain
from support.crash_child import Life
from support.crash_verdict import unbalanced


@pytest.fixture
def chain(tmp_path):
    return Chain(life=Life(data_dir=str(tmp_path / "data"), count=6000), power=True)


def test_saving_the_position_before_the_data_is_found(chain):
    """A snapshot ahead of the tables makes a kill lose rows, and the verdict says so."""
    assert chain.die(Step.DATA_FILE_WRITTEN, nth=8, planted="position_before_data")
    assert any("lost" in problem for problem in chain.finish())


@pytest.mark.parametrize(
    ("never_synced", "named"),
    [
        (".parquet", "lost"),
        ("_delta_log/0", "lost"),
        ("/log/", "the log lost what was durable"),
        ("consumers/raw", "raw"),
    ],
)
def test_a_missing_sync_is_found(chain, never_synced, named):
    """One kind of file that is not synced makes a power cut break a promise, and the verdict says which."""
    planted = f"no_sync:{never_synced}"
    assert chain.die(Step.LOG_TRIM_AFTER, nth=3, planted=planted)
    chain.cut_power()
    assert any(named in problem for problem in chain.finish())


def test_a_row_that_an_operator_loses_is_unaccounted(chain):
    """One row deleted inside an operator: the ledger's unaccounted is 1, at that node."""
    outcome = chain.live(planted="drop_row")
    ledgers = {name: c["ledger"] for name, c in outcome.ended["consumers"].items()}
    unaccounted = {}
    for name, counts in ledgers.items():
        ledger = Ledger(tuple(counts))
        ledger.restore(counts)
        unaccounted[name] = ledger.unaccounted
    assert sorted(unaccounted.values()) == [0, 0, 1]
    assert len([p for name, counts in ledgers.items() for p in unbalanced(name, counts)]) == 1
