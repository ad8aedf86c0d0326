"""Every error of an HTTP service as RFC 9457 problem details, from one table.

A body has ``type, title, status, detail, instance, request_id``, and ``errors`` where fields of the request are wrong.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from http.client import responses as _PHRASES  # noqa: N812  a constant of that module
from types import MappingProxyType
from typing import Any, Final
from urllib.parse import quote

import orjson
from fastapi.exceptions import RequestValidationError, WebSocketRequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.types import Scope

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
        "instance": instance_of(scope),
        "request_id": request_id(),
    }
    if problem.errors:
        body["errors"] = [asdict(error) for error in problem.errors]
    own = {name.lower(): value for name, value in problem.headers.items() if name.lower() not in _OF_THE_BODY}
    headers = {"cache-control": "no-store", **own}
    return Response(orjson.dumps(body), status_code=problem.status, headers=headers, media_type=PROBLEM_JSON)


def instance_of(scope: Scope) -> str:
    """Return the path of a request as a URI reference, without the query, which may hold secrets.

    Quoted as it is, it cannot break a log line either.
    """
    return quote(str(scope.get("path", "")), errors="replace")


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


def _phrase(status: int) -> str:
    return _PHRASES.get(status, "Client Error" if status < 500 else "Server Error")


def _text(value: str, max_chars: int) -> str:
    # JSON from a caller may hold half surrogate pairs, which no UTF-8 encoder takes.
    clean = value.encode("utf-8", "replace").decode()
    return clean if len(clean) <= max_chars else clean[: max_chars - 1] + "…"
