"""How much one query may take, and what it gives."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import pyarrow as pa

from market_data_core.errors import ValidationError

MIB = 1024 * 1024

STALE: Final = "query_stale"
"""Code of the error when files went away under the query; reading the table's newest state helps."""


@dataclass(frozen=True, slots=True, kw_only=True)
class QueryLimits:
    """Bounds of one query.

    Attributes:
        max_rows: Rows of the result; what is beyond is cut off and the result marked truncated.
        max_result_bytes: Bytes of the result in Arrow's stream format; cut off and marked likewise.
        timeout_s: Wall time from the start of the child to the last byte; then the child is killed.
        memory_bytes: Address space the child may take beyond what it has when the query begins. Half of it is the
            engine's own budget, so most greedy queries end with its message rather than with the death of the child.
        max_sql_bytes: UTF-8 bytes of the query's text.
    """

    max_rows: int = 100_000
    max_result_bytes: int = 64 * MIB
    timeout_s: float = 30.0
    memory_bytes: int = 2048 * MIB
    max_sql_bytes: int = 100_000


@dataclass(frozen=True, slots=True, kw_only=True)
class QueryResult:
    """What a query gave.

    Attributes:
        table: The rows in the engine's order. Times are int64 UTC nanoseconds as stored;
            ``to_timestamp_nanos(ts_event)`` in the query renders them.
        truncated: More rows were there than the limits let through.
        elapsed_s: Wall time from the start of the child to the last byte.
    """

    table: pa.Table
    truncated: bool
    elapsed_s: float


def limit_reached(limit: str, allowed: Any, what: str) -> ValidationError:
    """Return the error of a query that ran into a limit.

    Args:
        limit: Name of the field of `QueryLimits`.
        allowed: Its value.
        what: What happened, in words.
    """
    message = f"{what}; the limit {limit} is {allowed}"
    return ValidationError(message, "query_limit", {"limit": limit, "allowed": allowed})
