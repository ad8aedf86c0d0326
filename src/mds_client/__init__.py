"""What users of stored data import: `MDS` and `AMDS`, the rows they read and write, and batches of them.

Which store keeps the data is for the dsn to say: a folder or ``s3://bucket/prefix`` is the embedded lake,
``postgresql://`` is PostgreSQL.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any, Final

from market_data_core import __version__

if TYPE_CHECKING:
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

# Loaded when first asked for: commands that only print would pay for all of it.
_LATER: Final = {
    "AMDS": "mds_client.aclient",
    "AsyncBatchProcessor": "mds_client.abatch",
    "Bar": "mds_client.models",
    "BatchConfig": "mds_client.batch",
    "BatchProcessor": "mds_client.batch",
    "BatchStats": "mds_client.batch",
    "Fundamentals": "mds_client.models",
    "LatestPrice": "mds_client.models",
    "MDS": "mds_client.client",
    "MDSConfig": "mds_client.config",
    "News": "mds_client.models",
    "OptionSnap": "mds_client.models",
    "OutboxJob": "market_data_store.backend",
    "Upserted": "market_data_store.backend",
    "adjusted": "mds_client.adjust",
    "corporate_actions_from_factor_file": "mds_client.factor_files",
}


def __getattr__(name: str) -> Any:
    module = _LATER.get(name, "mds_client.errors" if name in __all__ else "")
    if not module:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(module), name)
