"""Who a caller is, and whether that is enough."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any, Final

from market_data_core.web.auth.authenticators import (
    Authenticator,
    ConfiguredKey,
    StoredKeys,
    dual_auth,
    key_authenticators,
    offered_key,
)
from market_data_core.web.auth.gate import FAILURE_REASONS, Gate, guarded_route, require
from market_data_core.web.auth.keys import FIRST_KEY_FILE, KeyInfo, KeyStore, ensure_first_key
from market_data_core.web.auth.login import login_link, session_router
from market_data_core.web.auth.roles import Principal, Role
from market_data_core.web.auth.sessions import (
    CSRF_HEADER,
    LOGIN_LINK_S,
    WS_TICKET_S,
    MemorySessions,
    OneTime,
    Session,
    SessionCookies,
    Sessions,
    SessionStore,
    WsTickets,
    csrf_token,
)

if TYPE_CHECKING:
    from market_data_core.web.auth.oidc import Issuer
    from market_data_core.web.auth.oidc_login import OidcLogin
    from market_data_core.web.auth.oidc_logout import OidcLogout
    from market_data_core.web.auth.tokens import OidcTokens, role_in

__all__ = [
    "CSRF_HEADER",
    "FAILURE_REASONS",
    "FIRST_KEY_FILE",
    "LOGIN_LINK_S",
    "WS_TICKET_S",
    "Authenticator",
    "ConfiguredKey",
    "Gate",
    "Issuer",
    "KeyInfo",
    "KeyStore",
    "MemorySessions",
    "OidcLogin",
    "OidcLogout",
    "OidcTokens",
    "OneTime",
    "Principal",
    "Role",
    "Session",
    "SessionCookies",
    "SessionStore",
    "Sessions",
    "StoredKeys",
    "WsTickets",
    "csrf_token",
    "dual_auth",
    "ensure_first_key",
    "guarded_route",
    "key_authenticators",
    "login_link",
    "offered_key",
    "require",
    "role_in",
    "session_router",
]

# Tokens need an HTTP client and a library of signatures; a service without an issuer is started without them.
_LATER: Final = {
    "Issuer": "oidc",
    "OidcLogin": "oidc_login",
    "OidcLogout": "oidc_logout",
    "OidcTokens": "tokens",
    "role_in": "tokens",
}


def __getattr__(name: str) -> Any:
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_LATER[name]}"), name)
