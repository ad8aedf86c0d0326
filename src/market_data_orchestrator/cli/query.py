"""``mdo query``: ask the store."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from market_data_core.errors import TemporaryUnavailable
from market_data_orchestrator.cli.options import AsJson, DataDir, Tenant
from market_data_orchestrator.cli.output import ERR, OUT, print_json, print_table
from market_data_orchestrator.settings import load_settings
from market_data_store.query import QueryLimits, place_of, run_query


def query(
    sql: Annotated[
        str, typer.Argument(help="One SELECT. Tables: quotes, trades, bars, bars_revisions, quarantine, ...")
    ],
    limit: Annotated[int | None, typer.Option(help="At most so many rows [ORCH_QUERY_MAX_ROWS].")] = None,
    timeout: Annotated[float | None, typer.Option(help="At most so many seconds [ORCH_QUERY_TIMEOUT_SEC].")] = None,
    csv: Annotated[bool, typer.Option("--csv", help="Print CSV.")] = False,
    as_json: AsJson = False,
    data_dir: DataDir = None,
    tenant: Tenant = None,
) -> int:
    """Ask the store in SQL, while it is being written or not.

    Times are UTC nanoseconds; to_timestamp_nanos(ts_event) shows them as dates. The query runs in a process of its
    own with limits on memory, time and rows, reads this tenant's tables and writes nothing.

    Example: mdo query "select symbol, max(price), sum(size) from trades group by symbol"
    """
    settings = load_settings(data_dir=data_dir, tenant_id=tenant, query_max_rows=limit, query_timeout_sec=timeout)
    root = place_of(settings.store_root)
    if isinstance(root, Path) and not (root / settings.tenant_id).is_dir():
        raise TemporaryUnavailable(
            f"there is no store of tenant {settings.tenant_id} at {root}; start `mdo up`, or name it with --data-dir"
        )
    limits = QueryLimits(max_rows=settings.query_max_rows, timeout_s=settings.query_timeout_sec)
    result = run_query(root, settings.tenant_id, sql, limits=limits)
    rows = result.table.to_pylist()
    if as_json:
        print_json({"columns": result.table.column_names, "rows": rows, "truncated": result.truncated})
        return 0
    if csv:
        _print_csv(result.table.column_names, rows)
    else:
        print_table("", result.table.column_names, ([*row.values()] for row in rows))
    more = f", cut at {settings.query_max_rows:,} (--limit)" if result.truncated else ""
    ERR.print(f"{len(rows):,} rows in {result.elapsed_s:.2f} s{more}", highlight=False)
    return 0


def _print_csv(columns: list[str], rows: list[dict[str, object]]) -> None:
    import csv  # noqa: PLC0415  one format of three

    writer = csv.writer(OUT.file)
    writer.writerow(columns)
    writer.writerows([*row.values()] for row in rows)
