"""The routes of stored data and of what the platform knows about it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Annotated, Any, Final, Literal

from fastapi import APIRouter, Body, Header, Query
from prometheus_client import Counter
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from market_data_core.errors import ConfigurationError, TemporaryUnavailable, ValidationError
from market_data_core.schemas import STORED_SCHEMAS, Kind, interval_ns
from market_data_core.web.auth import Authenticator, Role, guarded_route
from market_data_core.web.paging import Cursor, Limit, Page, decode_cursor, encode_cursor, page_response
from market_data_core.web.ratelimit import guess_limited
from market_data_orchestrator.audit.trail import audited, audited_gate
from market_data_orchestrator.backfill import NOT_FILLABLE, begin_backfill
from market_data_orchestrator.data import walking
from market_data_orchestrator.data.querying import Queries
from market_data_orchestrator.data.reading import StoredData
from market_data_orchestrator.data.rows import (
    BackfillAnswer,
    BackfillRequest,
    BarRow,
    BudgetRow,
    CoverageRow,
    GapRow,
    InstrumentRow,
    PlanAnswer,
    QuarantineRow,
    QueryAnswer,
    QueryRequest,
)
from market_data_orchestrator.data.times import read_time_ns
from market_data_orchestrator.protocols import AuditLogger, RateLimiter
from market_data_orchestrator.service import Service
from market_data_pipeline.orchestration import RateCoordinator
from market_data_store.backend import END_OF_TIME_NS, START_OF_TIME_NS, Backend, Wanted
from market_data_store.state import Gap, GapState, State

Name = Annotated[str, Query(min_length=1, max_length=64)]
OptionalName = Annotated[str | None, Query(min_length=1, max_length=64)]
Moment = Annotated[
    str | None, Query(min_length=1, max_length=40, description="UTC nanoseconds, or ISO 8601 with a time zone.")
]
TableName = Annotated[
    str, Query(max_length=64, description="Which table.", json_schema_extra={"enum": sorted(STORED_SCHEMAS)})
]
IdempotencyKey = Annotated[str | None, Header(min_length=1, max_length=200)]

_REFUSALS: Final[dict[int | str, dict[str, Any]]] = {
    401: {"description": "Nobody that is known."},
    403: {"description": "The role does not suffice."},
    422: {"description": "A parameter is wrong; `errors` or `detail` names it."},
    429: {"description": "Too many wrong keys came from this address; `Retry-After` says when to come again."},
    503: {"description": "The store is away or busy; `Retry-After` says when to come again, where that is known."},
}
_FRESH_S: Final = 5.0
_COVERAGE: Final = ("vendor", "symbol", "date")


def data_routers(
    service: Service,
    data: StoredData,
    callers: Sequence[Authenticator],
    *,
    audit: AuditLogger,
    limits: RateLimiter,
    failures: Counter,
    rates: Callable[[], RateCoordinator | None] = lambda: None,
) -> list[APIRouter]:
    """Return the routes ``/query /bars /instruments /coverage /gaps /quarantine /budgets /plan /backfill``.

    Lists come a page at a time: ``limit`` and ``cursor`` in, ``items`` and ``next`` out, with a Link header.

    Args:
        service: Of what.
        data: How its store is read; closed by whoever made it.
        callers: The ways in, tried in order.
        audit: Where queries, backfills and refusals are recorded.
        limits: How often wrong keys may be tried.
        failures: Counts who was not let in.
        rates: Keeps the providers' budgets; None while nobody does.
    """

    def behind(role: Role) -> APIRouter:
        gate = guess_limited(audited_gate(audit, role, authenticators=callers, failures=failures), limits)
        return APIRouter(route_class=guarded_route(gate), tags=["data"], responses=_REFUSALS)

    viewer, operator = behind(Role.VIEWER), behind(Role.OPERATOR)
    _query_route(viewer, Queries(service.settings, data, audit))
    _bar_routes(viewer, data)
    _extent_routes(viewer, data)
    _state_routes(viewer, service, data)
    _plan_routes(viewer, service, rates)
    _backfill_route(operator, service, data, audit)
    return [viewer, operator]


def _query_route(router: APIRouter, queries: Queries) -> None:
    forms: dict[str, Any] = {
        "text/csv": {"schema": {"type": "string"}},
        "application/vnd.apache.arrow.stream": {"schema": {"type": "string", "format": "binary"}},
    }

    @router.post(
        "/query",
        response_model=QueryAnswer,
        responses={
            200: {"content": forms, "description": "The rows; `X-Truncated` says whether there were more."},
            400: {"description": "The store is none that answers SQL here."},
            406: {"description": "None of the forms that there are is accepted."},
            422: {"description": "The query may not be asked, failed, or ran into a limit; `detail` says which."},
        },
    )
    async def query(request: Request, asked: Annotated[QueryRequest, Body()]) -> Response:
        """One SELECT over the tenant's tables, in a confined process, on the record.

        `Accept` chooses the form: JSON, `text/csv` or `application/vnd.apache.arrow.stream`. Times are int64 UTC
        nanoseconds, beyond what a JavaScript number holds exactly.
        """
        return await queries.answer(request, asked)


def _bar_routes(router: APIRouter, data: StoredData) -> None:
    @router.get("/bars", response_model=Page[BarRow])
    async def bars(
        request: Request,
        *,
        symbol: Name,
        interval: Annotated[str, Query(max_length=10, description="A count and one of s, m, h, d.")] = "1m",
        vendor: OptionalName = None,
        start: Moment = None,
        end: Moment = None,
        what: Name = "TRADES",
        session: Name = "ALL",
        source: Annotated[Literal["internal", "external"] | None, Query()] = None,
        as_of: Annotated[
            str | None, Query(max_length=40, description="Only what was known at that moment, by `ts_known`.")
        ] = None,
        limit: Limit = 100,
        cursor: Cursor = None,
    ) -> Response:
        """Bars of one symbol by time, of each the newest revision; `end` is exclusive, vendors are never merged."""
        _check_interval(interval)
        scope = ("bars", symbol.upper(), interval, vendor, start, end, what, session, source, as_of)
        equal = {"interval": interval, "what": what, "session": session, **({"source": source} if source else {})}
        wanted = Wanted(
            start_ns=read_time_ns("start", start, START_OF_TIME_NS),
            end_ns=read_time_ns("end", end, END_OF_TIME_NS),
            vendor=vendor,
            symbols=(symbol.upper(),),
            equal=equal,
            as_of_ns=None if as_of is None else read_time_ns("as_of", as_of, 0),
        )
        place = None if cursor is None else decode_cursor(cursor, walking.BAR_PLACE_TYPES, scope=scope)
        rows = await data.read(lambda backend: walking.bars_after(backend, wanted, place, limit))
        return _page(request, rows, limit, walking.bar_place, scope)


def _extent_routes(router: APIRouter, data: StoredData) -> None:
    known = _Instruments(data)

    @router.get("/instruments", response_model=Page[InstrumentRow])
    async def instruments(
        request: Request, vendor: OptionalName = None, limit: Limit = 100, cursor: Cursor = None
    ) -> Response:
        """What is stored of every instrument, by vendor and symbol; up to five seconds old."""
        scope = ("instruments", vendor)
        place = None if cursor is None else decode_cursor(cursor, (str, str), scope=scope)
        found = [row for row in await known.rows() if vendor in (None, row["vendor"])]
        rows = walking.after(found, ("vendor", "symbol"), place, limit)
        return _page(request, rows, limit, lambda row: (row["vendor"], row["symbol"]), scope)

    @router.get("/coverage", response_model=Page[CoverageRow])
    async def coverage(
        request: Request,
        *,
        table: TableName = "trades",
        vendor: OptionalName = None,
        symbol: OptionalName = None,
        start: Moment = None,
        end: Moment = None,
        limit: Limit = 100,
        cursor: Cursor = None,
    ) -> Response:
        """How much there is of each instrument on each UTC date; `end` is exclusive."""
        if table not in STORED_SCHEMAS:
            raise ValidationError(f"table: there is no {table!r}; there are: {', '.join(sorted(STORED_SCHEMAS))}")
        symbols = () if symbol is None else (symbol.upper(),)
        scope = ("coverage", table, vendor, symbols, start, end)
        place = None if cursor is None else decode_cursor(cursor, (str, str, str), scope=scope)
        wanted = Wanted(
            start_ns=read_time_ns("start", start, START_OF_TIME_NS),
            end_ns=read_time_ns("end", end, END_OF_TIME_NS),
            vendor=vendor,
            symbols=symbols,
        )

        def look(backend: Backend) -> list[dict[str, Any]]:
            found = backend.coverage(table, wanted).to_pylist()
            return walking.after([_texts(row, _COVERAGE) for row in found], _COVERAGE, place, limit)

        rows = await data.read(look)
        return _page(request, rows, limit, lambda row: tuple(row[name] for name in _COVERAGE), scope)

    @router.get("/quarantine", response_model=Page[QuarantineRow])
    async def quarantine(
        request: Request,
        *,
        vendor: OptionalName = None,
        symbol: OptionalName = None,
        limit: Limit = 100,
        cursor: Cursor = None,
    ) -> Response:
        """What could not be stored, newest first, with the reason and the raw text."""
        symbols = () if symbol is None else (symbol.upper(),)
        scope = ("quarantine", vendor, symbols)
        seq = None if cursor is None else decode_cursor(cursor, (int,), scope=scope)[0]
        wanted = Wanted(vendor=vendor, symbols=symbols)
        table = str(Kind.QUARANTINE)
        rows = await data.read(lambda backend: walking.newest_before(backend, table, wanted, seq, limit))
        return _page(request, rows, limit, lambda row: (row["seq"],), scope)


def _state_routes(router: APIRouter, service: Service, data: StoredData) -> None:
    @router.get("/gaps", response_model=Page[GapRow])
    async def gaps(
        request: Request,
        *,
        vendor: OptionalName = None,
        symbol: OptionalName = None,
        kind: OptionalName = None,
        state: Annotated[list[GapState] | None, Query(description="Only in these states.")] = None,
        start: Moment = None,
        end: Moment = None,
        limit: Limit = 100,
        cursor: Cursor = None,
    ) -> Response:
        """Stretches of time for which data is known to be missing, newest first by their beginning.

        Asked for a vendor, symbol or kind, gaps of all symbols or kinds are among them; `start` and `end` are of the
        time that they touch.
        """
        scope = ("gaps", vendor, symbol, kind, state, start, end)
        gap_id = None if cursor is None else decode_cursor(cursor, (int,), scope=scope)[0]
        states = _state_of(service)
        start_ns = None if start is None else read_time_ns("start", start, 0)
        end_ns = None if end is None else read_time_ns("end", end, 0)

        def look() -> list[dict[str, Any]]:
            found = states.list_gaps(
                vendor=vendor,
                symbol=symbol,
                kind=kind,
                states=state,
                start_ns=start_ns,
                end_ns=end_ns,
                limit=limit + 1,
                before=None if gap_id is None else _gap_named(states, gap_id),
            )
            return [{**asdict(gap), "state": str(gap.state)} for gap in found]

        rows = await data.run(look)
        return _page(request, rows, limit, lambda row: (row["id"],), scope)


def _plan_routes(router: APIRouter, service: Service, rates: Callable[[], RateCoordinator | None]) -> None:
    @router.get("/budgets", response_model=Page[BudgetRow])
    async def budgets(request: Request, limit: Limit = 100, cursor: Cursor = None) -> Response:
        """How often each provider may still be asked, by name."""
        place = None if cursor is None else decode_cursor(cursor, (str,), scope=("budgets",))
        kept = rates()
        names = sorted(kept.providers) if kept is not None else []
        found = [_budget(kept, name) for name in names] if kept is not None else []
        rows = walking.after(found, ("provider",), place, limit)
        return _page(request, rows, limit, lambda row: (row["provider"],), ("budgets",))

    @router.get("/plan")
    async def plan() -> PlanAnswer:
        """What runs, and what a reload would change now: the configuration's file is read again, nothing is changed."""
        configuration = service.config.blueprint().to_dict()
        try:
            found = await service.planned()
        except ConfigurationError as exc:
            return PlanAnswer(configuration=configuration, changes=[], untouched=[], restart=[], problem=str(exc))
        return PlanAnswer(configuration=configuration, **found.to_dict(), problem=None)


def _backfill_route(router: APIRouter, service: Service, data: StoredData, audit: AuditLogger) -> None:
    @router.post(
        "/backfill",
        status_code=202,
        responses={
            404: {"description": "There is no such gap."},
            409: {"description": "It cannot be filled: its provider has no history, or it is filled or not over yet."},
        },
    )
    async def backfill(
        request: Request, asked: Annotated[BackfillRequest, Body()], idempotency_key: IdempotencyKey = None
    ) -> BackfillAnswer:
        """Have a gap filled from its provider's history; asked for again while that goes on, the same job."""
        async with audited(audit, request, action="backfill", target=f"gap {asked.gap_id}") as trail:
            state, now_ns = _state_of(service), service.clock.now_ns()
            key = None if idempotency_key is None else f"backfill:{idempotency_key}"
            try:
                job = await data.run(
                    lambda: begin_backfill(state, service.config, asked.gap_id, now_ns=now_ns, key=key)
                )
            except ValidationError as exc:
                if exc.code not in _REFUSED:
                    raise
                raise HTTPException(_REFUSED[exc.code], str(exc)) from exc
            providers = ", ".join(job.params["providers"])
            trail.detail = f"job {job.id} of {providers}"
            return BackfillAnswer(job_id=job.id, state=str(job.state), gap_id=asked.gap_id, provider=providers)


_REFUSED: Final = {"not_found": 404, NOT_FILLABLE: 409}


class _Instruments:
    # Looking at every table costs; however many ask, it is done once in a while, and they wait for the same look.
    def __init__(self, data: StoredData) -> None:
        self._data = data
        self._look: asyncio.Task[list[dict[str, Any]]] | None = None
        self._begun_s = float("-inf")

    async def rows(self) -> list[dict[str, Any]]:
        look = self._look
        stale = time.monotonic() - self._begun_s >= _FRESH_S
        if look is None or (look.done() and (stale or look.cancelled() or look.exception() is not None)):
            self._begun_s = time.monotonic()
            look = self._look = asyncio.create_task(self._data.read(_look_at_all), name="instruments")
        return await asyncio.shield(look)


def _look_at_all(backend: Backend) -> list[dict[str, Any]]:
    names = sorted(backend.written() - {str(Kind.QUARANTINE)})
    return walking.instruments((name, backend.coverage(name, Wanted())) for name in names)


def _page(
    request: Request,
    rows: Sequence[dict[str, Any]],
    limit: int,
    place: Callable[[dict[str, Any]], tuple[Any, ...]],
    scope: Sequence[Any],
) -> Response:
    shown = rows[:limit]
    more = encode_cursor(place(shown[-1]), scope=scope) if len(rows) > limit else None
    return page_response(request, shown, more)


def _state_of(service: Service) -> State:
    if service.state is None:
        raise TemporaryUnavailable(f"the service is {service.phase}: its state is not open")
    return service.state


def _gap_named(state: State, gap_id: int) -> Gap:
    try:
        return state.get_gap(gap_id)
    except ValidationError as exc:
        raise ValidationError("cursor: this is no cursor of this list") from exc


def _budget(kept: RateCoordinator, name: str) -> dict[str, Any]:
    budget = kept.status(name)
    return {**asdict(budget), "breaker": str(budget.breaker), "cooldowns": dict(budget.cooldowns)}


def _check_interval(interval: str) -> None:
    try:
        interval_ns(interval)
    except ConfigurationError as exc:
        raise ValidationError(str(exc)) from exc


def _texts(row: dict[str, Any], names: Sequence[str]) -> dict[str, Any]:
    return {**row, **{name: row[name] or "" for name in names}}
