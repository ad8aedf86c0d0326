"""``mdo graph``: the configured graph to look at."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from market_data_orchestrator.cli.options import AsJson
from market_data_orchestrator.cli.output import OUT, print_json
from market_data_orchestrator.cli.validate import ConfigFile
from market_data_orchestrator.config import load_platform
from market_data_pipeline.dag import picture


class GraphFormat(StrEnum):
    """How a graph can be drawn."""

    TEXT = "text"
    MERMAID = "mermaid"
    DOT = "dot"


def graph(
    file: ConfigFile = None,
    format: Annotated[  # noqa: A002  the option's name
        GraphFormat, typer.Option(help="text for terminals, mermaid for Markdown, dot for Graphviz.")
    ] = GraphFormat.TEXT,
    as_json: AsJson = False,
) -> int:
    """Draw the graph of a configuration: sources on the left, sinks, with double lines, on the right.

    With --json: nodes, edges and version as the platform understood them, secrets masked.

    Example: mdo graph --format dot | dot -Tsvg > graph.svg
    """
    config = load_platform(file)
    if as_json:
        print_json({"version": config.graph.version, **config.graph.to_dict()})
        return 0
    OUT.print(picture(config.graph, format.value), markup=False, highlight=False, soft_wrap=True, emoji=False)
    return 0
