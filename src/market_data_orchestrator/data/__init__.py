"""Stored data and the state of things over HTTP: queries, bars, instruments, coverage, gaps, quarantine, backfills."""

from __future__ import annotations

from market_data_orchestrator.data.endpoints import data_routers
from market_data_orchestrator.data.reading import StoredData

__all__ = ["StoredData", "data_routers"]
