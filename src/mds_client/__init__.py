"""What users of stored data import: `MDS` and `AMDS`, the rows they read and write, and batches of them.

Which store keeps the data is for the dsn to say: a folder is the embedded lake, ``postgresql://`` is PostgreSQL.
"""

from __future__ import annotations

from market_data_core import __version__
from market_data_store.backend import OutboxJob, Upserted
from mds_client.abatch import AsyncBatchProcessor
from mds_client.aclient import AMDS
from mds_client.adjust import adjusted
from mds_client.batch import BatchConfig, BatchProcessor, BatchStats
from mds_client.client import MDS
from mds_client.config import MDSConfig
from mds_client.errors import (
    AuthenticationFailed,
    ClientClosed,
    ConfigurationError,
    MarketDataError,
    PermissionsMissing,
    SchemaValidationError,
    TemporaryUnavailable,
    ValidationError,
    WriterConflict,
)
from mds_client.factor_files import corporate_actions_from_factor_file
from mds_client.models import Bar, Fundamentals, LatestPrice, News, OptionSnap

__all__ = [
    "AMDS",
    "MDS",
    "AsyncBatchProcessor",
    "AuthenticationFailed",
    "Bar",
    "BatchConfig",
    "BatchProcessor",
    "BatchStats",
    "ClientClosed",
    "ConfigurationError",
    "Fundamentals",
    "LatestPrice",
    "MDSConfig",
    "MarketDataError",
    "News",
    "OptionSnap",
    "OutboxJob",
    "PermissionsMissing",
    "SchemaValidationError",
    "TemporaryUnavailable",
    "Upserted",
    "ValidationError",
    "WriterConflict",
    "__version__",
    "adjusted",
    "corporate_actions_from_factor_file",
]
