"""The platform's one configuration: providers, graph, sinks and policies."""

from __future__ import annotations

from market_data_orchestrator.config.graph import default_graph
from market_data_orchestrator.config.load import load_platform, packaged_text
from market_data_orchestrator.config.model import PlatformConfig, ProviderEntry, SinkEntry
from market_data_orchestrator.config.record import record, recorded
from market_data_orchestrator.settings import OrchestratorSettings, load_settings

__all__ = [
    "OrchestratorSettings",
    "PlatformConfig",
    "ProviderEntry",
    "SinkEntry",
    "default_graph",
    "load_platform",
    "load_settings",
    "packaged_text",
    "record",
    "recorded",
]
