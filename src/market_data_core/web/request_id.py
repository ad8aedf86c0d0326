"""One id per request, from the caller or our own, on everything that is said about the request."""

from __future__ import annotations

import os
import re
from contextvars import ContextVar
from itertools import count
from typing import Final

from starlette.types import ASGIApp, Message, Receive, Scope, Send

REQUEST_ID_HEADER: Final = "X-Request-ID"

_NAME: Final = REQUEST_ID_HEADER.lower().encode()
# What a caller may choose ends up in logs and headers, so it can hold neither line breaks nor quotes.
_WELL_FORMED: Final = re.compile(rb"[A-Za-z0-9._-]{1,128}")
_OPENING: Final = frozenset({"http.response.start", "websocket.accept", "websocket.http.response.start"})
_current: ContextVar[str] = ContextVar("request_id", default="")
# Ids need be told apart, not be hard to guess: random once, then counted, which costs no call of the system.
_process: Final = os.urandom(8).hex()
_counted: Final = count()


def request_id() -> str:
    """Return the id of the request being served, or the empty string outside of one."""
    return _current.get()


class RequestIdMiddleware:
    """Takes `X-Request-ID` in, makes one where it is absent or malformed, and sends it back; WebSockets too.

    An id is 1 to 128 characters out of ``A-Z a-z 0-9 . _ -``. Anything else is replaced, never repaired.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let one request through under its id."""
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        value = _offered(scope) or f"{_process}{next(_counted):016x}".encode()
        header = (_NAME, value)

        async def send_with_id(message: Message) -> None:
            if message["type"] in _OPENING:
                # An answer passed on from another service may carry that service's id; ours names this request.
                kept = [pair for pair in message.get("headers") or () if pair[0].lower() != _NAME]
                message = {**message, "headers": [*kept, header]}
            await send(message)

        token = _current.set(value.decode("ascii"))
        try:
            await self.app(scope, receive, send_with_id)
        finally:
            _current.reset(token)


def _offered(scope: Scope) -> bytes | None:
    for name, value in scope["headers"]:
        if name == _NAME:
            return value if _WELL_FORMED.fullmatch(value) else None
    return None
