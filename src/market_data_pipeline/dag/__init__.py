"""The language of graphs: sources, operators and sinks as a value, read, checked, compared and drawn.

Nothing here runs a graph.
"""

from __future__ import annotations

from market_data_pipeline.dag.catalogue import OPERATORS, build, operator_names
from market_data_pipeline.dag.check import kinds_on_edges, let_through
from market_data_pipeline.dag.durations import duration_ns
from market_data_pipeline.dag.model import ALL_SOURCES, EdgeSpec, GraphSpec, NodeSpec
from market_data_pipeline.dag.parse import parse_graph
from market_data_pipeline.dag.picture import picture
from market_data_pipeline.dag.plan import Blueprint, Change, FieldChange, Plan, plan

__all__ = [
    "ALL_SOURCES",
    "OPERATORS",
    "Blueprint",
    "Change",
    "EdgeSpec",
    "FieldChange",
    "GraphSpec",
    "NodeSpec",
    "Plan",
    "build",
    "duration_ns",
    "kinds_on_edges",
    "let_through",
    "operator_names",
    "parse_graph",
    "picture",
    "plan",
]
