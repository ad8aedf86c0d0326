"""``mds archive``: what an operator does with the data of all tenants."""

from __future__ import annotations

import time
from dataclasses import asdict
from typing import Annotated

import typer

from market_data_core.addresses import is_postgres
from market_data_core.errors import ConfigurationError
from mds_client.cli.options import AsJson, Dsn, Table, moment
from mds_client.cli.output import print_json, say

_DAY_NS = 86_400 * 10**9

OlderThan = Annotated[int | None, typer.Option("--older-than", min=0, help="Days that ended this many days ago.")]
Before = Annotated[str | None, typer.Option(help="Days that lie before this time: 2024-01-02 (UTC) or with an offset.")]


def archive(
    table: Table, older_than: OlderThan = None, before: Before = None, as_json: AsJson = False, dsn: Dsn = None
) -> int:
    """Move days that are over, of all tenants, into compressed tables, where readers go on finding them.

    Needs PostgreSQL with TimescaleDB, and the role that owns the schema. Give --older-than or --before. A day in UTC
    goes as a whole; others read and write meanwhile. Repeating it, after a crash too, moves what is missing, and rows
    that came late.

    Example: mds archive trades --older-than 7 --dsn postgresql://owner@localhost/market
    """
    before_ns = _before(older_than, before)
    if not dsn or not is_postgres(dsn):
        raise ConfigurationError(
            "closed days are archived by TimescaleDB only: name a PostgreSQL server that has it, with --dsn or MDS_DSN"
        )
    from market_data_store.postgres import archive as move_days  # noqa: PLC0415  needs the driver

    done = move_days(dsn, table, before_ns=before_ns)
    if as_json:
        print_json({"table": table, **asdict(done)})
    else:
        say(
            f"{done.rows:,} rows of {len(done.days)} days of {table}: "
            f"{done.bytes_before:,} bytes before, {done.bytes_after:,} after"
        )
    return 0


def _before(older_than: int | None, before: str | None) -> int:
    if (older_than is None) == (before is None):
        raise ConfigurationError("say which days: with --older-than or with --before")
    if before is not None:
        return moment(before, "--before")
    return time.time_ns() - (older_than or 0) * _DAY_NS
