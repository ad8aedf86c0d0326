"""The one error that ingestion control adds to the platform's."""

from __future__ import annotations

from market_data_core.errors import MarketDataError


class AlreadyRunning(MarketDataError):
    """What was to be started runs already."""
