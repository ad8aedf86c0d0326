"""How large a request body may be."""

from __future__ import annotations

from typing import Final

from fastapi.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from market_data_core.web.problems import problem_of, problem_response

DEFAULT_MAX_BODY_BYTES: Final = 1024 * 1024


class BodyTooLarge(HTTPException):
    """The request body is larger than the service takes; status 413.

    An `HTTPException`, because whoever reads a body lets those through.
    """

    def __init__(self, max_bytes: int) -> None:
        super().__init__(413, f"The request body is larger than the {max_bytes} bytes this service takes")


class BodyLimitMiddleware:
    """Refuses larger request bodies with a 413 problem.

    A body that declares its length is refused before any of it is read; one that does not (chunked) as soon as it goes
    beyond the limit, by an error in whoever reads it. Never more than the limit is held.

    Args:
        app: What it guards.
        max_bytes: Largest body that is let through.
    """

    def __init__(self, app: ASGIApp, *, max_bytes: int = DEFAULT_MAX_BODY_BYTES) -> None:
        self.app = app
        self.max_bytes = max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let one request through, or refuse it."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        if _declared_bytes(scope) > self.max_bytes:
            await problem_response(problem_of(BodyTooLarge(self.max_bytes)), scope)(scope, receive, send)
            return
        received = 0

        async def receive_within() -> Message:
            nonlocal received
            message = await receive()
            if message["type"] == "http.request":
                received += len(message.get("body", b""))
                if received > self.max_bytes:
                    raise BodyTooLarge(self.max_bytes)
            return message

        await self.app(scope, receive_within, send)


def _declared_bytes(scope: Scope) -> int:
    for name, value in scope["headers"]:
        # What is no plain number says nothing about the length; such a body is counted as it comes.
        if name == b"content-length" and value.isdigit():
            return int(value)
    return 0
