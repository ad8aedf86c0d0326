"""``mdo coverage``: what does the store hold, by day and kind?"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import groupby
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from market_data_core.errors import TemporaryUnavailable, ValidationError
from market_data_core.schemas import STORED_SCHEMAS
from market_data_orchestrator.cli.calls import AskedUrl, Calls
from market_data_orchestrator.cli.moments import From, To, asked_ns, shown_time
from market_data_orchestrator.cli.options import AsJson, DataDir, Tenant
from market_data_orchestrator.cli.output import ERR, print_json, print_table
from market_data_orchestrator.composition import load
from market_data_orchestrator.settings import OrchestratorSettings
from market_data_store import open_backend
from market_data_store.backend import END_OF_TIME_NS, START_OF_TIME_NS, Wanted
from market_data_store.query import place_of

Row = dict[str, Any]

_PLACE: Final = ("date", "kind", "vendor", "symbol")


def coverage(
    symbol: Annotated[str | None, typer.Option(help="Only this one.", show_default=False)] = None,
    vendor: Annotated[str | None, typer.Option(help="Only this vendor's.", show_default=False)] = None,
    kind: Annotated[
        list[str] | None,
        typer.Option(help="Only this table, such as trades or bars; may be given again.", show_default=False),
    ] = None,
    start: From = None,
    end: To = None,
    url: AskedUrl = None,
    as_json: AsJson = False,
    data_dir: DataDir = None,
    tenant: Tenant = None,
) -> int:
    """Show what the store holds: rows, first and last time by UTC date and kind, all symbols of a vendor together.

    With --symbol, and with --json always, each instrument by itself. Times are those of the events. Of bars and other
    keyed rows every version counts. Read from the store, beside a running service or without one; with --url or
    ORCH_URL the service is asked.

    Example: mdo coverage --kind trades --from 2024-01-02 --to 2024-01-09
    """
    settings, _ = load(data_dir=data_dir, tenant_id=tenant)
    for name in kind or ():
        if name not in STORED_SCHEMAS:
            raise ValidationError(f"--kind: there is no {name!r}; there are: {', '.join(sorted(STORED_SCHEMAS))}")
    wanted: dict[str, Any] = {
        "vendor": vendor,
        "symbol": None if symbol is None else symbol.upper(),
        "start": asked_ns("--from", start),
        "end": asked_ns("--to", end),
    }
    kinds = sorted(set(kind or STORED_SCHEMAS))
    found = _stored(settings, kinds, wanted) if url is None else _answered(Calls(url, settings), kinds, wanted)
    rows = sorted(found, key=lambda row: tuple(row[name] or "" for name in _PLACE))
    if as_json:
        print_json({"coverage": rows})
        return 0
    _show(rows, by_symbol=symbol is not None)
    return 0


def _stored(settings: OrchestratorSettings, kinds: Iterable[str], wanted: Mapping[str, Any]) -> list[Row]:
    root = place_of(settings.store_root)
    if isinstance(root, Path) and not (root / settings.tenant_id).is_dir():
        raise TemporaryUnavailable(
            f"there is no store of tenant {settings.tenant_id} at {root}; start `mdo up`, or name it with --data-dir"
        )
    asked = Wanted(
        vendor=wanted["vendor"],
        symbols=() if wanted["symbol"] is None else (wanted["symbol"],),
        start_ns=START_OF_TIME_NS if wanted["start"] is None else wanted["start"],
        end_ns=END_OF_TIME_NS if wanted["end"] is None else wanted["end"],
    )
    backend = open_backend(settings.store_root, settings.tenant_id, pool_max=1)
    try:
        there = backend.written()
        return [
            {"kind": name, **row}
            for name in kinds
            if name in there
            for row in backend.coverage(name, asked).to_pylist()
        ]
    finally:
        backend.close()


def _answered(calls: Calls, kinds: Iterable[str], wanted: Mapping[str, Any]) -> list[Row]:
    return [{"kind": name, **row} for name in kinds for row in calls.walk("/coverage", {**wanted, "table": name})]


def _show(rows: list[Row], *, by_symbol: bool) -> None:
    columns = ["date", "kind", "vendor", "symbol" if by_symbol else "symbols", "rows", "first", "last"]
    together = [
        [date, kind, vendor, *_sum(list(of_one), by_symbol=by_symbol)]
        for (date, kind, vendor), of_one in groupby(rows, key=lambda row: (row["date"], row["kind"], row["vendor"]))
    ]
    print_table("", columns, together)
    total = sum(row["rows"] for row in rows)
    ERR.print(f"{total:,} rows of {len({(row['vendor'], row['symbol']) for row in rows}):,} symbols", highlight=False)


def _sum(rows: list[Row], *, by_symbol: bool) -> list[Any]:
    return [
        rows[0]["symbol"] if by_symbol else len(rows),
        sum(row["rows"] for row in rows),
        shown_time(min(row["first_ts"] for row in rows)),
        shown_time(max(row["last_ts"] for row in rows)),
    ]
