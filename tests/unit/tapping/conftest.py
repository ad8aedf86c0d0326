"""Logs to tap, and graphs to tap them with."""

from __future__ import annotations

import contextlib

import pytest
from tapping_rows import graph_of

from market_data_pipeline.log import LogWriter
from market_data_pipeline.tapping import GraphTap
from support.logs import AT_ONCE

NODES = {
    "market": {"source": "all", "kinds": ["trades"]},
    "sizes": {"operator": "router", "routes": {"high": "price >= 100", "mid": "price >= 50"}},
    "seconds": {"operator": "bars", "interval": "1s"},
    "store": {"sink": "null", "kinds": ["bars"]},
    "rest": {"sink": "null"},
}
EDGES = ["market -> sizes -> rest", "market -> seconds -> store"]


@pytest.fixture
def graph():
    """Trades by their price, and bars of one second; one sink has the name that the ledger gives its own."""
    return graph_of(NODES, EDGES)


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "log"


@pytest.fixture
def log(folder):
    """A log that is being written."""
    writer = LogWriter(folder, AT_ONCE)
    yield writer
    writer.close()


@pytest.fixture
def tapped(folder):
    """Opens taps of the log; what is open at the end is closed."""
    with contextlib.ExitStack() as stack:
        yield lambda graph, node, **given: stack.enter_context(GraphTap(graph, node, log_folder=folder, **given))


@pytest.fixture
def logged(log):
    """Appends batches, lets operators run up to there, and waits until all is durable."""

    def append(*batches):
        for batch in batches:
            log.append(batch, origin="replay")
        log.barrier()
        assert log.wait_durable(log.end, 5)

    return append
