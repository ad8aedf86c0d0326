"""The commands and their exit codes: 0 done, 1 failed, 2 wrong use."""

from __future__ import annotations

import logging
import os
import sys
from typing import Any

import typer

from market_data_core import __version__
from market_data_core.errors import ConfigurationError, MarketDataError
from mds_client.cli import asking, keeping, moving, writing
from mds_client.cli.output import ERR, FAILURE, WRONG_USE, say


def _end(code: int | None, **_: Any) -> None:
    raise typer.Exit(code or 0)


app = typer.Typer(
    name="mds",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    result_callback=_end,
    rich_markup_mode="markdown",
    help=(
        "Stored market data: look at it, write to it, move it.\n\n"
        "Name a store with MDS_DSN or --dsn, a lake's folder, s3://... or postgresql://..., and whose data it is with "
        "MDS_TENANT_ID or --tenant-id. Start with **mds ping**; see what there is with **mds coverage trades**, take "
        "it out with **mds dump**, move it with **mds copy**."
    ),
)
app.command("ping")(asking.ping)
app.command("health")(asking.health)
app.command("schema-version")(asking.schema_version)
app.command("migrate")(asking.migrate)
app.command("tables")(asking.tables)
app.command("coverage")(asking.coverage)
app.command("latest-prices")(asking.latest_prices)
app.command("write-bar")(writing.write_bar)
app.command("write-fundamental")(writing.write_fundamental)
app.command("write-news")(writing.write_news)
app.command("write-option")(writing.write_option)
app.command("ingest-ndjson")(writing.ingest_ndjson)
app.command("ingest-ndjson-async")(writing.ingest_ndjson_async)
app.command("dump")(moving.dump)
app.command("dump-ndjson")(moving.dump_ndjson)
app.command("dump-ndjson-async")(moving.dump_ndjson_async)
app.command("restore")(moving.restore)
app.command("restore-async")(moving.restore_async)
app.command("copy")(moving.copy)
app.command("archive")(keeping.archive)
app.command("enqueue-job")(writing.enqueue_job)


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
    for package in ("market_data_store", "mds_client"):
        logging.getLogger(package).addHandler(logging.NullHandler())
    try:
        # Typer itself says what is wrong with the use, and ends with the code for it: its exceptions have moved
        # between packages from version to version, so none is named here.
        app(args=arguments, prog_name="mds")
    except SystemExit as exc:
        return exc.code if isinstance(exc.code, int) else FAILURE
    except ConfigurationError as exc:
        say(f"error: {exc}", ERR)
        return WRONG_USE
    except (MarketDataError, OSError) as exc:
        if isinstance(exc.__cause__, BrokenPipeError):
            return _reader_gone()
        say(f"error: {exc}", ERR)
        return FAILURE
    return 0


def _reader_gone() -> int:
    # Whoever read our output, such as `head`, has enough; what is still in the buffer must not fail at the end.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return FAILURE
