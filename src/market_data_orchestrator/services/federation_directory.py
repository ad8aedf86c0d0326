"""The directories of the federation under the name their users know."""

from __future__ import annotations

from market_data_core.protocols import FederationDirectory
from market_data_orchestrator.federation.directory import StaticDirectory

__all__ = ["FederationDirectory", "StaticDirectory"]
