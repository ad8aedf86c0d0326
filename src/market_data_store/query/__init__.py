"""SQL for users: one SELECT over a tenant's tables, run in a confined child process."""

from __future__ import annotations

from market_data_store.query.limits import QueryLimits, QueryResult
from market_data_store.query.runner import QueryRunner, place_of, run_query

__all__ = ["QueryLimits", "QueryResult", "QueryRunner", "place_of", "run_query"]
