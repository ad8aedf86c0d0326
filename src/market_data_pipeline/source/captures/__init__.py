"""Recorded WebSocket sessions of crypto exchanges as a source: trades, best quotes and order books."""

from __future__ import annotations

from market_data_pipeline.source.captures.exchanges import EXCHANGES
from market_data_pipeline.source.captures.source import CaptureSource

__all__ = ["EXCHANGES", "CaptureSource"]
