"""The commands and their exit codes: 0 done, 1 failed, 2 wrong use."""

from __future__ import annotations

import logging
import sys
from typing import Any

import typer

from market_data_core import __version__
from market_data_core.errors import ConfigurationError, MarketDataError, ValidationError
from market_data_orchestrator.cli import (
    audit,
    backfill,
    bench,
    control,
    coverage,
    doctor,
    explain,
    gaps,
    graph,
    keys,
    plan,
    query,
    replay,
    status,
    tap,
    top,
    up,
    validate,
)
from market_data_orchestrator.cli.output import ERR, FAILURE, WRONG_USE


def _end(code: int | None, **_: Any) -> None:
    raise typer.Exit(code or 0)


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
        "query**, bring recordings in with **mdo replay**. Settings are environment variables with the prefix ORCH_."
    ),
)
app.command("up")(up.up)
app.command("replay")(replay.replay)
app.command("query")(query.query)
app.command("coverage")(coverage.coverage)
app.command("gaps")(gaps.gaps)
app.command("backfill")(backfill.backfill)
app.command("status")(status.status)
app.command("explain")(explain.explain)
app.command("validate")(validate.validate)
app.command("plan")(plan.plan)
app.command("graph")(graph.graph)
app.command("pause")(control.pause)
app.command("resume")(control.resume)
app.command("reload")(control.reload)
app.command("tap")(tap.tap)
app.command("top")(top.top)
app.command("doctor")(doctor.doctor)
app.command("bench")(bench.bench)
app.add_typer(audit.app, name="audit")
app.add_typer(keys.app, name="keys")


def _version(asked: bool) -> None:
    if asked:
        typer.echo(__version__)
        raise typer.Exit


@app.callback()
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
        app(args=arguments, prog_name="mdo")
    except SystemExit as exc:
        return exc.code if isinstance(exc.code, int) else FAILURE
    except (ConfigurationError, ValidationError) as exc:
        ERR.print(f"error: {exc}", markup=False, highlight=False, soft_wrap=True)
        return WRONG_USE
    except (MarketDataError, OSError) as exc:
        ERR.print(f"error: {exc}", markup=False, highlight=False, soft_wrap=True)
        return FAILURE
    return 0
