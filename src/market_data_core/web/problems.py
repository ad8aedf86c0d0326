"""Every error of an HTTP service as RFC 9457 problem details, from one table.

A body has ``type, title, status, detail, instance, request_id``, and ``errors`` where fields of the request are wrong.
Errors of status 500 say nothing of what happened; they are logged once, under the request id the caller was given.
"""

from __future__ import annotations

import json
import logging
import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from http.client import responses as _PHRASES  # noqa: N812  a constant of that module
from types import MappingProxyType
from typing import Any, Final, cast
from urllib.parse import quote

import orjson
from fastapi.exceptions import RequestValidationError, WebSocketRequestValidationError
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, HTTPConnection
from starlette.responses import Response
from starlette.types import ASGIApp, ExceptionHandler, Message, Receive, Scope, Send
from starlette.websockets import WebSocket, WebSocketDisconnect, WebSocketState

from market_data_core.errors import (
    AuthenticationFailed,
    ConfigurationError,
    ConnectionFailed,
    FarmTransient,
    InvalidInstrument,
    LogFull,
    LogLocked,
    MarketDataError,
    PacingViolation,
    PermissionsMissing,
    RegistryError,
    TemporaryUnavailable,
    ValidationError,
)
from market_data_core.web.request_id import request_id

PROBLEM_JSON: Final = "application/problem+json"
PROBLEM_TYPE_PREFIX: Final = "urn:problem-type:market-data:"
INTERNAL_DETAIL: Final = "The service failed on this request; its log has the cause under the request id."

STATUS_OF: Final[Mapping[type[MarketDataError], int]] = MappingProxyType(
    {
        ConfigurationError: 400,
        AuthenticationFailed: 401,
        PermissionsMissing: 403,
        InvalidInstrument: 404,
        RegistryError: 404,
        LogLocked: 409,
        ValidationError: 422,
        PacingViolation: 429,
        ConnectionFailed: 503,
        FarmTransient: 503,
        LogFull: 503,
        TemporaryUnavailable: 503,
    }
)
"""HTTP status by error; a subclass goes with its nearest listed base, whatever has none is a 500."""

# The shortest window in the pacing rules of IBKR (identical historical requests), for when a provider does not say.
_PACING_RETRY_AFTER_S: Final = 15
# Validation errors name what the caller sent; a hostile body must not come back as a larger one.
_MAX_FIELDS: Final = 50
_MAX_FIELD_CHARS: Final = 200
_MAX_DETAIL_CHARS: Final = 2000
# An exception may carry the headers of another answer; these speak of that one's body.
_OF_THE_BODY: Final = frozenset({"content-encoding", "content-length", "content-type", "transfer-encoding"})
# RFC 6455 gives the reason of a close frame 123 bytes.
_MAX_REASON_BYTES: Final = 123

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class FieldError:
    """What is wrong with one field of a request.

    Attributes:
        field: Where it is, such as ``query.limit`` or ``body.symbols.0``.
        detail: What is wrong, for people. Never the value itself.
        code: The same as a stable name, such as ``missing``.
    """

    field: str
    detail: str
    code: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """One error as its caller sees it.

    Attributes:
        status: HTTP status, 400 to 599.
        title: What kind of problem, the same for all of its type.
        detail: What went wrong this time, for people.
        type: URI of the kind; ``about:blank`` says no more than the status does.
        errors: Fields of the request that are wrong.
        headers: Sent with it, such as ``Retry-After``.
    """

    status: int
    title: str
    detail: str
    type: str = "about:blank"
    errors: tuple[FieldError, ...] = ()
    headers: Mapping[str, str] = field(default_factory=dict)


def problem_of(exc: Exception) -> Problem:
    """Return what a caller is told about an error.

    Deliberate errors keep their message. One whose status is 500 by the table, and one nobody foresaw, become the same
    bare 500.
    """
    if isinstance(exc, MarketDataError):
        return _of_platform_error(exc)
    if isinstance(exc, HTTPException):
        detail = exc.detail if isinstance(exc.detail, str) else json.dumps(exc.detail, default=str)
        return Problem(
            status=exc.status_code, title=_phrase(exc.status_code), detail=detail, headers=dict(exc.headers or {})
        )
    if isinstance(exc, RequestValidationError | WebSocketRequestValidationError):
        return _of_invalid_request(exc)
    return Problem(status=500, title=_phrase(500), detail=INTERNAL_DETAIL)


def problem_response(problem: Problem, scope: Scope) -> Response:
    """Return the problem+json answer to the request of `scope`; for a WebSocket, the refusal of its handshake."""
    body: dict[str, Any] = {
        "type": problem.type,
        "title": problem.title,
        "status": problem.status,
        "detail": _text(problem.detail, _MAX_DETAIL_CHARS),
        "instance": _instance(scope),
        "request_id": request_id(),
    }
    if problem.errors:
        body["errors"] = [asdict(error) for error in problem.errors]
    own = {name.lower(): value for name, value in problem.headers.items() if name.lower() not in _OF_THE_BODY}
    headers = {"cache-control": "no-store", **own}
    return Response(orjson.dumps(body), status_code=problem.status, headers=headers, media_type=PROBLEM_JSON)


def install_problem_handlers(app: Starlette) -> None:
    """Have every error of `app` answered with a problem: 404 and 405, invalid requests, our errors, and the unforeseen.

    Also puts a `FaultBarrier` around the middleware that `app` has so far. Call it before the app serves.
    """
    handler = cast("ExceptionHandler", _handle)
    kinds = (HTTPException, RequestValidationError, WebSocketRequestValidationError, MarketDataError, Exception)
    for kind in kinds:
        app.add_exception_handler(kind, handler)
    app.add_middleware(FaultBarrier)


class FaultBarrier:
    """Turns whatever the app and the middleware inside let through into an answer, and logs it once.

    Starlette's own last resort answers outside of all middleware, so such an answer lacks their headers, and raises
    again, so the server logs it a second time. An answer already under way cannot be taken back: then the error goes
    on to the server, which logs it too and cuts the connection.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let one request through and answer for it should it fail."""
        if scope["type"] == "http":
            await self._http(scope, receive, send)
        elif scope["type"] == "websocket":
            await self._websocket(scope, receive, send)
        else:
            await self.app(scope, receive, send)

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = False

        async def watched(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        try:
            await self.app(scope, receive, watched)
        except Exception as exc:
            if _gone(exc):
                return  # nobody is left to be answered
            if started:
                _record(exc, scope)
                raise
            await _answer(exc, scope)(scope, receive, send)

    async def _websocket(self, scope: Scope, receive: Receive, send: Send) -> None:
        state = WebSocketState.CONNECTING

        async def watched_receive() -> Message:
            nonlocal state
            message = await receive()
            if message["type"] == "websocket.disconnect":
                state = WebSocketState.DISCONNECTED
            return message

        async def watched_send(message: Message) -> None:
            nonlocal state
            accepting = message["type"] in ("websocket.accept", "websocket.send")
            state = WebSocketState.CONNECTED if accepting else WebSocketState.DISCONNECTED
            await send(message)

        try:
            await self.app(scope, watched_receive, watched_send)
        except Exception as exc:  # noqa: BLE001  the last stop: it logs, and the caller is told
            if _gone(exc):
                return  # the client left while it was being served
            answer = _answer(exc, scope)
            if state is WebSocketState.CONNECTING and _can_refuse(scope):
                await answer(scope, receive, send)
            elif state is not WebSocketState.DISCONNECTED:
                await send({"type": "websocket.close", "code": _close_code(answer.status_code), "reason": ""})


async def _handle(connection: HTTPConnection, exc: Exception) -> Response | None:
    answer = _answer(exc, connection.scope)
    if not isinstance(connection, WebSocket):
        return answer
    if connection.application_state is WebSocketState.CONNECTING and _can_refuse(connection.scope):
        return answer
    states = (connection.application_state, connection.client_state)
    if WebSocketState.DISCONNECTED not in states:
        problem = problem_of(exc)
        reason = _text(problem.title, _MAX_REASON_BYTES).encode()[:_MAX_REASON_BYTES].decode(errors="ignore")
        await connection.close(code=_close_code(problem.status), reason=reason)
    return None


def _answer(exc: Exception, scope: Scope) -> Response:
    problem = problem_of(exc)
    if problem.status < 400:  # an HTTPException may also redirect, or say that nothing has changed
        return Response(status_code=problem.status, headers=dict(problem.headers))
    if problem.status == 500 and not isinstance(exc, HTTPException):
        _record(exc, scope)
    return problem_response(problem, scope)


def _record(exc: Exception, scope: Scope) -> None:
    _log.error(
        "%s %s failed with %s (request %s)",
        scope.get("method", "WEBSOCKET"),
        _instance(scope),
        type(exc).__name__,
        request_id(),
        exc_info=exc,
        extra={"request_id": request_id()},
    )


def _of_platform_error(exc: MarketDataError) -> Problem:
    kind = next((base for base in type(exc).__mro__ if base in STATUS_OF), None)
    if kind is None:
        return Problem(status=500, title=_phrase(500), detail=INTERNAL_DETAIL)
    words = re.sub(r"(?<!^)(?=[A-Z])", " ", kind.__name__).split()
    status = STATUS_OF[kind]
    headers = {}
    if status == 401:
        headers["www-authenticate"] = "Bearer"  # RFC 9110 has no 401 without a challenge
    retry_after_s = _retry_after_s(exc)
    if status in (429, 503) and retry_after_s is not None:
        headers["retry-after"] = str(retry_after_s)
    return Problem(
        status=status,
        title=" ".join(words).capitalize(),
        detail=exc.message,
        type=PROBLEM_TYPE_PREFIX + "-".join(words).lower(),
        headers=headers,
    )


def _retry_after_s(exc: MarketDataError) -> int | None:
    # The header takes whole seconds only; rounding down would have the caller back too early.
    if exc.retry_after_sec is not None and math.isfinite(exc.retry_after_sec):
        return max(0, math.ceil(exc.retry_after_sec))
    return _PACING_RETRY_AFTER_S if isinstance(exc, PacingViolation) else None


def _of_invalid_request(exc: RequestValidationError | WebSocketRequestValidationError) -> Problem:
    found = exc.errors()
    errors = tuple(
        FieldError(
            field=_text(".".join(str(part) for part in error.get("loc", ())), _MAX_FIELD_CHARS),
            detail=_text(str(error.get("msg", "")), _MAX_FIELD_CHARS),
            code=str(error.get("type", "")),
        )
        for error in found[:_MAX_FIELDS]
    )
    names = ", ".join(dict.fromkeys(error.field for error in errors))
    more = f" and {len(found) - _MAX_FIELDS} more" if len(found) > _MAX_FIELDS else ""
    return Problem(
        status=422,
        title="Validation error",
        detail=f"The request is not valid: {names}{more}",
        type=PROBLEM_TYPE_PREFIX + "validation-error",
        errors=errors,
    )


def _gone(exc: Exception) -> bool:
    # An endpoint that reads and writes in one TaskGroup hears of a client that left as a group.
    if isinstance(exc, ExceptionGroup):
        return exc.split((ClientDisconnect, WebSocketDisconnect))[1] is None
    return isinstance(exc, ClientDisconnect | WebSocketDisconnect)


def _can_refuse(scope: Scope) -> bool:
    return "websocket.http.response" in scope.get("extensions", {})


def _close_code(status: int) -> int:
    # RFC 6455 and its registry: 1013 try again later, 1011 our fault, 1008 not allowed.
    return 1013 if status in (429, 503) else 1011 if status >= 500 else 1008


def _instance(scope: Scope) -> str:
    # Quoted, a path can neither break a log line nor be anything but a URI reference. The query may hold secrets.
    return quote(str(scope.get("path", "")), errors="replace")


def _phrase(status: int) -> str:
    return _PHRASES.get(status, "Client Error" if status < 500 else "Server Error")


def _text(value: str, max_chars: int) -> str:
    # JSON from a caller may hold half surrogate pairs, which no UTF-8 encoder takes.
    clean = value.encode("utf-8", "replace").decode()
    return clean if len(clean) <= max_chars else clean[: max_chars - 1] + "…"
