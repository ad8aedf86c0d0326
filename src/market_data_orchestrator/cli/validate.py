"""``mdo validate``: is the configuration right?"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from market_data_core.errors import ConfigurationError
from market_data_orchestrator.cli.options import AsJson
from market_data_orchestrator.cli.output import OUT, WRONG_USE, print_json
from market_data_orchestrator.config import load_platform

ConfigFile = Annotated[
    Path | None,
    typer.Argument(metavar="[FILE]", help="The configuration [ORCH_CONFIG]; the packaged default where there is none."),
]


def validate(file: ConfigFile = None, as_json: AsJson = False) -> int:
    """Check a configuration: every error is named with file, line and key. The exit code is 2 if there are any.

    Nothing is started and nobody is asked; operators are made once, as the service would make them, and let go.

    Example: mdo validate configs/platform.yaml
    """
    try:
        config = load_platform(file)
    except ConfigurationError as exc:
        if not as_json:
            raise
        errors = exc.details.get("errors") or [{"where": "", "node": "", "key": "", "message": exc.message}]
        print_json({"valid": False, "errors": errors})
        return WRONG_USE
    if as_json:
        print_json({"valid": True, "errors": [], "version": config.graph.version, "configuration": config.to_dict()})
        return 0
    sinks = ", ".join(node.name for node in config.graph.of("sink"))
    enabled = ", ".join(provider.name for provider in config.enabled) or "none"
    lines = (
        f"{config.source} is valid: {len(config.graph.nodes)} nodes, {len(config.graph.edges)} edges",
        f"providers: {enabled}   consumers: {sinks}",
    )
    for line in lines:
        OUT.print(line, markup=False, highlight=False, soft_wrap=True)
    return 0
