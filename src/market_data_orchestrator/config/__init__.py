"""The platform's one configuration: providers, graph, sinks and policies."""

from __future__ import annotations

from market_data_orchestrator.config.graph import default_graph
from market_data_orchestrator.config.load import load_platform, packaged_text
from market_data_orchestrator.config.model import PlatformConfig, ProviderEntry, SinkEntry
from market_data_orchestrator.config.record import record, recorded

__all__ = [
    "PlatformConfig",
    "ProviderEntry",
    "SinkEntry",
    "default_graph",
    "load_platform",
    "packaged_text",
    "record",
    "recorded",
]
