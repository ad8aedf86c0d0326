"""Batches of events as rows of a table."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from market_data_core.batch import EventBatch, Instrument, Instruments, to_table
from market_data_core.schemas import EVENT_SCHEMAS, TABLE_SCHEMAS, Kind, Origin

# The same symbol of two vendors is two instruments.
NAMES = (("v", "A"), ("w", "A"), ("v", "B"), ("w", "C"))
CODED = ("vendor", "symbol", "origin")


def batch_of(instruments, ids, origin, first):
    """Trades of these instruments."""
    count = len(ids)
    numbers = pa.array(np.arange(first, first + count))
    columns = {"instrument": pa.array(ids, pa.int32()), "ts_event": numbers, "ts_recv": numbers, "seq": numbers}
    schema = EVENT_SCHEMAS[Kind.TRADES]
    data = pa.RecordBatch.from_arrays(
        [
            columns[f.name] if f.name in columns else pa.array([None if f.nullable else 0] * count, f.type)
            for f in schema
        ],
        schema=schema,
    )
    return EventBatch(kind=Kind.TRADES, data=data, instruments=instruments, origin=origin)


@given(
    st.lists(
        st.tuples(
            st.lists(st.integers(0, len(NAMES) - 1), max_size=5), st.sampled_from(list(Origin)), st.integers(0, 2)
        ),
        min_size=1,
    )
)
def test_rows_of_batches_are_those_of_each_in_turn_in_text_and_in_codes(runs):
    """Vendor, symbol and origin are spelled out; codes say the same, and never name a text twice."""
    # Operators have tables of their own, in which a number means something else.
    tables = [Instruments([Instrument(vendor=v, symbol=s) for v, s in NAMES[n:] + NAMES[:n]]) for n in range(3)]
    batches, expected, seq = [], [], 0
    for ids, origin, number in runs:
        batches.append(batch_of(tables[number], ids, origin, seq))
        expected += [(tables[number][place].vendor, tables[number][place].symbol, str(origin)) for place in ids]
        seq += len(ids)
    rows, coded = to_table(batches), to_table(batches, coded=True)
    assert rows.schema.equals(TABLE_SCHEMAS[Kind.TRADES])
    assert list(zip(*(rows[name].to_pylist() for name in CODED), strict=True)) == expected
    assert rows["seq"].to_pylist() == list(range(seq))
    assert coded.cast(rows.schema).equals(rows)
    assert pa.concat_tables([b.to_table() for b in batches]).equals(rows)
    if len({number for _, _, number in runs}) > 1:
        return
    for name in CODED:
        for chunk in coded[name].chunks:
            assert chunk.indices.type == pa.int32()
            assert len(set(chunk.dictionary.to_pylist())) == len(chunk.dictionary)


@pytest.mark.parametrize("coded", [False, True])
def test_instruments_that_came_since_are_named(coded):
    """What was looked at before does not stand in the way."""
    instruments = Instruments([Instrument(vendor="v", symbol="A")])
    assert [len(names) for names in instruments.names(coded=coded)] == [1, 1]
    instruments.add(Instrument(vendor="v", symbol="B"))
    rows = to_table([batch_of(instruments, [1, 0], Origin.LIVE, 0)], coded=coded)
    assert rows["symbol"].to_pylist() == ["B", "A"]
