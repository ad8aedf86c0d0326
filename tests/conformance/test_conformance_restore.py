"""Restoring a table's own history into it."""

from __future__ import annotations

import pyarrow as pa
import pytest
from conformance_rows import make_rows

from market_data_core.schemas import STORED_SCHEMAS
from market_data_store.backend import Upserted, Wanted

BARS = STORED_SCHEMAS["bars"]


@pytest.fixture
def received(store):
    """Bars from outside as a pipeline stores them: no version is said."""
    rows = make_rows("bars", [{"ts_event": 60 * n, "close": float(n)} for n in range(3)])
    store.table("bars").append(rows, writer="raw", position=3, covers={})
    return store


def test_versions_that_did_not_say_so_are_known_again(received):
    """A dump says revision 0, known when received; that is what is there already."""
    rows = received.fetch("bars", Wanted(versions=True))
    for name, values in (("revision", pa.array([0] * 3, pa.int32())), ("ts_known", rows.column("ts_recv"))):
        rows = rows.set_column(BARS.get_field_index(name), BARS.field(name), values)
    assert received.upsert("bars", rows, now_ns=10**18) == Upserted(unchanged=3)
    assert received.fetch("bars", Wanted(versions=True)).num_rows == 3
