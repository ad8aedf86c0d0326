"""``POST /query``: one SELECT over the tenant's tables, on the record."""

from __future__ import annotations

import asyncio
from typing import Final

from starlette.requests import Request
from starlette.responses import Response

from market_data_core.errors import TemporaryUnavailable
from market_data_orchestrator.audit.trail import audited
from market_data_orchestrator.data.answers import MEDIA_TYPES, TRUNCATED_HEADER, SentInTime, form_of, render
from market_data_orchestrator.data.reading import StoredData
from market_data_orchestrator.data.rows import QueryRequest
from market_data_orchestrator.protocols import AuditLogger
from market_data_orchestrator.settings import OrchestratorSettings
from market_data_store.query import QueryLimits, QueryResult, QueryRunner, place_of

_MAX_RESULT_BYTES: Final = 32 << 20
_PATIENCE_S: Final = 10.0
# Results that are being computed or sent; each may hold as much memory as a result may have.
_MAX_UNDER_WAY: Final = 12


class Queries:
    """Runs callers' queries.

    Args:
        settings: Name the store, the tenant and the limits.
        data: Has the threads in which results are written out.
        audit: Where every query is recorded: who, what, how many rows, how long.
    """

    def __init__(self, settings: OrchestratorSettings, data: StoredData, audit: AuditLogger) -> None:
        self._settings = settings
        self._data = data
        self._audit = audit
        self._runner: QueryRunner | None = None
        self._under_way = 0

    async def answer(self, request: Request, asked: QueryRequest) -> Response:
        """Return what a query gave, in the form that the caller accepts.

        Raises:
            ValidationError: The query may not be asked, or failed, or ran into a limit.
            TemporaryUnavailable: Too many queries are under way, or the store is away.
            ConfigurationError: The store is none that answers SQL here.
            HTTPException: 406, no form that there is is accepted.
        """
        form = form_of(request.headers.get("accept", ""))
        self._under_way += 1
        try:
            async with audited(self._audit, request, action="query", data={"sql": asked.sql}) as trail:
                result = await self._run(asked)
                trail.data |= {"rows": result.table.num_rows, "truncated": result.truncated}
                trail.detail = f"{result.table.num_rows} rows in {result.elapsed_s:.3f} s"
                body = await self._data.run(lambda: render(result, form))
            headers = {"cache-control": "no-store", TRUNCATED_HEADER: str(result.truncated).lower(), "vary": "Accept"}
            return SentInTime(body, media_type=MEDIA_TYPES[form], headers=headers, over=self._end)
        except BaseException:
            self._end()
            raise

    async def _run(self, asked: QueryRequest) -> QueryResult:
        runner, settings = self._made(), self._settings
        if self._under_way > _MAX_UNDER_WAY:
            raise _busy()
        limits = QueryLimits(
            max_rows=min(asked.limit or settings.query_max_rows, settings.query_max_rows),
            timeout_s=min(asked.timeout_s or settings.query_timeout_sec, settings.query_timeout_sec),
            max_result_bytes=_MAX_RESULT_BYTES,
        )
        try:
            # Waiting for a turn counts too.
            async with asyncio.timeout(limits.timeout_s + _PATIENCE_S):
                return await runner.run(settings.tenant_id, asked.sql, limits=limits)
        except TimeoutError as exc:
            raise _busy() from exc

    def _end(self) -> None:
        self._under_way -= 1

    def _made(self) -> QueryRunner:
        root = place_of(self._settings.store_root)
        if self._runner is None:
            self._runner = QueryRunner(root)
        return self._runner


def _busy() -> TemporaryUnavailable:
    busy = TemporaryUnavailable("too many queries are under way", "query_busy")
    busy.retry_after_sec = 2.0
    return busy
