"""Databento's DBN files as a source: `DatabentoSource`."""

from __future__ import annotations

from market_data_pipeline.source.databento.files import is_dbn
from market_data_pipeline.source.databento.source import DatabentoSource

__all__ = ["DatabentoSource", "is_dbn"]
