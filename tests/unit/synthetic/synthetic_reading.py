"""What the tests of defects share: reading a source that ends, and its rows as columns."""

from __future__ import annotations

import asyncio

import numpy as np
import pyarrow as pa

from market_data_core.batch import SourceBatch
from market_data_core.schemas import UNLOGGED_SCHEMAS, Kind
from market_data_pipeline.source.synthetic import SyntheticSource

SECOND = 1_000_000_000
KINDS = (Kind.QUOTES, Kind.TRADES)


def made(**arguments):
    """A source in virtual time that ends."""
    return SyntheticSource(**({"time": "virtual", "count": 20_000, "rate": 1000, "max_skew_s": 3600.0} | arguments))


def read(source, resume=None):
    """All items."""

    async def collect():
        return [item async for item in source.batches(resume or {})]

    return asyncio.run(collect())


def table(items, kind):
    """All rows of a kind."""
    batches = [i.data for i in items if isinstance(i, SourceBatch) and i.kind is kind]
    return pa.Table.from_batches(batches, UNLOGGED_SCHEMAS[kind])


def same(rows, other):
    """Whether two tables have the same rows; NaN is the same as NaN."""
    return _by_bits(rows).equals(_by_bits(other))


def _by_bits(rows):
    columns = {
        f.name: column(rows, f.name).view(np.int64) if pa.types.is_floating(f.type) else rows.column(f.name)
        for f in rows.schema
    }
    return pa.table(columns).combine_chunks()


def rows_of(kind, **arguments):
    """All rows of a kind that a source gives."""
    return table(read(made(**arguments)), kind)


def column(rows, name):
    """A numeric column."""
    return rows.column(name).to_numpy()
