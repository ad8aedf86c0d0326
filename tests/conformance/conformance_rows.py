"""Rows for the stores under test."""

from __future__ import annotations

import pyarrow as pa

from market_data_core.schemas import KEYS, STORED_SCHEMAS

JAN_1_NS = 19_723 * 86_400 * 10**9  # 2024-01-01
KEY_TEXTS = {"interval": "1m", "what": "TRADES", "session": "ALL", "source": "internal", "action": "split", "id": "n"}
KEY_TEXTS |= {"expiry": "20240119", "right": "C", "strike": 100.0}


def make_rows(table, rows):
    """Build rows of a table from values by column; what every row has is filled in, the rest is null."""
    common = {"vendor": "v", "symbol": "A", "ts_event": JAN_1_NS, "ts_recv": JAN_1_NS, "flags": 0, "origin": "live"}
    common |= {name: KEY_TEXTS[name] for name in KEYS.get(table, ()) if name in KEY_TEXTS}
    given = [common | {"seq": at} | row for at, row in enumerate(rows)]
    return pa.Table.from_pylist(given, schema=STORED_SCHEMAS[table])
