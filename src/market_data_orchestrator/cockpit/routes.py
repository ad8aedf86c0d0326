"""The cockpit's files over HTTP: read once from package data, answered from memory, under a strict content policy."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from types import MappingProxyType
from typing import Final

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from market_data_core.errors import ConfigurationError

COCKPIT_CSP: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; font-src 'self'; "
    "manifest-src 'self'; base-uri 'none'; frame-ancestors 'none'; form-action 'self'; "
    "require-trusted-types-for 'script'; trusted-types 'none'"
)
"""Content security policy of the cockpit: only its own files run, and no text ever becomes markup."""

_INDEX: Final = "index.html"
_MEDIA_TYPES: Final = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
# Set here and not left to middleware: the page must be as safe in an app that has none.
_SECURITY_HEADERS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "content-security-policy": COCKPIT_CSP,
        "cross-origin-opener-policy": "same-origin",
        "cross-origin-resource-policy": "same-origin",
        "referrer-policy": "no-referrer",
        "x-content-type-options": "nosniff",
        "x-frame-options": "DENY",
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Asset:
    body: bytes
    media_type: str
    etag: str


def cockpit_routes() -> list[BaseRoute]:
    """Return the routes of the cockpit: ``/ui`` is the page, ``/ui/<file>`` what it loads, all else below it a 404.

    All files are read here, once; no request touches the disk. Every answer carries `COCKPIT_CSP`, an ETag and
    ``no-cache``, so a browser asks each time and gets a 304 until the service is upgraded.

    Raises:
        ConfigurationError: The installation lacks the page or cannot read it.
    """
    assets = _load()
    page = assets.pop(_INDEX)

    async def index(request: Request) -> Response:
        return _answer(request, page)

    async def asset(request: Request) -> Response:
        found = assets.get(request.path_params["name"])
        if found is None:
            raise HTTPException(404, detail="The cockpit has no such file", headers=dict(_SECURITY_HEADERS))
        return _answer(request, found)

    return [
        Route("/ui", index, methods=["GET"], name="cockpit", include_in_schema=False),
        Route("/ui/{name:path}", asset, methods=["GET"], name="cockpit-file", include_in_schema=False),
    ]


def _load() -> dict[str, _Asset]:
    folder = files(__package__) / "static"
    assets = {}
    try:
        for entry in folder.iterdir():
            media_type = _MEDIA_TYPES.get("." + entry.name.rpartition(".")[2])
            if media_type is not None and entry.is_file():
                body = entry.read_bytes()
                etag = f'"{hashlib.sha256(body).hexdigest()[:32]}"'
                assets[entry.name] = _Asset(body=body, media_type=media_type, etag=etag)
    except OSError as exc:
        raise ConfigurationError(f"The cockpit's files cannot be read from {folder}: {exc}") from exc
    if _INDEX not in assets:
        raise ConfigurationError(f"The installation lacks the cockpit's page: {folder} has no {_INDEX}")
    return assets


def _answer(request: Request, asset: _Asset) -> Response:
    headers = {**_SECURITY_HEADERS, "cache-control": "no-cache", "etag": asset.etag}
    if _matches(request.headers.get("if-none-match", ""), asset.etag):
        return Response(status_code=304, headers=headers)
    # The type goes in as a header: given as media_type, Starlette would add a charset to the SVG.
    return Response(asset.body, headers={**headers, "content-type": asset.media_type})


def _matches(if_none_match: str, etag: str) -> bool:
    # A proxy that compresses weakens the tag; RFC 9110 13.1.2 compares weakly here.
    tags = {tag.strip().removeprefix("W/") for tag in if_none_match.split(",")}
    return etag in tags or "*" in tags
