"""The commands and their exit codes: 0 done, 1 failed, 2 wrong use."""

from __future__ import annotations

import importlib
import logging
import sys
from typing import Any, Final

import typer

from market_data_core import __version__
from market_data_core.errors import ConfigurationError, MarketDataError, ValidationError
from market_data_orchestrator.cli.output import ERR, FAILURE, WRONG_USE

_COMMANDS: Final = {
    "up": "up",
    "replay": "replay",
    "query": "query",
    "coverage": "coverage",
    "gaps": "gaps",
    "backfill": "backfill",
    "status": "status",
    "explain": "explain",
    "validate": "validate",
    "plan": "plan",
    "graph": "graph",
    "pause": "control",
    "resume": "control",
    "reload": "control",
    "tap": "tap",
    "top": "top",
    "doctor": "doctor",
    "bench": "bench",
}
_GROUPS: Final = ("audit", "keys")


def _end(code: int | None, **_: Any) -> None:
    raise typer.Exit(code or 0)


def command_line(only: str | None = None) -> typer.Typer:
    """Return the command line.

    Args:
        only: A command's or group's name, to load nothing else: most take a second to load all together. Any other
            text, and None, is for all of them.
    """
    app = typer.Typer(
        name="mdo",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        result_callback=_end,
        rich_markup_mode="markdown",
        help=(
            "Market data in, every event kept, every bar right.\n\n"
            "Start with **mdo up** (synthetic data until you choose a provider), look at what it stored with **mdo "
            "query**, bring recordings in with **mdo replay**. Settings are environment variables with the prefix "
            "ORCH_."
        ),
    )
    app.callback()(_group)
    everything = only not in _COMMANDS and only not in _GROUPS
    for name, module in _COMMANDS.items():
        if everything or name == only:
            app.command(name)(getattr(_load(module), name))
    for name in _GROUPS:
        if everything or name == only:
            app.add_typer(_load(name).app, name=name)
    return app


def _load(module: str) -> Any:
    return importlib.import_module(f"market_data_orchestrator.cli.{module}")


def _version(asked: bool) -> None:
    if asked:
        typer.echo(__version__)
        raise typer.Exit


def _group(
    version: bool = typer.Option(
        False, "--version", help="Print the version and end.", callback=_version, is_eager=True
    ),
) -> None:
    del version


def main() -> None:
    """Run the command line and end the process with its exit code."""
    sys.exit(run(sys.argv[1:]))


def run(arguments: list[str]) -> int:
    """Run a command line; return its exit code."""
    # Errors reach the user once, from here; without a handler Python would print every warning too.
    logging.getLogger("market_data_pipeline").addHandler(logging.NullHandler())
    logging.getLogger("market_data_orchestrator").addHandler(logging.NullHandler())
    try:
        # Typer itself says what is wrong with the use, and ends with the code for it: its exceptions have moved
        # between packages from version to version, so none is named here.
        command_line(arguments[0] if arguments else None)(args=arguments, prog_name="mdo")
    except SystemExit as exc:
        return exc.code if isinstance(exc.code, int) else FAILURE
    except (ConfigurationError, ValidationError) as exc:
        ERR.print(f"error: {exc}", markup=False, highlight=False, soft_wrap=True)
        return WRONG_USE
    except (MarketDataError, OSError) as exc:
        ERR.print(f"error: {exc}", markup=False, highlight=False, soft_wrap=True)
        return FAILURE
    return 0
