"""Commands that write: one row of a model, lines of models, a job."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from threading import Event
from typing import IO, Annotated, Any, TypedDict

import pydantic
import typer

from market_data_core.clock import SystemClock
from market_data_core.errors import ConfigurationError, TemporaryUnavailable
from mds_client.cli.moving import Source, on_loop
from mds_client.cli.options import TENANT, AsJson, Dsn, TenantId, opened
from mds_client.cli.output import ERR, FAILURE, print_json, progress, say
from mds_client.rows import TABLES, rows_from_models
from mds_client.transfer.ingesting import KINDS, Ingested, Rejected, ingest, rejected_line

OneVendor = Annotated[str, typer.Option(help="Who says so.")]
OneSymbol = Annotated[str, typer.Option(help="The instrument; upper-cased.")]
OwnName = Annotated[str | None, typer.Option(help="A name of your own; the key names the row, so no store keeps it.")]
Reason = Annotated[str | None, typer.Option(help="Why this takes the place of what was stored before.")]
Kind = Annotated[str, typer.Argument(help="bars, fundamentals, news or options.")]
MaxRows = Annotated[int, typer.Option(min=1, help="Store a batch of so many rows,")]
MaxMs = Annotated[int, typer.Option(min=1, help="or one whose first row has waited so many milliseconds,")]
MaxBytes = Annotated[int, typer.Option(min=1, help="or one of so many bytes.")]
Rejects = Annotated[
    str | None, typer.Option(help="Write lines that are not taken to this file, as NDJSON with line, field and why.")
]


class _Limits(TypedDict):
    max_rows: int
    max_ms: int
    max_bytes: int


def write_bar(
    vendor: OneVendor,
    symbol: OneSymbol,
    timeframe: Annotated[str, typer.Option(help="How long it is, such as 1m.")],
    ts: Annotated[str, typer.Option(help="Its start, such as 2024-01-02T14:30:00Z.")],
    open_price: Annotated[float | None, typer.Option(help="First price.")] = None,
    high_price: Annotated[float | None, typer.Option(help="Highest price.")] = None,
    low_price: Annotated[float | None, typer.Option(help="Lowest price.")] = None,
    close_price: Annotated[float | None, typer.Option(help="Last price.")] = None,
    volume: Annotated[float | None, typer.Option(help="How much was traded.")] = None,
    vwap: Annotated[float | None, typer.Option(help="Average price weighted by size.")] = None,
    trade_count: Annotated[int | None, typer.Option(help="How many trades.")] = None,
    what: Annotated[str, typer.Option(help="Made of these prices: TRADES, MIDPOINT, BID, ASK.")] = "TRADES",
    session: Annotated[str, typer.Option(help="The trading session.")] = "ALL",
    source: Annotated[str, typer.Option(help="external, or internal for bars the platform made.")] = "external",
    id: OwnName = None,  # noqa: A002  the model's field
    reason: Reason = None,
    as_json: AsJson = False,
    dsn: Dsn = None,
    tenant_id: TenantId = TENANT,
) -> int:
    """Store one bar; equal to the stored one it changes nothing, else it becomes its next version.

    Example: mds write-bar --vendor me --symbol AAPL --timeframe 1m --ts 2024-01-02T14:30:00Z --open-price 185
    --high-price 186 --low-price 184.5 --close-price 185.5 --volume 1200
    """
    values = {
        "vendor": vendor,
        "symbol": symbol,
        "timeframe": timeframe,
        "ts": ts,
        "open_price": open_price,
        "high_price": high_price,
        "low_price": low_price,
        "close_price": close_price,
        "volume": volume,
        "vwap": vwap,
        "trade_count": trade_count,
        "what": what,
        "session": session,
        "source": source,
        "id": id,
    }
    return _write("bars", values, reason, as_json=as_json, dsn=dsn, tenant_id=tenant_id)


def write_fundamental(
    vendor: OneVendor,
    symbol: OneSymbol,
    asof: Annotated[str, typer.Option(help="What the figures are of, such as 2023-12-31.")],
    total_assets: Annotated[float | None, typer.Option(help="In the company's currency.")] = None,
    total_liabilities: Annotated[float | None, typer.Option(help="In the company's currency.")] = None,
    net_income: Annotated[float | None, typer.Option(help="In the company's currency.")] = None,
    eps: Annotated[float | None, typer.Option(help="Earnings per share.")] = None,
    id: OwnName = None,  # noqa: A002  the model's field
    reason: Reason = None,
    as_json: AsJson = False,
    dsn: Dsn = None,
    tenant_id: TenantId = TENANT,
) -> int:
    """Store a company's figures; equal to the stored ones they change nothing, else they become the next version.

    Example: mds write-fundamental --vendor me --symbol AAPL --asof 2023-12-31 --eps 2.18
    """
    values = {
        "vendor": vendor,
        "symbol": symbol,
        "asof": asof,
        "total_assets": total_assets,
        "total_liabilities": total_liabilities,
        "net_income": net_income,
        "eps": eps,
        "id": id,
    }
    return _write("fundamentals", values, reason, as_json=as_json, dsn=dsn, tenant_id=tenant_id)


def write_news(
    vendor: OneVendor,
    published_at: Annotated[str, typer.Option(help="When it was published, such as 2024-01-02T14:30:00Z.")],
    title: Annotated[str, typer.Option(help="Its title.")],
    symbol: Annotated[str | None, typer.Option(help="What it is about; upper-cased.")] = None,
    url: Annotated[str | None, typer.Option(help="Where it stands.")] = None,
    sentiment_score: Annotated[float | None, typer.Option(help="From -1, bad, to 1, good.")] = None,
    id: Annotated[str | None, typer.Option(help="Its name; made of its content when not given.")] = None,  # noqa: A002  the model's field
    reason: Reason = None,
    as_json: AsJson = False,
    dsn: Dsn = None,
    tenant_id: TenantId = TENANT,
) -> int:
    """Store a piece of news; equal to the stored one it changes nothing, else it becomes its next version.

    Example: mds write-news --vendor me --published-at 2024-01-02T14:30:00Z --title "Results are out" --symbol AAPL
    """
    values = {
        "vendor": vendor,
        "published_at": published_at,
        "title": title,
        "symbol": symbol,
        "url": url,
        "sentiment_score": sentiment_score,
        "id": id,
    }
    return _write("news", values, reason, as_json=as_json, dsn=dsn, tenant_id=tenant_id)


def write_option(
    vendor: OneVendor,
    symbol: Annotated[str, typer.Option(help="The underlying; upper-cased.")],
    expiry: Annotated[str, typer.Option(help="A date, such as 2024-01-19.")],
    option_type: Annotated[str, typer.Option(help="C or P.")],
    strike: Annotated[float, typer.Option(help="The price it gives a right to.")],
    ts: Annotated[str, typer.Option(help="When this was so, such as 2024-01-02T14:30:00Z.")],
    iv: Annotated[float | None, typer.Option(help="Implied volatility, 0.2 for 20 %.")] = None,
    delta: Annotated[float | None, typer.Option(help="Of the option's price by the underlying's.")] = None,
    gamma: Annotated[float | None, typer.Option(help="Of delta by the underlying's price.")] = None,
    theta: Annotated[float | None, typer.Option(help="Of the option's price by time.")] = None,
    vega: Annotated[float | None, typer.Option(help="Of the option's price by volatility.")] = None,
    oi: Annotated[float | None, typer.Option(help="Open interest, contracts.")] = None,
    volume: Annotated[float | None, typer.Option(help="Contracts traded.")] = None,
    spot: Annotated[float | None, typer.Option(help="The underlying's price.")] = None,
    id: OwnName = None,  # noqa: A002  the model's field
    reason: Reason = None,
    as_json: AsJson = False,
    dsn: Dsn = None,
    tenant_id: TenantId = TENANT,
) -> int:
    """Store a look at one option; equal to the stored one it changes nothing, else it becomes its next version.

    Example: mds write-option --vendor me --symbol AAPL --expiry 2024-01-19 --option-type C --strike 190
    --ts 2024-01-02T14:30:00Z --iv 0.21 --delta 0.34
    """
    values = {
        "vendor": vendor,
        "symbol": symbol,
        "expiry": expiry,
        "option_type": option_type,
        "strike": strike,
        "ts": ts,
        "iv": iv,
        "delta": delta,
        "gamma": gamma,
        "theta": theta,
        "vega": vega,
        "oi": oi,
        "volume": volume,
        "spot": spot,
        "id": id,
    }
    return _write("options", values, reason, as_json=as_json, dsn=dsn, tenant_id=tenant_id)


def _write(
    kind: str, values: dict[str, Any], reason: str | None, *, as_json: bool, dsn: str | None, tenant_id: str
) -> int:
    given = {k: v for k, v in values.items() if v is not None}
    try:
        model = KINDS[kind].model_validate({"tenant_id": tenant_id, **given})
    except pydantic.ValidationError as exc:
        first = exc.errors(include_url=False)[0]
        option = "--" + str(first["loc"][0]).replace("_", "-") if first["loc"] else "the row"
        raise ConfigurationError(f"{option} cannot be {first['input']!r}: {first['msg']}") from exc
    with opened(dsn, tenant_id) as backend:
        rows = rows_from_models([model], reason=reason)
        done = backend.upsert(TABLES[KINDS[kind]], rows, now_ns=SystemClock().now_ns())
    if as_json:
        print_json({**asdict(done), "row": json.loads(model.model_dump_json())})
    else:
        say("stored" if done.inserted else "stored as a new version" if done.revised else "it was stored already")
    return 0


def ingest_ndjson(
    kind: Kind,
    path: Source,
    max_rows: MaxRows = 1000,
    max_ms: MaxMs = 5000,
    max_bytes: MaxBytes = 1 << 20,
    rejects: Rejects = None,
    as_json: AsJson = False,
    dsn: Dsn = None,
    tenant_id: TenantId = TENANT,
) -> int:
    """Store models, a JSON object a line, in batches; a bad line is named and the good ones go in.

    What a slow pipe gives is stored while it is open. Repeating changes nothing. Ends with 1 if a line was not taken.

    Example: mds ingest-ndjson bars bars.ndjson.gz --rejects bad.ndjson
    """
    limits = _Limits(max_rows=max_rows, max_ms=max_ms, max_bytes=max_bytes)
    return _ingest(kind, path, limits, rejects, as_json=as_json, dsn=dsn, tenant_id=tenant_id)


def ingest_ndjson_async(
    kind: Kind,
    path: Source,
    max_rows: MaxRows = 1000,
    max_ms: MaxMs = 5000,
    max_bytes: MaxBytes = 1 << 20,
    rejects: Rejects = None,
    as_json: AsJson = False,
    dsn: Dsn = None,
    tenant_id: TenantId = TENANT,
) -> int:
    """Do what ingest-ndjson does, on an event loop.

    Example: mds ingest-ndjson-async news - < news.ndjson
    """
    limits = _Limits(max_rows=max_rows, max_ms=max_ms, max_bytes=max_bytes)
    return on_loop(
        lambda stop: _ingest(kind, path, limits, rejects, as_json=as_json, dsn=dsn, tenant_id=tenant_id, stop=stop)
    )


def _ingest(
    kind: str,
    path: str,
    limits: _Limits,
    rejects: str | None,
    *,
    as_json: bool,
    dsn: str | None,
    tenant_id: str,
    stop: Event | None = None,
) -> int:
    bad: list[dict[str, Any]] = []
    with (
        opened(dsn, tenant_id) as backend,
        _rejecting(rejects, bad, listed=not as_json) as reject,
        progress("ingest", quiet=as_json, stop=stop) as tell,
    ):
        done = ingest(backend, kind, path, **limits, rejected=reject, progress=lambda n, of: tell(kind, n, of))
    _report(done, bad, as_json=as_json, rejects=rejects)
    return FAILURE if done.rejected else 0


def _report(done: Ingested, bad: list[dict[str, Any]], *, as_json: bool, rejects: str | None) -> None:
    if as_json:
        print_json({"lines": done.lines, "rejected": done.rejected, **asdict(done.stored), "rejects": bad})
        return
    stored = done.stored
    say(
        f"{done.lines:,} lines: {stored.inserted:,} new, {stored.revised:,} revisions, {stored.unchanged:,} were "
        f"there, {done.rejected:,} rejected" + (f", see {rejects}" if rejects and done.rejected else "")
    )


@contextmanager
def _rejecting(rejects: str | None, bad: list[dict[str, Any]], *, listed: bool) -> Iterator[Callable[[Rejected], None]]:
    with contextlib.ExitStack() as stack:
        file: IO[bytes] | None = None
        if rejects is not None:
            try:
                file = stack.enter_context(Path(rejects).open("wb"))
            except OSError as exc:
                raise ConfigurationError(f"cannot write --rejects {rejects}: {exc.strerror}") from exc

        def reject(line: Rejected) -> None:
            if file is not None:
                try:
                    file.write(rejected_line(line))
                except OSError as exc:
                    raise TemporaryUnavailable(f"cannot write --rejects {rejects}: {exc.strerror}") from exc
            elif listed:
                where = f", field {line.field}" if line.field else ""
                say(f"line {line.line}{where}: {line.why}", ERR)
            else:
                bad.append(asdict(line))

        yield reject


def enqueue_job(
    idempotency_key: Annotated[str, typer.Option(help="A name for the asking: the same again is the same job.")],
    job_type: Annotated[str, typer.Option(help="What is to be done.")],
    payload: Annotated[str, typer.Option(help="With what: a JSON object.")] = "{}",
    priority: Annotated[int, typer.Option(help="Higher first.")] = 0,
    as_json: AsJson = False,
    dsn: Dsn = None,
    tenant_id: TenantId = TENANT,
) -> int:
    """Ask for work to be done by whoever claims jobs of that type.

    Example: mds enqueue-job --idempotency-key 2024-01-02 --job-type refresh --payload '{"symbol": "AAPL"}'
    """
    try:
        values = json.loads(payload)
    except ValueError as exc:
        raise ConfigurationError(f"--payload is no JSON: {exc}") from exc
    if not isinstance(values, dict):
        raise ConfigurationError("--payload is no JSON object, such as {}")
    with opened(dsn, tenant_id) as backend:
        job = backend.enqueue(
            job_type, values, idempotency_key=idempotency_key, priority=priority, now_ns=SystemClock().now_ns()
        )
    if as_json:
        print_json(asdict(job))
    else:
        say(f"job {job.id} is {job.state}")
    return 0
