"""Commands that look: ``ping``, ``health``, ``tables``, ``coverage``, ``latest-prices`` and the like."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any

import pyarrow as pa
import typer

from market_data_core.addresses import is_postgres
from market_data_core.errors import ConfigurationError
from market_data_core.schemas import KEYS, STORED_SCHEMAS
from mds_client.cli.options import (
    TENANT,
    AsJson,
    Dsn,
    End,
    Filters,
    Start,
    Symbol,
    Table,
    TenantId,
    Timeframe,
    Vendor,
    names,
    opened,
)
from mds_client.cli.output import print_json, print_table, say


def ping(as_json: AsJson = False, dsn: Dsn = None, tenant_id: TenantId = TENANT) -> int:
    """Ask the store whether it is there, and how long its answer takes.

    Example: mds ping --dsn data/lake
    """
    with opened(dsn, tenant_id) as backend:
        found = backend.health()
    if as_json:
        print_json({"ok": True, "backend": found["backend"], "latency_ms": found["latency_ms"]})
    else:
        say(f"ok: {found['backend']}, {found['latency_ms']:.1f} ms")
    return 0


def schema_version(as_json: AsJson = False, dsn: Dsn = None, tenant_id: TenantId = TENANT) -> int:
    """Print the version of the store's schema; 0 where nothing was made yet.

    Example: mds schema-version
    """
    with opened(dsn, tenant_id) as backend:
        version = backend.schema_version()
    if as_json:
        print_json({"schema_version": version})
    else:
        say(str(version))
    return 0


def health(as_json: AsJson = False, dsn: Dsn = None, tenant_id: TenantId = TENANT) -> int:
    """Print which store it is, its version, its schema's, and how long an answer takes.

    Example: mds health --json
    """
    with opened(dsn, tenant_id) as backend:
        facts = dict(backend.health())
    if as_json:
        print_json(facts)
    else:
        print_table(("what", "value"), ((k, str(v)) for k, v in facts.items()))
    return 0


class Phase(StrEnum):
    """Which steps of a migration are taken."""

    ALL = "all"
    PRE = "pre"
    POST = "post"


def migrate(
    phase: Annotated[
        Phase,
        typer.Option(
            help="Of PostgreSQL: pre takes the steps that the running version can live with, post the rest, once none "
            "of it runs; all takes both, while nothing runs."
        ),
    ] = Phase.ALL,
    as_json: AsJson = False,
    dsn: Dsn = None,
    tenant_id: TenantId = TENANT,
) -> int:
    """Bring the store to the schema of this version: make what is missing.

    Safe to repeat. PostgreSQL needs a role that may change the schema. A lake is repaired too where a crash left it
    torn, so do this while no service writes to it.

    Example: mds migrate --dsn postgresql://owner@localhost/market
    """
    with opened(dsn, tenant_id) as backend:
        before = backend.schema_version()
        if dsn is not None and is_postgres(dsn):
            from market_data_store.postgres import migrate as take_steps  # noqa: PLC0415  needs the driver

            # Also where the schema is of this version: TimescaleDB may have been installed since.
            take_steps(dsn, phase=phase.value)
        elif phase is Phase.ALL:
            backend.open()
        else:
            raise ConfigurationError(f"--phase {phase}: only PostgreSQL is migrated in two phases; leave it out")
        after = backend.schema_version()
    if as_json:
        print_json({"before": before, "schema_version": after})
    else:
        say(f"schema version {after}" + (f", was {before}" if before != after else ", as before"))
    return 0


def tables(as_json: AsJson = False) -> int:
    """List the tables that a store can have, with their columns.

    Rows of a table with a key are versions: dumps have all of them, readers get the newest.

    Example: mds tables
    """
    if as_json:
        print_json(
            {
                "tables": [
                    {"table": n, "key": list(KEYS.get(n, ())), "columns": {f.name: str(f.type) for f in s}}
                    for n, s in STORED_SCHEMAS.items()
                ]
            }
        )
    else:
        shown = ((n, ", ".join(KEYS.get(n, ())) or None, ", ".join(s.names)) for n, s in STORED_SCHEMAS.items())
        print_table(("table", "key", "columns"), shown)
    return 0


def coverage(
    table: Table,
    vendor: Vendor = None,
    symbol: Symbol = None,
    timeframe: Timeframe = None,
    start: Start = None,
    end: End = None,
    as_json: AsJson = False,
    dsn: Dsn = None,
    tenant_id: TenantId = TENANT,
) -> int:
    """Say how much there is: rows, first and last time by vendor, symbol and date.

    Example: mds coverage trades --symbol AAPL --start 2024-01-01
    """
    filters = Filters(vendor=vendor, symbols=symbol, timeframe=timeframe, start=start, end=end)
    with opened(dsn, tenant_id) as backend:
        found = backend.coverage(table, filters.wanted(table))
    _show(found, as_json=as_json)
    return 0


def latest_prices(
    symbols: Annotated[
        list[str] | None, typer.Argument(help="Symbols, apart or with commas; none for all.", show_default=False)
    ] = None,
    vendor: Vendor = None,
    as_json: AsJson = False,
    dsn: Dsn = None,
    tenant_id: TenantId = TENANT,
) -> int:
    """Print the last price of each instrument: the last trade, else the middle of the last quote, else the last close.

    Example: mds latest-prices AAPL,MSFT --vendor synthetic
    """
    with opened(dsn, tenant_id) as backend:
        found = backend.latest_prices(names(symbols or ()), vendor=vendor)
    _show(found, as_json=as_json)
    return 0


def _show(found: pa.Table, *, as_json: bool) -> None:
    rows: list[dict[str, Any]] = found.to_pylist()
    if as_json:
        print_json(rows)
        return
    # Counts are grouped by thousands; times in nanoseconds are read as they are.
    times = {n for n in found.column_names if n.endswith(("_ts", "_timestamp"))}
    print_table(found.column_names, ([str(v) if n in times else v for n, v in row.items()] for row in rows))
