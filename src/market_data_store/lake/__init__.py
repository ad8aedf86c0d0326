"""The embedded store: Delta Lake tables in a folder per tenant."""

from __future__ import annotations

from market_data_store.lake.declarations import TABLES, TableSpec
from market_data_store.lake.maintenance import MaintenancePolicy, MaintenanceReport, maintain
from market_data_store.lake.store import Lake, TableCounts
from market_data_store.lake.table import LakeTable

__all__ = [
    "TABLES",
    "Lake",
    "LakeTable",
    "MaintenancePolicy",
    "MaintenanceReport",
    "TableCounts",
    "TableSpec",
    "maintain",
]
