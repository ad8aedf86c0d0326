"""The store for many tenants and applications: tables in PostgreSQL, a row only ever seen by its own tenant."""

from __future__ import annotations

from market_data_store.postgres.declarations import TABLES, TableSpec
from market_data_store.postgres.retention import register_tenant, retain
from market_data_store.postgres.schema import migrate, schema_version
from market_data_store.postgres.store import PostgresStore
from market_data_store.postgres.store_async import AsyncPostgresStore
from market_data_store.postgres.table import PostgresTable
from market_data_store.postgres.timescale import Archived, archive, timescale_version

__all__ = [
    "TABLES",
    "Archived",
    "AsyncPostgresStore",
    "PostgresStore",
    "PostgresTable",
    "TableSpec",
    "archive",
    "migrate",
    "register_tenant",
    "retain",
    "schema_version",
    "timescale_version",
]
