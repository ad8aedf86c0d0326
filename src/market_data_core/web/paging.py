"""Lists that are given a page at a time: opaque cursors, ``next``, and the Link header of RFC 8288.

A cursor names a place in an order, not a count of rows passed: rows that come while somebody walks are given once or
lie behind the walker, and none is given twice.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Final, Generic, TypeVar
from urllib.parse import quote, urlencode

import orjson
from fastapi import Query
from pydantic import BaseModel, Field
from starlette.requests import Request
from starlette.responses import Response

from market_data_core.errors import ValidationError

MAX_PAGE: Final = 1000
"""Most rows of one page."""

MAX_CURSOR_CHARS: Final = 1024

_SCOPE_CHARS: Final = 8

T = TypeVar("T")

Limit = Annotated[int, Query(ge=1, le=MAX_PAGE, description="Most rows of the page.")]
"""The parameter ``limit``."""

Cursor = Annotated[
    str | None, Query(max_length=MAX_CURSOR_CHARS, description="``next`` of the page before; other parameters as then.")
]
"""The parameter ``cursor``."""


class Page(BaseModel, Generic[T]):
    """One page of a list."""

    items: list[T] = Field(description="The rows.")
    next: str | None = Field(description="What to send as `cursor` for the next page; null with the last.")


def encode_cursor(position: Sequence[str | int | None], *, scope: Sequence[Any] = ()) -> str:
    """Return a place in a list as one opaque word.

    Args:
        position: What the order goes by, of the last row given.
        scope: What the list was asked with; a cursor is good for that alone.
    """
    packed = orjson.dumps([_digest(scope), *position])
    return base64.urlsafe_b64encode(packed).rstrip(b"=").decode()


def decode_cursor(
    cursor: str, types: Sequence[type | tuple[type, ...]], *, scope: Sequence[Any] = ()
) -> tuple[Any, ...]:
    """Return the place that a cursor names.

    Args:
        cursor: As `encode_cursor` gave it. It comes from outside, and is taken for nothing but a place.
        types: What each part of the place is.
        scope: What the list is asked with now.

    Raises:
        ValidationError: It is no cursor of this list.
    """
    if len(cursor) > MAX_CURSOR_CHARS:
        raise ValidationError(f"cursor: it has at most {MAX_CURSOR_CHARS} characters")
    try:
        padding = "=" * (-len(cursor) % 4)
        found = orjson.loads(base64.b64decode((cursor + padding).encode("ascii"), altchars=b"-_", validate=True))
        digest, *position = found if isinstance(found, list) else [None]
    except ValueError as exc:
        raise ValidationError("cursor: this is no cursor; send `next` of a page as it was given") from exc
    if digest != _digest(scope):
        raise ValidationError("cursor: it belongs to another list; send the other parameters as for the page before")
    fits = len(position) == len(types) and all(
        isinstance(part, kind) and not isinstance(part, bool) and _is_int64(part)
        for part, kind in zip(position, types, strict=True)
    )
    if not fits:
        raise ValidationError("cursor: this is no cursor of this list")
    return tuple(position)


def page_response(
    request: Request, items: Sequence[Any], next_cursor: str | None, *, more: Mapping[str, Any] | None = None
) -> Response:
    """Return a page as JSON, with a Link header to the next one.

    The link is relative, as what a caller calls us by is nothing to build addresses of.

    Args:
        request: What was asked.
        items: Rows as plain values.
        next_cursor: Where the next page begins; None if there is none.
        more: What else the body holds.
    """
    body = orjson.dumps({**(more or {}), "items": items, "next": next_cursor}, option=orjson.OPT_SERIALIZE_NUMPY)
    headers = {"cache-control": "no-store"}
    if next_cursor is not None:
        headers["link"] = f'<{_address_of_next(request, next_cursor)}>; rel="next"'
    return Response(body, headers=headers, media_type="application/json")


def _address_of_next(request: Request, cursor: str) -> str:
    kept = [(name, value) for name, value in request.query_params.multi_items() if name != "cursor"]
    return f"{quote(request.url.path)}?{urlencode([*kept, ('cursor', cursor)])}"


def _digest(scope: Sequence[Any]) -> str:
    return hashlib.sha256(orjson.dumps([*scope], default=str)).hexdigest()[:_SCOPE_CHARS]


def _is_int64(part: Any) -> bool:
    return not isinstance(part, int) or -(1 << 63) <= part < 1 << 63
