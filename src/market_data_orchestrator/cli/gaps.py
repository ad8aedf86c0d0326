"""``mdo gaps``: for which stretches of time is data known to be missing?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Annotated, Any

import typer

from market_data_core.errors import TemporaryUnavailable
from market_data_orchestrator.cli.calls import AskedUrl, Calls
from market_data_orchestrator.cli.moments import From, To, asked_ns, shown_span, shown_time
from market_data_orchestrator.cli.options import AsJson, DataDir
from market_data_orchestrator.cli.output import ERR, print_json, print_table
from market_data_orchestrator.composition import load
from market_data_orchestrator.settings import OrchestratorSettings
from market_data_store.state import GapState, State

Row = dict[str, Any]


def gaps(
    vendor: Annotated[
        str | None, typer.Option(help="Only of this source or vendor, as the list names it.", show_default=False)
    ] = None,
    symbol: Annotated[
        str | None, typer.Option(help="Only those that touch this symbol; those of all symbols do.", show_default=False)
    ] = None,
    kind: Annotated[
        str | None, typer.Option(help="Only those that touch this kind, such as trades.", show_default=False)
    ] = None,
    state: Annotated[
        list[GapState] | None, typer.Option(help="Only in this state; may be given again.", show_default=False)
    ] = None,
    start: From = None,
    end: To = None,
    limit: Annotated[int, typer.Option(min=1, help="At most so many, the newest.")] = 100,
    url: AskedUrl = None,
    as_json: AsJson = False,
    data_dir: DataDir = None,
) -> int:
    """List the stretches of time for which data is known to be missing, the newest first.

    A gap is open until somebody fills it with `mdo backfill`; `*` stands for all symbols or kinds. What a cause means:
    `mdo explain restart`. Read from the data directory, beside a running service or without one; with --url or
    ORCH_URL the service is asked.

    Example: mdo gaps --state open --symbol AAPL
    """
    settings, _ = load(data_dir=data_dir)
    wanted: dict[str, Any] = {
        "vendor": vendor,
        "symbol": None if symbol is None else symbol.upper(),
        "kind": kind,
        "start": asked_ns("--from", start),
        "end": asked_ns("--to", end),
    }
    found = (
        _kept(settings, wanted, state, limit + 1)
        if url is None
        else Calls(url, settings).rows("/gaps", {**wanted, "state": state or None}, limit=limit + 1)
    )
    rows, more = found[:limit], len(found) > limit
    if as_json:
        print_json({"gaps": rows, "more": more})
        return 0
    print_table(
        "",
        ["id", "vendor", "symbol", "kind", "from", "to", "length", "cause", "state", "detail"],
        (_shown(row) for row in rows),
    )
    ERR.print(f"{len(rows):,} gaps" + (f", cut at {limit:,} (--limit)" if more else ""), highlight=False)
    return 0


def _kept(settings: OrchestratorSettings, wanted: Mapping[str, Any], states: list[GapState] | None, most: int) -> Any:
    path = settings.state_path
    if not path.is_file():
        # Looking must not make a state file where there is none.
        raise TemporaryUnavailable(
            f"nothing is known of gaps at {settings.data_path}; start `mdo up`, or name its data with --data-dir"
        )
    kept = State(path)
    try:
        found = kept.list_gaps(
            vendor=wanted["vendor"],
            symbol=wanted["symbol"],
            kind=wanted["kind"],
            states=states or None,
            start_ns=wanted["start"],
            end_ns=wanted["end"],
            limit=most,
        )
    finally:
        kept.close()
    return [{**asdict(gap), "state": str(gap.state)} for gap in found]


def _shown(row: Row) -> list[Any]:
    from_ns, to_ns = row["from_ns"], row["to_ns"]
    # Numbers as text: an id with a comma in it could not be given to `mdo backfill`.
    return [
        str(row["id"]),
        row["vendor"],
        row["symbol"],
        row["kind"],
        shown_time(from_ns),
        "goes on" if to_ns is None else shown_time(to_ns),
        None if to_ns is None else shown_span(to_ns - from_ns),
        row["cause"],
        row["state"],
        row["detail"],
    ]
