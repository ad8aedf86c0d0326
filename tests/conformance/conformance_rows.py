"""Rows for the stores under test."""

from __future__ import annotations

import pyarrow as pa

from market_data_core.schemas import TABLE_SCHEMAS, Kind

JAN_1_NS = 19_723 * 86_400 * 10**9  # 2024-01-01


def make_rows(kind, rows):
    """Build rows of a kind from values by column; what every row has is filled in, the rest is null."""
    common = {"vendor": "v", "symbol": "A", "ts_event": JAN_1_NS, "ts_recv": JAN_1_NS, "flags": 0, "origin": "live"}
    if kind == Kind.BARS:
        common |= {"interval": "1m", "what": "TRADES", "session": "ALL", "source": "internal"}
    given = [common | {"seq": at} | row for at, row in enumerate(rows)]
    return pa.Table.from_pylist(given, schema=TABLE_SCHEMAS[Kind(kind)])
