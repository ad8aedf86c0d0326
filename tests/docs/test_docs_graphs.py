"""The graphs of the pages are right."""

from __future__ import annotations

import re

import pytest
from docs_pages import PAGES, blocks

from market_data_pipeline.compiler import SinkDef, compile_graph
from market_data_pipeline.dag import operator_names, parse_graph

GRAPHS = [block for page in PAGES for block in blocks(page) if block.is_graph]


@pytest.mark.parametrize("block", GRAPHS, ids=lambda block: block.name)
def test_a_graph_of_the_pages_can_be_run(block, tmp_path):
    """It is read, checked and made into a consumer for each of its sinks."""
    graph = parse_graph(block.text, file=block.name, sinks={"store"})
    consumers = compile_graph(
        graph, sinks={"store": SinkDef(sink="store")}, folder=tmp_path, history=lambda _writer, _dedupe: None
    )
    assert [c.name for c in consumers] == [node.name for node in graph.of("sink")]


def test_every_operator_has_an_example():
    """Nobody has added an operator that the page on graphs does not show; of two names either will do."""
    shown = set(re.findall(r"operator: (\w+)", "\n".join(block.text for block in GRAPHS)))
    assert set(operator_names()) - shown <= {"dedupe"}
