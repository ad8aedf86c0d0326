"""Where errors end: each becomes a problem for the caller, and the unforeseen ones are logged once.

The log has such an error under the request id the caller was given; the caller is told nothing else of it.
"""

from __future__ import annotations

import logging
from typing import cast

from fastapi.exceptions import RequestValidationError, WebSocketRequestValidationError
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, HTTPConnection
from starlette.responses import Response
from starlette.types import ASGIApp, ExceptionHandler, Message, Receive, Scope, Send
from starlette.websockets import WebSocket, WebSocketDisconnect, WebSocketState

from market_data_core.errors import MarketDataError
from market_data_core.web.problems import instance_of, problem_of, problem_response
from market_data_core.web.request_id import request_id

_log = logging.getLogger(__name__)


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
        await connection.close(code=_close_code(answer.status_code), reason=problem_of(exc).title)
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
        instance_of(scope),
        type(exc).__name__,
        request_id(),
        exc_info=exc,
        extra={"request_id": request_id()},
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
