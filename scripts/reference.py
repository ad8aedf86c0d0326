"""Writes docs/reference from the code: ``python scripts/reference.py``, also ``make reference``."""  # noqa: INP001  a script

from __future__ import annotations

import inspect
import re
import sys
import types
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Union, get_args, get_origin, get_type_hints

import typer
import yaml
from prometheus_client import CollectorRegistry
from pydantic import BaseModel, SecretStr
from starlette.routing import Route, WebSocketRoute

from market_data_core.schemas import KEYS, STORED_SCHEMAS, TABLE_FIELDS, Flag
from market_data_core.web.auth import FAILURE_REASONS, FIRST_KEY_FILE, Role
from market_data_core.web.metrics import HttpMetrics
from market_data_orchestrator.app import create_app
from market_data_orchestrator.cli.main import command_line
from market_data_orchestrator.config.load import packaged_text
from market_data_orchestrator.config.policies import POLICIES
from market_data_orchestrator.doors import failures_counter
from market_data_orchestrator.metrics import ServiceMetrics
from market_data_orchestrator.service import Service
from market_data_orchestrator.settings import KEYS_FILE, OrchestratorSettings
from market_data_orchestrator.status import StatusAggregator
from market_data_pipeline.dag import NodeSpec, build
from market_data_pipeline.dag.catalogue import OURS, load
from market_data_pipeline.dag.signatures import GIVEN_BY_US
from market_data_pipeline.runners import IngestMetrics
from market_data_pipeline.runners.policy import (
    POLICY_FILE,
    PROVIDERS_FILE,
    IngestPolicy,
    ProviderEntry,
    packaged_default,
)
from market_data_pipeline.source.replay.layout import packaged_layouts
from market_data_store.lake.declarations import TABLES

ROOT: Final = Path(__file__).resolve().parents[1]
FOLDER: Final = ROOT / "docs" / "reference"

UNITS: Final = {
    "provider_rate": "events/s",
    "bars_lateness": "s",
    "ws_interval_sec": "s",
    "log_retention": "s",
    "log_max_bytes": "bytes",
    "log_reserve_bytes": "bytes",
    "drain_sec": "s",
    "maintenance_sec": "s",
    "query_timeout_sec": "s",
    "query_max_rows": "rows",
    "jwt_cache_ttl": "s",
    "jwt_refetch_sec": "s",
    "federation_timeout_sec": "s",
    "rate_limit_max_per_minute": "per minute",
    "provider_port": "port",
    "health_port": "port",
    "provider_client_id": "id",
}
"""The unit of every setting that is a number."""

ANSWERS: Final = {
    "/ws/market": "Live quotes, trades, bars and depth; see [read over HTTP](../howto/read-over-http.md).",
    "/query": "One SELECT, sandboxed and audited: `{columns, rows, truncated, elapsed_s}`, CSV or an Arrow stream.",
    "/bars": "Bars of one symbol by time, newest revisions, a page at a time.",
    "/instruments": "What is stored of every instrument, by table.",
    "/coverage": "Rows, first and last moment by instrument and UTC date.",
    "/gaps": "Where data is known to be missing, newest first.",
    "/quarantine": "What could not be stored, newest first, with the reason.",
    "/budgets": "How often each provider may still be asked.",
    "/backfill": "Has a gap filled from its provider's history; 202 with the job, 409 where it cannot be.",
    "/health": "Health of every component with its cause; 200 healthy or degraded, 503 unhealthy.",
    "/livez": "200 while the process answers.",
    "/readyz": "200 when work can be given to it, else 503 with what is failing.",
    "/status": "Everything the service says of itself: health, sources, log, store, consumers, ledger, jobs.",
    "/ws/status": "The same object as `/status`, in `{type, data}`, on connect and every `ORCH_WS_INTERVAL_SEC`.",
    "/ui": "The cockpit.",
    "/ui/{name:path}": "The files of the cockpit.",
    "/metrics": "All metrics, as Prometheus text.",
    "/docs": "The interface as a page (Swagger UI, loaded by the browser from a public host).",
    "/redoc": "The interface as a page (ReDoc, loaded by the browser from a public host).",
    "/openapi.json": "The interface as an OpenAPI document.",
    "/control/reload": "Reads the configuration again and runs what it says, whole or not at all; a `ControlResult`.",
    "/control/pause": "Stops intake and stores what was received; nothing that comes after the answer is stored.",
    "/control/resume": "Takes in again.",
    "/control/status": "The state and the last actions, newest first.",
    "/auth/ping": "Who the caller is: `{status, user, role}`.",
    "/auth/me": "Who the caller is, and in a session the token that `X-CSRF-Token` has to carry.",
    "/auth/logout": "Ends the browser's session.",
    "/auth/ws-ticket": "A ticket for one WebSocket, good once and for 30 seconds.",
    "/audit/events": "What was done and what was refused, newest first, with a cursor.",
    "/audit/verify": "The verdict on the whole audit trail, with the first bad record.",
    "/federation/topology": "The cluster's nodes with their live health; a `ClusterTopology`.",
    "/federation/list": "Names of the peers; deprecated, see the topology.",
    "/federation/forward/{peer}": "Asks one peer; `{target, status_code, data}`.",
    "/federation/fanout": "Asks several peers; one result for each.",
    "/plan": "What runs: providers, graph, sinks and settings, secrets masked, and what a reload would change now.",
    "/runtime/ingest/status": "`{running, active_provider, dry_run, policy, providers, runs}`.",
    "/runtime/ingest/start": "Begins to read a provider; `{status: started, provider, dry_run, store_mode}`.",
    "/runtime/ingest/stop": "Stops reading one provider or all; `{status: stopped, reason}` or `{status: idle}`.",
    "/runtime/ingest/reload": "Reads both files again; `{providers, policy}`.",
}
"""What every route answers."""

ACCESS: Final = {
    "/ws/market": Role.VIEWER,
    "/query": Role.VIEWER,
    "/bars": Role.VIEWER,
    "/instruments": Role.VIEWER,
    "/coverage": Role.VIEWER,
    "/gaps": Role.VIEWER,
    "/quarantine": Role.VIEWER,
    "/budgets": Role.VIEWER,
    "/backfill": Role.OPERATOR,
    "/control/pause": Role.OPERATOR,
    "/control/resume": Role.OPERATOR,
    "/control/reload": Role.ADMIN,
    "/control/status": Role.VIEWER,
    "/plan": Role.VIEWER,
    "/auth/ping": Role.VIEWER,
    "/auth/me": Role.VIEWER,
    "/auth/logout": Role.VIEWER,
    "/auth/ws-ticket": Role.VIEWER,
    "/audit/events": Role.VIEWER,
    "/audit/verify": Role.ADMIN,
    "/federation/topology": Role.VIEWER,
    "/federation/list": Role.VIEWER,
    "/federation/forward/{peer}": Role.ADMIN,
    "/federation/fanout": Role.ADMIN,
    "/runtime/ingest/status": Role.OPERATOR,
    "/runtime/ingest/start": Role.OPERATOR,
    "/runtime/ingest/stop": Role.OPERATOR,
    "/runtime/ingest/reload": Role.OPERATOR,
}
"""The least role of every route that needs a key."""

SAMPLES: Final[Mapping[str, Mapping[str, Any]]] = {
    "filter": {"where": "size >= 100"},
    "map": {"analytics": {"notional": "price * size"}},
    "router": {"routes": {"big": "size >= 1000"}},
    "window": {"length": "1m", "aggregate": {"notional": "sum(price * size)"}},
}
"""Params of the operators that cannot be made without any."""

MEANINGS: Final = {
    "total_assets": "What the company owns, at the date of `ts_event`.",
    "total_liabilities": "What it owes.",
    "net_income": "What it earned in the period that ends there.",
    "eps": "The same per share.",
    "id": "Names the item with its vendor.",
    "title": "Its headline.",
    "url": "Where it can be read.",
    "sentiment_score": "From -1, bad for the instrument, to 1, good.",
    "split_factor": "What prices before `ts_event` are multiplied by for a split, and volumes divided by.",
    "price_factor": "What prices before `ts_event` are multiplied by for what was paid out.",
    "reference_price": "The close that the factor was worked out from.",
    "vendor": "Who the data comes from.",
    "symbol": "Upper-cased; `?` for a quarantined row of a file that names symbols row by row.",
    "ts_event": "When the venue says it happened, UTC ns; of a bar its start.",
    "ts_recv": "When it reached the platform, UTC ns.",
    "seq": "Number in the event log; unique per event.",
    "flags": "Bits, see below.",
    "origin": "`live`, `replay`, `backfill` or `synthetic`.",
    "bid_price": "Best bid.",
    "bid_size": "Size at the best bid.",
    "ask_price": "Best ask.",
    "ask_size": "Size at the best ask.",
    "price": "Price, in the instrument's currency.",
    "size": "Size, in units.",
    "exchange": "Where it was traded, as the vendor writes it.",
    "conditions": "Conditions of the trade, as the vendor writes them.",
    "trade_id": "The vendor's id of the trade.",
    "aggressor_side": "Which side took, as the vendor writes it.",
    "interval": "Length of the bar, such as `1m`.",
    "what": "What it is made of: `TRADES`, `QUOTES`.",
    "session": "Which hours are in it; `ALL` for every one.",
    "source": "`internal` for bars made here, `external` for bars received.",
    "open": "First price.",
    "high": "Highest price.",
    "low": "Lowest price.",
    "close": "Last price.",
    "volume": "Sum of sizes.",
    "vwap": "Average price weighted by size; null without volume.",
    "trade_count": "How many events are in it.",
    "revision": "How many events came after the first bar was made, which has 0; the highest is the one to read.",
    "ts_known": "When this revision was made, UTC ns.",
    "reason": "Why: of a bar's revision (`late`), a status, or a quarantined row.",
    "action": "What happened to the level or order.",
    "side": "Bid or ask.",
    "level": "Place in the book, 0 is the best.",
    "order_id": "The venue's id of the order.",
    "sequence": "The venue's number of the message.",
    "underlying": "Symbol the option is on.",
    "expiry": "Last day, `YYYYMMDD`.",
    "strike": "Strike price.",
    "right": "`C` or `P`.",
    "last_price": "Price of the last trade.",
    "open_interest": "Open contracts.",
    "underlying_price": "Price of the underlying the figures are for.",
    "implied_vol": "Implied volatility, a year, as a fraction.",
    "delta": "Change of price with the underlying.",
    "gamma": "Change of delta with the underlying.",
    "vega": "Change of price with volatility.",
    "theta": "Change of price with time.",
    "rho": "Change of price with the interest rate.",
    "valid_from": "From when the definition holds, UTC ns.",
    "valid_to": "Until when, exclusive, UTC ns; null while it does.",
    "tick_size": "Smallest step of the price.",
    "size_step": "Smallest step of the size.",
    "multiplier": "Units of the underlying per contract.",
    "currency": "Of the prices.",
    "calendar": "Trading calendar.",
    "status": "State of the instrument, as the vendor writes it.",
    "quote_ts_event": "Time of the quote that stood when the trade happened, UTC ns; null if there was none.",
    "name": "What the value is, such as `vwap_5m`.",
    "value": "The value.",
    "kind": "What the row would have been, such as `trades`.",
    "source_id": "Which file, by content, or which feed it came from.",
    "line": "Line in the file, from 1 (in Parquet the row); null where the row was readable and its values were not.",
    "raw": "The row as it stood in the file (its beginning), or as JSON where it could be read.",
}
"""What every column holds."""

FLAG_MEANINGS: Final = {
    "PUBLISHER_SPECIFIC": "Depends on the vendor.",
    "MAYBE_BAD_BOOK": "The vendor says its book may be wrong.",
    "BAD_TS_RECV": "The vendor's receive time is not to be trusted.",
    "MBP": "From a book of price levels.",
    "SNAPSHOT": "From a snapshot, not an update.",
    "TOB": "Top of book only.",
    "LAST": "Last event of its packet.",
    "TS_EVENT_SYNTHETIC": "The venue gave no time.",
    "TS_EVENT_FUTURE": "The time lies far ahead of the stream; it closes no bars.",
    "TS_EVENT_BACK": "The time is earlier than one already seen for the instrument.",
    "CROSSED": "Bid above ask.",
    "NEGATIVE_PRICE": "A price below zero.",
    "ZERO_SIZE": "A trade of no size.",
    "OFF_STEP": "A price or size that is no multiple of the instrument's step.",
    "SUSPICIOUS": "The vendor itself doubts it.",
}
"""What every flag says."""

EXIT_CODES: Final = (
    ("0", "Done. Of commands that judge: healthy, every account agrees, nothing failed, every gap filled."),
    ("1", "Failed: no service or store there, a damaged file, not healthy, an account or a gap that stays open."),
    ("2", "Wrong use: an unknown command, option, layout or path, a wrong setting, a query that may not be asked."),
    ("130", "Ended by Ctrl-C; `mdo up` ends with 0 then, once what was received is stored."),
)

_HEAD: Final = "<!-- Written by scripts/reference.py from the code: change that, then `make reference`. -->\n\n"


def pages() -> dict[str, str]:
    """Return every page's text by its file name."""
    made: dict[str, Callable[[], Iterator[str]]] = {
        "settings.md": _settings,
        "routes.md": _routes,
        "metrics.md": _metrics,
        "commands.md": _commands,
        "tables.md": _tables,
        "layouts.md": _layouts,
        "exit-codes.md": _exit_codes,
        "operators.md": _operators,
        "configuration.md": _configuration,
        "ingestion.md": _ingestion,
        "keys.md": _keys,
    }
    return {name: _HEAD + "\n".join(lines()).rstrip("\n") + "\n" for name, lines in made.items()}


def metric_families() -> list[tuple[str, str, tuple[str, ...], str]]:
    """Return name as scraped, type, labels and help of every metric family of the service, sorted."""
    registry = CollectorRegistry()
    HttpMetrics(registry).observe("GET", "/", 200, 0.0)
    IngestMetrics(registry).know([""])
    failures = failures_counter(registry)
    for reason in FAILURE_REASONS:
        failures.labels(reason=reason)
    http = list(registry.collect())
    own = list(ServiceMetrics(CollectorRegistry(), StatusAggregator(Service(_settings_of_nothing()))).describe())
    found = []
    for family in (*own, *http):
        sampled = [k for s in family.samples for k in s.labels if k != "le"]
        labels = tuple(getattr(family, "_labelnames", ())) or tuple(dict.fromkeys(sampled))
        name = f"{family.name}_total" if family.type == "counter" else family.name
        found.append((name, family.type, labels, family.documentation))
    return sorted(found)


def setting_default(name: str) -> str:
    """Return a setting's default as it would be written in the environment; nothing of a secret."""
    field = OrchestratorSettings.model_fields[name]
    value = field.get_default(call_default_factory=True)
    if value is None or isinstance(value, SecretStr):
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    return ",".join(value) if isinstance(value, list) else f"{value:g}" if isinstance(value, float) else str(value)


def unread_settings() -> list[str]:
    """Return the settings that no code reads, in order."""
    files = (ROOT / "src" / "market_data_orchestrator").rglob("*.py")
    code = "\n".join(f.read_text("utf-8") for f in files)
    # Also by name: the configuration's reader looks settings up so.
    named = {
        n for pattern in (r"settings\.([a-z_]+)", r"self\.([a-z_]+)", r'"([a-z_]+)"') for n in re.findall(pattern, code)
    }
    return [name for name in OrchestratorSettings.model_fields if name not in named]


def _settings_of_nothing() -> OrchestratorSettings:
    # Built without reading the environment, so the pages are the same on every machine.
    return OrchestratorSettings.model_construct()


def _table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    yield "| " + " | ".join(columns) + " |"
    yield "|" + "---|" * len(columns)
    for row in rows:
        yield "| " + " | ".join(cell.replace("|", r"\|").replace("\n", " ") for cell in row) + " |"
    yield ""


def _code(text: str) -> str:
    return f"`{text}`" if text else ""


def _settings() -> Iterator[str]:
    yield "# Settings\n"
    yield "Environment variables, also read from a file `.env` in the working directory. Secrets have no default.\n"
    fields = OrchestratorSettings.model_fields
    yield from _table(
        ("name", "type", "unit", "default", "what"),
        (
            (
                f"`ORCH_{name.upper()}`",
                _type(field.annotation),
                UNITS.get(name, ""),
                _code(setting_default(name)),
                field.description or "",
            )
            for name, field in fields.items()
        ),
    )
    yield "Times take a unit (`30s`, `5m`, `24h`, `7d`) in `ORCH_LOG_RETENTION` and `ORCH_BARS_LATENESS`; sizes one"
    yield "(`512M`, `20G`) in `ORCH_LOG_MAX_BYTES` and `ORCH_LOG_RESERVE_BYTES`.\n"
    if unread := unread_settings():
        yield "Accepted and checked, but without effect: " + ", ".join(f"`ORCH_{n.upper()}`" for n in unread) + "."


def _type(annotation: Any) -> str:
    names = {
        str: "text", int: "whole number", float: "number", bool: "true or false", Path: "path", SecretStr: "secret"
    }  # fmt: skip
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _type(inner[0])
    if origin is Literal:
        return ", ".join(f"`{value}`" for value in inner)
    if origin in {Union, types.UnionType}:
        return " or ".join(_type(a) for a in inner if a is not type(None))
    return f"list of {_type(inner[0])}" if origin is list else names[annotation]


def _routes() -> Iterator[str]:
    app = create_app(Service(_settings_of_nothing()))
    yield "# Routes\n"
    rows = []
    for route in app.routes:
        if isinstance(route, WebSocketRoute):
            rows.append(("WS", f"`{route.path}`", ANSWERS[route.path]))
        elif isinstance(route, Route):
            methods = ", ".join(sorted((route.methods or set()) - {"HEAD"}))
            rows.append((methods, f"`{route.path}`", ANSWERS[route.path]))
    for path, operations in app.openapi()["paths"].items():
        rows += [(method.upper(), f"`{path}`", ANSWERS[path]) for method in operations]
    rows = [(method, path, ACCESS.get(path.strip("`"), "open"), answer) for method, path, answer in rows]
    yield from _table(("method", "path", "least role", "answer"), sorted(rows, key=lambda r: r[1]))
    yield "`open` needs no key; [keys](keys.md) says how the others are called."
    yield "GET routes answer HEAD too. Errors are `application/problem+json` (RFC 9457) with `request_id`; the header"
    yield "`X-Request-ID` is taken over from the caller or made, and is in every answer."


def _metrics() -> Iterator[str]:
    yield "# Metrics\n"
    yield "At `/metrics`. A counter starts at 0 with its consumer or source; all families are there from the start.\n"
    yield from _table(
        ("family", "type", "labels", "what"),
        ((f"`{n}`", kind, ", ".join(f"`{x}`" for x in labels), text) for n, kind, labels, text in metric_families()),
    )


def _commands() -> Iterator[str]:
    yield "# Commands\n"
    yield "`mdo --version` prints the version; `mdo COMMAND --help` says what is said here.\n"
    for name, callback in command_callbacks().items():
        yield from _command(name, callback)


def command_callbacks() -> dict[str, Callable[..., Any]]:
    """Return every command's function by its full name, such as ``audit ledger``."""
    found: dict[str, Callable[..., Any]] = {}
    command = command_line()
    for info in command.registered_commands:
        if info.name and info.callback:
            found[info.name] = info.callback
    for group in command.registered_groups:
        for info in group.typer_instance.registered_commands if group.typer_instance else ():
            if info.name and info.callback:
                found[f"{group.name} {info.name}"] = info.callback
    return found


def _command(name: str, callback: Callable[..., Any]) -> Iterator[str]:
    arguments, options = [], []
    hints = get_type_hints(callback, include_extras=True)
    for parameter in inspect.signature(callback).parameters.values():
        kind, info = _annotated(hints[parameter.name])
        if isinstance(info, typer.models.ArgumentInfo):
            word = f"{parameter.name.upper()}..." if get_origin(kind) is list else parameter.name.upper()
            arguments.append((word, info.help or ""))
        else:
            # Inside Annotated, what stands first is the option's own name.
            flag = info.default if isinstance(info.default, str) else f"--{parameter.name.replace('_', '-')}"
            taken = "" if kind is bool else f" {_word(kind)}"
            default = "" if parameter.default in (None, False) else _plain(parameter.default)
            options.append((f"`{flag}{taken}`", _code(default), _help(info)))
    yield f"## mdo {name}\n"
    yield "```"
    yield " ".join(["mdo", name, *(["[OPTIONS]"] if options else []), *(word for word, _ in arguments)])
    yield "```\n"
    for paragraph in inspect.cleandoc(callback.__doc__ or "").split("\n\n"):
        text = " ".join(paragraph.split())
        yield f"```sh\n{text.removeprefix('Example: ')}\n```\n" if text.startswith("Example: ") else f"{text}\n"
    if arguments:
        yield from _table(("argument", "what"), ((f"`{word}`", text) for word, text in arguments))
    yield from _table(("option", "default", "what"), options)


def _plain(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _annotated(hint: Any) -> tuple[Any, Any]:
    if get_origin(hint) is not Annotated:
        raise TypeError(f"a command's parameter is not annotated with what it is: {hint}")
    kind, info = get_args(hint)[:2]
    inner = [a for a in get_args(kind) if a is not type(None)]
    return (inner[0] if get_origin(kind) in {Union, types.UnionType} else kind), info


def _word(kind: Any) -> str:
    return {int: "COUNT", float: "NUMBER", Path: "PATH"}.get(kind, "TEXT")


def _help(info: Any) -> str:
    return f"{info.help or ''}{f' [{info.envvar}]' if isinstance(info.envvar, str) else ''}"


def _tables() -> Iterator[str]:
    yield "# Tables\n"
    yield "Delta tables, one folder each in the tenant's folder of the store. Times are int64 UTC nanoseconds, prices"
    yield "and sizes float64; what is absent is null. Every table also has `date`, the UTC day of `ts_event`"
    yield "(`quarantine`: of `ts_recv`), by which it is partitioned.\n"
    yield "In queries `bars` is the newest revision of every bar and `bars_revisions` all of them. Rows of these tables"
    yield "are versions of the same thing by:\n"
    yield from _table(("table", "key"), ((f"`{n}`", ", ".join(f"`{c}`" for c in key)) for n, key in KEYS.items()))
    yield "## In every table\n"
    yield from _columns(TABLE_FIELDS)
    for name in TABLES:
        yield f"## {name}\n"
        own = [f for f in STORED_SCHEMAS[name] if f not in TABLE_FIELDS]
        yield from _columns(own)
    yield "## flags\n"
    yield "`select * from quotes where flags & 2048 <> 0`\n"
    yield from _table(
        ("value", "name", "what"), ((str(f.value), f"`{f.name}`", FLAG_MEANINGS[f.name or ""]) for f in Flag)
    )


def _columns(fields: Iterable[Any]) -> Iterator[str]:
    yield from _table(("column", "type", "what"), ((f"`{f.name}`", str(f.type), MEANINGS[f.name]) for f in fields))


def _layouts() -> Iterator[str]:
    yield "# Replay layouts\n"
    yield "Found by a file's name, or named with `mdo replay --layout`.\n"
    for layout in packaged_layouts().values():
        yield f"## {layout.name}\n"
        named = "of the day in the path" if layout.time.column is None else f"`{layout.time.column}`"
        time = f"{named}, {layout.time.unit}" + (f", {layout.time.zone}" if layout.time.zone else "")
        symbol = f"column `{layout.symbol.column}`" if layout.symbol.column is not None else "from the path"
        if layout.contract:
            symbol = f"of the contract, told by {'the path' if layout.contract.path else 'columns'}"
        columns = (f"`{ours}`" + ("?" if ours in layout.optional else "") for ours in layout.columns)
        facts = [
            ("files", ", ".join(f"`{p}`" for p in layout.files)),
            ("in a zip", ", ".join(f"`{p}`" for p in layout.members)),
            ("kind", str(layout.kind)),
            ("vendor", f"`{layout.vendor}`" + (f" or column `{layout.vendor_column}`" if layout.vendor_column else "")),
            ("format", ", ".join(layout.format)),
            ("file's columns", ", ".join(f"`{f}`" for f in layout.fields) or "by header or name"),
            ("time", time),
            ("symbol", symbol),
            ("columns (? may be absent)", ", ".join(columns) or "by event"),
            ("prices and sizes are divided by", f"10^{layout.price_scale}, 10^{layout.size_scale}"),
            ("decimals of prices and sizes", f"{layout.price_decimals}, {layout.size_decimals}"),
        ]
        if layout.one_side:
            facts.append(("rows carry one side", layout.one_side))
        if layout.constants:
            facts.append(("all rows", ", ".join(f"{name} `{text}`" for name, text in layout.constants.items())))
        for i, event in enumerate(layout.events, start=1):
            said = (f"{name} `{text}`" for name, text in event.constants.items())
            facts.append((f"event {i} of a row", ", ".join((*said, *(f"`{ours}`" for ours in event.columns)))))
        if layout.zero_is_absent:
            facts.append(("null where 0", ", ".join(f"`{name}`" for name in layout.zero_is_absent)))
        if layout.joined:
            facts.append(("members of a zip", "one sequence, sorted by time"))
        yield from _table(("what", "value"), facts)


def _operators() -> Iterator[str]:
    yield "# Operators\n"
    yield "What `operator:` may name in a graph, beside entry points of `market_data.operators` and"
    yield "`package.module:Class`. Kinds not taken go past an operator untouched.\n"
    for place in dict.fromkeys(OURS.values()):
        names = [name for name, at in OURS.items() if at == place]
        yield from _operator(names, load(names[0]))


def _operator(names: Sequence[str], made: Callable[..., Any]) -> Iterator[str]:
    params = SAMPLES.get(names[0], {})
    built = build(NodeSpec(name="x", type=names[0], role="operator", params=params))
    text, explained = _sections(_explained(made, type(built)))
    yield f"## {', '.join(names)}\n"
    yield f"{text}\n"
    example = yaml.safe_dump({"operator": names[0], **params}, default_flow_style=True, sort_keys=False, width=200)
    facts = [
        ("takes", ", ".join(f"`{k}`" for k in sorted(built.kinds))),
        ("gives", ", ".join(f"`{k}`" for k in sorted(built.gives(built.kinds)))),
        ("example", f"`{example.strip()}`"),
    ]
    if ports := getattr(built, "ports", ()):
        facts.insert(2, ("outputs", ", ".join(f"`{p}`" for p in ports)))
    yield from _table(("what", "with the example"), facts)
    own = [p for p in inspect.signature(made).parameters.values() if p.name not in GIVEN_BY_US]
    # No default is written for what has to be given.
    defaults = ["required" if p.default is p.empty else _code(_written(p.default)) for p in own]
    described = [explained[p.name] for p in own]
    rows = zip((f"`{p.name}`" for p in own), defaults, described, strict=True)
    yield from _table(("parameter", "default", "what"), rows)


def _written(value: Any) -> str:
    if isinstance(value, tuple):
        return f"[{', '.join(map(str, value))}]"
    return "none" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def _explained(made: Callable[..., Any], built: type) -> tuple[str, str]:
    # Where a function makes the operator, its class says what it does, and the function what it is given.
    return inspect.getdoc(built) or "", inspect.getdoc(made) or ""


def _sections(docs: tuple[str, str]) -> tuple[str, dict[str, str]]:
    body = re.split(r"^(?:Args|Raises):$", docs[0], flags=re.MULTILINE)[0].strip()
    explained: dict[str, str] = {}
    for doc in docs:
        args = re.search(r"^Args:\n((?:    .*\n?|\n)+)", doc, re.MULTILINE)
        for name, text in re.findall(
            r"^    (\w+): ((?:.*\n?)(?:        .*\n?)*)", args[1] if args else "", re.MULTILINE
        ):
            explained[name] = " ".join(text.split())
    return body.replace("``", "`"), {name: text.replace("``", "`") for name, text in explained.items()}


def _configuration() -> Iterator[str]:
    yield "# Configuration\n"
    yield "The file that `ORCH_CONFIG` names. A section that is left out is as it stands in the packaged default:\n"
    yield f"```yaml\n{packaged_text().strip()}\n```\n"
    yield "## policies\n"
    yield "Each fills a setting, which wins where it is set.\n"
    defaults = yaml.safe_load(packaged_text())["policies"]
    lateness = ("`lateness`", _code(defaults["lateness"]), "`ORCH_BARS_LATENESS`")
    rows = [
        (f"`{name}`", _code(_written(defaults[name])), f"`ORCH_{policy.setting.upper()}`")
        for name, policy in POLICIES.items()
    ]
    yield from _table(("policy", "default", "setting"), [lateness, *rows])


def _ingestion() -> Iterator[str]:
    yield "# Ingestion files\n"
    yield "They lie beside the file that `ORCH_CONFIG` names; where one is absent, the packaged default stands in.\n"
    yield f"## {PROVIDERS_FILE}\n"
    yield "`providers` is a mapping of names to:\n"
    yield from _table(("key", "default", "what"), _keys_of(ProviderEntry))
    yield f"```yaml\n{packaged_default(PROVIDERS_FILE).strip()}\n```\n"
    yield f"## {POLICY_FILE}\n"
    yield from _table(("key", "default", "what"), _keys_of(IngestPolicy))
    yield f"```yaml\n{packaged_default(POLICY_FILE).strip()}\n```"


def _keys_of(model: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, str, str]]:
    for name, field in model.model_fields.items():
        inner = field.annotation
        if inspect.isclass(inner) and issubclass(inner, BaseModel):
            yield from _keys_of(inner, f"{prefix}{name}.")
        else:
            default = field.get_default(call_default_factory=True)
            shown = "" if default in ("", None) else _written(default)
            yield f"`{prefix}{name}`", _code(shown), field.description or ""


def _keys() -> Iterator[str]:
    yield "# Keys\n"
    yield "A caller shows a key in the header `X-API-Key`, or as `Authorization: Bearer`. A role may do all that those"
    yield "before it may.\n"
    app = create_app(Service(_settings_of_nothing()))
    paths = app.openapi()["paths"]
    roles = [(str(r), ", ".join(f"`{p}`" for p in paths if ACCESS.get(p) is r) or "nothing more yet") for r in Role]
    yield from _table(("role", "may, beside what is open"), roles)
    files = [
        ("`ORCH_API_KEY`", "One key, an admin's; never written anywhere."),
        (f"`{KEYS_FILE}`", "In `DATA_DIR`, or where `ORCH_API_KEYS_FILE` says: a JSON object a line with name, role,"),
        (f"`{FIRST_KEY_FILE}`", "Beside it: the admin key of the first start, made where no key is configured."),
    ]
    files[1] = (files[1][0], f"{files[1][1]} salt, sha256 and created_ns. Keys themselves are not kept.")
    yield from _table(("where", "what"), files)
    yield "Files of keys are readable by their owner only; one that others can read is refused.\n"
    yield "Who is not let in is counted in `orchestrator_auth_failures_total` by reason:"
    yield ", ".join(f"`{reason}`" for reason in FAILURE_REASONS) + "."


def _exit_codes() -> Iterator[str]:
    yield "# Exit codes\n"
    yield from _table(("code", "when"), EXIT_CODES)
    yield "Results go to standard output, everything else to standard error. With `--json` standard output holds"
    yield "exactly one JSON value; when a command fails before it has a result, nothing."


def main() -> int:
    """Write the pages; return 0."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name, text in pages().items():
        (FOLDER / name).write_text(text, "utf-8")
        sys.stdout.write(f"docs/reference/{name}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
