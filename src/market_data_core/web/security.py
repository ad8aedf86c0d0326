"""Headers that keep browsers from doing what nobody meant, and who may open a WebSocket from one."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from ipaddress import ip_address
from typing import Final
from urllib.parse import SplitResult, urlsplit

from starlette.types import ASGIApp, Message, Receive, Scope, Send

API_CSP: Final = "default-src 'none'; frame-ancestors 'none'"
"""Content security policy of answers that are data: nothing in them is ever loaded, run or framed."""

_HEADERS: Final = (
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"x-frame-options", b"DENY"),
)
_NAMES: Final = frozenset({*(name for name, _ in _HEADERS), b"content-security-policy"})
_STARTS: Final = frozenset({"http.response.start", "websocket.http.response.start"})
_DEFAULT_PORTS: Final = {"http": 80, "https": 443}


class SecurityHeadersMiddleware:
    """Adds the security headers to every answer, errors too; a header the answer has already stays as it is.

    Args:
        app: What it wraps.
        csp: Content security policy by path prefix, for pages; the longest prefix wins, and ``/ui`` is also the prefix
            of ``/ui/x`` but not of ``/uix``. Everything else gets `API_CSP`.
    """

    def __init__(self, app: ASGIApp, *, csp: Mapping[str, str] | None = None) -> None:
        self.app = app
        longest_first = sorted((csp or {}).items(), key=lambda item: len(item[0]), reverse=True)
        self._pages = [(prefix, prefix.rstrip("/") + "/", _with_csp(policy)) for prefix, policy in longest_first]
        self._api = _with_csp(API_CSP)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let one request through and complete its answer."""
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        extra = self._headers_for(scope["path"])

        async def send_secured(message: Message) -> None:
            if message["type"] in _STARTS:
                headers = message.get("headers") or ()
                present = {lower for name, _ in headers if (lower := name.lower()) in _NAMES}
                added = [pair for pair in extra if pair[0] not in present] if present else extra
                message = {**message, "headers": [*headers, *added]}
            await send(message)

        await self.app(scope, receive, send_secured)

    def _headers_for(self, path: str) -> tuple[tuple[bytes, bytes], ...]:
        for exact, below, headers in self._pages:
            if path == exact or path.startswith(below):
                return headers
        return self._api


def _with_csp(policy: str) -> tuple[tuple[bytes, bytes], ...]:
    return (*_HEADERS, (b"content-security-policy", policy.encode("ascii")))


def origin_allowed(scope: Scope, allowed_origins: Collection[str] = ()) -> bool:
    """May a page of this request's origin talk to us?

    Yes if there is no `Origin` (not a browser), if it is one of `allowed_origins`, or if it is the address the request
    came to: same host and port as the `Host` header, and ``https`` where the request itself came over TLS. A browser
    sends cookies along with every WebSocket, so without this check any page could use its visitor's session.

    The `Host` header is taken at its word here; `host_allowed` says whether it can be.

    Args:
        scope: ASGI scope of a WebSocket or HTTP request.
        allowed_origins: As browsers write them, such as ``https://cockpit.example``; case does not matter.
    """
    origins = _values(scope, b"origin")
    if not origins:
        return True
    hosts = _values(scope, b"host")
    if len(origins) > 1 or len(hosts) > 1:
        return False
    origin = origins[0].lower()
    if origin in {allowed.lower().rstrip("/") for allowed in allowed_origins}:
        return True
    parts = _split(origin)
    if parts is None or not hosts or f"{parts.scheme}://{parts.netloc}" != origin:
        return False
    default_port = _DEFAULT_PORTS.get(parts.scheme)
    if default_port is None or (scope.get("scheme") in ("wss", "https") and parts.scheme != "https"):
        return False
    host = _split(f"//{hosts[0].lower()}")
    return host is not None and _address(parts, default_port) == _address(host, default_port)


def host_allowed(scope: Scope, allowed_hosts: Collection[str] = ()) -> bool:
    """Was this request meant for us, by its `Host` header?

    Yes for IP addresses, ``localhost`` and `allowed_hosts`. A page can have its own name resolve to our address (DNS
    rebinding) and is then, to the browser, of one origin with us; it cannot do so with these.

    Args:
        scope: ASGI scope of a WebSocket or HTTP request.
        allowed_hosts: Host names without port; case does not matter.
    """
    hosts = _values(scope, b"host")
    parts = _split(f"//{hosts[0].lower()}") if len(hosts) == 1 else None
    if parts is None or not parts.hostname:
        return False
    if parts.hostname == "localhost" or parts.hostname in {allowed.lower() for allowed in allowed_hosts}:
        return True
    try:
        ip_address(parts.hostname)
    except ValueError:
        return False
    return True


def _values(scope: Scope, header: bytes) -> list[str]:
    return [value.decode("latin-1") for name, value in scope["headers"] if name == header]


def _split(url: str) -> SplitResult | None:
    # None for all that is more than scheme, host and port.
    try:
        parts = urlsplit(url)
        well_formed = parts.port is None or parts.port > 0
    except ValueError:
        return None
    rest = parts.path or parts.query or parts.fragment or parts.username is not None
    return parts if well_formed and parts.hostname and not rest else None


def _address(parts: SplitResult, default_port: int) -> tuple[str | None, int]:
    return parts.hostname, parts.port or default_port
