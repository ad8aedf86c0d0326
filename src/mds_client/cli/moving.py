"""``mds dump``, ``restore`` and ``copy``: rows out, in, and across."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import asdict
from threading import Event
from typing import Annotated, TypeVar

import typer

from mds_client.cli.options import (
    TENANT,
    AsJson,
    AsOf,
    Dsn,
    End,
    FileFormat,
    Filters,
    Start,
    Symbol,
    Table,
    TenantId,
    Timeframe,
    Vendor,
    opened,
)
from mds_client.cli.output import ERR, FAILURE, OUT, print_json, print_table, progress, say
from mds_client.transfer import Format
from mds_client.transfer import copy as copy_tables
from mds_client.transfer import dump as dump_table
from mds_client.transfer import restore as restore_table
from mds_client.transfer.files import STANDARD

T = TypeVar("T")

Out = Annotated[str, typer.Argument(help="A file, .gz for compressed; - for standard output.")]
Source = Annotated[str, typer.Argument(help="A file, compressed or not; - for standard input.")]
Newest = Annotated[
    bool, typer.Option("--newest", help="Of bars and other keyed rows the newest version only; by default every one.")
]


def dump(
    table: Table,
    out: Out,
    file_format: FileFormat = None,
    newest: Newest = False,
    vendor: Vendor = None,
    symbol: Symbol = None,
    timeframe: Timeframe = None,
    start: Start = None,
    end: End = None,
    as_of: AsOf = None,
    as_json: AsJson = False,
    dsn: Dsn = None,
    tenant_id: TenantId = TENANT,
) -> int:
    """Write a table, or some of its rows, to a file: CSV, NDJSON or Parquet by its name.

    The file has its name once all is in it. The digest printed is that of the same rows in any store or file.

    Example: mds dump bars bars.csv.gz --symbol AAPL --timeframe 1m --start 2024-01-02
    """
    filters = Filters(
        vendor=vendor, symbols=symbol, timeframe=timeframe, start=start, end=end, as_of=as_of, newest=newest
    )
    return _dump(table, out, file_format, filters, as_json=as_json, dsn=dsn, tenant_id=tenant_id)


def dump_ndjson(
    table: Table,
    out: Out,
    newest: Newest = False,
    vendor: Vendor = None,
    symbol: Symbol = None,
    timeframe: Timeframe = None,
    start: Start = None,
    end: End = None,
    as_of: AsOf = None,
    as_json: AsJson = False,
    dsn: Dsn = None,
    tenant_id: TenantId = TENANT,
) -> int:
    """Write a table, or some of its rows, to a file as NDJSON: an object a line.

    Example: mds dump-ndjson trades - --symbol AAPL | head
    """
    filters = Filters(
        vendor=vendor, symbols=symbol, timeframe=timeframe, start=start, end=end, as_of=as_of, newest=newest
    )
    return _dump(table, out, Format.NDJSON, filters, as_json=as_json, dsn=dsn, tenant_id=tenant_id)


def dump_ndjson_async(
    table: Table,
    out: Out,
    newest: Newest = False,
    vendor: Vendor = None,
    symbol: Symbol = None,
    timeframe: Timeframe = None,
    start: Start = None,
    end: End = None,
    as_of: AsOf = None,
    as_json: AsJson = False,
    dsn: Dsn = None,
    tenant_id: TenantId = TENANT,
) -> int:
    """Do what dump-ndjson does, on an event loop.

    Example: mds dump-ndjson-async trades trades.ndjson.gz --start 2024-01-02
    """
    filters = Filters(
        vendor=vendor, symbols=symbol, timeframe=timeframe, start=start, end=end, as_of=as_of, newest=newest
    )
    return on_loop(
        lambda stop: _dump(table, out, Format.NDJSON, filters, as_json=as_json, dsn=dsn, tenant_id=tenant_id, stop=stop)
    )


def _dump(
    table: str,
    out: str,
    file_format: str | None,
    filters: Filters,
    *,
    as_json: bool,
    dsn: str | None,
    tenant_id: str,
    stop: Event | None = None,
) -> int:
    wanted = filters.wanted(table)
    with opened(dsn, tenant_id) as backend, progress("dump", quiet=as_json, stop=stop) as tell:
        done = dump_table(
            backend, table, out, wanted=wanted, format=file_format, progress=lambda n, of: tell(table, n, of)
        )
    # Standard output belongs to the rows where they go there.
    console = ERR if out == STANDARD else OUT
    if as_json:
        print_json({"table": table, **asdict(done)}, console)
    else:
        say(f"{done.rows:,} rows of {table}, digest {done.digest}", console)
    return 0


def restore(
    table: Table,
    source: Source,
    file_format: FileFormat = None,
    as_json: AsJson = False,
    dsn: Dsn = None,
    tenant_id: TenantId = TENANT,
) -> int:
    """Put the rows of a file that `mds dump` wrote, or one with the same columns, into a table.

    The whole file is looked at first: one with a bad row changes nothing, and the error says which line and field.
    Repeating it, after a crash too, takes in what is missing and nothing twice.

    Example: mds restore bars bars.csv.gz
    """
    return _restore(table, source, file_format, as_json=as_json, dsn=dsn, tenant_id=tenant_id)


def restore_async(
    table: Table,
    source: Source,
    file_format: FileFormat = None,
    as_json: AsJson = False,
    dsn: Dsn = None,
    tenant_id: TenantId = TENANT,
) -> int:
    """Do what restore does, on an event loop.

    Example: mds restore-async bars bars.csv.gz
    """
    return on_loop(
        lambda stop: _restore(table, source, file_format, as_json=as_json, dsn=dsn, tenant_id=tenant_id, stop=stop)
    )


def _restore(
    table: str,
    source: str,
    file_format: str | None,
    *,
    as_json: bool,
    dsn: str | None,
    tenant_id: str,
    stop: Event | None = None,
) -> int:
    with opened(dsn, tenant_id) as backend, progress("restore", quiet=as_json, stop=stop) as tell:
        done = restore_table(backend, table, source, format=file_format, progress=lambda n, of: tell(table, n, of))
    if as_json:
        print_json({"table": table, **asdict(done)})
    else:
        say(
            f"{done.rows:,} rows: {done.inserted:,} new, {done.revised:,} revisions, {done.unchanged:,} were there; "
            f"digest {done.digest}"
        )
    return 0


def copy(
    source: Annotated[str, typer.Argument(help="From which store: a folder, file://, s3:// or postgresql://...")],
    target: Annotated[str, typer.Argument(help="Into which store.")],
    tables: Annotated[
        list[str] | None, typer.Option(help="Only these tables; may be repeated, or have commas. Else all with rows.")
    ] = None,
    to_tenant_id: Annotated[
        str | None, typer.Option(help="Whose the rows are in the target; else the same tenant's.")
    ] = None,
    as_json: AsJson = False,
    tenant_id: TenantId = TENANT,
) -> int:
    """Copy tables from one store into another, such as a lake into PostgreSQL, and compare both by digest.

    The target needs its schema (`mds migrate`). Nobody should write to either meanwhile. Repeating it, after a crash
    too, copies what is missing. Ends with 1 where the two sides differ.

    Example: mds copy data/lake postgresql://localhost/market
    """
    chosen = [t.strip() for text in tables or () for t in text.split(",") if t.strip()] or None
    with (
        opened(source, tenant_id) as here,
        opened(target, to_tenant_id or tenant_id) as there,
        progress("copy", quiet=as_json) as tell,
    ):
        done = copy_tables(here, there, chosen, progress=tell)
    if as_json:
        print_json({"same": all(c.same for c in done), "tables": [{**asdict(c), "same": c.same} for c in done]})
    else:
        columns = ("table", "rows", "digest", "rows there", "digest there", "added", "same")
        print_table(
            columns,
            ((c.table, c.rows, c.digest, c.target_rows, c.target_digest, c.added, c.same) for c in done),
        )
    for differs in (c for c in done if not c.same):
        say(f"{differs.table} differs: the target has rows that the source lacks, or somebody writes", ERR)
    return 0 if all(c.same for c in done) else FAILURE


def on_loop(work: Callable[[Event], T]) -> T:
    """Run blocking work in a thread of an event loop, which stays free meanwhile.

    Args:
        work: Given an event that is set when the loop is interrupted; it ends soon after.
    """
    stop = Event()

    async def run() -> T:
        try:
            return await asyncio.to_thread(work, stop)
        finally:
            stop.set()

    return asyncio.run(run())
