"""The pages that show a service's interface: ``/docs`` and ``/redoc``.

The page is ours; Swagger UI and ReDoc themselves come from the public host FastAPI names, into the reader's browser.
Each page allows exactly that, and its one inline script by hash.
"""

from __future__ import annotations

import base64
import hashlib
import re
from typing import Final

from fastapi.openapi.docs import get_redoc_html, get_swagger_ui_html
from starlette.requests import Request
from starlette.responses import HTMLResponse
from starlette.routing import Route

_SWAGGER_FROM: Final = "https://cdn.jsdelivr.net/npm/swagger-ui-dist@5/"
_REDOC_FROM: Final = "https://cdn.jsdelivr.net/npm/redoc@2/"
_NO_ICON: Final = "data:,"
_INLINE_SCRIPT: Final = re.compile(r"<script>(.*?)</script>", re.DOTALL)


def docs_routes(title: str, openapi_path: str = "/openapi.json") -> list[Route]:
    """Return the routes of both pages.

    Args:
        title: Name of the service.
        openapi_path: Where the service serves its OpenAPI document.
    """

    async def swagger(request: Request) -> HTMLResponse:
        page = get_swagger_ui_html(
            openapi_url=_root(request) + openapi_path,
            title=title,
            swagger_js_url=f"{_SWAGGER_FROM}swagger-ui-bundle.js",
            swagger_css_url=f"{_SWAGGER_FROM}swagger-ui.css",
            swagger_favicon_url=_NO_ICON,
        )
        return _guarded(page, _SWAGGER_FROM)

    async def redoc(request: Request) -> HTMLResponse:
        page = get_redoc_html(
            openapi_url=_root(request) + openapi_path,
            title=title,
            redoc_js_url=f"{_REDOC_FROM}bundles/redoc.standalone.js",
            redoc_favicon_url=_NO_ICON,
            with_google_fonts=False,
        )
        return _guarded(page, _REDOC_FROM)

    return [
        Route("/docs", swagger, methods=["GET"], include_in_schema=False),
        Route("/redoc", redoc, methods=["GET"], include_in_schema=False),
    ]


def _root(request: Request) -> str:
    return str(request.scope.get("root_path", "")).rstrip("/")


def _guarded(page: HTMLResponse, source: str) -> HTMLResponse:
    scripts = _INLINE_SCRIPT.findall(bytes(page.body).decode())
    hashes = [base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts]
    script_src = " ".join([source, *(f"'sha256-{digest}'" for digest in hashes)])
    page.headers["content-security-policy"] = "; ".join(
        [
            "default-src 'none'",
            f"script-src {script_src}",
            f"style-src 'unsafe-inline' {source}",  # both set styles from their scripts
            "img-src 'self' data:",
            "connect-src 'self'",
            "worker-src blob:",  # ReDoc's search index
            "base-uri 'none'",
            "frame-ancestors 'none'",
        ]
    )
    return page
