"""The commands and their exit codes: 0 done, 1 failed, 2 wrong use."""

from __future__ import annotations

import sys

import click
import typer

from market_data_core import __version__
from market_data_core.errors import ConfigurationError, MarketDataError, ValidationError
from market_data_orchestrator.cli import audit, doctor, query, replay, status, up
from market_data_orchestrator.cli.output import ERR, FAILURE, WRONG_USE

app = typer.Typer(
    name="mdo",
    no_args_is_help=True,
    add_completion=False,
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
app.command("status")(status.status)
app.command("doctor")(doctor.doctor)
app.add_typer(audit.app, name="audit")


@app.callback(invoke_without_command=True)
def _version(
    context: typer.Context, version: bool = typer.Option(False, "--version", help="Print the version and end.")
) -> None:
    if version:
        typer.echo(__version__)
        raise typer.Exit
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())
        raise typer.Exit(WRONG_USE)


def main() -> None:
    """Run the command line and end the process with its exit code."""
    sys.exit(run(sys.argv[1:]))


def run(arguments: list[str]) -> int:
    """Run a command line; return its exit code."""
    try:
        result = app(args=arguments, standalone_mode=False)
    except click.ClickException as exc:
        exc.show()
        return WRONG_USE
    except (click.Abort, KeyboardInterrupt):
        ERR.print("stopped")
        return FAILURE
    except (ConfigurationError, ValidationError) as exc:
        ERR.print(f"error: {exc}", markup=False, highlight=False, soft_wrap=True)
        return WRONG_USE
    except (MarketDataError, OSError) as exc:
        ERR.print(f"error: {exc}", markup=False, highlight=False, soft_wrap=True)
        return FAILURE
    return result if isinstance(result, int) else 0
