"""Who a caller is, and whether that is enough."""

from __future__ import annotations

from market_data_core.web.auth.authenticators import (
    Authenticator,
    ConfiguredKey,
    StoredKeys,
    key_authenticators,
    offered_key,
)
from market_data_core.web.auth.gate import FAILURE_REASONS, Gate, guarded_route, require
from market_data_core.web.auth.keys import FIRST_KEY_FILE, KeyInfo, KeyStore, ensure_first_key
from market_data_core.web.auth.login import OidcLogin, login_link, session_router
from market_data_core.web.auth.oidc import Issuer
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
from market_data_core.web.auth.tokens import OidcTokens, dual_auth, role_in

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
