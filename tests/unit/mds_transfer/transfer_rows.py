"""Rows of stored tables: some by hand, and any that hypothesis finds."""

from __future__ import annotations

import string

import pyarrow as pa
from hypothesis import strategies as st

from market_data_core.schemas import KEYS, STORED_SCHEMAS

DAY_NS = 86_400_000_000_000
START_NS = 1_704_205_800_000_000_000
ODD = (
    "",
    "O'Brien; DROP TABLE mds.trades; --",
    'a "quoted" one',
    "two\nlines",
    "cr\r\nlf",
    "=1+1",
    "\\N",
    "null",
    "€ 漢 🎉",
    "a,b",
    " ",
)

# NUL is stored as its picture by PostgreSQL; half a surrogate pair is no text.
TEXTS = st.one_of(
    st.sampled_from(ODD), st.text(st.characters(exclude_characters="\0", exclude_categories=("Cs",)), max_size=12)
)
FLOATS = st.floats(allow_nan=False, allow_infinity=True)
TIMES = st.integers(START_NS - 2 * DAY_NS, START_NS + 2 * DAY_NS)


def _values(table, field):
    if field.name in ("ts_event", "ts_recv"):
        return TIMES
    if field.name == "revision":
        return st.integers(0, 3)
    if field.name == "ts_known":
        return TIMES
    if field.name == "seq":
        return st.integers(0, 2**63 - 1)
    if field.name in KEYS.get(table, ()):
        return FLOATS if pa.types.is_floating(field.type) else TEXTS
    if pa.types.is_floating(field.type):
        values = FLOATS
    elif pa.types.is_integer(field.type):
        bits = field.type.bit_width - 1
        values = st.integers(-(2**bits), 2**bits - 1)
    else:
        values = TEXTS
    return st.none() | values


def rows_of(table, *, most=8):
    """Any rows of a table, of a keyed one no two of the same key and version.

    Draw them while no store is open: the threads of its connections use the dice that hypothesis watches.
    """
    schema = STORED_SCHEMAS[table]
    row = st.fixed_dictionaries({f.name: _values(table, f) for f in schema})
    unique = (*KEYS[table], "revision") if table in KEYS else None
    # Stores tell versions by numbers and keys by values: the two zeros are one number.
    one = {"unique_by": lambda r: tuple(r[n] for n in unique)} if unique else {}
    return st.lists(row, max_size=most, **one).map(lambda rows: pa.Table.from_pylist(rows, schema=schema))


def trades(count, *, start=0, symbol="AAPL", spread_ns=1_000_000_000):
    """So many trades, all different, one a second."""
    schema = STORED_SCHEMAS["trades"]
    at = range(start, start + count)
    columns = {
        "vendor": ["x"] * count,
        "symbol": [symbol] * count,
        "ts_event": [START_NS + i * spread_ns for i in at],
        "ts_recv": [START_NS + i * spread_ns + 5 for i in at],
        "seq": list(at),
        "flags": [0] * count,
        "origin": ["replay"] * count,
        "price": [100 + i / 7 for i in at],
        "size": [float(i % 5 + 1) for i in at],
        "exchange": [None if i % 3 else "Q" for i in at],
        "conditions": ["" if i % 2 else None for i in at],
        "trade_id": [f"t{i}" for i in at],
        "aggressor_side": [string.ascii_letters[i % 50] for i in at],
    }
    return pa.table(columns, schema=schema)


def bars(count, *, revision=0, close=10.0):
    """So many minutes of bars of one version."""
    at = range(count)
    rows = [
        {
            "vendor": "x",
            "symbol": "AAPL",
            "ts_event": START_NS + i * 60_000_000_000,
            "ts_recv": START_NS,
            "seq": 0,
            "flags": 0,
            "origin": "backfill",
            "interval": "1m",
            "what": "TRADES",
            "session": "ALL",
            "source": "external",
            "open": 9.5,
            "close": close + i,
            "revision": revision,
            "ts_known": START_NS + revision,
            "reason": "correction" if revision else None,
        }
        for i in at
    ]
    return pa.Table.from_pylist(rows, schema=STORED_SCHEMAS["bars"])


def put(store, table, rows):
    """Store rows as their owners would."""
    if table in KEYS:
        store.upsert(table, rows, now_ns=START_NS)
        return
    view = store.table(table)
    view.append(rows, writer="test", position=(view.position("test") or 0) + rows.num_rows, covers={})
