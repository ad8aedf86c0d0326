"""What may be asked of a peer on a caller's behalf."""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Final

from market_data_core.errors import PermissionsMissing, ValidationError

IDEMPOTENT_METHODS: Final = frozenset({"GET", "HEAD", "OPTIONS", "PUT", "DELETE"})
"""What may be asked twice without harm (RFC 9110, 9.2.2)."""

DEFAULT_ROUTES: Final[frozenset[tuple[str, str]]] = frozenset(
    [
        *(
            ("GET", path)
            for path in (
                "/health", "/livez", "/readyz", "/status", "/control/status", "/plan", "/runtime/ingest/status",
                "/bars", "/instruments", "/gaps", "/coverage", "/quarantine", "/budgets",
                "/audit/events", "/audit/verify",
            )
        ),
        *(
            ("POST", path)
            for path in (
                "/control/pause", "/control/resume", "/control/reload", "/backfill", "/query",
                "/runtime/ingest/start", "/runtime/ingest/stop", "/runtime/ingest/reload",
            )
        ),
    ]
)  # fmt: skip
"""Methods and paths, without query, that are forwarded unless a service says otherwise."""

# Nothing that two parsers could read differently: no escapes in the path, no backslash, no user, no fragment.
_PATH: Final = re.compile(r"(?P<path>/[A-Za-z0-9._~!$&'()*+,;=:/-]*)(?:\?[A-Za-z0-9._~!$&'()*+,;=:@/?%-]*)?")
_MAX_CHARS: Final = 2048
_FEDERATION: Final = "/federation"


def checked_route(method: str, path: str, allowed: Collection[tuple[str, str]] = DEFAULT_ROUTES) -> tuple[str, str]:
    """Return the method, upper-cased, and the path, if that may be asked of a peer.

    Args:
        method: In any case.
        path: As it is to be sent, with its query: begins with one slash, is plain ASCII, has no escapes before the
            query, no ``//``, no ``.`` or ``..`` among its parts, no scheme, user or fragment.
        allowed: Methods and paths that may be asked. Those under ``/federation`` never may.

    Raises:
        ValidationError: That is no path.
        PermissionsMissing: It is not among those allowed.
    """
    match = _PATH.fullmatch(path) if len(path) <= _MAX_CHARS else None
    bare = match["path"] if match is not None else ""
    if not bare or "//" in bare or {".", ".."} & set(bare.split("/")):
        raise ValidationError("path: to begin with one slash and to be plain, such as /control/status or /bars?limit=5")
    verb = method.upper()
    if bare == _FEDERATION or bare.startswith(f"{_FEDERATION}/") or (verb, bare) not in allowed:
        raise PermissionsMissing(f"{verb if verb.isalpha() else 'that method'} {bare} is not forwarded to peers")
    return verb, path
