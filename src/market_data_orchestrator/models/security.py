"""Who callers are, and the settings that decide it."""

from __future__ import annotations

from market_data_core.web.auth import Principal, Role
from market_data_orchestrator.models.groups import SecuritySettings

__all__ = ["Principal", "Role", "SecuritySettings"]
