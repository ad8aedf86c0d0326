"""Ingestion under control: which providers are read, and whether what they give is written."""

from __future__ import annotations

from market_data_pipeline.runners.errors import AlreadyRunning
from market_data_pipeline.runners.ingest import IngestController, StartSource, StopSource
from market_data_pipeline.runners.metrics import IngestMetrics
from market_data_pipeline.runners.policy import (
    Guards,
    IngestConfig,
    IngestPolicy,
    Pacing,
    ProviderEntry,
    StoreSyncPolicy,
    WritePath,
    load_ingest_config,
)
from market_data_pipeline.runners.routes import LIMITED_ACTIONS, Account, Recorder, ingest_router
from market_data_pipeline.runners.writing import EngineWriter

__all__ = [
    "LIMITED_ACTIONS",
    "Account",
    "AlreadyRunning",
    "EngineWriter",
    "Guards",
    "IngestConfig",
    "IngestController",
    "IngestMetrics",
    "IngestPolicy",
    "Pacing",
    "ProviderEntry",
    "Recorder",
    "StartSource",
    "StopSource",
    "StoreSyncPolicy",
    "WritePath",
    "ingest_router",
    "load_ingest_config",
]
