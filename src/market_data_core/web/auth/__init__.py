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
from market_data_core.web.auth.roles import Principal, Role

__all__ = [
    "FAILURE_REASONS",
    "FIRST_KEY_FILE",
    "Authenticator",
    "ConfiguredKey",
    "Gate",
    "KeyInfo",
    "KeyStore",
    "Principal",
    "Role",
    "StoredKeys",
    "ensure_first_key",
    "guarded_route",
    "key_authenticators",
    "offered_key",
    "require",
]
